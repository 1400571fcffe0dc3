//! One pass over one pool: lock, look, decide, act, record.
//!
//! Desired: the pool comes closer to its target; nothing that is or may be in use is touched; two passes never work on
//! one pool at a time; what went wrong is on the pool's row.
//!
//! Races survived:
//!
//! * *Another pass, here or on another replica.* The pool's lock. A pass that overran its time finds out before its next
//!   step, and its report is refused.
//! * *A job takes a machine while the pass runs.* Before a machine is stopped or ended its claim is won, the very row
//!   that a job takes first; who comes second leaves the machine alone.
//! * *The leader was deposed.* It asks before every step. A call that was on its way is harmless: the machine is claimed,
//!   and a creation under the same name makes nothing new.
//! * *A read fails.* Then nothing is done at all. How many jobs ran lately is the one thing a pass can do without.
//! * *The pass stops half-way.* Lock and claims run out; the next pass starts from what there is.
//! * *An answer is lost.* A machine whose stop may or may not come keeps its claim, so that no job gets it meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use coordinator::Leadership;
use db::locks::{Held, PoolLock};
use db::pools::{Pool, Report};
use db::table::Outcome;
use domain::clock::{SignedDuration, since};
use domain::ids::{PoolName, RunnerKey};
use futures::future::join_all;
use telemetry::metrics::FencedRow;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::error::Error;
use crate::health::{self, Fate};
use crate::plan::{self, Plan, Progress, Snapshot};
use crate::target::{self, Target};
use crate::warm::{WarmPools, lock};
use crate::{concurrency, observe, schedule};

mod act;

/// How long a lock holds if its holder dies.
const LOCK: Duration = Duration::from_secs(65);
/// The holder stops to rely on it so long before.
const MARGIN: Duration = Duration::from_secs(10);
/// Longest wait for one call.
pub(crate) const CALL: Duration = Duration::from_secs(15);
/// The leader waits so long for a lock: passes for demand must not keep it from taking machines away.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries of that.
const AGAIN: Duration = Duration::from_millis(500);
/// Idle time of a pool that says nothing about it.
const IDLE_TIMEOUT: u32 = 10;

/// What a pass may do, and in whose name.
#[derive(Clone, Copy)]
pub enum Scope<'a> {
    /// Everything; by the leader.
    Leader(&'a Leadership),
    /// Only start and make machines; by whoever saw the demand.
    Demand,
}

/// How a pass ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Passed {
    /// It is over. Not everything need have worked.
    Done,
    /// Somebody else works on the pool, it is being deleted, or there is no such pool.
    Skipped,
    /// It stopped quietly: no longer leader, or the lock is lost.
    Stopped,
    /// It could not see, and did nothing more.
    Failed(String),
}

/// Why a pass does not go on.
#[derive(Debug)]
pub(crate) enum Halt {
    /// No longer ours to do.
    NotOurs,
    /// Something did not answer.
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The lock of a pool, held by a pass.
pub(crate) struct Hold<'a> {
    pub(crate) warm: &'a WarmPools,
    pub(crate) name: &'a PoolName,
    pub(crate) scope: Scope<'a>,
    pub(crate) held: Held,
    /// Not to be relied on after this.
    until: Instant,
}

impl Hold<'_> {
    /// Call before every step that others can see and that takes at most `takes`. Keeps the lock for as long.
    pub(crate) async fn ready(&mut self, takes: Duration) -> Result<(), Halt> {
        if let Scope::Leader(leadership) = self.scope
            && !leadership.lasts(CALL)
        {
            return Err(Halt::NotOurs);
        }
        let now = Instant::now();
        if now + takes > self.until {
            let refreshed = self.warm.ports.locks.refresh_pool(self.name, &self.held, LOCK);
            match bounded(refreshed).await? {
                Outcome::Applied(()) => self.until = now + LOCK - MARGIN,
                Outcome::Lost => return Err(Halt::NotOurs),
            }
        }
        Ok(())
    }

    pub(crate) async fn release(&self) {
        if let Err(error) = bounded(self.warm.ports.locks.release_pool(self.name, &self.held)).await {
            debug!(pool_name = self.name.as_str(), %error, "a lock runs out by itself");
        }
    }
}

/// The answer, if it comes in time.
pub(crate) async fn bounded<T, E: Into<Error>>(call: impl Future<Output = Result<T, E>>) -> Result<T, Error> {
    match timeout(CALL, call).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(Error::Late),
    }
}

impl WarmPools {
    /// Passes over a pool once.
    pub async fn pass(&self, name: &PoolName, scope: Scope<'_>) -> Passed {
        let began = Instant::now();
        let (mut hold, pool) = match self.hold(name, scope).await {
            Ok(Some(held)) => held,
            Ok(None) => return Passed::Skipped,
            Err(error) => return failed(name, &error),
        };
        if pool.deleting_at.is_some() {
            hold.release().await;
            return Passed::Skipped;
        }
        let mut report = Report::default();
        let passed = match self.pass_held(&mut hold, &pool, &mut report).await {
            Ok(None) => Passed::Done,
            // What worked is recorded all the same.
            Ok(Some(trouble)) => {
                report.result = Some(format!("failed: {trouble}"));
                Passed::Done
            }
            Err(Halt::NotOurs) => {
                debug!(pool_name = name.as_str(), "the pass is no longer ours to finish");
                hold.release().await;
                return Passed::Stopped;
            }
            Err(Halt::Failed(error)) => {
                report.result = Some(format!("failed: {error}"));
                failed(name, &error)
            }
        };
        report.result.get_or_insert_with(|| "success".to_owned());
        let passed = self.record(&hold, report, passed).await;
        self.ports.metrics.pool_reconcile(began.elapsed());
        passed
    }

    /// The pool's lock, and the pool as it was at that moment.
    pub(crate) async fn hold<'a>(
        &'a self,
        name: &'a PoolName,
        scope: Scope<'a>,
    ) -> Result<Option<(Hold<'a>, Pool)>, Error> {
        let began = Instant::now();
        let owner = format!("{}/{}", self.settings.owner, self.ports.rng.token());
        loop {
            let asked = Instant::now();
            let answer = bounded(self.ports.locks.pool(name, &owner, LOCK)).await?;
            let patient = matches!(scope, Scope::Leader(leadership) if leadership.check().is_ok());
            let found = match answer {
                PoolLock::Acquired(held, pool) => {
                    let until = asked + LOCK - MARGIN;
                    Some((Hold { warm: self, name, scope, held, until }, pool))
                }
                PoolLock::Held if patient && began.elapsed() + AGAIN < PATIENCE => {
                    sleep(self.ports.rng.jitter(AGAIN, 0.2)).await;
                    continue;
                }
                PoolLock::Held | PoolLock::NotFound => None,
            };
            self.ports.metrics.lock_wait("pool_reconcile", began.elapsed());
            return Ok(found);
        }
    }

    /// What went wrong besides, if the pass could go on all the same.
    async fn pass_held(&self, hold: &mut Hold<'_>, pool: &Pool, report: &mut Report) -> Result<Option<String>, Halt> {
        let (plan, target) = self.plan(pool, hold.scope).await?;
        let leads = matches!(hold.scope, Scope::Leader(_));
        // A pass for demand does not judge, but obeys.
        let (health, open) = match leads {
            true => self.judged(pool, &plan).await,
            false => (pool.health, pool.created.keys.clone()),
        };
        let now = self.ports.clock.now();
        if let Some(left) = health::pause_left(health, now) {
            let seconds = left.as_secs();
            warn!(pool_name = pool.name.as_str(), seconds, "new machines keep failing; none is made for a while");
        }
        let plan = plan.allowing(health::allowance(health, open.len(), now));
        if leads {
            lock(&self.idle).insert(pool.name.clone(), plan.idle_since());
            report.observed = Some(observe::observed(&plan, target));
            report.health = (health != pool.health).then_some(health);
            observe::gauges(&self.ports.metrics, &pool.name, &plan, target, health);
        }
        let mut acts = act::Acts::new(hold, pool, open, report);
        let mut done = Progress::default();
        while let Some(step) = plan.next(&done) {
            acts.perform(&step, &mut done).await?;
        }
        Ok(acts.trouble)
    }

    /// Everything that is known of the pool, as a plan.
    pub(crate) async fn plan(&self, pool: &Pool, scope: Scope<'_>) -> Result<(Plan, Target), Error> {
        let (ports, times) = (&self.ports, self.settings.times);
        let history = async {
            match pool.ephemeral {
                true => self.p90(&pool.name).await,
                false => None,
            }
        };
        let (machines, busy, p90) =
            tokio::join!(self.machines(&pool.name), bounded(ports.jobs.busy_machines(&pool.name)), history);
        let (machines, busy) = (machines?, busy?);
        let keys: Vec<_> = machines.iter().map(|machine| machine.key.clone()).collect();
        let mut taken = bounded(ports.claims.claimed(&keys)).await?;
        taken.extend(lock(&self.reserved).iter().cloned());
        let now = ports.clock.now();
        for entry in pool.config.schedules.iter().filter(|entry| !schedule::is_readable(entry)) {
            warn!(pool_name = pool.name.as_str(), schedule = entry.name, "a schedule's hours are none");
            ports.metrics.pool_config_invalid("schedules");
        }
        let target = target::effective(pool, p90, self.settings.hot.as_ref(), &self.settings.zone, now);
        let idle_since = match scope {
            Scope::Leader(_) => lock(&self.idle).get(&pool.name).cloned().unwrap_or_default(),
            Scope::Demand => BTreeMap::new(),
        };
        let asked_lately = pool.created.at.is_some_and(|at| since(now, at) < times.unlisted);
        let minutes = Some(pool.config.idle_timeout_minutes).filter(|minutes| *minutes > 0).unwrap_or(IDLE_TIMEOUT);
        let snapshot = Snapshot {
            now,
            scope: match scope {
                Scope::Leader(_) => plan::Scope::Full,
                Scope::Demand => plan::Scope::Growth,
            },
            target,
            idle_timeout: Duration::from_secs(u64::from(minutes) * 60),
            times,
            machines,
            busy,
            taken,
            requested: pool.created.keys.iter().filter(|_| asked_lately).cloned().collect(),
            idle_since,
        };
        Ok((Plan::new(snapshot), target))
    }

    async fn p90(&self, name: &PoolName) -> Option<u32> {
        let now = self.ports.clock.now();
        let window = SignedDuration::try_from(target::HISTORY).unwrap_or_default();
        let from = now.saturating_sub(window).unwrap_or(now);
        match bounded(self.ports.jobs.pool_history(name, from)).await {
            Ok(jobs) => Some(concurrency::p90(&jobs, from, now)),
            Err(error) => {
                warn!(pool_name = name.as_str(), %error, "nobody knows how many jobs ran; the target stays");
                None
            }
        }
    }

    /// The pool's health, and the new machines whose fate is not known yet.
    async fn judged(&self, pool: &Pool, plan: &Plan) -> (db::pools::Health, Vec<RunnerKey>) {
        let (now, times) = (self.ports.clock.now(), self.settings.times);
        let asked = pool.created.at.unwrap_or(now);
        let listed: BTreeMap<_, _> = plan
            .members()
            .iter()
            .map(|member| (&member.machine.key, (member.class, member.machine.launched_at)))
            .collect();
        let listed = &listed;
        let fates = join_all(pool.created.keys.iter().map(|key| async move {
            let listed = listed.get(key).copied();
            let served = match listed {
                None => bounded(self.ports.jobs.by_instance(key)).await.ok().map(|jobs| !jobs.is_empty()),
                Some(_) => None,
            };
            health::fate(asked, listed, served, &times, now)
        }));
        let fates = fates.await;
        let open = pool.created.keys.iter().zip(&fates).filter(|(_, fate)| **fate == Fate::Open);
        let open = open.map(|(key, _)| key.clone()).collect();
        (health::judge(pool.health, &fates, &times, now), open)
    }

    /// Writes down how the pass went, and gives the lock back.
    async fn record(&self, hold: &Hold<'_>, mut report: Report, passed: Passed) -> Passed {
        let fence = match hold.scope {
            Scope::Leader(leadership) => Some(leadership.fence()),
            Scope::Demand => {
                // The rest is for the leader to say.
                report = Report { created: report.created, ..Report::default() };
                None
            }
        };
        let pools = &self.ports.pools;
        match bounded(pools.finish(hold.name, &hold.held, fence, &report)).await {
            Ok(Outcome::Applied(())) => return passed,
            Ok(Outcome::Lost) => {}
            Err(error) => warn!(pool_name = hold.name.as_str(), %error, "how the pass went could not be recorded"),
        }
        if let (Scope::Leader(leadership), Some(fence)) = (hold.scope, fence)
            && let Ok(true) = bounded(pools.is_passed(hold.name, fence)).await
        {
            leadership.rejected(FencedRow::Pool);
        }
        // Not ours any more, or the pool is gone: fine.
        hold.release().await;
        passed
    }
}

fn failed(name: &PoolName, error: &Error) -> Passed {
    info!(event = "pool_pass_failed", pool_name = name.as_str(), %error, "a pool was left as it is");
    Passed::Failed(error.to_string())
}
