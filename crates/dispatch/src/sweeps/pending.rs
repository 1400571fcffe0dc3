//! Wake-ups that were lost, and leases whose holder died.

use std::time::Duration;

use db::Outcome;
use domain::gh;
use domain::job::{Event, Job, JobState};
use github::client::Priority;

use super::Swept;
use crate::context::{Dispatch, Error};

/// Wake-ups one run sends, so that a long outage does not flood the queue.
const BATCH: usize = 200;
/// Every so many re-sends of one job GitHub is asked whether it still wants it.
const ASK_EVERY: u32 = 5;
/// How long that may take.
const ASK: Duration = Duration::from_secs(3);

impl Dispatch {
    /// Sends the wake-up of every pending job whose time has come, oldest first.
    pub(super) async fn outbox(&self) -> Result<Swept, Error> {
        let now = self.now();
        let pending = self.ports.jobs.by_state(JobState::Requeued, None, None).await?;
        self.ports.metrics.pending_jobs(Some(pending.len() as f64));
        let oldest = pending.iter().map(|j| j.queued_at).min();
        self.ports.metrics.oldest_pending(Some(oldest.map_or(0.0, |at| domain::clock::since(now, at).as_secs_f64())));
        let mut swept = Swept::default();
        for job in pending.iter().filter(|job| job.redrive_at.is_none_or(|at| at <= now)).take(BATCH) {
            swept.count(&self.resend(job).await);
        }
        Ok(swept)
    }

    async fn resend(&self, job: &Job) -> Result<bool, Error> {
        if job.dispatch_seq % ASK_EVERY == ASK_EVERY - 1 {
            // A GitHub that does not answer must not hold up the wake-ups of everybody else.
            let asked = tokio::time::timeout(ASK, self.observe(job, Priority::Sweep)).await;
            let github = asked.map_or(Ok(gh::Status::Unknown), |answer| answer.map(|(status, _)| status))?;
            if github.is_over() {
                let raised = self
                    .raise(
                        job.id,
                        |job, cx| Event::OrphanCheck {
                            github,
                            instance_gone: false,
                            lease_expired: job.lease_expired(cx.now),
                            deadline_passed: false,
                            displacements_left: job.displacements_left(),
                        },
                        |_| {},
                    )
                    .await?;
                return Ok(raised.moved());
            }
        }
        self.redrive(job, |job| job.state == JobState::Requeued).await
    }

    /// Wakes jobs whose lease died some time ago: the claim does the rest.
    pub(super) async fn dead_leases(&self) -> Result<Swept, Error> {
        let now = self.now();
        let mut swept = Swept::default();
        for state in [JobState::Claiming, JobState::Launched] {
            for job in self.ports.jobs.by_state(state, None, None).await? {
                let unfinished = |job: &Job| {
                    job.lease.is_some() && job.prepared_at.is_none() && job.lease_expired(now) && job.state == state
                };
                if unfinished(&job) && job.redrive_at.is_some_and(|at| at <= now) {
                    swept.count(&self.redrive(&job, unfinished).await);
                }
            }
        }
        Ok(swept)
    }

    /// Wins the right to send, then sends. Of any number of replicas one wins per due time.
    async fn redrive(&self, listed: &Job, still: impl Fn(&Job) -> bool) -> Result<bool, Error> {
        let now = self.now();
        let Some(job) = self.ports.jobs.get(listed.id).await? else { return Ok(false) };
        if !still(&job) || job.redrive_at.is_some_and(|at| at > now) {
            return Ok(false);
        }
        match self.ports.jobs.write(&job, job.redriven(&self.cx())).await? {
            Outcome::Applied(job) => Ok(self.wake(&job).await),
            Outcome::Lost => Ok(false),
        }
    }
}
