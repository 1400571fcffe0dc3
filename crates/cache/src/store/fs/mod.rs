//! The store in a directory of this machine.
//!
//! ```text
//! <root>/lock        held by the one process that uses the directory
//! <root>/tmp/        what is being written; emptied at start
//! <root>/caches/…    the objects, each a file of its name
//! ```
//!
//! A file is written under `tmp` and then moved (or, where it must not replace another, linked) to its place, which the
//! kernel does at once or not at all. Names come from [`crate::layout`] alone, whose parts cannot climb.
//!
//! What only serves an upload is not synced: after a loss of power it may be gone or short, and every use checks sizes.
//! Publishing syncs the bytes of the entry first, then the entry.
//!
//! Races survived: a directory is removed as empty between being made and being used (it is made again); the process
//! is killed anywhere (`tmp` is emptied at start); a reader still has a file open that is removed (it keeps its bytes).

mod names;
mod read;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use domain::clock::{SignedDuration, Timestamp};
use futures::StreamExt;
use provider::files::private_dir;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use self::names::{Names, PlainFile};
use super::{Error, Incoming, Listed, Object, Outcome, Outgoing, Page, Piece, Store, Tag, When};
use crate::layout::Key;

/// Bytes handed to the kernel at once.
const CHUNK: usize = 512 << 10;
/// Largest small object.
const SMALL: u64 = 16 << 20;
/// Directories are removed as empty by others; so often a writer makes them again.
const ATTEMPTS: usize = 8;
/// Time stamps of files are as exact as the kernel's tick.
const TICK: Duration = Duration::from_millis(20);
/// Conditional writes to different objects seldom wait for each other.
const STRIPES: usize = 64;

/// See the module.
pub struct FsStore {
    shared: Arc<Shared>,
}

struct Shared {
    root: PathBuf,
    temporary: PathBuf,
    next: AtomicU64,
    names: Names,
    stripes: [Mutex<()>; STRIPES],
    /// Held for as long as the process may write.
    _lock: File,
}

/// A file that is gone with this value, unless it was moved to its place.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl FsStore {
    /// Opens (or creates) the store. Blocking.
    ///
    /// # Errors
    /// When the directory cannot be used, is a link to a place of somebody else's, or is used by another process.
    pub fn open(root: &Path) -> io::Result<Self> {
        private_dir(root)?;
        let (link, target) = (fs::symlink_metadata(root)?, fs::metadata(root)?);
        let us = rustix::process::geteuid().as_raw();
        if link.is_symlink() && target.uid() != us {
            return Err(io::Error::new(ErrorKind::PermissionDenied, "a link into another user's directory"));
        }
        let root = fs::canonicalize(root)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(root.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(io::Error::new(ErrorKind::ResourceBusy, "another process uses the directory"));
            }
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        let temporary = root.join("tmp");
        match fs::remove_dir_all(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => private_dir(&temporary)?,
        }
        let stripes = std::array::from_fn(|_| Mutex::new(()));
        Ok(Self {
            shared: Arc::new(Shared {
                root,
                temporary,
                next: AtomicU64::new(0),
                names: Names::default(),
                stripes,
                _lock: lock,
            }),
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.shared);
        joined(tokio::task::spawn_blocking(move || work(&shared))).await
    }
}

async fn joined<T>(task: JoinHandle<io::Result<T>>) -> Result<T, Error> {
    match task.await {
        Ok(done) => done.map_err(failed),
        Err(_) => Err(Error::Unavailable("a file operation was dropped".to_owned())),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the shape `map_err` wants")]
fn failed(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::Full,
        // Kinds, not messages: those may name paths.
        kind => Error::Unavailable(kind.to_string()),
    }
}

fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn modified(metadata: &fs::Metadata) -> Timestamp {
    let age = SignedDuration::new(metadata.mtime(), i32::try_from(metadata.mtime_nsec()).unwrap_or_default());
    Timestamp::from_duration(age).unwrap_or_default()
}

fn tag(bytes: &[u8]) -> Tag {
    Tag(hex::encode(Sha256::digest(bytes)))
}

impl Shared {
    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn temporary(&self) -> PathBuf {
        self.temporary.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    fn unfinished(&self) -> io::Result<(File, Unfinished)> {
        let path = self.temporary();
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((file, Unfinished(path)))
    }

    /// Moves a written file to its place.
    fn place(&self, from: &Unfinished, key: &Key, replace: bool) -> io::Result<Outcome> {
        let to = self.path(key);
        for _ in 0..ATTEMPTS {
            let moved = if replace { fs::rename(&from.0, &to) } else { fs::hard_link(&from.0, &to) };
            match moved {
                Ok(()) => return Ok(Outcome::Done),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(Outcome::Lost),
                Err(error) if error.kind() == ErrorKind::NotFound => make_parent(&to)?,
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::ResourceBusy.into())
    }

    fn put(&self, key: &Key, bytes: &[u8], when: &When, durable: bool) -> io::Result<Outcome> {
        let stripe = Sha256::digest(key.as_str().as_bytes())[0];
        let _guard = self.stripes[usize::from(stripe) % STRIPES].lock().unwrap_or_else(PoisonError::into_inner);
        if let When::Same(expected) = when {
            let stored = found(fs::read(self.path(key)))?;
            if stored.map(|bytes| tag(&bytes)).as_ref() != Some(expected) {
                return Ok(Outcome::Lost);
            }
        }
        let (mut file, unfinished) = self.unfinished()?;
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        let outcome = self.place(&unfinished, key, *when != When::Absent)?;
        if durable {
            sync_parents(&self.path(key), &self.root)?;
        }
        Ok(outcome)
    }

    fn delete(&self, key: &Key) -> io::Result<()> {
        let path = self.path(key);
        found(fs::remove_file(&path))?;
        // Up to the tree's own directory; the first that is not empty ends it.
        for parent in path.ancestors().skip(1).take_while(|parent| parent.starts_with(&self.root)).take(6) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let (dir, begin) = prefix.rsplit_once('/').unwrap_or(("", prefix));
        let mut objects = Vec::new();
        let mut name = format!("{dir}/");
        if begin.is_empty() {
            self.walk(&mut name, &mut objects)?;
            return Ok(objects);
        }
        self.names.beginning(&self.root.join(dir), begin, |file_name, file| {
            match file {
                Some(PlainFile { size, modified }) => {
                    let key = Key::listed([name.as_str(), file_name].concat());
                    objects.push(Listed { key, size, modified });
                }
                None => self.below(&mut name, file_name, &mut objects)?,
            }
            Ok(())
        })?;
        Ok(objects)
    }

    fn walk(&self, name: &mut String, objects: &mut Vec<Listed>) -> io::Result<()> {
        let Some(entries) = found(fs::read_dir(self.root.join(&name)))? else { return Ok(()) };
        for entry in entries {
            if let Ok(file_name) = entry?.file_name().into_string() {
                self.below(name, &file_name, objects)?;
            }
        }
        Ok(())
    }

    /// An object, or everything in a directory. What is gone by now was never listed.
    fn below(&self, name: &mut String, file_name: &str, objects: &mut Vec<Listed>) -> io::Result<()> {
        let length = name.len();
        name.push_str(file_name);
        match found(fs::symlink_metadata(self.root.join(&name)))? {
            Some(metadata) if metadata.is_dir() => {
                name.push('/');
                self.walk(name, objects)?;
            }
            Some(metadata) if metadata.is_file() => {
                let key = Key::listed(name.clone());
                objects.push(Listed { key, size: metadata.len(), modified: modified(&metadata) });
            }
            _ => {}
        }
        name.truncate(length);
        Ok(())
    }

    fn assemble(&self, key: &Key, pieces: &[Piece]) -> io::Result<()> {
        if let [piece] = pieces {
            // The very same bytes under another name: no need to copy any.
            let from = self.path(&piece.key);
            check(&File::open(&from)?, piece)?;
            let path = self.temporary();
            fs::hard_link(from, &path)?;
            return self.place(&Unfinished(path), key, true).map(|_| ());
        }
        let (mut file, unfinished) = self.unfinished()?;
        for piece in pieces {
            let mut from = File::open(self.path(&piece.key))?;
            check(&from, piece)?;
            // The kernel copies, and where the file system can share blocks it does not even do that.
            if io::copy(&mut from, &mut file)? != piece.size {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        self.place(&unfinished, key, true).map(|_| ())
    }
}

/// A piece may have lost its end together with the machine's power.
fn check(file: &File, piece: &Piece) -> io::Result<()> {
    if file.metadata()?.len() == piece.size { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), private_dir)
}

/// A name is durable when its directory is, and that one's in turn.
fn sync_parents(path: &Path, root: &Path) -> io::Result<()> {
    for parent in path.ancestors().skip(1).take_while(|parent| parent.starts_with(root)) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Appends to a file. While one chunk is written, the next one may arrive.
struct Writer {
    file: Option<File>,
    writing: Option<JoinHandle<io::Result<File>>>,
    written: u64,
}

impl Writer {
    async fn write(&mut self, chunks: Vec<Bytes>) -> Result<(), Error> {
        self.finish().await?;
        let Some(mut file) = self.file.take() else { return Err(Error::Unavailable("no file".to_owned())) };
        self.written += chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        self.writing = Some(tokio::task::spawn_blocking(move || {
            for chunk in chunks {
                file.write_all(&chunk)?;
            }
            Ok(file)
        }));
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Error> {
        if let Some(writing) = self.writing.take() {
            self.file = Some(joined(writing).await?);
        }
        Ok(())
    }
}

#[async_trait]
impl Store for FsStore {
    async fn get(&self, key: &Key) -> Result<Option<Object>, Error> {
        let key = key.clone();
        self.blocking(move |shared| {
            let Some(file) = found(File::open(shared.path(&key)))? else { return Ok(None) };
            let mut bytes = Vec::new();
            file.take(SMALL).read_to_end(&mut bytes)?;
            Ok(Some(Object { tag: tag(&bytes), bytes: bytes.into() }))
        })
        .await
    }

    async fn put(&self, key: &Key, bytes: Bytes, when: When) -> Result<Outcome, Error> {
        let key = key.clone();
        self.blocking(move |shared| shared.put(&key, &bytes, &when, false)).await
    }

    async fn publish(&self, key: &Key, bytes: Bytes, data: &Key) -> Result<Outcome, Error> {
        let (key, data) = (key.clone(), data.clone());
        self.blocking(move |shared| {
            let path = shared.path(&data);
            File::open(&path)?.sync_all()?;
            sync_parents(&path, &shared.root)?;
            shared.put(&key, &bytes, &When::Absent, true)
        })
        .await
    }

    async fn head(&self, key: &Key) -> Result<Option<Listed>, Error> {
        let key = key.clone();
        self.blocking(move |shared| {
            let metadata = found(fs::metadata(shared.path(&key)))?.filter(fs::Metadata::is_file);
            Ok(metadata.map(|m| Listed { key, size: m.len(), modified: modified(&m) }))
        })
        .await
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        let key = key.clone();
        self.blocking(move |shared| shared.delete(&key)).await
    }

    async fn list(&self, prefix: &str, _after: Option<String>) -> Result<Page, Error> {
        let prefix = prefix.to_owned();
        self.blocking(move |shared| Ok(Page { objects: shared.list(&prefix)?, next: None })).await
    }

    async fn write(&self, key: &Key, _size: Option<u64>, mut bytes: Incoming) -> Result<u64, Error> {
        let (file, unfinished) = self.blocking(Shared::unfinished).await?;
        let mut writer = Writer { file: Some(file), writing: None, written: 0 };
        let (mut gathered, mut held) = (Vec::new(), 0);
        while let Some(next) = bytes.next().await.transpose()? {
            held += next.len();
            gathered.push(next);
            if held >= CHUNK {
                writer.write(std::mem::take(&mut gathered)).await?;
                held = 0;
            }
        }
        writer.write(gathered).await?;
        writer.finish().await?;
        let written = writer.written;
        let key = key.clone();
        self.blocking(move |shared| shared.place(&unfinished, &key, true).map(|_| ())).await?;
        Ok(written)
    }

    async fn read(&self, key: &Key, start: u64, length: u64) -> Result<Option<Outgoing>, Error> {
        let key = key.clone();
        let Some(file) = self.blocking(move |shared| found(File::open(shared.path(&key)))).await? else {
            return Ok(None);
        };
        Ok(Some(read::outgoing(file, start, length)))
    }

    async fn assemble(&self, key: &Key, pieces: &[Piece]) -> Result<(), Error> {
        let (key, pieces) = (key.clone(), pieces.to_vec());
        self.blocking(move |shared| shared.assemble(&key, &pieces)).await
    }

    async fn presign(&self, _key: &Key) -> Result<Option<String>, Error> {
        Ok(None)
    }

    async fn clear_unfinished(&self, _older: Duration) -> Result<usize, Error> {
        // Whoever writes here is this process, and removes what it does not finish.
        Ok(0)
    }

    fn granularity(&self) -> Duration {
        TICK
    }
}
