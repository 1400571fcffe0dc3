//! When the next login may be tried.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use domain::clock::Rng;
use tokio::time::Instant;

/// Pause behind the first failure, doubled by every further one in a row,
const SHORTEST: Duration = Duration::from_secs(1);
/// up to this; ±20 %.
const LONGEST: Duration = Duration::from_secs(60);

/// Logins in a row that failed, or that made no difference: whom a policy forgot must not log in before each request.
#[derive(Default)]
pub(super) struct Backoff(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    failures: u32,
    earliest: Option<Instant>,
    why: String,
}

impl Backoff {
    /// Why nobody should try now, if nobody should.
    pub(super) fn closed(&self) -> Option<String> {
        let inner = self.inner();
        inner.earliest.is_some_and(|earliest| Instant::now() < earliest).then(|| inner.why.clone())
    }

    /// One more.
    pub(super) fn again(&self, why: String, rng: &dyn Rng) {
        let mut inner = self.inner();
        let doubled = SHORTEST.saturating_mul(2_u32.saturating_pow(inner.failures));
        inner.failures = inner.failures.saturating_add(1);
        inner.earliest = Some(Instant::now() + rng.jitter(doubled.min(LONGEST), 0.2));
        inner.why = why;
    }

    /// The row is over.
    pub(super) fn over(&self) {
        let mut inner = self.inner();
        if inner.failures > 0 {
            *inner = Inner::default();
        }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
