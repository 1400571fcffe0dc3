//! What happened so far, in numbers, and the state of single jobs and runners for reports.

use domain::clock::Timestamp;
use domain::gh::Conclusion;
use domain::ids::{JobId, Repo, RunId, RunnerId};
use serde::Serialize;

use super::Model;
use super::records::{Job, Status};

/// Totals since the start, except where marked "now". A *submitted* job is what a workflow asked for; its re-runs
/// are further attempts at it, under ids of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Runs started.
    pub runs: u64,
    /// Jobs asked for, re-runs not counted.
    pub submitted: u64,
    /// Now: attempts waiting for a runner.
    pub queued: u64,
    /// Now: attempts on a runner.
    pub in_progress: u64,
    /// Now: submitted jobs whose latest attempt is concluded. `submitted - settled` are still open.
    pub settled: u64,
    /// Attempts concluded `success`.
    pub success: u64,
    /// Attempts concluded `failure`.
    pub failure: u64,
    /// Attempts concluded `cancelled`.
    pub cancelled: u64,
    /// Attempts concluded otherwise.
    pub other: u64,
    /// Attempts that were repeated.
    pub rerun: u64,
    /// Attempts that failed because GitHub lost their runner.
    pub runner_lost: u64,
    /// Now: first attempts that failed because GitHub lost their runner and that nobody has re-run.
    pub awaiting_rerun: u64,
    /// Attempts concluded without ever having had a runner.
    pub never_run: u64,
    /// Attempts served by a runner whose name says that it was minted for another job.
    pub stolen: u64,
    /// Runners registered.
    pub registered: u64,
    /// Webhook attempts answered 2xx.
    pub webhooks_delivered: u64,
    /// Webhook attempts that failed or were dropped.
    pub webhooks_failed: u64,
    /// Deliveries asked for again.
    pub redeliveries: u64,
}

impl Counters {
    /// Submitted jobs that are not concluded now.
    pub const fn unsettled(&self) -> u64 {
        self.submitted - self.settled
    }

    pub(super) fn concluded(&mut self, conclusion: Conclusion, had_runner: bool, runner_lost: bool, attempt: u32) {
        match conclusion {
            Conclusion::Success => self.success += 1,
            Conclusion::Failure => self.failure += 1,
            Conclusion::Cancelled => self.cancelled += 1,
            Conclusion::Other => self.other += 1,
        }
        self.settled += 1;
        self.never_run += u64::from(!had_runner);
        self.runner_lost += u64::from(runner_lost);
        self.awaiting_rerun += u64::from(runner_lost && attempt == 1);
    }

    pub(super) fn rerun(&mut self, awaited: bool) {
        self.rerun += 1;
        self.settled -= 1;
        self.awaiting_rerun -= u64::from(awaited);
    }

    pub(super) fn delivered(&mut self, status_code: u16) {
        if (200..300).contains(&status_code) {
            self.webhooks_delivered += 1;
        } else {
            self.webhooks_failed += 1;
        }
    }
}

/// One attempt at a job.
#[derive(Debug, Clone, Serialize)]
pub struct JobReport {
    /// Its id.
    pub id: JobId,
    /// Its run.
    pub run: RunId,
    /// 1, or more for a re-run.
    pub attempt: u32,
    /// Its name.
    pub name: String,
    /// `runs-on`.
    pub labels: Vec<String>,
    /// When it was queued.
    pub queued_at: Timestamp,
    /// When a runner got it.
    pub started_at: Option<Timestamp>,
    /// When it was concluded.
    pub completed_at: Option<Timestamp>,
    /// GitHub's word for how.
    pub conclusion: Option<&'static str>,
    /// Who had it.
    pub runner_id: Option<RunnerId>,
    /// Who had it.
    pub runner_name: Option<String>,
    /// When that runner's process began, epoch milliseconds.
    pub runner_process_started_ms: Option<u64>,
}

/// A registration.
#[derive(Debug, Clone, Serialize)]
pub struct RunnerReport {
    /// Its id.
    pub id: RunnerId,
    /// Its name.
    pub name: String,
    /// Whether its listener is connected.
    pub online: bool,
    /// The job it has.
    pub job: Option<JobId>,
    /// The listener's process, once it connected.
    pub pid: Option<u32>,
}

impl Model {
    /// The totals.
    pub fn counters(&self) -> Counters {
        let queued = self.queued.len() as u64;
        Counters { queued, in_progress: self.open.len() as u64 - queued, ..self.counters }
    }

    /// Every attempt still remembered, oldest first.
    pub fn job_reports(&self) -> Vec<JobReport> {
        self.jobs.values().map(report).collect()
    }

    /// Every runner, oldest first.
    pub fn runner_reports(&self) -> Vec<RunnerReport> {
        let report = |r: &super::Runner| RunnerReport {
            id: r.id,
            name: r.name.clone(),
            online: r.session.is_some(),
            job: r.job.map(|(id, _)| id),
            pid: r.session.as_ref().and_then(|s| s.pid),
        };
        self.runners.values().map(report).collect()
    }

    /// One attempt, if it is remembered.
    pub fn job_report(&self, id: JobId) -> Option<JobReport> {
        self.jobs.get(&id).map(report)
    }

    /// The repository of a job that is remembered.
    pub fn repo_of(&self, id: JobId) -> Option<&Repo> {
        Some(&self.runs.get(&self.jobs.get(&id)?.run)?.repo)
    }

    /// Where a job stands, if it is remembered.
    pub fn job_status(&self, id: JobId) -> Option<Status> {
        self.jobs.get(&id).map(Job::status)
    }
}

fn report(job: &Job) -> JobReport {
    let (served, ended) = (job.served.as_ref(), job.ended.as_ref());
    JobReport {
        id: job.id,
        run: job.run,
        attempt: job.attempt,
        name: job.name.clone(),
        labels: job.labels.clone(),
        queued_at: job.created_at,
        started_at: served.map(|s| s.at),
        completed_at: ended.map(|e| e.at),
        conclusion: ended.map(|e| e.conclusion.as_str()),
        runner_id: served.map(|s| s.id),
        runner_name: served.map(|s| s.name.clone()),
        runner_process_started_ms: served.and_then(|s| s.process_started_ms),
    }
}
