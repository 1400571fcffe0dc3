//! Directories of machines, and what an error of the disk means for a machine.

use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::compute::Error;
use crate::processes::{self, Members};

/// Removes a machine's directory, unless something of that machine still lives.
pub(super) async fn discard(dir: PathBuf) {
    let removed = blocking(move || {
        let key = dir.file_name().map(|name| name.to_string_lossy().into_owned());
        let alive = !processes::find(&Members { session: None, marker: key }).is_empty();
        if alive { Ok(()) } else { remove_tree(&dir) }
    });
    if let Err(error) = removed.await {
        warn!(%error, "a machine's directory could not be removed");
    }
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Does what may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| failed(&error)),
        Err(_) => Err(Error::Transient("the file operation was abandoned".to_owned())),
    }
}

/// What an error of the disk means.
pub(super) fn failed(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Capacity(error.to_string()),
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory | io::ErrorKind::ReadOnlyFilesystem => {
            Error::Deployment(error.to_string())
        }
        _ => Error::Transient(error.to_string()),
    }
}
