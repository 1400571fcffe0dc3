//! The REST side as a client sees it, and webhooks as a receiver sees them.
#![allow(clippy::disallowed_methods, reason = "tests may spawn and look at the clock")]

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use axum::extract::State as Extract;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use domain::gh::Conclusion;
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::{Client, Method, RequestBuilder};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::mpsc;

use super::*;

const RUNNERS: &str = "/repos/acme/shop/actions/runners";

/// A clock that a test can push forward.
struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let pushed = Duration::from_secs(self.0.load(Ordering::SeqCst));
        domain::clock::after(Timestamp::now(), pushed)
    }
}

struct Fixture {
    github: SimulatedGitHub,
    client: Client,
    clock: Arc<TestClock>,
}

fn config() -> SimConfig {
    let repositories =
        vec![("acme/shop".parse().unwrap(), OwnerKind::Organization), ("mona/blog".parse().unwrap(), OwnerKind::User)];
    SimConfig::new(42, repositories, SecretString::from("shh"))
}

async fn start(change: impl FnOnce(&mut SimConfig)) -> Fixture {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let clock = Arc::new(TestClock(AtomicU64::new(0)));
    let mut config = config();
    config.clock = clock.clone();
    config.app_id = 77;
    change(&mut config);
    let github = SimulatedGitHub::start(config).await.unwrap();
    Fixture { github, client: Client::builder().user_agent("test").build().unwrap(), clock }
}

fn jwt_of(iss: &Value, iat: i64, exp: i64) -> String {
    let now = Timestamp::now().as_second();
    let claims = json!({ "iss": iss, "iat": now + iat, "exp": now + exp });
    let key = EncodingKey::from_rsa_pem(APP_PRIVATE_KEY.as_bytes()).unwrap();
    encode(&Header::new(Algorithm::RS256), &claims, &key).unwrap()
}

fn jwt() -> String {
    jwt_of(&json!("77"), -60, 540)
}

impl Fixture {
    fn request(&self, method: Method, path: &str, credential: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.github.api_url());
        self.client.request(method, url).header("authorization", format!("Bearer {credential}"))
    }

    async fn status(&self, method: Method, path: &str, credential: &str) -> u16 {
        self.request(method, path, credential).send().await.unwrap().status().as_u16()
    }

    async fn get(&self, path: &str, credential: &str) -> Value {
        let answer = self.request(Method::GET, path, credential).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    async fn token(&self) -> String {
        let answer = self.request(Method::POST, "/app/installations/1/access_tokens", &jwt()).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        answer.json::<Value>().await.unwrap()["token"].as_str().unwrap().to_owned()
    }

    fn submit(&self, count: usize) -> (RunId, Vec<JobId>) {
        let job = JobSpec {
            name: "build".to_owned(),
            labels: vec!["runs-fleet/cpu=2".to_owned()],
            duration: Duration::ZERO,
            outcome: Conclusion::Success,
        };
        self.github.submit_run(&"acme/shop".parse().unwrap(), vec![job; count]).unwrap()
    }

    async fn until(&self, what: &str, reached: impl Fn(&Counters) -> bool) {
        let mut changes = self.github.changes();
        let wait = async {
            while !reached(&self.github.counters()) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

#[tokio::test]
async fn the_app_is_let_in_only_with_a_jwt_github_would_accept() {
    let f = start(|_| ()).await;
    let accepted = [jwt(), jwt_of(&json!(77), -60, 540), jwt_of(&json!("77"), 0, 599)];
    for token in accepted {
        assert_eq!(f.status(Method::GET, "/app", &token).await, 200);
    }
    let now = Timestamp::now().as_second();
    let claims = json!({ "iss": "77", "iat": now - 60, "exp": now + 540 });
    let hs256 = encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(b"guess")).unwrap();
    let key = EncodingKey::from_rsa_pem(APP_PRIVATE_KEY.as_bytes()).unwrap();
    let rs512 = encode(&Header::new(Algorithm::RS512), &claims, &key).unwrap();
    let mut forged = jwt();
    forged.replace_range(forged.len() - 8.., "AAAAAAAA");
    let refused = [
        ("expired", jwt_of(&json!("77"), -700, -1), 401),
        ("too far ahead", jwt_of(&json!("77"), -60, 660), 401),
        ("from the future", jwt_of(&json!("77"), 60, 540), 401),
        ("another app", jwt_of(&json!("78"), -60, 540), 404),
        ("another algorithm", hs256, 401),
        ("another RSA algorithm", rs512, 401),
        ("a bad signature", forged, 401),
        ("no JWT", "nonsense".to_owned(), 401),
    ];
    for (case, token, status) in refused {
        assert_eq!(f.status(Method::GET, "/app", &token).await, status, "{case}");
    }
    let token = f.token().await;
    assert_eq!(f.status(Method::GET, "/app", &token).await, 401, "an installation is not the app");
    assert_eq!(f.status(Method::GET, RUNNERS, &jwt()).await, 401, "the app is not an installation");
}

#[tokio::test]
async fn installations_are_found_by_the_right_kind_of_account() {
    let f = start(|_| ()).await;
    for (path, status) in [
        ("/repos/acme/shop/installation", 200),
        ("/repos/acme/none/installation", 404),
        ("/orgs/acme/installation", 200),
        ("/orgs/mona/installation", 404),
        ("/users/mona/installation", 200),
        ("/users/acme/installation", 404),
    ] {
        assert_eq!(f.status(Method::GET, path, &jwt()).await, status, "{path}");
    }
    assert_eq!(f.get("/orgs/acme/installation", &jwt()).await["id"], 1);
    assert_eq!(f.get("/users/mona/installation", &jwt()).await["id"], 2, "every account has its own");
    assert_eq!(f.status(Method::POST, "/app/installations/3/access_tokens", &jwt()).await, 404);
}

#[tokio::test]
async fn an_installation_has_the_repositories_of_its_account() {
    let f = start(|_| ()).await;
    let all = f.get("/app/installations", &jwt()).await;
    let accounts: Vec<_> = all.as_array().unwrap().iter().map(|i| (&i["id"], &i["account"]["login"])).collect();
    assert_eq!(accounts, [(&json!(1), &json!("acme")), (&json!(2), &json!("mona"))]);
    let theirs = f.get("/installation/repositories", &f.token().await).await;
    assert_eq!((&theirs["total_count"], &theirs["repositories"][0]["full_name"]), (&json!(1), &json!("acme/shop")));
}

#[tokio::test]
async fn installation_tokens_end() {
    let f = start(|_| ()).await;
    let token = f.token().await;
    assert_eq!(f.status(Method::GET, RUNNERS, &token).await, 200);
    assert_eq!(f.status(Method::GET, RUNNERS, "ghs_guess").await, 401);
    f.clock.0.store(3_601, Ordering::SeqCst);
    assert_eq!(f.status(Method::GET, RUNNERS, &token).await, 401);
}

#[tokio::test]
async fn every_request_needs_a_user_agent_and_gets_its_headers() {
    let f = start(|c| c.rate_limit = 3).await;
    let bare = Client::new();
    let url = format!("{}/app", f.github.api_url());
    let answer = bare.get(&url).bearer_auth(jwt()).send().await.unwrap();
    assert_eq!(answer.status(), 403);
    let answer = f.request(Method::GET, "/app", &jwt()).send().await.unwrap();
    assert!(answer.headers().contains_key("x-github-request-id"));
    assert_eq!(answer.headers()["x-ratelimit-remaining"], "2");
    let etag = answer.headers()["etag"].clone();
    let again = || f.request(Method::GET, "/app", &jwt()).header("if-none-match", etag.clone()).send();
    for _ in 0..5 {
        let answer = again().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["x-ratelimit-remaining"]),
            (304, &"2".parse().unwrap())
        );
        assert!(answer.bytes().await.unwrap().is_empty());
    }
    assert_eq!(f.status(Method::GET, "/app", &jwt()).await, 200);
    assert_eq!(f.status(Method::GET, "/app", &jwt()).await, 200);
    let answer = f.request(Method::GET, "/app", &jwt()).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-ratelimit-remaining"]), (403, &"0".parse().unwrap()));
}

#[tokio::test]
async fn runners_are_minted_listed_and_deleted() {
    let f = start(|_| ()).await;
    let token = f.token().await;
    let mint = |body: Value| {
        f.request(Method::POST, &format!("{RUNNERS}/generate-jitconfig"), &token).body(body.to_string()).send()
    };
    let answer = mint(json!({ "name": "r0", "runner_group_id": 1, "labels": ["a", "b"] })).await.unwrap();
    assert_eq!(answer.status(), 201);
    let minted: Value = answer.json().await.unwrap();
    assert_eq!(minted["runner"]["status"], "offline");
    assert!(!minted["encoded_jit_config"].as_str().unwrap().is_empty());
    let again = mint(json!({ "name": "r0", "runner_group_id": 1, "labels": ["a"] })).await.unwrap();
    assert_eq!(again.status(), 409);
    assert_eq!(mint(json!({ "name": "r1", "runner_group_id": 1, "labels": [] })).await.unwrap().status(), 422);
    assert_eq!(mint(json!({ "name": "r1" })).await.unwrap().status(), 422);
    for i in 1..5 {
        mint(json!({ "name": format!("r{i}"), "runner_group_id": 1, "labels": ["a"] })).await.unwrap();
    }
    let page = f.request(Method::GET, &format!("{RUNNERS}?per_page=2&page=2"), &token).send().await.unwrap();
    let link = page.headers()["link"].to_str().unwrap().to_owned();
    assert!(link.contains("page=3") && link.contains("per_page=2") && link.ends_with("rel=\"next\""), "{link}");
    let page: Value = page.json().await.unwrap();
    assert_eq!((&page["total_count"], &page["runners"][0]["name"]), (&json!(5), &json!("r2")));
    let named = f.get(&format!("{RUNNERS}?name=r3"), &token).await;
    assert_eq!((&named["total_count"], &named["runners"][0]["name"]), (&json!(1), &json!("r3")));
    let one = format!("{RUNNERS}/{}", minted["runner"]["id"]);
    assert_eq!(f.get(&one, &token).await["labels"][1]["name"], "b");
    assert_eq!(f.status(Method::DELETE, &one, &token).await, 204);
    assert_eq!(f.status(Method::DELETE, &one, &token).await, 404);
    assert_eq!(f.status(Method::GET, &one, &token).await, 404);
    assert_eq!(f.status(Method::POST, &format!("{RUNNERS}/registration-token"), &token).await, 201);
    assert_eq!(f.status(Method::GET, "/repos/acme/none/actions/runners", &token).await, 404);
}

#[tokio::test]
async fn jobs_and_runs_are_read_cancelled_and_rerun() {
    let f = start(|_| ()).await;
    let token = f.token().await;
    let (run, jobs) = f.submit(2);
    let base = "/repos/acme/shop/actions";
    let job = f.get(&format!("{base}/jobs/{}", jobs[0]), &token).await;
    assert_eq!((&job["status"], &job["run_id"], &job["runner_id"]), (&json!("queued"), &json!(run), &Value::Null));
    for (status, count) in [("queued", 1), ("in_progress", 0), ("completed", 0)] {
        let runs = f.get(&format!("{base}/runs?status={status}&per_page=100"), &token).await;
        assert_eq!(runs["total_count"], count, "{status}");
    }
    let rerun = format!("{base}/jobs/{}/rerun", jobs[0]);
    assert_eq!(f.status(Method::POST, &rerun, &token).await, 403);
    assert_eq!(f.status(Method::POST, &format!("{base}/runs/{run}/cancel"), &token).await, 202);
    assert_eq!(f.status(Method::POST, &format!("{base}/runs/{run}/cancel"), &token).await, 409);
    assert_eq!(f.get(&format!("{base}/runs?status=cancelled"), &token).await["total_count"], 1);
    assert_eq!(f.status(Method::POST, &rerun, &token).await, 201);
    assert_eq!(f.get(&format!("{base}/runs/{run}"), &token).await["run_attempt"], 2);
    let latest = f.get(&format!("{base}/runs/{run}/jobs?filter=latest&per_page=100"), &token).await;
    assert_eq!(latest["total_count"], 2);
    assert_eq!(f.get(&format!("{base}/runs/{run}/jobs?filter=all"), &token).await["total_count"], 3);
    assert_eq!(f.status(Method::GET, &format!("{base}/jobs/1"), &token).await, 404);
    assert_eq!(f.status(Method::GET, &format!("{base}/jobs/nonsense"), &token).await, 404);
    assert_eq!(f.status(Method::GET, "/nowhere", &token).await, 404);
}

#[derive(Clone)]
struct Inbox {
    seen: mpsc::UnboundedSender<(HeaderMap, bytes::Bytes)>,
    status: Arc<AtomicU16>,
}

async fn receive(Extract(inbox): Extract<Inbox>, headers: HeaderMap, body: bytes::Bytes) -> StatusCode {
    inbox.seen.send((headers, body)).unwrap();
    StatusCode::from_u16(inbox.status.load(Ordering::SeqCst)).unwrap()
}

type Seen = mpsc::UnboundedReceiver<(HeaderMap, bytes::Bytes)>;

async fn receiver() -> (String, Arc<AtomicU16>, Seen) {
    let (seen, inbox) = mpsc::unbounded_channel();
    let status = Arc::new(AtomicU16::new(200));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/webhook", listener.local_addr().unwrap());
    let router = Router::new().route("/webhook", post(receive)).with_state(Inbox { seen, status: status.clone() });
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, status, inbox)
}

async fn next(seen: &mut Seen) -> (HeaderMap, Value) {
    let (headers, body) = tokio::time::timeout(Duration::from_secs(30), seen.recv()).await.unwrap().unwrap();
    let secret = SecretString::from("shh");
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).unwrap();
    mac.update(&body);
    let signature = hex::decode(headers["x-hub-signature-256"].to_str().unwrap().strip_prefix("sha256=").unwrap());
    mac.verify_slice(&signature.unwrap()).expect("signed with the secret");
    (headers, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn webhooks_are_signed_and_have_the_documented_shape() {
    let (url, _, mut seen) = receiver().await;
    let f = start(|c| c.webhook_url = Some(url)).await;
    f.github.ping();
    let (headers, _) = next(&mut seen).await;
    assert_eq!(headers["x-github-event"], "ping");
    let (run, jobs) = f.submit(1);
    let (headers, body) = next(&mut seen).await;
    assert_eq!(
        (&headers["x-github-event"], &headers["content-type"]),
        (&"workflow_job".parse().unwrap(), &"application/json".parse().unwrap())
    );
    assert!(headers.contains_key("x-github-delivery"));
    assert_eq!(body["action"], "queued");
    let job = &body["workflow_job"];
    assert_eq!(
        (&job["id"], &job["run_id"], &job["labels"][0]),
        (&json!(jobs[0]), &json!(run), &json!("runs-fleet/cpu=2"))
    );
    assert_eq!(body["repository"]["full_name"], "acme/shop");
    assert_eq!(body["repository"]["owner"]["login"], "acme");
    assert_eq!((&body["installation"]["id"], &body["organization"]["login"]), (&json!(1), &json!("acme")));
}

#[tokio::test]
async fn a_dropped_webhook_is_in_the_log_and_comes_when_asked_for() {
    let (url, status, mut seen) = receiver().await;
    let f = start(|c| {
        c.webhook_url = Some(url);
        c.faults.drop = 1.0;
    })
    .await;
    f.submit(1);
    f.until("dropped", |c| c.webhooks_failed == 1).await;
    assert!(seen.try_recv().is_err());
    f.github.set_faults(Faults::default());
    status.store(500, Ordering::SeqCst);
    f.submit(2);
    f.until("answered 500", |c| c.webhooks_failed == 3).await;
    let _ = (next(&mut seen).await, next(&mut seen).await);

    let first = f.request(Method::GET, "/app/hook/deliveries?per_page=2", &jwt()).send().await.unwrap();
    let link = first.headers()["link"].to_str().unwrap().to_owned();
    let newest: Value = first.json().await.unwrap();
    assert_eq!((&newest[0]["status_code"], &newest[0]["event"]), (&json!(500), &json!("workflow_job")));
    let path = link.trim_start_matches('<').split('>').next().unwrap().strip_prefix(f.github.api_url()).unwrap();
    let rest = f.get(path, &jwt()).await;
    assert_eq!(rest.as_array().unwrap().len(), 1);
    let dropped = &rest[0];
    assert_eq!(
        (&dropped["status_code"], &dropped["action"], &dropped["redelivery"]),
        (&json!(504), &json!("queued"), &json!(false))
    );

    status.store(200, Ordering::SeqCst);
    let one = format!("/app/hook/deliveries/{}", dropped["id"]);
    assert_eq!(f.get(&one, &jwt()).await["request"]["payload"]["action"], "queued");
    assert_eq!(f.status(Method::POST, &format!("{one}/attempts"), &jwt()).await, 202);
    let (headers, body) = next(&mut seen).await;
    assert_eq!(
        (headers["x-github-delivery"].to_str().unwrap(), &body["action"]),
        (dropped["guid"].as_str().unwrap(), &json!("queued"))
    );
    f.until("delivered", |c| c.webhooks_delivered == 1).await;
    let log = f.get("/app/hook/deliveries", &jwt()).await;
    assert_eq!(
        (&log[0]["guid"], &log[0]["redelivery"], &log[0]["status_code"]),
        (&dropped["guid"], &json!(true), &json!(200))
    );
    assert_eq!(f.status(Method::POST, "/app/hook/deliveries/5/attempts", &jwt()).await, 404);
}

#[tokio::test]
async fn duplicates_share_their_guid_and_an_unreachable_receiver_is_logged() {
    let (url, _, mut seen) = receiver().await;
    let f = start(|c| {
        c.webhook_url = Some(url);
        c.faults = Faults { duplicate: 1.0, reorder: Duration::from_millis(5), ..Faults::default() };
    })
    .await;
    f.submit(1);
    let (first, second) = (next(&mut seen).await, next(&mut seen).await);
    assert_eq!(first.0["x-github-delivery"], second.0["x-github-delivery"]);
    assert_eq!(first.1, second.1);
    f.until("both logged", |c| c.webhooks_delivered == 2).await;
    f.github.set_webhook_url("http://127.0.0.1:1/webhook").unwrap();
    f.submit(1);
    f.until("refused", |c| c.webhooks_failed == 2).await;
    assert_eq!(f.get("/app/hook/deliveries", &jwt()).await[0]["status_code"], 502);
    assert!(f.github.set_webhook_url("https://example.com").is_err());
}

#[tokio::test]
async fn stopping_does_not_wait_for_long_polls() {
    let f = start(|_| ()).await;
    let token = f.token().await;
    let body = json!({ "name": "idle", "runner_group_id": 1, "labels": ["a"] }).to_string();
    let path = format!("{RUNNERS}/generate-jitconfig");
    let minted: Value = f.request(Method::POST, &path, &token).body(body).send().await.unwrap().json().await.unwrap();
    let encoded = minted["encoded_jit_config"].as_str().unwrap();
    let document = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, encoded).unwrap();
    let credential = serde_json::from_slice::<Value>(&document).unwrap()["credential"].as_str().unwrap().to_owned();
    let say = |operation: &str, body: Value| {
        f.request(Method::POST, &format!("/_sim/runner/{operation}"), &credential).json(&body).send()
    };
    assert_eq!(say("connect", json!({})).await.unwrap().status(), 200);
    assert_eq!(say("connect", json!({})).await.unwrap().status(), 409, "one session only");
    let poll = tokio::spawn(say("message", json!({ "running": null })));
    tokio::time::sleep(Duration::from_millis(50)).await;
    f.github.stop().await;
    assert_eq!(poll.await.unwrap().unwrap().json::<Value>().await.unwrap()["word"], "nothing");
}
