//! Dispatch: the life of a job, from GitHub's word that it waits to a settled record.
//!
//! * [`http`] and [`ingest`] — a verified webhook becomes a record and a wake-up.
//! * [`worker`] — what a message on the main queue means.
//! * [`attempt`] — claim, place, bind, mint, hand over, acknowledge.
//! * `batch` — jobs that want alike machines are launched together.
//! * [`binding`] — which job runs on which runner, after GitHub's word.
//! * [`signals`] — what machines report, and what their disappearance says.
//! * [`events`] — what the cloud announces about machines.
//! * [`retire`] — ending a runner without killing a job.
//! * [`sweeps`] — the reconcilers that repair whatever a crash left behind.
//! * [`why`] — one sentence on what a job waits for.
//!
//! The record is the truth, messages are wake-ups, every write is pinned to the version it was decided on, every step
//! can be repeated, and effects follow only the winning write. The decisions themselves are `domain::job` and
//! `github::binding`; here is how they survive.

pub mod attempt;
mod batch;
mod binding;
mod boot;
mod cache;
pub mod context;
pub mod events;
pub mod http;
pub mod ingest;
mod pace;
mod records;
pub mod retire;
pub mod signals;
pub mod sweeps;
mod tokens;
pub mod why;
pub mod worker;

pub use self::cache::CacheAccess;
pub use context::{Dispatch, Error, News, Ports, Rejected, Settings};
pub use events::Events;
pub use signals::Reports;
pub use tokens::ReportTokens;
pub use worker::{Webhooks, Worker};
