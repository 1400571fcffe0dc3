//! The clock that terms are measured with.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A clock that is never set and that counts while the machine sleeps: a leader that was suspended must know, when it
/// wakes, that its term is over.
pub trait Mono: Send + Sync + 'static {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;
}

/// The machine's clock since it was switched on.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootClock;

impl Mono for BootClock {
    fn now(&self) -> Duration {
        let time = clock_gettime(ClockId::Boottime);
        Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts() {
        let first = BootClock.now();
        assert!(first > Duration::ZERO, "the machine was switched on some time ago");
        while BootClock.now() == first {}
        assert!(BootClock.now() > first);
    }
}
