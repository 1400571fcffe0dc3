//! Small rows that remember that something was done or seen, so that any replica, after any restart, can tell.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, Timestamp, after, since};
use domain::ids::{Repo, RunId, RunnerId};
use sha2::{Digest, Sha256};

use crate::attrs;
use crate::schema::{POOLS, ROW_KIND};
use crate::table::{Cond, Error, Outcome, Query, Table, Update, Value};

/// How long a requested re-run may take to arrive.
const RERUN: Duration = Duration::from_secs(48 * 3600);
/// How long a repository counts as active after its last job.
const ACTIVE: Duration = Duration::from_secs(7 * 24 * 3600);
/// A repository's row is written again only when it is older than this: a burst of jobs is one write.
const ACTIVE_STEP: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Clone)]
pub struct Markers {
    table: Arc<dyn Table>,
    clock: Arc<dyn Clock>,
}

impl Markers {
    /// A store on `table`.
    pub fn new(table: Arc<dyn Table>, clock: Arc<dyn Clock>) -> Self {
        Self { table, clock }
    }

    /// Notes, before GitHub is asked, that the job of this name in attempt `run_attempt` of the run is to be repeated.
    pub async fn ask_rerun(&self, run: RunId, job_name: &str, run_attempt: u32) -> Result<(), Error> {
        let update = Update::default()
            .set("row_kind", "rerun")
            .set("run_attempt", run_attempt)
            .set("claim_expiry", after(self.clock.now(), RERUN).as_second());
        self.table.update(&POOLS, &rerun_key(run, job_name), update, Cond::Always).await?.applied();
        Ok(())
    }

    /// Whether we asked for this job: the same run and name, lost in an earlier attempt.
    pub async fn is_our_rerun(&self, run: RunId, job_name: &str, run_attempt: u32) -> Result<bool, Error> {
        let row = self.table.get(&POOLS, &rerun_key(run, job_name)).await?;
        Ok(row.is_some_and(|row| {
            let live = attrs::seconds(&row, "claim_expiry").is_none_or(|at| at > self.clock.now());
            live && attrs::whole(&row, "run_attempt").is_some_and(|lost| lost < i64::from(run_attempt))
        }))
    }

    /// Notes that a job of the repository came in.
    pub async fn saw_job_of(&self, repo: &Repo) -> Result<(), Error> {
        let now = self.clock.now();
        let update = Update::default()
            .set("row_kind", "active_repo")
            .set("last_job_at", now.as_second())
            .set("claim_expiry", after(now, ACTIVE).as_second());
        let due = now.as_second() - i64::try_from(ACTIVE_STEP.as_secs()).unwrap_or(0);
        let cond = Cond::absent("last_job_at").or(Cond::lt("last_job_at", due));
        self.table.update(&POOLS, &Value::from(format!("__active_repo:{repo}")), update, cond).await?.applied();
        Ok(())
    }

    /// Repositories with a job within the last `within` (at most seven days are remembered), to about a minute.
    pub async fn active_repos(&self, within: Duration) -> Result<BTreeSet<Repo>, Error> {
        let now = self.clock.now();
        let rows = self.table.query(&POOLS, Query::of(ROW_KIND, "active_repo")).await?;
        Ok(rows
            .iter()
            .filter(|row| {
                attrs::seconds(*row, "last_job_at")
                    .is_some_and(|at| since(now, at) < within.saturating_add(ACTIVE_STEP))
            })
            .filter_map(|row| attrs::text(row, POOLS.key)?.strip_prefix("__active_repo:")?.parse().ok())
            .collect())
    }

    /// When the named periodic pass last succeeded.
    pub async fn passed(&self, name: &str) -> Result<Option<Timestamp>, Error> {
        let row = self.table.get(&POOLS, &period_key(name)?).await?;
        Ok(row.as_ref().and_then(|row| attrs::time(row, "passed_at")))
    }

    /// Notes that it succeeded at `at`; never moves backwards (lost).
    pub async fn pass(&self, name: &str, at: Timestamp) -> Result<Outcome, Error> {
        let at = attrs::stamp(at);
        let cond = Cond::absent("passed_at").or(Cond::lt("passed_at", at.clone()));
        let update = Update::default().set("row_kind", "period").set("passed_at", at);
        Ok(self.table.update(&POOLS, &period_key(name)?, update, cond).await?.map(|_| ()))
    }

    /// Notes that GitHub shows the runner offline, and answers for how long it has been seen so: zero the first time,
    /// whoever looks.
    pub async fn offline_seen(&self, repo: &Repo, runner: RunnerId) -> Result<Duration, Error> {
        let now = self.clock.now();
        let update =
            Update::default().set("row_kind", "runner_offline").set_if_absent("first_seen_offline", now.as_second());
        let row = self.table.update(&POOLS, &offline_key(repo, runner), update, Cond::Always).await?.applied();
        let first = row.as_ref().and_then(|row| attrs::seconds(row, "first_seen_offline"));
        Ok(first.map_or(Duration::ZERO, |first| Duration::from_secs(since(now, first).as_secs())))
    }

    /// Removes sightings first made before `before`; returns how many. One that was made anew meanwhile survives.
    pub async fn offline_reap(&self, before: Timestamp) -> Result<usize, Error> {
        let old = Cond::lt("first_seen_offline", before.as_second());
        let mut reaped = 0;
        for row in self.table.query(&POOLS, Query::of(ROW_KIND, "runner_offline")).await? {
            if let Some(key) = row.get(POOLS.key)
                && crate::cond::holds(&old, Some(&row))
                && self.table.delete(&POOLS, key, old.clone()).await?.is_applied()
            {
                reaped += 1;
            }
        }
        Ok(reaped)
    }

    /// For how long the runner has been seen offline, without noting anything. `None`: it was not.
    pub async fn offline_since(&self, repo: &Repo, runner: RunnerId) -> Result<Option<Duration>, Error> {
        let row = self.table.get(&POOLS, &offline_key(repo, runner)).await?;
        let first = row.as_ref().and_then(|row| attrs::seconds(row, "first_seen_offline"));
        Ok(first.map(|first| since(self.clock.now(), first)))
    }

    /// Forgets the sighting: the runner came back, or is gone.
    pub async fn offline_forget(&self, repo: &Repo, runner: RunnerId) -> Result<(), Error> {
        self.table.delete(&POOLS, &offline_key(repo, runner), Cond::Always).await?.applied();
        Ok(())
    }
}

/// Job names are free text; their hash is not.
fn rerun_key(run: RunId, job_name: &str) -> Value {
    let digest = Sha256::digest(job_name.as_bytes());
    Value::from(format!("__rerun:{run}:{}", hex::encode(&digest[..8])))
}

fn period_key(name: &str) -> Result<Value, Error> {
    if name.is_empty() {
        return Err(Error::Invalid("the pass has no name".to_owned()));
    }
    Ok(Value::from(format!("__period:{name}")))
}

fn offline_key(repo: &Repo, runner: RunnerId) -> Value {
    Value::from(format!("__runner_offline:{repo}:{runner}"))
}
