//! Conditional requests: what GitHub said last time about a URL, so that "nothing new" costs no rate limit.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::HeaderValue;
use lru::LruCache;

use super::budget::Account;

/// Entries kept.
#[allow(clippy::unwrap_used, reason = "not zero")]
const ENTRIES: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
/// Bytes of bodies kept, whatever their number.
const BYTES: usize = 64 * 1024 * 1024;

/// A remembered answer.
pub(super) struct Entry {
    pub(super) tag: HeaderValue,
    pub(super) body: Bytes,
}

/// Least recently used first out, by number and by size.
pub(super) struct Etags {
    state: Mutex<State>,
}

struct State {
    entries: LruCache<(Account, String), Arc<Entry>>,
    bytes: usize,
}

impl Etags {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State { entries: LruCache::new(ENTRIES), bytes: 0 }) }
    }

    pub(super) fn get(&self, account: Account, url: &str) -> Option<Arc<Entry>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.entries.get(&(account, url.to_owned())).cloned()
    }

    pub(super) fn put(&self, account: Account, url: &str, tag: HeaderValue, body: Bytes) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bytes += body.len();
        if let Some((_, old)) = state.entries.push((account, url.to_owned()), Arc::new(Entry { tag, body })) {
            state.bytes -= old.body.len();
        }
        while state.bytes > BYTES
            && let Some((_, old)) = state.entries.pop_lru()
        {
            state.bytes -= old.body.len();
        }
    }
}
