//! A world for dispatch to live in: every port in memory, a GitHub that decides, machines with agents on them, on
//! Tokio's paused clock. Processes of the orchestrator come and go in it; what they leave behind stays.
//!
//! * `faults` — what happens to single port calls: refused, answer lost, the process dies or freezes.
//! * [`stores`] — table, queue and hand-over store behind such a fault.
//! * [`github`] — GitHub's REST paths over the deterministic model of `simulation`.
//! * [`machines`] — machines and the agents on them.
//! * [`laws`] — what must hold after every single write.
//! * [`world`] — all of it together, and the words stories are told in.

#![allow(dead_code, reason = "stories and benches use different parts")]
#![allow(unreachable_pub, reason = "it is a module of several test programs")]
#![allow(clippy::disallowed_methods, reason = "tests may detach tasks; the world ends them")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

pub use simulation::world::process as faults;
pub mod github;
pub mod laws;
pub mod machines;
pub mod stores;
pub mod world;

use std::time::Duration;

use domain::clock::{Clock, Timestamp, after};
use tokio::time::Instant;

/// Wall time that follows Tokio's clock, from a fixed beginning.
pub struct WorldClock(Instant);

impl WorldClock {
    pub fn starting_now() -> Self {
        Self(Instant::now())
    }
}

impl Clock for WorldClock {
    fn now(&self) -> Timestamp {
        after(domain::testing::at(0), self.0.elapsed())
    }
}

/// Waits, unless there is nothing to wait for: the shortest of Tokio's naps is a millisecond.
pub async fn nap(takes: Duration) {
    if !takes.is_zero() {
        tokio::time::sleep(takes).await;
    }
}

pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(3600 * n)
}
