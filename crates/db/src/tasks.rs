//! The durable schedule of periodic tasks: on the row of a task's lock stands when it last ran, and how that ended.
//!
//! Any replica may take over at any moment and goes on where the row says. A run's writes are pinned to its acquisition
//! of the lock, so that a run whose lock was taken over says nothing any more; a leader's are fenced besides. The last
//! write of a run also gives the lock back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, Timestamp, after, since};

use crate::attrs;
use crate::claims;
use crate::fence::Fence;
use crate::locks::Held;
use crate::schema::{POOLS, ROW_KIND};
use crate::table::{Cond, Error, Item, Outcome, Query, Table, Update, Value};

#[cfg(test)]
mod tests;

/// `row_kind` of a task's row.
pub(crate) const KIND: &str = "task_lock";
/// What keys of task rows begin with.
const PREFIX: &str = "__task_lock:";
/// Clocks differ: a lock is taken over only so long after its end.
const SKEW: Duration = Duration::from_secs(claims::SKEW.unsigned_abs() + 1);
/// Longest stored result, in characters.
const RESULT: usize = 300;

/// The key of a task's row.
pub(crate) fn key(task: &str) -> Result<Value, Error> {
    if task.is_empty() {
        return Err(Error::Invalid("the task has no name".to_owned()));
    }
    Ok(Value::from(format!("{PREFIX}{task}")))
}

/// Why a run was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// It was due.
    Timer,
    /// A message asked for it.
    Queue,
    /// An operator.
    Admin,
}

impl Trigger {
    /// The stored word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timer => "timer",
            Self::Queue => "queue",
            Self::Admin => "admin",
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Without a failure.
    Success,
    /// With one.
    Failed {
        /// In words.
        why: String,
        /// Nothing at all could be looked at.
        barren: bool,
    },
    /// It was told to stop before it was through.
    Aborted,
}

/// A task's row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskRow {
    /// When a run last began.
    pub last_started_at: Option<Timestamp>,
    /// When one last ended, other than by being aborted.
    pub last_finished_at: Option<Timestamp>,
    /// When one last ended well.
    pub last_success_at: Option<Timestamp>,
    /// How the last one ended, in words.
    pub last_result: Option<String>,
    /// How long it took.
    pub last_duration: Option<Duration>,
    /// The stored word of why it was begun.
    pub last_trigger: Option<String>,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// Runs in a row in which nothing at all could be looked at.
    pub consecutive_barren: u32,
    /// Until when nobody else can run it, because somebody does.
    pub locked_until: Option<Timestamp>,
}

/// See the module.
#[derive(Clone)]
pub struct Tasks {
    table: Arc<dyn Table>,
    clock: Arc<dyn Clock>,
}

impl Tasks {
    /// A store on `table`.
    pub fn new(table: Arc<dyn Table>, clock: Arc<dyn Clock>) -> Self {
        Self { table, clock }
    }

    /// The task's row, strongly consistent; an empty one before its first run.
    pub async fn get(&self, task: &str) -> Result<TaskRow, Error> {
        Ok(self.table.get(&POOLS, &key(task)?).await?.as_ref().map(decode).unwrap_or_default())
    }

    /// Every task's row, by name. From an index, which may lag: confirm with [`Tasks::get`] under the lock.
    pub async fn all(&self) -> Result<BTreeMap<String, TaskRow>, Error> {
        let rows = self.table.query(&POOLS, Query::of(ROW_KIND, KIND)).await?;
        let named = |row: &Item| Some(attrs::text(row, POOLS.key)?.strip_prefix(PREFIX)?.to_owned());
        Ok(rows.iter().filter_map(|row| Some((named(row)?, decode(row)))).collect())
    }

    /// Notes that a run begins now. Lost: the lock is no longer ours, or a later leader has been here.
    pub async fn started(
        &self,
        task: &str,
        held: &Held,
        trigger: Trigger,
        fence: Option<Fence>,
    ) -> Result<Outcome, Error> {
        let update = Update::default()
            .set("last_started_at", self.clock.now().as_second())
            .set("last_trigger", trigger.as_str());
        self.write(task, held, update, fence).await
    }

    /// Notes how the run ended, and gives the lock back. Lost as with [`Tasks::started`]; the lock is then not touched.
    pub async fn ended(
        &self,
        task: &str,
        held: &Held,
        began: Timestamp,
        end: &Ended,
        fence: Option<Fence>,
    ) -> Result<Outcome, Error> {
        let now = self.clock.now();
        let took = i64::try_from(since(now, began).as_millis()).unwrap_or(i64::MAX);
        let mut update = Update::default().remove("lock_owner").remove("lock_expires");
        if *end != Ended::Aborted {
            update = update.set("last_finished_at", now.as_second()).set("last_duration_ms", took);
        }
        update = match end {
            Ended::Success => update
                .set("last_result", "success")
                .set("last_success_at", now.as_second())
                .set("consecutive_failures", 0_i64)
                .set("consecutive_barren", 0_i64),
            Ended::Failed { why, barren } => {
                let result: String = format!("failed: {why}").chars().take(RESULT).collect();
                let update = update.set("last_result", result).add("consecutive_failures", 1_i64);
                if *barren { update.add("consecutive_barren", 1_i64) } else { update.set("consecutive_barren", 0_i64) }
            }
            Ended::Aborted => update.set("last_result", "aborted"),
        };
        self.write(task, held, update, fence).await
    }

    /// Whether a later leader than the fence's has written the task's row.
    pub async fn is_passed(&self, task: &str, fence: Fence) -> Result<bool, Error> {
        Ok(self.table.get(&POOLS, &key(task)?).await?.is_some_and(|row| fence.is_passed_by(&row)))
    }

    async fn write(&self, task: &str, held: &Held, update: Update, fence: Option<Fence>) -> Result<Outcome, Error> {
        // The token says which acquisition: it is larger than that of every earlier one.
        let (update, cond) = Fence::guard(fence, update, Cond::eq("lock_token", held.token()));
        Ok(self.table.update(&POOLS, &key(task)?, update, cond).await?.map(|_| ()))
    }
}

fn decode(row: &Item) -> TaskRow {
    TaskRow {
        last_started_at: attrs::seconds(row, "last_started_at"),
        last_finished_at: attrs::seconds(row, "last_finished_at"),
        last_success_at: attrs::seconds(row, "last_success_at"),
        last_result: attrs::string(row, "last_result"),
        last_duration: attrs::count(row, "last_duration_ms").map(Duration::from_millis),
        last_trigger: attrs::string(row, "last_trigger"),
        consecutive_failures: attrs::count(row, "consecutive_failures").unwrap_or(0),
        consecutive_barren: attrs::count(row, "consecutive_barren").unwrap_or(0),
        locked_until: attrs::seconds(row, "lock_expires").map(|at| after(at, SKEW)),
    }
}
