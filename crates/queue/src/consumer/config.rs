//! Every number of the loop.

use std::time::Duration;

/// How a [`Consumer`](super::Consumer) behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// Deliveries worked on at the same time; at least 1.
    pub permits: usize,
    /// Length of a long poll.
    pub wait: Duration,
    /// Invisibility asked for at receive and by each heartbeat.
    pub visibility: Duration,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// When heartbeats fail, a message with less invisibility left than this counts as lost.
    pub margin: Duration,
    /// How long a handler may take.
    pub deadline: Duration,
    /// How long telling the queue the result may take, apart from `deadline`.
    pub cleanup: Duration,
    /// Time between the three tries of an ack.
    pub retry: Duration,
    /// Pause after the first failed receive; doubles with each further one.
    pub backoff: Duration,
    /// Longest pause after a failed receive.
    pub backoff_max: Duration,
}

impl ConsumerConfig {
    /// The production numbers.
    pub const fn new(permits: usize) -> Self {
        Self {
            permits,
            wait: Duration::from_secs(20),
            visibility: Duration::from_secs(120),
            heartbeat: Duration::from_secs(30),
            margin: Duration::from_secs(45),
            deadline: Duration::from_secs(90),
            cleanup: Duration::from_secs(5),
            retry: Duration::from_secs(1),
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
        }
    }

    /// Every time but the long poll's `divisor` times shorter, for runs with shortened timings.
    #[must_use]
    pub fn divided(self, divisor: u32) -> Self {
        let by = divisor.max(1);
        Self {
            permits: self.permits,
            wait: self.wait,
            visibility: self.visibility / by,
            heartbeat: self.heartbeat / by,
            margin: self.margin / by,
            deadline: self.deadline / by,
            cleanup: self.cleanup / by,
            retry: self.retry / by,
            backoff: self.backoff / by,
            backoff_max: self.backoff_max / by,
        }
    }
}
