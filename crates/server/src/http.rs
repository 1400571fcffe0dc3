//! `/health`, `/ready`, `/metrics`, and everything the rooms serve, on one listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use coordinator::Coordinator;
use queue::Queue;
use serde::Deserialize;
use telemetry::Metrics;
use telemetry::metrics::{CONTENT_TYPE, Method, Route, StatusClass};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The watchdog must have ticked within this.
const ALIVE: Duration = Duration::from_secs(10);
/// A successful ping is believed for so long.
const FRESH: Duration = Duration::from_secs(5);
/// Bound on a ping.
const PING: Duration = Duration::from_secs(2);

/// What the health endpoints look at. Liveness looks at nothing outside the process: an outage elsewhere must not
/// restart every replica. Readiness looks at the main queue only: a replica without store still takes webhooks.
pub(crate) struct Health {
    main: Arc<dyn Queue>,
    /// Reported, never required.
    coordinator: Arc<Coordinator>,
    draining: AtomicBool,
    ticked: std::sync::Mutex<Instant>,
    pinged: Mutex<Option<Instant>>,
}

impl Health {
    pub(crate) fn new(main: Arc<dyn Queue>, coordinator: Arc<Coordinator>) -> Arc<Self> {
        Arc::new(Self {
            main,
            coordinator,
            draining: AtomicBool::new(false),
            ticked: std::sync::Mutex::new(Instant::now()),
            pinged: Mutex::new(None),
        })
    }

    /// From now on the balancer is told to look elsewhere.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The process can still schedule tasks.
    pub(crate) fn tick(&self) {
        *self.ticked.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
    }

    fn is_alive(&self) -> bool {
        self.ticked.lock().unwrap_or_else(std::sync::PoisonError::into_inner).elapsed() < ALIVE
    }

    async fn queue_answers(&self) -> bool {
        let mut pinged = self.pinged.lock().await;
        if pinged.is_some_and(|at| at.elapsed() < FRESH) {
            return true;
        }
        let good = matches!(tokio::time::timeout(PING, self.main.ping()).await, Ok(Ok(())));
        *pinged = good.then(Instant::now);
        good
    }
}

/// `/health` and `/ready`.
pub(crate) fn health(health: Arc<Health>) -> Router {
    Router::new().route("/health", get(alive)).route("/ready", get(ready)).with_state(health)
}

async fn alive(State(health): State<Arc<Health>>) -> Response {
    if health.is_alive() {
        (StatusCode::OK, "OK\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "Not scheduling tasks\n").into_response()
    }
}

#[derive(Deserialize)]
struct ReadyQuery {
    #[serde(default)]
    verbose: String,
}

async fn ready(State(health): State<Arc<Health>>, Query(query): Query<ReadyQuery>) -> Response {
    let draining = health.draining.load(Ordering::Relaxed);
    let queue = health.queue_answers().await;
    let status = if draining || !queue { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    if query.verbose == "1" {
        let age_ms = health.pinged.lock().await.map(|at| at.elapsed().as_millis());
        let body = serde_json::json!({
            "draining": draining,
            "leader": health.coordinator.is_leader(),
            "dependencies": [{ "name": "main queue", "ok": queue, "age_ms": age_ms }],
        });
        return (status, axum::Json(body)).into_response();
    }
    let text = match (draining, queue) {
        (true, _) => "Shutting down\n",
        (false, false) => "Queue not ready\n",
        (false, true) => "OK\n",
    };
    (status, text).into_response()
}

/// The metrics, where Prometheus looks for them.
pub(crate) fn metrics(path: &str, metrics: Metrics) -> Router {
    let render = move || {
        let metrics = metrics.clone();
        async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.render()) }
    };
    Router::new().route(path, get(render))
}

/// Counts and times every answer, by the template of its route.
pub(crate) async fn counted(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = Method::parse(request.method().as_str()).unwrap_or(Method::Other);
    let response = next.run(request).await;
    let status = StatusClass::from(response.status().as_u16());
    let route = Route(route.as_deref().unwrap_or("other"));
    metrics.http_requests(route, method, status);
    metrics.http_request(route, method, status, started.elapsed());
    response
}
