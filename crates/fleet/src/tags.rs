//! The tags of an instance, and its name.
//!
//! Keys are unique, the order is fixed (so that a repeated request is equal to the last byte), and there are at most
//! 50, EC2's limit. `runs-fleet:managed` is what permits us to stop or terminate an instance; it is never dropped.

use domain::ids::PoolName;
use domain::launch::Arch;
use provider::compute::{Members, Order, Slot};
use provider::tags::{JOB_ID, LAUNCH_ID, MANAGED, POOL, ROLE, RUN_ID};

use crate::settings::TagSettings;

#[cfg(test)]
mod tests;

/// What our own tags begin with.
const PREFIX: &str = "runs-fleet:";
/// EC2's limit of tags per resource.
pub const LIMIT: usize = 50;
/// EC2's limit of a value, in characters.
const VALUE_LIMIT: usize = 256;
/// Ours for names.
const NAME_LIMIT: usize = 64;

/// Tags in order.
pub type Tags = Vec<(String, String)>;

/// The tags an instance for these slots of an order carries: what all of them agree on. A pool's order has no slots, and
/// its instances do not carry the launch's name: by that a spare is known to be one.
pub fn of(order: &Order, slots: &[&Slot], arch: Arch, settings: &TagSettings) -> Tags {
    let spec = &order.spec;
    let shared = |fact: fn(&Slot) -> Option<String>| {
        let first = fact(slots.first()?)?;
        slots.iter().all(|slot| fact(slot).as_deref() == Some(first.as_str())).then_some(first)
    };
    let repo = shared(|slot| Some(slot.repo.to_string()));
    let mut tags = Collected { tags: Vec::new(), settings };
    tags.add("Name", Some(instance_name(order, slots)));
    tags.add(RUN_ID, shared(|slot| slot.run.map(|run| run.to_string())));
    tags.add(MANAGED, Some("true".to_owned()));
    tags.add(POOL, pool_of(order).map(ToString::to_string));
    tags.add("runs-fleet:os", Some(spec.os.clone()));
    tags.add("runs-fleet:arch", Some(arch.as_str().to_owned()));
    tags.add("runs-fleet:region", Some(spec.region.clone()));
    tags.add("runs-fleet:environment", Some(spec.environment.clone()));
    tags.add("Environment", Some(spec.environment.clone()));
    tags.add(ROLE, repo);
    for (key, value) in &settings.attribution {
        tags.add(key, Some(value.clone()));
    }
    tags.add("runs-fleet:runner-image", settings.runner_image.clone());
    tags.add("runs-fleet:termination-queue-url", settings.termination_queue_url.clone());
    tags.add("runs-fleet:cache-url", settings.cache_url.clone());
    tags.add("runs-fleet:secrets-backend", settings.secrets_backend.clone());
    if let Some(vault) = &settings.vault {
        tags.add("runs-fleet:vault-addr", Some(vault.addr.clone()));
        tags.add("runs-fleet:vault-namespace", Some(vault.namespace.clone()));
        tags.add("runs-fleet:vault-kv-mount", Some(vault.kv_mount.clone()));
        let version = (vault.kv_version != 0).then(|| vault.kv_version.to_string());
        tags.add("runs-fleet:vault-kv-version", version);
        tags.add("runs-fleet:vault-base-path", Some(vault.base_path.clone()));
        // Machines prove who they are with their instance role, whatever the orchestrator itself uses.
        tags.add("runs-fleet:vault-auth-method", Some("aws".to_owned()));
        tags.add("runs-fleet:vault-aws-role", Some("runs-fleet-runner".to_owned()));
    }
    let for_jobs = matches!(order.members, Members::Jobs(_));
    tags.add(LAUNCH_ID, for_jobs.then(|| order.launch_id.to_string()));
    tags.add(JOB_ID, shared(|slot| Some(slot.job.to_string())));
    tags.finish()
}

struct Collected<'a> {
    tags: Tags,
    settings: &'a TagSettings,
}

impl Collected<'_> {
    /// Adds a tag of ours unless it has no value, the key is taken, or the operator has one of that name.
    fn add(&mut self, key: &str, value: Option<String>) {
        let Some(value) = value.filter(|value| !value.is_empty()) else { return };
        let theirs = !key.starts_with(PREFIX) && self.settings.custom.contains_key(key);
        if !theirs && self.tags.iter().all(|(other, _)| other != key) {
            self.tags.push((key.to_owned(), value));
        }
    }

    fn finish(self) -> Tags {
        let custom = self.settings.custom.iter().filter(|(key, _)| !key.starts_with(PREFIX));
        let mut tags = self.tags;
        tags.extend(custom.map(|(key, value)| (key.clone(), value.clone())));
        let droppable = self.settings.attribution.keys().rev().map(String::as_str);
        for key in droppable.chain([ROLE, JOB_ID, LAUNCH_ID, "Name"]) {
            if tags.len() <= LIMIT {
                break;
            }
            if !self.settings.custom.contains_key(key) {
                tags.retain(|(other, _)| other != key);
            }
        }
        // More than that many cannot be configured; should it come to pass, the operator's last ones go.
        tags.truncate(LIMIT);
        for (_, value) in &mut tags {
            cut(value, VALUE_LIMIT);
        }
        tags
    }
}

/// The pool of a spare, or the one that the job asks for.
fn pool_of(order: &Order) -> Option<&PoolName> {
    order.members.pool().or(order.spec.pool.as_ref())
}

/// What the console shows: the pool's machine, or the repository's with what it asked for. Instances of a batch for
/// several repositories are nobody's until one is paired with its job.
fn instance_name(order: &Order, slots: &[&Slot]) -> String {
    let mut name = "runs-fleet-runner".to_owned();
    let repo = slots.first().map(|slot| &slot.repo).filter(|repo| slots.iter().all(|slot| slot.repo == **repo));
    if let Some(pool) = pool_of(order) {
        name = format!("{name}-{pool}");
    } else if let Some(repo) = repo {
        name = format!("{name}-{}{}", repo.name(), conditions(order));
    }
    cut(&mut name, NAME_LIMIT);
    name
}

/// What the job asked for, such as `-arm64-cpu4-ram16`.
fn conditions(order: &Order) -> String {
    let spec = &order.spec;
    let arch = spec.arch.map(|arch| format!("-{}", arch.as_str()));
    let cpu = (spec.cpu_min > 0).then(|| format!("-cpu{}", spec.cpu_min));
    let ram = (spec.ram_min > 0.0).then(|| format!("-ram{}", spec.ram_min));
    [arch, cpu, ram].into_iter().flatten().collect()
}

fn cut(text: &mut String, limit: usize) {
    if let Some((at, _)) = text.char_indices().nth(limit) {
        text.truncate(at);
    }
}
