//! The lease, or what to do with the message.

use std::time::Duration;

use db::Outcome;
use domain::clock::{self, Timestamp};
use domain::ids::{LaunchId, LeaseToken, RunnerKey};
use domain::job::claim::{self, Decision, Done};
use domain::job::{Job, Lease, Milestone};
use domain::message::JobMessage;
use github::labels;
use queue::Disposition;
use telemetry::metrics::{DedupPath, SchedulingFailure};
use tracing::{debug, error};

use super::keep_for;
use crate::context::{Dispatch, Error};
use crate::records::WRITE_TRIES;

impl Dispatch {
    /// Takes the lease, or says what to do with the message.
    pub(super) async fn claim(&self, message: &JobMessage, sent_at: Option<Timestamp>) -> Result<Claimed, Error> {
        let timings = &self.settings.timings;
        for _ in 0..WRITE_TRIES {
            let read = self.ports.jobs.get(message.job_id).await?;
            let cx = self.cx();
            let lease = Lease {
                token: LeaseToken::new(self.ports.rng.token()),
                owner: self.settings.owner.clone(),
                until: Some(clock::after(cx.now, timings.lease)),
            };
            let class = labels::class_key(&message.repo, &labels::fallback_labels(message).labels);
            let mut decision = claim::decide(read.as_ref(), message, lease, class, &cx);
            let new = match &mut decision {
                Decision::Claim { job, .. } => {
                    let attempt = job.attempt();
                    if let Some(sent) = sent_at {
                        job.timeline.stamp(attempt, Milestone::Queued, sent);
                    }
                    job.clone()
                }
                Decision::Resume { job, .. } | Decision::Pause { job, .. } => job.clone(),
                Decision::Contended { remaining } => {
                    self.ports.metrics.claim_contended();
                    let jitter = Duration::from_secs_f64(1.0 + 4.0 * cx.chance).min(timings.heartbeat);
                    return Ok(Claimed::Answer(keep_for(*remaining + jitter)));
                }
                Decision::Done(done) => {
                    if *done != Done::NotDue {
                        self.ports.metrics.jobs_deduplicated(DedupPath::Queue);
                        debug!(job_id = message.job_id.get(), retry_count = message.retry_count, "nothing to dispatch");
                    }
                    return Ok(Claimed::Answer(Disposition::Ack));
                }
            };
            let written = match &read {
                Some(old) => self.ports.jobs.write(old, *new).await?,
                None => self.ports.jobs.create(&new).await?,
            };
            let Outcome::Applied(job) = written else { continue };
            if let (Decision::Pause { step, .. }, Some(before)) = (&decision, &read) {
                self.ports.metrics.scheduling_failure(SchedulingFailure("job_claim"));
                error!(
                    event = "job_claims_died",
                    job_id = job.id.get(),
                    strikes = job.claim_attempts,
                    not_before = job.not_before.map(|at| at.to_string()),
                    "the dispatchers that had this job died one after the other; it is tried again after a pause"
                );
                self.moved(before, &job, *step, "claim").await;
                return Ok(Claimed::Answer(Disposition::Ack));
            }
            let Some(token) = job.lease.as_ref().map(|l| l.token.clone()) else { return Err(Error::Contended) };
            let existed = read.is_some();
            return Ok(match decision {
                Decision::Claim { previous_launch, stolen, .. } => {
                    if stolen {
                        self.ports.metrics.lease_stolen();
                    }
                    self.ports.metrics.transition("claim", read.map(|r| r.state), Some(job.state));
                    Claimed::Work(Box::new(Work { job, token, resume: None, previous_launch, existed }))
                }
                Decision::Resume { instance, .. } => {
                    self.ports.metrics.lease_stolen();
                    Claimed::Work(Box::new(Work { job, token, resume: Some(instance), previous_launch: None, existed }))
                }
                _ => Claimed::Answer(Disposition::Ack),
            });
        }
        Ok(Claimed::Answer(keep_for(timings.send_pause)))
    }
}

/// A job claimed, and what its claim found.
pub(super) struct Work {
    pub(super) job: Job,
    pub(super) token: LeaseToken,
    pub(super) resume: Option<RunnerKey>,
    pub(super) previous_launch: Option<LaunchId>,
    pub(super) existed: bool,
}

pub(super) enum Claimed {
    Work(Box<Work>),
    Answer(Disposition),
}
