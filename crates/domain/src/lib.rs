//! The vocabulary of runs-fleet: ids, messages, records and the decisions about them.
//!
//! Everything here is plain data and pure functions: no I/O, no async, no logging. A reader who wants to know
//! *what the system does* with a job starts at [`job::transition`].
//!
//! * [`ids`] — typed names of things: jobs, runs, runners, machines, leases.
//! * [`clock`] — the only doors to time and chance, so that a simulation can own both.
//! * [`gh`] — what GitHub says about a job.
//! * [`job`] — the job record, its states, and the total transition function.
//! * [`runner`] — the runner record: one row per machine a runner was minted for.
//! * [`message`] — the job message on the main queue, in both revisions of the wire format.
//! * [`wire`] — what all queue messages have in common, and what makes one poison.
//! * [`report`] — what an agent tells the orchestrator.
//! * [`handover`] — the document an agent reads to become a runner.
//! * [`launch`] — what a machine must be like.
//! * [`timings`] — every interval and threshold, as one value.
//! * [`catalogue`] — the instance types that exist.
//! * [`circuit`] — where spot machines were taken away lately.

pub mod catalogue;
pub mod circuit;
pub mod clock;
pub mod gh;
pub mod handover;
pub mod ids;
pub mod job;
pub mod launch;
pub mod message;
pub mod report;
pub mod runner;
#[doc(hidden)]
pub mod testing;
pub mod timings;
pub mod wire;
