//! The job message on the main queue: a wake-up call, and the full description of what was asked for.
//!
//! The record holds an accepted message verbatim, and every re-dispatch starts from it, so nothing a workflow asked
//! for is lost on the second try. Both revisions of the wire format decode; unknown fields are carried through.
//!
//! Whoever can write to the main queue can launch machines, so a message is read strictly: what could never lead to a
//! runner (no job, no repository, no label, no machine) is poison at once instead of one machine per delivery.

use crate::clock::Timestamp;
use crate::ids::{InstallationId, JobId, Repo, RunId};
use crate::launch::LaunchSpec;
use crate::wire;

mod codec;
pub mod trace;

#[cfg(test)]
mod tests;

pub use codec::Decoded;
pub use wire::{Poison, Reason};

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

impl JobMessage {
    /// Reads a body of either revision.
    ///
    /// # Errors
    /// [`Poison`] when the message can never succeed.
    pub fn decode(body: &str) -> Result<Decoded, Poison> {
        codec::decode(body)
    }

    /// The body: compact JSON in a fixed field order, empty fields left out.
    pub fn encode(&self) -> String {
        codec::encode(self)
    }

    /// What a message must have to lead to a runner. Checked before sending and after reading.
    ///
    /// # Errors
    /// [`Reason::NoLabel`] without label and run, [`Reason::NoLaunchSpec`] when nothing says what machine is wanted.
    pub fn check(&self) -> Result<(), Poison> {
        let spec = &self.spec;
        if self.original_label.is_empty() && self.run_id.is_none() {
            return Err(Reason::NoLabel.into());
        }
        let empty = spec.instance_type.is_empty()
            && spec.instance_types.is_empty()
            && spec.runner_spec.is_empty()
            && spec.pool.is_none()
            && spec.cpu_min == 0
            && spec.cpu_max == 0;
        if empty { Err(Reason::NoLaunchSpec.into()) } else { Ok(()) }
    }

    /// The FIFO group: one job, one lane, so that jobs never block each other.
    pub fn group(&self) -> String {
        self.job_id.to_string()
    }

    /// The text whose hash is the deduplication id. Queues remember ids for minutes even after the message is gone,
    /// so every deliberate re-send increments `dispatch_seq`; only retries of one send call share a key.
    pub fn dedup_key(&self) -> String {
        let Self { job_id, retry_count, dispatch_seq, .. } = self;
        if dispatch_seq == retry_count {
            // The Go implementation's key; it had no `dispatch_seq`.
            format!("{job_id}-{retry_count}")
        } else {
            format!("{job_id}-{retry_count}-{dispatch_seq}")
        }
    }

    /// The deduplication id: lower-case hex SHA-256 of [`Self::dedup_key`].
    pub fn dedup_id(&self) -> String {
        wire::sha256_hex(&self.dedup_key())
    }
}
