use super::*;
use std::collections::BTreeSet;

fn sample(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn repo(n: usize) -> domain::ids::Repo {
    format!("owner/repo-{n}").parse().unwrap()
}

#[test]
fn every_declaration_has_a_unique_name_in_base_units() {
    let names: BTreeSet<_> = Metrics::names().collect();
    assert_eq!(names.len(), DECLARATIONS.len(), "names are unique");
    for d in DECLARATIONS {
        let suffix = match d.kind {
            Kind::Counter => "_total",
            Kind::Histogram(buckets) => {
                assert!(buckets.is_sorted_by(|a, b| a < b), "{}: buckets ascend", d.name);
                if d.name.ends_with("_size") { "_size" } else { "_seconds" }
            }
            Kind::Gauge => "",
        };
        assert!(d.name.ends_with(suffix), "{}", d.name);
        assert!(d.kind != Kind::Gauge || !d.name.ends_with("_total"), "{}", d.name);
        assert!(!d.help.trim().is_empty(), "{}", d.name);
        for forbidden in ["job_id", "run_id", "instance_id", "branch", "user", "error", "path_url"] {
            assert!(d.labels().all(|l| l != forbidden), "{} has the unbounded label {forbidden}", d.name);
        }
        // Who sets this one shows the largest repositories only.
        if d.labels().any(|l| l == "repo") && d.name != "cache_repo_bytes" {
            assert_eq!(d.kind, Kind::Counter, "{}: repositories are never on histograms or gauges", d.name);
        }
    }
}

#[test]
fn closed_counters_start_at_zero_and_everything_else_is_absent() {
    let text = Metrics::new().render();
    for series in [
        "runs_fleet_lease_stolen_total",
        "runs_fleet_jobs_requeued_total{reason=\"runner_stolen\"}",
        "runs_fleet_runner_bind_total{rule=\"6\"}",
        "runs_fleet_scheduling_failure_total{task_type=\"job_claim\"}",
        "runs_fleet_queue_receive_total{queue=\"main\",result=\"empty\"}",
        "runs_fleet_queue_receive_total{queue=\"events\",result=\"error\"}",
        "runs_fleet_webhook_events_total{action=\"\",event=\"ping\",result=\"ignored\"}",
    ] {
        assert_eq!(sample(&text, series), Some(0.0), "{series}");
    }
    for absent in
        ["jobs_enqueued_total", "pending_jobs", "queue_depth", "build_info", "result=\"empty\",queue=\"events\""]
    {
        assert!(!text.contains(&format!("runs_fleet_{absent}")), "{absent} was never measured");
    }
    assert!(!text.contains("{queue=\"events\",result=\"empty\"}"), "empty receives belong to main only");
}

#[test]
fn what_is_emitted_is_what_is_shown() {
    let m = Metrics::new();
    let pool = "builders".parse().ok();
    m.jobs_enqueued(pool.as_ref(), Some(domain::launch::Arch::Arm64), Capacity::Spot, &repo(1));
    m.jobs_enqueued(pool.as_ref(), Some(domain::launch::Arch::Arm64), Capacity::Spot, &repo(1));
    m.job_wait(None, Some(Source::ColdStart), Duration::from_millis(1500));
    m.pending_jobs(Some(0.0));
    m.oldest_pending(Some(12.5));
    m.scheduling_failure(SchedulingFailure("a word of the future"));
    m.transition("accept", None, Some(domain::job::JobState::Requeued));
    let text = m.render();
    for (series, value) in [
        (
            "runs_fleet_jobs_enqueued_total{arch=\"arm64\",capacity=\"spot\",pool=\"builders\",repo=\"owner/repo-1\"}",
            2.0,
        ),
        ("runs_fleet_job_wait_seconds_sum{pool=\"\",source=\"cold_start\"}", 1.5),
        ("runs_fleet_job_wait_seconds_bucket{pool=\"\",source=\"cold_start\",le=\"1\"}", 0.0),
        ("runs_fleet_job_wait_seconds_bucket{pool=\"\",source=\"cold_start\",le=\"2\"}", 1.0),
        ("runs_fleet_pending_jobs", 0.0),
        ("runs_fleet_oldest_pending_seconds", 12.5),
        ("runs_fleet_scheduling_failure_total{task_type=\"other\"}", 1.0),
        ("runs_fleet_transition_total{event=\"accept\",from=\"none\",to=\"requeued\"}", 1.0),
    ] {
        assert_eq!(sample(&text, series), Some(value), "{series} in\n{text}");
    }
}

#[test]
fn a_gauge_nobody_can_count_any_more_disappears() {
    let m = Metrics::new();
    m.queue_depth(QueueName::Main, Some(3.0));
    assert_eq!(sample(&m.render(), "runs_fleet_queue_depth{queue=\"main\"}"), Some(3.0));
    m.queue_depth(QueueName::Main, None);
    m.queue_depth(QueueName::Main, None);
    assert!(!m.render().contains("runs_fleet_queue_depth"));
}

#[test]
fn the_201st_repository_is_other_on_every_metric() {
    let m = Metrics::new();
    for n in 0..REPO_CAP {
        m.jobs_enqueued(None, None, Capacity::OnDemand, &repo(n));
    }
    m.jobs_completed(None, JobResult::Served, &repo(REPO_CAP));
    m.jobs_completed(None, JobResult::Served, &repo(0));
    let text = m.render();
    let completed = "runs_fleet_jobs_completed_total{pool=\"\",repo=";
    assert_eq!(sample(&text, &format!("{completed}\"other\",result=\"served\"}}")), Some(1.0));
    assert_eq!(sample(&text, &format!("{completed}\"owner/repo-0\",result=\"served\"}}")), Some(1.0));
    assert!(!text.contains("owner/repo-200"));
}

#[test]
fn the_text_is_well_formed() {
    let m = Metrics::new();
    m.http_requests(Route("/jobs/{id}"), Method::Get, StatusClass::from(404));
    m.webhook_rejected(Ingress::Http, "signature_format");
    for line in m.render().lines() {
        let ok = line.starts_with("# HELP runs_fleet_")
            || line.starts_with("# TYPE runs_fleet_")
            || (line.starts_with("runs_fleet_") && line.rsplit(' ').next().is_some_and(|v| v.parse::<f64>().is_ok()));
        assert!(ok, "{line}");
    }
}
