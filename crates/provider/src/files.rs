//! Files that are whole or absent, whatever dies when.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Names of unfinished files start with this; readers of a directory skip them.
pub const UNFINISHED: &str = ".new-";

/// Replaces `path` with `content`, mode 0600, durable on return. A reader sees the old or the new content, never a
/// mixture. Blocking.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    place(path, content, |unfinished| fs::rename(unfinished, path))?;
    sync_above(path)
}

/// The same for what need not outlive a power cut: not durable, and quicker by what the disk takes. Blocking.
pub fn swap(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = beside(path)?;
    let written = fresh(&unfinished).and_then(|mut file| file.write_all(content));
    finished(&unfinished, written.and_then(|()| fs::rename(&unfinished, path)))
}

/// The same for a file that is not there yet; otherwise the error's kind is `AlreadyExists` and nothing changes.
/// Blocking.
pub fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    place(path, content, |unfinished| {
        // A link, unlike a rename, never replaces.
        let linked = fs::hard_link(unfinished, path);
        fs::remove_file(unfinished)?;
        linked
    })?;
    sync_above(path)
}

fn place(path: &Path, content: &[u8], settle: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let unfinished = beside(path)?;
    let write = |mut file: File| file.write_all(content).and_then(|()| file.sync_all());
    finished(&unfinished, fresh(&unfinished).and_then(write).and_then(|()| settle(&unfinished)))
}

/// A name for what is to become `path`.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file's path"));
    };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Ok(dir.join(format!("{UNFINISHED}{}-{number}-{}", std::process::id(), name.to_string_lossy())))
}

fn fresh(path: &Path) -> io::Result<File> {
    // A crashed process with our pid may have left the name behind; its content is nobody's.
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn finished(unfinished: &Path, written: io::Result<()>) -> io::Result<()> {
    if written.is_err() {
        let _ = fs::remove_file(unfinished);
    }
    written
}

fn sync_above(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// Removes a file; one that is not there is fine. Blocking.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes what writers left unfinished in a directory when they were killed; it may be a secret. Only for who knows
/// that nobody writes there now. Blocking.
pub fn clear_unfinished(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Creates a directory and its parents, the last with mode 0700. Blocking.
pub fn private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
