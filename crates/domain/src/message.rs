//! The job message on the main queue: a wake-up call, and the full description of what was asked for.
//!
//! The record holds an accepted message verbatim, and every re-dispatch starts from it, so nothing a workflow asked
//! for is lost on the second try. Both revisions of the wire format decode; unknown fields are carried through.

use crate::clock::Timestamp;
use crate::ids::{InstallationId, JobId, Repo, RunId};
use crate::launch::LaunchSpec;

/// A job to dispatch.
#[derive(Debug, Clone, PartialEq)]
pub struct JobMessage {
    /// Identity.
    pub job_id: JobId,
    /// The run, when known. Old labels could leave it out.
    pub run_id: Option<RunId>,
    /// Where the runner registers.
    pub repo: Repo,
    /// The machine asked for.
    pub spec: LaunchSpec,
    /// The exact `runs-on` label (or alias) that made the job ours.
    pub original_label: String,
    /// The job's whole `runs-on` set, in order: what the runner is registered with.
    pub labels: Vec<String>,
    /// Failure retries consumed so far.
    pub retry_count: u32,
    /// Never use spot. Sticky.
    pub force_on_demand: bool,
    /// Re-dispatch generation; part of the deduplication id.
    pub dispatch_seq: u32,
    /// Re-dispatches because the runner served another job.
    pub displaced_count: u32,
    /// GitHub's attempt of the run; 1 unless the job is a re-run.
    pub run_attempt: u32,
    /// The App installation that reported the job.
    pub installation_id: Option<InstallationId>,
    /// The job's name in the workflow.
    pub job_name: String,
    /// The workflow's name.
    pub workflow_name: String,
    /// GitHub's `created_at`.
    pub created_at: Option<Timestamp>,
    /// When we first accepted the job; starts the 24 h deadline.
    pub queued_at: Option<Timestamp>,
    /// W3C trace context of the ingestion span.
    pub traceparent: Option<String>,
    /// Fields this build does not know, carried through unchanged.
    pub unknown: serde_json::Map<String, serde_json::Value>,
}
