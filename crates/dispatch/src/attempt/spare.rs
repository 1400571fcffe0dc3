//! What becomes of a machine whose job was lost: another job of its class gets it, else it ends.

use db::Outcome;
use domain::clock;
use domain::ids::ClassKey;
use domain::job::transition::RequeueReason;
use domain::job::{Job, JobState};
use provider::compute::Machine;
use tokio::time::Instant;
use tracing::{debug, info};

use super::claim::Claimed;
use super::steps::Steps;
use super::{Attempt, Failure};
use crate::context::{Dispatch, Error};

impl Dispatch {
    /// A machine that was never bound serves the oldest pending job of its class that may have it, else it ends.
    pub(crate) async fn give_away(&self, machine: Machine, class: Option<ClassKey>, deadline: Instant) {
        let key = machine.key.clone();
        // Unknown: the sweep decides.
        let unbound = async || matches!(self.ports.runners.get(&key).await, Ok(None));
        if !unbound().await {
            return self.undo_machine(&machine, None).await;
        }
        match tokio::time::timeout_at(deadline, self.serve_another(&machine, class, deadline)).await {
            Ok(Ok(true)) => return,
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => debug!(instance_id = key.as_str(), %error, "no other job could be given the machine"),
        }
        if unbound().await {
            self.end_unbound(&machine, "never_bound").await;
        }
    }

    /// The job was served elsewhere before anything was launched for it: whoever was robbed by that waits for us.
    pub(super) async fn wake_another(&self, class: Option<ClassKey>, deadline: Instant) {
        // Jobs whose wake-up was sent have a later due time; those left to a launch in flight are due within a moment.
        let soon = clock::after(self.now(), self.settings.timings.skew);
        let robbed = |job: &Job| {
            job.requeue_reason.as_deref() == Some(RequeueReason::RunnerStolen.as_str())
                && job.class == class
                && job.is_due(self.now())
                && job.redrive_at.is_some_and(|at| at <= soon)
        };
        let woken = tokio::time::timeout_at(deadline, async {
            for job in self.ports.jobs.by_state(JobState::Requeued, None, None).await?.iter().filter(|job| robbed(job))
            {
                if let Outcome::Applied(job) = self.ports.jobs.write(job, job.redriven(&self.cx())).await? {
                    self.wake(&job).await;
                    break;
                }
            }
            Ok::<(), Error>(())
        });
        if let Ok(Err(error)) = woken.await {
            debug!(%error, "no other job could be woken; the outbox does it");
        }
    }

    async fn serve_another(
        &self,
        machine: &Machine,
        class: Option<ClassKey>,
        deadline: Instant,
    ) -> Result<bool, Error> {
        let now = self.now();
        for job in self.ports.jobs.by_state(JobState::Requeued, None, None).await? {
            if job.class != class || !job.is_due(now) || (machine.spot && job.force_on_demand) {
                continue;
            }
            let Some(message) = job.next_message() else { continue };
            let Claimed::Work(claimed) = self.claim(&message, None).await? else { continue };
            if claimed.resume.is_some() {
                // It got a machine meanwhile; its own message finishes that.
                continue;
            }
            let mut attempt = Attempt::new(claimed.job, claimed.token, deadline, Steps::new());
            // It has waited, and may have ended meanwhile: nobody needs a machine for that.
            if self.must_ask_github(&attempt.job, claimed.existed) {
                match self.still_queued(&mut attempt).await {
                    Ok(true) => {}
                    Ok(false) | Err(Failure::Fenced) => continue,
                    Err(failure) => {
                        self.compensate(&mut attempt, failure).await?;
                        continue;
                    }
                }
            }
            attempt.machine = Some(machine.clone());
            let served = match self.bind_machine(&mut attempt, machine).await {
                Ok(runner) => self.prepare(&mut attempt, &runner).await,
                // Taken by somebody else at the last moment: the next one may have the machine.
                Err(Failure::Fenced) if self.ports.runners.get(&machine.key).await?.is_none() => continue,
                // The machine is another job's, and not ours to undo; this one waits for its own.
                Err(Failure::Taken) => {
                    attempt.machine = None;
                    Err(Failure::transient(&"another job took the machine"))
                }
                Err(failure) => Err(failure),
            };
            match served {
                Ok(_) => {
                    info!(job_id = attempt.job.id.get(), instance_id = machine.key.as_str(), "given a spare machine");
                }
                Err(failure) => {
                    self.compensate(&mut attempt, failure).await?;
                }
            }
            return Ok(true);
        }
        Ok(false)
    }
}
