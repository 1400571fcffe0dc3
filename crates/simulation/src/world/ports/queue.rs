//! A queue, as one process reaches it.
//!
//! At least once means what it says: now and then an acknowledgement is forgotten, so that the message comes again, and
//! a message that was received comes once more by itself, past the window in which duplicates are noticed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::Rng;
use queue::{Capabilities, Delivery, Depth, Error, Handle, Message, Queue};
use tokio::time::Instant;

use crate::world::happening::{Happening, Scene};
use crate::world::mutation::Mutation;
use crate::world::process::{Port, Process};

/// What a queue does wrong, as chances for each message.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Post {
    /// An acknowledgement is forgotten.
    pub forgets: f64,
    /// A received message comes once more.
    pub repeats: f64,
}

/// Deliveries are remembered for their acknowledgement for so long: longer than any handler takes.
const REMEMBERED: Duration = Duration::from_secs(900);

#[derive(Default)]
struct Held {
    deliveries: BTreeMap<Handle, Delivery>,
    since: VecDeque<(Instant, Handle)>,
}

impl Held {
    fn take(&mut self, received: &[Delivery]) {
        let now = Instant::now();
        while self.since.front().is_some_and(|(at, _)| now.duration_since(*at) > REMEMBERED) {
            if let Some((_, handle)) = self.since.pop_front() {
                self.deliveries.remove(&handle);
            }
        }
        for delivery in received {
            self.since.push_back((now, delivery.handle.clone()));
            self.deliveries.insert(delivery.handle.clone(), delivery.clone());
        }
    }
}

/// See the module.
pub struct ProcessQueue {
    process: Arc<Process>,
    queue: Arc<dyn Queue>,
    scene: Scene,
    rng: Arc<dyn Rng>,
    post: Arc<Mutex<Post>>,
    held: Mutex<Held>,
    mutation: Option<Mutation>,
}

fn silent<T>() -> Result<T, Error> {
    Err(Error::Timeout)
}

impl ProcessQueue {
    /// `post` is shared by all who reach the queue, and may be changed at any time.
    pub fn new(
        process: Arc<Process>,
        queue: Arc<dyn Queue>,
        scene: Scene,
        rng: Arc<dyn Rng>,
        post: Arc<Mutex<Post>>,
        mutation: Option<Mutation>,
    ) -> Arc<Self> {
        Arc::new(Self { process, queue, scene, rng, post, held: Mutex::default(), mutation })
    }

    fn post(&self) -> Post {
        *self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn repeat(&self, delivery: &Delivery) {
        let message = Message {
            body: delivery.body.clone(),
            group: delivery.group.clone().unwrap_or_default(),
            dedup: format!("again-{}", self.rng.token()),
            attributes: delivery.attributes.clone(),
        };
        // A full store is no concern of this simulation.
        let _ = self.queue.send(message).await;
    }
}

#[async_trait]
impl Queue for ProcessQueue {
    fn name(&self) -> &str {
        self.queue.name()
    }
    fn capabilities(&self) -> Capabilities {
        self.queue.capabilities()
    }
    async fn send(&self, message: Message) -> Result<String, Error> {
        self.process.call(Port::Queue, "queue.send", silent, self.queue.send(message)).await
    }
    async fn receive(&self, max: usize, wait: Duration, visibility: Duration) -> Result<Vec<Delivery>, Error> {
        let repeats = self.post().repeats;
        let call = async {
            let received = self.queue.receive(max, wait, visibility).await?;
            for delivery in &received {
                if repeats > 0.0 && self.rng.unit() < repeats {
                    self.repeat(delivery).await;
                }
            }
            Ok(received)
        };
        let received = self.process.call(Port::Queue, "queue.receive", silent, call).await?;
        self.held().take(&received);
        Ok(received)
    }
    async fn ack(&self, handle: &Handle) -> Result<(), Error> {
        let delivery = self.held().deliveries.get(handle).cloned();
        let forgets = self.post().forgets;
        let ack = async {
            if let Some(delivery) = &delivery {
                self.scene.happened(&Happening::Acked { queue: self.queue.name(), delivery, rejected: false });
            }
            if forgets > 0.0 && self.rng.unit() < forgets {
                return Ok(());
            }
            self.queue.ack(handle).await
        };
        let acked = self.process.call(Port::Queue, "queue.ack", silent, ack).await;
        if acked.is_ok() {
            self.held().deliveries.remove(handle);
        }
        acked
    }
    async fn extend(&self, handle: &Handle, visibility: Duration) -> Result<(), Error> {
        // Not the heartbeat of a message under work, which asks for two minutes.
        let contended = !visibility.is_zero() && visibility < Duration::from_secs(110);
        if self.mutation == Some(Mutation::AckOnContention) && contended && self.name() == "main" {
            return self.ack(handle).await;
        }
        let extended =
            self.process.call(Port::Queue, "queue.extend", silent, self.queue.extend(handle, visibility)).await;
        if extended.is_ok() && visibility.is_zero() {
            self.held().deliveries.remove(handle);
        }
        extended
    }
    async fn reject(&self, delivery: &Delivery, reason: &str) -> Result<(), Error> {
        let reject = async {
            self.scene.happened(&Happening::Acked { queue: self.queue.name(), delivery, rejected: true });
            self.queue.reject(delivery, reason).await
        };
        self.process.call(Port::Queue, "queue.reject", silent, reject).await
    }
    async fn ping(&self) -> Result<(), Error> {
        self.queue.ping().await
    }
    async fn depth(&self) -> Result<Depth, Error> {
        self.queue.depth().await
    }
}
