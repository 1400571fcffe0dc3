//! The removal of a pool that is not used any more, with its machines.
//!
//! Desired: no machine that a job has, or is about to get, is ended; no machine is left without a pool; a pool that is
//! wanted again stays.
//!
//! Races survived: a job that names the pool meanwhile takes the mark away that the removal left, and the row is not
//! deleted; a job that takes one of its machines holds the machine's claim, and the removal stops there; a removal that
//! stops half-way is begun anew by the next one.

use db::table::Outcome;
use domain::clock::since;
use domain::ids::{PoolName, RunnerKey};
use telemetry::metrics::PoolAction;
use tracing::{debug, info};

use crate::error::Error;
use crate::pass::{CALL, Halt, Hold, Scope, bounded};
use crate::plan::{Acted, Class, Plan, Reason};
use crate::target::UNUSED;
use crate::warm::WarmPools;

/// Who wants a pool gone.
#[derive(Clone, Copy)]
pub enum Removal<'a> {
    /// The leader, if no job has named it for hours.
    Unused(&'a coordinator::Leadership),
    /// An operator, if it makes no machines any more.
    Asked,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// It is gone, with its machines.
    Gone,
    /// There is no such pool.
    NotFound,
    /// It stays, for this reason.
    Kept(String),
}

fn kept(why: impl Into<String>) -> Removed {
    Removed::Kept(why.into())
}

impl WarmPools {
    /// Removes a pool and its machines, unless it is in use.
    ///
    /// # Errors
    /// Nothing is known; trying again is right.
    pub async fn remove(&self, name: &PoolName, removal: Removal<'_>) -> Result<Removed, Error> {
        let Some(pool) = bounded(self.ports.pools.get(name)).await? else { return Ok(Removed::NotFound) };
        let scope = match removal {
            Removal::Unused(leadership) => {
                let Some(last) = pool.last_job_time.filter(|_| pool.ephemeral) else {
                    if pool.ephemeral {
                        bounded(self.ports.pools.touch(name)).await?.applied();
                    }
                    return Ok(kept("it is not known to be unused"));
                };
                if since(self.ports.clock.now(), last) <= UNUSED {
                    return Ok(kept("a job named it within the last hours"));
                }
                Scope::Leader(leadership)
            }
            Removal::Asked => {
                if !pool.ephemeral && (pool.config.desired_running > 0 || pool.config.desired_stopped > 0) {
                    return Ok(kept("its targets are not 0"));
                }
                Scope::Demand
            }
        };
        let Some((mut hold, pool)) = self.hold(name, scope).await? else {
            return Ok(kept("somebody else works on it, or it is gone"));
        };
        let removed = self.remove_held(&mut hold, &pool, matches!(removal, Removal::Asked)).await;
        if !matches!(removed, Ok(Removed::Gone)) {
            hold.release().await;
        }
        match removed {
            Ok(Removed::Gone) => {
                info!(event = "pool_removed", pool_name = name.as_str(), "the pool is gone");
                self.overlook(name);
                Ok(Removed::Gone)
            }
            Ok(removed) => {
                debug!(pool_name = name.as_str(), ?removed, "the pool was not removed");
                Ok(removed)
            }
            Err(Halt::NotOurs) => Ok(kept("its lock, or the leadership, was lost")),
            Err(Halt::Failed(error)) => Err(error),
        }
    }

    async fn remove_held(&self, hold: &mut Hold<'_>, pool: &db::pools::Pool, forced: bool) -> Result<Removed, Halt> {
        let (plan, _) = self.plan(pool, hold.scope).await?;
        if let Some(why) = self.in_use(hold, &plan).await? {
            return Ok(kept(why));
        }
        let pools = &self.ports.pools;
        let begun = bounded(pools.begin_deletion(&pool.name, &hold.held, pool.last_job_time, forced)).await?;
        let Outcome::Applied(deletion) = begun else { return Ok(kept("it is in use again")) };
        match self.end_members(hold, &plan).await {
            Ok(None) => match bounded(pools.delete(&pool.name, &hold.held, &deletion)).await? {
                Outcome::Applied(()) => Ok(Removed::Gone),
                Outcome::Lost => Ok(kept("it is in use again")),
            },
            stopped => {
                bounded(pools.abandon_deletion(&pool.name, &deletion)).await?;
                stopped.map(|why| kept(why.unwrap_or_default()))
            }
        }
    }

    /// Why the pool is in use, if it is.
    async fn in_use(&self, hold: &mut Hold<'_>, plan: &Plan) -> Result<Option<String>, Halt> {
        if plan.is_busy() {
            return Ok(Some("jobs of it run".to_owned()));
        }
        for member in plan.members() {
            let key = &member.machine.key;
            let theirs = matches!(member.class, Some(Class::Claimed | Class::Assigned | Class::Reserved) | None);
            if theirs && !member.machine.state.is_gone() {
                return Ok(Some(format!("{key} is a job's")));
            }
            if member.machine.state.is_up() {
                if plan.may_boot(member) {
                    return Ok(Some(format!("{key} may still be booting")));
                }
                hold.ready(CALL).await?;
                if bounded(self.ports.hand_over.get(key)).await?.is_some() {
                    return Ok(Some(format!("a hand-over waits for {key}")));
                }
            }
        }
        Ok(None)
    }

    /// Ends every machine of the pool; the first that cannot be is why the pool stays.
    async fn end_members(&self, hold: &mut Hold<'_>, plan: &Plan) -> Result<Option<String>, Halt> {
        for member in plan.members().iter().filter(|member| !member.machine.state.is_gone()) {
            let key: &RunnerKey = &member.machine.key;
            hold.ready(3 * CALL).await?;
            let reason = match member.class {
                Some(Class::Stopped) => Reason::OverDesiredStopped,
                _ => Reason::ExcessIdle,
            };
            match self.cut_spare(key, reason, PoolAction::Terminate, hold.held.owner()).await {
                Acted::Done => {}
                Acted::Refused => return Ok(Some(format!("somebody has claimed {key}"))),
                Acted::Failed => return Ok(Some(format!("{key} could not be ended"))),
            }
        }
        Ok(None)
    }
}
