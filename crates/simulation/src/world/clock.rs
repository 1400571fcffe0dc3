//! Time in a world: Tokio's clock, from a fixed beginning.

use std::sync::Arc;
use std::time::Duration;

use coordinator::Mono;
use domain::clock::{Clock, SignedDuration, Timestamp, after};
use tokio::time::Instant;

/// Noon of some Monday.
const BEGINNING: i64 = 1_800_014_400;

/// Wall time that follows Tokio's clock. Under a paused clock it moves only when everything sleeps.
#[derive(Debug)]
pub struct WorldClock(Instant);

impl WorldClock {
    /// It is noon now.
    pub fn starting_now() -> Arc<Self> {
        Arc::new(Self(Instant::now()))
    }

    /// The beginning of every world.
    pub fn beginning() -> Timestamp {
        Timestamp::from_second(BEGINNING).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

impl Clock for WorldClock {
    fn now(&self) -> Timestamp {
        after(Self::beginning(), self.0.elapsed())
    }
}

/// What terms of leadership are measured with: it is right, whatever wall clocks say.
#[derive(Debug)]
pub struct WorldMono(Instant);

impl WorldMono {
    /// It begins to count.
    pub fn starting_now() -> Arc<Self> {
        Arc::new(Self(Instant::now()))
    }
}

impl Mono for WorldMono {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The clock of a replica that goes wrong by a constant.
#[derive(Debug)]
pub struct SkewedClock<C: ?Sized> {
    /// The right time.
    pub right: Arc<C>,
    /// Added to it.
    pub skew: SignedDuration,
}

impl<C: Clock + ?Sized> Clock for SkewedClock<C> {
    fn now(&self) -> Timestamp {
        let now = self.right.now();
        now.saturating_add(self.skew).unwrap_or(now)
    }
}

/// Waits, unless there is nothing to wait for: the shortest of Tokio's naps is a millisecond.
pub async fn nap(takes: Duration) {
    if !takes.is_zero() {
        tokio::time::sleep(takes).await;
    }
}
