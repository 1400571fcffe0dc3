//! Where instances may go: one subnet per zone.
//!
//! EC2 takes one override per type and zone and refuses a request with two of them, so of a zone's subnets only one
//! can be offered: the one with most addresses left, since a burst exhausts the first one's.

use std::collections::BTreeMap;

use crate::ec2::Subnet;

#[cfg(test)]
mod tests;

/// A place for instances. Without a subnet EC2 chooses one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its subnet.
    pub subnet: Option<String>,
    /// Its zone, if known.
    pub zone: Option<String>,
}

/// One place per zone, in the configured order of the zones' first subnets. Subnets that are not `known` stay: their
/// zone cannot be told, so nothing can be said against them. No subnets at all are one place without any.
pub fn places(configured: &[String], known: &[Subnet]) -> Vec<Place> {
    let known: BTreeMap<&str, &Subnet> = known.iter().map(|subnet| (subnet.id.as_str(), subnet)).collect();
    let mut chosen: Vec<(&str, Option<&Subnet>)> = Vec::new();
    for id in configured.iter().map(String::as_str).filter(|id| !id.is_empty()) {
        let subnet = known.get(id).copied();
        let of_zone = |(_, other): &(&str, Option<&Subnet>)| match (other, subnet) {
            (Some(other), Some(subnet)) => other.zone == subnet.zone,
            _ => false,
        };
        match chosen.iter().position(of_zone) {
            Some(at) => {
                if subnet.map(|s| s.free_addresses) > chosen[at].1.map(|s| s.free_addresses) {
                    chosen[at] = (id, subnet);
                }
            }
            None if chosen.iter().any(|(other, _)| *other == id) => {}
            None => chosen.push((id, subnet)),
        }
    }
    if chosen.is_empty() {
        return vec![Place { subnet: None, zone: None }];
    }
    let place = |(id, subnet): (&str, Option<&Subnet>)| Place {
        subnet: Some(id.to_owned()),
        zone: subnet.map(|s| s.zone.clone()),
    };
    chosen.into_iter().map(place).collect()
}
