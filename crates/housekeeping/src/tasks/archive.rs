//! Records of jobs that are over: archived, then deleted.
//!
//! Deleted is only what an object of the archive holds that the store has acknowledged, and only while it is as it was
//! archived. A crash between the two archives a record twice and deletes it once: readers tell by job and end.

use std::collections::BTreeMap;
use std::io::Write as _;

use bytes::Bytes;
use db::OldJob;
use domain::clock::{Rng, SignedDuration, Timestamp};
use flate2::Compression;
use flate2::write::GzEncoder;
use telemetry::metrics::HousekeepingAction;
use tracing::warn;

use crate::context::{Error, Housekeeping};
use crate::run::Run;

#[cfg(test)]
mod tests;

/// How long a record stays in the table.
const KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Records of one run.
const MOST: usize = 2000;
/// What keys of the archive begin with. Nothing may expire there.
const PREFIX: &str = "jobs-archive";

/// The records by the day they ended on, UTC.
fn by_day(jobs: &[OldJob]) -> BTreeMap<String, Vec<&OldJob>> {
    let mut days: BTreeMap<String, Vec<&OldJob>> = BTreeMap::new();
    for job in jobs {
        days.entry(job.completed_at().strftime("%Y-%m-%d").to_string()).or_default().push(job);
    }
    days
}

/// One JSON object per line with every attribute, compressed.
fn packed(jobs: &[&OldJob]) -> Result<Bytes, Error> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    let written = jobs.iter().try_for_each(|job| {
        serde_json::to_writer(&mut packed, job.row())?;
        packed.write_all(b"\n")
    });
    written.and_then(|()| packed.finish()).map(Bytes::from).map_err(|error| Error::Internal(error.to_string()))
}

/// A name that is never given twice and sorts by time: a ULID.
fn ulid(now: Timestamp, rng: &dyn Rng) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let time = u128::try_from(now.as_millisecond().max(0)).unwrap_or(0) & ((1 << 48) - 1);
    let chance = (u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())) & ((1 << 80) - 1);
    let id = time << 80 | chance;
    (0..26).rev().map(|digit| char::from(DIGITS[((id >> (5 * digit)) & 31) as usize])).collect()
}

impl Housekeeping {
    pub(super) async fn old_jobs(&self, run: &Run<'_>) -> Result<(), Error> {
        let before = self.now().checked_sub(KEPT).unwrap_or(Timestamp::MIN);
        let budget = run.budget(MOST);
        let mut old = self.dispatch().jobs.ended_before(before, budget + 1).await?;
        if old.len() > budget {
            run.deferred(1);
            old.truncate(budget);
        }
        let archive = self.ports.archive.as_deref();
        let may_delete = archive.is_some() || self.settings.hard_delete;
        if !run.ask.dry_run {
            self.metrics().job_records_unarchived((!may_delete).then_some(old.len() as f64));
            self.metrics().housekeeping_disabled(run.task.name(), "no_archive", (!may_delete).then_some(1.0));
        }
        if !may_delete {
            run.note(
                "no archive is configured: nothing is deleted, the table's own expiry removes records after 30 days",
            );
            if !old.is_empty() {
                warn!(records = old.len(), "records of jobs are due for the archive, and there is none");
            }
            return Ok(());
        }
        for (day, jobs) in by_day(&old) {
            if !run.goes_on() {
                return Ok(());
            }
            if run.ask.dry_run {
                jobs.iter().for_each(|job| run.acted(None, &job.id(), "ended more than seven days ago"));
                continue;
            }
            if let Some(archive) = archive {
                let key = format!("{PREFIX}/dt={day}/{}.jsonl.gz", ulid(self.now(), self.rng()));
                if let Err(error) = archive.put(&key, packed(&jobs)?).await {
                    run.failed(&key, &error.into());
                    continue;
                }
            }
            for job in jobs {
                // What is archived and stays is archived again; it is read once.
                if !run.goes_on() {
                    return Ok(());
                }
                match self.dispatch().jobs.delete_ended(job).await {
                    Ok(db::Outcome::Applied(())) => {
                        run.acted(Some(HousekeepingAction::JobRecords), &job.id(), "ended more than seven days ago");
                    }
                    Ok(db::Outcome::Lost) => run.kept(),
                    Err(error) => run.failed(&job.id(), &error.into()),
                }
            }
        }
        Ok(())
    }
}
