//! What follows from a failed attempt: what it holds is undone, and the record says what comes next.

use std::time::Duration;

use db::Outcome;
use domain::clock::{self, Timestamp};
use domain::ids::{DispatchId, JobId, Repo, RunnerKey};
use domain::job::apply::Context;
use domain::job::{Event, FailureClass, Job};
use domain::runner::{Runner, RunnerState};
use github::labels;
use provider::compute::Machine;
use provider::tags;
use queue::Disposition;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::warm::Unwound;
use super::{Attempt, Failure, keep_for};
use crate::context::{Dispatch, Error, News};
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
                        Some(machine) => self.undo_machine(machine, None).await,
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
                        self.undo_machine(machine, Some(attempt.job.id)).await;
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

    /// Ends a machine that got no hand-over from us, unless another attempt or another job has it. `holder` is the job
    /// whose attempt still has its lease, and nothing else; without one, a machine without a row is left alone too.
    ///
    /// An attempt that stood still for a while may come here with a machine that was found, bound and put to work by
    /// others meanwhile: the row decides, and is ended only as it was read. What is left is swept.
    pub(super) async fn undo_machine(&self, machine: &Machine, holder: Option<JobId>) {
        let key = &machine.key;
        match self.ports.runners.get(key).await {
            Ok(Some(row)) => match self.end_idle_row(row, holder).await {
                Ok(Some(row)) => {
                    if let Err(error) = self.ports.hand_over.delete(key).await {
                        debug!(instance_id = key.as_str(), %error, "the hand-over was not deleted");
                    }
                    self.deregister(&row).await;
                }
                Ok(None) => return,
                Err(error) => return debug!(instance_id = key.as_str(), %error, "the runner's row was not ended"),
            },
            Ok(None) if holder.is_some() => return self.end_unbound(machine, "failed_attempt").await,
            Ok(None) => return,
            Err(error) => return debug!(instance_id = key.as_str(), %error, "the runner's row cannot be read"),
        }
        self.end_machine(key, "failed_attempt").await;
    }

    /// Ends a row that has no hand-over yet and that no job but `holder` waits for. `None`: it has, or it moved.
    async fn end_idle_row(&self, row: Runner, holder: Option<JobId>) -> Result<Option<Runner>, Error> {
        if row.state != RunnerState::Minting || row.running_job.is_some() || self.has_job_besides(&row, holder).await? {
            return Ok(None);
        }
        let mut ended = row.clone();
        ended.advance(RunnerState::Gone);
        ended.ttl = Some(Runner::keep_until(self.now(), self.settings.max_runtime));
        Ok(match self.ports.runners.write(Some(&row), ended).await? {
            Outcome::Applied(row) => {
                self.tell(News::Runner { key: row.key.clone(), state: row.state.as_str() });
                Some(row)
            }
            Outcome::Lost => None,
        })
    }

    /// Whether a job other than `this` waits for the runner, or has not moved on since it ended.
    pub(super) async fn has_job_besides(&self, row: &Runner, this: Option<JobId>) -> Result<bool, db::Error> {
        let Some(id) = row.bound_job.filter(|id| Some(*id) != this) else { return Ok(false) };
        Ok(self.ports.jobs.get(id).await?.is_some_and(|job| job.is_on(&row.key)))
    }

    /// Ends a machine that no job was bound to. Its row comes first, as one that is over: whoever would bind it at this very
    /// moment finds that row, or has written one before us.
    pub(crate) async fn end_unbound(&self, machine: &Machine, cause: &'static str) {
        // One without the tag of its repository was not launched for jobs, which then cannot find it either.
        if let Some(repo) = machine.tags.get(tags::ROLE).and_then(|repo| repo.parse::<Repo>().ok()) {
            let now = self.now();
            let (class, name) = (labels::class_key(&repo, &[]), machine.key.to_string());
            let dispatch = DispatchId::new(self.ports.rng.token());
            let row = Runner {
                state: RunnerState::Gone,
                ttl: Some(Runner::keep_until(now, self.settings.max_runtime)),
                ..Runner::new(machine.key.clone(), repo, class, name, dispatch, clock::whole_seconds(now))
            };
            match self.ports.runners.write(None, row).await {
                Ok(Outcome::Applied(_)) => {}
                Ok(Outcome::Lost) => return,
                // The sweep tries again.
                Err(error) => return debug!(instance_id = machine.key.as_str(), %error, "the machine was not ended"),
            }
        }
        self.end_machine(&machine.key, cause).await;
    }

    /// Ends a machine for good; the surplus sweep stands behind it.
    pub(crate) async fn end_machine(&self, key: &RunnerKey, cause: &'static str) {
        match self.ports.compute.terminate(key).await {
            Ok(()) => self.ports.metrics.surplus_instances_terminated(cause),
            Err(error) => warn!(instance_id = key.as_str(), %error, "the machine was not ended; the sweep tries again"),
        }
    }
}
