//! A spare for a job.
//!
//! The order is the same for running and stopped spares: claim, tag, record, hand over, start. What lets the agent act
//! comes last. The claim and the tag are done here; recording, handing over and starting are a dispatcher's, as for any
//! machine.
//!
//! Races survived:
//!
//! * *Two jobs want one machine*, here or on two replicas: its claim has one holder.
//! * *A pass wants to stop it*: the same claim.
//! * *What was seen is old*: the machine is looked at again under the claim.
//! * *The machine is a job's already, and its claim ran out*: its hand-over is looked for after the claim, not before.
//! * *The same job comes again* (its message was repeated): it may claim its own machine again.
//! * *The dispatcher stops half-way*: the claim runs out; what was recorded is finished by whoever resumes the job.
//! * *A machine cannot be stopped again*: its claim is left to run out. Given back at once, the late stop would hit the
//!   next job.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use db::claims::Holder;
use domain::ids::{JobId, PoolName, Repo, RunnerKey};
use domain::launch::LaunchSpec;
use provider::{Machine, MachineState, tags};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::candidates::{Spares, candidates};
use crate::error::Error;
use crate::pass::bounded;
use crate::plan::Probed;
use crate::target;
use crate::warm::{WarmPools, lock};

/// How long a job's claim holds: longer than any attempt, and than whoever resumes it.
const CLAIM: Duration = Duration::from_secs(300);
/// Tries to stop a machine that is given back, and the pause between them.
const STOPS: u32 = 3;
const STOP_AGAIN: Duration = Duration::from_secs(1);

/// A machine claimed for a job. Dropping it lets this process look at the machine again; the claim runs out.
#[derive(Debug)]
pub struct Spare {
    /// Its pool.
    pub pool: PoolName,
    /// The job.
    pub job: JobId,
    /// The machine, as it was when it was claimed.
    pub machine: Machine,
    /// Whether it ran: then it acts as soon as its hand-over is there. Else it must be started.
    pub was_running: bool,
    _reserved: Reserved,
}

/// A machine nobody else in this process looks at.
#[derive(Debug)]
struct Reserved {
    key: RunnerKey,
    all: Arc<Mutex<BTreeSet<RunnerKey>>>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.key);
    }
}

impl WarmPools {
    /// Claims a spare of the pool that is what the job asks for, and none of `tried`. `None`: there is none, or no such
    /// pool; the job gets a machine of its own.
    ///
    /// # Errors
    /// Nothing is known, or `deadline` has passed; trying again is right.
    pub async fn reserve(
        &self,
        pool: &PoolName,
        job: JobId,
        spec: &LaunchSpec,
        tried: &[RunnerKey],
        deadline: Instant,
    ) -> Result<Option<Spare>, Error> {
        if Instant::now() >= deadline {
            return Err(Error::Late);
        }
        let looking = self.look_for_spare(pool, job, spec, tried);
        tokio::time::timeout_at(deadline, looking).await.unwrap_or(Err(Error::Late))
    }

    async fn look_for_spare(
        &self,
        pool: &PoolName,
        job: JobId,
        spec: &LaunchSpec,
        tried: &[RunnerKey],
    ) -> Result<Option<Spare>, Error> {
        let Some(view) = self.view(pool).await? else { return Ok(None) };
        let now = self.ports.clock.now();
        let hot = target::hot(&view.pool, self.settings.hot.as_ref()).is_some() || view.pool.config.desired_running > 0;
        let hot = hot || view.pool.config.schedules.iter().any(|entry| entry.desired_running > 0);
        let spares = Spares { config: &view.pool.config, machines: &view.machines, busy: view.busy.as_deref(), hot };
        for machine in candidates(&spares, spec, &self.settings.times, now) {
            if tried.contains(&machine.key) {
                continue;
            }
            let Some(reserved) = self.reserve_here(&machine.key) else { continue };
            if !bounded(self.ports.claims.claim(&machine.key, Holder::Job(job), CLAIM)).await?.is_applied() {
                self.strike(pool, &machine.key);
                continue;
            }
            match self.confirmed(machine).await {
                Ok(Some(found)) => {
                    let was_running = found.state == MachineState::Running;
                    return Ok(Some(Spare {
                        pool: pool.clone(),
                        job,
                        machine: found,
                        was_running,
                        _reserved: reserved,
                    }));
                }
                Ok(None) => self.strike(pool, &machine.key),
                Err(error) => {
                    self.give_back(&machine.key, Holder::Job(job)).await;
                    return Err(error);
                }
            }
            self.give_back(&machine.key, Holder::Job(job)).await;
        }
        Ok(None)
    }

    fn reserve_here(&self, key: &RunnerKey) -> Option<Reserved> {
        let free = lock(&self.reserved).insert(key.clone());
        free.then(|| Reserved { key: key.clone(), all: Arc::clone(&self.reserved) })
    }

    /// Whether a claimed machine still is the spare it was seen as.
    async fn confirmed(&self, seen: &Machine) -> Result<Option<Machine>, Error> {
        let key = &seen.key;
        let runs = seen.state == MachineState::Running;
        let probe = async { if runs { self.probe(key).await } else { Probed::Free } };
        let (found, probed) = tokio::join!(bounded(self.ports.compute.describe(key)), probe);
        let Some(found) = found?.filter(|found| found.state == seen.state && found.pool() == seen.pool()) else {
            return Ok(None);
        };
        if runs && found.is_assigned() {
            return Ok(None);
        }
        match probed {
            Probed::Free => Ok(Some(found)),
            Probed::Handed => {
                // It is another job's, and lost the mark that says so. With it the pool gets a replacement.
                info!(instance_id = key.as_str(), "a spare turned out to be a job's");
                let mark = [(tags::ASSIGNED.to_owned(), "true".to_owned())];
                if let Err(error) = bounded(self.ports.compute.tag(key, &mark)).await {
                    debug!(instance_id = key.as_str(), %error, "its mark could not be renewed");
                }
                Ok(None)
            }
            Probed::Unknown => Ok(None),
        }
    }

    /// Marks the machine as the job's, for people, for other replicas, and for its agent, which then looks for its
    /// hand-over more often. Best effort: the record is what counts.
    pub async fn mark_assigned(&self, spare: &Spare, repo: Option<&Repo>) {
        let mut marks =
            vec![(tags::ASSIGNED.to_owned(), "true".to_owned()), (tags::JOB_ID.to_owned(), spare.job.to_string())];
        marks.extend(repo.map(|repo| (tags::ROLE.to_owned(), repo.as_str().to_owned())));
        if let Err(error) = bounded(self.ports.compute.tag(&spare.machine.key, &marks)).await {
            let instance_id = spare.machine.key.as_str();
            warn!(instance_id, pool_name = spare.pool.as_str(), %error, "an assigned machine could not be marked");
        }
    }

    /// Gives a spare back after the job could not be given to it. Call it once its hand-over and its binding are gone;
    /// `started` says whether a start was asked for. Counts what cannot be given back.
    pub async fn unwind(&self, spare: Spare, started: bool) {
        let key = &spare.machine.key;
        self.overlook(&spare.pool);
        // Its agent may have read what was taken back: only a stop makes a spare of it again.
        if (spare.was_running || started) && !self.stopped_again(key).await {
            self.ports.metrics.pool_rollback_failed();
            return;
        }
        if let Err(error) = bounded(self.ports.compute.untag(key, &[tags::ASSIGNED, tags::JOB_ID])).await {
            // A stopped machine is cleared of them before its next start.
            debug!(instance_id = key.as_str(), %error, "the marks of an assignment stay for now");
        }
        self.give_back(key, Holder::Job(spare.job)).await;
        drop(spare);
    }

    async fn stopped_again(&self, key: &RunnerKey) -> bool {
        for attempt in 1..=STOPS {
            match bounded(self.ports.compute.stop(key)).await {
                Ok(()) => return true,
                Err(error) => warn!(instance_id = key.as_str(), attempt, %error, "a spare could not be stopped again"),
            }
            if attempt < STOPS {
                sleep(STOP_AGAIN).await;
            }
        }
        false
    }

    /// The job has the machine: nothing is left to do but to replace it. The claim runs out.
    pub fn settled(&self, spare: Spare) {
        if let Some(idle) = lock(&self.idle).get_mut(&spare.pool) {
            idle.remove(&spare.machine.key);
        }
        self.strike(&spare.pool, &spare.machine.key);
        self.notify_demand(&spare.pool);
        drop(spare);
    }
}
