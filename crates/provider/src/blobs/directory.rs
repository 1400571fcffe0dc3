//! Objects as files below a directory, readable by the owner only.
//!
//! A file appears under its name when it is complete and on the disk: it is written beside it, synced, and renamed or
//! linked. So are the folders it needs. What a killed writer leaves behind is never taken for an object.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use domain::clock::Timestamp;

use super::{Blob, BlobStore, Created, Error, check};
use crate::files::{self, UNFINISHED};

/// See the module.
#[derive(Debug, Clone)]
pub struct DirectoryBlobs {
    root: PathBuf,
}

impl DirectoryBlobs {
    /// Uses `root`, which is created (mode 0700) by the first write. Nobody else may write there.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    async fn write(
        &self,
        key: &str,
        work: impl FnOnce(&Path) -> io::Result<Created> + Send + 'static,
    ) -> Result<Created, Error> {
        check(key)?;
        let (root, path) = (self.root.clone(), self.root.join(key));
        blocking(move || {
            if let Some(dir) = path.parent() {
                folders(&root, dir)?;
            }
            work(&path)
        })
        .await
    }
}

#[async_trait]
impl BlobStore for DirectoryBlobs {
    async fn put(&self, key: &str, content: Bytes) -> Result<(), Error> {
        self.write(key, move |path| files::replace(path, &content).map(|()| Created::New)).await.map(|_| ())
    }

    async fn create(&self, key: &str, content: Bytes) -> Result<Created, Error> {
        self.write(key, move |path| match files::create(path, &content) {
            Ok(()) => Ok(Created::New),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(if fs::read(path)? == content { Created::New } else { Created::Exists })
            }
            Err(error) => Err(error),
        })
        .await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        check(key)?;
        let path = self.root.join(key);
        blocking(move || match fs::read(&path) {
            Ok(content) => Ok(Some(Bytes::from(content))),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Blob>, Error> {
        let (root, prefix) = (self.root.clone(), prefix.to_owned());
        blocking(move || {
            let mut found = BTreeMap::new();
            collect(&root, "", &prefix, &mut found)?;
            Ok(found.into_values().collect())
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), Error> {
        check(key)?;
        let path = self.root.join(key);
        blocking(move || match fs::remove_file(&path) {
            Err(error) if !is_absence(&error) => Err(error),
            _ => Ok(()),
        })
        .await
    }
}

/// Makes the folders from `root` down to `dir`, each durable in the one above it.
fn folders(root: &Path, dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if dir == root {
        return files::private_dir(root);
    }
    let Some(above) = dir.parent() else { return Ok(()) };
    folders(root, above)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(above)?.sync_all(),
    }
}

/// The objects below `dir`, whose keys begin with `above`, as far as they can match.
fn collect(dir: &Path, above: &str, prefix: &str, found: &mut BTreeMap<String, Blob>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if is_absence(&error) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        // What is not a name of ours is not an object of ours; that includes unfinished files.
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        debug_assert!(UNFINISHED.starts_with('.'));
        let key = format!("{above}{name}");
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let folder = format!("{key}/");
            if folder.starts_with(prefix) || prefix.starts_with(&folder) {
                collect(&entry.path(), &folder, prefix, found)?;
            }
        } else if kind.is_file() && key.starts_with(prefix) {
            let about = match entry.metadata() {
                Err(error) if is_absence(&error) => continue,
                about => about?,
            };
            let modified_at = about.modified().ok().and_then(|at| Timestamp::try_from(at).ok());
            found.insert(key.clone(), Blob { key, size: about.len(), modified_at });
        }
    }
    Ok(())
}

/// Not there; nor is what lies below a file.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| Error::Deployment(error.to_string())),
        Err(error) => Err(Error::Transient(error.to_string())),
    }
}
