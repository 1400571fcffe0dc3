//! Several steps in one transaction.

use domain::job::Job;
use domain::runner::Runner;

use super::{Jobs, Step, codec};
use crate::runners;
use crate::schema::JOBS;
use crate::table::{Error, Outcome, Write};

/// One step of a transaction. Every one is pinned to what was read, also when it changes nothing: the transaction then
/// depends on that record not having moved.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "a handful at a time, and moved once")]
pub enum Change {
    /// From the record as read (`None`: there is none) to the next.
    Job {
        /// As it was read.
        old: Option<Job>,
        /// As it shall be.
        new: Job,
    },
    /// From the row as read (`None`: there is none) to the next.
    Runner {
        /// As it was read.
        old: Option<Runner>,
        /// As it shall be.
        new: Runner,
    },
    /// Removes the record as it was read.
    DeleteJob(Job),
}

/// The records as they are after a transaction, each kind in the order of the changes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Committed {
    /// Job records, without removed ones.
    pub jobs: Vec<Job>,
    /// Runner records.
    pub runners: Vec<Runner>,
}

impl Jobs {
    /// Applies all changes or none; lost when any record has moved since it was read. At most 25, each to another
    /// record.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<Outcome<Committed>, Error> {
        let mut writes = Vec::with_capacity(changes.len());
        let mut after = Committed::default();
        for change in changes {
            let write = match change {
                Change::Job { old: None, new } => {
                    let (item, cond) = self.creation(&new);
                    after.jobs.push(codec::decode(&item, &self.messages).map_err(Error::Invalid)?);
                    Write::Put { table: &JOBS, item, cond }
                }
                Change::Job { old: Some(old), new } => {
                    let changed = codec::difference(&old, &new);
                    let Outcome::Applied(Step { update, cond, version }) = self.step(&old, &new, changed).await? else {
                        return Ok(Outcome::Lost);
                    };
                    let key = codec::key(new.id);
                    after.jobs.push(codec::after(&old, new, version, &self.messages).map_err(Error::Invalid)?);
                    Write::Update { table: &JOBS, key, update, cond }
                }
                Change::Runner { old, new } => {
                    let (write, runner) = runners::step(old.as_ref(), new)?;
                    after.runners.push(runner);
                    write
                }
                Change::DeleteJob(job) => {
                    let Outcome::Applied((cond, _)) = self.pin(&job).await? else {
                        return Ok(Outcome::Lost);
                    };
                    Write::Delete { table: &JOBS, key: codec::key(job.id), cond }
                }
            };
            writes.push(write);
        }
        Ok(self.table.transact(writes).await?.map(|()| after))
    }
}
