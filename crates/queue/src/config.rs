//! What one queue of an embedded store is like.

use std::sync::Arc;
use std::time::Duration;

/// Name and rules of one queue in [`MemoryQueues`](crate::MemoryQueues) or `SqliteQueues`.
///
/// A queue's rules belong to its name: whoever opens it first in a process decides them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// `main`, `main-dlq`, `termination`, …
    pub name: String,
    /// Order and exclusion within a group, and deduplication by content when a message names no id.
    pub fifo: bool,
    /// How long a message may wait before it goes to the dead-letter queue as `expired`.
    pub retention: Duration,
    /// Where messages go that nobody could process. Without it they are logged and removed.
    pub dead_letters: Option<DeadLetters>,
}

/// The way out of a queue for messages that keep failing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetters {
    /// The queue they go to.
    pub queue: Arc<QueueConfig>,
    /// How often a message is delivered before it goes there.
    pub max_receive_count: u32,
}

impl QueueConfig {
    /// A FIFO queue that keeps messages for a day.
    pub fn fifo(name: impl Into<String>) -> Self {
        Self { name: name.into(), fifo: true, retention: Duration::from_secs(86_400), dead_letters: None }
    }

    /// A queue without lanes that keeps messages for a day.
    pub fn standard(name: impl Into<String>) -> Self {
        Self { fifo: false, ..Self::fifo(name) }
    }

    /// Keeps messages for `retention` instead.
    #[must_use]
    pub fn retention(self, retention: Duration) -> Self {
        Self { retention, ..self }
    }

    /// Sends a message to `queue` when it would be delivered more than `max_receive_count` times.
    #[must_use]
    pub fn dead_letters(self, queue: &Self, max_receive_count: u32) -> Self {
        let dead_letters = DeadLetters { queue: Arc::new(queue.clone()), max_receive_count };
        Self { dead_letters: Some(dead_letters), ..self }
    }
}
