//! Hand-overs as files: `<directory>/<key>.json`, readable by the owner only.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use domain::handover::HandOver as Document;
use domain::ids::RunnerKey;

use crate::files;
use crate::handover::{Error, HandOver};

/// The file back end of the hand-over port.
#[derive(Debug, Clone)]
pub struct FileHandOver {
    dir: PathBuf,
}

impl FileHandOver {
    /// Uses `dir`, which is created (mode 0700) by the first put.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The document's path. Only keys that are plain names have one, so that no key can address another file.
    fn path(&self, key: &RunnerKey) -> Result<PathBuf, Error> {
        let name = key.as_str();
        let plain = (1..=128).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        if plain {
            Ok(self.dir.join(format!("{name}.json")))
        } else {
            Err(Error::Invalid("the machine's key is not a plain name".to_owned()))
        }
    }
}

#[async_trait]
impl HandOver for FileHandOver {
    async fn put(&self, key: &RunnerKey, document: &Document) -> Result<(), Error> {
        let path = self.path(key)?;
        let dir = self.dir.clone();
        let content = serde_json::to_vec(document).map_err(|error| Error::Invalid(unreadable(&error)))?;
        blocking(move || {
            files::private_dir(&dir)?;
            files::replace(&path, &content)
        })
        .await
    }

    async fn get(&self, key: &RunnerKey) -> Result<Option<Document>, Error> {
        let path = self.path(key)?;
        let content = blocking(move || match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        })
        .await?;
        let Some(content) = content else { return Ok(None) };
        serde_json::from_slice(&content).map(Some).map_err(|error| Error::Invalid(unreadable(&error)))
    }

    async fn delete(&self, key: &RunnerKey) -> Result<(), Error> {
        let path = self.path(key)?;
        blocking(move || files::remove(&path)).await
    }

    async fn list(&self) -> Result<Vec<RunnerKey>, Error> {
        let dir = self.dir.clone();
        blocking(move || keys(&dir)).await
    }
}

fn keys(dir: &Path) -> io::Result<Vec<RunnerKey>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut keys = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let key = name.to_str().filter(|name| !name.starts_with('.')).and_then(|name| name.strip_suffix(".json"));
        keys.extend(key.map(RunnerKey::from));
    }
    keys.sort();
    Ok(keys)
}

/// Where the reader stumbled. Not the error's own text: it can quote a piece of the document, which holds secrets.
fn unreadable(error: &serde_json::Error) -> String {
    format!("line {}, column {}", error.line(), error.column())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory | io::ErrorKind::ReadOnlyFilesystem => {
                Error::Deployment(error.to_string())
            }
            _ => Error::Transient(error.to_string()),
        }),
        Err(_) => Err(Error::Transient("the file operation was abandoned".to_owned())),
    }
}
