//! Instance claims: at most one actor at a time does something to a machine.
//!
//! A claim is a row of its own with an expiry, so a crashed holder frees the machine by time alone. A job's claim is
//! re-entrant for the same job (a repeated dispatch step finds its own claim); the claims of pool and sweep actions
//! are not, and conflict with everything. Whoever cannot tell must treat the machine as claimed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, after};
use domain::ids::{JobId, RunnerKey};

use crate::attrs;
use crate::schema::{POOLS, ROW_KIND};
use crate::table::{Cond, Error, Item, Outcome, Query, Table, Update, Value};

/// How far the clocks of two replicas may differ, in seconds: a claim or lock counts as expired only this much later.
pub(crate) const SKEW: i64 = 5;

const KIND: &str = "instance_claim";
/// What the key of a claim begins with.
const PREFIX: &str = "__instance_claim:";

/// Who claims a machine, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder<'a> {
    /// To run this job.
    Job(JobId),
    /// To act on the machine itself; `owner` is unique per acquisition.
    Action {
        /// What for.
        action: Action,
        /// Who.
        owner: &'a str,
    },
}

/// What a pool or a sweep does to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Start a stopped spare.
    Start,
    /// Stop a running one.
    ScaleDown,
    /// End it.
    Retire,
}

impl Action {
    /// The stored word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::ScaleDown => "scale_down",
            Self::Retire => "retire",
        }
    }
}

/// See the module.
#[derive(Clone)]
pub struct Claims {
    table: Arc<dyn Table>,
    clock: Arc<dyn Clock>,
}

impl Claims {
    /// A store on `table`.
    pub fn new(table: Arc<dyn Table>, clock: Arc<dyn Clock>) -> Self {
        Self { table, clock }
    }

    /// Takes (or, for the same job, extends) the claim for `ttl`; lost when somebody else holds it.
    pub async fn claim(&self, machine: &RunnerKey, holder: Holder<'_>, ttl: Duration) -> Result<Outcome, Error> {
        if ttl < Duration::from_secs(1) {
            return Err(Error::Invalid("a claim lasts at least a second".to_owned()));
        }
        let now = self.clock.now();
        let mut cond = Cond::absent("claim_expiry").or(Cond::lt("claim_expiry", now.as_second() - SKEW));
        let mut update = Update::default()
            .set("row_kind", KIND)
            .set("claimed_at", now.as_second())
            .set("claim_expiry", after(now, ttl).as_second());
        match holder {
            Holder::Job(job) => {
                let job = job_value(job);
                cond = cond.or(Cond::eq("job_id", job.clone()));
                update = update.set("job_id", job).set("claim_kind", "job").remove("claim_owner");
            }
            Holder::Action { action, owner } => {
                update = update.set("job_id", 0_i64).set("claim_kind", action.as_str()).set("claim_owner", owner);
            }
        }
        Ok(self.table.update(&POOLS, &key(machine)?, update, cond).await?.map(|_| ()))
    }

    /// Gives the claim back. Not ours any more, or never: fine, nothing changes.
    pub async fn release(&self, machine: &RunnerKey, holder: Holder<'_>) -> Result<(), Error> {
        let cond = match holder {
            Holder::Job(job) => Cond::eq("job_id", job_value(job)),
            Holder::Action { owner, .. } => Cond::eq("claim_owner", owner),
        };
        self.table.delete(&POOLS, &key(machine)?, cond).await?.applied();
        Ok(())
    }

    /// Whether somebody holds the machine. A row whose expiry cannot be read counts as held; the caller treats an
    /// error the same way.
    pub async fn is_claimed(&self, machine: &RunnerKey) -> Result<bool, Error> {
        let now = self.clock.now().as_second();
        let row = self.table.get(&POOLS, &key(machine)?).await?;
        Ok(row.is_some_and(|row| attrs::whole(&row, "claim_expiry").is_none_or(|expiry| expiry > now)))
    }

    /// Those of the machines that somebody holds, strongly consistent each.
    pub async fn claimed(&self, machines: &[RunnerKey]) -> Result<BTreeSet<RunnerKey>, Error> {
        let now = self.clock.now().as_second();
        let keys = machines.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        let held = |row: &Item| attrs::whole(row, "claim_expiry").is_none_or(|expiry| expiry > now);
        let rows = self.table.get_many(&POOLS, &keys).await?;
        let names = rows.iter().filter(|row| held(row)).filter_map(|row| attrs::text(row, POOLS.key));
        Ok(names.filter_map(|name| name.strip_prefix(PREFIX)).map(RunnerKey::from).collect())
    }

    /// Removes claims that expired; returns how many. One that was renewed meanwhile survives.
    pub async fn reap(&self) -> Result<usize, Error> {
        let dead = Cond::lt("claim_expiry", self.clock.now().as_second() - SKEW);
        let mut reaped = 0;
        for row in self.table.query(&POOLS, Query::of(ROW_KIND, KIND)).await? {
            if let Some(key) = row.get(POOLS.key)
                && crate::cond::holds(&dead, Some(&row))
                && self.table.delete(&POOLS, key, dead.clone()).await?.is_applied()
            {
                reaped += 1;
            }
        }
        Ok(reaped)
    }
}

fn key(machine: &RunnerKey) -> Result<Value, Error> {
    if machine.as_str().is_empty() {
        return Err(Error::Invalid("the machine has no id".to_owned()));
    }
    Ok(Value::from(format!("{PREFIX}{machine}")))
}

fn job_value(job: JobId) -> Value {
    Value::N(i64::try_from(job.get()).unwrap_or(i64::MAX))
}
