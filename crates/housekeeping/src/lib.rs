//! Housekeeping: what finds and settles everything the request path dropped.
//!
//! The request path goes forward with conditional writes and never undoes what it did to the world outside. So machines
//! are left that nobody owns, credentials that nobody will read, registrations that nobody will use, records that nobody
//! will ask for. Each has a [task](task), a predicate that selects what is to be settled, and an act.
//!
//! Properties wanted:
//!
//! * **What is unknown is left alone.** Predicates are pure and have three answers; a look-up that failed counts as
//!   alive, claimed, busy. A false "keep" costs an idle machine for one more interval, a false "act" a build.
//! * **Nothing irreversible without a second look.** Right before a machine ends it is read again, and a member of a pool
//!   is claimed.
//! * **No run empties the fleet.** Every task has a budget; what is over it waits for the next run, and is counted.
//! * **A task that never succeeds does not look healthy.** A single failure stops nothing and fails the run.
//!
//! Races survived:
//!
//! * *Two replicas, one task*: its lock decides; the other skips. The schedule stands on the lock's row ([`due`]), so a new
//!   leader goes on where the last one was.
//! * *The leader changes while a task runs*: the run ends at its next step, and says so only if its fence lets it.
//! * *A crash*: the lock ends by itself; what was done stays done, the rest is selected again.
//! * *A sweep against a job that moves*: whoever writes the record first wins, the other does nothing.
//! * *A request by the queue while the timer runs the same task*: it waits for the lock, and finds itself answered.
//!
//! * [`task`] — the table of tasks. [`due`] — when one runs. [`schedule`] — the loop of the leader.
//! * [`run`] — one run: lock, budget, report. [`request`] — runs that operators ask for.

mod context;
pub mod due;
mod evidence;
pub mod request;
pub mod run;
pub mod schedule;
pub mod task;
mod tasks;

pub use context::{Error, Housekeeping, Ports, Settings};
pub use request::Requests;
pub use run::{Ask, Ran, Report};
pub use task::Task;
