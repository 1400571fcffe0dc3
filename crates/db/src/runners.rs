//! The runner records: one row per machine a runner was minted for.
//!
//! As with jobs, the decisions are pure functions elsewhere and every write is pinned to the version that was read. A
//! version never comes back: a machine that was unwound and assigned again continues the count of its `gone` row, so
//! that a writer of the earlier incarnation cannot be mistaken for one of the new.

use std::sync::Arc;

use domain::clock::{Clock, Timestamp, whole_seconds};
use domain::ids::{ClassKey, DispatchId, JobId, PoolName, RunnerId, RunnerKey};
use domain::runner::{FinalReport, Runner, RunnerState};

use crate::attrs::{self, Difference, Reader, Row};
use crate::schema::{RUNNERS, STATE};
use crate::table::{Cond, Error, Item, Outcome, Query, Table, Update, Value, Write};

#[cfg(test)]
mod tests;

/// See the module.
#[derive(Clone)]
pub struct Runners {
    table: Arc<dyn Table>,
    clock: Arc<dyn Clock>,
}

impl Runners {
    /// A store on `table`. The clock hides rows past their expiry on back ends that remove them late.
    pub fn new(table: Arc<dyn Table>, clock: Arc<dyn Clock>) -> Self {
        Self { table, clock }
    }

    /// The row, strongly consistent.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for a row this release cannot read.
    pub async fn get(&self, key: &RunnerKey) -> Result<Option<Runner>, Error> {
        match self.table.get(&RUNNERS, &Value::from(key.as_str())).await? {
            Some(item) if self.is_live(&item) => decode(&item).map(Some).map_err(Error::Unreadable),
            _ => Ok(None),
        }
    }

    /// Writes what changed between `old`, as it was read (`None`: there was no row), and `new`; lost when the row has
    /// moved since. Nothing is written when nothing changed.
    pub async fn write(&self, old: Option<&Runner>, new: Runner) -> Result<Outcome<Runner>, Error> {
        if let Some(old) = old.filter(|old| difference(Some(old), &new).is_empty()) {
            return Ok(Outcome::Applied(old.clone()));
        }
        let (write, runner) = step(old, new)?;
        Ok(self.table.transact(vec![write]).await?.map(|()| runner))
    }

    /// Runners in a state, oldest `minted_at` first; with `before` only those minted earlier. From an index, which
    /// may lag: confirm with [`Runners::get`] before anything destructive. Unreadable rows are skipped and logged.
    pub async fn in_state(
        &self,
        state: RunnerState,
        before: Option<Timestamp>,
        limit: Option<usize>,
    ) -> Result<Vec<Runner>, Error> {
        let query = Query { until: before.map(attrs::stamp), limit, ..Query::of(STATE, state.as_str()) };
        let readable = |item: &Item| match decode(item) {
            Ok(runner) => Some(runner),
            Err(reason) => {
                tracing::warn!(%reason, "a runner record was skipped");
                None
            }
        };
        let items = self.table.query(&RUNNERS, query).await?;
        Ok(items.iter().filter(|item| self.is_live(item)).filter_map(readable).collect())
    }

    fn is_live(&self, item: &Item) -> bool {
        attrs::seconds(item, "ttl").is_none_or(|at| at > self.clock.now())
    }
}

/// The write that turns `old` into `new`, and the row as it will be.
pub(crate) fn step(old: Option<&Runner>, new: Runner) -> Result<(Write, Runner), Error> {
    let key = Value::from(new.key.as_str());
    if let Some(old) = old.filter(|old| old.key != new.key) {
        return Err(Error::Invalid(format!("runner {} cannot become runner {}", old.key, new.key)));
    }
    let (version, cond) = match old {
        Some(old) => (old.version + 1, Cond::eq("version", whole(old.version))),
        None => (1, Cond::absent("runner_key")),
    };
    let update = difference(old, &new).set("version", whole(version));
    let write = match old {
        Some(_) => Write::Update { table: &RUNNERS, key, update, cond },
        None => Write::Put { table: &RUNNERS, item: update.set, cond },
    };
    Ok((write, stored(new, version)))
}

fn whole(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

/// What turns the row of `old` into that of `new`; without `old` the whole row. Without the version.
fn difference(old: Option<&Runner>, new: &Runner) -> Update {
    Difference::between(old, new, |row| {
        row.put("runner_key", |runner| runner.key.as_str());
        row.put("state", |runner| runner.state.as_str());
        row.put("repo", |runner| runner.repo.as_str());
        row.text("runner_name", |runner| Some(&runner.name));
        row.texts("abandoned_names", |runner| &runner.abandoned_names);
        row.whole("runner_id", |runner| runner.id.map(RunnerId::get));
        row.texts("labels", |runner| &runner.labels);
        row.text("class_key", |runner| Some(runner.class.as_str()));
        row.text("pool", |runner| runner.pool.as_ref().map(PoolName::as_str));
        row.whole("bound_job_id", |runner| runner.bound_job.map(JobId::get));
        row.whole("running_job_id", |runner| runner.running_job.map(JobId::get));
        row.text("dispatch_id", |runner| Some(runner.dispatch.as_str()));
        row.time("minted_at", |runner| Some(runner.minted_at));
        row.time("online_at", |runner| runner.online_at);
        row.time("running_since", |runner| runner.running_since);
        row.time("interrupted_at", |runner| runner.interrupted_at);
        row.time("retire_at", |runner| runner.retire_at);
        row.value("report", |runner| runner.report.as_ref(), report);
        row.seconds("ttl", |runner| runner.ttl);
    })
}

fn report(report: &FinalReport) -> Value {
    let mut map = Row::default();
    map.text("status", Some(&report.status));
    map.whole("exit_code", Some(report.exit_code));
    map.whole("duration_seconds", Some(report.duration_seconds));
    map.time("at", Some(report.at));
    Value::M(map.0)
}

/// What writing a row and reading it again makes of it: instants are cut to whole seconds.
fn stored(runner: Runner, version: u64) -> Runner {
    fn cut(at: Option<Timestamp>) -> Option<Timestamp> {
        at.map(whole_seconds)
    }
    Runner {
        version,
        minted_at: whole_seconds(runner.minted_at),
        online_at: cut(runner.online_at),
        running_since: cut(runner.running_since),
        interrupted_at: cut(runner.interrupted_at),
        retire_at: cut(runner.retire_at),
        report: runner.report.map(|report| FinalReport { at: whole_seconds(report.at), ..report }),
        ttl: cut(runner.ttl),
        ..runner
    }
}

fn decode(item: &Item) -> Result<Runner, String> {
    let row = &Reader::new(item);
    let key = attrs::text(row, "runner_key").ok_or("a runner without runner_key")?;
    let unreadable = |name: &str| format!("runner {key} has no readable {name}");
    let job = |name: &str| attrs::count(row, name).and_then(JobId::new);
    // In the order of the names.
    Ok(Runner {
        key: RunnerKey::from(key),
        abandoned_names: attrs::texts(row, "abandoned_names"),
        bound_job: job("bound_job_id"),
        class: ClassKey::new(attrs::text(row, "class_key").unwrap_or_default()),
        dispatch: DispatchId::new(attrs::text(row, "dispatch_id").unwrap_or_default()),
        interrupted_at: attrs::time(row, "interrupted_at"),
        labels: attrs::texts(row, "labels"),
        minted_at: attrs::time(row, "minted_at").unwrap_or(Timestamp::UNIX_EPOCH),
        online_at: attrs::time(row, "online_at"),
        pool: attrs::text(row, "pool").and_then(|name| name.parse().ok()),
        repo: attrs::text(row, "repo").and_then(|repo| repo.parse().ok()).ok_or_else(|| unreadable("repo"))?,
        report: match item.get("report") {
            Some(Value::M(report)) => Some(FinalReport {
                status: attrs::string(report, "status").unwrap_or_default(),
                exit_code: attrs::whole(report, "exit_code").unwrap_or(0),
                duration_seconds: attrs::count(report, "duration_seconds").unwrap_or(0),
                at: attrs::time(report, "at").unwrap_or(Timestamp::UNIX_EPOCH),
            }),
            _ => None,
        },
        retire_at: attrs::time(row, "retire_at"),
        id: attrs::count(row, "runner_id").and_then(RunnerId::new),
        name: attrs::string(row, "runner_name").unwrap_or_default(),
        running_job: job("running_job_id"),
        running_since: attrs::time(row, "running_since"),
        state: attrs::text(row, "state").and_then(RunnerState::parse).ok_or_else(|| unreadable("state"))?,
        ttl: attrs::seconds(row, "ttl"),
        version: attrs::count(row, "version").unwrap_or(0),
    })
}
