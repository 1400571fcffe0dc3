//! Listing for people: newest first, filtered, by pages.

use domain::ids::{PoolName, Repo, RunnerKey};
use domain::job::{Job, JobState};

use super::Jobs;
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
    /// Rows of the page; 0 means all.
    pub limit: usize,
    /// Matching rows before the page.
    pub offset: usize,
}

/// A page of jobs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Listing {
    /// Newest `created_at` first.
    pub jobs: Vec<Job>,
    /// Matching rows in all.
    pub total: usize,
}

impl Jobs {
    /// The jobs that match, newest first.
    pub async fn list(&self, filter: &JobFilter) -> Result<Listing, Error> {
        let end = if filter.limit == 0 { usize::MAX } else { filter.offset.saturating_add(filter.limit) };
        let mut total = None;
        let mut jobs = if let Some(instance) = &filter.instance {
            self.by_instance(instance).await?
        } else if let Some(pool) = &filter.pool {
            self.live(self.table.query(&JOBS, Query::of(POOL_CREATED, pool.as_str())).await?)
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
                let mut query = Query { descending: true, ..Query::of(STATUS_CREATED, state.as_str()) };
                if filter.repo.is_none() {
                    // The page is among the newest `end` rows of each state.
                    *total.get_or_insert(0) += self.table.count(&JOBS, query.clone()).await?;
                    query.limit = Some(end).filter(|end| *end != usize::MAX);
                }
                jobs.extend(self.live(self.table.query(&JOBS, query).await?));
            }
            jobs
        };
        jobs.retain(|job| {
            let message = job.message.as_ref();
            (filter.states.is_empty() || filter.states.contains(&job.state))
                && filter.pool.as_ref().is_none_or(|p| message.and_then(|m| m.spec.pool.as_ref()) == Some(p))
                && filter.repo.as_ref().is_none_or(|repo| message.map(|m| &m.repo) == Some(repo))
        });
        jobs.sort_by_key(|job| std::cmp::Reverse((job.created_at, job.id)));
        let total = total.unwrap_or(jobs.len());
        jobs.truncate(end);
        jobs.drain(..filter.offset.min(jobs.len()));
        Ok(Listing { jobs, total })
    }
}
