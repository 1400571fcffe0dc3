//! Machines and the runners on them.

use std::collections::BTreeMap;

use admin::router;
use domain::ids::{JobId, RunnerId};
use domain::runner::{Runner, RunnerState};
use domain::testing::at;
use provider::{Machine, MachineState};
use serde_json::{Value, json};

use crate::{fleet, ok};

fn machine(key: &str, state: MachineState, launched: i64) -> Machine {
    Machine {
        key: key.into(),
        state,
        instance_type: "c8g.large".to_owned(),
        zone: None,
        spot: true,
        arch: None,
        image: None,
        launched_at: at(launched),
        ended_at: None,
        launch_id: None,
        tags: BTreeMap::new(),
    }
}

fn runner(key: &str, state: RunnerState) -> Runner {
    Runner {
        state,
        id: RunnerId::new(1),
        pool: "fast".parse().ok(),
        bound_job: JobId::new(3),
        running_job: (state == RunnerState::Busy).then(|| JobId::new(4)).flatten(),
        minted_at: at(5),
        online_at: Some(at(9)),
        ..domain::testing::runner(key)
    }
}

#[tokio::test]
async fn machines_and_runners_are_joined_and_neither_hides_the_other() {
    let fleet = fleet();
    fleet.machine(machine("i-busy", MachineState::Running, 30));
    fleet.machine(machine("i-bare", MachineState::Pending, 20));
    fleet.machine(machine("i-gone", MachineState::Terminated, 10));
    fleet.runner(runner("i-busy", RunnerState::Busy)).await;
    fleet.runner(runner("i-unlisted", RunnerState::Online)).await;
    fleet.runner(runner("i-old", RunnerState::Done)).await;
    let app = router(fleet.state);
    let all = ok(&app, "/api/instances").await;
    let field = |name: &str| all["instances"].as_array().unwrap().iter().map(|i| i[name].clone()).collect::<Vec<_>>();
    assert_eq!(field("instance_id"), ["i-busy", "i-bare", "i-unlisted"], "newest first");
    assert_eq!(field("state"), [json!("running"), json!("pending"), Value::Null]);
    assert_eq!(field("busy"), [true, false, false]);
    assert_eq!(field("job_id"), [json!(4), Value::Null, json!(3)], "the job it runs before the one it waits for");
    assert_eq!(field("spot"), [json!(true), json!(true), Value::Null]);
    insta::assert_json_snapshot!(all["instances"][0], @r#"
    {
      "busy": true,
      "instance_id": "i-busy",
      "instance_type": "c8g.large",
      "job_id": 4,
      "launch_time": "2026-01-01T00:00:30Z",
      "online_at": "2026-01-01T00:00:09Z",
      "pool": "fast",
      "repo": "org/repo",
      "runner_name": "runs-fleet-i-busy",
      "runner_state": "busy",
      "spot": true,
      "state": "running"
    }
    "#);
    let gone = ok(&app, "/api/instances?state=terminated").await;
    assert_eq!(gone["instances"][0]["instance_id"], "i-gone");
    let pool = ok(&app, "/api/instances?pool=fast&state=running").await;
    assert_eq!(pool["instances"].as_array().unwrap().len(), 1);
}
