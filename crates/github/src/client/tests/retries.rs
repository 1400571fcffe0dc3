//! What is asked again, when, and what is handed back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use domain::clock::Timestamp;
use domain::ids::{JobId, RunnerId};
use http::{HeaderMap, StatusCode};
use proptest::prelude::*;
use serde_json::json;

use super::fake::*;
use crate::client::retry::{backoff, judge};
use crate::client::{Client, Error, ExchangeError, JitRequest, Operation, Priority, Rerun};

fn job() -> JobId {
    JobId::new(5).unwrap()
}

/// Answers calls about jobs and runners with this.
fn always(answer: impl Fn() -> Answer + Send + 'static) -> Arc<Fake> {
    Fake::new(move |a| a.target.contains("/actions/").then(&answer))
}

async fn read(client: &Client) -> Result<(), Error> {
    client.job(&repo(), job(), Priority::Dispatch).await.map(drop)
}

async fn jit(client: &Client) -> Result<(), Error> {
    let request = JitRequest { name: "n", group_id: 1, labels: &["l".to_owned()] };
    client.jit_config(&repo(), &request).await.map(drop)
}

fn after_token(fake: &Fake) -> usize {
    fake.asked().iter().filter(|a| a.target.contains("/actions/")).count()
}

#[tokio::test(start_paused = true)]
async fn passing_failures_are_asked_four_times_and_lasting_ones_once() {
    type Case = (fn() -> Answer, usize, &'static str);
    let cases: [Case; 13] = [
        (unreachable, 4, "Network"),
        (|| Err(ExchangeError::TooLarge), 4, "Network"),
        (|| ok(200, json!("what")), 4, "Decode"),
        (|| message(500, "oops"), 4, "Server"),
        (|| empty(502), 4, "Server"),
        (|| message(429, "slow down"), 4, "RateLimited"),
        (|| with(message(403, "slow down"), &[("retry-after", "2")]), 4, "RateLimited"),
        (|| message(403, "You have exceeded a secondary rate limit"), 4, "RateLimited"),
        (|| message(403, "Resource not accessible by integration"), 1, "Forbidden"),
        (|| message(409, "Already exists"), 1, "Conflict"),
        (|| message(422, "Validation failed"), 1, "Unprocessable"),
        (|| message(400, "Bad"), 1, "Unprocessable"),
        (|| empty(304), 1, "Unprocessable"),
    ];
    for (answer, times, kind) in cases {
        let fake = always(answer);
        let error = read(&client(&fake)).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(kind), "{error:?}");
        assert_eq!(after_token(&fake), times, "{error}");
    }
    let gone = always(|| empty(410));
    assert!(read(&client(&gone)).await.is_ok());
    assert_eq!(after_token(&gone), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_creates_is_repeated_only_when_github_refused_it_unseen() {
    type Case = (fn() -> Answer, usize);
    let cases: [Case; 5] = [
        (unreachable, 1),
        (|| empty(502), 1),
        (|| ok(201, json!({"runner": {"id": 1}, "encoded_jit_config": ""})), 1),
        (|| message(429, "slow down"), 4),
        (|| with(message(403, "slow down"), &[("retry-after", "1")]), 4),
    ];
    for (answer, times) in cases {
        let fake = always(answer);
        jit(&client(&fake)).await.unwrap_err();
        assert_eq!(after_token(&fake), times);
    }
    let fake = always(unreachable);
    assert!(matches!(client(&fake).rerun_job(&repo(), job()).await, Err(Error::Network(_))));
    assert_eq!(after_token(&fake), 1);
}

#[tokio::test(start_paused = true)]
async fn deleting_and_token_calls_are_repeated() {
    let fake = always(unreachable);
    let client = client(&fake);
    client.delete_runner(&repo(), RunnerId::new(1).unwrap()).await.unwrap_err();
    assert_eq!(after_token(&fake), 4);
    client.registration_token(&repo()).await.unwrap_err();
    assert_eq!(after_token(&fake), 8);

    let mints = Fake::new(|a| a.target.ends_with("access_tokens").then(|| empty(500)));
    super::fake::client(&mints).registration_token(&repo()).await.unwrap_err();
    assert_eq!(mints.asked().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_success_ends_the_retries() {
    let mut failures = 3;
    let fake = Fake::new(move |a| {
        a.target.contains("/jobs/").then(|| {
            if failures == 0 {
                return ok(200, a_job());
            }
            failures -= 1;
            empty(503)
        })
    });
    read(&client(&fake)).await.unwrap();
    let at: Vec<_> = fake.asked().iter().skip(1).map(|a| a.at.as_millis()).collect();
    // Three quarters of 500, 1000 and 2000 ms.
    assert_eq!(at, [0, 375, 1125, 2625]);
}

#[tokio::test(start_paused = true)]
async fn a_short_hint_is_waited_for_and_a_long_one_handed_back() {
    let fake = always(|| with(empty(503), &[("retry-after", "30")]));
    read(&client(&fake)).await.unwrap_err();
    assert_eq!(fake.asked().last().unwrap().at, Duration::from_secs(90));

    let reset = (START + 61).to_string();
    let in_two_minutes = "Wed, 01 Jan 2025 00:02:00 GMT";
    let long: [(Vec<(&'static str, &str)>, i64); 4] = [
        (vec![("retry-after", "3600")], START + 3600),
        (vec![("retry-after", in_two_minutes)], START + 120),
        (vec![("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &reset)], START + 61),
        (vec![("retry-after", "90"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &reset)], START + 90),
    ];
    for (headers, until) in long {
        let answer = Mutex::new(with(message(403, "limit"), &headers).unwrap());
        let fake = always(move || Ok(answer.lock().unwrap().clone()));
        let client = client(&fake);
        let error = jit(&client).await.unwrap_err();
        assert_eq!(error.retry_at(), Some(Timestamp::from_second(until).unwrap()), "{headers:?}");
        assert_eq!(after_token(&fake), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_hangs_is_given_up_after_thirty_seconds() {
    let fake = Fake::slow(Duration::from_secs(3600), |_| None);
    let started = tokio::time::Instant::now();
    let error = jit(&client(&fake)).await.unwrap_err();
    assert!(matches!(error, Error::Network(_)));
    // Four mints of the token at 30 s each, and their back-offs.
    assert!(started.elapsed() < Duration::from_secs(125));
}

#[tokio::test(start_paused = true)]
async fn errors_name_the_call_and_never_the_answer_of_a_minting_call() {
    let long = "x".repeat(500);
    let answer =
        move || with(ok(422, json!({"message": format!("hunter2 {long}")})), &[("x-github-request-id", "A:1")]);
    let fake = always(answer.clone());
    let client = client(&fake);
    let minting = jit(&client).await.unwrap_err().to_string();
    assert!(minting.contains("POST /repos/{owner}/{repo}/actions/runners/generate-jitconfig"), "{minting}");
    assert!(minting.contains("422") && minting.contains("A:1"), "{minting}");
    assert!(!minting.contains("hunter2"));
    let reading = read(&client).await.unwrap_err();
    assert!(reading.to_string().contains("hunter2"));
    assert_eq!(reading.context().message.chars().count(), 200);
}

#[tokio::test(start_paused = true)]
async fn rerun_tells_refusals_apart() {
    type Case = (fn() -> Answer, &'static str);
    let cases: [Case; 5] = [
        (|| empty(201), "accepted"),
        (|| message(403, "The workflow run containing this job is already running"), "still"),
        (|| message(409, "The workflow run containing this job is already running"), "still"),
        (|| message(403, "Unable to retry this workflow run because it was created over a month ago"), "month"),
        (|| message(422, "no"), "no"),
    ];
    for (answer, expected) in cases {
        let got = match client(&always(answer)).rerun_job(&repo(), job()).await.unwrap() {
            Rerun::Accepted => "accepted".to_owned(),
            Rerun::RunStillGoing => "still".to_owned(),
            Rerun::Refused(why) => why,
        };
        assert!(got.contains(expected), "{got}");
    }
}

proptest! {
    #[test]
    fn back_off_grows_and_stays_bounded(n in 0u32..40, unit in 0.0f64..1.0) {
        let delay = backoff(n, unit);
        let full = Duration::from_millis(500 * (1 << n.min(5))).min(Duration::from_secs(10));
        prop_assert!(delay >= full / 2 && delay <= full);
    }

    #[test]
    fn no_header_makes_judging_fail(
        status in 300u16..600,
        after in "\\PC{0,20}",
        remaining in "[0-9]{0,20}",
        reset in "-?[0-9]{0,20}",
    ) {
        let mut headers = HeaderMap::new();
        let all = [("retry-after", after), ("x-ratelimit-remaining", remaining), ("x-ratelimit-reset", reset)];
        for (name, value) in all {
            if let Ok(value) = value.parse() {
                headers.insert(name, value);
            }
        }
        let now = Timestamp::from_second(START).unwrap();
        let failure =
            judge(Operation::JitConfig, StatusCode::from_u16(status).unwrap(), &headers, &Bytes::new(), now);
        // Only a refusal lets a creating call be sent again.
        prop_assert_eq!(failure.again, matches!(failure.error, Error::RateLimited { .. }));
    }
}
