//! A directory that is a queue: one file is one message.
//!
//! Agents write with [`send`], which needs nothing but the file system, and end; the orchestrator reads with
//! `SpoolQueue` whenever it runs. Neither has to be up for the other.
//!
//! Properties: a file is complete and synced before its name appears; names sort by the time of the send; a file is
//! unlinked only by an ack, and moved to `rejected/` when it can never be processed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use domain::clock::{Clock, SystemClock};

#[cfg(feature = "local")]
mod queue;
#[cfg(feature = "local")]
pub use queue::SpoolQueue;

/// Ends the name of every message file; anything else in the directory is not a message.
pub(crate) const SUFFIX: &str = ".json";

static SENT: AtomicU64 = AtomicU64::new(0);

/// Stores `body` as a message in `dir`, which is made when missing. Durable when it returns. `hint` becomes part of the
/// file's name, for people: characters other than `[A-Za-z0-9_-]` are replaced.
///
/// # Errors
///
/// From the file system. A message may then exist or not; it never exists in part.
pub fn send(dir: &Path, body: &str, hint: &str) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    let hint: String = hint.chars().take(64).map(plain).collect();
    let name = format!(
        "{:015}-{:08}-{:06}-{hint}{SUFFIX}",
        SystemClock.now().as_millisecond(),
        std::process::id(),
        SENT.fetch_add(1, Ordering::Relaxed),
    );
    let hidden = dir.join(format!(".{name}"));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&hidden)?;
        file.write_all(body.as_bytes())?;
        file.sync_all()?;
        fs::rename(&hidden, dir.join(&name))?;
        // The name is on disk only when the directory is.
        File::open(dir)?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&hidden)))
}
