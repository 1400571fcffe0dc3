//! Wake-ups that were delivered in vain too often.
//!
//! A message in the dead-letter queue is no more than a hint that a job may have been forgotten: its record says what
//! is to be done, and does it by its own outbox. Nothing is ever sent back to the main queue from here, and how often a
//! job is tried is counted in its record, so that a message can go round no more than once.
//!
//! Poison stays where it is, for an operator to look at, until the queue's retention removes it. So do webhooks as a
//! gateway received them: they end here because their signature does not match.

use std::time::Duration;

use db::Outcome;
use domain::clock::{self, Timestamp};
use domain::job::{Job, JobState};
use domain::message::JobMessage;
use github::labels;
use github::webhook::{Kind, QueuedEvent};
use queue::{Delivery, Queue};
use telemetry::metrics::QueueName;
use tracing::info;

use super::{Scope, Swept};
use crate::context::{Dispatch, Error};

/// Receives of one run, and messages in each.
const RECEIVES: usize = 20;
const BATCH: usize = 10;
/// Set by the queue on what can never be processed.
const POISON: &str = "PoisonReason";

/// What a dead letter asks for, by its job's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The job is under way or over.
    Drop,
    /// The outbox should look at the job at this time.
    Nudge(Timestamp),
    /// The job is due at the outbox anyway.
    Awaited,
    /// Somebody works on it.
    Leave,
    /// Nobody knows the job.
    Adopt,
}

fn fate(job: Option<&Job>, now: Timestamp) -> Fate {
    let Some(job) = job else { return Fate::Adopt };
    match job.state {
        JobState::Claiming if !job.lease_expired(now) => Fate::Leave,
        JobState::Requeued | JobState::Claiming => {
            let at = clock::whole_seconds(job.not_before.map_or(now, |at| at.max(now)));
            if job.redrive_at.is_some_and(|due| due <= at) { Fate::Awaited } else { Fate::Nudge(at) }
        }
        JobState::Launched | JobState::Running | JobState::Terminating | JobState::Settled(_) => Fate::Drop,
    }
}

impl Dispatch {
    /// Looks at every dead letter once.
    pub(super) async fn dead_letters(&self, scope: &Scope<'_>) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        let Some(queue) = &self.ports.dead_letters else { return Ok(swept) };
        let depth = queue.depth().await.ok().and_then(|depth| depth.visible);
        if !scope.dry_run {
            self.ports.metrics.queue_depth(QueueName::MainDlq, depth.map(|n| n as f64));
        }
        // To receive is to hide: a dry run tells the depth, and no more.
        if scope.dry_run {
            swept.deferred = depth.and_then(|depth| usize::try_from(depth).ok()).unwrap_or(0);
            return Ok(swept);
        }
        for _ in 0..RECEIVES {
            if !scope.goes_on(&swept) {
                swept.deferred += 1;
                break;
            }
            let visibility = self.settings.timings.every.dead_letters;
            let letters = queue.receive(BATCH, Duration::ZERO, visibility).await?;
            if letters.is_empty() {
                break;
            }
            for letter in &letters {
                let step = self.dead_letter(queue.as_ref(), letter).await;
                swept.count(&step);
            }
        }
        Ok(swept)
    }

    async fn dead_letter(&self, queue: &dyn Queue, letter: &Delivery) -> Result<bool, Error> {
        if letter.attributes.contains_key(POISON) {
            return Ok(false);
        }
        let done = match Kind::of(&letter.attributes) {
            Kind::Job => match JobMessage::decode(&letter.body) {
                Ok(decoded) => self.forgotten(&decoded.message).await?,
                Err(_) => false,
            },
            Kind::QueuedEvent => match QueuedEvent::decode(&letter.body) {
                Ok((queued, _)) => self.take_news(&queued.event).await.map(|()| true)?,
                Err(_) => false,
            },
            Kind::RawWebhook | Kind::Unknown => false,
        };
        if done {
            queue.ack(&letter.handle).await?;
        }
        Ok(done)
    }

    /// Sees to it that the message's job is not forgotten. `false`: not now.
    async fn forgotten(&self, message: &JobMessage) -> Result<bool, Error> {
        let job = self.ports.jobs.get(message.job_id).await?;
        match (fate(job.as_ref(), self.now()), job) {
            (Fate::Drop | Fate::Awaited, _) => Ok(true),
            (Fate::Nudge(at), Some(job)) => {
                let new = Job { redrive_at: Some(at), ..job.clone() };
                Ok(matches!(self.ports.jobs.write(&job, new).await?, Outcome::Applied(_)))
            }
            (Fate::Adopt, _) => self.accept_forgotten(message).await,
            (Fate::Leave | Fate::Nudge(_), _) => Ok(false),
        }
    }

    /// A job without a record: its webhook's write failed, and then every delivery of its message. It may be over by
    /// now, so it counts as dispatched before: GitHub is asked before anything is launched for it.
    async fn accept_forgotten(&self, message: &JobMessage) -> Result<bool, Error> {
        if !self.serves(&message.repo) {
            return Ok(true);
        }
        let cx = self.cx();
        let class = labels::class_key(&message.repo, &labels::fallback_labels(message).labels);
        let mut job = Job::accepted(message.clone(), Vec::new(), class, &cx);
        job.dispatch_seq += 1;
        job.redrive_at = Some(clock::whole_seconds(cx.now));
        // Whoever created it meanwhile has sent its wake-up, too.
        if self.ports.jobs.create(&job).await?.is_applied() {
            info!(job_id = message.job_id.get(), "a job that only a dead letter knew was taken over");
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use domain::job::Settled;
    use domain::job::transition::SettleReason;
    use domain::testing::{accepted, at, claimed, cx, launched};

    use super::*;

    #[test]
    fn the_record_decides_what_a_dead_letter_is_worth() {
        let waiting = Job { not_before: Some(at(900)), redrive_at: Some(at(900)), ..accepted(7) };
        let over = accepted(7).settled(Settled::Cancelled, SettleReason::Missing, &cx(5));
        let running = Job { state: JobState::Running, ..launched(7, "t", "i-1") };
        for (what, job, now, expected) in [
            ("unknown", None, 10, Fate::Adopt),
            ("pending", Some(accepted(7)), 10, Fate::Nudge(at(10))),
            ("pending, and due", Some(accepted(7)), 500, Fate::Awaited),
            ("in back-off", Some(waiting.clone()), 10, Fate::Awaited),
            ("in back-off, due later", Some(Job { redrive_at: None, ..waiting }), 10, Fate::Nudge(at(900))),
            ("under work", Some(claimed(7, "t")), 10, Fate::Leave),
            ("left by the dead", Some(claimed(7, "t")), 110, Fate::Nudge(at(110))),
            ("bound", Some(launched(7, "t", "i-1")), 10, Fate::Drop),
            ("running", Some(running), 10, Fate::Drop),
            ("over", Some(over), 10, Fate::Drop),
        ] {
            assert_eq!(fate(job.as_ref(), at(now)), expected, "{what}");
        }
    }
}
