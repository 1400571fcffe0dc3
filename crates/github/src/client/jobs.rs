//! Jobs and workflow runs.

use domain::clock::Timestamp;
use domain::gh::{JobView, NamedRunner, Status};
use domain::ids::{JobId, Repo, RunId, RunnerId};
use serde::Deserialize;

use super::Client;
use super::call::Call;
use super::error::Error;
use super::operation::{Operation, Priority};
use super::send::{Speaker, found, json, nothing};

/// GitHub's answer to a request to re-run a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rerun {
    /// The job will come back under a new id.
    Accepted,
    /// Other jobs of the run still run. Ask again later.
    RunStillGoing,
    /// GitHub will not; its words.
    Refused(String),
}

/// One attempt of a workflow run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RunView {
    /// Its id.
    pub id: RunId,
    /// 1 for the first attempt; grows with every re-run.
    #[serde(default = "first")]
    pub run_attempt: u32,
    /// GitHub's word: `queued`, `in_progress`, `completed` …
    #[serde(default)]
    pub status: Option<String>,
    /// GitHub's word, once completed.
    #[serde(default)]
    pub conclusion: Option<String>,
    /// What triggered it: `push`, `pull_request` …
    #[serde(default)]
    pub event: String,
    /// Branch the run was started for. For a fork's pull request, the *fork's* branch.
    #[serde(default)]
    pub head_branch: Option<String>,
    /// Where the head is; of a fork's pull request, the fork.
    #[serde(default)]
    pub head_repository: Option<RepositoryView>,
    /// The pull requests it was started for; GitHub may say `null`, and shows none of a fork's.
    #[serde(default)]
    pub pull_requests: Option<Vec<PullRequestView>>,
}

/// A repository, as far as we look.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RepositoryView {
    /// `owner/name`.
    #[serde(default)]
    pub full_name: String,
    /// The branch that others start from. Not part of every answer.
    #[serde(default)]
    pub default_branch: Option<String>,
}

/// A pull request, as far as we look.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PullRequestView {
    /// Its number.
    pub number: u64,
    /// Where it wants to go.
    pub base: RefView,
}

/// A branch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RefView {
    /// Its name.
    #[serde(rename = "ref")]
    pub name: String,
}

/// One job of a run, with what a `queued` webhook would have said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunJob {
    /// Its id.
    pub id: JobId,
    /// Its name in the workflow.
    pub name: String,
    /// The workflow's name.
    pub workflow_name: Option<String>,
    /// The branch it was started for.
    pub head_branch: Option<String>,
    /// Its page.
    pub html_url: Option<String>,
    /// Where it stands.
    pub view: JobView,
}

#[derive(Deserialize)]
struct JobBody {
    id: JobId,
    #[serde(default)]
    name: String,
    workflow_name: Option<String>,
    head_branch: Option<String>,
    html_url: Option<String>,
    status: String,
    conclusion: Option<String>,
    runner_id: Option<u64>,
    runner_name: Option<String>,
    run_id: Option<u64>,
    run_attempt: Option<u32>,
    created_at: Option<String>,
    started_at: Option<String>,
    completed_at: Option<String>,
    #[serde(default)]
    labels: Vec<String>,
}

#[derive(Deserialize)]
struct JobsPage {
    jobs: Vec<JobBody>,
}

#[derive(Deserialize)]
struct RunsPage {
    workflow_runs: Vec<RunBody>,
}

#[derive(Deserialize)]
struct RunBody {
    id: RunId,
}

fn first() -> u32 {
    1
}

fn view(body: JobBody) -> RunJob {
    let time = |text: Option<String>| text.and_then(|t| t.parse::<Timestamp>().ok());
    let id = body.runner_id.and_then(RunnerId::new);
    RunJob {
        id: body.id,
        name: body.name,
        workflow_name: body.workflow_name,
        head_branch: body.head_branch,
        html_url: body.html_url,
        view: JobView {
            status: Status::parse(&body.status, body.conclusion.as_deref()),
            conclusion: body.conclusion,
            runner: body.runner_name.filter(|n| !n.is_empty()).map(|name| NamedRunner { id, name }),
            run_id: body.run_id.and_then(RunId::new),
            run_attempt: body.run_attempt.unwrap_or(1),
            created_at: time(body.created_at),
            started_at: time(body.started_at),
            completed_at: time(body.completed_at),
            labels: body.labels,
        },
    }
}

impl Client {
    /// One job; `None` when GitHub does not know it.
    ///
    /// # Errors
    /// Any [`Error`]; `NotFound` means that the App is not installed there.
    pub async fn job(&self, repo: &Repo, job: JobId, priority: Priority) -> Result<Option<JobView>, Error> {
        let call = Call::new(Operation::Job, &[repo.owner(), repo.name(), &job.to_string()]).at(priority);
        Ok(found(&call, self.in_repo(repo, &call, json::<JobBody>).await)?.map(|body| view(body).view))
    }

    /// Asks GitHub to run a concluded job again.
    ///
    /// # Errors
    /// `Network`, `Server` (GitHub may have accepted), `Unauthorized`, `RateLimited`. Every other refusal is a
    /// [`Rerun`].
    pub async fn rerun_job(&self, repo: &Repo, job: JobId) -> Result<Rerun, Error> {
        let call = Call::new(Operation::RerunJob, &[repo.owner(), repo.name(), &job.to_string()]);
        match self.in_repo(repo, &call, nothing).await {
            Ok(_) => Ok(Rerun::Accepted),
            Err(Error::Forbidden(c) | Error::Conflict(c)) if c.message.contains("already running") => {
                Ok(Rerun::RunStillGoing)
            }
            Err(error @ (Error::Forbidden(_) | Error::Conflict(_) | Error::NotFound(_) | Error::Unprocessable(_))) => {
                Ok(Rerun::Refused(error.context().to_string()))
            }
            Err(error) => Err(error),
        }
    }

    /// One workflow run, as its latest attempt; `None` when GitHub does not know it.
    ///
    /// # Errors
    /// Any [`Error`]; `NotFound` means that the App is not installed there.
    pub async fn run(&self, repo: &Repo, run: RunId) -> Result<Option<RunView>, Error> {
        let call = Call::new(Operation::Run, &[repo.owner(), repo.name(), &run.to_string()]);
        found(&call, self.in_repo(repo, &call, json).await)
    }

    /// The repository itself; `None` when GitHub does not know it.
    ///
    /// # Errors
    /// Any [`Error`]; `NotFound` means that the App is not installed there.
    pub async fn repository(&self, repo: &Repo) -> Result<Option<RepositoryView>, Error> {
        let call = Call::new(Operation::Repository, &[repo.owner(), repo.name()]);
        found(&call, self.in_repo(repo, &call, json).await)
    }

    /// Runs that are queued or in progress. A sweep's question.
    ///
    /// # Errors
    /// Any [`Error`]; no partial list.
    pub async fn active_runs(&self, repo: &Repo) -> Result<Vec<RunId>, Error> {
        let mut runs = Vec::new();
        for status in ["queued", "in_progress"] {
            let call = Call::new(Operation::Runs, &[repo.owner(), repo.name()]);
            let call = call.at(Priority::Sweep).query("status", status);
            let ids = |page: RunsPage| page.workflow_runs.into_iter().map(|r| r.id).collect();
            runs.extend(self.list(Speaker::Repo(repo), &call, ids).await?);
        }
        // A run that moved on between the two questions is in both answers.
        runs.sort_unstable();
        runs.dedup();
        Ok(runs)
    }

    /// The jobs of a run's latest attempt. A sweep's question.
    ///
    /// # Errors
    /// Any [`Error`]; no partial list.
    pub async fn jobs_of_run(&self, repo: &Repo, run: RunId) -> Result<Vec<RunJob>, Error> {
        let call = Call::new(Operation::JobsOfRun, &[repo.owner(), repo.name(), &run.to_string()]);
        let call = call.at(Priority::Sweep).query("filter", "latest");
        self.list(Speaker::Repo(repo), &call, |page: JobsPage| page.jobs.into_iter().map(view).collect()).await
    }
}
