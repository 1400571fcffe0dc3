//! The files secrets may be kept in.

use std::io::{self, Read as _};
use std::path::Path;

/// Largest file that is read.
const MAX: u64 = 64 * 1024;

/// What was read.
#[derive(Clone)]
pub struct SecretFile {
    /// The content.
    pub bytes: Vec<u8>,
    /// Everybody on the machine may read it.
    pub world_readable: bool,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("{0}")]
    Io(io::ErrorKind),
    /// A directory, a pipe, a device.
    #[error("not a regular file")]
    NotRegular,
    /// More than 64 KiB.
    #[error("larger than 64 KiB")]
    TooLarge,
}

/// Reading a file: the only thing loading does besides thinking.
pub trait Files {
    /// Reads a regular file of at most 64 KiB, following links (mounted secrets are links).
    ///
    /// # Errors
    /// See [`FileError`].
    fn read(&self, path: &Path) -> Result<SecretFile, FileError>;
}

/// The machine's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemFiles;

impl Files for SystemFiles {
    fn read(&self, path: &Path) -> Result<SecretFile, FileError> {
        let failed = |e: io::Error| FileError::Io(e.kind());
        // Looked at before it is opened: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() {
            return Err(FileError::NotRegular);
        }
        let mut bytes = Vec::new();
        std::fs::File::open(path).and_then(|file| file.take(MAX + 1).read_to_end(&mut bytes)).map_err(failed)?;
        if bytes.len() as u64 > MAX {
            return Err(FileError::TooLarge);
        }
        #[cfg(unix)]
        let world_readable = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o004 != 0;
        #[cfg(not(unix))]
        let world_readable = false;
        Ok(SecretFile { bytes, world_readable })
    }
}
