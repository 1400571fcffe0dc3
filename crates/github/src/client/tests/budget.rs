//! How much is asked, and what is left to whom.

use std::time::Duration;

use domain::clock::Timestamp;
use domain::ids::{InstallationId, JobId, RunnerId};
use futures::future::join_all;

use super::fake::*;
use crate::client::{Account, Error, Priority};

fn job(n: u64) -> JobId {
    JobId::new(n).unwrap()
}

fn limit(answer: Answer, remaining: u32) -> Answer {
    let (remaining, reset) = (remaining.to_string(), (START + 600).to_string());
    with(
        answer,
        &[
            ("x-ratelimit-limit", "5000"),
            ("x-ratelimit-remaining", &remaining),
            ("x-ratelimit-reset", &reset),
            ("x-ratelimit-resource", "core"),
        ],
    )
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_the_rate_limit_goes_to_jobs_that_wait() {
    // Remaining, and whether a sweep, a dispatch read and a delete still go out.
    for (remaining, sweep, dispatch) in
        [(1000, true, true), (999, false, true), (250, false, true), (249, false, false)]
    {
        let fake = Fake::new(move |a| {
            let answer = || if a.method == "DELETE" { empty(204) } else { ok(200, a_job()) };
            a.target.contains("/actions/").then(|| limit(answer(), remaining))
        });
        let client = client(&fake);
        client.job(&repo(), job(1), Priority::Dispatch).await.unwrap();
        let until = Some(Timestamp::from_second(START + 600).unwrap());
        for (priority, allowed) in [(Priority::Sweep, sweep), (Priority::Dispatch, dispatch)] {
            let answer = client.job(&repo(), job(2), priority).await;
            assert_eq!(answer.as_ref().err().and_then(Error::retry_at), until.filter(|_| !allowed), "{remaining}");
        }
        client.delete_runner(&repo(), RunnerId::new(1).unwrap()).await.unwrap();
        // The pause ends with the window.
        tokio::time::advance(Duration::from_secs(601)).await;
        client.job(&repo(), job(2), Priority::Sweep).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_rate_limit_is_readable_and_survives_answers_that_overtake_each_other() {
    let mut answers = vec![4000, 4001].into_iter();
    let fake =
        Fake::new(move |a| a.target.contains("/jobs/").then(|| limit(ok(200, a_job()), answers.next().unwrap())));
    let metrics = telemetry::metrics::Metrics::new();
    let client = client(&fake).with_metrics(metrics.clone());
    assert!(client.rate_limits().is_empty());
    client.job(&repo(), job(1), Priority::Dispatch).await.unwrap();
    client.job(&repo(), job(2), Priority::Dispatch).await.unwrap();
    let rates = client.rate_limits();
    let [(account, rate)] = rates.as_slice() else { panic!("{rates:?}") };
    assert_eq!(*account, Account::Installation(InstallationId::new(77).unwrap()));
    assert_eq!((rate.limit, rate.remaining, rate.reset.as_second()), (5000, 4000, START + 600));
    let shown = metrics.render();
    for line in [
        "github_rate_limit_remaining{installation=\"77\"} 4000",
        "github_api_requests_total{endpoint=\"job\",status_class=\"2xx\"} 2",
        "github_api_seconds_count{endpoint=\"create_token\"} 1",
        "github_token_mints_total 1",
    ] {
        assert!(shown.contains(line), "{line} is missing in\n{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn changes_are_spread_over_minutes_and_never_wait_longer_than_one() {
    let fake = Fake::new(|a| a.target.contains("/runners/").then(|| empty(204)));
    let client = client(&fake);
    let repo = repo();
    let answers = join_all((1..=300).map(|n| client.delete_runner(&repo, RunnerId::new(n).unwrap()))).await;
    let held = answers.iter().filter_map(|a| a.as_ref().err()?.retry_at()).collect::<Vec<_>>();
    assert_eq!(held.len(), 60);
    assert!(held.iter().all(|at| at.as_second() == START + 120));
    let at: Vec<_> = fake.asked().iter().filter(|a| a.method == "DELETE").map(|a| a.at.as_secs()).collect();
    assert_eq!(at.iter().filter(|s| **s < 60).count(), 120);
    assert_eq!(at.iter().filter(|s| (60..120).contains(*s)).count(), 120);
}

#[tokio::test(start_paused = true)]
async fn sweeps_have_a_burst_and_an_hourly_pace_and_dispatch_does_not_care() {
    let fake = Fake::new(|a| a.target.contains("/jobs/").then(|| ok(200, a_job())));
    let client = client(&fake);
    let mut swept = 0;
    for n in 1..=250 {
        match client.job(&repo(), job(n), Priority::Sweep).await {
            Ok(_) => swept += 1,
            Err(error) => assert!(error.retry_at().is_some()),
        }
    }
    assert_eq!(swept, 200);
    client.job(&repo(), job(999), Priority::Dispatch).await.unwrap();
    tokio::time::advance(Duration::from_secs(36)).await;
    let mut more = 0;
    while client.job(&repo(), job(1000 + more), Priority::Sweep).await.is_ok() {
        more += 1;
    }
    assert_eq!(more, 10);
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_answer_is_reused_and_free() {
    let fake = Fake::new(|a| {
        a.target.contains("/jobs/").then(|| match a.headers.get("if-none-match") {
            Some(tag) if tag == "W/\"1\"" => with(empty(304), &[("etag", "W/\"1\"")]),
            Some(tag) => panic!("{tag:?}"),
            None => with(ok(200, a_job()), &[("etag", "W/\"1\"")]),
        })
    });
    let client = client(&fake);
    let first = client.job(&repo(), job(5), Priority::Sweep).await.unwrap();
    for _ in 0..400 {
        assert_eq!(client.job(&repo(), job(5), Priority::Sweep).await.unwrap(), first);
    }
    // Another job is another entry.
    client.job(&repo(), job(6), Priority::Sweep).await.unwrap();
}
