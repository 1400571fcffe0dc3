use super::*;

fn spec(types: &[&str], arch: Option<Arch>) -> LaunchSpec {
    LaunchSpec { instance_types: types.iter().map(|t| (*t).to_owned()).collect(), arch, ..LaunchSpec::default() }
}

fn shown(groups: &[Group]) -> Vec<(Arch, String)> {
    groups.iter().map(|group| (group.arch, group.types.join(" "))).collect()
}

#[test]
fn the_head_of_the_list_is_the_primary() {
    let named = LaunchSpec { instance_type: "r8g.large".to_owned(), ..spec(&["c8g.large", "", "c8g.large"], None) };
    assert_eq!(shown(&groups(&named, false).unwrap()), [(Arch::Arm64, "c8g.large".to_owned())]);
    let single = LaunchSpec { instance_type: "c6i.large".to_owned(), ..LaunchSpec::default() };
    assert_eq!(shown(&groups(&single, true).unwrap()), [(Arch::Amd64, "c6i.large".to_owned())]);
}

#[test]
fn what_can_never_be_launched_is_refused() {
    let refused = |spec: &LaunchSpec, spot| match groups(spec, spot) {
        Err(Error::Invalid(text)) => text,
        other => panic!("{other:?}"),
    };
    refused(&LaunchSpec::default(), true);
    let text = refused(&spec(&["c7g.large", "c6i.large"], Some(Arch::Arm64)), true);
    assert!(text.contains("c6i.large") && text.contains("amd64") && text.contains("arm64"), "{text}");
    refused(&spec(&["x9.large", "y9.large"], None), true);
    refused(&spec(&["x9.large", "c7g.large"], None), false);
}

#[test]
fn unknown_types_pass_when_the_architecture_is_given() {
    let known = groups(&spec(&["x9.large", "c7g.large"], Some(Arch::Arm64)), true).unwrap();
    assert_eq!(shown(&known), [(Arch::Arm64, "x9.large c7g.large".to_owned())]);
}

#[test]
fn either_architecture_is_two_groups_for_spot_and_the_primarys_on_demand() {
    let either = spec(&["c6i.large", "c7g.large", "x9.large", "m6i.large"], None);
    let spot = groups(&either, true).unwrap();
    assert_eq!(shown(&spot), [(Arch::Arm64, "c7g.large".into()), (Arch::Amd64, "c6i.large m6i.large".into())]);
    assert_eq!(shown(&groups(&either, false).unwrap()), [(Arch::Amd64, "c6i.large m6i.large".into())]);
}

#[test]
fn the_cheaper_group_comes_first() {
    let both = groups(&spec(&["c6i.large", "m6i.large", "c7g.large", "m7g.large"], None), true).unwrap();
    let first = |prices: &[(&str, f64)]| {
        let prices = prices.iter().map(|(name, usd)| ((*name).to_owned(), *usd)).collect();
        cheapest_first(both.clone(), &prices)[0].arch
    };
    assert_eq!(first(&[]), Arch::Arm64, "no prices");
    assert_eq!(first(&[("c6i.large", 0.03), ("c7g.large", 0.05)]), Arch::Amd64);
    assert_eq!(first(&[("c6i.large", 0.05), ("c7g.large", 0.03)]), Arch::Arm64);
    assert_eq!(first(&[("c6i.large", 0.04), ("c7g.large", 0.04)]), Arch::Arm64, "a tie");
    assert_eq!(first(&[("c6i.large", 9.0)]), Arch::Amd64, "the only one with a price");
    assert_eq!(first(&[("c6i.large", 0.02), ("m6i.large", 0.06), ("c7g.large", 0.05)]), Arch::Amd64, "averages");
}
