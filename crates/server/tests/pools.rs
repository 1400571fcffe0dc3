//! `pools` on the directory of a local run: what is refused, what is saved, what a pass would do, what goes.

#![cfg(feature = "local")]
#![allow(clippy::disallowed_methods, reason = "tests, against a real clock")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use support::{program, run, text};

fn pools(dir: &Path, arguments: &[&str]) -> Output {
    run(program().arg("pools").args(arguments).arg("--dir").arg(dir))
}

fn shown(dir: &Path, arguments: &[&str]) -> Value {
    let output = pools(dir, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn refusal(dir: &Path, arguments: &[&str]) -> String {
    let output = pools(dir, arguments);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[test]
fn a_pool_is_made_changed_foreseen_and_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();

    // Everything that is wrong is said at once, and nothing is saved.
    let wrong = refusal(dir, &["set", "web", "--running", "501", "--cpu", "8-4", "--families", "x9"]);
    for part in ["at most 500 running spares", "from 8 to 4", "no instance family is called x9"] {
        assert!(wrong.contains(part), "{part}: {wrong}");
    }
    assert_eq!(shown(dir, &["list"]), json!({ "pools": [] }));

    let schedules = r#"[{"name": "night", "start_hour": 22, "end_hour": 6, "days_of_week": [7]}]"#;
    assert!(refusal(dir, &["set", "web", "--schedules", schedules]).contains("schedule night: its days"));

    let made = ["set", "web", "--running", "2", "--stopped", "1", "--arch", "arm64", "--cpu", "4-8", "--max-hot", "0"];
    let made = shown(dir, &made);
    assert_eq!(
        (&made["desired_running"], &made["desired_stopped"], &made["arch"]),
        (&json!(2), &json!(1), &json!("arm64"))
    );
    assert_eq!((&made["effective_desired_running"], &made["override_max_hot"]), (&Value::Null, &json!(0)));

    // What is not mentioned stays.
    let changed = shown(dir, &["set", "web", "--stopped", "3", "--max-hot", "auto"]);
    assert_eq!((&changed["desired_running"], &changed["desired_stopped"]), (&json!(2), &json!(3)));
    assert_eq!(
        (&changed["cpu_min"], &changed["cpu_max"], &changed["override_max_hot"]),
        (&json!(4), &json!(8), &Value::Null)
    );
    assert_eq!(shown(dir, &["show", "web"]), changed);

    let plan = shown(dir, &["plan", "web"]);
    let expected = json!([
        { "action": "create", "count": 2, "reason": "ready_deficit" },
        { "action": "create", "count": 3, "reason": "stopped_replenish" },
    ]);
    assert_eq!(plan["actions"], expected);
    assert_eq!(shown(dir, &["plan", "web"]), plan, "nothing was done");

    assert!(refusal(dir, &["delete", "web"]).contains("an operator's pool"));
    assert!(refusal(dir, &["delete", "web", "--force"]).contains("its targets are not 0"));
    shown(dir, &["set", "web", "--running", "0", "--stopped", "0"]);
    assert_eq!(shown(dir, &["delete", "web", "--force"])["deleted"], json!(true));
    for gone in [["show", "web"], ["plan", "web"], ["delete", "web"]] {
        assert!(refusal(dir, &gone).contains("there is no pool web"));
    }
}
