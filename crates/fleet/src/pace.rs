//! The budget of EC2 calls: token buckets in front of the client.
//!
//! An account has one set of buckets at EC2 for everything in it; ours are smaller, so that we are not the ones who
//! empty them. When EC2 complains all the same, a bucket slows down and recovers by steps. Sweeps leave a quarter of a
//! bucket to launches.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

#[cfg(test)]
mod tests;

/// How long a slowed bucket stays slow before it recovers.
const SLOW: Duration = Duration::from_secs(30);
/// How long one step of the recovery takes: a tenth of the sustained rate.
const STEP: Duration = Duration::from_secs(10);
/// No bucket gets slower than this, in tokens per second.
const SLOWEST: f64 = 0.5;

/// Calls that share a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bucket {
    /// `CreateFleet`.
    Launch,
    /// `StartInstances`.
    Start,
    /// `StopInstances`, `TerminateInstances` and cancelled spot requests.
    End,
    /// `CreateTags`.
    Tag,
    /// `DescribeInstances`.
    Describe,
    /// Every other `Describe…`.
    Facts,
}

impl Bucket {
    const ALL: [Self; 6] = [Self::Launch, Self::Start, Self::End, Self::Tag, Self::Describe, Self::Facts];

    /// Tokens per second, and tokens of a full bucket.
    const fn size(self) -> (f64, f64) {
        match self {
            Self::Launch => (2.0, 10.0),
            Self::Start => (2.0, 5.0),
            Self::End => (5.0, 10.0),
            Self::Tag => (5.0, 50.0),
            Self::Describe => (10.0, 50.0),
            Self::Facts => (2.0, 10.0),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// A job waits for it.
    Launch,
    /// It can wait.
    Background,
}

/// A token bucket whose rate can be lowered. Pure: time is an argument.
#[derive(Debug, Clone)]
pub struct Tokens {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
    /// Since when, and to which rate.
    slowed: Option<(Instant, f64)>,
}

impl Tokens {
    /// A full bucket.
    pub const fn new(rate: f64, burst: f64, now: Instant) -> Self {
        Self { rate, burst, tokens: burst, at: now, slowed: None }
    }

    /// Tokens per second at `now`.
    pub fn rate(&self, now: Instant) -> f64 {
        let Some((since, slow)) = self.slowed else { return self.rate };
        let recovering = now.duration_since(since).saturating_sub(SLOW);
        let steps = (recovering.as_secs_f64() / STEP.as_secs_f64()).floor();
        (slow + self.rate * 0.1 * steps).min(self.rate)
    }

    /// Takes a token, or says how long until there may be one.
    pub fn take(&mut self, now: Instant, priority: Priority) -> Result<(), Duration> {
        // What flowed in while nobody looked counts at the rate of back then, which is never the higher one.
        let rate = self.rate(self.at);
        self.tokens = (self.tokens + rate * now.duration_since(self.at).as_secs_f64()).min(self.burst);
        self.at = self.at.max(now);
        let needed = match priority {
            Priority::Launch => 1.0,
            Priority::Background => 1.0 + (self.burst * 0.25).floor(),
        };
        // Sums of fractions fall short of whole tokens by a rounding error.
        if self.tokens + 1e-9 >= needed {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((needed - self.tokens) / self.rate(now)).max(Duration::from_millis(1)))
    }

    /// EC2 complained: half the rate for a while.
    pub fn slow_down(&mut self, now: Instant) {
        let slow = (self.rate(now) / 2.0).max(SLOWEST).min(self.rate);
        self.slowed = Some((now, slow));
        self.tokens = self.tokens.min(1.0);
    }
}

/// All buckets of this process, and the waiting at them.
#[derive(Debug)]
pub struct Pace {
    buckets: Mutex<[Tokens; 6]>,
    /// Launches wait in the order in which they came.
    launches: tokio::sync::Mutex<()>,
    /// Launch tokens taken ahead, by batches that are still filling.
    ahead: Mutex<u32>,
}

impl Pace {
    /// Full buckets.
    pub fn new(now: Instant) -> Self {
        let full = |bucket: Bucket| {
            let (rate, burst) = bucket.size();
            Tokens::new(rate, burst, now)
        };
        Self { buckets: Mutex::new(Bucket::ALL.map(full)), launches: tokio::sync::Mutex::new(()), ahead: Mutex::new(0) }
    }

    /// Waits for a token until `deadline`; whether there was one.
    pub async fn wait(&self, bucket: Bucket, priority: Priority, deadline: Instant) -> bool {
        let waiting = async {
            let _turn = match bucket {
                Bucket::Launch => Some(self.launches.lock().await),
                _ => None,
            };
            loop {
                let taken = self.with(bucket, |tokens, now| tokens.take(now, priority));
                let Err(pause) = taken else { return true };
                if Instant::now() + pause > deadline {
                    return false;
                }
                tokio::time::sleep(pause).await;
            }
        };
        tokio::time::timeout_at(deadline, waiting).await.unwrap_or(false)
    }

    /// Waits for a launch token and keeps it for [`Pace::launch`].
    pub async fn ahead(&self, deadline: Instant) {
        if self.wait(Bucket::Launch, Priority::Launch, deadline).await {
            let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
            // A batch that came to nothing leaves its token to the next; a heap of them would be a burst too large.
            *ahead = (*ahead + 1).min(Bucket::Launch.size().1 as u32);
        }
    }

    /// A launch token: one taken ahead, else waits like everybody.
    pub async fn launch(&self, deadline: Instant) -> bool {
        {
            let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
            if *ahead > 0 {
                *ahead -= 1;
                return true;
            }
        }
        self.wait(Bucket::Launch, Priority::Launch, deadline).await
    }

    /// EC2 complained about too many calls of this kind.
    pub fn slow_down(&self, bucket: Bucket) {
        self.with(bucket, Tokens::slow_down);
    }

    fn with<R>(&self, bucket: Bucket, f: impl FnOnce(&mut Tokens, Instant) -> R) -> R {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut buckets[bucket as usize], Instant::now())
    }
}
