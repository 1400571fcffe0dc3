//! How many jobs of a pool ran at the same time. Pure.

use std::time::Duration;

use domain::clock::{Timestamp, since};
use domain::job::Job;

#[cfg(test)]
mod tests;

/// Distance of the samples.
const EVERY: Duration = Duration::from_secs(60);
/// A job that has not ended counts as running for so long; later its end was lost.
const UNENDED: Duration = Duration::from_secs(2 * 3600);

/// From a job's assignment to its end. `None`: it never ran, or nobody knows until when.
pub fn interval(job: &Job, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
    match job.completed_at {
        Some(end) => Some((job.created_at, end)),
        None if job.state.occupies() && since(now, job.created_at) < UNENDED => Some((job.created_at, now)),
        None => None,
    }
}

/// Of samples taken every minute from `from` until `now`, the one that 90 in 100 do not exceed. Zero without jobs.
pub fn p90(jobs: &[Job], from: Timestamp, now: Timestamp) -> u32 {
    let events = events(jobs.iter().filter_map(|job| interval(job, now)), false);
    let (mut samples, mut running, mut next, mut at) = (Vec::new(), 0, 0, from);
    while at < now {
        while let Some((_, change)) = events.get(next).filter(|(time, _)| *time < at) {
            running += change;
            next += 1;
        }
        samples.push(running);
        at = domain::clock::after(at, EVERY);
    }
    samples.sort_unstable();
    samples.len().checked_sub(1).map_or(0, |last| count(samples[last * 9 / 10]))
}

/// Most that ran at any time.
pub fn peak(intervals: impl Iterator<Item = (Timestamp, Timestamp)>) -> u32 {
    let running = events(intervals, true).into_iter().scan(0, |running, (_, change)| {
        *running += change;
        Some(*running)
    });
    count(running.max().unwrap_or(0))
}

/// Starts and ends in order of time. Of those at the same instant, which come first?
fn events(intervals: impl Iterator<Item = (Timestamp, Timestamp)>, starts_first: bool) -> Vec<(Timestamp, i64)> {
    let mut events: Vec<_> = intervals.flat_map(|(start, end)| [(start, 1), (end, -1)]).collect();
    events.sort_by_key(|(at, change)| (*at, if starts_first { -change } else { *change }));
    events
}

fn count(running: i64) -> u32 {
    u32::try_from(running.max(0)).unwrap_or(u32::MAX)
}
