//! The database file: opening, the schema, and a broker's changes as statements.

use std::cell::Cell;
use std::fs::{self, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::clock::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::broker::{Change, Entry, InFlight, Lane, Payload, Seq};
use crate::embedded::Payloads;
use crate::{Error, QueueConfig};

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it: stop that one first.
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// Restore it from a backup, or move it away to start empty: lost messages come back from the job records.
    #[error("{path} is damaged: {detail}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
    },
    /// Made by a later release: run that one.
    #[error("{path} has format {version}, this release reads format 1")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: i64,
    },
    /// The file system refuses: check path, permissions and free space.
    #[error("{path} cannot be opened: {detail}")]
    Unavailable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
}

const FORMAT: i64 = 1;

// `message` is what a broker loads at start, so its rows are small and bodies live apart. Times are milliseconds of
// store time, `sent_at` of wall time. A nonce is 64 bits read as a signed integer.
const SCHEMA: &str = "
    CREATE TABLE message (
        queue TEXT NOT NULL, seq INTEGER NOT NULL, grp TEXT NOT NULL, sent_at INTEGER NOT NULL,
        expires INTEGER NOT NULL, count INTEGER NOT NULL, nonce INTEGER, until INTEGER,
        PRIMARY KEY (queue, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE payload (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, attributes TEXT NOT NULL) STRICT;
    CREATE TABLE dedup (
        queue TEXT NOT NULL, id TEXT NOT NULL, seq INTEGER NOT NULL, until INTEGER NOT NULL,
        PRIMARY KEY (queue, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE clock (now INTEGER NOT NULL) STRICT;
    INSERT INTO clock VALUES (0);
    PRAGMA user_version = 1;
";

/// An open queue file that nobody else has.
pub(crate) struct File {
    conn: Connection,
    /// Whether commits are synced at present.
    synced: Cell<bool>,
    /// Released by the system when the process ends, however it ends.
    _lock: fs::File,
}

impl File {
    /// Opens or makes the file, checks it, and ends every delivery of earlier processes: their owners cannot be alive,
    /// since they held the lock.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let unavailable =
            |error: std::io::Error| OpenError::Unavailable { path: path.into(), detail: error.to_string() };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(unavailable)?;
        }
        let private =
            |path: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let mut beside = path.as_os_str().to_owned();
        beside.push(".lock");
        let lock = private(Path::new(&beside)).map_err(unavailable)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::Locked(path.into()),
            TryLockError::Error(error) => unavailable(error),
        })?;
        private(path).map_err(unavailable)?;
        let conn = prepare(path).map_err(|error| broken(path, &error))?;
        let version: i64 =
            conn.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(|error| broken(path, &error))?;
        if version > FORMAT {
            return Err(OpenError::Newer { path: path.into(), version });
        }
        let start = || {
            let fresh = if version == 0 { SCHEMA } else { "" };
            conn.execute_batch(&format!(
                "BEGIN IMMEDIATE; {fresh} UPDATE message SET nonce = NULL, until = NULL WHERE nonce IS NOT NULL; COMMIT;"
            ))
        };
        start().map_err(|error| broken(path, &error))?;
        Ok(Self { conn, synced: Cell::new(true), _lock: lock })
    }

    /// The latest store time written.
    pub(crate) fn last_time(&self) -> rusqlite::Result<Timestamp> {
        self.conn.prepare_cached("SELECT now FROM clock")?.query_row([], |row| Ok(time(row.get(0)?)))
    }

    /// The greatest position of any message.
    pub(crate) fn last_seq(&self) -> rusqlite::Result<Seq> {
        let last: Option<i64> =
            self.conn.prepare_cached("SELECT max(seq) FROM payload")?.query_row([], |row| row.get(0))?;
        Ok(last.unwrap_or(0).cast_unsigned())
    }

    /// Everything the file keeps of a queue.
    pub(crate) fn load(&self, config: &Arc<QueueConfig>) -> rusqlite::Result<Lane> {
        let mut lane = Lane::new(Arc::clone(config));
        let mut messages = self.conn.prepare_cached(
            "SELECT seq, grp, sent_at, expires, count, nonce, until FROM message WHERE queue = ? ORDER BY seq",
        )?;
        let mut rows = messages.query([&config.name])?;
        while let Some(row) = rows.next()? {
            lane.append(row.get::<_, i64>(0)?.cast_unsigned(), entry(row)?);
        }
        let mut ids =
            self.conn.prepare_cached("SELECT id, seq, until FROM dedup WHERE queue = ? ORDER BY until, seq")?;
        let mut rows = ids.query([&config.name])?;
        while let Some(row) = rows.next()? {
            lane.remember(row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned(), time(row.get(2)?));
        }
        Ok(lane)
    }

    /// `synced`: its commit has to survive the machine. One that need not is on disk with the next one that has to.
    pub(crate) fn begin(&self, synced: bool) -> rusqlite::Result<()> {
        if self.synced.replace(synced) != synced {
            self.conn.pragma_update(None, "synchronous", if synced { "FULL" } else { "NORMAL" })?;
        }
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
    }

    /// Keeps everything since [`Self::begin`].
    pub(crate) fn commit(&self, now: Timestamp) -> rusqlite::Result<()> {
        self.conn.prepare_cached("UPDATE clock SET now = ?")?.execute([now.as_millisecond()])?;
        self.conn.prepare_cached("COMMIT")?.execute([]).map(drop)
    }

    pub(crate) fn roll_back(&self) {
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "queue file: rollback failed");
        }
    }

    /// Writes one change.
    pub(crate) fn apply(&self, change: &Change) -> rusqlite::Result<()> {
        match change {
            Change::Insert { queue, seq, entry, payload } => {
                self.insert_message(queue, *seq, entry)?;
                self.conn
                    .prepare_cached("INSERT INTO payload (seq, body, attributes) VALUES (?, ?, ?)")?
                    .execute(params![seq.cast_signed(), payload.body, text(payload)?])?;
            }
            Change::Deliver { queue, seq, count, in_flight } => {
                let nonce = in_flight.map(|delivery| delivery.nonce.cast_signed());
                let until = in_flight.map(|delivery| delivery.until.as_millisecond());
                self.conn
                    .prepare_cached("UPDATE message SET count = ?, nonce = ?, until = ? WHERE queue = ? AND seq = ?")?
                    .execute(params![count, nonce, until, queue, seq.cast_signed()])?;
            }
            Change::Remove { queue, seq } => {
                self.delete_message(queue, *seq)?;
                self.conn.prepare_cached("DELETE FROM payload WHERE seq = ?")?.execute([seq.cast_signed()])?;
            }
            Change::Move { from, to, entry, add } => {
                self.delete_message(&from.0, from.1)?;
                self.insert_message(&to.0, to.1, entry)?;
                if let Some(mut payload) = self.read_payload(from.1)? {
                    payload.attributes.extend(add.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
                    self.conn
                        .prepare_cached("UPDATE payload SET seq = ?, attributes = ? WHERE seq = ?")?
                        .execute(params![to.1.cast_signed(), text(&payload)?, from.1.cast_signed()])?;
                }
            }
            Change::Remember { queue, id, seq, until } => {
                self.conn
                    .prepare_cached("INSERT OR REPLACE INTO dedup (queue, id, seq, until) VALUES (?, ?, ?, ?)")?
                    .execute(params![queue, id, seq.cast_signed(), until.as_millisecond()])?;
            }
            Change::Forget { queue, id } => {
                self.conn.prepare_cached("DELETE FROM dedup WHERE queue = ? AND id = ?")?.execute([queue, id])?;
            }
        }
        Ok(())
    }

    fn insert_message(&self, queue: &str, seq: Seq, entry: &Entry) -> rusqlite::Result<()> {
        let mut insert = self.conn.prepare_cached(
            "INSERT INTO message (queue, seq, grp, sent_at, expires, count) VALUES (?, ?, ?, ?, ?, ?)",
        )?;
        let (sent_at, expires) = (entry.sent_at.as_millisecond(), entry.expires.as_millisecond());
        insert.execute(params![queue, seq.cast_signed(), &*entry.group, sent_at, expires, entry.count]).map(drop)
    }

    fn delete_message(&self, queue: &str, seq: Seq) -> rusqlite::Result<()> {
        let mut delete = self.conn.prepare_cached("DELETE FROM message WHERE queue = ? AND seq = ?")?;
        delete.execute(params![queue, seq.cast_signed()]).map(drop)
    }

    fn read_payload(&self, seq: Seq) -> rusqlite::Result<Option<Payload>> {
        let mut select = self.conn.prepare_cached("SELECT body, attributes FROM payload WHERE seq = ?")?;
        let read = |row: &Row<'_>| {
            let attributes: String = row.get(1)?;
            let attributes = serde_json::from_str(&attributes).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, error.into())
            })?;
            Ok(Payload { body: row.get(0)?, attributes })
        };
        select.query_row([seq.cast_signed()], read).optional()
    }
}

impl Payloads for File {
    fn payload(&self, seq: Seq) -> Result<Payload, Error> {
        let payload = self.read_payload(seq).map_err(|error| Error::Unavailable(error.to_string()))?;
        payload.ok_or_else(|| Error::Unavailable(format!("message {seq} has no body")))
    }
}

fn prepare(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open(path)?;
    conn.set_prepared_statement_cache_capacity(32);
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    let verdict: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        return Err(rusqlite::Error::SqliteFailure(code, Some(verdict)));
    }
    Ok(conn)
}

fn broken(path: &Path, error: &rusqlite::Error) -> OpenError {
    use rusqlite::ErrorCode::{CannotOpen, DiskFull, PermissionDenied, ReadOnly, SystemIoFailure};
    let (path, detail) = (path.into(), error.to_string());
    match error.sqlite_error_code() {
        Some(CannotOpen | DiskFull | PermissionDenied | ReadOnly | SystemIoFailure) => {
            OpenError::Unavailable { path, detail }
        }
        _ => OpenError::Corrupt { path, detail },
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let in_flight = match (row.get::<_, Option<i64>>(5)?, row.get::<_, Option<i64>>(6)?) {
        (Some(nonce), Some(until)) => Some(InFlight { nonce: nonce.cast_unsigned(), until: time(until) }),
        _ => None,
    };
    Ok(Entry {
        group: row.get::<_, String>(1)?.into(),
        sent_at: time(row.get(2)?),
        expires: time(row.get(3)?),
        count: row.get(4)?,
        in_flight,
    })
}

/// Written by [`Timestamp::as_millisecond`], so always in range.
fn time(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn text(payload: &Payload) -> rusqlite::Result<String> {
    serde_json::to_string(&payload.attributes).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}
