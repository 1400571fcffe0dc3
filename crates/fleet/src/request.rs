//! From an order and the facts to the requests that may serve it. No clock, no call: the same input gives the same
//! requests to the last byte, which is what makes a repeated one harmless.

use std::collections::BTreeSet;

use domain::launch::{Arch, LaunchSpec};
use provider::compute::{Error, Order, Slot};

use crate::candidates::{Group, Offerings};
use crate::ec2::{FleetRequest, Override, Volume};
use crate::settings::Settings;
use crate::subnets::Place;
use crate::tags;

#[cfg(test)]
mod tests;

/// As many overrides as a request should have: more make EC2 slower to answer, not luckier.
const OVERRIDES: usize = 60;
/// EC2's limit.
pub const OVERRIDE_LIMIT: usize = 300;
/// Types of an on-demand request: the one asked for, and four to fall back on.
const ON_DEMAND_TYPES: usize = 5;
/// Root volumes EC2 makes of `gp3`, in GiB.
const VOLUME_GIB: std::ops::RangeInclusive<u32> = 1..=16_384;

/// A pool of capacity: type and zone.
pub type Pool = (String, String);

/// What the world is like, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The job's groups of types, the first to be tried first.
    pub groups: Vec<Group>,
    /// Where instances may go, at least one place.
    pub places: Vec<Place>,
    /// What is offered where; `None` when EC2 would not say, and then everything is.
    pub offerings: Option<Offerings>,
    /// Pools of this lifecycle that had nothing left a moment ago.
    pub exhausted: BTreeSet<Pool>,
}

/// The name of the launch template. Windows has one for itself.
pub fn template(base: &str, os: &str, arch: Arch) -> String {
    match os {
        "windows" => format!("{base}-windows"),
        _ => format!("{base}-{}", arch.as_str()),
    }
}

/// The root volume asked for, if any.
///
/// Errors: [`Error::Invalid`] for a size that no volume has.
pub fn volume(spec: &LaunchSpec) -> Result<Option<Volume>, Error> {
    match spec.storage_gib {
        0 => Ok(None),
        gib if VOLUME_GIB.contains(&gib) => {
            let device = if spec.os == "windows" { "/dev/sda1" } else { "/dev/xvda" };
            Ok(Some(Volume { device: device.to_owned(), gib }))
        }
        gib => Err(Error::Invalid(format!("{gib} GiB is not the size of a volume"))),
    }
}

/// The overrides of each group that are possible at all, before circuits are asked: offered, and not just exhausted
/// unless nothing else is left. Groups without any are left out.
///
/// Errors: [`Error::Invalid`] when none of the types is offered.
pub fn candidates(spec: &LaunchSpec, facts: &Facts, spot: bool) -> Result<Vec<(Arch, Vec<Candidate>)>, Error> {
    let volume = volume(spec)?;
    let offered: Vec<(Arch, Vec<Candidate>)> = facts
        .groups
        .iter()
        .map(|group| (group.arch, possible(group, facts, spot, volume.as_ref())))
        .filter(|(_, candidates)| !candidates.is_empty())
        .collect();
    if offered.is_empty() {
        return Err(Error::Invalid("none of the instance types is offered where machines may go".to_owned()));
    }
    let fresh = without(&offered, |candidate| {
        candidate
            .zone
            .as_ref()
            .is_some_and(|zone| facts.exhausted.contains(&(candidate.request.instance_type.clone(), zone.clone())))
    });
    Ok(if fresh.is_empty() { offered } else { fresh })
}

/// An override and the zone it leads to, if known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The override.
    pub request: Override,
    /// The zone of its subnet.
    pub zone: Option<String>,
}

/// Groups without the candidates that `bad` names, and without groups that have none left.
pub fn without(groups: &[(Arch, Vec<Candidate>)], bad: impl Fn(&Candidate) -> bool) -> Vec<(Arch, Vec<Candidate>)> {
    let kept = |candidates: &[Candidate]| candidates.iter().filter(|c| !bad(c)).cloned().collect::<Vec<_>>();
    groups.iter().map(|(arch, list)| (*arch, kept(list))).filter(|(_, list)| !list.is_empty()).collect()
}

fn possible(group: &Group, facts: &Facts, spot: bool, volume: Option<&Volume>) -> Vec<Candidate> {
    let offered = |name: &str, place: &Place| {
        facts.offerings.as_ref().is_none_or(|offerings| offerings.has(name, place.zone.as_deref()))
    };
    let anywhere = |name: &&String| facts.offerings.as_ref().is_none_or(|offerings| offerings.has(name, None));
    let most = if spot { usize::MAX } else { ON_DEMAND_TYPES };
    let types: Vec<&String> = group.types.iter().filter(anywhere).take(most).collect();
    let candidate = |rank: usize, name: &str, place: &Place| Candidate {
        request: Override {
            instance_type: name.to_owned(),
            subnet: place.subnet.clone(),
            priority: (!spot).then(|| u32::try_from(rank).unwrap_or(u32::MAX)),
            volume: volume.cloned(),
        },
        zone: place.zone.clone(),
    };
    let of_place = |place: &Place| {
        let offered = types.iter().enumerate().filter(|(_, name)| offered(name, place));
        offered.map(|(rank, name)| candidate(rank, name, place)).collect::<Vec<_>>()
    };
    facts.places.iter().flat_map(of_place).collect()
}

/// Cuts a group's candidates down to what a request should have. Zones matter more than types: every place keeps its
/// first types.
fn trimmed(candidates: &[Candidate], spot: bool) -> Vec<Override> {
    let mut places: Vec<(Option<&str>, Vec<&Override>)> = Vec::new();
    for candidate in candidates {
        let subnet = candidate.request.subnet.as_deref();
        match places.iter_mut().find(|(place, _)| *place == subnet) {
            Some((_, list)) => list.push(&candidate.request),
            None => places.push((subnet, vec![&candidate.request])),
        }
    }
    let per_place = (OVERRIDES / places.len().max(1)).max(1);
    let kept = places.iter().flat_map(|(_, list)| list.iter().take(per_place).map(|o| (*o).clone()));
    let mut kept: Vec<Override> = kept.collect();
    if !spot {
        // The type asked for, everywhere, before any other.
        kept.sort_by_key(|o| o.priority);
    }
    kept.truncate(OVERRIDE_LIMIT);
    kept
}

/// The requests for an order, from candidates that survived every filter, in order of preference: each is for all
/// slots, and a later one (the other architecture) is sent for those still missing.
pub fn build(order: &Order, groups: &[(Arch, Vec<Candidate>)], spot: bool, settings: &Settings) -> Vec<FleetRequest> {
    let slots: Vec<&Slot> = order.members.slots().iter().collect();
    let request = |(index, (arch, candidates)): (usize, &(Arch, Vec<Candidate>))| FleetRequest {
        client_token: token(order, index),
        launch_template: template(&settings.launch_template, &order.spec.os, *arch),
        overrides: trimmed(candidates, spot),
        capacity: u32::try_from(order.members.len()).unwrap_or(u32::MAX),
        spot,
        tags: tags::of(order, &slots, *arch, &settings.tags),
    };
    groups.iter().enumerate().map(request).collect()
}

/// A client token of its own for each request of a launch: the first has the launch's name.
fn token(order: &Order, index: usize) -> String {
    match index {
        0 => order.launch_id.to_string(),
        _ => format!("{}-{}", order.launch_id, index + 1),
    }
}
