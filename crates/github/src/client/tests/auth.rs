//! Who asks: App tokens, installations, installation tokens.

use std::sync::Arc;
use std::time::Duration;

use domain::ids::{InstallationId, JobId};
use futures::future::join_all;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use super::fake::*;
use crate::client::{Client, ClientConfig, ConfigError, Error, Priority};

#[derive(Deserialize)]
struct Claims {
    iat: i64,
    exp: i64,
    iss: String,
}

fn claims(jwt: &str) -> Claims {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_exp = false;
    let key = DecodingKey::from_rsa_pem(PUBLIC_KEY.as_bytes()).unwrap();
    jsonwebtoken::decode(jwt, &key, &validation).unwrap().claims
}

fn job() -> JobId {
    JobId::new(5).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_app_token_is_backdated_short_lived_and_reused() {
    let fake = Fake::new(|_| Some(ok(200, json!({}))));
    let client = client(&fake);
    client.app().await.unwrap();
    tokio::time::advance(Duration::from_secs(400)).await;
    client.app().await.unwrap();
    tokio::time::advance(Duration::from_secs(81)).await;
    client.app().await.unwrap();
    let asked = fake.asked();
    let first = claims(asked[0].bearer());
    assert_eq!((first.iat, first.exp, first.iss.as_str()), (START - 60, START + 540, "4711"));
    assert_eq!(asked[0].bearer(), asked[1].bearer());
    assert_eq!(claims(asked[2].bearer()).iat, START + 481 - 60);
    assert_eq!(asked[0].headers["user-agent"], "runs-fleet/1.2.3");
    assert_eq!(asked[0].headers["accept"], "application/vnd.github+json");
    assert_eq!(asked[0].headers["x-github-api-version"], "2022-11-28");
    assert!(asked[0].headers["authorization"].is_sensitive());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_off_is_corrected_once() {
    let complaint = || {
        with(
            message(401, "'Expiration time' claim ('exp') is too far in the future"),
            &[("date", "Tue, 31 Dec 2024 23:50:00 GMT")],
        )
    };
    let mut complained = false;
    let fake = Fake::new(move |_| {
        Some(if std::mem::replace(&mut complained, true) { ok(200, json!({})) } else { complaint() })
    });
    client(&fake).app().await.unwrap();
    assert_eq!(claims(fake.asked()[1].bearer()).exp, START - 600 + 540);

    let stubborn = Fake::new(move |_| Some(complaint()));
    let error = client(&stubborn).app().await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized(_)), "{error}");
    assert_eq!(stubborn.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn another_401_of_the_app_is_final() {
    let fake = Fake::new(|_| Some(message(401, "Bad credentials")));
    assert!(matches!(client(&fake).app().await, Err(Error::Unauthorized(_))));
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn fifty_callers_share_one_look_up_and_one_token() {
    let fake = Fake::slow(Duration::from_millis(100), |a| a.target.contains("/jobs/").then(|| ok(200, a_job())));
    let client = stranger(&fake);
    let repo = repo();
    let answers = join_all((0..50).map(|_| client.job(&repo, job(), Priority::Dispatch))).await;
    assert!(answers.into_iter().all(|a| a.unwrap().is_some()));
    assert_eq!(fake.count("GET /repos/acme/widgets/installation"), 1);
    assert_eq!(fake.count("POST /app/installations/77/access_tokens"), 1);
    assert!(fake.asked().iter().filter(|a| a.target.contains("/jobs/")).all(|a| a.bearer() == "token-1"));
    assert_eq!(fake.most_at_once(), 20);
}

#[tokio::test(start_paused = true)]
async fn fifty_callers_share_one_failure() {
    let fake = Fake::slow(Duration::from_millis(100), |_| Some(message(403, "suspended")));
    let client = client(&fake);
    let repo = repo();
    let answers = join_all((0..50).map(|_| client.job(&repo, job(), Priority::Dispatch))).await;
    assert!(answers.into_iter().all(|a| matches!(a, Err(Error::Forbidden(_)))));
    assert_eq!(fake.asked().len(), 1);
    // The failure is not remembered beyond those who waited for it.
    assert!(client.job(&repo, job(), Priority::Dispatch).await.is_err());
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_leaves_the_mint_to_the_next() {
    let fake = Fake::slow(Duration::from_secs(1), |a| a.target.contains("/jobs/").then(|| ok(200, a_job())));
    let client = client(&fake);
    let repo = repo();
    let hasty = tokio::time::timeout(Duration::from_millis(500), client.job(&repo, job(), Priority::Dispatch));
    let (hasty, patient) = tokio::join!(hasty, client.job(&repo, job(), Priority::Dispatch));
    assert!(hasty.is_err());
    assert!(patient.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_token_is_replaced_five_minutes_before_its_end() {
    let fake = Fake::new(|a| a.target.contains("/jobs/").then(|| ok(200, a_job())));
    let client = client(&fake);
    for wait in [0, 54 * 60, 2 * 60] {
        tokio::time::advance(Duration::from_secs(wait)).await;
        client.job(&repo(), job(), Priority::Dispatch).await.unwrap();
    }
    let used: Vec<_> = fake.asked().iter().filter(|a| a.method == "GET").map(|a| a.bearer().to_owned()).collect();
    assert_eq!(used, ["token-1", "token-1", "token-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_token_without_a_stated_end_lives_fifty_minutes() {
    let mut minted = 0;
    let fake = Fake::new(move |a| {
        if a.target.contains("/jobs/") {
            return Some(ok(200, a_job()));
        }
        minted += 1;
        Some(ok(201, json!({"token": format!("t{minted}"), "expires_at": "soon"})))
    });
    let client = client(&fake);
    for wait in [0, 44 * 60, 2 * 60] {
        tokio::time::advance(Duration::from_secs(wait)).await;
        client.job(&repo(), job(), Priority::Dispatch).await.unwrap();
    }
    assert_eq!(fake.count("POST"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_dropped_and_the_call_repeated_once() {
    let fake = Fake::new(|a| {
        a.target
            .contains("/jobs/")
            .then(|| if a.bearer() == "token-1" { message(401, "Bad credentials") } else { ok(200, a_job()) })
    });
    assert!(client(&fake).job(&repo(), job(), Priority::Dispatch).await.unwrap().is_some());
    assert_eq!(fake.count("POST"), 2);

    let never = Fake::new(|a| a.target.contains("/jobs/").then(|| message(401, "Bad credentials")));
    let error = client(&never).job(&repo(), job(), Priority::Dispatch).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized(_)), "{error}");
    assert_eq!((never.count("POST"), never.count("GET")), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn many_late_401s_for_one_token_cost_one_mint() {
    let fake = Fake::slow(Duration::from_millis(100), |a| {
        a.target
            .contains("/jobs/")
            .then(|| if a.bearer() == "token-1" { message(401, "Bad credentials") } else { ok(200, a_job()) })
    });
    let client = client(&fake);
    let repo = repo();
    let answers = join_all((0..50).map(|_| client.job(&repo, job(), Priority::Dispatch))).await;
    assert!(answers.into_iter().all(|a| a.unwrap().is_some()));
    assert_eq!(fake.count("POST"), 2);
}

#[tokio::test(start_paused = true)]
async fn an_installation_is_looked_up_by_repository_then_organisation_then_user() {
    let fake = Fake::new(|a| match a.target.as_str() {
        "/repos/acme/widgets/installation" | "/orgs/acme/installation" => Some(message(404, "Not Found")),
        jobs if jobs.ends_with("/actions/jobs/5") => Some(ok(200, a_job())),
        _ => None,
    });
    let client = stranger(&fake);
    client.job(&repo(), job(), Priority::Dispatch).await.unwrap();
    let lines: Vec<_> = fake.asked().iter().map(|a| a.target.clone()).collect();
    assert_eq!(lines[..3], ["/repos/acme/widgets/installation", "/orgs/acme/installation", "/users/acme/installation"]);
    // The answer holds for the owner's other repositories, for a day.
    let other = "ACME/other".parse().unwrap();
    tokio::time::advance(Duration::from_secs(86_000)).await;
    client.job(&other, job(), Priority::Dispatch).await.unwrap();
    assert_eq!(fake.count("GET /users/"), 1);
    tokio::time::advance(Duration::from_secs(500)).await;
    client.job(&other, job(), Priority::Dispatch).await.unwrap();
    assert_eq!(fake.count("GET /repos/ACME/other/installation"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_app_says_nothing_about_the_job() {
    let fake = Fake::new(|_| Some(message(404, "Not Found")));
    let error = stranger(&fake).job(&repo(), job(), Priority::Dispatch).await;
    assert!(matches!(error, Err(Error::NotFound(_))), "{error:?}");
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_installation_that_moved_is_looked_up_again() {
    let fake = Fake::new(|a| match a.target.as_str() {
        "/app/installations/1/access_tokens" => Some(message(404, "Not Found")),
        "/repos/acme/widgets/actions/jobs/5" => Some(ok(200, a_job())),
        _ => None,
    });
    let client = stranger(&fake);
    client.remember_installation("acme", InstallationId::new(1).unwrap());
    assert!(client.job(&repo(), job(), Priority::Dispatch).await.unwrap().is_some());
    assert_eq!(fake.count("POST /app/installations/77/"), 1);
}

#[tokio::test(start_paused = true)]
async fn configuration_mistakes_are_found_at_start_up() {
    let fake = Fake::new(|_| None);
    let build = |change: &dyn Fn(&mut ClientConfig)| {
        let mut config = config();
        change(&mut config);
        Client::new(&config, Arc::<Fake>::clone(&fake), Arc::new(PausedClock::new()), Arc::new(HalfRng)).map(drop)
    };
    assert_eq!(build(&|c| c.private_key = SecretString::from(KEY_PKCS1.to_owned())), Ok(()));
    for good in ["http://127.0.0.1:9/x", "http://[::1]", "http://localhost:80", "https://ghe.example/api/v3"] {
        assert_eq!(build(&|c| c.api_url = good.to_owned()), Ok(()), "{good}");
    }
    for bad in ["", "ftp://x", "http://api.github.com", "https://u:p@ghe.example", "https://ghe.example?x=1"] {
        assert!(matches!(build(&|c| c.api_url = bad.to_owned()), Err(ConfigError::ApiUrl(_))), "{bad}");
    }
    for bad in ["", "secret nonsense", PUBLIC_KEY] {
        let error = build(&|c| c.private_key = SecretString::from(bad.to_owned())).unwrap_err();
        assert!(matches!(error, ConfigError::PrivateKey(_)));
        assert!(!error.to_string().contains("nonsense"));
    }
    assert_eq!(build(&|c| c.version = "1\n2".to_owned()), Err(ConfigError::Version));
}
