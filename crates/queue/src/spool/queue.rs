//! The reader of a spool directory.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::{Rng, SignedDuration, Timestamp};
use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::SUFFIX;
use crate::{Capabilities, Delivery, Depth, Error, Handle, MAX_BODY, MAX_VISIBILITY, Message, Queue};

/// A spool directory as a [`Queue`]: no groups, no deduplication, no attributes. Visibility and receive counts are this
/// process's own, so every file is visible again after a restart. One reader per directory.
pub struct SpoolQueue {
    name: String,
    dir: PathBuf,
    max_receive_count: u32,
    rng: Arc<dyn Rng>,
    /// Files delivered at least once by this process and still there.
    seen: Mutex<HashMap<String, Seen>>,
    arrived: Arc<Notify>,
    /// Ends the watch when dropped.
    _watcher: RecommendedWatcher,
}

#[derive(Debug, Default)]
struct Seen {
    count: u32,
    in_flight: Option<(u64, Instant)>,
}

impl SpoolQueue {
    /// Watches `dir`, which is made when missing. A file delivered `max_receive_count` times without an ack is moved to
    /// `rejected/` instead of being delivered again.
    ///
    /// # Errors
    ///
    /// From the file system, and when the system has no more inotify watches to give.
    pub fn open(
        name: impl Into<String>,
        dir: impl Into<PathBuf>,
        max_receive_count: u32,
        rng: Arc<dyn Rng>,
    ) -> io::Result<Self> {
        let dir = dir.into();
        fs::create_dir_all(&dir)?;
        let arrived = Arc::new(Notify::new());
        let waker = Arc::clone(&arrived);
        // Files appear by rename. Our own reads and unlinks must not wake us; a lost-events notice (`Other`) must.
        let woken_by = |kind: EventKind| matches!(kind, EventKind::Modify(ModifyKind::Name(_)) | EventKind::Other);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| woken_by(event.kind)) {
                waker.notify_waiters();
            }
        })
        .map_err(io::Error::other)?;
        watcher.watch(&dir, RecursiveMode::NonRecursive).map_err(io::Error::other)?;
        let seen = Mutex::default();
        Ok(Self { name: name.into(), dir, max_receive_count, rng, seen, arrived, _watcher: watcher })
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is visible, and says when the next file becomes visible if there is none.
    fn look(&self, max: usize, visibility: Duration) -> io::Result<(Vec<Delivery>, Option<Instant>)> {
        let now = Instant::now();
        let names = list(&self.dir)?;
        let mut seen = self.seen();
        seen.retain(|name, _| names.binary_search(name).is_ok());
        let mut deliveries = Vec::new();
        for name in names {
            if deliveries.len() == max {
                break;
            }
            let (count, hidden) = seen
                .get(&name)
                .map_or((0, false), |file| (file.count, file.in_flight.is_some_and(|(_, until)| until > now)));
            if hidden {
                continue;
            }
            if count >= self.max_receive_count {
                self.set_aside(&name, "delivered too often")?;
                continue;
            }
            let Some((body, sent_at)) = self.read(&name)? else { continue };
            let (nonce, deadline) = (self.rng.next_u64(), now + visibility);
            seen.insert(name.clone(), Seen { count: count + 1, in_flight: Some((nonce, deadline)) });
            deliveries.push(Delivery {
                handle: Handle(format!("{nonce:016x}.{name}")),
                id: name,
                body,
                attributes: BTreeMap::new(),
                sent_at,
                receive_count: Some(count + 1),
                group: None,
                deadline,
            });
        }
        let until = |file: &Seen| file.in_flight.map(|(_, until)| until).filter(|until| *until > now);
        Ok((deliveries, seen.values().filter_map(until).min()))
    }

    /// Body and time of a file; `None` when it is gone, cannot be read, or was set aside because no message can
    /// look like that.
    fn read(&self, name: &str) -> io::Result<Option<(String, Option<Timestamp>)>> {
        let path = self.dir.join(name);
        let read = fs::metadata(&path).and_then(|meta| {
            if meta.len() > MAX_BODY as u64 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "too large"));
            }
            let age = meta.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let sent_at = SignedDuration::try_from(age).ok().and_then(|age| Timestamp::from_duration(age).ok());
            Ok((fs::read_to_string(&path)?, sent_at))
        });
        match read {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.set_aside(name, "neither text nor of a message's size").map(|()| None)
            }
            // One unreadable file must not hold up the others; the next look tries it again.
            Err(error) => {
                tracing::warn!(queue = self.name, message_id = name, %error, "message cannot be read");
                Ok(None)
            }
        }
    }

    fn set_aside(&self, name: &str, reason: &str) -> io::Result<()> {
        let rejected = self.dir.join("rejected");
        fs::create_dir_all(&rejected)?;
        match fs::rename(self.dir.join(name), rejected.join(name)) {
            Ok(()) => tracing::error!(queue = self.name, message_id = name, reason, "message moved to rejected/"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        sync(&rejected)?;
        sync(&self.dir)
    }

    /// The file a handle speaks for: `None` when it is gone, an error when the delivery is over.
    fn owned(&self, handle: &Handle) -> Result<Option<String>, Error> {
        let (nonce, name) = handle
            .0
            .split_once('.')
            .and_then(|(nonce, name)| Some((u64::from_str_radix(nonce, 16).ok()?, name)))
            .filter(|(_, name)| !name.contains('/'))
            .ok_or_else(|| Error::Invalid("not a handle of this queue".into()))?;
        let current = self.seen().get(name).and_then(|file| file.in_flight);
        match current {
            Some((current, until)) if current == nonce && until > Instant::now() => Ok(Some(name.to_owned())),
            _ if self.dir.join(name).exists() => Err(Error::HandleExpired),
            _ => Ok(None),
        }
    }
}

#[async_trait]
impl Queue for SpoolQueue {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { fifo: false, max_visibility: MAX_VISIBILITY }
    }

    async fn send(&self, message: Message) -> Result<String, Error> {
        if message.body.len() > MAX_BODY {
            return Err(Error::TooLarge(message.body.len()));
        }
        if !message.attributes.is_empty() {
            return Err(Error::Invalid("a spool keeps no attributes".into()));
        }
        super::send(&self.dir, &message.body, &message.group).map_err(|error| failed(&error))?;
        Ok(String::new())
    }

    async fn receive(&self, max: usize, wait: Duration, visibility: Duration) -> Result<Vec<Delivery>, Error> {
        let (max, visibility) = (max.clamp(1, 10), visibility.min(MAX_VISIBILITY));
        let end = Instant::now() + wait;
        loop {
            let mut arrived = pin!(self.arrived.notified());
            arrived.as_mut().enable();
            let (deliveries, due) = self.look(max, visibility).map_err(|error| failed(&error))?;
            if !deliveries.is_empty() || Instant::now() >= end {
                return Ok(deliveries);
            }
            let _ = timeout_at(due.map_or(end, |due| due.min(end)), arrived).await;
        }
    }

    async fn ack(&self, handle: &Handle) -> Result<(), Error> {
        let Some(name) = self.owned(handle)? else { return Ok(()) };
        match fs::remove_file(self.dir.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&error)),
            _ => {}
        }
        sync(&self.dir).map_err(|error| failed(&error))?;
        self.seen().remove(&name);
        Ok(())
    }

    async fn extend(&self, handle: &Handle, visibility: Duration) -> Result<(), Error> {
        let name = self.owned(handle)?.ok_or(Error::HandleExpired)?;
        let until = Instant::now() + visibility.min(MAX_VISIBILITY);
        if let Some(file) = self.seen().get_mut(&name) {
            file.in_flight = file.in_flight.map(|(nonce, _)| (nonce, until));
        }
        self.arrived.notify_waiters();
        Ok(())
    }

    async fn reject(&self, delivery: &Delivery, reason: &str) -> Result<(), Error> {
        let Some(name) = self.owned(&delivery.handle)? else { return Ok(()) };
        self.set_aside(&name, reason).map_err(|error| failed(&error))?;
        self.seen().remove(&name);
        Ok(())
    }

    async fn ping(&self) -> Result<(), Error> {
        fs::read_dir(&self.dir).map(drop).map_err(|error| failed(&error))
    }

    async fn depth(&self) -> Result<Depth, Error> {
        let files = list(&self.dir).map_err(|error| failed(&error))?.len() as u64;
        let now = Instant::now();
        let hidden = |file: &&Seen| file.in_flight.is_some_and(|(_, until)| until > now);
        let in_flight = self.seen().values().filter(hidden).count() as u64;
        Ok(Depth { visible: Some(files.saturating_sub(in_flight)), in_flight: Some(in_flight), oldest: None })
    }
}

/// The messages of a directory, oldest first.
fn list(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for file in fs::read_dir(dir)? {
        if let Ok(name) = file?.file_name().into_string()
            && name.ends_with(SUFFIX)
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn sync(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

fn failed(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound(error.to_string()),
        io::ErrorKind::PermissionDenied => Error::Unauthorized(error.to_string()),
        _ => Error::Unavailable(error.to_string()),
    }
}
