//! Stories: what happens to jobs when everything, or nearly everything, goes wrong.
//!
//! Each is named for the property it protects, and told against the real dispatch on ports in memory; see
//! `support`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::semicolon_if_nothing_returned,
    reason = "tests"
)]
#![allow(clippy::disallowed_methods, reason = "tests may detach tasks; the world ends them")]

#[path = "../support/mod.rs"]
mod support;

mod announcements;
mod batches;
mod chaos;
mod crash;
mod life;
mod messages;
mod theft;
mod trouble;
mod warm;
