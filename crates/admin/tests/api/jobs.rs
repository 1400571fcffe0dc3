//! Jobs: pages of them, one of them, and those that were refused.

use admin::router;
use axum::http::StatusCode;
use domain::gh;
use domain::ids::{RunnerId, RunnerKey};
use domain::job::apply::{Bound, ServedBy};
use domain::job::transition::{Bump, RequeueReason, SettleReason, Wake};
use domain::job::{Job, Milestone, Settled, Sighting};
use domain::testing::{accepted, at, cx, launched};
use serde_json::{Value, json};

use crate::{fleet, get, ok};

/// A job that ran for a minute on `i-1`.
fn finished(id: u64) -> Job {
    let mut job = launched(id, "t", "i-1").prepared(&cx(3)).started(at(9), &cx(9));
    let by = ServedBy { key: "i-1".into(), name: "runs-fleet-i-1".to_owned(), id: RunnerId::new(5), since: at(10) };
    job = job.served(&by, &cx(10));
    for (milestone, seconds) in [(Milestone::GithubCreated, -2), (Milestone::WebhookReceived, 0)] {
        job.timeline.stamp(1, milestone, at(seconds));
    }
    job.timeline.stamp_ms(1, Milestone::Completed, at(70).as_millisecond() + 250);
    job.conclusion = Some("success".to_owned());
    job.sighting = Some(Sighting {
        status: gh::Status::Completed(gh::Conclusion::Success),
        at: at(70),
        completed_at: Some(at(70)),
    });
    job.settled(Settled::Completed, SettleReason::Concluded, &cx(71))
}

fn ids(page: &Value) -> Vec<u64> {
    page["jobs"].as_array().unwrap().iter().map(|job| job["job_id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_job_is_shown_with_what_is_known_and_without_what_is_not() {
    let fleet = fleet();
    fleet.job(finished(1)).await;
    fleet.job(accepted(2)).await;
    let app = router(fleet.state);
    insta::assert_json_snapshot!(ok(&app, "/api/jobs/1").await, @r#"
    {
      "attempt": 1,
      "completed_at": "2026-01-01T00:01:11Z",
      "conclusion": "success",
      "created_at": "2026-01-01T00:00:02Z",
      "force_on_demand": false,
      "github_status": "completed",
      "html_url": "https://github.com/org/repo/actions/runs/77/job/1",
      "in_progress_at": "2026-01-01T00:00:10Z",
      "instance_id": "i-1",
      "instance_type": "c8g.large",
      "job_id": 1,
      "job_name": "build",
      "labels": [
        "runs-fleet/cpu=2"
      ],
      "queued_at": "2026-01-01T00:00:00Z",
      "repo": "org/repo",
      "retry_count": 0,
      "run_attempt": 1,
      "run_id": 77,
      "runner_name": "runs-fleet-i-1",
      "settled_reason": "concluded",
      "source": "cold_start",
      "spot": true,
      "started_at": "2026-01-01T00:00:09Z",
      "startup_seconds": 12.0,
      "status": "completed",
      "warm_pool_hit": false,
      "workflow_name": "ci"
    }
    "#);
    insta::assert_json_snapshot!(ok(&app, "/api/jobs/2").await, @r#"
    {
      "attempt": 1,
      "created_at": "2026-01-01T00:00:00Z",
      "elapsed_seconds": 600,
      "force_on_demand": false,
      "html_url": "https://github.com/org/repo/actions/runs/77/job/2",
      "job_id": 2,
      "job_name": "build",
      "labels": [
        "runs-fleet/cpu=2"
      ],
      "queued_at": "2026-01-01T00:00:00Z",
      "repo": "org/repo",
      "retry_count": 0,
      "run_attempt": 1,
      "run_id": 77,
      "spot": true,
      "stalled": false,
      "status": "requeued",
      "warm_pool_hit": false,
      "workflow_name": "ci"
    }
    "#);
}

#[tokio::test]
async fn a_timeline_has_every_milestone_and_null_for_what_was_not_seen() {
    let fleet = fleet();
    fleet.job(finished(1)).await;
    let timeline = ok(&router(fleet.state), "/api/jobs/1/timeline").await;
    let attempt = &timeline["attempts"][0];
    assert_eq!(timeline["startup_total_ms"], 12_000);
    assert_eq!(attempt["milestones"].as_array().unwrap().len(), 11);
    assert_eq!(
        attempt["milestones"][6],
        json!({ "name": "config_fetched", "at_ms": null, "clock": "agent", "adjusted": false })
    );
    let segments: Vec<_> = attempt["segments"].as_array().unwrap().iter().map(|s| s["ms"].as_i64()).collect();
    let unseen = None;
    let expected = [
        Some(2_000),
        unseen,
        unseen,
        unseen,
        unseen,
        unseen,
        unseen,
        Some(1_000),
        Some(60_250),
        unseen,
        Some(12_000),
        unseen,
    ];
    assert_eq!(segments, expected);
    assert_eq!(attempt["result"], "completed");
    assert_eq!(attempt["source"], "cold_start");
}

#[tokio::test]
async fn a_waiting_job_says_why() {
    let fleet = fleet();
    let mut job = launched(4, "t", "i-1");
    job.last_error = Some("no capacity in three zones".to_owned());
    job = job.requeued(Bump::None, Wake::BackOff, RequeueReason::CapacityWait, Some(at(630)), &cx(590));
    fleet.job(job).await;
    let why = ok(&router(fleet.state), "/api/jobs/4/why").await;
    assert_eq!((why["job_id"].as_u64(), why["status"].as_str()), (Some(4), Some("requeued")));
    assert!(why["sentence"].as_str().unwrap().contains("no capacity in three zones"), "{why}");
    assert_eq!(why["next"]["at"], "2026-01-01T00:10:30Z");
    assert!(why["facts"].as_array().unwrap().iter().all(|fact| fact["name"].is_string() && fact["value"].is_string()));
}

#[tokio::test]
async fn an_id_that_is_none_is_400_and_an_unknown_one_404() {
    let app = router(fleet().state);
    for tail in ["", "/timeline", "/why"] {
        for id in ["abc", "0", "-1", "1.5", "99999999999999999999", "%00", "%ff"] {
            let (status, body) = get(&app, &format!("/api/jobs/{id}{tail}")).await;
            assert_eq!((status, &body["param"]), (StatusCode::BAD_REQUEST, &json!("id")), "{id}{tail}");
        }
        assert_eq!(get(&app, &format!("/api/jobs/77{tail}")).await.0, StatusCode::NOT_FOUND);
    }
}

/// Jobs 1 to 30, two per second, so that pages end inside a second.
async fn thirty() -> axum::Router {
    let fleet = fleet();
    for id in 1..=30_u64 {
        let mut job = if id % 2 == 0 { accepted(id) } else { launched(id, "t", &format!("i-{id}")) };
        job.created_at = at(i64::try_from(id / 2).unwrap());
        let message = std::sync::Arc::make_mut(job.message.as_mut().unwrap());
        if id % 5 == 0 {
            message.repo = "org/other".parse().unwrap();
        }
        if id % 3 == 0 {
            message.spec.pool = "fast".parse().ok();
        }
        fleet.job(job).await;
    }
    router(fleet.state)
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repeat() {
    let app = thirty().await;
    for filter in
        ["", "&status=requeued,launched", "&repo=org/repo", "&q=build", "&pool=fast", "&until=2026-01-01T00:00:12Z"]
    {
        let whole = ok(&app, &format!("/api/jobs?limit=100{filter}")).await;
        assert_eq!(whole["next_cursor"], Value::Null);
        let mut walked = Vec::new();
        let mut path = format!("/api/jobs?limit=3{filter}");
        loop {
            let page = ok(&app, &path).await;
            assert_eq!(page["total"], whole["total"], "{filter}");
            walked.extend(ids(&page));
            match page["next_cursor"].as_str() {
                Some(cursor) => path = format!("/api/jobs?limit=3{filter}&cursor={cursor}"),
                None => break,
            }
        }
        assert_eq!(walked, ids(&whole), "{filter}");
        assert_eq!(walked.len(), usize::try_from(whole["total"].as_u64().unwrap()).unwrap());
        assert!(!walked.is_empty(), "{filter}");
    }
}

#[tokio::test]
async fn filters_narrow_and_an_offset_still_counts() {
    let app = thirty().await;
    let list = async |query: &str| ids(&ok(&app, &format!("/api/jobs?{query}")).await);
    assert_eq!(list("instance_id=i-7").await, [7]);
    assert_eq!(list("repo=org/other&status=launched").await, [25, 15, 5]);
    assert_eq!(list("q=I-2&status=launched").await, [29, 27, 25, 23, 21]);
    assert_eq!(list("since=2026-01-01T00:00:14Z&until=2026-01-01T00:00:15Z").await, [29, 28]);
    assert_eq!(list("limit=2&offset=3").await, [27, 26]);
    assert_eq!(list("status=").await.len(), 30, "an empty field of a form is no filter");
}

#[tokio::test]
async fn a_bad_parameter_is_refused_by_name() {
    let app = thirty().await;
    let cursor = ok(&app, "/api/jobs?limit=3&repo=org/repo").await["next_cursor"].as_str().unwrap().to_owned();
    for (query, param) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=abc", "limit"),
        ("limit=1&limit=2", "limit"),
        ("offset=20000", "offset"),
        ("since=yesterday", "since"),
        ("until=2026-01-01", "until"),
        ("status=done", "status"),
        ("status=running,done", "status"),
        ("pool=__instance_claim:x", "pool"),
        ("repo=org", "repo"),
        ("cursor=abc", "cursor"),
        ("colour=red", "colour"),
        (&format!("cursor={cursor}"), "cursor"),
        (&format!("cursor={cursor}&repo=org/repo&offset=3"), "offset"),
        (&format!("q={}", "x".repeat(300)), "q"),
    ] {
        let (status, body) = get(&app, &format!("/api/jobs?{query}")).await;
        assert_eq!((status, body["param"].as_str()), (StatusCode::BAD_REQUEST, Some(param)), "{query}: {body}");
    }
    let (_, body) = get(&app, "/api/jobs?status=done").await;
    assert!(body["details"].as_str().unwrap().contains("interrupted"), "lists what is allowed: {body}");
    let (_, body) = get(&app, &format!("/api/jobs?cursor={cursor}")).await;
    assert_eq!(body["code"], "cursor_mismatch");
    for path in ["/api/jobs/stats?since=soon", "/api/instances?state=lost", "/api/status?x=1", "/api/events?topics=x"] {
        assert_eq!(get(&app, path).await.0, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn the_numbers_count_and_an_unmeasured_rate_is_null() {
    let fleet = fleet();
    let app = router(fleet.state.clone());
    assert_eq!(ok(&app, "/api/jobs/stats").await["hit_rate"], Value::Null);
    fleet.job(finished(1)).await;
    let warm = Bound {
        key: RunnerKey::new("i-2"),
        instance_type: "c8g.large".to_owned(),
        zone: None,
        spot: true,
        warm: true,
        hot: false,
    };
    let served = accepted(2).bound(&warm, &cx(5)).settled(Settled::Success, SettleReason::AgentReport, &cx(8));
    fleet.job(served).await;
    fleet.job(accepted(3)).await;
    fleet.job(accepted(4).settled(Settled::Error, SettleReason::Deadline, &cx(8))).await;
    let stats = ok(&app, "/api/jobs/stats").await;
    let number = |name: &str| stats[name].as_u64().unwrap();
    assert_eq!(["total", "completed", "failed", "requeued", "running"].map(number), [4, 2, 1, 1, 0]);
    assert_eq!(stats["hit_rate"], 0.5);
    assert_eq!(stats["states"]["completed"], 1);
    assert_eq!(ok(&app, "/api/jobs/stats?since=2026-01-02T00:00:00Z").await["total"], 0);
}

#[tokio::test]
async fn jobs_refused_for_their_labels_are_listed_with_the_reason() {
    let fleet = fleet();
    fleet.webhook(8, &["runs-fleet/cpu=lots", "<b>bold</b>"]).await;
    fleet.webhook(9, &["ubuntu-latest"]).await;
    insta::assert_json_snapshot!(ok(&router(fleet.state), "/api/jobs/rejected").await, @r#"
    {
      "jobs": [
        {
          "category": "invalid_cpu",
          "explanation": "cpu must be a number of vCPUs or a range such as 4+16, smaller bound first",
          "job_id": 8,
          "labels": [
            "runs-fleet/cpu=lots",
            "<b>bold</b>"
          ],
          "rejected_at": "2026-01-01T00:10:00Z",
          "repo": "acme/storefront"
        }
      ]
    }
    "#);
}
