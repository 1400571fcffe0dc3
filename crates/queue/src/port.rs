//! The queue port: at-least-once delivery with visibility, FIFO groups, deduplication and dead letters.
//!
//! A message is a wake-up call; the job record is the truth. Losing any single message must not lose a job, and
//! delivering one any number of times, in any order, must not start a second runner.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::Timestamp;
use tokio::time::Instant;

/// Largest body, in bytes.
pub const MAX_BODY: usize = 262_144;
/// How long a deduplication id is remembered.
pub const DEDUP_WINDOW: Duration = Duration::from_secs(300);
/// Longest invisibility.
pub const MAX_VISIBILITY: Duration = Duration::from_secs(12 * 3600);

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// UTF-8 text, JSON by convention.
    pub body: String,
    /// Messages of one group are delivered one at a time, in order; groups never block each other. Required on FIFO
    /// queues.
    pub group: String,
    /// A send whose id was accepted within [`DEDUP_WINDOW`] succeeds and delivers nothing.
    pub dedup: String,
    /// String attributes.
    pub attributes: BTreeMap<String, String>,
}

/// One delivery of a message.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The back end's id. Never used for idempotency.
    pub id: String,
    /// The body.
    pub body: String,
    /// Names *this delivery*: a handle of an earlier one can neither ack nor extend it.
    pub handle: Handle,
    /// String attributes.
    pub attributes: BTreeMap<String, String>,
    /// When it was sent, if the back end knows.
    pub sent_at: Option<Timestamp>,
    /// 1 for the first delivery, if the back end counts.
    pub receive_count: Option<u32>,
    /// FIFO group.
    pub group: Option<String>,
    /// When the invisibility ends, measured from the start of the receive request.
    pub deadline: Instant,
}

/// See [`Delivery::handle`]. Empty when the back end gave none; such a delivery is skipped with a warning.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub String);

/// How full a queue is; approximate on some back ends, `None` where unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Stored and not in flight, those behind their group's head included.
    pub visible: Option<u64>,
    /// Delivered and not yet acked.
    pub in_flight: Option<u64>,
    /// Age of the oldest message.
    pub oldest: Option<Duration>,
}

/// What a back end can do; checked at start-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Order and exclusion within a group.
    pub fifo: bool,
    /// Longest invisibility.
    pub max_visibility: Duration,
}

/// Why an operation failed, by what the caller must do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Slow down, then try again.
    #[error("the queue is throttling")]
    Throttled,
    /// Try again later.
    #[error("the queue is unavailable: {0}")]
    Unavailable(String),
    /// No answer in time; a send may have happened (its deduplication id makes a repeat harmless).
    #[error("the queue did not answer in time")]
    Timeout,
    /// Credentials or policy. Not retried.
    #[error("access to the queue was refused: {0}")]
    Unauthorized(String),
    /// No such queue. Not retried.
    #[error("no such queue: {0}")]
    NotFound(String),
    /// The request can never succeed. Not retried.
    #[error("the queue refused the request: {0}")]
    Invalid(String),
    /// The body is over [`MAX_BODY`] bytes; nothing was stored. Not retried.
    #[error("message body of {0} bytes is over the limit of 262144")]
    TooLarge(usize),
    /// The delivery is no longer ours: its visibility ended or it was redelivered.
    #[error("the delivery is no longer ours")]
    HandleExpired,
}

impl Error {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable(_) | Self::Timeout)
    }
}

/// A queue. One asynchronous trait; every back end passes the same contract suite (`tests/contract`).
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// The name in logs, metrics and pages: `main`, `termination`, …
    fn name(&self) -> &str;
    /// What it can do.
    fn capabilities(&self) -> Capabilities;
    /// Stores a message; durable when it returns. Returns the message's id.
    async fn send(&self, message: Message) -> Result<String, Error>;
    /// Long poll for up to `max` (1–10) messages. Returns early with whatever there is; empty after `wait`. Dropping
    /// the future loses no message for longer than `visibility`.
    async fn receive(&self, max: usize, wait: Duration, visibility: Duration) -> Result<Vec<Delivery>, Error>;
    /// Removes the message for good. Acking a removed message is fine.
    async fn ack(&self, handle: &Handle) -> Result<(), Error>;
    /// Sets the remaining invisibility; zero makes the message visible at once.
    async fn extend(&self, handle: &Handle, visibility: Duration) -> Result<(), Error>;
    /// Poison: copies the message to the dead-letter queue with `PoisonReason` and `SourceMessageId`, then acks it.
    /// Without a dead-letter queue it is logged (never the body) and acked.
    async fn reject(&self, delivery: &Delivery, reason: &str) -> Result<(), Error>;
    /// Cheap probe, at most 2 s.
    async fn ping(&self) -> Result<(), Error>;
    /// For gauges.
    async fn depth(&self) -> Result<Depth, Error>;
}
