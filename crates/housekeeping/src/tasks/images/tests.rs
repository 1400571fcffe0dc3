use domain::testing::at;
use provider::tags;

use super::*;

fn machine(key: &str, state: MachineState, launched: i64) -> Machine {
    Machine {
        key: key.into(),
        state,
        instance_type: "c8g.large".to_owned(),
        zone: None,
        spot: false,
        arch: Some(Arch::Arm64),
        image: Some("ami-old".to_owned()),
        launched_at: at(launched),
        ended_at: None,
        launch_id: None,
        tags: BTreeMap::from([(tags::POOL.to_owned(), "cpu".to_owned())]),
    }
}

#[test]
fn the_oldest_outdated_spare_of_each_pool_is_replaced() {
    let stopped = |key, launched| machine(key, MachineState::Stopped, launched);
    let of = |pool: &str, machine: Machine| Machine {
        tags: BTreeMap::from([(tags::POOL.to_owned(), pool.to_owned())]),
        ..machine
    };
    let machines = [
        stopped("younger", 20),
        stopped("oldest", 10),
        of("gpu", stopped("of another pool", 30)),
        Machine { image: Some("ami-new".to_owned()), ..stopped("up to date", 0) },
        Machine { image: None, ..stopped("who knows its image", 0) },
        Machine { arch: None, ..stopped("who knows its architecture", 0) },
        Machine { arch: Some(Arch::Amd64), ..stopped("who knows the reference", 0) },
        Machine { tags: BTreeMap::new(), ..stopped("of no pool", 0) },
        machine("running", MachineState::Running, 0),
        machine("stopping", MachineState::Stopping, 0),
    ];
    let current = BTreeMap::from([(Arch::Arm64, "ami-new".to_owned())]);
    let (stale, more) = outdated(&machines, &current);
    assert_eq!(stale.iter().map(|m| m.key.as_str()).collect::<Vec<_>>(), ["oldest", "of another pool"]);
    assert_eq!(more, 1);
    assert_eq!(outdated(&machines, &BTreeMap::new()).0, Vec::<&Machine>::new(), "no reference, no opinion");
}

#[test]
fn a_builder_has_an_hour() {
    let now = at(7200);
    assert!(is_left_behind(&machine("i", MachineState::Stopped, 3599), now));
    assert!(!is_left_behind(&machine("i", MachineState::Running, 3600), now));
    assert!(!is_left_behind(&machine("i", MachineState::Terminated, 0), now));
}

#[test]
fn a_request_is_pointless_when_its_machine_is_certainly_gone() {
    let request = |machine: &str| SpotRequest { id: "sir-1".to_owned(), machine: machine.into() };
    let alive = Existence::Alive(Box::new(machine("alive", MachineState::Running, 0)));
    let existence = BTreeMap::from([
        ("gone".into(), Existence::Gone(None)),
        ("alive".into(), alive),
        ("unknown".into(), Existence::Unknown),
    ]);
    assert_eq!(is_pointless(&request("gone"), &existence), Verdict::Act);
    assert_eq!(is_pointless(&request("alive"), &existence), Verdict::Keep);
    assert_eq!(is_pointless(&request("unknown"), &existence), Verdict::Unknown);
    assert_eq!(is_pointless(&request("never asked after"), &existence), Verdict::Unknown);
}
