//! A job as the API shows it. What is not known is left out.

use std::time::Duration;

use domain::clock::{Timestamp, since};
use domain::gh;
use domain::ids::{JobId, PoolName, Repo, RunId, RunnerKey};
use domain::job::{Job, Origin, RerunState};
use serde::Serialize;

use crate::timeline;

/// An unfinished job of this age counts as stalled.
const STALLED: Duration = Duration::from_secs(15 * 60);

#[derive(Serialize)]
pub(crate) struct JobView {
    job_id: JobId,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<RunId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repo: Option<Repo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_id: Option<RunnerKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<PoolName>,
    spot: bool,
    warm_pool_hit: bool,
    retry_count: u32,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stalled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<Timestamp>,

    #[serde(skip_serializing_if = "Option::is_none")]
    job_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    label_warnings: Vec<String>,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_attempt: Option<u32>,
    queued_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_progress_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runner_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    availability_zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requeue_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settled_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conclusion: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    github_status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rerun_state: Option<&'static str>,
    force_on_demand: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    startup_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    html_url: Option<String>,
}

impl JobView {
    /// `server_url` is where GitHub's pages are; a job is linked only where that is a site of its own.
    pub(super) fn of(job: &Job, now: Timestamp, server_url: &str) -> Self {
        let message = job.message.as_ref();
        let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let run_id = message.and_then(|m| m.run_id);
        let html_url = message.zip(run_id).filter(|_| server_url.starts_with("https://"));
        let sighting = job.sighting.filter(|s| s.status != gh::Status::Unknown);
        Self {
            job_id: job.id,
            run_id,
            repo: message.map(|m| m.repo.clone()),
            instance_id: job.instance.clone(),
            instance_type: job.instance_type.clone(),
            pool: message.and_then(|m| m.spec.pool.clone()),
            spot: job.spot,
            warm_pool_hit: job.warm_pool_hit,
            retry_count: job.retry_count,
            status: job.state.as_str(),
            exit_code: job.exit_code,
            duration_seconds: job.duration_seconds,
            elapsed_seconds: elapsed(job, now).map(|elapsed| elapsed.as_secs()),
            stalled: stalled(job, now),
            trace_id: message.and_then(|m| Some(m.traceparent.as_deref()?.split('-').nth(1)?.to_owned())),
            created_at: job.created_at,
            started_at: job.started_at,
            completed_at: job.completed_at,
            job_name: message.and_then(|m| text(&m.job_name)),
            workflow_name: message.and_then(|m| text(&m.workflow_name)),
            labels: message.map(|m| m.labels.clone()),
            label_warnings: job.label_warnings.clone(),
            attempt: job.attempt(),
            run_attempt: message.map(|m| m.run_attempt),
            queued_at: job.queued_at,
            in_progress_at: job.in_progress_at,
            runner_name: job.runner_name.clone(),
            availability_zone: job.availability_zone.clone(),
            requeue_reason: job.requeue_reason.clone(),
            not_before: job.not_before,
            last_error: job.last_error.clone(),
            settled_reason: job.settled_reason.clone(),
            conclusion: job.conclusion.clone(),
            github_status: sighting.map(|s| s.status.as_str()),
            rerun_state: job.rerun.map(RerunState::as_str),
            force_on_demand: job.force_on_demand,
            startup_seconds: timeline::startup_ms(job).map(|ms| ms as f64 / 1000.0),
            source: job.origin().map(Origin::as_str),
            html_url: html_url.map(|(m, run)| {
                format!("{}/{}/actions/runs/{run}/job/{}", server_url.trim_end_matches('/'), m.repo, job.id)
            }),
        }
    }
}

/// Since it started, else since this generation began. Clocks that disagree leave it out.
fn elapsed(job: &Job, now: Timestamp) -> Option<Duration> {
    let from = job.started_at.unwrap_or(job.created_at);
    (!job.state.is_settled() && from <= now).then(|| since(now, from))
}

/// Whether an unfinished job has been at it for long.
pub(super) fn stalled(job: &Job, now: Timestamp) -> Option<bool> {
    elapsed(job, now).map(|elapsed| elapsed >= STALLED)
}
