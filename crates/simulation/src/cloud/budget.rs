//! How much is asked of EC2, beside what it lets an account ask for unless told otherwise: "Request throttling for the
//! Amazon EC2 API" in the EC2 Developer Guide. Each operation has a bucket of tokens that fills at a constant rate.

use serde::Serialize;
use tokio::time::Instant;

/// Tokens of a full bucket, and tokens a second.
const fn bucket(operation: &str) -> (f64, f64) {
    match operation.as_bytes() {
        // Describe…
        [b'D', b'e', b's', ..] => (100.0, 20.0),
        _ => (50.0, 5.0),
    }
}

/// What was asked for of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Asked {
    /// Calls.
    pub calls: u64,
    /// Tokens of a full bucket.
    pub bucket: f64,
    /// The fewest tokens that were ever left; below zero EC2 would have refused a call.
    pub least_left: f64,
}

/// A bucket that only watches.
#[derive(Debug)]
pub(super) struct Meter {
    asked: Asked,
    rate: f64,
    tokens: f64,
    at: Instant,
}

impl Meter {
    pub(super) fn of(operation: &str, now: Instant) -> Self {
        let (bucket, rate) = bucket(operation);
        Self { asked: Asked { calls: 0, bucket, least_left: bucket }, rate, tokens: bucket, at: now }
    }

    pub(super) fn count(&mut self, now: Instant) {
        let flowed = self.rate * now.duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + flowed).min(self.asked.bucket) - 1.0;
        self.at = now;
        self.asked.calls += 1;
        self.asked.least_left = self.asked.least_left.min(self.tokens);
    }

    pub(super) const fn asked(&self) -> Asked {
        self.asked
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_empties_by_calls_and_fills_with_time() {
        let start = Instant::now();
        let mut meter = Meter::of("CreateFleet", start);
        for _ in 0..30 {
            meter.count(start);
        }
        meter.count(start + Duration::from_secs(4));
        assert_eq!(meter.asked(), Asked { calls: 31, bucket: 50.0, least_left: 20.0 });
        for _ in 0..101 {
            meter.count(start + Duration::from_secs(60));
        }
        assert_eq!(meter.asked().least_left, -51.0);
        assert_eq!(Meter::of("DescribeInstances", start).asked().bucket, 100.0);
    }
}
