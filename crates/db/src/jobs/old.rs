//! Records that are over and may leave the table.

use std::collections::BTreeMap;

use domain::clock::Timestamp;
use domain::job::JobState;

use super::Jobs;
use crate::attrs;
use crate::schema::{JOBS, STATUS_CREATED};
use crate::table::{Cond, Error, Item, Outcome, Query, Value};

/// Rows read at once.
const PAGE: usize = 1000;

/// A settled record as it is stored, with attributes of every release.
#[derive(Debug, Clone, PartialEq)]
pub struct OldJob {
    row: Item,
    completed_at: Timestamp,
}

impl OldJob {
    /// The row.
    pub const fn row(&self) -> &Item {
        &self.row
    }

    /// When the job ended.
    pub const fn completed_at(&self) -> Timestamp {
        self.completed_at
    }

    /// The job's id, as stored.
    pub fn id(&self) -> String {
        match self.row.get(JOBS.key) {
            Some(Value::N(id)) => id.to_string(),
            Some(Value::S(id)) => id.to_string(),
            _ => String::new(),
        }
    }
}

impl Jobs {
    /// Settled records that ended before `before`, `limit` at most and about the oldest of each state; one that does not
    /// say when it ended is left to the table's own expiry. From an index: deleting checks again.
    pub async fn ended_before(&self, before: Timestamp, limit: usize) -> Result<Vec<OldJob>, Error> {
        let mut old = Vec::new();
        for state in JobState::all().filter(|state| state.is_settled()) {
            let mut from: Option<Value> = None;
            // A page begins with the second its predecessor ended in, so some rows come twice.
            let mut of_state: BTreeMap<String, OldJob> = BTreeMap::new();
            while of_state.len() < limit {
                // Whoever ended before then was created before then.
                let until = Some(attrs::stamp(before));
                let query =
                    Query { from: from.clone(), until, limit: Some(PAGE), ..Query::of(STATUS_CREATED, state.as_str()) };
                let page = self.table.query(&JOBS, query).await?;
                let next = page.last().and_then(|row| row.get("created_at")).cloned();
                let is_last = page.len() < PAGE || next == from;
                for row in page {
                    if let Some(completed_at) = attrs::time(&row, "completed_at").filter(|at| *at < before) {
                        let job = OldJob { row, completed_at };
                        of_state.insert(job.id(), job);
                    }
                }
                if is_last {
                    break;
                }
                from = next;
            }
            old.extend(of_state.into_values());
        }
        old.sort_by_key(OldJob::completed_at);
        old.truncate(limit);
        Ok(old)
    }

    /// Removes the record as it was read; lost when it has changed its state or its end since, or is gone.
    pub async fn delete_ended(&self, job: &OldJob) -> Result<Outcome, Error> {
        let still = |name: &'static str| job.row.get(name).map(|value| Cond::eq(name, value.clone()));
        let (Some(key), Some(completed), Some(status)) =
            (job.row.get(JOBS.key), still("completed_at"), still("status"))
        else {
            return Ok(Outcome::Lost);
        };
        self.table.delete(&JOBS, key, completed.and(status)).await
    }
}
