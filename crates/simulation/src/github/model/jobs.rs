//! Runs and their jobs: submitting, concluding, re-running, cancelling, forgetting.

use std::time::Duration;

use domain::clock::{Timestamp, after};
use domain::gh::Conclusion;
use domain::ids::{JobId, Repo, RunId};

use super::records::{Ended, Job, Run, Status};
use super::{FINISHED_RUNS, Model, News, Refusal};

/// A job somebody's workflow asks for.
#[derive(Debug, Clone)]
pub struct JobSpec {
    /// Its name in the run.
    pub name: String,
    /// `runs-on`.
    pub labels: Vec<String>,
    /// How long its steps take.
    pub duration: Duration,
    /// How it ends when nothing comes in between.
    pub outcome: Conclusion,
}

/// Which runs a list holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunFilter {
    /// All of them.
    All,
    /// Those with this status.
    Status(Status),
    /// Complete ones with this conclusion.
    Conclusion(Conclusion),
}

impl Model {
    /// A workflow starts: one run with these jobs, all queued.
    ///
    /// # Errors
    /// `NotFound` without the repository; `Unprocessable` without a job.
    pub fn submit_run(
        &mut self,
        repo: &Repo,
        jobs: Vec<JobSpec>,
        now: Timestamp,
    ) -> Result<(RunId, Vec<JobId>), Refusal> {
        let repo = self.repository(repo)?.repo.clone();
        if jobs.is_empty() {
            return Err(Refusal::Unprocessable("a run needs at least one job"));
        }
        let run = RunId::new(self.next_id()).ok_or(Refusal::Unprocessable("ids exhausted"))?;
        let number = self.counters.runs + 1;
        self.counters.runs = number;
        let (latest, earlier) = (Vec::new(), Vec::new());
        let record =
            Run { id: run, repo: repo.clone(), number, attempt: 1, created_at: now, updated_at: now, latest, earlier };
        self.runs.insert(run, record);
        self.active.entry(repo.clone()).or_default().insert(run);
        let mut ids = Vec::with_capacity(jobs.len());
        for spec in jobs {
            ids.push(self.add_job(run, 1, spec, now)?);
            self.counters.submitted += 1;
        }
        if let Some(record) = self.runs.get_mut(&run) {
            record.latest.clone_from(&ids);
        }
        for id in &ids {
            self.emit_job(*id);
        }
        self.assign(&repo, now);
        Ok((run, ids))
    }

    /// `POST …/actions/jobs/{id}/rerun`.
    ///
    /// # Errors
    /// `NotFound`; `Forbidden` while the run is not complete, or for a job that a later attempt replaced.
    pub fn rerun_job(&mut self, repo: &Repo, id: JobId, now: Timestamp) -> Result<(), Refusal> {
        let run = self.job_in(repo, id)?.run;
        if self.run_status(run) != Some(Status::Completed) {
            return Err(Refusal::Forbidden("The workflow run containing this job is already running"));
        }
        if !self.runs.get(&run).is_some_and(|r| r.latest.contains(&id)) {
            return Err(Refusal::Forbidden("This job was replaced by a later attempt and cannot be re-run"));
        }
        self.start_attempt(run, &[id], now)
    }

    /// `POST …/actions/runs/{id}/rerun`: every job again.
    ///
    /// # Errors
    /// `NotFound`; `Forbidden` while the run is not complete.
    pub fn rerun_run(&mut self, repo: &Repo, id: RunId, now: Timestamp) -> Result<(), Refusal> {
        let jobs = self.run_in(repo, id)?.latest.clone();
        if self.run_status(id) != Some(Status::Completed) {
            return Err(Refusal::Forbidden("This workflow run is already running"));
        }
        self.start_attempt(id, &jobs, now)
    }

    /// `POST …/actions/runs/{id}/cancel`: queued jobs end at once, running ones when their runner heard of it.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` for a complete run.
    pub fn cancel_run(&mut self, repo: &Repo, id: RunId, now: Timestamp) -> Result<(), Refusal> {
        let jobs = self.run_in(repo, id)?.latest.clone();
        if self.run_status(id) == Some(Status::Completed) {
            return Err(Refusal::Conflict("Cannot cancel a workflow run that is completed."));
        }
        for id in jobs {
            if let Some(served) = self.jobs.get(&id).and_then(|job| job.served.as_ref()) {
                self.wake(served.id);
            }
            match self.jobs.get_mut(&id) {
                Some(job) if job.status() == Status::InProgress => job.cancel_requested = true,
                Some(job) if job.status() == Status::Queued => self.conclude(id, Conclusion::Cancelled, false, now),
                _ => {}
            }
        }
        self.changed();
        Ok(())
    }

    pub(super) fn job_in(&self, repo: &Repo, id: JobId) -> Result<&Job, Refusal> {
        let job = self.jobs.get(&id).ok_or(Refusal::NotFound)?;
        self.run_in(repo, job.run).map(|_| job)
    }

    pub(super) fn run_in(&self, repo: &Repo, id: RunId) -> Result<&Run, Refusal> {
        let run = self.runs.get(&id).ok_or(Refusal::NotFound)?;
        if run.repo.as_str().eq_ignore_ascii_case(repo.as_str()) { Ok(run) } else { Err(Refusal::NotFound) }
    }

    pub(super) fn run_status(&self, id: RunId) -> Option<Status> {
        let run = self.runs.get(&id)?;
        let mut statuses = run.latest.iter().filter_map(|id| self.jobs.get(id)).map(Job::status);
        let first = statuses.next()?;
        Some(if statuses.all(|s| s == first) { first } else { Status::InProgress })
    }

    pub(super) fn run_conclusion(&self, id: RunId) -> Option<Conclusion> {
        if self.run_status(id)? != Status::Completed {
            return None;
        }
        let latest = &self.runs.get(&id)?.latest;
        let ends = || latest.iter().filter_map(|id| self.jobs.get(id)?.ended.as_ref()).map(|e| e.conclusion);
        let worst = [Conclusion::Failure, Conclusion::Cancelled, Conclusion::Other];
        Some(worst.into_iter().find(|w| ends().any(|c| c == *w)).unwrap_or(Conclusion::Success))
    }

    /// The end of a job, whatever the cause; also the end of its runner's registration.
    pub(super) fn conclude(&mut self, id: JobId, conclusion: Conclusion, runner_lost: bool, now: Timestamp) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        debug_assert!(job.ended.is_none(), "a job is concluded once");
        job.ended = Some(Ended { conclusion, at: now, runner_lost });
        let (run, runner, attempt) = (job.run, job.served.as_ref().map(|s| s.id), job.attempt);
        self.open.remove(&id);
        let repo = self.runs.get(&run).map(|run| run.repo.clone());
        if let Some(repo) = &repo {
            self.no_longer_waits(repo, id);
        }
        self.tell(News::Concluded(id, conclusion, runner_lost));
        self.counters.concluded(conclusion, runner.is_some(), runner_lost, attempt);
        if let Some(runner) = runner {
            self.finish_runner(runner, now);
        }
        if let Some(record) = self.runs.get_mut(&run) {
            record.updated_at = now;
        }
        self.emit_job(id);
        if self.run_status(run) == Some(Status::Completed) {
            if let Some(repo) = &repo {
                super::take_out(&mut self.active, repo, &run);
            }
            self.finished.push_back(run);
            self.forget_old_runs();
        }
    }

    pub(super) fn expire_jobs(&mut self, now: Timestamp) {
        let limit = self.settings.queue_limit;
        let old = |id: &&JobId| self.jobs.get(id).is_some_and(|j| after(j.created_at, limit) <= now);
        for id in self.queued.iter().take_while(old).copied().collect::<Vec<_>>() {
            self.conclude(id, Conclusion::Failure, false, now);
        }
    }

    pub(super) fn jobs_due(&self) -> Option<Timestamp> {
        let oldest = self.jobs.get(self.queued.first()?)?;
        Some(after(oldest.created_at, self.settings.queue_limit))
    }

    fn start_attempt(&mut self, run: RunId, replaced: &[JobId], now: Timestamp) -> Result<(), Refusal> {
        let record = self.runs.get_mut(&run).ok_or(Refusal::NotFound)?;
        record.attempt += 1;
        record.updated_at = now;
        let (attempt, repo) = (record.attempt, record.repo.clone());
        self.active.entry(repo.clone()).or_default().insert(run);
        let mut fresh = Vec::with_capacity(replaced.len());
        for &old in replaced {
            let job = self.jobs.get(&old).ok_or(Refusal::NotFound)?;
            let lost = job.attempt == 1 && job.ended.as_ref().is_some_and(|e| e.runner_lost);
            let (name, labels) = (job.name.clone(), job.labels.clone());
            let spec = JobSpec { name, labels, duration: job.duration, outcome: job.outcome };
            let new = self.add_job(run, attempt, spec, now)?;
            self.counters.rerun(lost);
            if let Some(record) = self.runs.get_mut(&run) {
                record.latest.iter_mut().filter(|id| **id == old).for_each(|id| *id = new);
                record.earlier.push(old);
            }
            fresh.push(new);
        }
        for id in fresh {
            self.emit_job(id);
        }
        self.assign(&repo, now);
        Ok(())
    }

    fn add_job(&mut self, run: RunId, attempt: u32, spec: JobSpec, now: Timestamp) -> Result<JobId, Refusal> {
        let id = JobId::new(self.next_id()).ok_or(Refusal::Unprocessable("ids exhausted"))?;
        let JobSpec { name, labels, duration, outcome } = spec;
        let (served, ended, cancel_requested, created_at) = (None, None, false, now);
        let needs = labels.iter().map(|label| label.to_lowercase()).collect();
        let job = Job {
            id,
            run,
            attempt,
            name,
            labels,
            needs,
            duration,
            outcome,
            created_at,
            served,
            ended,
            cancel_requested,
        };
        self.jobs.insert(id, job);
        self.open.insert(id);
        if let Some(run) = self.runs.get(&run) {
            self.waiting.entry(run.repo.clone()).or_default().insert(id);
            self.queued.insert(id);
        }
        self.tell(News::Queued(id));
        Ok(id)
    }

    fn forget_old_runs(&mut self) {
        while self.finished.len() > FINISHED_RUNS {
            let Some(id) = self.finished.pop_front() else { return };
            // A run re-run meanwhile is queued again for forgetting when it completes.
            if self.run_status(id) == Some(Status::Completed)
                && let Some(run) = self.runs.remove(&id)
            {
                for job in run.latest.iter().chain(&run.earlier) {
                    self.jobs.remove(job);
                }
            }
        }
    }
}
