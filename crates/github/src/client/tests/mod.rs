//! The client against GitHub in memory, under paused time.

mod auth;
mod budget;
mod calls;
pub(crate) mod fake;
mod retries;
