//! How many spares a pool should have now. Pure.

use std::time::Duration;

use config::HotPoolCaps;
use db::pools::Pool;
use domain::clock::{Timestamp, since};
use jiff::tz::TimeZone;

use crate::schedule;

#[cfg(test)]
mod tests;

/// An ephemeral pool without jobs for this long is no longer in use.
pub const UNUSED: Duration = Duration::from_secs(4 * 3600);
/// How far back its jobs are counted.
pub const HISTORY: Duration = Duration::from_secs(3600);
/// Most stopped spares of an ephemeral pool.
const MOST_STOPPED: u32 = 50;

/// What a pass aims at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Target {
    /// Ready machines: running, idle, and of use.
    pub running: u32,
    /// Stopped machines.
    pub stopped: u32,
    /// More of them run than the configuration says, because a job came lately.
    pub lingering: bool,
}

/// The target at `now`. `p90` is how many jobs of an ephemeral pool ran at a time in the last hour
/// ([`crate::concurrency::p90`]); `None` when that is unknown, which never makes a pool smaller. `caps` are the limits
/// of hot pools; `None` when those are off.
pub fn effective(pool: &Pool, p90: Option<u32>, caps: Option<&HotPoolCaps>, zone: &TimeZone, now: Timestamp) -> Target {
    let (running, stopped) = if pool.ephemeral {
        (0, reserve(pool, p90, now))
    } else {
        let entry = schedule::current(&pool.config.schedules, now, zone);
        entry.map_or((pool.config.desired_running, pool.config.desired_stopped), |entry| {
            (entry.desired_running, entry.desired_stopped)
        })
    };
    let floor = floor(pool, caps, now);
    Target { running: running.max(floor), stopped, lingering: floor > running }
}

fn reserve(pool: &Pool, p90: Option<u32>, now: Timestamp) -> u32 {
    let active = pool.last_job_time.is_some_and(|at| since(now, at) < UNUSED);
    let quiet = if active { 1 } else { pool.config.desired_stopped };
    match p90 {
        Some(0) => quiet,
        Some(jobs) => jobs.min(MOST_STOPPED),
        None => pool.observed.and_then(|seen| seen.effective_stopped).unwrap_or(quiet),
    }
}

/// How long spares of the pool linger after a job, and how many at most. `None`: they do not.
pub fn hot(pool: &Pool, caps: Option<&HotPoolCaps>) -> Option<(Duration, u32)> {
    let (caps, config, tuned) = (caps?, &pool.config, pool.tuning.as_ref());
    let minutes = config.override_linger_minutes.or(tuned.map(|t| t.linger_minutes)).unwrap_or(0);
    let minutes = minutes.min(caps.max_linger_minutes);
    let most = config.override_max_hot.or(tuned.map(|t| t.max_hot.max(1))).unwrap_or(1).min(caps.max_hot);
    (minutes > 0 && most > 0).then(|| (Duration::from_secs(u64::from(minutes) * 60), most))
}

fn floor(pool: &Pool, caps: Option<&HotPoolCaps>, now: Timestamp) -> u32 {
    let lingering = |(linger, _): &(Duration, u32)| pool.last_job_time.is_some_and(|at| since(now, at) < *linger);
    hot(pool, caps).filter(lingering).map_or(0, |(_, most)| most)
}
