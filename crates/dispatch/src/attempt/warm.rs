//! A machine of the job's pool.
//!
//! A spare waits for work: running, or stopped. It is claimed, bound, handed its work, and only then started, so that
//! whatever lets it act comes last, and nothing acts that no record knows. Should that fail, it is given back in this
//! order:
//!
//! 1. the job lets go of it, in a write that only the holder of the lease can make;
//! 2. its hand-over goes, and its registration; one whose hand-over cannot be deleted ends instead;
//! 3. it is stopped, when it was running or a start was asked for, loses the tags of the assignment, and is released,
//!    unless the stop failed: a machine that may be running is nobody's until its claim runs out;
//! 4. its runner's row ends. As long as it does not, nobody can bind the machine, whoever holds its claim.
//!
//! Races it survives:
//!
//! * *The process dies in between.* The claim keeps the machine from everybody but this job, which finds it again; a bound
//!   machine is finished by the next claim of the job, and a row that was left behind is ended by the sweep of runners.
//! * *The process stands still in between, and another attempt takes over.* That attempt holds the same claim. It either has
//!   the job, and then the first write above is refused and the machine left alone; or it finds the row, and leaves the
//!   machine alone itself.
//! * *The runner came up before its machine could be taken back.* Whatever may have read its hand-over is deregistered
//!   first; one that is up, or may be coming up, keeps its machine, and its job if it has one.
//! * *The job is over or served elsewhere.* Before the hand-over the spare goes back; afterwards its runner is surplus,
//!   serves another job of its class or goes idle, and ends with its machine.

use std::sync::Arc;
use std::time::Duration;

use domain::ids::{JobId, RunnerKey};
use domain::job::apply::Context;
use domain::job::{Event, Job};
use domain::message::JobMessage;
use domain::runner::{Runner, RunnerState};
use pools::{Spare, WarmPools};
use telemetry::metrics::PoolAssign;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Attempt, Failure, Start, Worked};
use crate::context::{Dispatch, Error};
use crate::records::{Raised, repo_of};
use crate::retire::{Disarmed, Retired};

/// Spares tried in one attempt.
const SPARES: usize = 3;
/// Bound on the tags of an assignment, which nothing depends on.
const TAGGING: Duration = Duration::from_secs(3);

impl Dispatch {
    /// Looks at the job's pool while the job is being claimed, so that its spares are known afterwards.
    pub(super) async fn look_at_pool(&self, message: &JobMessage) {
        if let (Some(pools), Some(pool)) = (self.ports.pools.as_deref(), &message.spec.pool) {
            pools.look(pool).await;
        }
    }

    /// Serves the job with a spare of its pool. `None`: there is none to be had.
    pub(super) async fn serve_from_pool(&self, attempt: &mut Attempt) -> Result<Option<Worked>, Failure> {
        let Some(pools) = self.ports.pools.as_deref() else { return Ok(None) };
        let Some(message) = attempt.job.next_message() else { return Ok(None) };
        let Some(pool) = &message.spec.pool else { return Ok(None) };
        let mut tried = Vec::new();
        while tried.len() < SPARES {
            if self.draining.is_cancelled() {
                return Err(Failure::Draining);
            }
            let spare = match pools.reserve(pool, attempt.job.id, &message.spec, &tried, attempt.deadline).await {
                Ok(Some(spare)) => spare,
                Ok(None) => break,
                Err(error) => {
                    warn!(job_id = attempt.job.id.get(), pool = pool.as_str(), %error, "the pool could not be asked for a spare");
                    break;
                }
            };
            attempt.steps.split("look", spare.looked, "reserve");
            tried.push(spare.machine.key.clone());
            // No batch need wait for it.
            attempt.approach = None;
            match self.assign(pools, attempt, spare).await {
                Ok(worked) => return Ok(Some(worked)),
                // Bound to another job: neither the machine nor its tags are ours to touch.
                Err(Failure::Taken) => attempt.forget_spare(),
                // The machine's own fault; any other would be met again on the next one.
                Err(Failure::NotStarted(error)) => {
                    warn!(job_id = attempt.job.id.get(), pool = pool.as_str(), %error, "a spare could not be started");
                    if self.unwind(attempt).await.map_err(Failure::Unknown)? != Unwound::Back {
                        return Err(Failure::NotStarted(error));
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        if tried.is_empty() {
            self.ports.metrics.pool_assign(Some(pool), PoolAssign::None);
        } else if attempt.deadline.duration_since(Instant::now()) < self.settings.timings.launch_least {
            return Err(Failure::transient(&"no spare could be started, and no time is left for a launch"));
        }
        Ok(None)
    }

    async fn assign(&self, pools: &WarmPools, attempt: &mut Attempt, spare: Spare) -> Result<Worked, Failure> {
        let machine = spare.machine.clone();
        let spare = Arc::new(spare);
        attempt.machine = Some(machine.clone());
        attempt.spare = Some(Arc::clone(&spare));
        let repo = repo_of(&attempt.job).cloned();
        let tagged = async {
            if tokio::time::timeout(TAGGING, pools.mark_assigned(&spare, repo.as_ref())).await.is_err() {
                debug!(job_id = spare.job.get(), "the tags of an assignment took too long");
            }
        };
        let worked = async {
            let runner = self.bind_machine(attempt, &machine).await?;
            self.prepare(attempt, &runner).await
        };
        let ((), worked) = tokio::join!(tagged, worked);
        worked
    }

    /// The spare is the job's, and ends with it.
    pub(super) fn keep_spare(&self, attempt: &mut Attempt) {
        let (Some(pools), Some(spare)) = (self.ports.pools.as_deref(), attempt.take_spare()) else { return };
        let result = if spare.was_running { PoolAssign::Hot } else { PoolAssign::Stopped };
        self.ports.metrics.pool_assign(Some(&spare.pool), result);
        pools.settled(spare);
    }

    /// Gives the attempt's spare back, if it has one, so that the job is free to have another machine.
    pub(super) async fn unwind(&self, attempt: &mut Attempt) -> Result<Unwound, Error> {
        let Some((key, was_running)) = attempt.spare.as_ref().map(|s| (s.machine.key.clone(), s.was_running)) else {
            return Ok(Unwound::Back);
        };
        let key = &key;
        let ours = self.holds(attempt).await?;
        let row = self.ports.runners.get(key).await?.filter(|row| row.state != RunnerState::Gone);
        let bound = row.as_ref().is_some_and(|row| row.bound_job == Some(attempt.job.id));
        if !ours || (row.is_some() && !bound) {
            // Another attempt's, or another job's. Neither the machine nor its claim is ours to touch.
            attempt.forget_spare();
            return Ok(Unwound::Back);
        }
        let may_have_read = attempt.handed_over && (was_running || attempt.start == Start::Asked);
        if may_have_read {
            match self.disarm(key).await? {
                Disarmed::Harmless(..) => {}
                Disarmed::Settled(Retired::Ended) => {
                    attempt.forget_spare();
                    return Ok(Unwound::Ending);
                }
                Disarmed::Settled(Retired::HasJob | Retired::Unknown) => return Ok(Unwound::Kept),
            }
        }
        if bound && attempt.job.is_on(key) && !self.unbind(attempt, key).await? {
            attempt.forget_spare();
            return Ok(Unwound::Back);
        }
        let clean = !bound || self.clear_machine(key, row.as_ref().filter(|_| !may_have_read)).await;
        if clean || !attempt.handed_over {
            self.give_back(attempt).await;
        } else {
            self.end_unclean(attempt, key).await;
        }
        if bound {
            self.end_unused(attempt.job.id, key).await?;
        }
        Ok(Unwound::Back)
    }

    /// Back to `claiming`. `false`: another attempt has the job.
    async fn unbind(&self, attempt: &mut Attempt, key: &RunnerKey) -> Result<bool, Error> {
        let token = attempt.token.clone();
        let ours =
            |job: &Job, _: &Context<'_>| Event::Unbind { token_matches: job.fenced_by(&token) && job.is_on(key) };
        match self.raise(attempt.job.id, ours, |_| {}).await? {
            Raised::Moved { after, .. } => {
                attempt.job = *after;
                Ok(true)
            }
            Raised::NoOp => Ok(false),
        }
    }

    /// A spare that may keep the hand-over of a job it does not have is none: nobody would ever take that away from it.
    async fn end_unclean(&self, attempt: &mut Attempt, key: &RunnerKey) {
        if let (Some(pools), Some(spare)) = (self.ports.pools.as_deref(), attempt.take_spare()) {
            self.ports.metrics.pool_assign(Some(&spare.pool), PoolAssign::Rollback);
            pools.settled(spare);
        }
        attempt.forget_spare();
        self.end_machine(key, "failed_attempt").await;
    }

    async fn give_back(&self, attempt: &mut Attempt) {
        let started = attempt.start != Start::NotAsked;
        let (Some(pools), Some(spare)) = (self.ports.pools.as_deref(), attempt.take_spare()) else { return };
        attempt.forget_spare();
        info!(
            job_id = spare.job.get(),
            instance_id = spare.machine.key.as_str(),
            started,
            "a spare is given back to its pool"
        );
        self.ports.metrics.pool_assign(Some(&spare.pool), PoolAssign::Rollback);
        pools.unwind(spare, started).await;
    }

    /// The job is not this attempt's any more. Its spare goes back, if it has no hand-over and nobody uses it: another
    /// attempt at the job holds the same claim.
    pub(super) async fn return_spare(&self, attempt: &mut Attempt) -> Result<(), Error> {
        let Some(key) = attempt.spare.as_ref().map(|spare| spare.machine.key.clone()) else { return Ok(()) };
        let key = &key;
        let job = self.ports.jobs.get(attempt.job.id).await?;
        if attempt.handed_over || job.is_some_and(|job| job.is_being_dispatched() || job.is_on(key)) {
            return Ok(());
        }
        if let Some(row) = self.end_unused(attempt.job.id, key).await? {
            if row.state != RunnerState::Gone {
                return Ok(());
            }
            // Another attempt may have written it.
            if !self.clear_machine(key, Some(&row)).await {
                self.end_unclean(attempt, key).await;
                return Ok(());
            }
        }
        self.give_back(attempt).await;
        Ok(())
    }

    /// Ends the row of a runner that was meant for this job and did nothing yet; any other is left as it is.
    async fn end_unused(&self, job: JobId, key: &RunnerKey) -> Result<Option<Runner>, Error> {
        self.change_runner(key, |row| {
            if row.bound_job == Some(job) && row.running_job.is_none() && row.state <= RunnerState::Minted {
                row.advance(RunnerState::Gone);
            }
        })
        .await
    }
}

/// What became of a spare that was to be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unwound {
    /// It is the pool's again, or left to the end of its claim; the job is `claiming`.
    Back,
    /// Its runner was up, and ends by itself with its machine.
    Ending,
    /// Its runner has a job, or nobody can tell. Nothing more was done.
    Kept,
}

impl Attempt {
    /// The spare, which nothing else refers to once its assignment is over.
    fn take_spare(&mut self) -> Option<Spare> {
        self.spare.take().and_then(Arc::into_inner)
    }

    fn forget_spare(&mut self) {
        (self.machine, self.spare, self.start, self.handed_over) = (None, None, Start::NotAsked, false);
    }
}
