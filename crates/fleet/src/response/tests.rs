use super::*;
use proptest::prelude::*;

fn error(code: &str, zone: Option<&str>) -> FleetError {
    FleetError {
        code: code.to_owned(),
        message: String::new(),
        instance_type: Some("c7g.large".to_owned()),
        subnet: Some("subnet-a".to_owned()),
        zone: zone.map(str::to_owned),
    }
}

fn instance(n: u32) -> FleetInstance {
    FleetInstance {
        id: format!("i-{n:04}"),
        instance_type: "c7g.large".to_owned(),
        zone: None,
        subnet: None,
        spot: true,
    }
}

#[test]
fn missing_capacity_speaks_for_the_missing_and_else_the_worst_error() {
    let class = |codes: &[&str]| shortfall(&codes.iter().map(|c| error(c, None)).collect::<Vec<_>>()).class;
    assert_eq!(class(&[]), Class::Capacity, "an empty answer");
    assert_eq!(class(&["InternalError", "InsufficientInstanceCapacity"]), Class::Capacity);
    assert_eq!(class(&["VcpuLimitExceeded", "InvalidBlockDeviceMapping"]), Class::Quota);
    assert_eq!(class(&["UnauthorizedOperation", "InsufficientInstanceCapacity"]), Class::Capacity);
    assert_eq!(class(&["InvalidAMIID.NotFound", "InvalidBlockDeviceMapping"]), Class::Deployment);
    assert_eq!(class(&["InvalidAMIID.NotFound", "UnauthorizedOperation"]), Class::Credentials);
}

#[test]
fn only_capacity_exhausts_a_pool() {
    let places = [Place { subnet: Some("subnet-a".to_owned()), zone: Some("1a".to_owned()) }];
    let errors = [
        error("InsufficientInstanceCapacity", None),
        error("UnfulfillableCapacity", Some("1c")),
        error("InternalError", Some("1d")),
    ];
    let zones: Vec<String> = exhausted(&errors, &places).into_iter().map(|(_, zone)| zone).collect();
    assert_eq!(zones, ["1a", "1c"]);
    assert!(exhausted(&errors[..1], &[]).is_empty(), "without a zone there is no pool to name");
}

proptest! {
    #[test]
    fn every_instance_is_used_once_or_surplus(ids in proptest::collection::vec(0u32..40, 0..60), slots in 0usize..30) {
        let paired = pair(ids.iter().copied().map(instance).collect(), slots);
        let distinct: BTreeSet<_> = ids.iter().collect();
        prop_assert_eq!(paired.used.len(), distinct.len().min(slots));
        prop_assert_eq!(paired.used.len() + paired.surplus.len(), distinct.len());
        let all: Vec<_> = paired.used.iter().chain(&paired.surplus).map(|i| &i.id).collect();
        prop_assert!(all.is_sorted());
    }
}
