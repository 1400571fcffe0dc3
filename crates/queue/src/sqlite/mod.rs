//! Queues in one SQLite file: for one process and its workers, surviving that process being killed at any instant.
//!
//! Properties, beyond the port's:
//!
//! * an answer means synced to disk (WAL, `synchronous=FULL`), many operations to a sync; except for what a start
//!   forgets anyway, who has taken which message, which costs no sync;
//! * one process at a time, held by a lock file beside the database;
//! * deliveries of an earlier process are visible at start, with their counts; deduplication carries on;
//! * idle queues do nothing: waiters sleep until they are woken or until the next invisibility ends.
//!
//! All messages' positions, groups and due times are kept in memory (about 300 bytes each), bodies only in the file.

mod file;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use domain::clock::{Clock, Rng, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use self::file::File;
pub use self::file::OpenError;
use self::writer::{Answer, Grounds, Job};
use crate::broker::Broker;
use crate::embedded::{EmbeddedQueue, GiveBack, Keep, Payloads, Store, StoreTime, Waiters};
use crate::{Error, Queue, QueueConfig};

/// Operations that may wait for the writer before senders wait too.
const BACKLOG: usize = 1024;
/// How long an operation may take, a stalled disk included.
const OPERATION: Duration = Duration::from_secs(15);

/// The queues of one file. Clones share it; when the last clone and the last queue are dropped, everything accepted is
/// finished, the writer ends, and the file is free for another process.
#[derive(Clone)]
pub struct SqliteQueues {
    store: Arc<SqliteStore>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
}

impl SqliteQueues {
    /// Opens the file, or makes it. Checks its integrity, so it takes a moment on a large file.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; each variant's text is meant for the operator.
    pub fn open(path: &Path, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Result<Self, OpenError> {
        let unavailable = |detail: String| OpenError::Unavailable { path: path.into(), detail };
        let file = File::open(path)?;
        let last = file.last_time().map_err(|error| unavailable(error.to_string()))?;
        let (sender, mut receiver) = mpsc::channel(BACKLOG);
        let waiters = Arc::new(Waiters::default());
        let woken = Arc::clone(&waiters);
        let serve = move || writer::serve(&file, &mut receiver, &woken);
        let thread = std::thread::Builder::new().name("queue-writer".into()).spawn(serve);
        let writer = Writer {
            sender: Some(sender),
            thread: Mutex::new(Some(thread.map_err(|error| unavailable(error.to_string()))?)),
        };
        let time = StoreTime::starting(clock.now(), last);
        Ok(Self { store: Arc::new(SqliteStore { writer, time, waiters }), clock, rng })
    }

    /// The queue of that name, made when it is new.
    pub fn queue(&self, config: QueueConfig) -> Arc<dyn Queue> {
        let (store, clock, rng) = (Arc::clone(&self.store), Arc::clone(&self.clock), Arc::clone(&self.rng));
        Arc::new(EmbeddedQueue::new(config, store, clock, rng))
    }
}

struct SqliteStore {
    writer: Writer,
    time: StoreTime,
    waiters: Arc<Waiters>,
}

/// Owns the thread: dropping it hangs up, then waits for the thread to finish.
struct Writer {
    sender: Option<mpsc::Sender<Job>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.sender = None;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!("queue file: the writer had panicked");
        }
    }
}

impl Store for SqliteStore {
    async fn run<T: Send + 'static>(
        &self,
        queue: &Arc<QueueConfig>,
        keep: Keep,
        op: impl FnOnce(&mut Broker, &dyn Payloads) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let op = Box::new(move |grounds: Grounds<'_>| -> Answer {
            let result = grounds.map(|(broker, payloads)| op(broker, payloads));
            Box::new(move |committed| {
                let failed = |error: &str| Error::Unavailable(error.to_owned());
                let result = committed.map_err(failed).and_then(|()| result.unwrap_or_else(|| Err(failed("not run"))));
                // Nobody listens when the caller gave up; what came of it is in the file all the same.
                let _ = reply.send(result);
            })
        });
        let stopped = || Error::Unavailable("the queue file's writer has stopped".to_owned());
        let call = async {
            let sender = self.writer.sender.as_ref().ok_or_else(stopped)?;
            sender.send(Job { queue: Arc::clone(queue), keep, op }).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        };
        timeout(OPERATION, call).await.unwrap_or(Err(Error::Timeout))
    }

    fn give_back(&self, queue: &Arc<QueueConfig>, at: Timestamp) -> GiveBack {
        let sender = self.writer.sender.as_ref()?.downgrade();
        let config = Arc::clone(queue);
        Some(Box::new(move |handles| {
            let name = config.name.clone();
            let op = move |grounds: Grounds<'_>| -> Answer {
                if let Some((broker, _)) = grounds {
                    broker.advance(at);
                    // A handle that has lapsed meanwhile is what this wants anyway.
                    handles.iter().for_each(|handle| drop(broker.extend(&name, handle, Duration::ZERO)));
                }
                Box::new(|_| {})
            };
            // Best effort: when the backlog is full, the messages come back when their visibility ends.
            if let Some(sender) = sender.upgrade() {
                let _ = sender.try_send(Job { queue: config, keep: Keep::Written, op: Box::new(op) });
            }
        }))
    }

    fn time(&self) -> StoreTime {
        self.time
    }

    fn waiters(&self) -> &Waiters {
        &self.waiters
    }
}

#[cfg(test)]
mod tests;
