use domain::clock::Timestamp;

use super::{Phase, Recovery, State, StateFile, boot_time, recovery};

#[test]
fn the_recovery_table() {
    let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
    let (same, rebooted, later) = (("now", None), ("later", Some(at(180))), ("later", Some(at(181))));
    let unknown = ("later", None);
    use Phase::{Claimed, Finished, Finishing, Running};
    let rows = [
        (None, same, "nothing"),
        (None, later, "nothing"),
        (Some(Finished), same, "done"),
        (Some(Finished), later, "done"),
        (Some(Claimed), same, "agent_restarted"),
        (Some(Claimed), rebooted, "nothing"),
        (Some(Claimed), later, "nothing"),
        (Some(Running), same, "agent_restarted"),
        (Some(Running), rebooted, "instance_rebooted"),
        (Some(Running), later, "tainted"),
        (Some(Running), unknown, "tainted"),
        (Some(Finishing), same, "unreported"),
        (Some(Finishing), rebooted, "unreported"),
        (Some(Finishing), later, "tainted"),
    ];
    for (phase, (boot_id, booted), expected) in rows {
        let state = State {
            phase,
            boot_id: "now".to_owned(),
            heartbeat_at: Some(at(0)),
            completion: (phase == Some(Finishing)).then(|| "{}".to_owned()),
            ..State::default()
        };
        let found = match recovery(&state, boot_id, booted) {
            Recovery::None => "nothing",
            Recovery::Done => "done",
            Recovery::Unreported(_) => "unreported",
            Recovery::Died(reason) => reason.split(':').next().unwrap(),
            Recovery::Tainted => "tainted",
        };
        assert_eq!(found, expected, "{phase:?} {boot_id} {booted:?}");
    }
}

#[test]
fn the_file_is_whole_private_and_readable_again() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = StateFile::open(&dir.path().join("state")).unwrap();
    assert_eq!(file.read().unwrap(), State::default());
    let state = State { phase: Some(Phase::Running), consumed: vec!["x".to_owned()], ..State::default() };
    file.write(&state).unwrap();
    assert_eq!(file.read().unwrap(), state);
    let path = dir.path().join("state/state.json");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&path, "{").unwrap();
    assert!(file.read().is_err(), "broken content is not the same as none");
}

#[test]
fn the_kernel_says_when_it_started_or_nothing() {
    let now = Timestamp::from_second(1_700_000_000).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let boot = |uptime: &str| {
        std::fs::write(dir.path().join("uptime"), uptime).unwrap();
        boot_time(dir.path(), now).map(|at| at.as_second())
    };
    assert_eq!(boot("100.00 50.00\n"), Some(1_699_999_900));
    for unknown in ["", "0.00 0.00", "-1 0", "nan 0", "1e300 0"] {
        assert_eq!(boot(unknown), None, "{unknown}");
    }
    assert_eq!(boot_time(&dir.path().join("none"), now), None);
}
