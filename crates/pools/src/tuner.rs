//! How long spares of a pool should linger after a job, and how many: read from the gaps between its jobs. Pure.

use std::time::Duration;

use config::HotPoolCaps;
use db::pools::{Pool, Tuning};
use domain::clock::{SignedDuration, Timestamp, since};
use domain::job::Job;

use crate::concurrency;

#[cfg(test)]
mod tests;

/// Jobs that come closer together than this are one wave, a matrix or the stage of a pipeline. A spare waits from one
/// wave to the next; gaps within waves, which are most of all gaps, would make that look shorter than it is.
const WAVE: Duration = Duration::from_secs(60);
/// Share of the waves that find the spares of the wave before, in percent. All jobs of the others wait for a boot, so
/// that it has to be well above 95 for the p95 of waits to gain anything; the longest gaps of all may be accidents.
const FOUND: usize = 99;

/// Whether a pool's history should be read at once, not by the next hourly run: the pool is new or came back after a
/// quiet night, or there was too little to go by and a job came since.
pub fn is_due(pool: &Pool, caps: &HotPoolCaps) -> bool {
    let known = |tuning: &Tuning| {
        let newer = pool.last_job_time.is_some_and(|at| at > tuning.at);
        tuning.jobs >= caps.min_jobs_to_activate || !newer
    };
    pool.ephemeral && !pool.tuning.as_ref().is_some_and(known)
}

/// Jobs since then count.
pub fn window(caps: &HotPoolCaps, now: Timestamp) -> Timestamp {
    let days = SignedDuration::from_hours(24 * i64::from(caps.lookback_days));
    now.checked_sub(days).unwrap_or(Timestamp::MIN)
}

/// What the jobs of the last days suggest. A pool without bursts, or without jobs, stays cold; that is said, too.
pub fn recommend(jobs: &[Job], caps: &HotPoolCaps, now: Timestamp) -> Tuning {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let cold = |reason: &str| Tuning {
        linger_minutes: 0,
        max_hot: 0,
        window_days: caps.lookback_days,
        jobs: count(jobs.len()),
        bursts: 0,
        p90_gap_seconds: 0,
        peak: 0,
        reason: reason.to_owned(),
        at: now,
    };
    if count(jobs.len()) < caps.min_jobs_to_activate {
        return cold("insufficient-history");
    }
    let mut created: Vec<_> = jobs.iter().map(|job| job.created_at).collect();
    created.sort_unstable();
    let pause = Duration::from_secs(u64::from(caps.burst_gap_minutes) * 60);
    let gaps = created.windows(2).map(|pair| since(pair[1], pair[0]));
    let (mut within, between): (Vec<_>, Vec<_>) = gaps.partition(|gap| *gap <= pause);
    let bursts = count(between.len() + 1);
    if within.is_empty() {
        return Tuning { bursts, ..cold("no-burst-pattern") };
    }
    within.sort_unstable();
    let p90_gap_seconds = seconds(within.get((within.len() - 1) * 9 / 10));
    within.retain(|gap| *gap >= WAVE);
    // Of a few the longest.
    let bridged = seconds(within.get((within.len().saturating_sub(1) * FOUND).div_ceil(100)));
    let peak = concurrency::peak(jobs.iter().filter_map(|job| Some((job.created_at, job.completed_at?))));
    Tuning {
        linger_minutes: bridged.div_ceil(60).clamp(1, caps.max_linger_minutes.max(1)),
        max_hot: peak.clamp(1, caps.max_hot.max(1)),
        bursts,
        p90_gap_seconds,
        peak,
        ..cold("tuned")
    }
}

fn seconds(gap: Option<&Duration>) -> u32 {
    gap.map_or(0, |gap| u32::try_from(gap.as_secs()).unwrap_or(u32::MAX))
}
