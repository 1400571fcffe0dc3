//! The names in large directories, remembered for as long as the directory does not change.
//!
//! A lookup by prefix would otherwise read ten thousand names to find three. The kernel stamps a directory whenever a
//! name comes or goes; what was read under one stamp is good while the stamp stays. Stamps are only as exact as the
//! kernel's tick, so a directory that changed a moment ago is read every time.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::clock::{Clock, SystemClock, since};
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
    names: Vec<String>,
}

/// See the module.
pub(super) struct Names(Mutex<LruCache<PathBuf, Arc<Known>>>);

impl Default for Names {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(DIRECTORIES)))
    }
}

impl Names {
    /// The names in a directory that begin so. None where there is no directory. Blocking.
    pub(super) fn beginning(&self, dir: &Path, begin: &str) -> io::Result<Vec<String>> {
        let Some(known) = self.known(dir)? else { return Ok(Vec::new()) };
        let first = known.names.partition_point(|name| name.as_str() < begin);
        Ok(known.names[first..].iter().take_while(|name| name.starts_with(begin)).cloned().collect())
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
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        let known = Arc::new(Known { stamp, names });
        if known.names.len() >= LARGE && since(SystemClock.now(), modified(&metadata)) >= SETTLED {
            lock().put(dir.to_owned(), Arc::clone(&known));
        }
        Ok(Some(known))
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
        let beginning = |begin| names.beginning(dir.path(), begin).expect("read");
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
        assert_eq!(beginning("a00").len(), 11);
        fs::remove_file(dir.path().join("a001")).expect("removed");
        assert_eq!(beginning("a00").len(), 10);
        assert_eq!(beginning("b"), Vec::<String>::new());
        assert_eq!(names.beginning(&dir.path().join("none"), "a").expect("read"), Vec::<String>::new());
    }
}
