//! Which tools a job had to download because the machine image does not carry them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// More are not reported.
const MOST: usize = 50;
const COMPLETE: &str = ".complete";

/// The complete tools below `root`, as `<Tool>/<version>/<platform>`; `None` when it cannot be read. Blocking.
pub fn snapshot(root: &Path) -> Option<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (tool, path) in entries(root)? {
        for (version, path) in entries(&path).unwrap_or_default() {
            for (name, path) in entries(&path).unwrap_or_default() {
                if let Some(platform) = name.strip_suffix(COMPLETE).filter(|_| path.is_file()) {
                    found.insert(format!("{tool}/{version}/{platform}"));
                }
            }
        }
    }
    Some(found)
}

/// What came in between.
pub fn added(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    after.difference(before).take(MOST).cloned().collect()
}

/// Directories are not followed out of the tree: a job may have left links.
fn entries(dir: &Path) -> Option<Vec<(String, std::path::PathBuf)>> {
    if !fs::symlink_metadata(dir).ok()?.is_dir() {
        return None;
    }
    let entries = fs::read_dir(dir).ok()?.flatten();
    Some(entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_completed_in_between_is_added() {
        let root = tempfile::tempdir().unwrap();
        let touch = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        touch("Node/20.1.0/x64.complete");
        let before = snapshot(root.path()).unwrap();
        assert_eq!(before.iter().collect::<Vec<_>>(), ["Node/20.1.0/x64"]);
        for path in ["Go/1.25.0/x64.complete", "Go/1.26.0/x64/unfinished", "stray.complete", "a/b/c/d.complete"] {
            touch(path);
        }
        assert_eq!(added(&before, &snapshot(root.path()).unwrap()), ["Go/1.25.0/x64"]);
        assert_eq!(snapshot(&root.path().join("none")), None);
    }
}
