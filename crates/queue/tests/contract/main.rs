//! One suite for every back end: what a queue promises, whoever keeps it.
//!
//! `suite` holds the promises as functions over a [`Bench`]; `memory`, `sqlite`, `sqs` and `spool` run them and add what only
//! they promise; `consumer` tests the loop on the memory queue. Numbers (`q01` …) are the suite's own.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod consumer;
mod memory;
#[cfg(feature = "local")]
mod spool;
#[cfg(feature = "local")]
mod sqlite;
#[cfg(feature = "aws")]
mod sqs;
mod suite;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use domain::clock::{Clock, Rng, SignedDuration, Timestamp};
use queue::{Message, Queue, QueueConfig};

/// A back end to test, and how fast its time passes.
pub(crate) struct Bench {
    pub(crate) open: Box<dyn Fn(QueueConfig) -> Arc<dyn Queue> + Send + Sync>,
    /// A visibility that is short in a test, and long compared with an operation.
    pub(crate) unit: Duration,
    /// Messages in the long runs.
    pub(crate) messages: usize,
    pub(crate) clock: Arc<TestClock>,
}

impl Bench {
    pub(crate) fn queue(&self, config: QueueConfig) -> Arc<dyn Queue> {
        (self.open)(config)
    }

    pub(crate) fn fifo(&self) -> Arc<dyn Queue> {
        self.queue(QueueConfig::fifo("main"))
    }
}

/// Wall time that tests move: `tokio`'s time, plus steps.
pub(crate) struct TestClock {
    start: tokio::time::Instant,
    step: AtomicI64,
}

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { start: tokio::time::Instant::now(), step: AtomicI64::new(0) })
    }

    /// Sets the wall clock forward or back.
    pub(crate) fn step(&self, seconds: i64) {
        self.step.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        start + self.start.elapsed() + SignedDuration::from_secs(self.step.load(Ordering::Relaxed))
    }
}

/// Splitmix: the same seed, the same run.
pub(crate) struct Seeded(AtomicU64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seed)))
    }

    /// Less than `bound`.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.next_u64() % bound
    }
}

impl Rng for Seeded {
    fn next_u64(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A message whose deduplication id is its group and body.
pub(crate) fn message(group: &str, body: &str) -> Message {
    Message { body: body.into(), group: group.into(), dedup: format!("{group}/{body}"), ..Message::default() }
}
