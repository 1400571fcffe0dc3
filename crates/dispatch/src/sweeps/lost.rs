//! Records that have stood still for too long.

use domain::clock;
use domain::gh;
use domain::job::{Event, Job, JobState};
use github::client::Priority;

use super::{GITHUB_CALLS, REDISPATCHES, Scope, Swept};
use crate::context::{Dispatch, Error};

impl Dispatch {
    /// Old `running` records, and `claiming` ones whose lease died: GitHub knows what became of them.
    pub(super) async fn stale(&self, scope: &Scope<'_>) -> Result<Swept, Error> {
        let now = self.now();
        let before = clock::whole_seconds(now).checked_sub(signed(self.settings.timings.stale)).ok();
        let mut swept = Swept::default();
        for state in [JobState::Claiming, JobState::Running] {
            let mut jobs = self.ports.jobs.by_state(state, before, None).await?;
            jobs.retain(|job| scope.covers(job) && (state != JobState::Claiming || job.lease_expired(now)));
            // Who has not been asked about for longest comes first, so that everybody's turn comes.
            jobs.sort_by_key(|job| job.sighting.map(|seen| seen.at));
            for (at, job) in jobs.iter().enumerate() {
                if scope.dry_run {
                    swept.would_look_into(&job.id);
                    continue;
                }
                if at >= GITHUB_CALLS || swept.acted >= REDISPATCHES || !scope.goes_on(&swept) {
                    swept.deferred += jobs.len() - at;
                    break;
                }
                swept.count(&self.stale_job(job).await);
            }
        }
        Ok(swept)
    }

    pub(super) async fn stale_job(&self, job: &Job) -> Result<bool, Error> {
        let (github, current) = self.observe(job, Priority::Sweep).await?;
        let Some(current) = current.filter(|c| c.state == job.state && c.instance == job.instance) else {
            return Ok(false);
        };
        let instance_gone = self.is_gone(&current).await?;
        if current.state == JobState::Running && github == gh::Status::Queued && !self.ended(&current).await? {
            return Ok(false);
        }
        let now = self.now();
        let grace = self.settings.timings.report_grace;
        self.raise_on(&current, |job| Event::StaleCheck {
            github,
            report_overdue: job.sighting.is_some_and(|s| {
                s.status.is_over() && (clock::since(now, s.completed_at.unwrap_or(s.at)) >= grace || instance_gone)
            }),
            instance_gone,
            lease_expired: job.lease_expired(now),
            displacements_left: job.displacements_left(),
            strikes_left: job.strikes_left(),
        })
        .await
    }

    /// Very old records whose machine is gone, pending jobs GitHub no longer wants, and the 24 h deadline.
    pub(super) async fn orphans(&self, scope: &Scope<'_>) -> Result<Swept, Error> {
        let now = self.now();
        let before = clock::whole_seconds(now).checked_sub(signed(self.settings.timings.orphan)).ok();
        let timings = &self.settings.timings;
        let mut swept = Swept::default();
        for state in [JobState::Requeued, JobState::Claiming, JobState::Launched, JobState::Running] {
            let mut asked = 0;
            // A pending or claimed job is as old as its wait for a machine, not as its last try.
            let old = |job: &Job| before.is_some_and(|at| job.created_at < at) || job.deadline_passed(now, timings);
            let before = before.filter(|_| state.is_bound());
            let mut jobs = self.ports.jobs.by_state(state, before, None).await?;
            jobs.retain(|job| old(job) && scope.covers(job));
            for (at, job) in jobs.iter().enumerate() {
                if scope.dry_run {
                    swept.would_look_into(&job.id);
                    continue;
                }
                if asked >= GITHUB_CALLS || swept.acted >= REDISPATCHES || !scope.goes_on(&swept) {
                    swept.deferred += jobs.len() - at;
                    break;
                }
                // A machine that lives has its own end; only those that are gone cost a call of GitHub.
                let step = match self.is_gone(job).await {
                    Ok(false) if state.is_bound() => continue,
                    Ok(gone) => self.orphan(job, gone).await,
                    Err(error) => Err(error),
                };
                asked += 1;
                swept.count(&step);
            }
        }
        Ok(swept)
    }

    async fn orphan(&self, job: &Job, instance_gone: bool) -> Result<bool, Error> {
        let (github, current) = self.observe(job, Priority::Sweep).await?;
        let Some(current) = current.filter(|c| c.state == job.state && c.instance == job.instance) else {
            return Ok(false);
        };
        let (now, timings) = (self.now(), &self.settings.timings);
        if current.state.is_bound() && github == gh::Status::Queued && !self.ended(&current).await? {
            return Ok(false);
        }
        let moved = self
            .raise_on(&current, |job| Event::OrphanCheck {
                github,
                instance_gone,
                lease_expired: job.lease_expired(now),
                deadline_passed: job.deadline_passed(now, timings),
                displacements_left: job.displacements_left(),
            })
            .await?;
        if moved {
            return Ok(true);
        }
        self.raise_on(&current, |job| Event::Deadline {
            deadline_passed: job.deadline_passed(now, timings),
            lease_expired: job.lease_expired(now),
            github,
        })
        .await
    }

    /// Whether the record's machine is certainly gone.
    pub(super) async fn is_gone(&self, job: &Job) -> Result<bool, Error> {
        match &job.instance {
            Some(key) => Ok(self.ports.compute.describe(key).await?.is_none_or(|m| m.state.is_gone())),
            None => Ok(false),
        }
    }
}

fn signed(duration: std::time::Duration) -> clock::SignedDuration {
    clock::SignedDuration::try_from(duration).unwrap_or(clock::SignedDuration::MAX)
}
