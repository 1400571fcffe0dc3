//! The hand-over store: where a machine finds what it is to become.

use async_trait::async_trait;
use domain::handover::HandOver as Document;
use domain::ids::RunnerKey;

/// Why the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Try again later; a put may or may not have happened and is re-read first.
    #[error("the hand-over store did not answer: {0}")]
    Transient(String),
    /// The deployment is wrong (permissions, missing path).
    #[error("the hand-over store needs attention: {0}")]
    Deployment(String),
    /// What is stored there is not a hand-over.
    #[error("the stored hand-over is unreadable: {0}")]
    Invalid(String),
}

/// One document per machine; last writer wins, and only the holder of the machine's claim writes.
#[async_trait]
pub trait HandOver: Send + Sync + 'static {
    /// Writes (or overwrites) the document; durable when it returns.
    async fn put(&self, key: &RunnerKey, document: &Document) -> Result<(), Error>;
    /// Reads it. `None` until it is complete.
    async fn get(&self, key: &RunnerKey) -> Result<Option<Document>, Error>;
    /// Removes it. A missing document is fine.
    async fn delete(&self, key: &RunnerKey) -> Result<(), Error>;
    /// Machines that have one.
    async fn list(&self) -> Result<Vec<RunnerKey>, Error>;
}
