//! What is written under a pool's lock: how a pass went, and the removal of the pool.
//!
//! Races survived:
//!
//! * *The lock was lost meanwhile* (the holder overran its time): every write names the acquisition and is refused.
//! * *The leader was deposed meanwhile*: its writes are fenced, too.
//! * *A job names the pool while it is being removed*: [`Pools::touch`] takes the mark away that the removal leaves, and
//!   the last step asks for the mark. So the pool stays, and the job's dispatcher finds it.
//! * *The removal stops half-way*: the mark stays, passes leave the pool alone, and the next removal or the next job
//!   goes on from there.

use domain::clock::Timestamp;
use domain::ids::PoolName;

use super::{Created, Health, Observed, Pools, codec, key};
use crate::attrs;
use crate::fence::Fence;
use crate::locks::Held;
use crate::schema::POOLS;
use crate::table::{Cond, Error, Outcome, Update, Value};

/// Longest stored result of a pass, in characters.
const RESULT: usize = 300;

/// What a pass leaves on the pool's row. `None` is left as it was.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// How it ended; the time is added.
    pub result: Option<String>,
    /// What it saw, and aimed at.
    pub observed: Option<Observed>,
    /// The machines to watch.
    pub created: Option<Created>,
    /// What became of those watched before.
    pub health: Option<Health>,
}

/// A removal under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Deletion {
    at: i64,
    /// The pool is still unused if this has not changed.
    last_job: Option<Value>,
    forced: bool,
}

impl Pools {
    /// Records how a pass went and gives the lock back, in one write. Lost: the lock or the leadership was, or the
    /// pool is gone; then nothing is written, and the lock must be released by itself.
    pub async fn finish(
        &self,
        name: &PoolName,
        held: &Held,
        fence: Option<Fence>,
        report: &Report,
    ) -> Result<Outcome, Error> {
        let mut update = held.returned();
        if let Some(result) = &report.result {
            let result: String = result.chars().take(RESULT).collect();
            update =
                update.set("last_reconcile_at", attrs::stamp(self.clock.now())).set("last_reconcile_result", result);
        }
        if let Some(Observed { running, stopped, effective_running, effective_stopped }) = report.observed {
            update = update.set("current_running", running).set("current_stopped", stopped);
            for (attr, target) in
                [("effective_desired_running", effective_running), ("effective_desired_stopped", effective_stopped)]
            {
                update = match target {
                    Some(target) => update.set(attr, target),
                    None => update.remove(attr),
                };
            }
        }
        if let Some(Created { at, keys }) = &report.created {
            update = match at {
                Some(at) => update.set("last_create_at", at.as_second()),
                None => update.remove("last_create_at"),
            };
            let keys = keys.iter().map(|key| Value::from(key.as_str())).collect();
            update = update.set("last_create_ids", Value::L(keys));
        }
        if let Some(health) = report.health {
            update = update.set("pool_health", codec::health_value(health));
        }
        let (update, cond) = Fence::guard(fence, update, held.ours());
        self.update(name, update, cond).await
    }

    /// Announces the removal of an unused pool, under its lock. Lost: it was used after `last_job`, it is an
    /// operator's pool (unless `forced`, and both its targets are zero), or the lock is gone.
    pub async fn begin_deletion(
        &self,
        name: &PoolName,
        held: &Held,
        last_job: Option<Timestamp>,
        forced: bool,
    ) -> Result<Outcome<Deletion>, Error> {
        // The stored text is what is compared: it may be in another form than ours.
        let row = self.table.get(&POOLS, &key(name)).await?.unwrap_or_default();
        if attrs::time(&row, "last_job_time") != last_job {
            return Ok(Outcome::Lost);
        }
        let at = self.clock.now().as_second();
        let deletion = Deletion { at, last_job: row.get("last_job_time").cloned(), forced };
        let update = Update::default().set("deleting_at", at);
        Ok(self.update(name, update, held.ours().and(deletion.allowed())).await?.map(|()| deletion))
    }

    /// Takes the announcement back. Not there any more: fine, nothing changes.
    pub async fn abandon_deletion(&self, name: &PoolName, deletion: &Deletion) -> Result<(), Error> {
        let mine = Cond::eq("deleting_at", deletion.at);
        self.update(name, Update::default().remove("deleting_at"), mine).await?.applied();
        Ok(())
    }

    /// Removes the pool, and with it its lock. Lost: it is in use again, or the lock is gone.
    pub async fn delete(&self, name: &PoolName, held: &Held, deletion: &Deletion) -> Result<Outcome, Error> {
        let cond =
            Cond::exists(POOLS.key).and(held.ours()).and(deletion.allowed()).and(Cond::eq("deleting_at", deletion.at));
        self.table.delete(&POOLS, &key(name), cond).await
    }
}

impl Deletion {
    fn allowed(&self) -> Cond {
        let unused = match &self.last_job {
            Some(last) => Cond::eq("last_job_time", last.clone()),
            None => Cond::absent("last_job_time"),
        };
        let zero = |attr: &'static str| Cond::absent(attr).or(Cond::eq(attr, 0_i64));
        let ephemeral = Cond::eq("ephemeral", true);
        let allowed =
            if self.forced { ephemeral.or(zero("desired_running").and(zero("desired_stopped"))) } else { ephemeral };
        unused.and(allowed)
    }
}
