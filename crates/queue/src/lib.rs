//! Queues: the port, its embedded back ends, and the one consumer loop.
//!
//! * [`port`] — what a queue is, for every back end.
//! * [`consumer`] — the loop that turns deliveries into handled work.
//! * [`MemoryQueues`] — for tests and simulation.
//! * [`sqs`] (feature `aws`) — Amazon SQS: [`SqsQueue`], and the queues a set-up makes.
//! * `SqliteQueues` (feature `local`) — one file, one process, no cloud.
//! * [`spool`] (feature `spool`; its reader with `local`) — a directory that agents write reports to.
//!
//! Memory and SQLite are shells around one state machine, so that tests and simulation speak of the semantics that
//! production on a single machine has.

#[cfg_attr(not(feature = "local"), allow(dead_code, reason = "some facts are only for a store that is durable"))]
mod broker;
mod config;
pub mod consumer;
mod embedded;
mod memory;
mod poison;
pub mod port;
#[cfg(feature = "spool")]
pub mod spool;
#[cfg(feature = "local")]
mod sqlite;
#[cfg(feature = "aws")]
pub mod sqs;

pub use config::{DeadLetters, QueueConfig};
pub use consumer::{Consumer, ConsumerConfig, Disposition, Handler, NoObserver, Observer, Outcome};
pub use memory::MemoryQueues;
pub use port::{Capabilities, DEDUP_WINDOW, Delivery, Depth, Error, Handle, MAX_BODY, MAX_VISIBILITY, Message, Queue};
#[cfg(feature = "local")]
pub use spool::SpoolQueue;
#[cfg(feature = "local")]
pub use sqlite::{OpenError, SqliteQueues};
#[cfg(feature = "aws")]
pub use sqs::{QueueSpec, SqsQueue};
