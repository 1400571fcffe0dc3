//! What instances cost.

use std::time::Duration;

use serde::Serialize;

/// The account of a region.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Ledger {
    /// Instances launched.
    pub launched: u64,
    /// Of those, on spot capacity.
    pub spot: u64,
    /// Taken back.
    pub reclaimed: u64,
    /// Ended, for whatever reason.
    pub ended: u64,
    /// Seconds that instances ran, of those that run no more.
    pub instance_seconds: f64,
    /// What they cost.
    pub usd: f64,
}

/// EC2 bills by the second, a minute at least.
const LEAST: Duration = Duration::from_secs(60);
/// Roughly what a vCPU of a current generation costs for an hour.
const VCPU_HOUR: f64 = 0.043;
/// Roughly what of that is paid on spot capacity.
const SPOT: f64 = 0.38;

/// Roughly what the volume of a stopped instance costs for an hour: 30 GiB of gp3.
const VOLUME_HOUR: f64 = 0.0035;

impl Ledger {
    /// An instance has run for so long, and runs no more.
    pub(super) fn pay(&mut self, instance_type: &str, spot: bool, lived: Duration) {
        let seconds = lived.max(LEAST).as_secs_f64();
        let vcpus = domain::catalogue::lookup(instance_type).map_or(2.0, |kind| f64::from(kind.vcpu));
        let rate = VCPU_HOUR * vcpus * if spot { SPOT } else { 1.0 };
        self.instance_seconds += seconds;
        self.usd += rate * seconds / 3600.0;
    }

    /// A stopped instance was kept for so long.
    pub(super) fn store(&mut self, kept: Duration) {
        self.usd += VOLUME_HOUR * kept.as_secs_f64() / 3600.0;
    }
}
