//! What an agent tells the orchestrator: one message when the runner is up, one when it ended.
//!
//! A report comes from a machine that runs other people's code, and a completion may be the only one there will ever
//! be. So three fields decide whether it is a report at all; anything else that cannot be read is left out with a
//! warning.

use crate::clock::Timestamp;
use crate::handover::Credential;
use crate::ids::{DispatchId, JobId, RunnerKey};
use crate::wire::{Poison, ZERO_TIME, sha256_hex};

mod codec;

#[cfg(test)]
mod tests;

/// What happened to the runner, in the agent's closed vocabulary. Never the workflow's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AgentStatus {
    /// The listener is connected.
    Started,
    /// The runner served a job and ended by itself.
    Success,
    /// The runner failed.
    Failure,
    /// The runtime ceiling ended it.
    Timeout,
    /// A signal or a spot reclaim ended it.
    Interrupted,
    /// The machine never became a runner.
    BootstrapFailed,
}

impl AgentStatus {
    /// The wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Timeout => "timeout",
            Self::Interrupted => "interrupted",
            Self::BootstrapFailed => "bootstrap_failed",
        }
    }
    /// Reads the wire word, trimmed and case-insensitively. `None` for a word of another vocabulary.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word.trim().to_ascii_lowercase().as_str() {
            "started" => Self::Started,
            "success" => Self::Success,
            "failure" => Self::Failure,
            "timeout" => Self::Timeout,
            "interrupted" => Self::Interrupted,
            "bootstrap_failed" => Self::BootstrapFailed,
            _ => return None,
        })
    }
}

/// A report on the termination queue. `None` means "not measured", never zero.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentReport {
    /// The machine that speaks. The only identity the receiver trusts.
    pub instance_id: RunnerKey,
    /// The job its hand-over named: a hint. Absent when no hand-over was found.
    pub job_id: Option<JobId>,
    /// What happened.
    pub status: AgentStatus,
    /// The original word when `status` was decoded from one we do not know.
    pub raw_status: Option<String>,
    /// Exit code of the runner; −1 when a signal or the agent ended it.
    pub exit_code: i64,
    /// Spawn to end.
    pub duration_seconds: u64,
    /// Listener up (`started`) or runner spawned (the others).
    pub started_at: Option<Timestamp>,
    /// When the runner ended.
    pub completed_at: Option<Timestamp>,
    /// One line, redacted, at most 1,024 bytes.
    pub error: Option<String>,
    /// `terminated`, `interrupt`, `spot_interruption`.
    pub interrupted_by: Option<String>,
    /// The workflow run the hand-over named.
    pub run_id: Option<String>,
    /// The assignment the hand-over named.
    pub dispatch_id: Option<DispatchId>,
    /// Version of the agent.
    pub agent_version: Option<String>,
    /// Version of the Actions runner.
    pub runner_version: Option<String>,
    /// Whether the runner was given a job, where the evidence allows to say.
    pub job_received: Option<bool>,
    /// Hand-over found → listening.
    pub runner_listening_seconds: Option<f64>,
    /// Hand-over found → job running.
    pub job_pickup_seconds: Option<f64>,
    /// Kernel start → agent start, and the following phases; only on `started`.
    pub bootstrap: Bootstrap,
    /// When a spot notice was seen.
    pub spot_notice_at: Option<Timestamp>,
    /// `low_disk`, `low_memory`.
    pub resource_warnings: Vec<String>,
    /// `<Tool>/<version>/<platform>` keys the job had to download.
    pub tool_cache_misses: Vec<String>,
    /// Outcomes of the cache interceptor, the layer cache and the log upload.
    pub cache_interception: Option<String>,
    /// See `cache_interception`.
    pub build_cache_interception: Option<String>,
    /// See `cache_interception`.
    pub log_upload: Option<String>,
    /// Only agents of the Go implementation send it.
    pub cache_bytes_written: Option<u64>,
    /// The agent's clock at send, epoch milliseconds; lets the receiver correct clock skew.
    pub sent_at_ms: Option<i64>,
    /// HMAC that proves the hand-over was read on that machine.
    pub token: Option<Credential>,
}

impl AgentReport {
    /// A report that says only what happened where; everything else is absent.
    pub fn new(instance_id: RunnerKey, status: AgentStatus) -> Self {
        Self {
            instance_id,
            job_id: None,
            status,
            raw_status: None,
            exit_code: 0,
            duration_seconds: 0,
            started_at: None,
            completed_at: None,
            error: None,
            interrupted_by: None,
            run_id: None,
            dispatch_id: None,
            agent_version: None,
            runner_version: None,
            job_received: None,
            runner_listening_seconds: None,
            job_pickup_seconds: None,
            bootstrap: Bootstrap::default(),
            spot_notice_at: None,
            resource_warnings: Vec::new(),
            tool_cache_misses: Vec::new(),
            cache_interception: None,
            build_cache_interception: None,
            log_upload: None,
            cache_bytes_written: None,
            sent_at_ms: None,
            token: None,
        }
    }

    /// Reads a body of either revision; the second value names the fields that could not be read and were left out.
    ///
    /// # Errors
    /// [`Poison`] when it is no JSON object, or machine, status or (unless the machine never became a runner) job are
    /// missing or impossible.
    pub fn decode(body: &str) -> Result<(Self, Vec<&'static str>), Poison> {
        codec::decode(body)
    }

    /// The body: compact JSON, absent fields left out.
    pub fn encode(&self) -> String {
        codec::encode(self)
    }

    /// The FIFO group: the machine.
    pub fn group(&self) -> &str {
        self.instance_id.as_str()
    }

    /// The deduplication id: a report sent again is the same report, the next one is another.
    pub fn dedup_id(&self) -> String {
        let job = self.job_id.map(|id| id.to_string()).unwrap_or_default();
        let completed = self.completed_at_text().unwrap_or_default();
        sha256_hex(&format!("{}|{job}|{}|{completed}", self.instance_id, self.status_text()))
    }

    fn status_text(&self) -> &str {
        self.raw_status.as_deref().unwrap_or(self.status.as_str())
    }

    /// `started` carries Go's zero time, which old receivers expect there.
    fn completed_at_text(&self) -> Option<String> {
        match self.completed_at {
            None if self.status == AgentStatus::Started => Some(ZERO_TIME.to_owned()),
            at => at.map(|at| at.to_string()),
        }
    }
}

/// Seconds each boot phase took.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bootstrap {
    /// Kernel start → agent start.
    pub boot: Option<f64>,
    /// Agent start → hand-over found.
    pub config: Option<f64>,
    /// Discovery or download of the runner.
    pub runner: Option<f64>,
    /// Registration and environment.
    pub register: Option<f64>,
    /// Hand-over found → `run.sh` spawned.
    pub total: Option<f64>,
}
