//! Stories of warm pools: passes, jobs and removals against a store in memory and a cloud in memory, on virtual time.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "tests")]

mod crashes;
mod jobs;
mod passes;
mod removals;
mod support;
