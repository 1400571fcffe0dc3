//! Who lives on instances, and hears what becomes of them.

use std::sync::Arc;

use domain::clock::Timestamp;
use fleet::ec2::Instance;

/// Told in order, while nothing of the cloud is locked.
pub trait Guests: Send + Sync {
    /// There is a new instance.
    fn launched(&self, _instance: &Instance) {}
    /// Its operating system is up.
    fn booted(&self, _instance: &Instance) {}
    /// It is likely to be taken back.
    fn rebalanced(&self, _instance: &Instance) {}
    /// It is taken back at this instant.
    fn warned(&self, _instance: &Instance, _at: Timestamp) {}
    /// It is stopped: what runs there ends, its disk stays.
    fn stopped(&self, _instance: &Instance) {}
    /// Its state is another.
    fn changed(&self, _instance: &Instance) {}
    /// It no longer runs; `why` is a word.
    fn ended(&self, _instance: &Instance, _why: &'static str) {}
}

/// Something guests are to be told.
pub(super) enum News {
    Launched(Instance),
    Booted(Instance),
    Rebalanced(Instance),
    Warned(Instance, Timestamp),
    Stopped(Instance),
    Changed(Instance),
    Ended(Instance, &'static str),
}

impl News {
    pub(super) fn tell(&self, guests: &[Arc<dyn Guests>]) {
        for guest in guests {
            match self {
                Self::Launched(instance) => guest.launched(instance),
                Self::Booted(instance) => guest.booted(instance),
                Self::Rebalanced(instance) => guest.rebalanced(instance),
                Self::Warned(instance, at) => guest.warned(instance, *at),
                Self::Stopped(instance) => guest.stopped(instance),
                Self::Changed(instance) => guest.changed(instance),
                Self::Ended(instance, why) => guest.ended(instance, why),
            }
        }
    }
}
