//! What the embedded stores share: the [`Queue`] port in front of a broker, and the time a store lives in.
//!
//! Races it survives:
//!
//! * *A message arrives between an empty look and the wait.* The waiter is registered before it looks.
//! * *A receive is dropped while its answer is on the way.* The answer gives its deliveries back when nobody takes it.
//! * *The wall clock is set.* Store time starts at the wall clock, but not before the last time the store saw, and then
//!   advances with the monotonic clock: a step in either direction moves no invisibility and no window.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::{Clock, Rng, Timestamp, after, since};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use crate::broker::{Broker, Payload, Seq};
use crate::poison;
use crate::{Capabilities, Delivery, Depth, Error, Handle, MAX_VISIBILITY, Message, Queue, QueueConfig};

/// Bodies and attributes, by message.
pub(crate) trait Payloads {
    fn payload(&self, seq: Seq) -> Result<Payload, Error>;
}

/// A place where broker operations run.
pub(crate) trait Store: Send + Sync + 'static {
    /// Runs `op` with the queue and its dead letters open; answers when its changes are kept as they have to be.
    fn run<T: Send + 'static>(
        &self,
        queue: &Arc<QueueConfig>,
        keep: Keep,
        op: impl FnOnce(&mut Broker, &dyn Payloads) -> Result<T, Error> + Send + 'static,
    ) -> impl Future<Output = Result<T, Error>> + Send;

    /// Returns undelivered messages from outside any task, as far as the store can.
    fn give_back(&self, queue: &Arc<QueueConfig>, at: Timestamp) -> GiveBack;

    /// The store's time.
    fn time(&self) -> StoreTime;

    /// Who waits for messages.
    fn waiters(&self) -> &Waiters;
}

/// What the changes of an operation have to survive before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The machine's end: they are on disk.
    Synced,
    /// The end of this process. Who has taken a message is forgotten at the next start anyway.
    Written,
}

/// See [`Store::give_back`]. `None` where an answer cannot get lost.
pub(crate) type GiveBack = Option<Box<dyn FnOnce(Vec<Handle>) + Send>>;

/// A time that a step of the wall clock does not move.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreTime {
    origin: Timestamp,
    since: Instant,
}

impl StoreTime {
    /// Starts at `wall`, or at the last time the store saw if that is later.
    pub(crate) fn starting(wall: Timestamp, last: Timestamp) -> Self {
        Self { origin: wall.max(last), since: Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        after(self.origin, self.since.elapsed())
    }
}

/// One [`Notify`] per queue name.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<HashMap<String, Arc<Notify>>>);

impl Waiters {
    pub(crate) fn of(&self, queue: &str) -> Arc<Notify> {
        let mut waiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(waiters.entry(queue.to_owned()).or_default())
    }

    pub(crate) fn wake(&self, queues: &[String]) {
        let waiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for notify in queues.iter().filter_map(|queue| waiters.get(queue)) {
            notify.notify_waiters();
        }
    }
}

/// One queue of a store.
pub(crate) struct EmbeddedQueue<S> {
    config: Arc<QueueConfig>,
    store: Arc<S>,
    waiter: Arc<Notify>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
}

/// What a receive brings. Dropped before its deliveries are taken, it gives them back.
struct Received {
    deliveries: Vec<Delivery>,
    next_due: Option<Timestamp>,
    give_back: GiveBack,
}

impl Received {
    fn take(mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(give_back) = self.give_back.take()
            && !self.deliveries.is_empty()
        {
            give_back(self.deliveries.drain(..).map(|delivery| delivery.handle).collect());
        }
    }
}

impl<S: Store> EmbeddedQueue<S> {
    pub(crate) fn new(config: QueueConfig, store: Arc<S>, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Self {
        let waiter = store.waiters().of(&config.name);
        Self { config: Arc::new(config), store, waiter, clock, rng }
    }

    /// Wall time as a store keeps it.
    fn wall(&self) -> Timestamp {
        let now = self.clock.now();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }

    async fn run<T: Send + 'static>(
        &self,
        keep: Keep,
        op: impl FnOnce(&mut Broker, &dyn Payloads, &str) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let now = self.store.time().now();
        let config = Arc::clone(&self.config);
        let op = move |broker: &mut Broker, payloads: &dyn Payloads| {
            broker.advance(now);
            op(broker, payloads, &config.name)
        };
        self.store.run(&self.config, keep, op).await
    }

    async fn look(&self, max: usize, visibility: Duration) -> Result<Received, Error> {
        let deadline = Instant::now() + visibility;
        let rng = Arc::clone(&self.rng);
        let give_back = self.store.give_back(&self.config, self.store.time().now());
        self.run(Keep::Written, move |broker, payloads, queue| {
            let mut deliveries = Vec::new();
            for taken in broker.receive(queue, max, visibility, &*rng)? {
                let Payload { body, attributes } = payloads.payload(taken.seq)?;
                deliveries.push(Delivery {
                    id: taken.seq.to_string(),
                    body,
                    handle: taken.handle,
                    attributes,
                    sent_at: Some(taken.entry.sent_at),
                    receive_count: Some(taken.entry.count),
                    group: Some(taken.entry.group.to_string()).filter(|group| !group.is_empty()),
                    deadline,
                });
            }
            Ok(Received { deliveries, next_due: broker.next_due(queue), give_back })
        })
        .await
    }
}

#[async_trait]
impl<S: Store> Queue for EmbeddedQueue<S> {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { fifo: self.config.fifo, max_visibility: MAX_VISIBILITY }
    }

    async fn send(&self, message: Message) -> Result<String, Error> {
        let sent_at = self.wall();
        self.run(Keep::Synced, move |broker, _, queue| broker.send(queue, message, sent_at)).await
    }

    async fn receive(&self, max: usize, wait: Duration, visibility: Duration) -> Result<Vec<Delivery>, Error> {
        let (max, visibility) = (max.clamp(1, 10), visibility.min(MAX_VISIBILITY));
        let end = Instant::now() + wait;
        loop {
            let mut woken = pin!(self.waiter.notified());
            woken.as_mut().enable();
            let received = self.look(max, visibility).await?;
            if !received.deliveries.is_empty() || Instant::now() >= end {
                return Ok(received.take());
            }
            let due = received.next_due.map(|due| Instant::now() + since(due, self.store.time().now()));
            let _ = timeout_at(due.map_or(end, |due| due.min(end)), woken).await;
        }
    }

    async fn ack(&self, handle: &Handle) -> Result<(), Error> {
        let handle = handle.clone();
        self.run(Keep::Synced, move |broker, _, queue| broker.ack(queue, &handle)).await
    }

    async fn extend(&self, handle: &Handle, visibility: Duration) -> Result<(), Error> {
        let (handle, visibility) = (handle.clone(), visibility.min(MAX_VISIBILITY));
        self.run(Keep::Written, move |broker, _, queue| broker.extend(queue, &handle, visibility)).await
    }

    async fn reject(&self, delivery: &Delivery, reason: &str) -> Result<(), Error> {
        if self.config.dead_letters.is_none() {
            poison::log_removed(&self.config.name, delivery, reason);
        }
        let (delivery, reason, sent_at) = (delivery.clone(), reason.to_owned(), self.wall());
        self.run(Keep::Synced, move |broker, _, queue| broker.reject(queue, &delivery, &reason, sent_at)).await
    }

    async fn ping(&self) -> Result<(), Error> {
        let probe = self.run(Keep::Synced, |_, _, _| Ok(()));
        timeout(Duration::from_secs(2), probe).await.unwrap_or(Err(Error::Timeout))
    }

    async fn depth(&self) -> Result<Depth, Error> {
        let wall = self.wall();
        self.run(Keep::Written, move |broker, _, queue| broker.depth(queue, wall)).await
    }
}
