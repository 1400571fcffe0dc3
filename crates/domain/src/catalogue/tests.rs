use std::collections::BTreeMap;

use super::*;

fn names(bounds: Bounds<'_>) -> Vec<&'static str> {
    bounds.resolve().into_iter().map(|t| t.name.as_str()).collect()
}

#[test]
fn a_hundred_and_twenty_types_are_selectable_and_four_are_only_known() {
    let (selectable, known): (Vec<_>, Vec<_>) = all().iter().partition(|t| t.selectable);
    assert_eq!(selectable.len(), 120);
    let mut small: Vec<_> = known.iter().map(|t| (t.name.as_str(), t.vcpu, t.ram_gib)).collect();
    small.sort_unstable();
    assert_eq!(small, [("t3.micro", 2, 1), ("t3.small", 2, 2), ("t4g.micro", 2, 1), ("t4g.small", 2, 2)]);
}

#[test]
fn sizes_per_family() {
    let mut count = BTreeMap::new();
    for t in all().iter().filter(|t| t.selectable) {
        *count.entry(t.family).or_insert(0) += 1;
    }
    let expected = [
        ("c6g", 4),
        ("c6i", 9),
        ("c7g", 8),
        ("c7i", 9),
        ("c8g", 10),
        ("m6i", 9),
        ("m7g", 8),
        ("m7i", 9),
        ("m8g", 10),
        ("r6i", 9),
        ("r7g", 8),
        ("r7i", 9),
        ("r8g", 10),
        ("t3", 4),
        ("t4g", 4),
    ];
    assert_eq!(count, BTreeMap::from(expected));
}

#[test]
fn known_types_have_their_published_figures() {
    for (name, family, arch, gen_, vcpu, ram_gib) in [
        ("c7g.medium", "c7g", Arch::Arm64, 7, 1, 2),
        ("m7g.16xlarge", "m7g", Arch::Arm64, 7, 64, 256),
        ("r8g.48xlarge", "r8g", Arch::Arm64, 8, 192, 1536),
        ("c8g.24xlarge", "c8g", Arch::Arm64, 8, 96, 192),
        ("c6i.32xlarge", "c6i", Arch::Amd64, 6, 128, 256),
        ("m7i.48xlarge", "m7i", Arch::Amd64, 7, 192, 768),
        ("r6i.12xlarge", "r6i", Arch::Amd64, 6, 48, 384),
        ("c6g.xlarge", "c6g", Arch::Arm64, 6, 4, 8),
        ("t4g.medium", "t4g", Arch::Arm64, 4, 2, 4),
        ("t3.2xlarge", "t3", Arch::Amd64, 3, 8, 32),
    ] {
        let t = lookup(name).unwrap();
        assert_eq!((t.family, t.arch, t.gen_, t.vcpu, t.ram_gib), (family, arch, gen_, vcpu, ram_gib), "{name}");
    }
}

#[test]
fn look_up_is_by_the_exact_name() {
    for t in all() {
        assert_eq!(lookup(&t.name), Some(t));
    }
    for name in ["", "c7g", "C7G.xlarge", "c7g.xlarge ", "c7g.24xlarge", "c6g.large", "m5.large", "c6i.medium"] {
        assert_eq!(lookup(name), None, "{name:?}");
    }
    assert!(is_family("C7G") && is_family("t3") && !is_family("m5") && !is_family(""));
}

#[test]
fn the_order_is_size_then_preference_then_name() {
    let families = ["m7g".to_owned(), "C7G".to_owned()];
    let bounds = Bounds { cpu_min: 4, cpu_max: 8, families: &families, ..Bounds::default() };
    assert_eq!(names(bounds), ["c7g.xlarge", "m7g.xlarge", "c7g.2xlarge", "m7g.2xlarge"]);
    // Equal vCPU and equal memory: only the preference tells them apart.
    let families = ["t3".to_owned(), "t4g".to_owned()];
    let bounds = Bounds { cpu_max: 2, families: &families, ..Bounds::default() };
    assert_eq!(names(bounds), ["t3.medium", "t4g.medium", "t3.large", "t4g.large"]);
}

#[test]
fn unnamed_families_mean_the_defaults_of_the_architecture() {
    let of = |arch| names(Bounds { arch, cpu_min: 4, cpu_max: 4, ..Bounds::default() });
    assert_eq!(of(Some(Arch::Arm64)), ["c8g.xlarge", "c7g.xlarge", "m8g.xlarge", "m7g.xlarge", "r8g.xlarge"]);
    assert_eq!(of(Some(Arch::Amd64)), ["c6i.xlarge", "c7i.xlarge", "m6i.xlarge", "m7i.xlarge"]);
    let both = "c8g c7g c6i c7i m8g m7g m6i m7i r8g";
    assert_eq!(of(None), both.split(' ').map(|f| format!("{f}.xlarge")).collect::<Vec<_>>());
}

#[test]
fn too_small_types_are_never_chosen() {
    let families = ["t3".to_owned(), "t4g".to_owned()];
    assert!(!names(Bounds { families: &families, ..Bounds::default() }).iter().any(|n| n.ends_with("micro")));
    assert!(names(Bounds { families: &families, ram_max: 2.0, ..Bounds::default() }).is_empty());
}

#[test]
fn every_default_family_exists_for_its_architecture() {
    for arch in [Some(Arch::Arm64), Some(Arch::Amd64), None] {
        for family in default_families(arch) {
            assert!(is_family(family));
            assert!(all().iter().any(|t| t.family == *family && arch.is_none_or(|a| a == t.arch)));
        }
    }
}
