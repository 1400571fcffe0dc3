use domain::testing::at;

use super::*;

#[test]
fn a_message_is_a_request_or_poison() {
    let run = |task, ask| Some(Request::Run(task, None, ask));
    let asked = Ask {
        dry_run: true,
        max_items: Some(1000),
        pool: "cpu".parse().ok(),
        job: JobId::new(7),
        requested_by: Some("ann".to_owned()),
    };
    for (body, expected) in [
        ("", None),
        ("not json", None),
        ("{}", None),
        ("[]", None),
        (r#"{"task_type": 7}"#, None),
        (r#"{"task_type": ""}"#, None),
        (r#"{"task_type": "old_jobs", "timestamp": "yesterday"}"#, None),
        (r#"{"task_type": "old_jobs", "params": []}"#, None),
        (r#"{"task_type": "old_jobs", "params": {"dry_run": "yes"}}"#, None),
        (r#"{"task_type": "old_jobs", "params": {"max_items": 0}}"#, None),
        (r#"{"task_type": "old_jobs", "params": {"max_items": 1001}}"#, None),
        (r#"{"task_type": "old_jobs", "params": {"pool": "__task_lock:old_jobs"}}"#, None),
        (r#"{"task_type": "old_jobs", "params": {"job_id": 0}}"#, None),
        (r#"{"task_type": "old_jobs", "params": {"force": 1}}"#, None),
        (r#"{"task_type": "old_jobs"}"#, run(Task::OldJobs, Ask::default())),
        (r#"{"task_type": "old_jobs", "params": null, "more": 1}"#, run(Task::OldJobs, Ask::default())),
        (r#"{"task_type": "stale_ssm"}"#, run(Task::StaleSecrets, Ask::default())),
        (
            r#"{"task_type": "stale_jobs", "params":
                {"dry_run": true, "max_items": 1000, "pool": "cpu", "job_id": 7, "requested_by": "ann"}}"#,
            run(Task::StaleJobs, asked),
        ),
        (r#"{"task_type": "pool_audit"}"#, Some(Request::Retired("pool_audit"))),
        (r#"{"task_type": "cost_report"}"#, Some(Request::Unknown("cost_report".to_owned()))),
    ] {
        assert_eq!(Request::parse(body), expected, "{body}");
    }
    let timed = Request::parse(r#"{"task_type": "old_jobs", "timestamp": "2026-01-01T01:00:00+01:00"}"#);
    assert_eq!(timed, Some(Request::Run(Task::OldJobs, Some(at(0)), Ask::default())));
}

#[test]
fn a_request_is_satisfied_by_a_later_run_that_ended_well() {
    let row = |began, result: &str| TaskRow {
        last_started_at: Some(at(began)),
        last_result: Some(result.to_owned()),
        ..TaskRow::default()
    };
    assert!(is_satisfied(&row(100, "success"), at(100)));
    assert!(is_satisfied(&row(101, "success"), at(100)));
    assert!(!is_satisfied(&row(99, "success"), at(100)), "it began before");
    assert!(!is_satisfied(&row(101, "failed: 1 of 1"), at(100)), "it failed");
    assert!(!is_satisfied(&row(101, "aborted"), at(100)));
    assert!(!is_satisfied(&TaskRow::default(), at(100)), "there was none");
}
