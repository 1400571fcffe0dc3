//! The tarball, made when it is needed, around an executable that already exists.

use std::io;
use std::path::Path;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{Builder, Header};

/// The sub-command of the packed executable that calls [`main`](super::main).
pub const SUB_COMMAND: &str = "stand-in-runner";

/// A runner package.
#[derive(Debug, Clone)]
pub struct RunnerTarball {
    /// The `.tar.gz`.
    pub bytes: Bytes,
    /// Its SHA-256, lower-case hex.
    pub sha256: String,
}

/// Packs a runner directory whose `run.sh` executes `exe`. The same path gives the same bytes.
///
/// # Errors
/// The path is not UTF-8, or contains a NUL or a line break.
pub fn runner_tarball(exe: &Path) -> io::Result<RunnerTarball> {
    let unusable = || io::Error::new(io::ErrorKind::InvalidInput, "the executable's path cannot go into a script");
    let exe = exe.to_str().filter(|p| !p.contains(['\0', '\n', '\r'])).ok_or_else(unusable)?;
    let quoted = format!("'{}'", exe.replace('\'', r"'\''"));
    let run = format!("#!/bin/sh\ncd \"$(dirname \"$0\")\" || exit 1\nexec {quoted} {SUB_COMMAND}\n");
    let listener = format!("#!/bin/sh\nexec {quoted} {SUB_COMMAND}\n");
    let config = "#!/bin/sh\necho 'The stand-in runner registers only just in time.' >&2\nexit 1\n";
    let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, text) in [("run.sh", run.as_str()), ("config.sh", config), ("bin/Runner.Listener", &listener)] {
        let mut header = Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, path, text.as_bytes())?;
    }
    let bytes = Bytes::from(tar.into_inner()?.finish()?);
    let sha256 = hex::encode(Sha256::digest(&bytes));
    Ok(RunnerTarball { bytes, sha256 })
}
