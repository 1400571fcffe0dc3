//! The bounded queue between the lines and the thread that writes them.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How many lines may wait for the writer.
pub const QUEUE: usize = 8192;
/// How long a warning or an error waits for room.
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Default)]
struct State {
    lines: VecDeque<String>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way in.
#[derive(Clone)]
pub(super) struct Sink(Arc<Shared>);

impl Sink {
    /// Queues a line and says how many were dropped for it: 1 when there was no room (an important one waits a moment
    /// for it), else 0. After the guard is gone lines have nowhere to go.
    pub(super) fn push(&self, line: String, important: bool) -> u64 {
        let mut state = self.0.lock();
        if important && state.lines.len() >= QUEUE {
            let room = self.0.drained.wait_timeout_while(state, PATIENCE, |s| s.lines.len() >= QUEUE && !s.closed);
            state = room.unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.closed || state.lines.len() >= QUEUE {
            return 1;
        }
        state.lines.push_back(line);
        self.0.filled.notify_one();
        0
    }
}

/// Owns the writing thread. Dropping it writes what is queued and ends the thread.
#[must_use = "dropping the guard ends logging"]
pub struct LogGuard {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

impl LogGuard {
    pub(super) fn sink(&self) -> Sink {
        Sink(self.shared.clone())
    }
}

impl std::fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogGuard").finish_non_exhaustive()
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.filled.notify_one();
        self.shared.drained.notify_all();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

pub(super) fn start(mut to: impl Write + Send + 'static) -> LogGuard {
    let shared = Arc::new(Shared::default());
    let theirs = shared.clone();
    let writer = std::thread::Builder::new().name("log-writer".into()).spawn(move || {
        loop {
            let state = theirs.lock();
            let idle = theirs.filled.wait_while(state, |s| s.lines.is_empty() && !s.closed);
            let mut state = idle.unwrap_or_else(PoisonError::into_inner);
            let lines = std::mem::take(&mut state.lines);
            let closed = state.closed;
            drop(state);
            theirs.drained.notify_all();
            // A reader that went away must not take the process with it.
            for line in &lines {
                let _ = to.write_all(line.as_bytes());
            }
            let _ = to.flush();
            if closed && lines.is_empty() {
                return;
            }
        }
    });
    // Without a thread (the machine is out of them) lines pile up to the bound and are then dropped and counted.
    LogGuard { shared, writer: writer.ok() }
}
