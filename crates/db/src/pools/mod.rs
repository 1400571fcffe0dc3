//! Warm pools, one row per pool.
//!
//! Every group of attributes has one writer, and every operation here touches exactly one group: what an operator
//! saves never rolls back what a reconcile pass observed. What a pass writes, and the removal of a pool, are in
//! `pass`. The table also holds reserved rows (`__…`); a [`PoolName`] cannot address one, and listings see rows of
//! kind `pool` only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::clock::{Clock, Timestamp};
use domain::ids::{PoolName, RunnerKey};
use domain::launch::Arch;

use crate::attrs;
use crate::fence::Fence;
use crate::schema::{POOLS, ROW_KIND};
use crate::table::{Cond, Error, Outcome, Query, Table, Update, Value};

pub(crate) use self::codec::decode;
pub use self::pass::{Deletion, Report};

mod codec;
mod pass;

/// `row_kind` of a pool's row.
const KIND: &str = "pool";

/// What an operator (or the first job of an ephemeral pool) decides. Zero, empty and `None` mean "not set".
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PoolConfig {
    /// Pinned type; used only without vCPU bounds.
    pub instance_type: String,
    /// Ready machines wanted; busy ones do not count.
    pub desired_running: u32,
    /// Stopped machines wanted.
    pub desired_stopped: u32,
    /// Idle time before a machine is stopped; 0 means the default.
    pub idle_timeout_minutes: u32,
    /// Targets by time of day.
    pub schedules: Vec<Schedule>,
    /// Architecture.
    pub arch: Option<Arch>,
    /// vCPU bounds.
    pub cpu_min: u32,
    /// vCPU bounds.
    pub cpu_max: u32,
    /// Memory bounds in GiB.
    pub ram_min: f64,
    /// Memory bounds in GiB.
    pub ram_max: f64,
    /// Instance families.
    pub families: Vec<String>,
    /// Instance generation.
    pub gen_: u32,
    /// Private subnets are required.
    pub private: bool,
    /// Carried, not interpreted.
    pub multi_spec: bool,
    /// Minutes a finished machine lingers; `None` follows the recommendation, 0 forbids lingering.
    pub override_linger_minutes: Option<u32>,
    /// Most running spares; `None` follows the recommendation, 0 forbids them.
    pub override_max_hot: Option<u32>,
    /// Carried, not interpreted.
    pub environment: String,
    /// Carried, not interpreted.
    pub region: String,
}

/// Targets for some hours of some days, in the deployment's zone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schedule {
    /// For people.
    pub name: String,
    /// First hour, 0–23.
    pub start_hour: u32,
    /// Hour it ends before, 0–24.
    pub end_hour: u32,
    /// 0 (Sunday) to 6; empty means every day.
    pub days_of_week: Vec<u32>,
    /// Ready machines wanted.
    pub desired_running: u32,
    /// Stopped machines wanted.
    pub desired_stopped: u32,
}

/// A pool's row.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// What was decided.
    pub config: PoolConfig,
    /// Made by a job's label, removed when no job came for a while.
    pub ephemeral: bool,
    /// The last job that named it.
    pub last_job_time: Option<Timestamp>,
    /// What the last pass saw, and the targets it acted on.
    pub observed: Option<Observed>,
    /// When the last pass ended.
    pub last_reconcile_at: Option<Timestamp>,
    /// How it ended.
    pub last_reconcile_result: Option<String>,
    /// Machines asked for of late that have not proved themselves yet.
    pub created: Created,
    /// Whether its new machines become spares.
    pub health: Health,
    /// What the tuner recommends.
    pub tuning: Option<Tuning>,
    /// Since when it is being deleted.
    pub deleting_at: Option<Timestamp>,
}

/// Machines a pass asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Created {
    /// When the last ones were.
    pub at: Option<Timestamp>,
    /// Which.
    pub keys: Vec<RunnerKey>,
}

/// Whether the machines of a pool become spares. The default is a healthy pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// Machines in a row that went away before they were of use.
    pub failures: u32,
    /// Degraded: none is made before this. `None`: not degraded.
    pub retry_at: Option<Timestamp>,
}

/// What the tuner found in a pool's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// Minutes a spare should linger after a job; 0 is not at all.
    pub linger_minutes: u32,
    /// Running spares to keep meanwhile.
    pub max_hot: u32,
    /// Days looked at.
    pub window_days: u32,
    /// Jobs found.
    pub jobs: u32,
    /// Bursts they came in.
    pub bursts: u32,
    /// 90 of 100 gaps within a burst are at most so many seconds.
    pub p90_gap_seconds: u32,
    /// Most jobs at a time.
    pub peak: u32,
    /// Why it recommends this, as one word.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// What a pass saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// Running members.
    pub running: u32,
    /// Stopped members.
    pub stopped: u32,
    /// Ready machines it aimed at. `None` is not zero: nothing was recorded.
    pub effective_running: Option<u32>,
    /// Stopped machines it aimed at.
    pub effective_stopped: Option<u32>,
}

/// See the module.
pub struct Pools {
    table: Arc<dyn Table>,
    clock: Arc<dyn Clock>,
    /// Whether rows of the Go implementation, which knew no row kinds, have been marked.
    marked: AtomicBool,
}

impl Pools {
    /// A store on `table`.
    pub fn new(table: Arc<dyn Table>, clock: Arc<dyn Clock>) -> Self {
        Self { table, clock, marked: AtomicBool::new(false) }
    }

    /// The pool, strongly consistent.
    pub async fn get(&self, name: &PoolName) -> Result<Option<Pool>, Error> {
        Ok(self.table.get(&POOLS, &key(name)).await?.as_ref().and_then(decode))
    }

    /// Every pool, by name. The first call also looks for rows without a kind and marks them.
    pub async fn list(&self) -> Result<Vec<Pool>, Error> {
        if !self.marked.load(Ordering::Relaxed) {
            for item in self.table.scan(&POOLS).await? {
                if let Some(pool) = decode(&item).filter(|_| attrs::text(&item, "row_kind").is_none()) {
                    let update = Update::default().set("row_kind", KIND);
                    // Lost: removed meanwhile.
                    let _ = self.table.update(&POOLS, &key(&pool.name), update, Cond::exists(POOLS.key)).await?;
                }
            }
            self.marked.store(true, Ordering::Relaxed);
        }
        Ok(self.table.query(&POOLS, Query::of(ROW_KIND, KIND)).await?.iter().filter_map(decode).collect())
    }

    /// Creates a pool as an operator decided; lost when there is one.
    pub async fn create(&self, name: &PoolName, config: &PoolConfig) -> Result<Outcome, Error> {
        let mut item = codec::encode(config);
        item.insert(POOLS.key, key(name));
        item.insert("row_kind", Value::from(KIND));
        self.table.put(&POOLS, item, Cond::absent(POOLS.key)).await
    }

    /// Replaces what an operator decided, and nothing else of the row; whoever saves a pool wants to keep it. Lost:
    /// no such pool.
    pub async fn save(&self, name: &PoolName, config: &PoolConfig) -> Result<Outcome, Error> {
        let set = codec::encode(config);
        let cleared = codec::CONFIG.iter().filter(|attr| !set.contains_key(attr)).chain(&["deleting_at"]);
        let remove = cleared.map(|attr| (*attr).into()).collect();
        let update = Update { set, remove, ..Update::default() }.set("row_kind", KIND);
        self.update(name, update, Cond::Always).await
    }

    /// Creates a pool for a job's label, used just now; lost when there is one.
    pub async fn create_ephemeral(&self, name: &PoolName, config: &PoolConfig) -> Result<Outcome, Error> {
        let mut item = codec::encode(config);
        item.insert(POOLS.key, key(name));
        item.insert("row_kind", Value::from(KIND));
        item.insert("ephemeral", Value::Bool(true));
        item.insert("last_job_time", attrs::stamp(self.clock.now()));
        self.table.put(&POOLS, item, Cond::absent(POOLS.key)).await
    }

    /// Notes that a job named the pool, which keeps it from being deleted; never moves backwards. Lost: no such pool,
    /// or noted already.
    pub async fn touch(&self, name: &PoolName) -> Result<Outcome, Error> {
        let now = attrs::stamp(self.clock.now());
        let older = Cond::absent("last_job_time").or(Cond::lt("last_job_time", now.clone()));
        let update = Update::default().set("last_job_time", now).remove("deleting_at");
        self.update(name, update, older.or(Cond::exists("deleting_at"))).await
    }

    /// Records what the tuner recommends. Lost: no such pool, or another leader wrote it.
    pub async fn tune(&self, name: &PoolName, tuning: &Tuning, fence: Option<Fence>) -> Result<Outcome, Error> {
        let update = Update::default().set("auto_tune", codec::tuning_value(tuning));
        let (update, cond) = Fence::guard(fence, update, Cond::Always);
        self.update(name, update, cond).await
    }

    /// Whether a later leader has written the pool's row. A pool that is gone has none.
    pub async fn is_passed(&self, name: &PoolName, fence: Fence) -> Result<bool, Error> {
        Ok(self.table.get(&POOLS, &key(name)).await?.is_some_and(|row| fence.is_passed_by(&row)))
    }

    /// An operator says that new machines will do better. Lost: no such pool.
    pub async fn mend(&self, name: &PoolName) -> Result<Outcome, Error> {
        self.update(name, Update::default().remove("pool_health"), Cond::Always).await
    }

    /// Conditioned on the row, so that no operation makes half a pool.
    async fn update(&self, name: &PoolName, update: Update, cond: Cond) -> Result<Outcome, Error> {
        let cond = Cond::exists(POOLS.key).and(cond);
        Ok(self.table.update(&POOLS, &key(name), update, cond).await?.map(|_| ()))
    }
}

pub(crate) fn key(name: &PoolName) -> Value {
    Value::from(name.as_str())
}
