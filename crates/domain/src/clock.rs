//! Time and chance. Every other crate takes them from here; clippy denies the direct calls.

use std::time::Duration;

pub use jiff::{SignedDuration, Timestamp};

/// Wall-clock time. Waiting is `tokio::time`'s business; this is for stamps and deadlines in records.
pub trait Clock: Send + Sync + 'static {
    /// The current instant, UTC.
    fn now(&self) -> Timestamp;
}

/// Randomness for tokens, jitter and tie-breaks.
pub trait Rng: Send + Sync + 'static {
    /// Sixty-four uniformly distributed bits. For the system's own source they are unpredictable to outsiders.
    fn next_u64(&self) -> u64;

    /// 128 random bits as 32 lower-case hex digits: lease tokens, dispatch ids.
    fn token(&self) -> String {
        format!("{:016x}{:016x}", self.next_u64(), self.next_u64())
    }

    /// A uniform number in `[0, 1)`.
    fn unit(&self) -> f64 {
        // 53 bits are exactly what an f64 mantissa can hold.
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `base` × uniform `[1 − spread, 1 + spread)`.
    fn jitter(&self, base: Duration, spread: f64) -> Duration {
        base.mul_f64((1.0 - spread + 2.0 * spread * self.unit()).max(0.0))
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the door")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The operating system's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    #[allow(clippy::disallowed_methods, reason = "this is the door")]
    fn next_u64(&self) -> u64 {
        rand::random()
    }
}

/// `at + by`, saturating at the ends of representable time: a deadline beyond the year 9999 is "never".
pub fn after(at: Timestamp, by: Duration) -> Timestamp {
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}

/// `at` cut to whole seconds, as records store it.
pub fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// How long after `then` `now` is; zero when it is not.
pub fn since(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or(Duration::ZERO)
}
