//! The brake: a pool whose new machines keep going away before they are of use stops making them for a while. Pure.
//!
//! A broken image would otherwise be launched again every minute, for ever. Jobs are not affected: they get machines of
//! their own, and their failures are seen where jobs are dispatched.

use std::time::Duration;

use db::pools::Health;
use domain::clock::{Timestamp, after, since};

use crate::plan::Class;
use crate::times::Times;

#[cfg(test)]
mod tests;

/// So many failures in a row are no accident.
const LIMIT: u32 = 3;
/// The longest pause, in first pauses.
const LONGEST: u32 = 30;

/// What became of a machine that was made lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// That is not known yet.
    Open,
    /// It was of use, or has lived for long enough.
    Useful,
    /// It went away before that.
    Failed,
    /// It went away, but nobody watched.
    Moot,
}

/// The fate of a machine that was asked for at `asked` and is now listed as `listed` (class and launch), or no longer.
/// `served` says whether a job was ever bound to one that is gone; `None` when that is unknown.
pub fn fate(
    asked: Timestamp,
    listed: Option<(Option<Class>, Timestamp)>,
    served: Option<bool>,
    times: &Times,
    now: Timestamp,
) -> Fate {
    match (listed, served) {
        (Some((Some(Class::Stopped | Class::Reserved | Class::Busy | Class::Claimed | Class::Assigned), _)), _) => {
            Fate::Useful
        }
        (Some((_, launched)), _) if since(now, launched) >= times.proof => Fate::Useful,
        (Some(_), _) => Fate::Open,
        (None, _) if since(now, asked) < times.unlisted => Fate::Open,
        (None, Some(true)) => Fate::Useful,
        (None, _) if since(now, asked) >= times.proof => Fate::Moot,
        (None, Some(false)) => Fate::Failed,
        (None, None) => Fate::Open,
    }
}

/// The pool's health after that. One machine that was of use clears it.
pub fn judge(health: Health, fates: &[Fate], times: &Times, now: Timestamp) -> Health {
    if fates.contains(&Fate::Useful) {
        return Health::default();
    }
    let failed = fates.iter().filter(|fate| **fate == Fate::Failed).count();
    if failed == 0 {
        return health;
    }
    // Once the brake is on, machines are tried one by one.
    let failures = match health.retry_at {
        Some(_) => health.failures.saturating_add(1),
        None => health.failures.saturating_add(u32::try_from(failed).unwrap_or(LIMIT)).min(LIMIT),
    };
    let pauses = failures.checked_sub(LIMIT).map(|more| 1_u32.checked_shl(more).unwrap_or(LONGEST).min(LONGEST));
    Health { failures, retry_at: pauses.map(|pauses| after(now, times.pause.saturating_mul(pauses))) }
}

/// How many machines may be made now, while the fate of `open` others is not known.
pub fn allowance(health: Health, open: usize, now: Timestamp) -> usize {
    match health.retry_at {
        None => usize::MAX,
        Some(at) if now < at => 0,
        Some(_) => 1_usize.saturating_sub(open),
    }
}

/// How long machines are not made yet.
pub fn pause_left(health: Health, now: Timestamp) -> Option<Duration> {
    health.retry_at.map(|at| since(at, now)).filter(|left| !left.is_zero())
}
