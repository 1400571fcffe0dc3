//! When a task is due. Pure.
//!
//! A task is due an interval after its last run *began*, whoever ran it and why: what was missed is not made up for. The
//! interval is spread a little, so that tasks and deployments do not march in step, and grows while a task cannot see
//! anything at all: then it only adds to what is wrong.

use std::time::Duration;

use db::tasks::TaskRow;
use domain::clock::{Timestamp, after, since};

use crate::task::{Entry, First};

#[cfg(test)]
mod tests;

/// How soon after somebody else's begin a task that runs at once does not.
const MOMENT: Duration = Duration::from_secs(30);
/// A task that never ran begins within this.
const NEVER_RAN: Duration = Duration::from_secs(60);
/// Spread of an interval.
const SPREAD: f64 = 0.05;
/// From so many runs in a row that saw nothing the interval doubles with each, up to eightfold.
const BARREN: u32 = 3;
/// Longer intervals do not grow, and none beyond it: what failed is over at some time, and then things want to be done.
const GROWN: Duration = Duration::from_mins(15);

/// What one term of leadership adds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// Since when.
    pub since: Timestamp,
    /// In `[0, 1)`: this task's luck in this term.
    pub chance: f64,
    /// Everything that is waited for is so many times shorter; 1 in production.
    pub divisor: u32,
}

/// When the task is to be begun; in the past: now. `None`: never.
pub fn due_at(entry: &Entry, row: &TaskRow, term: &Term) -> Option<Timestamp> {
    if entry.every.is_zero() {
        return None;
    }
    let short = |t: Duration| t / term.divisor.max(1);
    let Some(last) = row.last_started_at else {
        return Some(match entry.first {
            First::AtOnce => term.since,
            First::Soon => after(term.since, short(NEVER_RAN).mul_f64(term.chance)),
        });
    };
    let grown = entry.every * (1 << row.consecutive_barren.saturating_sub(BARREN - 1).min(3));
    let grown = grown.min(GROWN.max(entry.every));
    let regular = after(last, short(grown).mul_f64(1.0 - SPREAD + 2.0 * SPREAD * term.chance));
    let fresh = entry.first == First::AtOnce && since(term.since, last) >= short(MOMENT) && !short(MOMENT).is_zero();
    Some(if fresh { regular.min(term.since) } else { regular })
}

/// Whether the task is to be begun now. Not while somebody runs it.
pub fn is_due(entry: &Entry, row: &TaskRow, term: &Term, now: Timestamp) -> bool {
    let taken = row.locked_until.is_some_and(|until| until > now);
    !taken && due_at(entry, row, term).is_some_and(|at| at <= now)
}
