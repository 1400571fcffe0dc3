//! Listing for people: newest first, filtered, by pages.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::clock::{Timestamp, after, whole_seconds};
use domain::ids::{JobId, PoolName, Repo, RunnerKey};
use domain::job::{Job, JobState, Settled};

use super::Jobs;
use crate::attrs::{stamp, text};
use crate::schema::{JOBS, POOL_CREATED, POOL_STATUS, STATUS_CREATED};
use crate::table::{Error, Query};

/// Which jobs, and which page of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JobFilter {
    /// Only these states; empty means every state.
    pub states: Vec<JobState>,
    /// Only jobs of this pool.
    pub pool: Option<PoolName>,
    /// Only jobs of this repository. There is no index for it: every row of the states is read.
    pub repo: Option<Repo>,
    /// Only jobs that name this machine.
    pub instance: Option<RunnerKey>,
    /// Only jobs with this text in their id, repository, names, labels or machine, in any case. No index either.
    pub text: Option<String>,
    /// Only jobs created at this second or later.
    pub since: Option<Timestamp>,
    /// Only jobs created before this second.
    pub until: Option<Timestamp>,
    /// Only what comes behind this row, named by `created_at` and id: the last one of the page before. Unlike an
    /// offset it stays in place while rows are added.
    pub after: Option<(Timestamp, JobId)>,
    /// Rows of the page; 0 means all.
    pub limit: usize,
    /// Matching rows to skip before the page.
    pub offset: usize,
}

/// A page of jobs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Listing {
    /// Newest `created_at` first.
    pub jobs: Vec<Job>,
    /// Matching rows in all, wherever the page begins.
    pub total: usize,
}

impl JobFilter {
    /// Whether a job is one of those counted in `total`.
    fn matches(&self, job: &Job) -> bool {
        let message = job.message.as_ref();
        (self.states.is_empty() || self.states.contains(&job.state))
            && self.pool.as_ref().is_none_or(|p| message.and_then(|m| m.spec.pool.as_ref()) == Some(p))
            && self.repo.as_ref().is_none_or(|repo| message.map(|m| &m.repo) == Some(repo))
            && self.since.is_none_or(|since| job.created_at >= since)
            && self.until.is_none_or(|until| job.created_at < until)
            && self.text.as_ref().is_none_or(|text| mentions(job, &text.to_lowercase()))
    }
}

fn mentions(job: &Job, text: &str) -> bool {
    let has = |field: &str| field.to_lowercase().contains(text);
    job.message.as_ref().is_some_and(|m| {
        has(m.repo.as_str()) || has(&m.job_name) || has(&m.workflow_name) || m.labels.iter().any(|l| has(l))
    }) || has(&job.id.to_string())
        || job.instance.as_ref().is_some_and(|key| has(key.as_str()))
        || job.runner_name.as_deref().is_some_and(has)
}

impl Jobs {
    /// Machines that jobs of the pool occupy, whoever's they are. From an index, which may lag.
    pub async fn busy_machines(&self, pool: &PoolName) -> Result<BTreeSet<RunnerKey>, Error> {
        let mut busy = BTreeSet::new();
        for state in JobState::all().filter(|state| state.occupies()) {
            // Just this state: no state's word begins with another's.
            let (from, until) = (state.as_str(), format!("{}~", state.as_str()));
            let query =
                Query { from: Some(from.into()), until: Some(until.into()), ..Query::of(POOL_STATUS, pool.as_str()) };
            // Of a row this release cannot read the machine is busy all the same.
            let rows = self.table.query(&JOBS, query).await?;
            let rows = rows.iter().filter(|row| self.is_live(row));
            busy.extend(rows.filter_map(|row| text(row, "instance_id")).map(RunnerKey::from));
        }
        Ok(busy)
    }

    /// Jobs of the pool created at `since` or later, oldest first, without those that were orphaned. From an index.
    pub async fn pool_history(&self, pool: &PoolName, since: Timestamp) -> Result<Vec<Job>, Error> {
        let query = Query { from: Some(stamp(since)), ..Query::of(POOL_CREATED, pool.as_str()) };
        let mut jobs = self.live(&self.table.query(&JOBS, query).await?);
        jobs.retain(|job| job.state != JobState::Settled(Settled::Orphaned) && job.created_at >= whole_seconds(since));
        Ok(jobs)
    }

    /// The jobs that match, newest first.
    pub async fn list(&self, filter: &JobFilter) -> Result<Listing, Error> {
        let end = if filter.limit == 0 { usize::MAX } else { filter.offset.saturating_add(filter.limit) };
        let mut total = None;
        let mut jobs = if let Some(instance) = &filter.instance {
            self.by_instance(instance).await?
        } else if let Some(pool) = &filter.pool {
            self.live(&self.table.query(&JOBS, Query::of(POOL_CREATED, pool.as_str())).await?)
        } else {
            let all: Vec<_>;
            let states = if filter.states.is_empty() {
                all = JobState::all().collect();
                &all
            } else {
                &filter.states
            };
            let mut jobs = Vec::new();
            for state in states {
                let mut query = Query {
                    descending: true,
                    from: filter.since.map(stamp),
                    until: filter.until.map(stamp),
                    ..Query::of(STATUS_CREATED, state.as_str())
                };
                if filter.repo.is_none() && filter.text.is_none() {
                    *total.get_or_insert(0) += self.table.count(&JOBS, query.clone()).await?;
                    if let Some((at, _)) = filter.after {
                        // The index does not order rows of one second by their id: all of that second are read.
                        let next = after(at, Duration::from_secs(1));
                        let same = Query { from: Some(stamp(at)), until: Some(stamp(next)), ..query.clone() };
                        jobs.extend(self.live(&self.table.query(&JOBS, same).await?));
                        query.until = Some(stamp(filter.until.map_or(at, |until| until.min(at))));
                    }
                    // The page is among the newest `end` rows of each state.
                    query.limit = Some(end).filter(|end| *end != usize::MAX);
                }
                jobs.extend(self.live(&self.table.query(&JOBS, query).await?));
            }
            jobs
        };
        jobs.retain(|job| filter.matches(job));
        jobs.sort_by_key(|job| std::cmp::Reverse((job.created_at, job.id)));
        let total = total.unwrap_or(jobs.len());
        jobs.retain(|job| filter.after.is_none_or(|row| (job.created_at, job.id) < row));
        jobs.truncate(end);
        jobs.drain(..filter.offset.min(jobs.len()));
        Ok(Listing { jobs, total })
    }
}
