use std::sync::Arc;

use domain::clock::SystemClock;
use serde_json::Value;

use super::Log;

#[test]
fn a_line_is_one_object_without_secrets() {
    let log = Log::new(Arc::new(SystemClock));
    log.context("instance_id", "i-1");
    log.hide("hunter2-hunter2");
    let line = log.format("info", "runner_output", &[("line", "a\n\"hunter2-hunter2\"".into()), ("n", 3.into())]);
    assert!(!line.contains('\n') && !line.contains("hunter2"), "{line}");
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&value["event"], &value["instance_id"], &value["n"]),
        (&"runner_output".into(), &"i-1".into(), &3.into())
    );
    assert!(value["line"].as_str().unwrap().starts_with("a\n\""));
}
