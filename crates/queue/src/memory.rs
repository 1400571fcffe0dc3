//! Queues in memory: for tests and simulation. Under a paused `tokio` clock and a seeded [`Rng`] two runs are the same.
//!
//! The queues outlive whoever uses them, as a cloud's do: a simulated process that dies keeps its deliveries invisible
//! until they lapse.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use domain::clock::{Clock, Rng, Timestamp};

use crate::broker::{Broker, Change, Lane, Payload, Seq};
use crate::embedded::{EmbeddedQueue, GiveBack, Keep, Payloads, Store, StoreTime, Waiters};
use crate::{Error, Queue, QueueConfig};

/// A set of named queues. Clones are the same set.
#[derive(Clone)]
pub struct MemoryQueues {
    store: Arc<MemoryStore>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
}

impl MemoryQueues {
    /// No queues yet. `clock` stamps messages and `rng` makes handles; invisibility runs on `tokio`'s clock.
    pub fn new(clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Self {
        let time = StoreTime::starting(clock.now(), Timestamp::MIN);
        let state = Mutex::new((Broker::new(0), Bodies::default()));
        Self { store: Arc::new(MemoryStore { state, time, waiters: Waiters::default() }), clock, rng }
    }

    /// The queue of that name, made when it is new.
    pub fn queue(&self, config: QueueConfig) -> Arc<dyn Queue> {
        let (store, clock, rng) = (Arc::clone(&self.store), Arc::clone(&self.clock), Arc::clone(&self.rng));
        Arc::new(EmbeddedQueue::new(config, store, clock, rng))
    }
}

struct MemoryStore {
    state: Mutex<(Broker, Bodies)>,
    time: StoreTime,
    waiters: Waiters,
}

#[derive(Default)]
struct Bodies(HashMap<Seq, Payload>);

impl Payloads for Bodies {
    fn payload(&self, seq: Seq) -> Result<Payload, Error> {
        self.0.get(&seq).cloned().ok_or_else(|| Error::Unavailable(format!("message {seq} has no body")))
    }
}

impl Bodies {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Insert { seq, payload, .. } => {
                self.0.insert(seq, payload);
            }
            Change::Remove { seq, .. } => {
                self.0.remove(&seq);
            }
            Change::Move { from, to, add, .. } => {
                if let Some(mut payload) = self.0.remove(&from.1) {
                    payload.attributes.extend(add.into_iter().map(|(name, value)| (name.to_owned(), value)));
                    self.0.insert(to.1, payload);
                }
            }
            Change::Deliver { .. } | Change::Remember { .. } | Change::Forget { .. } => {}
        }
    }
}

impl MemoryStore {
    fn run_now<T>(
        &self,
        queue: &Arc<QueueConfig>,
        op: impl FnOnce(&mut Broker, &dyn Payloads) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (result, woken) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let (broker, bodies) = &mut *state;
            for config in [Some(queue), queue.dead_letters.as_ref().map(|dead| &dead.queue)].into_iter().flatten() {
                if !broker.has(&config.name) {
                    broker.open(Lane::new(Arc::clone(config)));
                }
            }
            let result = op(broker, bodies);
            for change in broker.take_changes() {
                bodies.apply(change);
            }
            (result, broker.take_woken())
        };
        self.waiters.wake(&woken);
        result
    }
}

impl Store for MemoryStore {
    fn run<T: Send + 'static>(
        &self,
        queue: &Arc<QueueConfig>,
        _: Keep,
        op: impl FnOnce(&mut Broker, &dyn Payloads) -> Result<T, Error> + Send + 'static,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        std::future::ready(self.run_now(queue, op))
    }

    fn give_back(&self, _: &Arc<QueueConfig>, _: Timestamp) -> GiveBack {
        None
    }

    fn time(&self) -> StoreTime {
        self.time
    }

    fn waiters(&self) -> &Waiters {
        &self.waiters
    }
}
