//! Tasks at work, on memory ports and Tokio's paused clock: each acts where it should, and where it must not it does
//! not. `schedule` tells who runs what when; `yard` is the place, `fleet` the machines in it.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(unreachable_pub, reason = "its modules are parts of one program")]

mod fleet;
mod machines;
mod records;
mod registrations;
mod requests;
mod schedule;
#[path = "../../../dispatch/tests/support/mod.rs"]
mod support;
mod yard;
