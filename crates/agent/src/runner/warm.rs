//! Reading the runner into memory while the hand-over is waited for: volumes made from a snapshot load on first use, and
//! that use should not be the job's.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::is_runner;
use crate::job::Launcher;

/// Enough for the listener, the worker and their Node.
const MOST: u64 = 400 * 1024 * 1024;
const LISTENER_WITHIN: Duration = Duration::from_secs(30);

/// Reads what a job will need of the runner in `dir`, and lets its listener load itself, until `cancel`.
pub async fn up(dir: PathBuf, launcher: Launcher, cancel: CancellationToken) {
    if !is_runner(&dir) {
        return;
    }
    let (reading, stop) = (dir.clone(), cancel.clone());
    let read = tokio::task::spawn_blocking(move || {
        let mut left = MOST;
        for path in files(&reading) {
            read(&path, &mut left, &stop);
        }
    });
    let listener = async {
        let mut command = launcher.command(&dir, "bin/Runner.Listener", None);
        command.arg("warmup").kill_on_drop(true);
        let _ = tokio::time::timeout(LISTENER_WITHIN, command.output()).await;
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = async { let _ = read.await; listener.await } => {}
    }
}

/// The files of `bin`, and the Node programs.
fn files(dir: &Path) -> Vec<PathBuf> {
    let list = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let nodes = list(dir.join("externals")).map(|version| version.join("bin/node"));
    list(dir.join("bin")).chain(nodes).filter(|path| path.is_file()).collect()
}

fn read(path: &Path, left: &mut u64, stop: &CancellationToken) {
    let Ok(mut file) = File::open(path) else { return };
    let mut buffer = vec![0; 256 * 1024];
    while *left > 0 && !stop.is_cancelled() {
        match file.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => *left = left.saturating_sub(count as u64),
        }
    }
}
