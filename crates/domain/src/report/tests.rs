use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::clock::Timestamp;
use crate::wire::Reason;

const STARTED: &str = r#"{"instance_id":"i-0abc1234def567890","job_id":"12345","status":"started","exit_code":0,"duration_seconds":0,
    "started_at":"2025-12-26T10:00:41.52Z","completed_at":"0001-01-01T00:00:00Z",
    "bootstrap_boot_seconds":11.2,"bootstrap_config_seconds":0.8,"bootstrap_total_seconds":19.4,
    "bootstrap_runner_seconds":0,"bootstrap_register_seconds":-1}"#;
const SUCCESS: &str = r#"{"instance_id":"i-0abc1234def567890","job_id":"12345","status":"success","exit_code":0,
    "duration_seconds":312,"started_at":"2025-12-26T12:00:41+02:00","completed_at":"2025-12-26T10:05:53.123456789Z",
    "cache_interception":"engaged","tool_cache_misses":["Python/3.12.1/x64"],"cache_bytes_written":77}"#;
const BOOTSTRAP: &str =
    r#"{"instance_id":"i-0abc1234def567890","status":"bootstrap_failed","error":" Runner image not found\n"}"#;

fn base() -> Value {
    json!({"instance_id": "i-0abc1234", "job_id": "12345", "status": "success"})
}

fn with(field: &str, value: Value) -> String {
    let mut report = base();
    report[field] = value;
    report.to_string()
}

fn plain(status: AgentStatus) -> AgentReport {
    let job_id = JobId::new(12345);
    AgentReport { job_id, ..AgentReport::new("i-0abc1234".into(), status) }
}

#[test]
fn reports_of_go_agents_decode() {
    let (started, warnings) = AgentReport::decode(STARTED).unwrap();
    assert_eq!(warnings, [""; 0]);
    assert_eq!((started.status, started.job_id), (AgentStatus::Started, JobId::new(12345)));
    assert_eq!(started.started_at, Some("2025-12-26T10:00:41.52Z".parse().unwrap()));
    assert_eq!(started.completed_at, None, "Go's zero time is no time");
    let bootstrap = Bootstrap { boot: Some(11.2), config: Some(0.8), runner: None, register: None, total: Some(19.4) };
    assert_eq!(started.bootstrap, bootstrap);

    let (success, _) = AgentReport::decode(SUCCESS).unwrap();
    assert_eq!((success.status, success.duration_seconds), (AgentStatus::Success, 312));
    assert_eq!(success.started_at, Some("2025-12-26T10:00:41Z".parse().unwrap()));
    assert_eq!(success.completed_at, Some("2025-12-26T10:05:53.123456789Z".parse().unwrap()));
    assert_eq!(success.cache_interception.as_deref(), Some("engaged"));
    assert_eq!(success.tool_cache_misses, ["Python/3.12.1/x64"]);
    assert_eq!(success.cache_bytes_written, Some(77));

    let (bootstrap, _) = AgentReport::decode(BOOTSTRAP).unwrap();
    let mut want = AgentReport::new("i-0abc1234def567890".into(), AgentStatus::BootstrapFailed);
    want.error = Some("Runner image not found".into());
    assert_eq!(bootstrap, want);
}

#[test]
fn poison_is_named() {
    use Reason::*;
    let cases: &[(String, Reason)] = &[
        (String::new(), EmptyBody),
        ("[1]".into(), NotObject),
        ("{]".into(), InvalidJson),
        ("{}".into(), MissingInstanceId),
        (with("instance_id", json!(" ")), MissingInstanceId),
        (with("instance_id", json!(7)), MissingInstanceId),
        (with("instance_id", json!("i-0ABC")), BadValue),
        (with("instance_id", json!("../i-0abc")), BadValue),
        (with("instance_id", json!("x".repeat(64))), BadValue),
        (with("status", json!("")), MissingStatus),
        (with("status", Value::Null), MissingStatus),
        (with("job_id", json!("")), MissingJobId),
        (with("job_id", Value::Null), MissingJobId),
        (with("job_id", json!("0")), BadValue),
        (with("job_id", json!("-1")), BadValue),
        (with("job_id", json!("+1")), BadValue),
        (with("job_id", json!("12a")), BadValue),
        (with("job_id", json!("9223372036854775808")), BadValue),
        (with("job_id", json!(0)), BadValue),
        (with("job_id", json!(1.5)), BadValue),
        (with("job_id", json!(["1"])), BadValue),
        (with("job_id", json!(true)), BadValue),
    ];
    for (body, reason) in cases {
        assert_eq!(AgentReport::decode(body).map_err(|p| p.reason).map(|_| ()), Err(*reason), "{body}");
    }
}

#[test]
fn machine_keys_and_job_ids_of_every_writer_are_read() {
    for key in ["i-0abc1234", "i-0abc1234def567890", "runner-12345-n2", "r"] {
        let (report, _) = AgentReport::decode(&with("instance_id", json!(format!(" {key} ")))).unwrap();
        assert_eq!(report.instance_id.as_str(), key);
    }
    for id in [json!("12345"), json!(" 12345\n"), json!(12345)] {
        assert_eq!(AgentReport::decode(&with("job_id", id)).unwrap().0.job_id, JobId::new(12345));
    }
}

/// A completion may be the only word we ever get: nothing optional may cost it.
#[test]
fn an_unreadable_optional_field_costs_only_itself() {
    let optional = [
        "exit_code",
        "duration_seconds",
        "started_at",
        "completed_at",
        "error",
        "interrupted_by",
        "tool_cache_misses",
        "cache_interception",
        "build_cache_interception",
        "log_upload",
        "cache_bytes_written",
        "bootstrap_boot_seconds",
        "bootstrap_config_seconds",
        "bootstrap_runner_seconds",
        "bootstrap_register_seconds",
        "bootstrap_total_seconds",
        "run_id",
        "dispatch_id",
        "agent_version",
        "runner_version",
        "spot_notice_at",
        "job_received",
        "runner_listening_seconds",
        "job_pickup_seconds",
        "resource_warnings",
        "sent_at_ms",
        "token",
    ];
    for field in optional {
        let (report, warnings) = AgentReport::decode(&with(field, json!({"not": "this"}))).unwrap();
        assert_eq!((report, warnings), (plain(AgentStatus::Success), vec![field]));
    }
    for (field, value) in [
        ("completed_at", json!("yesterday")),
        ("started_at", json!(1_766_743_241)),
        ("exit_code", json!(1.5)),
        ("duration_seconds", json!(-3)),
        ("sent_at_ms", json!("1")),
        ("tool_cache_misses", json!(["a", 1])),
    ] {
        let (report, warnings) = AgentReport::decode(&with(field, value)).unwrap();
        assert_eq!((report, warnings), (plain(AgentStatus::Success), vec![field]));
    }
}

#[test]
fn absent_null_and_empty_are_the_same() {
    for (field, values) in [
        ("completed_at", vec![Value::Null, json!(""), json!(ZERO_TIME)]),
        ("error", vec![Value::Null, json!(""), json!("  ")]),
        ("bootstrap_total_seconds", vec![Value::Null, json!(0), json!(-0.5)]),
        ("tool_cache_misses", vec![Value::Null, json!([])]),
        ("job_received", vec![Value::Null]),
    ] {
        for value in values {
            let (report, warnings) = AgentReport::decode(&with(field, value.clone())).unwrap();
            assert_eq!((report, warnings), (plain(AgentStatus::Success), vec![]), "{field}: {value}");
        }
    }
}

#[test]
fn a_word_of_another_release_is_a_failure_that_keeps_its_word() {
    let (report, warnings) = AgentReport::decode(&with("status", json!(" Exploded "))).unwrap();
    let want = AgentReport { raw_status: Some("Exploded".into()), ..plain(AgentStatus::Failure) };
    assert_eq!((report, warnings), (want, vec!["status"]));
    let (report, _) = AgentReport::decode(&with("status", json!(" SUCCESS\t"))).unwrap();
    assert_eq!(report, plain(AgentStatus::Success));
}

#[test]
fn written_reports_are_what_old_receivers_expect() {
    let mut started = plain(AgentStatus::Started);
    started.started_at = Some("2025-12-26T10:00:41.52Z".parse().unwrap());
    started.bootstrap.total = Some(19.4);
    assert_eq!(
        started.encode(),
        r#"{"instance_id":"i-0abc1234","job_id":"12345","status":"started","exit_code":0,"duration_seconds":0,"started_at":"2025-12-26T10:00:41.52Z","completed_at":"0001-01-01T00:00:00Z","bootstrap_total_seconds":19.4}"#
    );
    let failed = AgentReport::new("i-0abc1234".into(), AgentStatus::BootstrapFailed);
    assert_eq!(
        failed.encode(),
        r#"{"instance_id":"i-0abc1234","status":"bootstrap_failed","exit_code":0,"duration_seconds":0}"#
    );
}

#[test]
fn a_report_sent_again_has_the_same_deduplication_id_and_the_next_one_another() {
    let mut report = plain(AgentStatus::Started);
    report.sent_at_ms = Some(1);
    let started = report.dedup_id();
    assert_eq!(started, sha256_hex("i-0abc1234|12345|started|0001-01-01T00:00:00Z"));
    report.sent_at_ms = Some(2);
    assert_eq!(report.dedup_id(), started);
    report.status = AgentStatus::Success;
    report.completed_at = Some("2025-12-26T10:05:53Z".parse().unwrap());
    assert_eq!(report.dedup_id(), sha256_hex("i-0abc1234|12345|success|2025-12-26T10:05:53Z"));
    assert_eq!(report.group(), "i-0abc1234");
}

#[test]
fn the_token_is_never_printed() {
    let report = AgentReport { token: Some(Credential::new("s3cret")), ..plain(AgentStatus::Success) };
    assert!(report.encode().contains("s3cret"));
    assert!(!format!("{report:?}").contains("s3cret"));
}

fn word() -> impl Strategy<Value = Option<String>> {
    prop::option::of("[!-~]([ -~]{0,20}[!-~])?")
}

fn seconds() -> impl Strategy<Value = Option<f64>> {
    prop::option::of((1..1_000_000_u32).prop_map(|ms| f64::from(ms) / 1000.0))
}

fn time() -> impl Strategy<Value = Option<Timestamp>> {
    prop::option::of((0_i64..253_402_207_200, 0_i32..1_000_000_000).prop_map(|(s, ns)| Timestamp::new(s, ns).unwrap()))
}

prop_compose! {
    fn report()(
        key in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
        job in 1..=i64::MAX as u64,
        status in prop::sample::select(vec![
            AgentStatus::Started, AgentStatus::Success, AgentStatus::Failure, AgentStatus::Timeout,
            AgentStatus::Interrupted, AgentStatus::BootstrapFailed,
        ]),
        (exit_code, duration_seconds, sent_at_ms) in (any::<i64>(), any::<u64>(), any::<Option<i64>>()),
        (started_at, completed_at, spot_notice_at) in (time(), time(), time()),
        (error, interrupted_by, run_id, dispatch, agent_version, runner_version, token) in
            (word(), word(), word(), word(), word(), word(), word()),
        (cache_interception, build_cache_interception, log_upload) in (word(), word(), word()),
        (boot, config, runner, register, total) in (seconds(), seconds(), seconds(), seconds(), seconds()),
        (runner_listening_seconds, job_pickup_seconds) in (seconds(), seconds()),
        (job_received, cache_bytes_written) in any::<(Option<bool>, Option<u64>)>(),
        (resource_warnings, tool_cache_misses) in
            (prop::collection::vec("[a-z_]{1,9}", 0..3), prop::collection::vec("[A-Za-z/.0-9]{1,9}", 0..3)),
    ) -> AgentReport {
        AgentReport {
            instance_id: key.into(),
            job_id: JobId::new(job),
            status,
            raw_status: None,
            exit_code, duration_seconds, started_at, completed_at, error, interrupted_by, run_id,
            dispatch_id: dispatch.map(DispatchId::from),
            agent_version, runner_version, job_received, runner_listening_seconds, job_pickup_seconds,
            bootstrap: Bootstrap { boot, config, runner, register, total },
            spot_notice_at, resource_warnings, tool_cache_misses, cache_interception, build_cache_interception,
            log_upload, cache_bytes_written, sent_at_ms,
            token: token.map(Credential::new),
        }
    }
}

proptest! {
    #[test]
    fn decoding_an_encoding_gives_the_report_back(report in report()) {
        prop_assert_eq!(AgentReport::decode(&report.encode()).unwrap(), (report, vec![]));
    }

    #[test]
    fn no_text_panics(body in "[{}\\[\\]\":,a-z0-9_/ -]{0,60}|\\PC*") {
        let _ = AgentReport::decode(&body);
    }
}
