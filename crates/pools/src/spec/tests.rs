use domain::launch::Arch;

use super::*;

fn config() -> PoolConfig {
    PoolConfig { arch: Some(Arch::Arm64), ..PoolConfig::default() }
}

#[test]
fn bounds_decide_before_a_pinned_type() {
    let pinned = PoolConfig { instance_type: "t4g.micro".to_owned(), ..config() };
    assert_eq!(types(&pinned), ["t4g.micro"]);
    let bounded = PoolConfig { cpu_min: 8, cpu_max: 8, families: vec!["c8g".to_owned()], ..pinned.clone() };
    assert_eq!(types(&bounded), ["c8g.2xlarge"]);
    let nothing = PoolConfig { cpu_min: 7, cpu_max: 7, ..config() };
    assert!(types(&nothing).is_empty() && launch_spec(&"cpu".parse().unwrap(), &nothing).is_none());
    let fallback = PoolConfig { cpu_min: 7, cpu_max: 7, ..pinned };
    assert_eq!(types(&fallback), ["t4g.micro"], "of old rows that have both");
}

#[test]
fn what_is_not_said_is_as_for_labels() {
    let vcpus = |config: &PoolConfig| {
        let types = types(config);
        let of = |name: &String| domain::catalogue::lookup(name).unwrap().vcpu;
        (types.iter().map(of).min().unwrap(), types.iter().map(of).max().unwrap())
    };
    assert_eq!(vcpus(&config()), (2, 4));
    assert_eq!(vcpus(&PoolConfig { cpu_min: 4, ..config() }), (4, 8));
    assert_eq!(vcpus(&PoolConfig { cpu_max: 8, ..config() }), (2, 8));
    assert_eq!(vcpus(&PoolConfig { cpu_max: 1, ..config() }), (1, 1));
}

#[test]
fn a_pool_made_by_a_job_fits_the_job() {
    let spec = LaunchSpec {
        instance_type: "c8g.large".to_owned(),
        instance_types: vec!["c8g.large".to_owned(), "c8g.xlarge".to_owned()],
        arch: Some(Arch::Arm64),
        cpu_min: 2,
        cpu_max: 4,
        families: vec!["c8g".to_owned()],
        private: true,
        ..LaunchSpec::default()
    };
    let made = ephemeral(&spec);
    assert_eq!((made.desired_running, made.desired_stopped, made.idle_timeout_minutes), (0, 1, 30));
    assert_eq!(made.instance_type, "", "not frozen at the smallest");
    let launched = launch_spec(&"cpu".parse().unwrap(), &made).unwrap();
    assert_eq!((launched.instance_types, launched.private, launched.spot), (spec.instance_types.clone(), true, false));
    let fixed = LaunchSpec { cpu_min: 0, cpu_max: 0, ..spec };
    assert_eq!(types(&ephemeral(&fixed)), ["c8g.large"]);
}
