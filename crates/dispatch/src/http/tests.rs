use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::Request;
use db::table::{Cond, Item, Query, Schema, Update, Value, Write};
use db::{Jobs, Markers, Memory, Outcome, Runners, Table};
use domain::clock::{Clock, Rng, Timestamp};
use domain::handover::HandOver as Document;
use domain::ids::{JobId, RunnerKey};
use domain::job::JobState;
use domain::launch::Arch;
use domain::timings::Timings;
use github::client::{Client, ClientConfig, Exchange, ExchangeError};
use github::labels::Aliases;
use github::mint;
use provider::compute::{self, Filter, Machine, SpotRequest};
use provider::{Compute, HandOver, handover};
use queue::{Capabilities, Delivery, Depth, Handle, MemoryQueues, Message, Queue, QueueConfig};
use secrecy::SecretString;
use serde_json::{Value as Json, json};
use simulation::chance::SeededRng;
use simulation::github::http::APP_PRIVATE_KEY;
use telemetry::Metrics;
use tower::ServiceExt;

use super::*;
use crate::context::{Ports, Settings};

const SECRET: &str = "hush";

/// Nobody asks it anything while a webhook is taken.
struct Unasked;

#[async_trait]
impl Exchange for Unasked {
    async fn send(&self, request: Request<Bytes>) -> Result<http::Response<Bytes>, ExchangeError> {
        panic!("a webhook is answered without asking GitHub: {}", request.uri())
    }
}

#[async_trait]
impl Compute for Unasked {
    async fn launch(&self, _: &compute::Order) -> Vec<Result<Machine, compute::Error>> {
        panic!("a webhook launches nothing")
    }
    async fn start(&self, _: &RunnerKey) -> Result<(), compute::Error> {
        panic!("a webhook starts nothing")
    }
    async fn stop(&self, _: &RunnerKey) -> Result<(), compute::Error> {
        panic!("a webhook stops nothing")
    }
    async fn terminate(&self, _: &RunnerKey) -> Result<(), compute::Error> {
        panic!("a webhook ends nothing")
    }
    async fn describe(&self, _: &RunnerKey) -> Result<Option<Machine>, compute::Error> {
        panic!("a webhook describes nothing")
    }
    async fn tag(&self, _: &RunnerKey, _: &[(String, String)]) -> Result<(), compute::Error> {
        panic!("a webhook tags nothing")
    }
    async fn untag(&self, _: &RunnerKey, _: &[&str]) -> Result<(), compute::Error> {
        panic!("a webhook tags nothing")
    }
    async fn list(&self, _: &Filter) -> Result<Vec<Machine>, compute::Error> {
        panic!("a webhook lists nothing")
    }
    async fn current_image(&self, _: Arch) -> Result<Option<String>, compute::Error> {
        panic!("a webhook asks for no image")
    }
    async fn spot_requests(&self) -> Result<Vec<SpotRequest>, compute::Error> {
        panic!("a webhook lists nothing")
    }
    async fn cancel_spot_requests(&self, _: &[String]) -> Result<(), compute::Error> {
        panic!("a webhook cancels nothing")
    }
}

#[async_trait]
impl HandOver for Unasked {
    async fn put(&self, _: &RunnerKey, _: &Document) -> Result<(), handover::Error> {
        panic!("a webhook hands nothing over")
    }
    async fn get(&self, _: &RunnerKey) -> Result<Option<Document>, handover::Error> {
        panic!("a webhook hands nothing over")
    }
    async fn delete(&self, _: &RunnerKey) -> Result<(), handover::Error> {
        panic!("a webhook hands nothing over")
    }
    async fn list(&self) -> Result<Vec<RunnerKey>, handover::Error> {
        panic!("a webhook hands nothing over")
    }
}

struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        domain::testing::at(0)
    }
}

/// A store and a queue with a switch.
struct Switched<T> {
    inner: T,
    down: Arc<AtomicBool>,
}

impl<T> Switched<T> {
    fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }
}

fn unavailable() -> db::Error {
    db::Error::Unavailable("switched off".to_owned())
}

#[async_trait]
impl Table for Switched<Memory> {
    async fn get(&self, table: &'static Schema, key: &Value) -> Result<Option<Item>, db::Error> {
        if self.is_down() { Err(unavailable()) } else { self.inner.get(table, key).await }
    }
    async fn put(&self, table: &'static Schema, item: Item, cond: Cond) -> Result<Outcome, db::Error> {
        if self.is_down() { Err(unavailable()) } else { self.inner.put(table, item, cond).await }
    }
    async fn update(
        &self,
        table: &'static Schema,
        key: &Value,
        update: Update,
        cond: Cond,
    ) -> Result<Outcome<Item>, db::Error> {
        if self.is_down() { Err(unavailable()) } else { self.inner.update(table, key, update, cond).await }
    }
    async fn delete(&self, table: &'static Schema, key: &Value, cond: Cond) -> Result<Outcome, db::Error> {
        if self.is_down() { Err(unavailable()) } else { self.inner.delete(table, key, cond).await }
    }
    async fn query(&self, table: &'static Schema, query: Query) -> Result<Vec<Item>, db::Error> {
        if self.is_down() { Err(unavailable()) } else { self.inner.query(table, query).await }
    }
    async fn scan(&self, table: &'static Schema) -> Result<Vec<Item>, db::Error> {
        if self.is_down() { Err(unavailable()) } else { self.inner.scan(table).await }
    }
    async fn transact(&self, writes: Vec<Write>) -> Result<Outcome, db::Error> {
        if self.is_down() { Err(unavailable()) } else { self.inner.transact(writes).await }
    }
}

#[async_trait]
impl Queue for Switched<Arc<dyn Queue>> {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn send(&self, message: Message) -> Result<String, queue::Error> {
        if self.is_down() { Err(queue::Error::Timeout) } else { self.inner.send(message).await }
    }
    async fn receive(&self, max: usize, wait: Duration, visibility: Duration) -> Result<Vec<Delivery>, queue::Error> {
        self.inner.receive(max, wait, visibility).await
    }
    async fn ack(&self, handle: &Handle) -> Result<(), queue::Error> {
        self.inner.ack(handle).await
    }
    async fn extend(&self, handle: &Handle, visibility: Duration) -> Result<(), queue::Error> {
        self.inner.extend(handle, visibility).await
    }
    async fn reject(&self, delivery: &Delivery, reason: &str) -> Result<(), queue::Error> {
        self.inner.reject(delivery, reason).await
    }
    async fn ping(&self) -> Result<(), queue::Error> {
        self.inner.ping().await
    }
    async fn depth(&self) -> Result<Depth, queue::Error> {
        self.inner.depth().await
    }
}

/// A server in front of empty stores.
struct Site {
    router: Router,
    dispatch: Arc<Dispatch>,
    store_down: Arc<AtomicBool>,
    queue_down: Arc<AtomicBool>,
}

impl Site {
    fn new(secret: &str) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(Noon);
        let rng: Arc<dyn Rng> = Arc::new(SeededRng::new(1));
        let (store_down, queue_down): (Arc<AtomicBool>, Arc<AtomicBool>) = Default::default();
        let table: Arc<dyn Table> =
            Arc::new(Switched { inner: Memory::new(Arc::clone(&clock)), down: Arc::clone(&store_down) });
        let queues = MemoryQueues::new(Arc::clone(&clock), Arc::clone(&rng));
        let main = Switched { inner: queues.queue(QueueConfig::fifo("main")), down: Arc::clone(&queue_down) };
        let app = ClientConfig {
            app_id: 1,
            private_key: SecretString::from(APP_PRIVATE_KEY),
            api_url: "https://api.github.com".to_owned(),
            version: "0.0.0".to_owned(),
        };
        let client =
            Client::new(&app, Arc::new(Unasked), Arc::clone(&clock), Arc::clone(&rng)).expect("the key is good");
        let ports = Ports {
            jobs: Jobs::new(Arc::clone(&table), Arc::clone(&clock)),
            runners: Runners::new(Arc::clone(&table), Arc::clone(&clock)),
            markers: Markers::new(table, Arc::clone(&clock)),
            main: Arc::new(main),
            dead_letters: None,
            compute: Arc::new(Unasked),
            pools: None,
            hand_over: Arc::new(Unasked),
            github: Arc::new(client),
            clock,
            rng,
            metrics: Metrics::new(),
        };
        let settings = Settings {
            timings: Timings::PRODUCTION,
            owner: "test".to_owned(),
            aliases: Aliases::none(),
            allowed_repos: vec!["acme/*".to_owned()],
            jobs_per_minute: 0,
            registration: mint::Registration::Jit,
            rerun_interrupted: true,
            max_runtime: Duration::from_secs(3600),
            hand_over: mint::Settings::default(),
            batch_max: Settings::BATCH_MAX,
            batch_linger: Settings::BATCH_LINGER,
            report_tokens: None,
            require_report_token: false,
            account: None,
        };
        let dispatch = Dispatch::new(ports, settings);
        let secrets = Secrets { current: SecretString::from(secret), previous: None };
        Self { router: router(Arc::clone(&dispatch), secrets), dispatch, store_down, queue_down }
    }

    async fn answer(&self, request: Request<Body>) -> (u16, String, HeaderMap) {
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.expect("in memory").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("plain text"), headers)
    }

    async fn send(&self, event: &str, body: &[u8]) -> (u16, String) {
        let (status, text, _) = self.answer(signed(event, body)).await;
        (status, text)
    }

    async fn messages(&self) -> u64 {
        self.dispatch.ports.main.depth().await.expect("in memory").visible.expect("counted")
    }

    async fn state(&self) -> Option<JobState> {
        let id = JobId::new(7).expect("positive");
        self.dispatch.ports.jobs.get(id).await.expect("in memory").map(|job| job.state)
    }
}

fn post(headers: &[(&str, &str)], body: &[u8]) -> Request<Body> {
    let mut request = Request::post("/webhook");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_vec())).expect("a request")
}

fn signed(event: &str, body: &[u8]) -> Request<Body> {
    let signature = webhook::sign(&SecretString::from(SECRET), body);
    post(&[("X-GitHub-Event", event), ("X-Hub-Signature-256", &signature), ("X-GitHub-Delivery", "guid")], body)
}

fn payload(action: &str, labels: &[&str]) -> Json {
    json!({
        "action": action,
        "workflow_job": {"id": 7, "run_id": 9, "name": "build", "labels": labels, "status": action},
        "repository": {"full_name": "acme/widgets"},
        "installation": {"id": 3},
    })
}

fn event(action: &str, labels: &[&str]) -> Vec<u8> {
    payload(action, labels).to_string().into_bytes()
}

const REFUSED: (u16, &str) = (400, "Bad request\n");
const SEEN: (u16, &str) = (200, "Event acknowledged\n");

fn is((status, body): &(u16, String), wanted: (u16, &str)) {
    assert_eq!((*status, body.as_str()), wanted);
}

#[tokio::test(start_paused = true)]
async fn only_post_is_answered_and_the_header_says_so() {
    let site = Site::new(SECRET);
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let request = Request::builder().method(method).uri("/webhook").body(Body::empty()).expect("a request");
        let (status, body, headers) = site.answer(request).await;
        assert_eq!((status, &headers["allow"]), (405, &header::HeaderValue::from_static("POST")), "{method}");
        if method != "HEAD" {
            assert_eq!(body, "Method not allowed\n");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_prober_learns_nothing_from_a_refusal() {
    let body = event("queued", &["runs-fleet/cpu=2"]);
    let good = webhook::sign(&SecretString::from(SECRET), &body);
    let other = webhook::sign(&SecretString::from("another"), &body);
    let upper = good.to_uppercase().replace("SHA256", "sha256");
    let bare = good.trim_start_matches("sha256=").to_owned();
    let sha1 = format!("sha1={bare}");
    let short = good[..good.len() - 2].to_owned();
    let cases: [(&str, Vec<(&str, &str)>); 9] = [
        ("no event", vec![("X-Hub-Signature-256", &good)]),
        ("an empty event", vec![("X-GitHub-Event", ""), ("X-Hub-Signature-256", &good)]),
        ("no signature", vec![("X-GitHub-Event", "workflow_job")]),
        ("another scheme", vec![("X-GitHub-Event", "workflow_job"), ("X-Hub-Signature-256", &sha1)]),
        ("no scheme", vec![("X-GitHub-Event", "workflow_job"), ("X-Hub-Signature-256", &bare)]),
        ("upper case", vec![("X-GitHub-Event", "workflow_job"), ("X-Hub-Signature-256", &upper)]),
        ("a short one", vec![("X-GitHub-Event", "workflow_job"), ("X-Hub-Signature-256", &short)]),
        ("another secret", vec![("X-GitHub-Event", "workflow_job"), ("X-Hub-Signature-256", &other)]),
        ("another body", vec![("X-GitHub-Event", "workflow_job"), ("X-Hub-Signature-256", &good)]),
    ];
    let site = Site::new(SECRET);
    for (what, headers) in &cases {
        let sent = if *what == "another body" { [&body[..], b" "].concat() } else { body.clone() };
        let (status, text, _) = site.answer(post(headers, &sent)).await;
        assert_eq!((status, text.as_str()), REFUSED, "{what}");
    }
    assert_eq!((site.messages().await, site.state().await), (0, None));
    is(&site.send("workflow_job", &body).await, (200, "Job queued\n"));
}

#[tokio::test(start_paused = true)]
async fn without_a_secret_nothing_is_good() {
    let site = Site::new("");
    let body = event("queued", &["runs-fleet/cpu=2"]);
    let signature = webhook::sign(&SecretString::from(""), &body);
    let request = post(&[("X-GitHub-Event", "workflow_job"), ("X-Hub-Signature-256", &signature)], &body);
    let (status, text, _) = site.answer(request).await;
    assert_eq!((status, text.as_str()), REFUSED);
}

#[tokio::test(start_paused = true)]
async fn one_mebibyte_is_allowed_and_one_byte_more_is_not() {
    let site = Site::new(SECRET);
    let mut body = event("queued", &["runs-fleet/cpu=2"]);
    body.resize(1_048_576, b' ');
    is(&site.send("workflow_job", &body).await, (200, "Job queued\n"));
    body.push(b' ');
    is(&site.send("workflow_job", &body).await, REFUSED);
}

#[tokio::test(start_paused = true)]
async fn a_signed_body_must_be_an_event() {
    let site = Site::new(SECRET);
    let mut no_repository = payload("queued", &["runs-fleet/cpu=2"]);
    no_repository.as_object_mut().expect("an object").remove("repository");
    let mut no_id = payload("queued", &["runs-fleet/cpu=2"]);
    no_id["workflow_job"]["id"] = json!(0);
    let mut labels = payload("queued", &[]);
    labels["workflow_job"]["labels"] = json!("runs-fleet");
    let bodies = ["", "{", "null", "[]", "payload=%7B%7D", "{}"].map(str::to_owned);
    for body in bodies.into_iter().chain([no_repository, no_id, labels].map(|body| body.to_string())) {
        is(&site.send("workflow_job", body.as_bytes()).await, REFUSED);
        // Only a workflow_job is read at all.
        is(&site.send("push", body.as_bytes()).await, SEEN);
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_concern_us_is_acknowledged_and_leaves_no_trace() {
    let site = Site::new(SECRET);
    for event in ["ping", "push", "check_run", "an_event_of_the_future"] {
        is(&site.send(event, br#"{"zen":"Design for failure."}"#).await, SEEN);
    }
    let ours = ["runs-fleet/cpu=2"];
    let mut foreign = payload("queued", &ours);
    foreign["repository"]["full_name"] = json!("stranger/widgets");
    let bodies = [
        payload("queued", &["ubuntu-latest"]),
        payload("in_progress", &["ubuntu-latest"]),
        payload("completed", &[]),
        payload("waiting", &ours),
        payload("requested", &ours),
        payload("pending", &ours),
        payload("an_action_of_the_future", &ours),
        foreign,
    ];
    for body in bodies {
        is(&site.send("workflow_job", body.to_string().as_bytes()).await, SEEN);
    }
    assert_eq!((site.messages().await, site.state().await), (0, None));
    assert!(site.dispatch.rejected().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_queued_job_of_ours_is_on_record_and_on_its_way_when_we_answer() {
    let site = Site::new(SECRET);
    is(&site.send("workflow_job", &event("queued", &["runs-fleet/cpu=2"])).await, (200, "Job queued\n"));
    assert_eq!((site.messages().await, site.state().await), (1, Some(JobState::Requeued)));
    is(&site.send("workflow_job", &event("queued", &["runs-fleet/cpu=2"])).await, (200, "Job queued\n"));
    assert_eq!(site.messages().await, 1, "a repeat is deduplicated");
}

#[tokio::test(start_paused = true)]
async fn news_of_a_job_is_queued() {
    let site = Site::new(SECRET);
    for (n, action) in ["in_progress", "completed"].into_iter().enumerate() {
        is(&site.send("workflow_job", &event(action, &["runs-fleet/cpu=2"])).await, (200, "Event queued\n"));
        assert_eq!(site.messages().await, u64::try_from(n).expect("small") + 1);
    }
    // Our runner took somebody else's job.
    let mut stolen = payload("in_progress", &["ubuntu-latest"]);
    stolen["workflow_job"]["id"] = json!(8);
    stolen["workflow_job"]["runner_name"] = json!("runs-fleet-runner-widgets-000007-0123456789abcdef0");
    is(&site.send("workflow_job", stolen.to_string().as_bytes()).await, (200, "Event queued\n"));
}

#[tokio::test(start_paused = true)]
async fn labels_that_make_no_sense_are_shown_to_operators() {
    let site = Site::new(SECRET);
    let labels = ["runs-fleet/cpu=many"];
    is(&site.send("workflow_job", &event("queued", &labels)).await, SEEN);
    is(&site.send("workflow_job", &event("queued", &labels)).await, SEEN);
    let rejected = site.dispatch.rejected();
    assert_eq!(rejected.len(), 1, "a repeat is the same rejection");
    assert_eq!((rejected[0].id.get(), rejected[0].repo.as_str()), (7, "acme/widgets"));
    assert_eq!(rejected[0].labels, labels);
    assert!(!rejected[0].category.is_empty());
    assert_eq!((site.messages().await, site.state().await), (0, None));
}

#[tokio::test(start_paused = true)]
async fn a_webhook_is_refused_only_when_neither_store_nor_queue_takes_it() {
    let queued = event("queued", &["runs-fleet/cpu=2"]);
    for (store_down, queue_down, status) in
        [(false, false, 200), (true, false, 200), (false, true, 200), (true, true, 503)]
    {
        let site = Site::new(SECRET);
        site.store_down.store(store_down, Ordering::Relaxed);
        site.queue_down.store(queue_down, Ordering::Relaxed);
        let began = tokio::time::Instant::now();
        let (answered, body, headers) = site.answer(signed("workflow_job", &queued)).await;
        assert!(began.elapsed() < Duration::from_secs(10), "GitHub has hung up by then");
        assert_eq!(answered, status, "store down: {store_down}, queue down: {queue_down}");
        if status == 503 {
            assert_eq!(body, "Queue unavailable\n");
            assert_eq!(headers["retry-after"], "30");
        } else {
            assert_eq!(body, "Job queued\n");
        }
        site.store_down.store(false, Ordering::Relaxed);
        let wanted = (status == 200 && !store_down).then_some(JobState::Requeued);
        assert_eq!(site.state().await, wanted);
        assert_eq!(site.messages().await, u64::from(status == 200 && !queue_down));
    }
}

#[tokio::test(start_paused = true)]
async fn news_that_cannot_be_queued_is_refused() {
    let site = Site::new(SECRET);
    site.queue_down.store(true, Ordering::Relaxed);
    let (status, body, headers) = site.answer(signed("workflow_job", &event("completed", &["runs-fleet/cpu=2"]))).await;
    assert_eq!((status, body.as_str()), (503, "Queue unavailable\n"));
    assert_eq!(headers["retry-after"], "30");
}
