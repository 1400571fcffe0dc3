//! Single flight: one value that many callers want and one of them fetches.
//!
//! Wanted: at most one load at a time; whoever came while it ran shares its outcome, failure included, so that fifty
//! waiting callers do not fail one after another; a caller that is dropped in the middle of a load leaves the gate to
//! the next. A load is bounded by the retry policy, hence so is the wait at the gate.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::Error;

pub(super) struct Flight<T> {
    value: Mutex<Option<T>>,
    finished: AtomicU64,
    gate: tokio::sync::Mutex<Option<Error>>,
}

impl<T> Default for Flight<T> {
    fn default() -> Self {
        Self { value: Mutex::new(None), finished: AtomicU64::new(0), gate: tokio::sync::Mutex::new(None) }
    }
}

impl<T: Clone> Flight<T> {
    /// The value if `usable` accepts it, else what `load` brings.
    pub(super) async fn get<F>(&self, usable: impl Fn(&T) -> bool, load: impl FnOnce() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let arrived = self.finished.load(Ordering::SeqCst);
        if let Some(value) = self.peek(&usable) {
            return Ok(value);
        }
        let mut failure = self.gate.lock().await;
        if let Some(value) = self.peek(&usable) {
            return Ok(value);
        }
        if let Some(error) = failure.as_ref().filter(|_| self.finished.load(Ordering::SeqCst) != arrived) {
            return Err(error.clone());
        }
        let outcome = load().await;
        match &outcome {
            Ok(value) => {
                *self.value() = Some(value.clone());
                *failure = None;
            }
            Err(error) => *failure = Some(error.clone()),
        }
        self.finished.fetch_add(1, Ordering::SeqCst);
        outcome
    }

    /// Puts a value learned elsewhere.
    pub(super) fn set(&self, value: T) {
        *self.value() = Some(value);
    }

    /// Forgets the value if it is the one meant: a late complaint about an old value must not cost the new one.
    pub(super) fn drop_if(&self, meant: impl Fn(&T) -> bool) {
        let mut value = self.value();
        if value.as_ref().is_some_and(meant) {
            *value = None;
        }
    }

    fn peek(&self, usable: impl Fn(&T) -> bool) -> Option<T> {
        self.value().as_ref().filter(|v| usable(v)).cloned()
    }

    fn value(&self) -> MutexGuard<'_, Option<T>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
