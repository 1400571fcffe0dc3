//! The hand-over document of one assignment.

use domain::clock::Timestamp;
use domain::handover::HandOver;
use domain::ids::{DispatchId, JobId, Repo, RunId, RunnerKey};

use super::{Mint, Minted};

/// What every hand-over of this deployment says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// Runner group's name; empty for the default one.
    pub runner_group: String,
    /// Runtime ceiling, minutes.
    pub max_runtime_minutes: u32,
    /// How long a listener may wait for a job, seconds.
    pub idle_exit_seconds: u32,
    /// Web base URL of GitHub.
    pub server_url: String,
    /// Where reports go.
    pub termination_queue_url: String,
}

/// Which machine is to serve which job.
#[derive(Debug, Clone, Copy)]
pub struct Assignment<'a> {
    /// Where the runner is registered.
    pub repo: &'a Repo,
    /// The workflow run, when known.
    pub run: Option<RunId>,
    /// The job it is minted for. Informative: GitHub may give it another.
    pub job: JobId,
    /// The labels it is registered with.
    pub labels: &'a [String],
    /// The machine.
    pub key: &'a RunnerKey,
    /// This assignment's id, as on the runner record.
    pub dispatch: &'a DispatchId,
    /// Now.
    pub written_at: Timestamp,
}

/// The document: exactly one credential. Cache and report credentials are the caller's to add.
pub fn hand_over(assignment: &Assignment<'_>, mint: Mint, settings: &Settings) -> HandOver {
    let mut document = HandOver {
        org: assignment.repo.owner().to_owned(),
        repo: assignment.repo.as_str().to_owned(),
        run_id: assignment.run.map(|run| run.to_string()).unwrap_or_default(),
        labels: assignment.labels.to_vec(),
        runner_group: settings.runner_group.clone(),
        runner_name: mint.name,
        job_id: assignment.job.to_string(),
        termination_queue_url: settings.termination_queue_url.clone(),
        created_at: Some(assignment.written_at),
        instance_id: assignment.key.as_str().to_owned(),
        dispatch_id: assignment.dispatch.as_str().to_owned(),
        server_url: settings.server_url.clone(),
        max_runtime_minutes: Some(settings.max_runtime_minutes),
        idle_exit_seconds: Some(settings.idle_exit_seconds),
        ..HandOver::default()
    };
    match mint.credential {
        Minted::Jit { config, .. } => document.jit_config = config,
        Minted::Token(token) => document.jit_token = token,
    }
    document
}
