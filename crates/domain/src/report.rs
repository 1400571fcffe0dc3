//! What an agent tells the orchestrator: one message when the runner is up, one when it ended.

use crate::clock::Timestamp;
use crate::ids::{DispatchId, JobId, RunnerKey};

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
    pub token: Option<String>,
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
