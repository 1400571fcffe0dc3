//! The job records.
//!
//! What may happen to a record is decided by pure functions from an old record to a new one, elsewhere. This store
//! only makes such a step safe:
//!
//! * **A step decided on a stale read is refused.** Every write is pinned to the version that was read; of any number
//!   of writers that read the same version exactly one is applied, the others see [`Outcome::Lost`] and read again.
//! * **Only what changed is written**, so attributes this release does not know survive.
//! * **Steps that belong together are one transaction** ([`Jobs::commit`]): binding a job to a runner writes both
//!   records or neither.
//! * **Rows of the Go implementation take part.** They have no version. Their first write here is pinned to the very
//!   row that was read, and brings it into our form, which also removes the empty index attributes it may hold.

use std::sync::Arc;

use domain::clock::{Clock, Timestamp, after};
use domain::ids::{JobId, RunnerKey};
use domain::job::{Job, JobState};

use crate::attrs;
use crate::schema::{INSTANCE_ID, JOBS, STATUS_CREATED};
use crate::table::{Cond, Error, Item, Outcome, Query, Table, Update, Value};

use self::messages::Messages;

pub use self::commit::{Change, Committed};
pub use self::list::{JobFilter, Listing};
pub use self::old::OldJob;

mod codec;
mod commit;
mod list;
mod messages;
mod old;
#[cfg(test)]
mod tests;

/// Widest distance of a zone from UTC. Rows of the Go implementation may carry local times, whose text order is off by
/// at most this.
const ZONES: std::time::Duration = std::time::Duration::from_secs(14 * 3600);

/// See the module.
#[derive(Clone)]
pub struct Jobs {
    table: Arc<dyn Table>,
    clock: Arc<dyn Clock>,
    messages: Arc<Messages>,
}

/// From one record to the next.
struct Step {
    update: Update,
    /// What the row must still be.
    cond: Cond,
    /// The version afterwards.
    version: u64,
}

impl Jobs {
    /// A store on `table`. The clock hides rows past their expiry on back ends that remove them late.
    pub fn new(table: Arc<dyn Table>, clock: Arc<dyn Clock>) -> Self {
        Self { table, clock, messages: Arc::default() }
    }

    /// The record, strongly consistent.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for a row with a status of another release: it is left alone.
    pub async fn get(&self, id: JobId) -> Result<Option<Job>, Error> {
        match self.raw(id).await? {
            Some(item) => codec::decode(&item, &self.messages).map(Some).map_err(Error::Unreadable),
            None => Ok(None),
        }
    }

    /// Creates the record unless there is one.
    pub async fn create(&self, job: &Job) -> Result<Outcome<Job>, Error> {
        let (item, cond) = self.creation(job);
        let created = codec::decode(&item, &self.messages).map_err(Error::Invalid)?;
        Ok(self.table.put(&JOBS, item, cond).await?.map(|()| created))
    }

    /// Writes what changed between `old`, as it was read, and `new`; lost when the row has moved since. Answers the
    /// row as it is afterwards. Nothing is written when nothing changed.
    pub async fn write(&self, old: &Job, new: Job) -> Result<Outcome<Job>, Error> {
        let changed = codec::difference(old, &new);
        if changed.is_empty() {
            return Ok(Outcome::Applied(old.clone()));
        }
        let Outcome::Applied(Step { update, cond, version }) = self.step(old, &new, changed).await? else {
            return Ok(Outcome::Lost);
        };
        match self.table.update(&JOBS, &codec::key(new.id), update, cond).await? {
            Outcome::Applied(_) => {
                codec::after(old, new, version, &self.messages).map(Outcome::Applied).map_err(Error::Unreadable)
            }
            Outcome::Lost => Ok(Outcome::Lost),
        }
    }

    /// Removes the record as it was read; lost when it has moved since. A missing row is lost, too.
    pub async fn delete(&self, job: &Job) -> Result<Outcome, Error> {
        match self.pin(job).await? {
            Outcome::Applied((cond, _)) => self.table.delete(&JOBS, &codec::key(job.id), cond).await,
            Outcome::Lost => Ok(Outcome::Lost),
        }
    }

    /// Jobs in a state, oldest `created_at` first; with `before` only those created earlier. From an index, which may
    /// lag: confirm with [`Jobs::get`] (or a pinned write) before anything destructive. Unreadable rows are skipped
    /// and logged.
    pub async fn by_state(
        &self,
        state: JobState,
        before: Option<Timestamp>,
        limit: Option<usize>,
    ) -> Result<Vec<Job>, Error> {
        // Settled rows are many, and a few hours do not matter to their clean-up. The others are few, and must all be
        // found: read more than asked for and cut by the time itself.
        let exact = state.is_settled();
        let query = Query {
            until: before.map(|before| attrs::stamp(if exact { before } else { after(before, ZONES) })),
            limit: limit.filter(|_| exact || before.is_none()),
            ..Query::of(STATUS_CREATED, state.as_str())
        };
        let mut jobs = self.live(&self.table.query(&JOBS, query).await?);
        jobs.retain(|job| before.is_none_or(|before| job.created_at < before));
        jobs.sort_by_key(|job| (job.created_at, job.id));
        jobs.truncate(limit.unwrap_or(usize::MAX));
        Ok(jobs)
    }

    /// Every job that names the machine, whatever its state, newest `created_at` first. From an index.
    pub async fn by_instance(&self, instance: &RunnerKey) -> Result<Vec<Job>, Error> {
        if instance.as_str().is_empty() {
            return Err(Error::Invalid("the machine has no id".to_owned()));
        }
        let mut jobs = self.live(&self.table.query(&JOBS, Query::of(INSTANCE_ID, instance.as_str())).await?);
        jobs.sort_by_key(|job| std::cmp::Reverse((job.created_at, job.id)));
        Ok(jobs)
    }

    async fn raw(&self, id: JobId) -> Result<Option<Item>, Error> {
        let item = self.table.get(&JOBS, &codec::key(id)).await?;
        Ok(item.filter(|item| self.is_live(item)))
    }

    fn is_live(&self, item: &Item) -> bool {
        attrs::seconds(item, "ttl").is_none_or(|at| at > self.clock.now())
    }

    fn live(&self, items: &[Item]) -> Vec<Job> {
        let readable = |item: &Item| match codec::decode(item, &self.messages) {
            Ok(job) => Some(job),
            Err(reason) => {
                tracing::warn!(%reason, "a job record was skipped");
                None
            }
        };
        items.iter().filter(|item| self.is_live(item)).filter_map(readable).collect()
    }

    /// The row of a new record, and that there is none (or only an expired one) yet.
    fn creation(&self, job: &Job) -> (Item, Cond) {
        let mut item = codec::encode(job);
        item.insert("version", Value::N(1));
        (item, Cond::absent("job_id").or(Cond::lt("ttl", self.clock.now().as_second())))
    }

    /// The update that turns `old` into `new`, and what pins it to `old`. `changed`: what differs between the two.
    async fn step(&self, old: &Job, new: &Job, changed: Update) -> Result<Outcome<Step>, Error> {
        if old.id != new.id {
            return Err(Error::Invalid(format!("job {} cannot become job {}", old.id, new.id)));
        }
        let Outcome::Applied((cond, foreign)) = self.pin(old).await? else {
            return Ok(Outcome::Lost);
        };
        let mut update = foreign.map_or(changed, |row| attrs::difference(&row, &codec::encode(new)));
        // A store refuses to touch a row that keeps an empty text in an index key, as rows of the Go implementation
        // may, even behind a version of ours. Removing what is not there changes nothing.
        let wanted = [("instance_id", new.instance.as_ref().map(RunnerKey::as_str)), ("pool", codec::pool(new))];
        for (name, value) in wanted {
            if value.is_none_or(str::is_empty) && !update.remove.iter().any(|removed| removed == name) {
                update = update.remove(name);
            }
        }
        let version = old.version + 1;
        let update = update.set("version", i64::try_from(version).unwrap_or(i64::MAX));
        Ok(Outcome::Applied(Step { update, cond, version }))
    }

    /// The condition that the row still is `old`; of a row that is not in our form, the row itself.
    async fn pin(&self, old: &Job) -> Result<Outcome<(Cond, Option<Item>)>, Error> {
        if old.version > 0 {
            let version = i64::try_from(old.version).unwrap_or(i64::MAX);
            return Ok(Outcome::Applied((Cond::eq("version", version), None)));
        }
        // No version: the record alone does not say how its times were written, so the row itself is the pin.
        let Some(mut item) = self.raw(old.id).await? else {
            return Ok(Outcome::Lost);
        };
        if codec::decode(&item, &self.messages).as_ref() != Ok(old) {
            return Ok(Outcome::Lost);
        }
        let still = |name: &'static str| match item.get(name) {
            Some(value) => Cond::eq(name, value.clone()),
            None => Cond::absent(name),
        };
        let cond = Cond::exists("job_id")
            .and(Cond::absent("version"))
            .and(still("status"))
            .and(still("created_at"))
            .and(still("lease_token"));
        item.retain(|name| name == "job_id" || codec::OWNED.contains(&name));
        Ok(Outcome::Applied((cond, Some(item))))
    }
}
