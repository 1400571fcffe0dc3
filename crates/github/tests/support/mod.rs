//! What the protocol tests share: GitHub's published descriptions, installed from npm by the tests themselves.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// `tests/node/node_modules`, installed exactly as `package-lock.json` says if it is missing or older than the lock.
///
/// Test binaries run at the same time, so the lock file is also the mutex. Without npm the test fails: a protocol
/// test that is silently skipped protects nothing.
pub(crate) fn node_modules() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
    let lock = dir.join("package-lock.json");
    let modules = dir.join("node_modules");
    let mutex = File::open(&lock).unwrap_or_else(|error| panic!("{}: {error}", lock.display()));
    mutex.lock().unwrap_or_else(|error| panic!("{} cannot be locked: {error}", lock.display()));
    // npm writes this file last, so its presence means a complete installation.
    let installed = modified(&modules.join(".package-lock.json"));
    if installed < modified(&lock) {
        let status = Command::new("npm")
            .args(["ci", "--ignore-scripts"])
            .current_dir(&dir)
            .status()
            .unwrap_or_else(|error| panic!("this test needs Node's npm in the PATH: {error}"));
        assert!(status.success(), "npm ci in {} failed: {status}", dir.display());
    }
    modules
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}
