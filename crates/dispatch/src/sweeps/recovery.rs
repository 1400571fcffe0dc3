//! Jobs whose machine we lost while GitHub ran them, and the re-run that makes up for it.
//!
//! GitHub concludes such a job by itself (median half a minute, slow tail minutes). Only then can it be re-run, and
//! only once no other job of the run is running. The re-run arrives as a new job under a new id; a marker makes it
//! start on-demand. `rerun` on the record makes it happen once, whatever dies in between: an accepted call whose answer
//! was lost is recognised by the run's higher attempt.

use std::time::Duration;

use db::Outcome;
use domain::clock;
use domain::gh::{self, Conclusion};
use domain::job::{Event, Job, JobState, RerunState, Settled};
use github::client::{Priority, Rerun, RunJob};
use telemetry::metrics::RerunResult;
use tracing::{debug, error, info, warn};

use super::Swept;
use crate::context::{Dispatch, Error};

/// Records are asked about for this long after they were settled: a little more than a re-run is tried for.
const LOOK_BACK: Duration = Duration::from_secs(26 * 3600);

impl Dispatch {
    /// Condemned jobs, then pending re-runs.
    pub(super) async fn recovery(&self) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        for job in self.ports.jobs.by_state(JobState::Terminating, None, None).await? {
            swept.count(&self.recover(&job).await);
        }
        let now = self.now();
        for job in self.ports.jobs.by_state(JobState::Settled(Settled::Interrupted), None, None).await? {
            let age = job.completed_at.map_or(Duration::MAX, |at| clock::since(now, at));
            if job.rerun == Some(RerunState::Pending) && age < LOOK_BACK && self.rerun_is_due(&job, age) {
                swept.count(&self.rerun(&job, age).await);
            }
        }
        Ok(swept)
    }

    async fn recover(&self, job: &Job) -> Result<bool, Error> {
        let github = self.ask(job, Priority::Sweep).await?;
        let raised = self
            .raise(
                job.id,
                |job, cx| Event::RecoveryCheck { github, age_exceeded: job.redrive_at.is_none_or(|at| at <= cx.now) },
                |_| {},
            )
            .await?;
        if raised.moved() && matches!(github, gh::Status::InProgress | gh::Status::Unknown) {
            error!(
                job_id = job.id.get(),
                github = github.as_str(),
                "GitHub has not concluded a job whose machine is gone; its re-run waits for that"
            );
        }
        Ok(raised.moved())
    }

    /// At once, then about every `rerun_retry`: the sweep itself runs more often.
    fn rerun_is_due(&self, _job: &Job, age: Duration) -> bool {
        let (retry, period) = (self.settings.timings.rerun_retry, self.settings.timings.every.recovery);
        age < period * 2 || age.as_millis() % retry.as_millis().max(1) < period.as_millis().max(1)
    }

    async fn rerun(&self, job: &Job, age: Duration) -> Result<bool, Error> {
        let Some(message) = &job.message else { return self.set_rerun(job, RerunState::Refused).await };
        if age > self.settings.timings.rerun_give_up {
            error!(job_id = job.id.get(), "GitHub accepted no re-run of a lost job within a day");
            return self.set_rerun(job, RerunState::Expired).await;
        }
        let Some(run) = message.run_id else { return self.set_rerun(job, RerunState::Refused).await };
        match self.ask(job, Priority::Sweep).await? {
            gh::Status::Completed(Conclusion::Failure) => {}
            gh::Status::Completed(_) | gh::Status::Missing => return self.set_rerun(job, RerunState::Refused).await,
            gh::Status::Queued | gh::Status::InProgress | gh::Status::Unknown => return Ok(false),
        }
        // An accepted call whose answer was lost, and whose re-run may even be over by now. The run's higher attempt
        // alone does not say so: another lost job of the same run may have been re-run before this one.
        let again = self.ports.github.run(&message.repo, run).await?;
        if again.is_some_and(|r| r.run_attempt > message.run_attempt) {
            let jobs = self.ports.github.jobs_of_run(&message.repo, run).await?;
            let ours = |j: &RunJob| j.name == message.job_name && j.view.run_attempt > message.run_attempt;
            if jobs.iter().any(ours) {
                return self.set_rerun(job, RerunState::Done).await;
            }
        }
        // Before the call: the re-run's webhook may be faster than our answer.
        self.ports.markers.ask_rerun(run, &message.job_name, message.run_attempt).await?;
        match self.ports.github.rerun_job(&message.repo, job.id).await? {
            Rerun::Accepted => {
                info!(job_id = job.id.get(), run_id = run.get(), "GitHub re-runs a job whose machine we lost");
                self.set_rerun(job, RerunState::Done).await
            }
            Rerun::RunStillGoing => {
                debug!(job_id = job.id.get(), "other jobs of the run are still running; the re-run waits");
                Ok(false)
            }
            Rerun::Refused(reason) => {
                warn!(job_id = job.id.get(), reason, "GitHub refused to re-run a lost job");
                self.set_rerun(job, RerunState::Refused).await
            }
        }
    }

    async fn set_rerun(&self, listed: &Job, to: RerunState) -> Result<bool, Error> {
        let Some(job) = self.ports.jobs.get(listed.id).await? else { return Ok(false) };
        if job.rerun != Some(RerunState::Pending) {
            return Ok(false);
        }
        let new = Job { rerun: Some(to), ..job.clone() };
        let written = matches!(self.ports.jobs.write(&job, new).await?, Outcome::Applied(_));
        if written {
            self.ports.metrics.job_reruns(match to {
                RerunState::Done => RerunResult::Done,
                RerunState::Expired => RerunResult::Expired,
                RerunState::Refused | RerunState::Pending => RerunResult::Refused,
            });
        }
        Ok(written)
    }
}
