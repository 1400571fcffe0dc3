//! A GitHub for one machine: repositories, workflow runs and jobs, runner registrations, webhooks.

pub mod http;
pub mod model;
