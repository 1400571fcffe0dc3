//! The intervals of warm pools.

use std::time::Duration;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Every interval. [`Times::PRODUCTION`] is what production runs; [`Times::divided`] makes a test bearable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Between two passes of the leader over all pools.
    pub tick: Duration,
    /// Between two passes of one pool for demand.
    pub gap: Duration,
    /// A machine that boots is left alone for this long: stopping it in the middle would leave it half made.
    pub grace: Duration,
    /// A running machine must look unused for this long. Longer than a tick, so that two passes have to agree.
    pub dwell: Duration,
    /// A spare is replaced at this age, before its agent gives up waiting.
    pub standby: Duration,
    /// A machine just asked for may be missing from EC2's answers for this long.
    pub unlisted: Duration,
    /// A new machine that goes away within this time, and was of no use, failed.
    pub proof: Duration,
    /// First pause after failures; doubles, up to 30 times as long.
    pub pause: Duration,
    /// What a job's dispatcher knows of a pool may be this old.
    pub fresh: Duration,
}

impl Times {
    /// What production runs.
    pub const PRODUCTION: Self = Self {
        tick: s(60),
        gap: s(5),
        grace: s(180),
        dwell: s(90),
        standby: s(110 * 60),
        unlisted: s(120),
        proof: s(15 * 60),
        pause: s(60),
        fresh: s(10),
    };

    /// The same, `divisor` times faster.
    #[must_use]
    pub fn divided(self, divisor: u32) -> Self {
        let d = |time: Duration| time / divisor.max(1);
        Self {
            tick: d(self.tick),
            gap: d(self.gap),
            grace: d(self.grace),
            dwell: d(self.dwell),
            standby: d(self.standby),
            unlisted: d(self.unlisted),
            proof: d(self.proof),
            pause: d(self.pause),
            fresh: d(self.fresh),
        }
    }
}

const _: () = assert!(Times::PRODUCTION.dwell.as_secs() > Times::PRODUCTION.tick.as_secs());
