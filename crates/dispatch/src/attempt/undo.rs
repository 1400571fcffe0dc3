//! What follows from a failed attempt: what it holds is undone, and the record says what comes next.

use std::time::Duration;

use domain::clock::{self, Timestamp};
use domain::ids::RunnerKey;
use domain::job::apply::Context;
use domain::job::{Event, FailureClass, Job};
use domain::runner::RunnerState;
use queue::Disposition;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::warm::Unwound;
use super::{Attempt, Failure, keep_for};
use crate::context::{Dispatch, Error};
use crate::records::{Raised, truncate};
use crate::retire::Retired;

impl Dispatch {
    /// Undoes what the attempt holds and writes what follows from the failure.
    pub(super) async fn compensate(&self, attempt: &mut Attempt, failure: Failure) -> Result<Disposition, Error> {
        let timings = &self.settings.timings;
        let job_id = attempt.job.id.get();
        let failure = match failure {
            // No reason to give up on the job, whatever the provider calls it.
            Failure::NotStarted(error) => Failure::transient(&error),
            other => other,
        };
        match failure {
            Failure::Unknown(error) => {
                warn!(job_id, %error, "the attempt cannot go on; its lease brings the job back");
                Ok(keep_for(timings.heartbeat))
            }
            Failure::Fenced | Failure::Taken | Failure::NotStarted(_) => {
                info!(job_id, "somebody else owns the job now");
                self.return_spare(attempt).await?;
                Ok(keep_for(timings.send_pause))
            }
            Failure::Draining => {
                info!(job_id, "given back: the process is to end");
                let ours = |job: &Job, _: &Context<'_>| Event::Abandon { token_matches: job.fenced_by(&attempt.token) };
                match self.raise(attempt.job.id, ours, |_| {}).await? {
                    Raised::Moved { woken: true, .. } => Ok(Disposition::Ack),
                    _ => Ok(keep_for(Duration::ZERO)),
                }
            }
            Failure::Failed { class, until, error } => {
                warn!(job_id, ?class, error, "the attempt failed");
                // Behind a lost lease the machine is another attempt's; and it may have a job by now.
                if !self.holds(attempt).await? {
                    if attempt.spare.is_some() {
                        self.return_spare(attempt).await?;
                        return Ok(keep_for(timings.send_pause));
                    }
                    match attempt.machine.as_ref().filter(|_| !attempt.handed_over) {
                        Some(machine) => self.undo_if_nobodys(&machine.key).await,
                        None => {
                            let soon = Instant::now() + timings.cleanup;
                            self.wake_another(attempt.job.class.clone(), soon).await;
                        }
                    }
                    return Ok(keep_for(timings.send_pause));
                }
                if self.unwind(attempt).await? == Unwound::Kept {
                    return Ok(keep_for(timings.heartbeat));
                }
                if let Some(machine) = &attempt.machine {
                    if !attempt.handed_over {
                        self.undo_machine(&machine.key).await;
                    } else if self.retire(&machine.key).await? != Retired::Ended {
                        return Ok(keep_for(timings.heartbeat));
                    }
                }
                // The follow-up stands behind the ack: as long as it was not sent, the message stays.
                match self.fail(attempt, class, until, &error).await? {
                    Raised::Moved { woken: false, .. } => Ok(keep_for(timings.send_pause * 10)),
                    _ => Ok(Disposition::Ack),
                }
            }
        }
    }

    async fn fail(
        &self,
        attempt: &Attempt,
        class: FailureClass,
        until: Option<Timestamp>,
        error: &str,
    ) -> Result<Raised, Error> {
        // A rate limit names its own end; half a minute of spread keeps the herd apart.
        let spread = (self.settings.timings.back_off).mul_f64(self.ports.rng.unit());
        let until = until.map(|at| clock::after(clock::whole_seconds(at), spread));
        let facts = |job: &Job, cx: &Context<'_>| Event::DispatchFailed {
            token_matches: job.fenced_by(&attempt.token),
            deadline_passed: job.deadline_passed(cx.now, cx.timings),
            class,
            strikes_left: job.strikes_left(),
            can_fall_back: job.retries_left()
                && !job.force_on_demand
                && job.message.as_ref().is_some_and(|m| m.spec.spot),
        };
        let last_error = telemetry::redact(&truncate(error, 1024));
        let amend = |job: &mut Job| {
            job.last_error = Some(last_error.clone());
            if attempt.answered {
                // What it brought is bound or undone; other jobs' machines of that launch are not to be adopted.
                job.launch_id = None;
            }
        };
        self.raise_until(attempt.job.id, until, facts, amend).await
    }

    /// Ends a bound machine that got no hand-over from us, unless a job waits on it or runs there: another attempt has
    /// it then, or another job.
    pub(super) async fn undo_if_nobodys(&self, key: &RunnerKey) {
        let Ok(Some(row)) = self.ports.runners.get(key).await else { return };
        let waits = match row.bound_job {
            Some(id) => self.ports.jobs.get(id).await.map(|job| job.is_some_and(|job| job.is_on(key))),
            None => Ok(false),
        };
        if row.state == RunnerState::Minting && row.running_job.is_none() && matches!(waits, Ok(false)) {
            self.undo_machine(key).await;
        }
    }

    /// Ends a machine of ours whose job goes back: hand-over, registration, row, machine. All best effort and
    /// repeatable; whatever is left is swept.
    async fn undo_machine(&self, key: &RunnerKey) {
        if let Err(error) = self.ports.hand_over.delete(key).await {
            debug!(instance_id = key.as_str(), %error, "the hand-over was not deleted");
        }
        match self.end_runner(key, RunnerState::Gone).await {
            Ok(Some(row)) => {
                self.deregister(&row).await;
            }
            Ok(None) => {}
            Err(error) => debug!(instance_id = key.as_str(), %error, "the runner's row was not ended"),
        }
        self.end_machine(key, "failed_attempt").await;
    }

    /// Ends a machine for good; the surplus sweep stands behind it.
    pub(crate) async fn end_machine(&self, key: &RunnerKey, cause: &'static str) {
        match self.ports.compute.terminate(key).await {
            Ok(()) => self.ports.metrics.surplus_instances_terminated(cause),
            Err(error) => warn!(instance_id = key.as_str(), %error, "the machine was not ended; the sweep tries again"),
        }
    }
}
