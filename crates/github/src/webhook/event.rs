//! The `workflow_job` event (GitHub docs, "Webhook events and payloads").

use domain::clock::Timestamp;
use domain::gh::{Conclusion, JobView, NamedRunner, Status};
use domain::ids::{InstallationId, JobId, Repo, RunId, RunnerId};
use domain::wire;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// Every runner of ours has a name that begins so.
pub const RUNNER_PREFIX: &str = "runs-fleet-";

/// What happened to the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", from = "String")]
pub enum Action {
    /// It waits for a runner.
    Queued,
    /// It waits for a gate; `queued` follows.
    Waiting,
    /// Like `waiting`.
    Requested,
    /// Like `waiting`.
    Pending,
    /// A runner has it.
    InProgress,
    /// It is concluded.
    Completed,
    /// A word of the future.
    Other,
}

impl Action {
    /// GitHub's word, or `other`: safe as a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waiting => "waiting",
            Self::Requested => "requested",
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Other => "other",
        }
    }
}

impl From<String> for Action {
    fn from(word: String) -> Self {
        match word.as_str() {
            "queued" => Self::Queued,
            "waiting" => Self::Waiting,
            "requested" => Self::Requested,
            "pending" => Self::Pending,
            "in_progress" => Self::InProgress,
            "completed" => Self::Completed,
            _ => Self::Other,
        }
    }
}

/// `X-GitHub-Event` as a metric label: anybody can send any name.
pub fn event_label(name: &str) -> &'static str {
    match name {
        "workflow_job" => "workflow_job",
        "ping" => "ping",
        "push" => "push",
        _ => "other",
    }
}

/// What we read of a `workflow_job` event. It serialises flat, for the queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkflowJobEvent {
    /// What happened.
    pub action: Action,
    /// The job.
    pub job_id: JobId,
    /// Its run.
    #[serde(default)]
    pub run_id: Option<RunId>,
    /// 1 for the first attempt of the run, and when GitHub does not say.
    #[serde(default = "first_attempt")]
    pub run_attempt: u32,
    /// The job's name.
    #[serde(default)]
    pub name: String,
    /// The workflow's name.
    #[serde(default)]
    pub workflow_name: String,
    /// The branch it runs on.
    #[serde(default)]
    pub head_branch: String,
    /// Its `runs-on` labels, in order.
    #[serde(default)]
    pub labels: Vec<String>,
    /// GitHub's word for where it stands; may differ from what the action says.
    #[serde(default)]
    pub status: String,
    /// GitHub's word for how it ended.
    #[serde(default)]
    pub conclusion: Option<String>,
    /// GitHub's clock, whole seconds, like the next two.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// When a runner took it. GitHub also sends one for jobs that none has.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it was concluded.
    #[serde(default)]
    pub completed_at: Option<Timestamp>,
    /// The registration GitHub gave it to.
    #[serde(default)]
    pub runner_id: Option<RunnerId>,
    /// That registration's name.
    #[serde(default)]
    pub runner_name: Option<String>,
    /// That registration's group.
    #[serde(default)]
    pub runner_group_id: Option<u64>,
    /// Its page.
    #[serde(default)]
    pub html_url: String,
    /// The repository.
    pub repo: Repo,
    /// Whether the repository is private.
    #[serde(default)]
    pub private: bool,
    /// The App installation that reported it.
    #[serde(default)]
    pub installation_id: Option<InstallationId>,
}

const fn first_attempt() -> u32 {
    1
}

/// The body is no `workflow_job` event: reject it. Says where, never what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON.
    #[error("the body is not JSON (line {line}, column {column})")]
    NotJson {
        /// 1-based.
        line: usize,
        /// 1-based.
        column: usize,
    },
    /// JSON, but something we need is missing or of another type.
    #[error("the body has not the shape of a workflow_job event (line {line}, column {column})")]
    Shape {
        /// 1-based.
        line: usize,
        /// 1-based.
        column: usize,
    },
}

impl From<serde_json::Error> for DecodeError {
    fn from(error: serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        if error.is_data() { Self::Shape { line, column } } else { Self::NotJson { line, column } }
    }
}

impl WorkflowJobEvent {
    /// Reads GitHub's request body. Action, job id, repository and the type of `labels` must be right; any other field
    /// that is missing, `null` or unreadable is absent: an odd time stamp must not cost a job.
    ///
    /// # Errors
    /// [`DecodeError`] when the body can never be an event.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let Payload { action, workflow_job: job, repository, installation } = serde_json::from_slice(body)?;
        let instant = |text: Option<String>| text.and_then(|text| wire::instant(&text).ok().flatten());
        Ok(Self {
            action,
            job_id: job.id,
            run_id: job.run_id,
            run_attempt: job.run_attempt.filter(|attempt| *attempt > 0).unwrap_or(first_attempt()),
            name: job.name.unwrap_or_default(),
            workflow_name: job.workflow_name.unwrap_or_default(),
            head_branch: job.head_branch.unwrap_or_default(),
            labels: job.labels.unwrap_or_default(),
            status: job.status.unwrap_or_default(),
            conclusion: job.conclusion,
            created_at: instant(job.created_at),
            started_at: instant(job.started_at),
            completed_at: instant(job.completed_at),
            runner_id: job.runner_id,
            runner_name: job.runner_name.filter(|name| !name.is_empty()),
            runner_group_id: job.runner_group_id,
            html_url: job.html_url.unwrap_or_default(),
            repo: repository.full_name,
            private: repository.private.unwrap_or_default(),
            installation_id: installation.map(|installation| installation.id),
        })
    }

    /// The event as an answer about the job. The action decides where it stands: that is what happened, while the
    /// payload's `status` can be of another moment.
    pub fn view(&self) -> JobView {
        let status = match self.action {
            Action::Queued | Action::Waiting | Action::Requested | Action::Pending => Status::Queued,
            Action::InProgress => Status::InProgress,
            Action::Completed => {
                Status::Completed(self.conclusion.as_deref().map_or(Conclusion::Other, Conclusion::parse))
            }
            Action::Other => Status::parse(&self.status, self.conclusion.as_deref()),
        };
        JobView {
            status,
            conclusion: self.conclusion.clone(),
            runner: self.runner_name.clone().map(|name| NamedRunner { id: self.runner_id, name }),
            run_id: self.run_id,
            run_attempt: self.run_attempt,
            created_at: self.created_at,
            started_at: self.started_at,
            completed_at: self.completed_at,
            labels: self.labels.clone(),
        }
    }

    /// Whether GitHub names a runner of ours for it.
    pub fn on_our_runner(&self) -> bool {
        self.runner_name.as_deref().is_some_and(|name| name.starts_with(RUNNER_PREFIX))
    }

    /// Created → started, in seconds, for the start-up metric of a job of ours on a runner of ours. `None` when either
    /// is unknown or no time lies between them.
    pub fn startup_seconds(&self) -> Option<f64> {
        let waited = self.started_at?.duration_since(self.created_at?).as_secs_f64();
        (self.on_our_runner() && waited > 0.0).then_some(waited)
    }
}

#[derive(Deserialize)]
struct Payload {
    action: Action,
    workflow_job: Job,
    repository: Repository,
    #[serde(default, deserialize_with = "lenient")]
    installation: Option<Installation>,
}

#[derive(Deserialize)]
struct Repository {
    full_name: Repo,
    #[serde(default, deserialize_with = "lenient")]
    private: Option<bool>,
}

#[derive(Deserialize)]
struct Installation {
    id: InstallationId,
}

#[derive(Deserialize)]
struct Job {
    id: JobId,
    #[serde(default, deserialize_with = "lenient")]
    run_id: Option<RunId>,
    #[serde(default, deserialize_with = "lenient")]
    run_attempt: Option<u32>,
    #[serde(default, deserialize_with = "lenient")]
    name: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    workflow_name: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    head_branch: Option<String>,
    labels: Option<Vec<String>>,
    #[serde(default, deserialize_with = "lenient")]
    status: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    conclusion: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    created_at: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    started_at: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    completed_at: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    runner_id: Option<RunnerId>,
    #[serde(default, deserialize_with = "lenient")]
    runner_name: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    runner_group_id: Option<u64>,
    #[serde(default, deserialize_with = "lenient")]
    html_url: Option<String>,
}

/// Reads a value of whatever type; one that is no `T` is absent.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}
