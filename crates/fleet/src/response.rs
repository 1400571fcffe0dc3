//! What an answer to a fleet request means. Instances count, whatever errors stand beside them.

use std::collections::BTreeSet;

use crate::ec2::{FleetError, FleetInstance};
use crate::error::{Class, Failure};
use crate::request::Pool;
use crate::subnets::Place;

#[cfg(test)]
mod tests;

/// Instances in the order in which slots get them, and those nobody asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Paired {
    /// At most one per slot, by id.
    pub used: Vec<FleetInstance>,
    /// More than there are slots: to be ended at once.
    pub surplus: Vec<FleetInstance>,
}

/// Pairs instances with slots: both in a fixed order, so that a repeated answer is paired alike.
pub fn pair(mut instances: Vec<FleetInstance>, slots: usize) -> Paired {
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    instances.dedup_by(|a, b| a.id == b.id);
    let surplus = instances.split_off(slots.min(instances.len()));
    Paired { used: instances, surplus }
}

/// Why instances are missing, by the errors of an answer.
pub fn shortfall(errors: &[FleetError]) -> Failure {
    reason(errors.iter().map(Failure::from))
}

/// What several failures come to. One pool without capacity among them means that: others may be wrong for reasons of
/// their own, and a job is not given up while waiting may help. Otherwise the worst speaks; no failure at all means that
/// there is no capacity.
pub fn reason(failures: impl Iterator<Item = Failure> + Clone) -> Failure {
    let capacity = failures.clone().find(|failure| matches!(failure.class, Class::Capacity | Class::Quota));
    let worst = || failures.min_by_key(|failure| failure.class);
    capacity.or_else(worst).unwrap_or_else(|| Failure::ours(Class::Capacity, "no instances were created"))
}

/// The pools that had nothing left.
pub fn exhausted(errors: &[FleetError], places: &[Place]) -> BTreeSet<Pool> {
    let pool = |error: &FleetError| {
        let by_subnet = || {
            let subnet = error.subnet.as_deref()?;
            places.iter().find(|place| place.subnet.as_deref() == Some(subnet))?.zone.clone()
        };
        Some((error.instance_type.clone()?, error.zone.clone().or_else(by_subnet)?))
    };
    errors.iter().filter(|error| Failure::from(*error).class == Class::Capacity).filter_map(pool).collect()
}
