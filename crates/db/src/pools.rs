//! Warm pool configuration, one row per pool.
//!
//! Every group of attributes has one writer, and every operation here touches exactly one group: what an operator
//! saves never rolls back what a reconcile pass observed. The table also holds reserved rows (`__…`); a
//! [`PoolName`] cannot address one, and listings see rows of kind `pool` only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::clock::{Clock, Timestamp};
use domain::ids::PoolName;
use domain::launch::Arch;

use crate::attrs::{self, Row};
use crate::schema::{POOLS, ROW_KIND};
use crate::table::{Cond, Error, Item, Outcome, Query, Table, Update, Value};

/// `row_kind` of a pool's row.
const KIND: &str = "pool";
/// Longest stored result of a pass, in characters.
const RESULT: usize = 300;

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

    /// Saves what an operator decided, creating the pool if need be. Touches nothing else of the row.
    pub async fn save(&self, name: &PoolName, config: &PoolConfig) -> Result<(), Error> {
        let new = encode(config);
        let remove = CONFIG.iter().filter(|attr| !new.contains_key(attr)).map(|attr| (*attr).into()).collect();
        let update = Update { set: new, remove, ..Update::default() }.set("row_kind", KIND);
        self.table.update(&POOLS, &key(name), update, Cond::Always).await?.applied();
        Ok(())
    }

    /// Creates a pool for a job's label, used just now; lost when there is one.
    pub async fn create_ephemeral(&self, name: &PoolName, config: &PoolConfig) -> Result<Outcome, Error> {
        let mut item = encode(config);
        item.insert(POOLS.key, key(name));
        item.insert("row_kind", Value::from(KIND));
        item.insert("ephemeral", Value::Bool(true));
        item.insert("last_job_time", attrs::stamp(self.clock.now()));
        self.table.put(&POOLS, item, Cond::absent(POOLS.key)).await
    }

    /// Notes that a job named the pool; never moves backwards. Lost: no such pool, or noted already.
    pub async fn touch(&self, name: &PoolName) -> Result<Outcome, Error> {
        let now = attrs::stamp(self.clock.now());
        let older = Cond::absent("last_job_time").or(Cond::lt("last_job_time", now.clone()));
        self.update(name, Update::default().set("last_job_time", now), older).await
    }

    /// Records what a pass saw and aimed at, in one write. Lost: the pool was deleted meanwhile.
    pub async fn observe(&self, name: &PoolName, observed: Observed) -> Result<Outcome, Error> {
        let mut update =
            Update::default().set("current_running", observed.running).set("current_stopped", observed.stopped);
        for (attr, target) in [
            ("effective_desired_running", observed.effective_running),
            ("effective_desired_stopped", observed.effective_stopped),
        ] {
            update = match target {
                Some(target) => update.set(attr, target),
                None => update.remove(attr),
            };
        }
        self.update(name, update, Cond::Always).await
    }

    /// Records how a pass ended. Lost: the pool was deleted meanwhile.
    pub async fn reconciled(&self, name: &PoolName, result: &str) -> Result<Outcome, Error> {
        let result: String = result.chars().take(RESULT).collect();
        let update = Update::default()
            .set("last_reconcile_at", attrs::stamp(self.clock.now()))
            .set("last_reconcile_result", result);
        self.update(name, update, Cond::Always).await
    }

    /// Deletes an ephemeral pool; with `force` any pool whose targets are zero. Lost: not such a pool, or missing.
    pub async fn delete(&self, name: &PoolName, force: bool) -> Result<Outcome, Error> {
        let zero = |attr: &'static str| Cond::absent(attr).or(Cond::eq(attr, 0_i64));
        let mut allowed = Cond::eq("ephemeral", true);
        if force {
            allowed = allowed.or(zero("desired_running").and(zero("desired_stopped")));
        }
        self.table.delete(&POOLS, &key(name), Cond::exists(POOLS.key).and(allowed)).await
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

/// The operator's attributes.
const CONFIG: &[&str] = &[
    "arch",
    "cpu_max",
    "cpu_min",
    "desired_running",
    "desired_stopped",
    "environment",
    "families",
    "gen",
    "idle_timeout_minutes",
    "instance_type",
    "multi_spec",
    "override_linger_minutes",
    "override_max_hot",
    "private",
    "ram_max",
    "ram_min",
    "region",
    "schedules",
];

fn encode(config: &PoolConfig) -> Item {
    let mut row = Row::default();
    row.text("instance_type", Some(&config.instance_type));
    row.put("desired_running", config.desired_running);
    row.put("desired_stopped", config.desired_stopped);
    row.count("idle_timeout_minutes", config.idle_timeout_minutes);
    if !config.schedules.is_empty() {
        row.put("schedules", Value::L(config.schedules.iter().map(schedule_value).collect()));
    }
    row.text("arch", config.arch.map(Arch::as_str));
    row.count("cpu_min", config.cpu_min);
    row.count("cpu_max", config.cpu_max);
    for (name, bound) in [("ram_min", config.ram_min), ("ram_max", config.ram_max)] {
        if bound != 0.0 {
            row.put(name, Value::F(bound));
        }
    }
    row.texts("families", &config.families);
    row.count("gen", config.gen_);
    row.flag("private", config.private);
    row.flag("multi_spec", config.multi_spec);
    row.whole("override_linger_minutes", config.override_linger_minutes);
    row.whole("override_max_hot", config.override_max_hot);
    row.text("environment", Some(&config.environment));
    row.text("region", Some(&config.region));
    row.0
}

fn schedule_value(schedule: &Schedule) -> Value {
    let mut row = Row::default();
    row.text("name", Some(&schedule.name));
    row.put("start_hour", schedule.start_hour);
    row.put("end_hour", schedule.end_hour);
    if !schedule.days_of_week.is_empty() {
        row.put("days_of_week", Value::L(schedule.days_of_week.iter().map(|day| Value::from(*day)).collect()));
    }
    row.put("desired_running", schedule.desired_running);
    row.put("desired_stopped", schedule.desired_stopped);
    Value::M(row.0)
}

/// The pool of a row; `None` for reserved rows.
pub(crate) fn decode(item: &Item) -> Option<Pool> {
    let name = attrs::text(item, POOLS.key)?.parse().ok()?;
    let count = |name: &str| attrs::count(item, name).unwrap_or(0);
    let schedules = match item.get("schedules") {
        Some(Value::L(list)) => list.iter().filter_map(schedule).collect(),
        _ => Vec::new(),
    };
    Some(Pool {
        name,
        config: PoolConfig {
            instance_type: attrs::string(item, "instance_type").unwrap_or_default(),
            desired_running: count("desired_running"),
            desired_stopped: count("desired_stopped"),
            idle_timeout_minutes: count("idle_timeout_minutes"),
            schedules,
            arch: attrs::text(item, "arch").and_then(Arch::parse),
            cpu_min: count("cpu_min"),
            cpu_max: count("cpu_max"),
            ram_min: attrs::number(item, "ram_min").unwrap_or(0.0),
            ram_max: attrs::number(item, "ram_max").unwrap_or(0.0),
            families: attrs::texts(item, "families"),
            gen_: count("gen"),
            private: attrs::flag(item, "private"),
            multi_spec: attrs::flag(item, "multi_spec"),
            override_linger_minutes: attrs::count(item, "override_linger_minutes"),
            override_max_hot: attrs::count(item, "override_max_hot"),
            environment: attrs::string(item, "environment").unwrap_or_default(),
            region: attrs::string(item, "region").unwrap_or_default(),
        },
        ephemeral: attrs::flag(item, "ephemeral"),
        last_job_time: attrs::time(item, "last_job_time"),
        observed: attrs::count(item, "current_running").zip(attrs::count(item, "current_stopped")).map(
            |(running, stopped)| Observed {
                running,
                stopped,
                effective_running: attrs::count(item, "effective_desired_running"),
                effective_stopped: attrs::count(item, "effective_desired_stopped"),
            },
        ),
        last_reconcile_at: attrs::time(item, "last_reconcile_at"),
        last_reconcile_result: attrs::string(item, "last_reconcile_result"),
    })
}

fn schedule(value: &Value) -> Option<Schedule> {
    let Value::M(map) = value else { return None };
    let count = |name: &str| attrs::count(map, name).unwrap_or(0);
    let days_of_week = match map.get("days_of_week") {
        Some(Value::L(days)) => days
            .iter()
            .filter_map(|day| match day {
                Value::N(day) => u32::try_from(*day).ok(),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    Some(Schedule {
        name: attrs::string(map, "name").unwrap_or_default(),
        start_hour: count("start_hour"),
        end_hour: count("end_hour"),
        days_of_week,
        desired_running: count("desired_running"),
        desired_stopped: count("desired_stopped"),
    })
}
