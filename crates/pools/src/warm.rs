//! What warm pools work with, and the two loops that drive passes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config::HotPoolCaps;
use coordinator::Leadership;
use db::{Claims, Jobs, Locks, Pools};
use domain::clock::{Clock, Rng, Timestamp};
use domain::ids::{PoolName, RunnerKey};
use futures::StreamExt;
use futures::stream::{self, FuturesUnordered};
use jiff::tz::TimeZone;
use provider::{Compute, HandOver};
use telemetry::Metrics;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::observe;
use crate::pass::{Passed, Scope};
use crate::times::Times;
use crate::view::View;

/// Pools passed over at the same time, by the leader, and for demand.
const AT_ONCE: usize = 4;
/// Names remembered for demand. They are those of pools that exist, or that jobs just asked for.
const WANTED: usize = 1000;
/// Full passes in a row in which nothing worked before another replica is let lead.
const FAILURES: u32 = 3;
/// How far ticks of several deployments drift apart.
const JITTER: f64 = 0.05;

/// Everything outside the process that pools talk to.
pub struct Ports {
    /// Pools.
    pub pools: Pools,
    /// Their locks.
    pub locks: Locks,
    /// Claims on machines.
    pub claims: Claims,
    /// Job records.
    pub jobs: Jobs,
    /// Machines.
    pub compute: Arc<dyn Compute>,
    /// What is handed over to them.
    pub hand_over: Arc<dyn HandOver>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: Arc<dyn Rng>,
    /// Numbers for operators.
    pub metrics: Metrics,
}

/// What operators decide.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who we are, in locks and claims: replica and boot.
    pub owner: String,
    /// Time zone of schedules.
    pub zone: TimeZone,
    /// Limits of hot pools; `None`: off.
    pub hot: Option<HotPoolCaps>,
    /// Every interval.
    pub times: Times,
}

/// Warm pools. Shared by everything in the process; every method may run on any number of tasks and replicas at once.
pub struct WarmPools {
    pub(crate) ports: Ports,
    pub(crate) settings: Settings,
    /// Since when machines have been idle, by pool: what this replica saw in its present term. Nobody else's memory can
    /// vouch for it, so a new leader starts without.
    pub(crate) idle: Mutex<BTreeMap<PoolName, BTreeMap<RunnerKey, Timestamp>>>,
    /// Machines this process is giving to jobs.
    pub(crate) reserved: Arc<Mutex<BTreeSet<RunnerKey>>>,
    /// What was seen of pools a moment ago.
    pub(crate) views: Mutex<BTreeMap<PoolName, View>>,
    wanted: Mutex<BTreeSet<PoolName>>,
    woken: Notify,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WarmPools {
    /// Brings ports and settings together.
    pub fn new(ports: Ports, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            ports,
            settings,
            idle: Mutex::default(),
            reserved: Arc::default(),
            views: Mutex::default(),
            wanted: Mutex::default(),
            woken: Notify::new(),
        })
    }

    /// The ports, for the crates above.
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Somebody needs a spare of the pool, or has just taken one: it is passed over soon. Never waits.
    pub fn notify_demand(&self, pool: &PoolName) {
        let mut wanted = lock(&self.wanted);
        if wanted.len() < WANTED {
            wanted.insert(pool.clone());
        }
        drop(wanted);
        self.woken.notify_one();
    }

    /// Passes over pools that are in demand until `stop`; on every replica. One pool at most every five seconds: what
    /// is asked for meanwhile is served then.
    pub async fn run_demand(&self, stop: CancellationToken) {
        let mut passing = FuturesUnordered::new();
        // Pools that must not be passed over before.
        let mut resting: BTreeMap<PoolName, Instant> = BTreeMap::new();
        loop {
            let now = Instant::now();
            resting.retain(|_, until| *until > now);
            while passing.len() < AT_ONCE {
                let mut wanted = lock(&self.wanted);
                let Some(pool) = wanted.iter().find(|pool| !resting.contains_key(*pool)).cloned() else { break };
                wanted.remove(&pool);
                drop(wanted);
                resting.insert(pool.clone(), now + self.settings.times.gap);
                passing.push(async move { self.pass(&pool, Scope::Demand).await });
            }
            let rested = lock(&self.wanted).iter().filter_map(|pool| resting.get(pool)).min().copied();
            let rested = rested.filter(|_| passing.len() < AT_ONCE);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = passing.next() => {}
                () = sleep_until(rested.unwrap_or(now)), if rested.is_some() => {}
                () = self.woken.notified() => {}
            }
        }
        // Their locks are better given back than left to run out.
        while passing.next().await.is_some() {}
    }

    /// Passes over all pools, at once and then every minute, until the term is lost. A leader whose passes keep failing
    /// gives way to another.
    pub async fn run_leader(&self, leadership: Leadership) {
        lock(&self.idle).clear();
        let (mut known, mut failures) = (BTreeSet::new(), 0);
        while leadership.check().is_ok() {
            let worked = self.pass_all(&leadership, &mut known).await;
            failures = if worked { 0 } else { failures + 1 };
            if failures == FAILURES {
                warn!(failures, "no pool could be passed over; another replica may have more luck");
                leadership.resign();
            }
            let pause = self.ports.rng.jitter(self.settings.times.tick, JITTER);
            tokio::select! {
                biased;
                () = leadership.lost() => break,
                () = sleep(pause) => {}
            }
        }
        // Nobody's numbers but the leader's.
        for pool in known {
            observe::forget(&self.ports.metrics, &pool);
        }
        lock(&self.idle).clear();
    }

    /// Whether anything worked.
    async fn pass_all(&self, leadership: &Leadership, known: &mut BTreeSet<PoolName>) -> bool {
        let pools = match self.ports.pools.list().await {
            Ok(pools) => pools,
            Err(error) => {
                warn!(%error, "the pools cannot be listed");
                return false;
            }
        };
        let names: BTreeSet<_> = pools.iter().map(|pool| pool.name.clone()).collect();
        for gone in known.difference(&names) {
            observe::forget(&self.ports.metrics, gone);
            lock(&self.idle).remove(gone);
        }
        known.clone_from(&names);
        let passes = stream::iter(pools).map(|pool| async move {
            let passed = self.pass(&pool.name, Scope::Leader(leadership)).await;
            let last = pool.last_reconcile_at.filter(|_| pool.last_reconcile_result.as_deref() == Some("success"));
            observe::age(&self.ports.metrics, &pool.name, &passed, last, self.ports.clock.now());
            passed
        });
        let passed: Vec<_> = passes.buffer_unordered(AT_ONCE).collect().await;
        passed.is_empty() || passed.iter().any(|passed| !matches!(passed, Passed::Failed(_)))
    }
}
