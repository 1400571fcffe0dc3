//! One delivery: the handler in a task of its own, its heartbeat beside it, and what the queue is told at the end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, interval_at, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{Disposition, Outcome, Parts};
use crate::{Delivery, Error};

const TRIES: u32 = 3;

/// Runs the handler and settles the delivery.
pub(super) async fn process(parts: &Arc<Parts>, delivery: Delivery) {
    let (queue, started) = (parts.queue.name(), Instant::now());
    let _inflight = Inflight::enter(parts);
    let delivery = Arc::new(delivery);
    let outcome = match supervise(parts, &delivery, started).await {
        Err(outcome) => outcome,
        Ok(disposition) => {
            let settled = timeout(parts.config.cleanup, settle(parts, &delivery, &disposition)).await;
            conclude(parts, &delivery, &disposition, settled.unwrap_or(Err(Error::Timeout)))
        }
    };
    if outcome == Outcome::Lost {
        parts.observer.visibility_lost(queue);
    }
    if !outcome.is_ok() {
        let (message_id, group) = (&delivery.id, delivery.group.as_deref());
        tracing::error!(queue, message_id, group, ?outcome, "message left for redelivery");
    }
    parts.observer.processed(queue, outcome, started.elapsed());
}

/// Makes a delivery that nobody works on visible again.
pub(super) async fn give_back(parts: &Parts, delivery: &Delivery) {
    let given = timeout(parts.config.cleanup, parts.queue.extend(&delivery.handle, Duration::ZERO)).await;
    if let Err(error) = given.unwrap_or(Err(Error::Timeout)) {
        tracing::warn!(queue = parts.queue.name(), message_id = delivery.id, %error, "delivery not given back");
    }
}

/// Waits for the handler, at most until its deadline, and keeps the message invisible meanwhile. The handler has its
/// own task so that a blocked thread stops neither the heartbeat nor the deadline.
async fn supervise(parts: &Arc<Parts>, delivery: &Arc<Delivery>, started: Instant) -> Result<Disposition, Outcome> {
    let lost = CancellationToken::new();
    let mut work = JoinSet::new();
    work.spawn({
        let (handler, delivery, lost) = (Arc::clone(&parts.handler), Arc::clone(delivery), lost.clone());
        async move { handler.handle(&delivery, lost).await }
    });
    let mut heart = Heart::new(parts, delivery, started);
    loop {
        tokio::select! {
            biased;
            ended = work.join_next() => {
                return match ended {
                    _ if lost.is_cancelled() => Err(Outcome::Lost),
                    Some(Ok(disposition)) => Ok(disposition),
                    _ => Err(Outcome::Panicked),
                };
            }
            () = sleep_until(started + parts.config.deadline) => return Err(Outcome::TimedOut),
            _ = heart.interval.tick(), if !lost.is_cancelled() => {
                if heart.beat(parts, delivery).await.is_err() {
                    lost.cancel();
                }
            }
        }
    }
}

/// Extends an invisibility from time to time.
struct Heart {
    interval: Interval,
    until: Instant,
    failures: u32,
}

/// The message is, or soon will be, somebody else's.
struct Lost;

impl Heart {
    fn new(parts: &Parts, delivery: &Delivery, started: Instant) -> Self {
        let every = parts.config.heartbeat.max(Duration::from_millis(1));
        Self { interval: interval_at(started + every, every), until: delivery.deadline, failures: 0 }
    }

    async fn beat(&mut self, parts: &Parts, delivery: &Delivery) -> Result<(), Lost> {
        let config = &parts.config;
        let visibility = config.visibility.min(parts.queue.capabilities().max_visibility);
        let now = Instant::now();
        let extended = timeout(config.cleanup, parts.queue.extend(&delivery.handle, visibility)).await;
        match extended.unwrap_or(Err(Error::Timeout)) {
            Ok(()) => (self.until, self.failures) = (now + visibility, 0),
            Err(Error::HandleExpired) => return Err(Lost),
            Err(error) => {
                self.failures += 1;
                tracing::warn!(queue = parts.queue.name(), message_id = delivery.id, %error, "heartbeat failed");
                let left = self.until.saturating_duration_since(Instant::now());
                if self.failures >= 2 && left < config.margin {
                    return Err(Lost);
                }
            }
        }
        Ok(())
    }
}

/// Tells the queue. Only an ack and a reject are repeated: an extension that fails comes to the same a little later.
async fn settle(parts: &Parts, delivery: &Delivery, disposition: &Disposition) -> Result<(), Error> {
    let (queue, handle) = (&parts.queue, &delivery.handle);
    match disposition {
        Disposition::Ack => attempt(parts.config.retry, || queue.ack(handle)).await,
        Disposition::Reject(reason) => attempt(parts.config.retry, || queue.reject(delivery, reason)).await,
        Disposition::Keep { after: None } => Ok(()),
        Disposition::Keep { after: Some(after) } => {
            queue.extend(handle, (*after).min(queue.capabilities().max_visibility)).await
        }
    }
}

async fn attempt<F>(pause: Duration, mut call: impl FnMut() -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    let mut tried = 1;
    loop {
        match call().await {
            Err(error) if tried < TRIES && error.is_retryable() => tracing::debug!(%error, tried, "queue call failed"),
            result => return result,
        }
        tried += 1;
        sleep(pause).await;
    }
}

fn conclude(parts: &Parts, delivery: &Delivery, disposition: &Disposition, settled: Result<(), Error>) -> Outcome {
    let (queue, message_id) = (parts.queue.name(), &delivery.id);
    match (disposition, settled) {
        (_, Err(Error::HandleExpired)) => return Outcome::Lost,
        (Disposition::Ack, Err(error)) => {
            tracing::error!(queue, message_id, %error, "processed message not removed");
            parts.observer.ack_failed(queue);
        }
        (Disposition::Reject(reason), Ok(())) => {
            tracing::warn!(queue, message_id, reason, "poison message dead-lettered");
            parts.observer.poison(queue, reason);
        }
        (Disposition::Reject(reason), Err(error)) => {
            tracing::error!(queue, message_id, reason, %error, "poison message not dead-lettered");
            return Outcome::Kept;
        }
        (Disposition::Keep { .. }, Err(error)) => {
            tracing::warn!(queue, message_id, %error, "invisibility not changed");
        }
        (Disposition::Ack | Disposition::Keep { .. }, Ok(())) => {}
    }
    match disposition {
        Disposition::Ack => Outcome::Acked,
        Disposition::Keep { .. } => Outcome::Kept,
        Disposition::Reject(_) => Outcome::Rejected,
    }
}

/// Counts a task for as long as it lives, however it ends.
struct Inflight<'a>(&'a Parts);

impl<'a> Inflight<'a> {
    fn enter(parts: &'a Parts) -> Self {
        let tasks = parts.inflight.fetch_add(1, Ordering::Relaxed) + 1;
        parts.observer.inflight(parts.queue.name(), tasks);
        Self(parts)
    }
}

impl Drop for Inflight<'_> {
    fn drop(&mut self) {
        let tasks = self.0.inflight.fetch_sub(1, Ordering::Relaxed) - 1;
        self.0.observer.inflight(self.0.queue.name(), tasks);
    }
}
