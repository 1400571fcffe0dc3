//! Jobs that wait on a runner which will not serve them.
//!
//! Webhooks tell which runner serves which job, and are lost sometimes. Here GitHub is asked about every bound job that it
//! has not been seen to run, and a job whose runner ended, or serves another, is dispatched again at once instead of at
//! the age that brings it to the other sweeps. What is to be done is theirs to say.
//!
//! First the evidence of a whole repository, then the acts: a job that looks robbed may be the next one's answer.

use std::collections::{BTreeMap, BTreeSet};

use domain::clock;
use domain::gh;
use domain::ids::{ClassKey, Repo};
use domain::job::{Job, JobState};
use domain::runner::{Runner, RunnerState};
use github::client::Priority;

use super::{GITHUB_CALLS, REDISPATCHES, Scope, Swept};
use crate::context::{Dispatch, Error};
use crate::records::repo_of;

impl Dispatch {
    /// Bound jobs that GitHub was not asked about for a while and has not been seen to run.
    pub(super) async fn refresh(&self, scope: &Scope<'_>) -> Result<Swept, Error> {
        let (now, fresh) = (self.now(), self.settings.timings.sighting * 2);
        let mut swept = Swept::default();
        let mut waiting = Vec::new();
        for state in [JobState::Launched, JobState::Running] {
            waiting.extend(self.ports.jobs.by_state(state, None, None).await?);
        }
        waiting.retain(|job| {
            let seen = job.sighting.map_or(job.created_at, |seen| seen.at);
            job.in_progress_at.is_none() && scope.covers(job) && clock::since(now, seen) > fresh
        });
        waiting.sort_by_key(|job| job.sighting.map(|seen| seen.at));
        let mut unfinished: BTreeSet<&Repo> = BTreeSet::new();
        let mut queued = Vec::new();
        for (at, job) in waiting.iter().enumerate() {
            if scope.dry_run {
                swept.would_look_into(&job.id);
                continue;
            }
            let Some(repo) = repo_of(job) else { continue };
            if at >= GITHUB_CALLS || !scope.goes_on(&swept) {
                unfinished.insert(repo);
                swept.deferred += 1;
                continue;
            }
            match self.ask(job, Priority::Sweep).await {
                Ok(gh::Status::Queued) => queued.push((repo, job)),
                Ok(gh::Status::Unknown) => drop(unfinished.insert(repo)),
                Ok(_) => swept.count(&Ok(false)),
                Err(error) => {
                    unfinished.insert(repo);
                    swept.count(&Err(error));
                }
            }
        }
        let mut again: BTreeMap<Option<&ClassKey>, usize> = BTreeMap::new();
        for (_, job) in queued.into_iter().filter(|(repo, _)| !unfinished.contains(repo)) {
            let of_class = again.entry(job.class.as_ref()).or_default();
            if *of_class >= REDISPATCHES || !scope.goes_on(&swept) {
                swept.deferred += 1;
                continue;
            }
            let step = self.refresh_job(job).await;
            *of_class += usize::from(matches!(step, Ok(true)));
            swept.count(&step);
        }
        Ok(swept)
    }

    async fn refresh_job(&self, job: &Job) -> Result<bool, Error> {
        let Some(key) = &job.instance else { return Ok(false) };
        let row = self.ports.runners.get(key).await?;
        if !(serves_not(job, row.as_ref()) || self.is_gone(job).await?) {
            return Ok(false);
        }
        match job.state {
            JobState::Running => self.stale_job(job).await,
            JobState::Launched => self.unconfirmed_job(job, false).await,
            _ => Ok(false),
        }
    }
}

/// Whether a runner ended, or is another job's. One without a record cannot be told.
fn serves_not(job: &Job, row: Option<&Runner>) -> bool {
    row.is_some_and(|row| {
        let over = matches!(row.state, RunnerState::Done | RunnerState::Gone);
        let others = row.running_job.or(row.bound_job).is_some_and(|id| id != job.id);
        over || others
    })
}

#[cfg(test)]
mod tests {
    use domain::ids::JobId;
    use domain::testing::{launched, runner};

    use super::*;

    #[test]
    fn a_runner_serves_its_job_until_it_ends_or_is_anothers() {
        let job = launched(7, "t", "i-1");
        let row = |state, bound, running| Runner {
            state,
            bound_job: JobId::new(bound),
            running_job: JobId::new(running),
            ..runner("i-1")
        };
        for (what, row, expected) in [
            ("it waits for its runner", row(RunnerState::Minted, 7, 0), false),
            ("it may begin any moment", row(RunnerState::Online, 7, 0), false),
            ("it runs", row(RunnerState::Busy, 7, 7), false),
            ("another runs there", row(RunnerState::Busy, 7, 8), true),
            ("it was bound to another", row(RunnerState::Online, 8, 0), true),
            ("its runner is done", row(RunnerState::Done, 7, 0), true),
            ("its runner is gone", row(RunnerState::Gone, 7, 0), true),
        ] {
            assert_eq!(serves_not(&job, Some(&row)), expected, "{what}");
        }
        assert!(!serves_not(&job, None), "nobody knows");
    }
}
