//! Records that have stood still for too long.

use domain::clock;
use domain::gh;
use domain::job::{Event, Job, JobState};
use github::client::Priority;

use super::{GITHUB_CALLS, REDISPATCHES, Swept};
use crate::context::{Dispatch, Error};

impl Dispatch {
    /// Old `running` records, and `claiming` ones whose lease died: GitHub knows what became of them.
    pub(super) async fn stale(&self) -> Result<Swept, Error> {
        let before = clock::whole_seconds(self.now()).checked_sub(signed(self.settings.timings.stale)).ok();
        let mut swept = Swept::default();
        for state in [JobState::Running, JobState::Claiming] {
            for job in self.ports.jobs.by_state(state, before, None).await? {
                if swept.seen >= GITHUB_CALLS || swept.acted >= REDISPATCHES {
                    return Ok(swept);
                }
                if state == JobState::Claiming && !job.lease_expired(self.now()) {
                    continue;
                }
                swept.count(&self.stale_job(&job).await);
            }
        }
        Ok(swept)
    }

    async fn stale_job(&self, job: &Job) -> Result<bool, Error> {
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
    pub(super) async fn orphans(&self) -> Result<Swept, Error> {
        let now = self.now();
        let before = clock::whole_seconds(now).checked_sub(signed(self.settings.timings.orphan)).ok();
        let mut swept = Swept::default();
        for state in [JobState::Running, JobState::Launched, JobState::Claiming, JobState::Requeued] {
            for job in self.ports.jobs.by_state(state, before, None).await? {
                if swept.seen >= GITHUB_CALLS || swept.acted >= REDISPATCHES {
                    return Ok(swept);
                }
                swept.count(&self.orphan(&job).await);
            }
        }
        Ok(swept)
    }

    async fn orphan(&self, job: &Job) -> Result<bool, Error> {
        let instance_gone = self.is_gone(job).await?;
        if job.state.is_bound() && !instance_gone {
            return Ok(false);
        }
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
    async fn is_gone(&self, job: &Job) -> Result<bool, Error> {
        match &job.instance {
            Some(key) => Ok(self.ports.compute.describe(key).await?.is_none_or(|m| m.state.is_gone())),
            None => Ok(false),
        }
    }
}

fn signed(duration: std::time::Duration) -> clock::SignedDuration {
    clock::SignedDuration::try_from(duration).unwrap_or(clock::SignedDuration::MAX)
}
