//! The embedded store: one SQLite file on one machine.
//!
//! Properties:
//! * **Durable when acknowledged.** WAL with `synchronous=FULL`; a write is answered after its commit. After a kill at
//!   any instant the file holds exactly a prefix of the acknowledged writes, plus perhaps some unacknowledged ones.
//! * **Serialisable.** One thread owns the only writing connection and evaluates conditions inside the transaction.
//!   Writes that arrive while a commit is under way share the next one (group commit): under load one `fsync` serves
//!   many jobs.
//! * **Reads see every earlier write**: they run on their own connections, each from the latest commit.
//! * **One process.** A lock file beside the store keeps a second writer out and frees itself when the process dies.
//!   Other processes read through [`Sqlite::open_read_only`].
//!
//! It waits for real threads, so it does not belong under a paused clock: use [`crate::memory`] there.
//!
//! Secondary indexes are SQLite indexes over generated columns of the row's JSON, so they cannot disagree with it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::Clock;
use tokio::sync::{Semaphore, oneshot};

use self::readers::Readers;
use self::writer::Request;
use crate::schema;
use crate::table::{Cond, Error, Item, Outcome, Query, Schema, Table, Update, Value, Write};

mod file;
mod readers;
#[cfg(test)]
mod tests;
mod writer;

/// Writes waiting for the writer; further callers wait for room.
const BACKLOG: usize = 1024;
/// The longest a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// See the module.
pub struct Sqlite {
    readers: Readers,
    writer: Option<Writer>,
}

struct Writer {
    requests: mpsc::SyncSender<Request>,
    room: Arc<Semaphore>,
    thread: JoinHandle<()>,
}

impl Sqlite {
    /// Opens (or creates) the store with all of our tables.
    ///
    /// # Errors
    /// [`Error::Invalid`] with a message for the operator when another process has it, when it is damaged, or when a
    /// newer release wrote it.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        Self::open_with(path, clock, &schema::ALL)
    }

    /// The same with other tables.
    pub fn open_with(path: &Path, clock: Arc<dyn Clock>, tables: &[&'static Schema]) -> Result<Self, Error> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .map_err(|error| Error::Invalid(format!("cannot create {}: {error}", directory.display())))?;
        }
        let lock = take_lock(path)?;
        let connection = file::create(path, tables)?;
        let readers = Readers::open(path, Arc::clone(&clock))?;
        let (requests, inbox) = mpsc::sync_channel(BACKLOG);
        let tables = tables.to_vec();
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                writer::run(connection, &inbox, clock.as_ref(), &tables);
                // Released last: nobody may open the file while this connection still writes its end.
                drop(lock);
            })
            .map_err(|error| Error::Unavailable(format!("cannot start the store's writer: {error}")))?;
        let room = Arc::new(Semaphore::new(BACKLOG));
        Ok(Self { readers, writer: Some(Writer { requests, room, thread }) })
    }

    /// Opens an existing store that another process may be writing. Every write is refused.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no store; otherwise as [`Sqlite::open`].
    pub fn open_read_only(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        if !path.is_file() {
            return Err(Error::Missing(format!("no store at {}", path.display())));
        }
        Ok(Self { readers: Readers::open(path, clock)?, writer: None })
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Outcome<Option<Item>>, Error> {
        let Some(writer) = &self.writer else {
            return Err(Error::Invalid("the store was opened for reading only".to_owned()));
        };
        let (reply, answer) = oneshot::channel();
        let request = async {
            let room = Arc::clone(&writer.room).acquire_owned().await.map_err(|_| gone())?;
            // There is room: a permit is held for every request in the channel.
            writer.requests.try_send(Request { writes, reply, _room: room }).map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        };
        tokio::time::timeout(PATIENCE, request)
            .await
            .unwrap_or_else(|_| Err(Error::Unavailable(format!("no answer within {PATIENCE:?}"))))
    }
}

fn gone() -> Error {
    Error::Unavailable("no answer from the store's threads".to_owned())
}

/// SQLite's own answer; never our fault, always worth another try later.
#[allow(clippy::needless_pass_by_value, reason = "the shape `map_err` wants")]
fn failed(error: rusqlite::Error) -> Error {
    Error::Unavailable(error.to_string())
}

fn take_lock(path: &Path) -> Result<File, Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let cannot = |error: &dyn std::fmt::Display| Error::Invalid(format!("cannot lock {}: {error}", name.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&name).map_err(|error| cannot(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Invalid(format!(
            "the store {} is in use by another process; stop it first, or read through its API",
            path.display()
        ))),
        Err(std::fs::TryLockError::Error(error)) => Err(cannot(&error)),
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        if let Some(Writer { requests, thread, .. }) = self.writer.take() {
            drop(requests);
            // The writer finishes the commit it is in; afterwards the file is free for the next process.
            if thread.join().is_err() {
                tracing::error!("the store's writer panicked");
            }
        }
    }
}

#[async_trait]
impl Table for Sqlite {
    async fn get(&self, table: &'static Schema, key: &Value) -> Result<Option<Item>, Error> {
        self.readers.get(table, key).await
    }

    async fn put(&self, table: &'static Schema, item: Item, cond: Cond) -> Result<Outcome, Error> {
        Ok(self.write(vec![Write::Put { table, item, cond }]).await?.map(|_| ()))
    }

    async fn update(
        &self,
        table: &'static Schema,
        key: &Value,
        update: Update,
        cond: Cond,
    ) -> Result<Outcome<Item>, Error> {
        let write = Write::Update { table, key: key.clone(), update, cond };
        Ok(self.write(vec![write]).await?.map(Option::unwrap_or_default))
    }

    async fn delete(&self, table: &'static Schema, key: &Value, cond: Cond) -> Result<Outcome, Error> {
        Ok(self.write(vec![Write::Delete { table, key: key.clone(), cond }]).await?.map(|_| ()))
    }

    async fn query(&self, table: &'static Schema, query: Query) -> Result<Vec<Item>, Error> {
        self.readers.query(table, query).await
    }

    async fn count(&self, table: &'static Schema, query: Query) -> Result<usize, Error> {
        self.readers.count(table, query).await
    }

    async fn scan(&self, table: &'static Schema) -> Result<Vec<Item>, Error> {
        self.readers.scan(table).await
    }

    async fn transact(&self, writes: Vec<Write>) -> Result<Outcome, Error> {
        Ok(self.write(writes).await?.map(|_| ()))
    }
}
