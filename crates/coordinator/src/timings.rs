//! How long everything about the lease takes.

use std::time::Duration;

/// See the fields. All replicas must use the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// How long a term lasts without renewal.
    pub lease: Duration,
    /// Between two renewals.
    pub heartbeat: Duration,
    /// Between two looks of one that follows.
    pub watch: Duration,
    /// Longest pause after failed reads.
    pub retry: Duration,
    /// How much earlier than its term its holder stops to lead.
    pub margin: Duration,
    /// How much longer than a term nothing must have moved before another takes over.
    pub slack: Duration,
    /// How far the wall clocks of replicas may differ. Only a lease that expired longer ago than this is believed dead
    /// at first sight.
    pub wall_skew: Duration,
    /// Longest wait for the answer to one call.
    pub attempt: Duration,
    /// Longest time for giving the lease up, the second attempt included.
    pub release: Duration,
    /// How long one that gave the lease up because it could not do the work lets others try.
    pub stay_out: Duration,
}

impl Timings {
    /// The values of production.
    pub const PRODUCTION: Self = Self {
        lease: Duration::from_secs(60),
        heartbeat: Duration::from_secs(20),
        watch: Duration::from_millis(500),
        retry: Duration::from_secs(30),
        margin: Duration::from_secs(10),
        slack: Duration::from_secs(2),
        wall_skew: Duration::from_secs(120),
        attempt: Duration::from_secs(5),
        release: Duration::from_millis(800),
        stay_out: Duration::from_secs(60),
    };

    /// How long a replica leads after it sent the request that made or kept it leader.
    pub(crate) const fn validity(&self) -> Duration {
        self.lease.saturating_sub(self.margin)
    }

    /// How long nothing must have moved before the holder counts as gone.
    pub(crate) const fn gone(&self) -> Duration {
        self.lease.saturating_add(self.slack)
    }
}

/// A renewal may fail and the next still comes in time; and between the end of one leader's belief and the earliest
/// moment of the next lie 12 s, more than ten times what clocks drift apart in a minute.
const _: () = {
    let t = Timings::PRODUCTION;
    assert!(t.heartbeat.as_millis() * 2 * 105 / 100 + t.attempt.as_millis() < t.validity().as_millis());
    assert!(t.gone().as_millis() - t.validity().as_millis() >= t.gone().as_millis() / 10);
};
