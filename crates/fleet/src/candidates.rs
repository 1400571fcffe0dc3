//! Which instance types a request offers, by architecture.
//!
//! One request never mixes architectures: it names one launch template, and EC2 answers a mixed one with errors about
//! capacity. A job that takes either gets two groups, the cheaper one first.

use std::collections::{BTreeMap, BTreeSet};

use domain::catalogue;
use domain::launch::{Arch, LaunchSpec};
use provider::compute::Error;

#[cfg(test)]
mod tests;

/// Types of one architecture, in order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Their architecture.
    pub arch: Arch,
    /// Their names; never empty, none twice.
    pub types: Vec<String>,
}

/// The groups of a job: one, or two for a spot job that takes either architecture. Needs no call.
///
/// Errors: [`Error::Invalid`] when the job names no type, a type of another architecture than it asks for, or only
/// types whose architecture nobody knows.
pub fn groups(spec: &LaunchSpec, spot: bool) -> Result<Vec<Group>, Error> {
    let types = wanted(spec);
    let Some(primary) = types.first() else {
        return Err(Error::Invalid("the job names no instance type".to_owned()));
    };
    if let Some(arch) = spec.arch {
        for (name, known) in types.iter().filter_map(|name| Some((name, arch_of(name)?))) {
            if known != arch {
                let (known, arch) = (known.as_str(), arch.as_str());
                return Err(Error::Invalid(format!("{name} is {known}, and the job asks for {arch}")));
            }
        }
        return Ok(vec![Group { arch, types }]);
    }
    let of = |arch: Arch| types.iter().filter(|name| arch_of(name) == Some(arch)).cloned().collect::<Vec<_>>();
    if !spot {
        let Some(arch) = arch_of(primary) else {
            return Err(Error::Invalid(format!("cannot determine the architecture of {primary}")));
        };
        return Ok(vec![Group { arch, types: of(arch) }]);
    }
    let groups: Vec<Group> = [Arch::Arm64, Arch::Amd64]
        .into_iter()
        .map(|arch| Group { arch, types: of(arch) })
        .filter(|group| !group.types.is_empty())
        .collect();
    match groups.is_empty() {
        true => Err(Error::Invalid("none of the instance types is in the catalogue".to_owned())),
        false => Ok(groups),
    }
}

/// The job's types, each once; the first is the primary.
fn wanted(spec: &LaunchSpec) -> Vec<String> {
    let listed = match spec.instance_types.is_empty() {
        true => std::slice::from_ref(&spec.instance_type),
        false => spec.instance_types.as_slice(),
    };
    let mut seen = BTreeSet::new();
    listed.iter().filter(|name| !name.is_empty() && seen.insert(name.as_str())).cloned().collect()
}

fn arch_of(name: &str) -> Option<Arch> {
    catalogue::lookup(name).map(|known| known.arch)
}

/// Cheapest on average first. A group without a price comes after one that has; a tie, or no prices at all, is decided
/// for Arm, whose machines cost less than their twins.
pub fn cheapest_first(mut groups: Vec<Group>, prices: &BTreeMap<String, f64>) -> Vec<Group> {
    let price = |group: &Group| average(group.types.iter().filter_map(|name| prices.get(name).copied()));
    groups.sort_by(|a, b| {
        let by_price = match (price(a), price(b)) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => std::cmp::Ordering::Equal,
        };
        by_price.then(a.arch.cmp(&b.arch))
    });
    groups
}

/// The mean; `None` of nothing.
pub(crate) fn average(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

/// Which types are offered in which zones of the region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offerings(BTreeMap<String, BTreeSet<String>>);

impl Offerings {
    /// From pairs of type and zone.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut offerings = Self::default();
        for (name, zone) in pairs {
            offerings.0.entry(name).or_default().insert(zone);
        }
        offerings
    }

    /// Whether the type is offered in this zone; in any, when the zone is unknown.
    pub fn has(&self, name: &str, zone: Option<&str>) -> bool {
        self.0.get(name).is_some_and(|zones| zone.is_none_or(|zone| zones.contains(zone)))
    }
}
