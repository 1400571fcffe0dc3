//! Staying within what GitHub allows, per account: the App itself and each installation.
//!
//! Wanted: GitHub never has to refuse us. At most 20 requests in flight; at most 120 changes a minute; reading by
//! sweeps at most 1,000 a hour; and when the primary limit runs low, what is left goes to jobs that wait. A caller is
//! never kept longer than a minute: it gets a time to come back instead.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::clock::{Timestamp, after};
use domain::ids::InstallationId;
use http::{HeaderMap, Method};
use lru::LruCache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::operation::{Operation, Priority};
use super::retry::{LONGEST_WAIT, number, text};

const IN_FLIGHT: usize = 20;
const CHANGES: usize = 120;
const WINDOW: Duration = Duration::from_secs(60);
const SWEEP_BURST: f64 = 200.0;
const SWEEP_PER_SECOND: f64 = 1000.0 / 3600.0;
/// Accounts remembered at once. Forgetting one only forgets how much it has used.
#[allow(clippy::unwrap_used, reason = "not zero")]
const ACCOUNTS: NonZeroUsize = NonZeroUsize::new(1000).unwrap();

/// Whose rate limit a request counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Account {
    /// The App, by its JWT.
    App,
    /// One installation, by its token.
    Installation(InstallationId),
}

/// GitHub's primary rate limit of one account, as of its latest answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests per window.
    pub limit: u64,
    /// Requests left in the window.
    pub remaining: u64,
    /// When the window ends.
    pub reset: Timestamp,
}

/// A request that may go out now. Dropping it frees its place.
pub(super) struct Admission {
    budget: Arc<Budget>,
    swept: bool,
    _place: OwnedSemaphorePermit,
}

impl Admission {
    /// An answer of 304 costs GitHub nothing, so it costs the sweep nothing.
    pub(super) fn refund(&self) {
        if self.swept {
            let mut bucket = lock(&self.budget.sweep);
            bucket.level = (bucket.level + 1.0).min(SWEEP_BURST);
        }
    }
}

/// Why a request may not go out now, and when it may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) until: Timestamp,
    pub(super) why: &'static str,
}

struct Bucket {
    level: f64,
    at: Instant,
}

struct Budget {
    places: Arc<Semaphore>,
    /// Start times of the latest changes, some of them in the future: reserved by callers that wait for them.
    changes: Mutex<VecDeque<Instant>>,
    sweep: Mutex<Bucket>,
    rate: Mutex<Option<RateLimit>>,
}

pub(super) struct Budgets {
    /// Changes a minute, per account.
    pub(super) changes: usize,
    accounts: Mutex<LruCache<Account, Arc<Budget>>>,
}

impl Budgets {
    pub(super) fn new() -> Self {
        Self { changes: CHANGES, accounts: Mutex::new(LruCache::new(ACCOUNTS)) }
    }

    /// Waits, at most about two minutes in the worst case and normally not at all, until the request may go out.
    pub(super) async fn admit(
        &self,
        account: Account,
        operation: Operation,
        priority: Priority,
        now: Timestamp,
    ) -> Result<Admission, Held> {
        let budget = self.of(account);
        let traits = operation.traits();
        budget.reserve(priority, traits.critical, now)?;
        let reads = matches!(traits.method, Method::GET);
        let swept = priority == Priority::Sweep && reads;
        if swept {
            budget.take_sweep(now)?;
        }
        if !reads {
            tokio::time::sleep_until(budget.next_change(self.changes, now)?).await;
        }
        let place = tokio::time::timeout(LONGEST_WAIT, Arc::clone(&budget.places).acquire_owned()).await;
        match place {
            Ok(Ok(place)) => Ok(Admission { budget, swept, _place: place }),
            _ => Err(Held { until: after(now, LONGEST_WAIT), why: "too many requests in flight" }),
        }
    }

    /// Learns from a response's headers; the limit as it stands now, if they speak of it.
    pub(super) fn observe(&self, account: Account, headers: &HeaderMap) -> Option<RateLimit> {
        if text(headers, "x-ratelimit-resource").is_some_and(|r| r != "core") {
            return None;
        }
        let field = |name| number(headers, name).and_then(|n| u64::try_from(n).ok());
        let (limit, remaining) = (field("x-ratelimit-limit")?, field("x-ratelimit-remaining")?);
        let reset = Timestamp::from_second(number(headers, "x-ratelimit-reset")?).ok()?;
        let budget = self.of(account);
        let mut rate = lock(&budget.rate);
        // Answers overtake each other: within one window the count only falls, and windows only follow.
        *rate = Some(match *rate {
            Some(old) if old.reset > reset => old,
            Some(old) if old.reset == reset => RateLimit { remaining: remaining.min(old.remaining), ..old },
            _ => RateLimit { limit, remaining, reset },
        });
        *rate
    }

    /// The rate limits seen, by account.
    pub(super) fn rates(&self) -> Vec<(Account, RateLimit)> {
        let accounts = lock(&self.accounts);
        let mut rates: Vec<_> = accounts.iter().filter_map(|(a, b)| Some((*a, (*lock(&b.rate))?))).collect();
        rates.sort_by_key(|(account, _)| *account);
        rates
    }

    fn of(&self, account: Account) -> Arc<Budget> {
        Arc::clone(lock(&self.accounts).get_or_insert(account, || Arc::new(Budget::new())))
    }
}

impl Budget {
    fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(IN_FLIGHT)),
            changes: Mutex::default(),
            sweep: Mutex::new(Bucket { level: SWEEP_BURST, at: Instant::now() }),
            rate: Mutex::default(),
        }
    }

    /// Keeps the last fifth of the limit for jobs that wait, and the last twentieth for starting and ending runners.
    fn reserve(&self, priority: Priority, critical: bool, now: Timestamp) -> Result<(), Held> {
        let Some(rate) = lock(&self.rate).filter(|r| r.reset > now) else { return Ok(()) };
        let left = |percent| rate.remaining * 100 < rate.limit * percent;
        if critical {
            Ok(())
        } else if left(5) {
            Err(Held { until: rate.reset, why: "less than 5 % of the rate limit is left" })
        } else if priority == Priority::Sweep && left(20) {
            Err(Held { until: rate.reset, why: "less than 20 % of the rate limit is left" })
        } else {
            Ok(())
        }
    }

    fn take_sweep(&self, now: Timestamp) -> Result<(), Held> {
        let mut bucket = lock(&self.sweep);
        let instant = Instant::now();
        let gained = instant.saturating_duration_since(bucket.at).as_secs_f64() * SWEEP_PER_SECOND;
        *bucket = Bucket { level: (bucket.level + gained).min(SWEEP_BURST), at: instant };
        if bucket.level < 1.0 {
            let wait = Duration::from_secs_f64((1.0 - bucket.level) / SWEEP_PER_SECOND);
            return Err(Held { until: after(now, wait), why: "the sweeps' budget is spent" });
        }
        bucket.level -= 1.0;
        Ok(())
    }

    /// Reserves the earliest start at which no minute sees more than `most` changes.
    fn next_change(&self, most: usize, now: Timestamp) -> Result<Instant, Held> {
        let mut changes = lock(&self.changes);
        let instant = Instant::now();
        let start = match changes.front() {
            Some(oldest) if changes.len() >= most => instant.max(*oldest + WINDOW),
            _ => instant,
        };
        let wait = start.saturating_duration_since(instant);
        if wait > LONGEST_WAIT {
            return Err(Held { until: after(now, wait), why: "too many changes this minute" });
        }
        if changes.len() >= most {
            changes.pop_front();
        }
        changes.push_back(start);
        Ok(start)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
