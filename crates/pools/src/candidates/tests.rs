use MachineState::{Pending, Running, Stopped, Stopping};
use domain::launch::Arch;
use provider::tags;

use super::*;
use crate::testing::{machine, now, tagged};

fn spec() -> LaunchSpec {
    LaunchSpec {
        instance_types: vec!["c8g.large".to_owned(), "c8g.xlarge".to_owned()],
        arch: Some(Arch::Arm64),
        cpu_min: 2,
        cpu_max: 4,
        ..LaunchSpec::default()
    }
}

fn names(machines: &[Machine], busy: Option<&[&str]>, hot: bool, spec: &LaunchSpec) -> Vec<String> {
    let busy: Option<BTreeSet<RunnerKey>> = busy.map(|keys| keys.iter().map(|key| RunnerKey::from(*key)).collect());
    let config = PoolConfig::default();
    let spares = Spares { config: &config, machines, busy: busy.as_ref(), hot };
    let found = candidates(&spares, spec, &Times::PRODUCTION, now());
    found.into_iter().map(|machine| machine.key.to_string()).collect()
}

fn of(key: &str, state: MachineState, instance_type: &str) -> Machine {
    Machine { instance_type: instance_type.to_owned(), ..machine(key, state, 1000) }
}

#[test]
fn running_spares_come_first_where_they_are_kept_then_the_smallest() {
    let machines = [
        of("s-big", Stopped, "c8g.xlarge"),
        of("s-small", Stopped, "c8g.large"),
        of("r-big", Running, "c8g.xlarge"),
        of("r-small", Running, "c8g.large"),
        of("p", Pending, "c8g.large"),
        of("g", Stopping, "c8g.large"),
    ];
    assert_eq!(names(&machines, Some(&[]), true, &spec()), ["r-small", "r-big", "s-small", "s-big"]);
    assert_eq!(names(&machines, Some(&[]), false, &spec()), ["s-small", "s-big"]);
    assert_eq!(names(&machines, None, true, &spec()), ["s-small", "s-big"], "nobody could say who is busy");
    assert_eq!(names(&machines, Some(&["r-small", "s-small"]), true, &spec()), ["r-big", "s-big"]);
}

#[test]
fn a_running_machine_that_is_no_spare_is_not_offered() {
    let running = |key| machine(key, Running, 1000);
    let machines = [
        tagged(running("assigned"), tags::ASSIGNED, "true"),
        tagged(running("launched-for-a-job"), tags::LAUNCH_ID, "l"),
        tagged(running("reclaimed"), tags::INTERRUPTED, "true"),
        Machine { spot: true, ..running("spot") },
        machine("expired", Running, 6600),
        machine("old", Running, 6599),
    ];
    assert_eq!(names(&machines, Some(&[]), true, &spec()), ["old"]);
}

#[test]
fn a_machine_must_be_what_the_job_asks_for() {
    let fits = |instance_type: &str, spec: &LaunchSpec| {
        !names(&[of("i", Stopped, instance_type)], Some(&[]), false, spec).is_empty()
    };
    assert!(fits("c8g.large", &spec()) && fits("m7g.xlarge", &spec()) && fits("t4g.large", &spec()));
    assert!(!fits("c8g.2xlarge", &spec()), "too large");
    assert!(!fits("c6i.large", &spec()), "another architecture");
    assert!(!fits("x9.huge", &spec()), "unknown");
    assert!(fits("c6i.large", &LaunchSpec { arch: None, ..spec() }), "either will do");
    assert!(!fits("m7g.xlarge", &LaunchSpec { families: vec!["C8g".to_owned()], ..spec() }));
    assert!(!fits("m7g.xlarge", &LaunchSpec { gen_: 8, ..spec() }));
    assert!(!fits("m7g.xlarge", &LaunchSpec { ram_max: 8.0, ..spec() }));
    assert!(!fits("m7g.xlarge", &LaunchSpec { ram_min: 16.5, ..spec() }));
    let fixed = LaunchSpec { instance_types: vec!["x9.huge".to_owned()], ..LaunchSpec::default() };
    assert!(fits("x9.huge", &fixed) && !fits("c8g.large", &fixed));
    assert!(fits("x9.huge", &LaunchSpec::default()), "nothing was asked for");
    for other in [
        LaunchSpec { storage_gib: 100, ..spec() },
        LaunchSpec { os: "windows".to_owned(), ..spec() },
        LaunchSpec { private: true, ..spec() },
    ] {
        assert!(!fits("c8g.large", &other), "{other:?}");
    }
}
