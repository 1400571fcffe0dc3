//! May this message's holder work on the job? The decision of the lease.
//!
//! The record may be absent (the webhook's write failed but its message was sent), pending, leased, bound, or over.
//! Only a dead lease is ever taken over, and every take-over is a strike: a job that may be what kills its dispatchers
//! is left alone for a while after three of them. "Somebody else has it" is *not* a reason to acknowledge the message: if that somebody dies,
//! the message is what wakes the next.

use std::time::Duration;

use crate::clock;
use crate::ids::{ClassKey, LaunchId, RunnerKey};
use crate::job::apply::Context;
use crate::job::transition::{Event, Move, transition};
use crate::job::{Job, JobState, Lease};
use crate::message::JobMessage;

/// What to do with the message, and what to write first.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Write this, then work.
    Claim {
        /// The record to write.
        job: Box<Job>,
        /// Launch request of the dead attempt, whose machine may be adopted.
        previous_launch: Option<LaunchId>,
        /// A dead lease was taken over.
        stolen: bool,
    },
    /// Write this, then finish the hand-over of the machine it names.
    Resume {
        /// The record to write.
        job: Box<Job>,
        /// The machine bound by the dead attempt.
        instance: RunnerKey,
    },
    /// Write this (pending again after a pause: three dispatchers died over it), then acknowledge.
    Pause {
        /// The record to write.
        job: Box<Job>,
        /// The move that this is.
        step: Move,
    },
    /// Somebody works on it: keep the message for so long.
    Contended {
        /// What is left of the other's lease.
        remaining: Duration,
    },
    /// Nothing to do: acknowledge.
    Done(Done),
}

/// Why a message needs no work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// In back-off; the outbox owns the wake-up.
    NotDue,
    /// A machine has it.
    Dispatched,
    /// Over.
    Settled,
}

/// Decides. `lease` is the one to be taken, `class` is for a record that has to be created.
pub fn decide(job: Option<&Job>, message: &JobMessage, lease: Lease, class: ClassKey, cx: &Context<'_>) -> Decision {
    let Some(job) = job else {
        let fresh = Job::accepted(message.clone(), Vec::new(), class, cx);
        let job = Box::new(fresh.claimed(false, lease, message, cx));
        return Decision::Claim { job, previous_launch: None, stolen: false };
    };
    let lease_expired = job.lease_expired(cx.now);
    let event = Event::Claim {
        due: job.is_due(cx.now),
        message_is_newer: message.retry_count > job.retry_count,
        lease_expired,
        strikes_left: job.strikes_left(),
    };
    match transition(Some(job.state), &event) {
        Some(Move::Claim { strike }) => Decision::Claim {
            previous_launch: job.launch_id.clone(),
            job: Box::new(job.claimed(strike, lease, message, cx)),
            stolen: strike,
        },
        Some(step) => match job.apply(step, None, cx) {
            Some(paused) if paused.state == JobState::Requeued => Decision::Pause { job: Box::new(paused), step },
            _ => Decision::Done(Done::Settled),
        },
        None => match job.state {
            JobState::Requeued => Decision::Done(Done::NotDue),
            JobState::Claiming => contended(job, cx),
            JobState::Launched if job.prepared_at.is_none() && job.lease.is_some() => match &job.instance {
                Some(instance) if lease_expired => {
                    Decision::Resume { instance: instance.clone(), job: Box::new(job.resumed(lease, cx)) }
                }
                _ => contended(job, cx),
            },
            JobState::Launched | JobState::Running | JobState::Terminating => Decision::Done(Done::Dispatched),
            JobState::Settled(_) => Decision::Done(Done::Settled),
        },
    }
}

fn contended(job: &Job, cx: &Context<'_>) -> Decision {
    let until = job.lease.as_ref().and_then(|l| l.until).unwrap_or(cx.now);
    Decision::Contended { remaining: clock::since(until, cx.now) }
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
