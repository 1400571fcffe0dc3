//! A GitHub for one machine: repositories, workflow runs and jobs, runner registrations, webhooks.

pub mod http;
#[cfg(feature = "world")]
pub mod line;
pub mod model;
