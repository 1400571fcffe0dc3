//! The invariants about pools, leaders, and the small rows that keep actors apart.

use db::table::{Item, Value};
use domain::clock::Timestamp;
use domain::ids::RunnerKey;

use super::Finding;
use super::view::View;

/// Clocks of two replicas differ by twice what one may be wrong.
const SKEW: i64 = 10;

/// P1: in a healthy world without work, a pool has its spares within the hour that it is given.
pub(super) fn p1_converging(what: &str) -> Finding {
    ("P1 converging", None, None, what.to_owned())
}

/// P2: a machine with a job, or with a hand-over its agent may have taken, is not stopped.
pub(super) fn p2_no_disturbing(view: &View, machine: &RunnerKey) -> Option<Finding> {
    let known = view.machines.get(machine)?;
    let job = known.serving.or_else(|| known.bound.first().copied().filter(|_| known.secret))?;
    Some(("P2 no disturbing", Some(job), Some(machine.clone()), "it was stopped, and had the job".to_owned()))
}

/// P5: nobody else believes to lead when somebody begins to.
pub(super) fn p5_one_leader(replica: usize, others: usize) -> Option<Finding> {
    (others > 0).then(|| ("P5 one leader", None, None, format!("replica {replica} leads, and so do {others} others")))
}

/// What a change of a small row breaks.
pub(super) fn rows(before: &Item, after: Option<&Item>, now: Timestamp) -> Vec<Finding> {
    [p4_fences_hold(before, after), p3_not_twice(before, after, now)].into_iter().flatten().collect()
}

/// P4: the fence of a row does not fall.
fn p4_fences_hold(before: &Item, after: Option<&Item>) -> Option<Finding> {
    let (was, is) = (whole(before, "leader_fence")?, whole(after?, "leader_fence"));
    is.is_none_or(|is| is < was).then(|| {
        ("P4 fences hold", None, None, format!("{}: written with {is:?} after {was}", text(before, "pool_name")))
    })
}

/// Locks and claims: who holds them, until when.
const HOLDS: [(&str, &str); 3] = [
    ("reconcile_lock_owner", "reconcile_lock_expires"),
    ("lock_owner", "lock_expires"),
    ("claim_owner", "claim_expiry"),
];

/// P3: what is held changes its holder only by being given back, or when its time is over. A job's claim is the job's.
fn p3_not_twice(before: &Item, after: Option<&Item>, now: Timestamp) -> Option<Finding> {
    let after = after?;
    let lives = |expiry: &str| whole(before, expiry).is_some_and(|at| at > now.as_second() + SKEW);
    let taken = HOLDS.iter().any(|(owner, expiry)| {
        before.contains_key(owner)
            && after.contains_key(owner)
            && before.get(owner) != after.get(owner)
            && lives(expiry)
    });
    let (was, is) = (whole(before, "job_id"), whole(after, "job_id"));
    let stolen = text(before, "pool_name").starts_with("__instance_claim:") && was != is && lives("claim_expiry");
    (taken || stolen).then(|| {
        let machine = text(before, "pool_name").strip_prefix("__instance_claim:").map(RunnerKey::new);
        ("P3 not twice", None, machine, format!("{}: taken while it was held", text(before, "pool_name")))
    })
}

fn whole(row: &Item, name: &str) -> Option<i64> {
    match row.get(name) {
        Some(Value::N(number)) => Some(*number),
        _ => None,
    }
}

fn text<'a>(row: &'a Item, name: &str) -> &'a str {
    match row.get(name) {
        Some(Value::S(text)) => text,
        _ => "",
    }
}
