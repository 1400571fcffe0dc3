//! What is in large directories, remembered for as long as the directory does not change.
//!
//! A lookup by prefix would otherwise read ten thousand names to find three, or ask for the ages of ten thousand files to
//! find the newest. The kernel stamps a directory whenever a name comes or goes, and files are only ever moved into
//! place; what was read under one stamp is good while the stamp stays. Stamps are only as exact as the kernel's tick, so
//! a directory that changed a moment ago is read every time.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use domain::clock::{Clock, SystemClock, Timestamp, since};
use lru::LruCache;

use super::{found, modified};

/// Directories remembered.
const DIRECTORIES: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");
/// Smaller ones are read faster than remembered.
const LARGE: usize = 256;
/// A change this long ago has a stamp of its own.
const SETTLED: Duration = Duration::from_secs(1);

type Stamp = (i64, i64, u64);

struct Known {
    stamp: Stamp,
    /// In order.
    names: Vec<Name>,
}

struct Name {
    name: String,
    file: OnceLock<PlainFile>,
}

/// A file that is neither a directory nor a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlainFile {
    pub(super) size: u64,
    pub(super) modified: Timestamp,
}

/// See the module.
pub(super) struct Names(Mutex<LruCache<PathBuf, Arc<Known>>>);

impl Default for Names {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(DIRECTORIES)))
    }
}

impl Names {
    /// Tells every name in a directory that begins so, with the plain file it stands for. None where there is no
    /// directory. Blocking.
    pub(super) fn beginning(
        &self,
        dir: &Path,
        begin: &str,
        mut tell: impl FnMut(&str, Option<PlainFile>) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(known) = self.known(dir)? else { return Ok(()) };
        let first = known.names.partition_point(|name| name.name.as_str() < begin);
        let matching = known.names[first..].iter().take_while(|name| name.name.starts_with(begin));
        for name in matching {
            tell(&name.name, name.plain_file(dir)?)?;
        }
        Ok(())
    }

    fn known(&self, dir: &Path) -> io::Result<Option<Arc<Known>>> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Before its names: what comes or goes meanwhile changes the stamp for the next time.
        let Some(metadata) = found(fs::metadata(dir))? else { return Ok(None) };
        let stamp = (metadata.mtime(), metadata.mtime_nsec(), metadata.ino());
        if let Some(known) = lock().get(dir).filter(|known| known.stamp == stamp) {
            return Ok(Some(Arc::clone(known)));
        }
        let Some(entries) = found(fs::read_dir(dir))? else { return Ok(None) };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string().map(|name| Name { name, file: OnceLock::new() }));
        }
        names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let known = Arc::new(Known { stamp, names });
        if known.names.len() >= LARGE && since(SystemClock.now(), modified(&metadata)) >= SETTLED {
            lock().put(dir.to_owned(), Arc::clone(&known));
        }
        Ok(Some(known))
    }
}

impl Name {
    fn plain_file(&self, dir: &Path) -> io::Result<Option<PlainFile>> {
        if let Some(file) = self.file.get() {
            return Ok(Some(*file));
        }
        let metadata = found(fs::symlink_metadata(dir.join(&self.name)))?.filter(fs::Metadata::is_file);
        let file = metadata.map(|metadata| PlainFile { size: metadata.len(), modified: modified(&metadata) });
        Ok(file.map(|file| *self.file.get_or_init(|| file)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn names_are_those_of_now() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = Names::default();
        let of = |dir: &Path, begin: &str| {
            let mut told = Vec::new();
            let told_all = names.beginning(dir, begin, |name, file| {
                told.push((name.to_owned(), file));
                Ok(())
            });
            told_all.expect("read");
            told
        };
        let beginning = |begin: &str| of(dir.path(), begin);
        for n in 0..LARGE {
            File::create(dir.path().join(format!("a{n:03}"))).expect("created");
        }
        assert_eq!(beginning("a00").len(), 10);
        // Long ago, by its own stamp: from now on it is remembered.
        let old = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
        File::open(dir.path()).expect("open").set_modified(old).expect("stamped");
        assert_eq!(beginning("a00").len(), 10);
        assert_eq!(names.0.lock().expect("not poisoned").len(), 1);
        File::create(dir.path().join("a00x")).expect("created");
        fs::create_dir(dir.path().join("a00y")).expect("created");
        let plain = |(_, file): &(String, Option<PlainFile>)| file.is_some();
        assert_eq!((beginning("a00").len(), beginning("a00").iter().filter(|found| plain(found)).count()), (12, 11));
        fs::write(dir.path().join("moved"), "content").expect("written");
        fs::rename(dir.path().join("moved"), dir.path().join("a00x")).expect("moved into place");
        assert_eq!(beginning("a00x")[0].1.map(|file| file.size), Some(7));
        fs::remove_dir(dir.path().join("a00y")).expect("removed");
        fs::remove_file(dir.path().join("a001")).expect("removed");
        assert_eq!(beginning("a00").len(), 10);
        assert_eq!(beginning("b"), []);
        assert_eq!(of(&dir.path().join("none"), "a"), []);
    }
}
