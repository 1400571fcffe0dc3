//! The port to a store of whole objects, each under a key: archives, and whatever else outgrows a table's row.
//!
//! An object is written at once or not at all, is durable when the write returns, and was compared by checksum on its way.
//! Nothing here streams; an object fits into memory.

#[cfg(feature = "local")]
mod directory;
#[cfg(feature = "aws")]
mod s3;

use async_trait::async_trait;
use bytes::Bytes;
use domain::clock::Timestamp;

#[cfg(feature = "local")]
pub use directory::DirectoryBlobs;
#[cfg(feature = "aws")]
pub use s3::S3Blobs;

/// Longest key, in bytes (S3's limit).
pub const MAX_KEY: usize = 1024;
/// Longest piece of a key between two slashes, in bytes: what a file system takes, less room for a temporary name.
pub const MAX_SEGMENT: usize = 200;

/// Why the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Try again later; a write may or may not have happened.
    #[error("the object store did not answer: {0}")]
    Transient(String),
    /// The deployment is wrong: permissions, a missing bucket, a full disk.
    #[error("the object store needs attention: {0}")]
    Deployment(String),
    /// No object can have this key.
    #[error("not an object's key: {0}")]
    Key(String),
}

/// What a write found under its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Created {
    /// Nothing: the object is ours.
    New,
    /// An object with other content, which stays.
    Exists,
}

/// An object, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its key.
    pub key: String,
    /// Its size, in bytes.
    pub size: u64,
    /// When it was last written, where the store knows.
    pub modified_at: Option<Timestamp>,
}

/// Objects by key. Keys are pieces joined by `/`; a piece is not empty, does not begin with a dot and has no control
/// characters, so that every key is a path on every back end and none leads outside. A key that is also the beginning
/// of others (`a` beside `a/b`) works on some back ends only.
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// Writes an object over whatever there is. Repeatable.
    async fn put(&self, key: &str, content: Bytes) -> Result<(), Error>;
    /// Writes an object unless there is one. One with exactly this content counts as new: it may be ours, written by a
    /// try whose answer was lost.
    async fn create(&self, key: &str, content: Bytes) -> Result<Created, Error>;
    /// The content; `None` when there is no object.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error>;
    /// Every object whose key begins so, in the order of keys. An empty prefix lists all.
    async fn list(&self, prefix: &str) -> Result<Vec<Blob>, Error>;
    /// Removes an object. A missing one is fine.
    async fn delete(&self, key: &str) -> Result<(), Error>;
}

/// Refuses what is no key.
#[cfg(any(feature = "local", feature = "aws"))]
fn check(key: &str) -> Result<(), Error> {
    let plain = |segment: &str| {
        (1..=MAX_SEGMENT).contains(&segment.len())
            && !segment.starts_with('.')
            && !segment.chars().any(|c| c.is_control() || c == '\\')
    };
    if key.len() <= MAX_KEY && key.split('/').all(plain) {
        Ok(())
    } else {
        Err(Error::Key(key.escape_debug().collect()))
    }
}
