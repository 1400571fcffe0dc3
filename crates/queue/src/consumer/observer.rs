//! What a consumer reports; metrics are somebody else's business.

use std::time::Duration;

use crate::{Delivery, Error};

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Processed; the message is removed, or will be recognised when it comes back.
    Acked,
    /// Still needed.
    Kept,
    /// Dead-lettered.
    Rejected,
    /// The handler panicked; the message comes back.
    Panicked,
    /// The handler took longer than its deadline; the message comes back.
    TimedOut,
    /// The message was redelivered while the handler ran.
    Lost,
}

impl Outcome {
    /// Whether the task did what it was meant to do: `ok` or `error` in metrics.
    pub const fn is_ok(self) -> bool {
        matches!(self, Self::Acked | Self::Kept | Self::Rejected)
    }
}

/// Hears what a consumer does. Every method returns at once.
pub trait Observer: Send + Sync + 'static {
    /// A poll brought messages.
    fn received(&self, _queue: &str, _deliveries: &[Delivery]) {}
    /// A poll brought nothing.
    fn empty(&self, _queue: &str) {}
    /// A poll failed.
    fn receive_error(&self, _queue: &str, _error: &Error) {}
    /// A task ended, after this long.
    fn processed(&self, _queue: &str, _outcome: Outcome, _took: Duration) {}
    /// A message was dead-lettered; the reason is one of a fixed set.
    fn poison(&self, _queue: &str, _reason: &'static str) {}
    /// A message was redelivered before its task ended.
    fn visibility_lost(&self, _queue: &str) {}
    /// A processed message could not be removed.
    fn ack_failed(&self, _queue: &str) {}
    /// The number of tasks changed.
    fn inflight(&self, _queue: &str, _tasks: usize) {}
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}
