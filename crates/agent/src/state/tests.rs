use super::{Phase, Recovery, State, StateFile, boot_time, recovery};

#[test]
fn the_recovery_table() {
    let state = |phase| State { phase, boot_id: "now".to_owned(), ..State::default() };
    let died = |recovery: Recovery| match recovery {
        Recovery::Died(reason) => reason.split(':').next().unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(recovery(&state(None), "now"), Recovery::None);
    assert_eq!(recovery(&state(Some(Phase::Finished)), "now"), Recovery::Done);
    assert_eq!(recovery(&state(Some(Phase::Finished)), "later"), Recovery::Done, "a used disk is never used again");
    assert_eq!(recovery(&state(Some(Phase::Claimed)), "later"), Recovery::None);
    for phase in [Phase::Claimed, Phase::Running, Phase::Finishing] {
        assert_eq!(died(recovery(&state(Some(phase)), "now")), "agent_restarted");
    }
    for phase in [Phase::Running, Phase::Finishing] {
        assert_eq!(died(recovery(&state(Some(phase)), "later")), "instance_rebooted");
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
    let now = domain::clock::Timestamp::from_second(1_700_000_000).unwrap();
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
