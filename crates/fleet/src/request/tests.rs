use domain::ids::JobId;
use proptest::prelude::*;

use provider::compute::Members;

use super::*;
use crate::candidates;

fn facts(types: &[&str], zones: usize) -> Facts {
    let types = types.iter().map(|t| (*t).to_owned()).collect();
    Facts {
        groups: vec![Group { arch: Arch::Arm64, types }],
        places: (0..zones)
            .map(|n| Place { subnet: Some(format!("subnet-{n}")), zone: Some(format!("z{n}")) })
            .collect(),
        ..Facts::default()
    }
}

fn order(spec: LaunchSpec, slots: u64) -> Order {
    let slot = |job| Slot { job: JobId::new(job).unwrap(), run: None, repo: "org/app".parse().unwrap() };
    Order {
        launch_id: "rf1-abc".into(),
        spec,
        spot: true,
        members: Members::Jobs((1..=slots).map(slot).collect()),
        until: tokio::time::Instant::now(),
    }
}

fn overrides(types: usize, zones: usize, spot: bool) -> Vec<Override> {
    let names: Vec<String> = (0..types).map(|n| format!("t{n}.large")).collect();
    let facts = facts(&names.iter().map(String::as_str).collect::<Vec<_>>(), zones);
    let spec = LaunchSpec::default();
    let groups = candidates(&spec, &facts, spot).unwrap();
    build(&order(spec, 1), &groups, spot, &Settings::default()).remove(0).overrides
}

#[test]
fn zones_matter_more_than_types() {
    assert_eq!(overrides(25, 1, true).len(), 25);
    assert_eq!(overrides(30, 3, true).len(), 60);
    let many = overrides(10, 70, true);
    assert_eq!((many.len(), many.iter().all(|o| o.instance_type == "t0.large")), (70, true));
    assert_eq!(overrides(10, 400, true).len(), OVERRIDE_LIMIT);
    let first = &overrides(30, 3, true)[..21];
    assert!(first[..20].iter().all(|o| o.subnet.as_deref() == Some("subnet-0")), "subnets outside, types inside");
    assert!(first.iter().all(|o| o.priority.is_none()), "spot has no priorities");
}

#[test]
fn on_demand_is_the_type_asked_for_everywhere_then_up_to_four_more() {
    let chosen = overrides(9, 3, false);
    let ranks: Vec<_> = chosen.iter().map(|o| (o.instance_type.as_str(), o.priority)).collect();
    assert_eq!(ranks.len(), 15);
    assert!(ranks[..3].iter().all(|rank| *rank == ("t0.large", Some(0))));
    assert_eq!(ranks[14], ("t4.large", Some(4)));
}

#[test]
fn templates_are_named_by_architecture_or_windows() {
    for (os, arch, name) in [
        ("", Arch::Arm64, "base-arm64"),
        ("linux", Arch::Amd64, "base-amd64"),
        ("darwin", Arch::Arm64, "base-arm64"),
        ("windows", Arch::Arm64, "base-windows"),
    ] {
        assert_eq!(template("base", os, arch), name);
    }
}

#[test]
fn storage_is_on_every_override_and_has_limits() {
    let with = |os: &str, gib| LaunchSpec { os: os.to_owned(), storage_gib: gib, ..LaunchSpec::default() };
    for spot in [true, false] {
        let spec = with("linux", 100);
        let groups = candidates(&spec, &facts(&["a.large", "b.large"], 2), spot).unwrap();
        let requests = build(&order(spec, 1), &groups, spot, &Settings::default());
        let volume = Some(Volume { device: "/dev/xvda".to_owned(), gib: 100 });
        assert!(requests[0].overrides.iter().all(|o| o.volume == volume));
    }
    assert_eq!(volume(&with("windows", 30)).unwrap().unwrap().device, "/dev/sda1");
    assert_eq!(volume(&with("", 0)), Ok(None));
    assert!(matches!(volume(&with("", 16_385)), Err(Error::Invalid(_))));
}

#[test]
fn pairs_that_are_not_offered_are_left_out() {
    let mut known = facts(&["a.large", "b.large", "c.large"], 2);
    let offered = [("a.large", "z0"), ("b.large", "z1"), ("b.large", "z0")];
    known.offerings = Some(Offerings::new(offered.map(|(t, z)| (t.to_owned(), z.to_owned()))));
    let shown = |known: &Facts| {
        let groups = candidates(&LaunchSpec::default(), known, true)?;
        let pairs = groups[0].1.iter().map(|c| (c.request.instance_type.clone(), c.zone.clone().unwrap_or_default()));
        Ok::<_, Error>(pairs.collect::<Vec<_>>())
    };
    let pair = |t: &str, z: &str| (t.to_owned(), z.to_owned());
    assert_eq!(shown(&known).unwrap(), [pair("a.large", "z0"), pair("b.large", "z0"), pair("b.large", "z1")]);
    known.offerings = Some(Offerings::new([pair("x.large", "z0")]));
    assert!(matches!(shown(&known), Err(Error::Invalid(_))), "nothing is left");
}

#[test]
fn exhausted_pools_are_avoided_unless_nothing_else_is_left() {
    let mut known = facts(&["a.large", "b.large"], 2);
    let pools = |known: &Facts| {
        let groups = candidates(&LaunchSpec::default(), known, true).unwrap();
        groups[0].1.iter().map(|c| (c.request.instance_type.clone(), c.zone.clone().unwrap())).collect::<Vec<Pool>>()
    };
    let all = pools(&known);
    known.exhausted = BTreeSet::from([all[0].clone(), all[3].clone()]);
    assert_eq!(pools(&known), [all[1].clone(), all[2].clone()]);
    known.exhausted = all.iter().cloned().collect();
    assert_eq!(pools(&known), all);
}

#[test]
fn each_architecture_is_a_request_of_its_own() {
    let spec =
        LaunchSpec { instance_types: vec!["c7g.large".to_owned(), "c6i.large".to_owned()], ..LaunchSpec::default() };
    let known = Facts { groups: candidates::groups(&spec, true).unwrap(), ..facts(&[], 1) };
    let groups = candidates(&spec, &known, true).unwrap();
    let settings = Settings { launch_template: "base".to_owned(), ..Settings::default() };
    let requests = build(&order(spec, 3), &groups, true, &settings);
    let shown: Vec<_> =
        requests.iter().map(|r| (r.client_token.as_str(), r.launch_template.as_str(), r.capacity)).collect();
    assert_eq!(shown, [("rf1-abc", "base-arm64", 3), ("rf1-abc-2", "base-amd64", 3)]);
}

fn catalogue_types() -> impl Strategy<Value = Vec<String>> {
    let names: Vec<String> = domain::catalogue::all().iter().map(|t| t.name.clone()).collect();
    proptest::collection::vec(proptest::sample::select(names), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_request_is_one_ec2_takes(
        types in catalogue_types(),
        zones in proptest::collection::vec(proptest::option::of(0u8..6), 0..350),
        spot in any::<bool>(),
        storage_gib in 0u32..200,
        slots in 1u64..60,
        exhausted in 0usize..20,
    ) {
        let configured: Vec<String> = (0..zones.len()).map(|n| format!("subnet-{n}")).collect();
        let known: Vec<_> = configured.iter().zip(&zones).filter_map(|(id, zone)| Some(crate::ec2::Subnet {
            id: id.clone(), zone: format!("z{}", (*zone)?), free_addresses: 5,
        })).collect();
        let spec = LaunchSpec { instance_types: types.clone(), storage_gib, ..LaunchSpec::default() };
        let exhausted = types.iter().take(exhausted).map(|t| (t.clone(), "z0".to_owned())).collect();
        let facts = Facts {
            groups: candidates::groups(&spec, spot).unwrap(),
            places: crate::subnets::places(&configured, &known),
            exhausted,
            ..Facts::default()
        };
        let order = order(spec.clone(), slots);
        let made = || candidates(&spec, &facts, spot).map(|groups| build(&order, &groups, spot, &Settings::default()));
        let requests = made().unwrap();
        prop_assert!(!requests.is_empty() && requests.len() <= 2);
        prop_assert_eq!(&made().unwrap(), &requests, "the same input gives the same requests");
        for request in &requests {
            prop_assert!(!request.overrides.is_empty() && request.overrides.len() <= OVERRIDE_LIMIT);
            prop_assert!(request.overrides.iter().all(|o| o.subnet.as_deref() != Some("")));
            prop_assert!(request.client_token.len() <= 64);
            prop_assert_eq!(u64::from(request.capacity), slots);
            let distinct: BTreeSet<_> = request.overrides.iter().map(|o| (&o.instance_type, &o.subnet)).collect();
            prop_assert_eq!(distinct.len(), request.overrides.len(), "no pool twice");
            let archs: BTreeSet<_> = request.overrides.iter()
                .filter_map(|o| domain::catalogue::lookup(&o.instance_type)).map(|t| t.arch).collect();
            prop_assert!(archs.len() <= 1, "never two architectures");
        }
    }
}
