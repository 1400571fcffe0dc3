//! Listing for people: newest first, filtered, by pages.

use std::time::Duration;

use domain::clock::{Timestamp, after};
use domain::ids::{JobId, PoolName, Repo, RunnerKey};
use domain::job::{Job, JobState};

use super::Jobs;
use crate::attrs::stamp;
use crate::schema::{JOBS, POOL_CREATED, STATUS_CREATED};
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
