use serde_json::{Value, json};

use super::*;

/// As the Go implementation writes it for a cold start: registration token, no newer fields.
const GO: &str = r#"{"org":"org","repo":"org/repo","run_id":"67890","jit_token":"reg-secret",
    "labels":["runs-fleet=67890/runner=4cpu-linux-arm64"],"runner_group":"default","job_id":"12345",
    "cache_token":"cache-secret","cache_url":"https://cache.example","is_org":false,
    "termination_queue_url":"https://queue.example/termination.fifo","created_at":"2025-12-26T10:00:00.25Z"}"#;

fn full() -> HandOver {
    HandOver {
        org: "org".into(),
        repo: "org/repo".into(),
        run_id: "67890".into(),
        jit_token: Credential::new("reg-secret"),
        jit_config: Credential::new("jit-secret"),
        labels: vec!["linux".into(), "runs-fleet/cpu=4".into()],
        runner_group: "group".into(),
        runner_name: "runs-fleet-i-0abc-n1".into(),
        job_id: "12345".into(),
        cache_token: Credential::new("cache-secret"),
        cache_url: "https://cache.example".into(),
        termination_queue_url: "https://queue.example".into(),
        telemetry_token: Credential::new("telemetry-secret"),
        is_org: true,
        created_at: Some("2025-12-26T10:00:00Z".parse().unwrap()),
        instance_id: "i-0abc".into(),
        dispatch_id: "d".into(),
        server_url: "https://github.example".into(),
        max_runtime_minutes: Some(360),
        idle_exit_seconds: Some(600),
        buildkit_cache_bucket: "b".into(),
        buildkit_cache_region: "r".into(),
        buildkit_cache_prefix: "p".into(),
        runner_logs_bucket: "lb".into(),
        runner_logs_prefix: "lp".into(),
    }
}

#[test]
fn a_document_survives_being_written_and_read() {
    for document in [full(), HandOver::default()] {
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(serde_json::from_str::<HandOver>(&text).unwrap(), document);
    }
}

#[test]
fn only_what_old_agents_rely_on_is_written_when_empty() {
    assert_eq!(
        serde_json::to_value(HandOver::default()).unwrap(),
        json!({"org": "", "repo": "", "run_id": "", "jit_token": "", "labels": []})
    );
    let names = [
        "org",
        "repo",
        "run_id",
        "jit_token",
        "jit_config",
        "labels",
        "runner_group",
        "runner_name",
        "job_id",
        "cache_token",
        "cache_url",
        "termination_queue_url",
        "telemetry_token",
        "is_org",
        "created_at",
        "instance_id",
        "dispatch_id",
        "server_url",
        "max_runtime_minutes",
        "idle_exit_seconds",
        "buildkit_cache_bucket",
        "buildkit_cache_region",
        "buildkit_cache_prefix",
        "runner_logs_bucket",
        "runner_logs_prefix",
    ];
    let Value::Object(written) = serde_json::to_value(full()).unwrap() else { panic!("not an object") };
    let mut missing: Vec<_> = names.iter().filter(|name| !written.contains_key(**name)).collect();
    missing.sort();
    assert_eq!((missing, written.len()), (vec![], names.len()));
}

#[test]
fn a_document_of_the_go_implementation_reads() {
    let document: HandOver = serde_json::from_str(GO).unwrap();
    assert_eq!(document.jit_token.expose(), "reg-secret");
    assert!(document.jit_config.is_empty());
    assert_eq!(document.cache_token.expose(), "cache-secret");
    assert_eq!(document.labels, ["runs-fleet=67890/runner=4cpu-linux-arm64"]);
    assert_eq!((document.run_id.as_str(), document.job_id.as_str()), ("67890", "12345"));
    assert_eq!(document.created_at, Some("2025-12-26T10:00:00.25Z".parse().unwrap()));
    assert_eq!((document.max_runtime_minutes, document.idle_exit_seconds), (None, None));
}

#[test]
fn fields_of_a_newer_release_are_ignored_and_gos_empty_list_is_empty() {
    let document: HandOver =
        serde_json::from_str(r#"{"org":"org","labels":null,"jit_config":null,"of_the_future":{"a":[1]}}"#).unwrap();
    assert_eq!(document, HandOver { org: "org".into(), ..HandOver::default() });
}

#[test]
fn no_credential_is_ever_printed() {
    let printed = format!("{:?} {:#?}", full(), full());
    assert!(printed.contains("runs-fleet-i-0abc-n1"), "the rest is printed");
    assert!(!printed.contains("secret"), "{printed}");
}
