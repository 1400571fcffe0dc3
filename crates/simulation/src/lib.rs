//! The world outside runs-fleet, simulated: a GitHub, its runners, and the load that keeps both busy.
//!
//! * [`github::model`] — what GitHub *does*, as a deterministic state machine without I/O, clock or tasks.
//! * [`github::http`] — the same GitHub over HTTP: REST paths, App authentication, signed webhooks.
//! * [`runner`] — the stand-in for the Actions runner: a tarball and the program inside it.
//! * [`load`] — submits jobs and waits for their ends.
//! * [`cloud`] — an EC2 in memory: fleets, client tokens, capacity, lost answers.
//! * [`chance`] — seeded randomness, so that a run can be repeated.
//! * `world` (with the feature of that name) — the orchestrator itself in a simulated world, under faults.
//!
//! Properties wanted: the model is the only place that decides; the same seed, calls and instants give the same
//! answers; HTTP adds nothing but transport and faults, so that a simulation on a virtual clock may use the model
//! directly.

#![forbid(unsafe_code)]

pub mod chance;
mod client;
pub mod cloud;
pub mod github;
pub mod load;
pub mod runner;
#[cfg(feature = "world")]
pub mod world;
