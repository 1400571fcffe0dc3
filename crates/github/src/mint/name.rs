//! Runner names. A name says which machine it belongs to. Pure.

use domain::ids::{JobId, PoolName, Repo, RunnerKey};
use domain::launch::LaunchSpec;

/// GitHub's limit on a runner's name, in characters.
const MAX: usize = 64;

/// What a name is made of.
#[derive(Debug, Clone, Copy)]
pub struct Naming<'a> {
    /// The machine.
    pub key: &'a RunnerKey,
    /// The pool it came from.
    pub pool: Option<&'a PoolName>,
    /// Where it is registered.
    pub repo: &'a Repo,
    /// What the job asked for; says something about the machine when there is no pool.
    pub spec: Option<&'a LaunchSpec>,
    /// The job it is minted for.
    pub job: Option<JobId>,
}

/// The name of try `n`, 0 for the first. At most 64 characters for EC2 machines and for pods whose own name leaves
/// room.
///
/// EC2: `runs-fleet-runner-<pool, or repository and conditions>-<6 digits of the job>[-r<n>]-<instance id without i->`.
/// Pods: `runs-fleet-<pod>[-n<n>]`; a `-r<n>` there would be the name of the next attempt's pod.
pub fn runner_name(naming: &Naming<'_>, n: u32) -> String {
    let Some(hex) = instance_hex(naming.key.as_str()) else {
        let retry = if n > 0 { format!("-n{n}") } else { String::new() };
        return clean(&format!("runs-fleet-{}{retry}", naming.key));
    };
    let job = naming.job.map(|job| {
        let digits = job.to_string();
        format!("-{}", &digits[digits.len().saturating_sub(6)..])
    });
    let retry = (n > 0).then(|| format!("-r{n}"));
    let suffix = format!("{}{}-{hex}", job.unwrap_or_default(), retry.unwrap_or_default());
    // Cut in front: two dispatches whose names differ only behind the cut would evict each other.
    let mut base = clean(&base(naming));
    base.truncate(MAX - suffix.len());
    format!("{}{suffix}", base.trim_end_matches('-'))
}

fn base(naming: &Naming<'_>) -> String {
    if let Some(pool) = naming.pool {
        return format!("runs-fleet-runner-{pool}");
    }
    let mut parts = vec![format!("runs-fleet-runner-{}", naming.repo.name())];
    if let Some(spec) = naming.spec {
        parts.extend(spec.arch.map(|a| a.as_str().to_owned()));
        parts.extend((spec.cpu_min > 0).then(|| format!("cpu{}", spec.cpu_min)));
        parts.extend((spec.ram_min >= 1.0).then(|| format!("ram{:.0}", spec.ram_min.trunc())));
        parts.extend((spec.storage_gib > 0).then(|| format!("disk{}", spec.storage_gib)));
        parts.extend(spec.families.iter().cloned());
        parts.extend((spec.gen_ > 0).then(|| format!("gen{}", spec.gen_)));
    }
    parts.join("-")
}

fn clean(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }).collect()
}

/// The part behind `i-` of an EC2 instance id: 17 hex digits, 8 on the oldest.
fn instance_hex(key: &str) -> Option<&str> {
    key.strip_prefix("i-").filter(|part| is_instance_hex(part))
}

fn is_instance_hex(part: &str) -> bool {
    matches!(part.len(), 8 | 17) && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The machines a runner name may belong to, likeliest first; each is one read. Empty: the name is not ours.
pub fn runner_key_candidates(name: &str) -> Vec<RunnerKey> {
    let Some(rest) = name.strip_prefix("runs-fleet-") else { return Vec::new() };
    let mut candidates = Vec::new();
    if let Some(part) = rest.rsplit('-').next().filter(|part| is_instance_hex(part)) {
        candidates.push(RunnerKey::new(format!("i-{part}")));
    }
    let pod = match rest.rsplit_once("-n") {
        Some((pod, n)) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => pod,
        _ => rest,
    };
    let whole = RunnerKey::from(pod);
    if !pod.is_empty() && !candidates.contains(&whole) {
        candidates.push(whole);
    }
    candidates
}
