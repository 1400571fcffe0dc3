//! What GitHub says about a workflow job, in GitHub's words.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{RunId, RunnerId};

/// How GitHub concluded a job. Everything we never act upon differently is `Other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// Green.
    Success,
    /// Red: a step failed, or GitHub lost the runner.
    Failure,
    /// Cancelled by somebody, or by concurrency rules.
    Cancelled,
    /// `skipped`, `neutral`, `timed_out`, `action_required`, `stale`, or a word of the future.
    Other,
}

impl Conclusion {
    /// Reads GitHub's word.
    pub fn parse(word: &str) -> Self {
        match word {
            "success" => Self::Success,
            "failure" => Self::Failure,
            "cancelled" => Self::Cancelled,
            _ => Self::Other,
        }
    }
    /// The word stored in records. `Other` has no word of its own: the original one is stored instead.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
            Self::Other => "other",
        }
    }
}

/// Where a job stands at GitHub, as far as we could find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Waiting for a runner: `queued`, `waiting`, `pending`, `requested`.
    Queued,
    /// A runner has it.
    InProgress,
    /// Concluded. GitHub will never hand it out again; only a re-run, under a new id, repeats it.
    Completed(Conclusion),
    /// 404: deleted, or no longer visible to the App.
    Missing,
    /// GitHub could not be asked. Nothing irreversible is decided on this.
    Unknown,
}

impl Status {
    /// Reads the REST and webhook fields `status` and `conclusion`. An unheard-of status is `Unknown`.
    pub fn parse(status: &str, conclusion: Option<&str>) -> Self {
        match status {
            "queued" | "waiting" | "pending" | "requested" => Self::Queued,
            "in_progress" => Self::InProgress,
            "completed" => Self::Completed(conclusion.map_or(Conclusion::Other, Conclusion::parse)),
            _ => Self::Unknown,
        }
    }
    /// The word stored as `gh_status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed(_) => "completed",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
    /// Whether the job is over at GitHub.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Completed(_) | Self::Missing)
    }
}

/// The runner GitHub names for a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedRunner {
    /// Numeric id of the registration, when GitHub gave one.
    pub id: Option<RunnerId>,
    /// Registered name.
    pub name: String,
}

/// One answer about a job: the webhook's `workflow_job` or `GET …/actions/jobs/{id}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    /// Where it stands.
    pub status: Status,
    /// GitHub's own word for the conclusion, if concluded.
    pub conclusion: Option<String>,
    /// Which runner has or had it. GitHub leaves it empty while queued.
    pub runner: Option<NamedRunner>,
    /// Its run.
    pub run_id: Option<RunId>,
    /// 1 for the first attempt of the run.
    pub run_attempt: u32,
    /// GitHub's clock, one-second resolution, like the next two.
    pub created_at: Option<Timestamp>,
    /// When a runner took it.
    pub started_at: Option<Timestamp>,
    /// When it was concluded.
    pub completed_at: Option<Timestamp>,
    /// Its `runs-on` labels.
    pub labels: Vec<String>,
}
