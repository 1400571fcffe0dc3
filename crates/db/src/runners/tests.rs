use domain::testing::at;

use super::*;

fn full() -> Runner {
    Runner {
        key: "i-1".into(),
        version: 0,
        state: RunnerState::Busy,
        repo: "org/repo".parse().expect("valid"),
        name: "runs-fleet-1".into(),
        abandoned_names: vec!["runs-fleet-0".into()],
        id: RunnerId::new(3),
        labels: vec!["a".into(), "b".into()],
        class: ClassKey::new("class"),
        pool: "cpu".parse().ok(),
        bound_job: JobId::new(4),
        running_job: JobId::new(5),
        dispatch: DispatchId::new("d"),
        minted_at: at(0),
        online_at: Some(at(1)),
        running_since: Some(at(2)),
        interrupted_at: Some(at(3)),
        retire_at: Some(at(4)),
        report: Some(FinalReport { status: "success".into(), exit_code: -2, duration_seconds: 7, at: at(5) }),
        ttl: Some(at(99)),
    }
}

fn encode(runner: &Runner) -> Item {
    difference(None, runner).set
}

#[test]
fn every_attribute_survives_the_row() {
    assert_eq!(decode(&encode(&full())), Ok(full()));
    let bare = Runner {
        abandoned_names: vec![],
        id: None,
        pool: None,
        bound_job: None,
        running_job: None,
        online_at: None,
        running_since: None,
        interrupted_at: None,
        retire_at: None,
        report: None,
        ttl: None,
        ..full()
    };
    for state in RunnerState::ALL {
        let bare = Runner { state, ..bare.clone() };
        assert_eq!(decode(&encode(&bare)), Ok(bare));
    }
}

#[test]
fn a_row_without_state_or_repository_is_unreadable() {
    for name in ["state", "repo", "runner_key"] {
        let mut row = encode(&full());
        row.remove(name);
        assert!(decode(&row).is_err(), "{name}");
    }
}
