//! The one loop that consumes queues.
//!
//! Properties:
//!
//! * a message is received only when a permit is free to work on it at once: its invisibility runs from the receive;
//! * one delivery is one task; a panic in it, or a stuck thread, harms no other;
//! * while a task runs its message stays invisible, and for a bounded time only: a stuck task's message comes back;
//! * a message is acked only by the delivery that still owns it;
//! * an idle queue costs one long poll at a time and nothing else.
//!
//! Races it survives:
//!
//! * *Shutdown while a poll waits*: the poll is dropped; the port promises that this loses nothing.
//! * *Shutdown between receive and work*: the delivery is given back at once, so that another replica takes it.
//! * *Shutdown during work*: work ends by itself or by its own deadline, never by the shutdown.
//! * *The message was redelivered while the handler ran*: the handler is told through its `lost` token and may only
//!   compensate; nothing more is said to the queue about that delivery.

mod config;
mod observer;
mod task;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::Rng;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use self::config::ConsumerConfig;
pub use self::observer::{NoObserver, Observer, Outcome};
use crate::{Delivery, Error, Queue};

/// Most messages in one receive.
const BATCH: usize = 10;

/// What to do with a message when its handler has returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// It is no longer needed: remove it.
    Ack,
    /// It is still needed.
    Keep {
        /// When it should come back, from now. `None`: when its present invisibility ends.
        after: Option<Duration>,
    },
    /// It can never be processed: dead-letter it under this reason, one of a fixed set.
    Reject(&'static str),
}

/// Processes deliveries. Called concurrently, and more than once for the same message.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Processes one delivery. Once `lost` is cancelled the message belongs to somebody else: compensate and return;
    /// the result is ignored. The future is dropped when the deadline of [`ConsumerConfig`] passes.
    async fn handle(&self, delivery: &Delivery, lost: CancellationToken) -> Disposition;
}

/// See the module.
pub struct Consumer {
    parts: Arc<Parts>,
}

/// What the loop and its tasks share.
struct Parts {
    queue: Arc<dyn Queue>,
    handler: Arc<dyn Handler>,
    observer: Arc<dyn Observer>,
    rng: Arc<dyn Rng>,
    config: ConsumerConfig,
    permits: Arc<Semaphore>,
    inflight: AtomicUsize,
}

/// A finished poll: the permits it took, and what it brought.
type Polled = (Vec<OwnedSemaphorePermit>, Result<Vec<Delivery>, Error>);

impl Consumer {
    /// A consumer that reports to nobody.
    pub fn new(queue: Arc<dyn Queue>, config: ConsumerConfig, handler: Arc<dyn Handler>, rng: Arc<dyn Rng>) -> Self {
        Self::observed(queue, config, handler, rng, Arc::new(NoObserver))
    }

    /// A consumer that reports what it does.
    pub fn observed(
        queue: Arc<dyn Queue>,
        config: ConsumerConfig,
        handler: Arc<dyn Handler>,
        rng: Arc<dyn Rng>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(config.permits.max(1)));
        let inflight = AtomicUsize::new(0);
        Self { parts: Arc::new(Parts { queue, handler, observer, rng, config, permits, inflight }) }
    }

    /// Consumes until `shutdown`, then waits for the work in flight, which its deadline bounds. Dropping the future
    /// aborts that work instead; its messages come back when their invisibility ends.
    pub async fn run(self, shutdown: CancellationToken) {
        let parts = self.parts;
        let mut tasks = JoinSet::new();
        let mut polls = FuturesUnordered::new();
        let mut errors = 0;
        let mut full = false;
        loop {
            // A second poll only after a full batch: then there is more where that came from.
            while polls.is_empty() || (full && polls.len() < 2 && parts.permits.available_permits() > 0) {
                polls.push(parts.poll(errors));
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = tasks.join_next() => {}
                Some((permits, result)) = polls.next() => {
                    let wanted = permits.len();
                    full = result.as_ref().is_ok_and(|deliveries| deliveries.len() >= wanted);
                    errors = if result.is_ok() { 0 } else { errors + 1 };
                    match result {
                        Ok(deliveries) => parts.start(deliveries, permits, &shutdown, &mut tasks),
                        Err(error) => {
                            tracing::warn!(queue = parts.queue.name(), %error, errors, "receive failed");
                            parts.observer.receive_error(parts.queue.name(), &error);
                        }
                    }
                }
            }
        }
        drop(polls);
        tracing::debug!(queue = parts.queue.name(), in_flight = tasks.len(), "consumer drains");
        while tasks.join_next().await.is_some() {}
    }
}

impl Parts {
    /// One long poll for as many messages as there are free permits, after the pause that `errors` in a row call for.
    async fn poll(&self, errors: u32) -> Polled {
        if errors > 0 {
            let config = &self.config;
            let pause = config.backoff.saturating_mul(1 << (errors - 1).min(16)).min(config.backoff_max);
            sleep(self.rng.jitter(pause, 0.2)).await;
        }
        let mut permits = Vec::with_capacity(BATCH);
        // Never closed, so the first wait ends with a permit.
        permits.extend(Arc::clone(&self.permits).acquire_owned().await);
        while permits.len() < BATCH
            && let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned()
        {
            permits.push(permit);
        }
        let deliveries = self.queue.receive(permits.len(), self.config.wait, self.config.visibility).await;
        (permits, deliveries)
    }

    fn start(
        self: &Arc<Self>,
        deliveries: Vec<Delivery>,
        permits: Vec<OwnedSemaphorePermit>,
        shutdown: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        if deliveries.is_empty() {
            self.observer.empty(self.queue.name());
            return;
        }
        self.observer.received(self.queue.name(), &deliveries);
        let mut permits = permits.into_iter();
        for delivery in deliveries {
            if delivery.handle.0.is_empty() {
                tracing::warn!(
                    queue = self.queue.name(),
                    message_id = delivery.id,
                    "delivery without a handle skipped"
                );
                continue;
            }
            // A back end that returns more than asked gets the excess back.
            let permit = permits.next().or_else(|| Arc::clone(&self.permits).try_acquire_owned().ok());
            tasks.spawn(Arc::clone(self).take(delivery, permit, shutdown.clone()));
        }
    }

    async fn take(
        self: Arc<Self>,
        delivery: Delivery,
        permit: Option<OwnedSemaphorePermit>,
        shutdown: CancellationToken,
    ) {
        if permit.is_none() || shutdown.is_cancelled() {
            task::give_back(&self, &delivery).await;
        } else {
            task::process(&self, delivery).await;
        }
        drop(permit);
    }
}
