//! The instance types that exist, and which of them a set of bounds allows.
//!
//! Everything that must know a type's architecture, size or generation asks [`lookup`]; a type that is not here has
//! none of them and nobody guesses. Figures are those of AWS's "Amazon EC2 instance types" pages; the families are the
//! ones a CI job can reasonably ask for.

use std::sync::LazyLock;

use crate::launch::Arch;

#[cfg(test)]
mod tests;

/// One EC2 instance type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceType {
    /// EC2's name, such as `c7g.xlarge`.
    pub name: String,
    /// The part of the name before the dot.
    pub family: &'static str,
    /// Processor architecture.
    pub arch: Arch,
    /// Generation: the digit in the family's name.
    pub gen_: u32,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in GiB.
    pub ram_gib: u32,
    /// Whether a label or a pool may be given this type without naming it. A type too small for a job is known, so
    /// that an operator can pin a pool to it, but never chosen.
    pub selectable: bool,
}

/// Families whose memory is a fixed multiple of their vCPUs: name, architecture, generation, GiB per vCPU, sizes.
const PROPORTIONAL: &[(&str, Arch, u32, u32, &str)] = &[
    ("c7g", Arch::Arm64, 7, 2, GRAVITON_7),
    ("m7g", Arch::Arm64, 7, 4, GRAVITON_7),
    ("r7g", Arch::Arm64, 7, 8, GRAVITON_7),
    ("c8g", Arch::Arm64, 8, 2, GRAVITON_8),
    ("m8g", Arch::Arm64, 8, 4, GRAVITON_8),
    ("r8g", Arch::Arm64, 8, 8, GRAVITON_8),
    ("c6i", Arch::Amd64, 6, 2, INTEL_6),
    ("m6i", Arch::Amd64, 6, 4, INTEL_6),
    ("r6i", Arch::Amd64, 6, 8, INTEL_6),
    ("c7i", Arch::Amd64, 7, 2, INTEL_7),
    ("m7i", Arch::Amd64, 7, 4, INTEL_7),
    ("r7i", Arch::Amd64, 7, 8, INTEL_7),
    ("c6g", Arch::Arm64, 6, 2, "xlarge 2xlarge 4xlarge 8xlarge"),
];

const GRAVITON_7: &str = "medium large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge";
const GRAVITON_8: &str = "medium large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 48xlarge";
const INTEL_6: &str = "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 32xlarge";
const INTEL_7: &str = "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 48xlarge";

/// Burstable families follow no ratio: size, vCPU, GiB, selectable.
const BURSTABLE: &[(&str, u32, u32, bool)] = &[
    ("micro", 2, 1, false),
    ("small", 2, 2, false),
    ("medium", 2, 4, true),
    ("large", 2, 8, true),
    ("xlarge", 4, 16, true),
    ("2xlarge", 8, 32, true),
];

/// vCPUs of a size in the proportional families: `medium` 1, `large` 2, `xlarge` 4, `Nxlarge` 4 × N.
fn vcpu_of(size: &str) -> u32 {
    match size {
        "medium" => 1,
        "large" => 2,
        _ => size.strip_suffix("xlarge").and_then(|n| n.parse().ok()).unwrap_or(1) * 4,
    }
}

/// Sorted by name, so that a look-up is a binary search.
static TYPES: LazyLock<Vec<InstanceType>> = LazyLock::new(|| {
    let mut types = Vec::new();
    for &(family, arch, gen_, ratio, sizes) in PROPORTIONAL {
        types.extend(sizes.split(' ').map(|size| {
            let vcpu = vcpu_of(size);
            let name = format!("{family}.{size}");
            InstanceType { name, family, arch, gen_, vcpu, ram_gib: vcpu * ratio, selectable: true }
        }));
    }
    for (family, arch, gen_) in [("t4g", Arch::Arm64, 4), ("t3", Arch::Amd64, 3)] {
        types.extend(BURSTABLE.iter().map(|&(size, vcpu, ram_gib, selectable)| {
            let name = format!("{family}.{size}");
            InstanceType { name, family, arch, gen_, vcpu, ram_gib, selectable }
        }));
    }
    types.sort_by(|a, b| a.name.cmp(&b.name));
    types
});

/// Every known type, selectable or not, in order of name.
pub fn all() -> &'static [InstanceType] {
    &TYPES
}

/// The type of exactly this name.
pub fn lookup(name: &str) -> Option<&'static InstanceType> {
    let types = all();
    types.binary_search_by(|t| t.name.as_str().cmp(name)).ok().map(|at| &types[at])
}

/// Whether a family of this name has a selectable type, compared ASCII case-insensitively.
pub fn is_family(name: &str) -> bool {
    all().iter().any(|t| t.selectable && t.family.eq_ignore_ascii_case(name))
}

/// The families considered, best first, when nobody names any.
///
/// Burstable families are not among them: they are the cheapest, so any ranking by price would pick them first, and
/// a build is just the load that exhausts their CPU credits.
pub const fn default_families(arch: Option<Arch>) -> &'static [&'static str] {
    match arch {
        Some(Arch::Arm64) => &["c8g", "m8g", "r8g", "c7g", "m7g"],
        Some(Arch::Amd64) => &["c6i", "c7i", "m6i", "m7i"],
        None => &["c8g", "m8g", "r8g", "c7g", "m7g", "c6i", "c7i", "m6i", "m7i"],
    }
}

/// Bounds on a machine. Zero, `None` and empty mean "no bound"; the default value allows every default family.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bounds<'a> {
    /// Architecture.
    pub arch: Option<Arch>,
    /// Generation.
    pub gen_: u32,
    /// Fewest vCPUs.
    pub cpu_min: u32,
    /// Most vCPUs.
    pub cpu_max: u32,
    /// Least memory in GiB.
    pub ram_min: f64,
    /// Most memory in GiB.
    pub ram_max: f64,
    /// Families in order of preference, ASCII case-insensitive; unknown names match nothing. Empty:
    /// [`default_families`].
    pub families: &'a [String],
}

impl Bounds<'_> {
    /// Every selectable type within the bounds, in one fixed order: smaller first (vCPUs, then memory), then by
    /// preference of family, then by name. With no architecture the list may span both.
    pub fn resolve(&self) -> Vec<&'static InstanceType> {
        let mut found: Vec<_> = all()
            .iter()
            .filter(|t| self.allows(t))
            .filter_map(|t| Some((t.vcpu, t.ram_gib, self.preference(t.family)?, t)))
            .collect();
        found.sort_by(|a, b| (a.0, a.1, a.2, &a.3.name).cmp(&(b.0, b.1, b.2, &b.3.name)));
        found.into_iter().map(|(.., t)| t).collect()
    }

    fn allows(&self, t: &InstanceType) -> bool {
        let ram = f64::from(t.ram_gib);
        t.selectable
            && self.arch.is_none_or(|arch| arch == t.arch)
            && (self.gen_ == 0 || self.gen_ == t.gen_)
            && self.cpu_min <= t.vcpu
            && (self.cpu_max == 0 || t.vcpu <= self.cpu_max)
            && self.ram_min <= ram
            && (self.ram_max == 0.0 || ram <= self.ram_max)
    }

    fn preference(&self, family: &str) -> Option<usize> {
        if self.families.is_empty() {
            default_families(self.arch).iter().position(|name| *name == family)
        } else {
            self.families.iter().position(|name| name.eq_ignore_ascii_case(family))
        }
    }
}
