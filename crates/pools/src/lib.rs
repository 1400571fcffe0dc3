//! Warm pools: machines that wait for jobs, so that jobs need not wait for machines.
//!
//! A pool is a row that says how many spares there should be, running or stopped. A pass over it compares that with the
//! machines that carry the pool's tag, and starts, makes, stops or ends some. A job that names the pool gets a spare if
//! one fits, and a machine of its own otherwise. Every machine serves one job.
//!
//! Pure, and worth reading first:
//!
//! * [`plan`] — what a pass does, step by step. The whole decision.
//! * [`target`], [`schedule`], [`concurrency`] — how many spares there should be.
//! * [`candidates`] — which spare a job gets.
//! * [`health`] — when a pool stops making machines that only fail.
//! * [`tuner`] — how long spares should linger, from the gaps between jobs.
//! * [`spec`] — what machines a pool has; [`check`] — what is wrong with its configuration.
//!
//! [`WarmPools`] gathers the facts, asks, and performs the answer: `pass` over a pool, `assign` a spare to a job,
//! `ensure` the pool a label names, `remove` one.
//!
//! Properties wanted:
//!
//! * A machine that is or may be in use is never stopped or ended. To take a machine away or to give it to a job, one
//!   and the same row, its claim, has to be won first.
//! * What cannot be read leads to nothing being done.
//! * One pass at a time works on a pool; only the leader takes machines away, since only it has watched them.
//! * Labels, which anybody may write, cannot make pools without end.

mod assign;
pub mod candidates;
pub mod check;
pub mod concurrency;
mod ensure;
mod error;
pub mod health;
mod observe;
mod pass;
pub mod plan;
mod preview;
mod remove;
pub mod schedule;
pub mod spec;
pub mod target;
#[cfg(test)]
mod testing;
mod times;
pub mod tuner;
mod view;
mod warm;

pub use assign::Spare;
pub use ensure::{Ensured, MOST_EPHEMERAL};
pub use error::Error;
pub use pass::{Passed, Scope};
pub use preview::Preview;
pub use remove::{Removal, Removed};
pub use times::Times;
pub use warm::{Ports, Settings, WarmPools};
