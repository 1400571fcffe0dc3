//! The JSON GitHub answers and sends: its documented field names, filled with what the model knows.
//!
//! Sources: "REST API endpoints for workflow jobs", "… for workflow runs", "… for self-hosted runners",
//! "… for GitHub App webhooks", and "Webhook events and payloads: `workflow_job`".

use domain::clock::{Timestamp, whole_seconds};
use domain::ids::{InstallationId, JobId, Repo, RunId, RunnerId};
use serde::Serialize;
use serde_json::{Value, json};

use super::jobs::RunFilter;
use super::records::{Job, OwnerKind, Repository, Run, Runner, Status};
use super::{Delivery, Model, Refusal};

/// Which part of a list: GitHub's `page` (from 1) and `per_page` (1 to 100).
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Counted from 1.
    pub number: usize,
    /// Items on a page.
    pub size: usize,
}

impl Page {
    /// Only what is shown is made.
    fn of<T>(self, items: impl Iterator<Item = T>, list: &str, show: impl Fn(T) -> Value) -> Listing {
        let start = self.number.saturating_sub(1).saturating_mul(self.size);
        let (mut total, mut shown) = (0, Vec::new());
        for item in items {
            if total >= start && shown.len() < self.size {
                shown.push(show(item));
            }
            total += 1;
        }
        Listing { more: start + shown.len() < total, body: json!({ "total_count": total, list: shown }) }
    }
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The answer.
    pub body: Value,
    /// Whether another page follows.
    pub more: bool,
}

/// An instant in GitHub's format: UTC, whole seconds.
pub fn time(at: Timestamp) -> String {
    whole_seconds(at).to_string()
}

impl Model {
    /// `GET …/actions/jobs/{id}`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn job(&self, repo: &Repo, id: JobId) -> Result<Value, Refusal> {
        let job = self.job_in(repo, id)?;
        Ok(json!(self.job_json(self.run_in(repo, job.run)?, job)))
    }

    /// `GET …/actions/runs/{id}`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn run(&self, repo: &Repo, id: RunId) -> Result<Value, Refusal> {
        Ok(self.run_json(self.run_in(repo, id)?))
    }

    /// `GET …/actions/runs`, newest first.
    ///
    /// # Errors
    /// `NotFound` without the repository.
    pub fn runs(&self, repo: &Repo, filter: RunFilter, page: Page) -> Result<Listing, Refusal> {
        let repo = &self.repository(repo)?.repo;
        let wanted = |run: &&Run| match filter {
            RunFilter::All => true,
            RunFilter::Status(status) => self.run_status(run.id) == Some(status),
            RunFilter::Conclusion(conclusion) => self.run_conclusion(run.id) == Some(conclusion),
        };
        let show = |run: &Run| self.run_json(run);
        // Those that are asked for all the time are few among many.
        if matches!(filter, RunFilter::Status(Status::Queued | Status::InProgress)) {
            let active = self.active.get(repo).into_iter().flatten().rev().filter_map(|id| self.runs.get(id));
            return Ok(page.of(active.filter(wanted), "workflow_runs", show));
        }
        let runs = self.runs.values().rev().filter(|r| r.repo == *repo).filter(wanted);
        Ok(page.of(runs, "workflow_runs", show))
    }

    /// `GET …/actions/runs/{id}/jobs`, of the latest attempt or of all of them.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn jobs_of_run(&self, repo: &Repo, id: RunId, all: bool, page: Page) -> Result<Listing, Refusal> {
        let run = self.run_in(repo, id)?;
        let earlier = run.earlier.iter().filter(|_| all);
        let jobs = earlier.chain(&run.latest).filter_map(|id| self.jobs.get(id));
        Ok(page.of(jobs, "jobs", |job| json!(self.job_json(run, job))))
    }

    /// `GET /installation/repositories`.
    pub fn installed_repositories(&self, id: InstallationId, page: Page) -> Listing {
        let theirs = self.repositories.values().filter(|r| self.installation_of(r.repo.owner()) == id);
        page.of(theirs, "repositories", |repository| json!(self.repository_json(repository)))
    }

    /// `GET …/actions/runners/{id}`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn runner(&self, repo: &Repo, id: RunnerId, now: Timestamp) -> Result<Value, Refusal> {
        self.runner_in(repo, id).map(|r| self.runner_json(r, now))
    }

    /// `GET …/actions/runners`, all or the one with this name.
    ///
    /// # Errors
    /// `NotFound` without the repository.
    pub fn runners(&self, repo: &Repo, name: Option<&str>, page: Page, now: Timestamp) -> Result<Listing, Refusal> {
        let repo = &self.repository(repo)?.repo;
        let mut found: Vec<&Runner> = match name {
            Some(name) => {
                let id = self.names.get(&(repo.clone(), name.to_lowercase()));
                id.and_then(|id| self.runners.get(id)).filter(|r| r.name == name).into_iter().collect()
            }
            None => {
                let of_repo = self.names.range((repo.clone(), String::new())..).take_while(|((of, _), _)| of == repo);
                of_repo.filter_map(|(_, id)| self.runners.get(id)).collect()
            }
        };
        found.sort_unstable_by_key(|r| r.id);
        Ok(page.of(found.into_iter(), "runners", |runner| self.runner_json(runner, now)))
    }

    /// The summary of a delivery, as lists show it.
    pub fn delivery_json(&self, delivery: &Delivery) -> Value {
        json!({
            "id": delivery.id,
            "guid": delivery.webhook.guid,
            "delivered_at": delivery.delivered_at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            "redelivery": delivery.webhook.redelivery,
            "duration": delivery.attempt.duration,
            "status": delivery.attempt.status,
            "status_code": delivery.attempt.status_code,
            "event": delivery.webhook.event,
            "action": delivery.webhook.action,
            "installation_id": self.settings.installation_id,
            "repository_id": null,
            "throttled_at": null,
        })
    }

    /// `action` and payload of the `workflow_job` webhook about the job as it stands.
    pub(super) fn job_event(&self, id: JobId) -> Option<(&'static str, String)> {
        let job = self.jobs.get(&id)?;
        let run = self.runs.get(&job.run)?;
        let repository = self.repository(&run.repo).ok()?;
        let (action, owner) = (job.status().as_str(), repository.repo.owner());
        let organization = (repository.owner == OwnerKind::Organization).then(|| OrganizationBody {
            login: owner,
            id: 1,
            node_id: "T1JH",
            url: format!("{}/orgs/{owner}", self.settings.api_url),
            description: None,
        });
        let event = EventBody {
            action,
            workflow_job: self.job_json(run, job),
            repository: self.repository_json(repository),
            sender: self.account_json(owner, OwnerKind::User),
            installation: InstallationBody { id: self.installation_of(owner), node_id: "SU5TVA==" },
            organization,
        };
        Some((action, serde_json::to_string(&event).ok()?))
    }

    fn job_json<'a>(&'a self, run: &'a Run, job: &'a Job) -> JobBody<'a> {
        let base = format!("{}/repos/{}", self.settings.api_url, run.repo);
        let (served, ended) = (job.served.as_ref(), job.ended.as_ref());
        let (status, conclusion) = (job.status().as_str(), ended.map(|e| e.conclusion.as_str()));
        let completed_at = ended.map(|e| time(e.at));
        let step = served.map(|s| StepBody {
            name: "Run the job",
            status,
            conclusion,
            number: 1,
            started_at: time(s.at),
            completed_at: completed_at.clone(),
        });
        JobBody {
            id: job.id,
            run_id: run.id,
            workflow_name: "Simulated",
            head_branch: "main",
            run_url: format!("{base}/actions/runs/{}", run.id),
            run_attempt: job.attempt,
            node_id: format!("CR_{}", job.id),
            head_sha: head_sha(run),
            url: format!("{base}/actions/jobs/{}", job.id),
            html_url: format!("{}/{}/actions/runs/{}/job/{}", self.settings.api_url, run.repo, run.id, job.id),
            status,
            conclusion,
            created_at: time(job.created_at),
            started_at: time(served.map_or(job.created_at, |s| s.at)),
            completed_at,
            name: &job.name,
            steps: step.into_iter().collect(),
            check_run_url: format!("{base}/check-runs/{}", job.id),
            labels: &job.labels,
            runner_id: served.map(|s| s.id),
            runner_name: served.map(|s| s.name.as_str()),
            runner_group_id: served.map(|_| 1),
            runner_group_name: served.map(|_| "Default"),
        }
    }

    fn run_json(&self, run: &Run) -> Value {
        let url = format!("{}/repos/{}/actions/runs/{}", self.settings.api_url, run.repo, run.id);
        let status = self.run_status(run.id).unwrap_or(Status::Queued);
        json!({
            "id": run.id,
            "name": "Simulated",
            "node_id": format!("WFR_{}", run.id),
            "head_branch": "main",
            "head_sha": head_sha(run),
            "path": ".github/workflows/simulated.yml",
            "display_title": format!("Simulated run {}", run.number),
            "run_number": run.number,
            "event": "push",
            "status": status.as_str(),
            "conclusion": self.run_conclusion(run.id).map(|c| c.as_str()),
            "workflow_id": 1,
            "url": url,
            "html_url": format!("{}/{}/actions/runs/{}", self.settings.api_url, run.repo, run.id),
            "pull_requests": [],
            "created_at": time(run.created_at),
            "updated_at": time(run.updated_at),
            "run_started_at": time(run.created_at),
            "run_attempt": run.attempt,
            "jobs_url": format!("{url}/jobs"),
            "cancel_url": format!("{url}/cancel"),
            "rerun_url": format!("{url}/rerun"),
            "repository": self.repository(&run.repo).ok().map(|r| self.repository_json(r)),
        })
    }

    /// A registration as the REST API shows it. `status` and `busy` are advisory there, and here.
    fn runner_json(&self, runner: &Runner, now: Timestamp) -> Value {
        let label = |(i, name): (usize, &String)| json!({ "id": i + 1, "name": name, "type": "custom" });
        let online = runner.session.is_some();
        json!({
            "id": runner.id,
            "name": runner.name,
            "runner_group_id": runner.group_id,
            "os": if online { "Linux" } else { "unknown" },
            "status": if online { "online" } else { "offline" },
            "busy": runner.shows_busy(now, self.settings.busy_lag),
            "ephemeral": true,
            "labels": runner.labels.iter().enumerate().map(label).collect::<Vec<_>>(),
        })
    }

    fn repository_json<'a>(&self, repository: &'a Repository) -> RepositoryBody<'a> {
        let Repository { id, repo, owner } = repository;
        RepositoryBody {
            id: *id,
            node_id: format!("R_{id}"),
            name: repo.name(),
            full_name: repo.as_str(),
            private: true,
            owner: self.account_json(repo.owner(), *owner),
            html_url: format!("{}/{repo}", self.settings.api_url),
            description: None,
            fork: false,
            url: format!("{}/repos/{repo}", self.settings.api_url),
            archived: false,
            disabled: false,
            visibility: "private",
            default_branch: "main",
        }
    }

    /// An account, as it appears inside other objects.
    pub fn account_json<'a>(&self, login: &'a str, kind: OwnerKind) -> AccountBody<'a> {
        AccountBody {
            login,
            id: 1,
            node_id: "QUNDT1VOVA==",
            url: format!("{}/users/{login}", self.settings.api_url),
            html_url: format!("{}/{login}", self.settings.api_url),
            kind: kind.as_str(),
            site_admin: false,
        }
    }
}

#[derive(Serialize)]
struct EventBody<'a> {
    action: &'a str,
    workflow_job: JobBody<'a>,
    repository: RepositoryBody<'a>,
    sender: AccountBody<'a>,
    installation: InstallationBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    organization: Option<OrganizationBody<'a>>,
}

#[derive(Serialize)]
struct InstallationBody {
    id: InstallationId,
    node_id: &'static str,
}

#[derive(Serialize)]
struct OrganizationBody<'a> {
    login: &'a str,
    id: u64,
    node_id: &'static str,
    url: String,
    description: Option<&'static str>,
}

#[derive(Serialize)]
struct JobBody<'a> {
    id: JobId,
    run_id: RunId,
    workflow_name: &'static str,
    head_branch: &'static str,
    run_url: String,
    run_attempt: u32,
    node_id: String,
    head_sha: String,
    url: String,
    html_url: String,
    status: &'static str,
    conclusion: Option<&'static str>,
    created_at: String,
    started_at: String,
    completed_at: Option<String>,
    name: &'a str,
    steps: Vec<StepBody>,
    check_run_url: String,
    labels: &'a [String],
    runner_id: Option<RunnerId>,
    runner_name: Option<&'a str>,
    runner_group_id: Option<u64>,
    runner_group_name: Option<&'static str>,
}

#[derive(Serialize)]
struct StepBody {
    name: &'static str,
    status: &'static str,
    conclusion: Option<&'static str>,
    number: u64,
    started_at: String,
    completed_at: Option<String>,
}

#[derive(Serialize)]
struct RepositoryBody<'a> {
    id: u64,
    node_id: String,
    name: &'a str,
    full_name: &'a str,
    private: bool,
    owner: AccountBody<'a>,
    html_url: String,
    description: Option<&'static str>,
    fork: bool,
    url: String,
    archived: bool,
    disabled: bool,
    visibility: &'static str,
    default_branch: &'static str,
}

/// An account, as it appears inside other objects.
#[derive(Debug, Serialize)]
pub struct AccountBody<'a> {
    login: &'a str,
    id: u64,
    node_id: &'static str,
    url: String,
    html_url: String,
    #[serde(rename = "type")]
    kind: &'static str,
    site_admin: bool,
}

fn head_sha(run: &Run) -> String {
    format!("{:040x}", run.id.get())
}
