//! After a restart on an embedded store.
//!
//! The store's lock file proves that no other process works on it, so every lease of another boot is dead, whatever its
//! clock says. They are given back without a strike, instead of being waited out: it was the restart that ended them,
//! not the jobs.

use db::Outcome;
use domain::job::{Event, Job, JobState};
use tracing::info;

use crate::context::{Dispatch, Error};

impl Dispatch {
    /// Gives back what earlier boots of this single process held. Call before any consumer runs.
    pub async fn recover_own_leases(&self) -> Result<usize, Error> {
        let foreign = |job: &Job| job.lease.as_ref().is_some_and(|l| l.owner != self.settings.owner);
        let mut given_back = 0;
        for job in self.ports.jobs.by_state(JobState::Claiming, None, None).await?.iter().filter(|j| foreign(j)) {
            if self.raise(job.id, |job, _| Event::Abandon { token_matches: foreign(job) }, |_| {}).await?.moved() {
                given_back += 1;
            }
        }
        for job in self.ports.jobs.by_state(JobState::Launched, None, None).await? {
            if !foreign(&job) || job.prepared_at.is_some() {
                continue;
            }
            let mut new = job.redriven(&self.cx());
            // The claim that resumes it counts one.
            new.claim_attempts = new.claim_attempts.saturating_sub(1);
            if let Some(lease) = &mut new.lease {
                lease.until = Some(domain::clock::whole_seconds(self.now()));
            }
            if let Outcome::Applied(job) = self.ports.jobs.write(&job, new).await? {
                given_back += usize::from(self.wake(&job).await);
            }
        }
        if given_back > 0 {
            info!(jobs = given_back, "work that an earlier process left was taken up again");
        }
        Ok(given_back)
    }
}
