use std::collections::BTreeMap as Tags;

use domain::testing::at;
use provider::{Machine, MachineState};

use super::*;

const NAME: &str = "runs-fleet-runner-cpu-000007-0123456789abcdef0";

fn row(state: RunnerState) -> Runner {
    Runner {
        state,
        name: NAME.to_owned(),
        abandoned_names: vec!["lost".to_owned()],
        ..domain::testing::runner("i-0123456789abcdef0")
    }
}

fn alive() -> Existence {
    Existence::Alive(Box::new(Machine {
        key: "i-0123456789abcdef0".into(),
        state: MachineState::Running,
        instance_type: String::new(),
        zone: None,
        spot: false,
        arch: None,
        image: None,
        launched_at: at(0),
        ended_at: None,
        launch_id: None,
        tags: Tags::new(),
    }))
}

#[test]
fn a_registration_ends_by_age_or_by_what_else_is_known() {
    let hours = |n: u64| Duration::from_secs(3600 * n);
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let (minted, done) = (row(RunnerState::Minted), row(RunnerState::Done));
    let gone = || Existence::Gone(None);
    for (what, name, seen, row, machines, expected) in [
        ("for nine hours", NAME, hours(9), Some(&minted), vec![alive()], Verdict::Act),
        ("for nine hours, of nobody", NAME, hours(9), None, vec![], Verdict::Act),
        ("it boots", NAME, minutes(12), Some(&minted), vec![alive()], Verdict::Keep),
        ("first seen", NAME, minutes(0), None, vec![gone()], Verdict::Keep),
        ("its machine is gone", NAME, minutes(12), None, vec![gone()], Verdict::Act),
        ("its machine is gone, its row not yet", NAME, minutes(12), Some(&minted), vec![gone()], Verdict::Act),
        ("nobody knows its machine", NAME, minutes(12), None, vec![Existence::Unknown], Verdict::Unknown),
        ("it names no machine", NAME, hours(2), None, vec![], Verdict::Unknown),
        ("one of two is alive", NAME, minutes(12), None, vec![gone(), alive()], Verdict::Keep),
        ("its runner is done", NAME, minutes(12), Some(&done), vec![alive()], Verdict::Act),
        ("its runner is done, just now", NAME, minutes(9), Some(&done), vec![alive()], Verdict::Keep),
        ("a mint that was lost", "lost", minutes(12), Some(&minted), vec![alive()], Verdict::Act),
    ] {
        assert_eq!(verdict(name, seen, row, &machines, hours(8)), expected, "{what}");
    }
}

#[test]
fn only_names_of_ours_are_touched() {
    assert!(is_ours(NAME) && is_ours("runs-fleet-i-0123456789abcdef0"));
    assert!(!is_ours("runs-fleet-runner") && !is_ours("build-box") && !is_ours("my-runs-fleet-runner-1"));
}
