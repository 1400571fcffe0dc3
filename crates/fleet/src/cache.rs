//! A fact that is fetched by one and used by many.
//!
//! One fetch at a time. While a known value is being fetched anew, everybody else goes on with the old one; it also
//! stays when the fetch fails. Nothing but the next fetch waits for a fetch, unless there is no value at all.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After a failure nobody asks again for this long.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

pub(crate) struct Cache<T> {
    ttl: Duration,
    state: Mutex<State<T>>,
    flight: tokio::sync::Mutex<()>,
}

struct State<T> {
    value: Option<Arc<T>>,
    /// From here on a fetch is due.
    due: Option<Instant>,
}

impl<T> Cache<T> {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { ttl, state: Mutex::new(State { value: None, due: None }), flight: tokio::sync::Mutex::new(()) }
    }

    /// The value; `None` when it is not known. `fetch` answers `None` when it fails.
    pub(crate) async fn get<F: Future<Output = Option<T>>>(&self, fetch: impl FnOnce() -> F) -> Option<Arc<T>> {
        let (known, due) = self.look();
        if !due {
            return known;
        }
        let _flight = match (self.flight.try_lock(), &known) {
            (Ok(flight), _) => flight,
            (Err(_), Some(_)) => return known,
            (Err(_), None) => self.flight.lock().await,
        };
        let (known, due) = self.look();
        if !due {
            return known;
        }
        let fetched = fetch().await.map(Arc::new);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.due = Some(Instant::now() + if fetched.is_some() { self.ttl } else { AFTER_FAILURE });
        if fetched.is_some() {
            state.value = fetched;
        }
        state.value.clone()
    }

    fn look(&self) -> (Option<Arc<T>>, bool) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.value.clone(), state.due.is_none_or(|due| due <= Instant::now()))
    }
}
