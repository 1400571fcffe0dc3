//! The port to where objects are kept: a directory, or a bucket.
//!
//! Properties that the rest is built on:
//!
//! * **Whole or absent.** An object appears at once, with all of its bytes, or not at all; whatever dies when. A body
//!   that ends early, or does not match what was announced, leaves nothing behind.
//! * **One winner.** Of any number of writers under [`When::Absent`] or [`When::Same`], one wins; the others are told.
//! * **Bounded memory.** Bytes pass through; an object is never held.
//! * **Published means durable.** After [`Store::publish`] the entry and its bytes survive a loss of power. What only
//!   serves an upload may get lost with it.

mod fs;
#[cfg(feature = "aws")]
mod s3;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use domain::clock::Timestamp;
use futures::stream::BoxStream;

pub use self::fs::FsStore;
#[cfg(feature = "aws")]
pub use self::s3::S3Store;
use crate::layout::Key;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, or does not work at the moment: try again.
    #[error("the store of the cache does not answer: {0}")]
    Unavailable(String),
    /// There is no room left.
    #[error("the store of the cache is full")]
    Full,
    /// The bytes to write ended early or were not the announced ones.
    #[error(transparent)]
    Cut(#[from] Cut),
}

/// Why a body was not stored. The sender's doing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// It ended before its announced end, or paused for too long.
    #[error("the body ended early")]
    Early,
    /// It went on behind its announced end.
    #[error("the body is longer than announced")]
    Late,
    /// It is longer than an entry may be.
    #[error("the body is larger than an entry may be")]
    TooLarge,
    /// Its MD5 is not the announced one.
    #[error("the MD5 of the body is not the announced one")]
    Md5,
    /// Its CRC-64 is not the announced one.
    #[error("the CRC-64 of the body is not the announced one")]
    Crc64,
}

/// Condition of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// None.
    Always,
    /// There is no such object.
    Absent,
    /// It is still the one that was read.
    Same(Tag),
}

/// Tells one content of an object from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag(pub String);

/// What became of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It was done.
    Done,
    /// Somebody else was first; nothing changed.
    Lost,
}

/// A small object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its bytes.
    pub bytes: Bytes,
    /// For [`When::Same`].
    pub tag: Tag,
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub key: Key,
    /// Its bytes.
    pub size: u64,
    /// When it was written.
    pub modified: Timestamp,
}

/// A part of a listing.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In no particular order.
    pub objects: Vec<Listed>,
    /// Where the next part begins; `None`: this was the last.
    pub next: Option<String>,
}

/// A piece of an object to be assembled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The stored piece.
    pub key: Key,
    /// Its bytes.
    pub size: u64,
}

/// Bytes on their way in. An error among them: nothing is to be stored.
pub type Incoming = BoxStream<'static, Result<Bytes, Cut>>;
/// Bytes on their way out. An error among them: the rest will not come.
pub type Outgoing = BoxStream<'static, Result<Bytes, Error>>;

/// See the module. Every method may be called any number of times at once.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// A small object.
    async fn get(&self, key: &Key) -> Result<Option<Object>, Error>;

    /// Writes a small object.
    async fn put(&self, key: &Key, bytes: Bytes, when: When) -> Result<Outcome, Error>;

    /// Writes an object if there is none, after making `data` (if any) as durable as it will be.
    async fn publish(&self, key: &Key, bytes: Bytes, data: &Key) -> Result<Outcome, Error>;

    /// Size and age of an object.
    async fn head(&self, key: &Key) -> Result<Option<Listed>, Error>;

    /// Removes an object; one that is not there is fine.
    async fn delete(&self, key: &Key) -> Result<(), Error>;

    /// The objects whose names begin so. `after` is the last page's `next`.
    async fn list(&self, prefix: &str, after: Option<String>) -> Result<Page, Error>;

    /// Writes an object of any size, of which `size` may be known. Returns its size.
    async fn write(&self, key: &Key, size: Option<u64>, bytes: Incoming) -> Result<u64, Error>;

    /// `length` bytes from `start`; `None`: no such object. What is missing at its end is an error in the stream.
    async fn read(&self, key: &Key, start: u64, length: u64) -> Result<Option<Outgoing>, Error>;

    /// Writes an object out of pieces that are stored already. They stay.
    async fn assemble(&self, key: &Key, pieces: &[Piece]) -> Result<(), Error>;

    /// An address from which everybody may read the object for a quarter of an hour; `None`: there are none here.
    async fn presign(&self, key: &Key) -> Result<Option<String>, Error>;

    /// Removes what writers left unfinished that were at it longer ago than this. Returns how many.
    async fn clear_unfinished(&self, older: Duration) -> Result<usize, Error>;

    /// Two objects whose ages differ by less may have been written in either order.
    fn granularity(&self) -> Duration;
}

/// The whole listing, page by page.
pub(crate) async fn list_all(store: &dyn Store, prefix: &str) -> Result<Vec<Listed>, Error> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(prefix, after).await?;
        all.extend(page.objects);
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}
