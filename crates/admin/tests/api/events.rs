//! The stream of changes.

use std::time::Duration;

use admin::router;
use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::{Method, StatusCode, header};
use domain::testing::accepted;
use futures::StreamExt;
use serde_json::Value;

use crate::{ask, fleet};

struct Listener(BodyDataStream);

impl Listener {
    async fn open(app: &Router, path: &str) -> Self {
        let response = ask(app, Method::GET, path).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self(Body::into_data_stream(response.into_body()))
    }

    /// The next event's name and data; `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        let chunk = self.0.next().await?.unwrap();
        let text = std::str::from_utf8(&chunk).unwrap();
        let line = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix)).unwrap_or_default();
        Some((line("event: ").to_owned(), serde_json::from_str(line("data: ")).unwrap()))
    }

    async fn name(&mut self) -> String {
        self.next().await.unwrap().0
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_anew_counts_and_tells_news() {
    let fleet = fleet();
    let app = router(fleet.state.clone());
    let mut stream = Listener::open(&app, "/api/events").await;
    assert_eq!(stream.name().await, "reset");
    let (name, data) = stream.next().await.unwrap();
    assert_eq!((name.as_str(), &data["states"]["requeued"]), ("snapshot", &Value::from(0)));
    fleet.webhook(8, &["runs-fleet/cpu=2"]).await;
    let (name, data) = stream.next().await.unwrap();
    assert_eq!((name.as_str(), &data["job_id"], &data["status"]), ("job", &Value::from(8), &Value::from("requeued")));
    let (name, data) = stream.next().await.unwrap();
    assert_eq!((name.as_str(), &data["states"]["requeued"]), ("snapshot", &Value::from(1)));
    fleet.webhook(9, &["runs-fleet/cpu=lots"]).await;
    assert_eq!(stream.next().await.unwrap().1["status"], "rejected");
    assert_eq!(stream.next().await.unwrap().1["rejected"], 1);
    assert_eq!(stream.name().await, "ping", "nothing else to tell");
}

#[tokio::test(start_paused = true)]
async fn what_another_replica_did_shows_in_the_counts() {
    let fleet = fleet();
    let app = router(fleet.state.clone());
    let mut stream = Listener::open(&app, "/api/events?topics=instances").await;
    assert_eq!(stream.name().await, "reset");
    assert_eq!(stream.name().await, "snapshot");
    fleet.job(accepted(5)).await;
    let (name, data) = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.unwrap().unwrap();
    assert_eq!((name.as_str(), &data["states"]["requeued"]), ("snapshot", &Value::from(1)));
    // Topics not asked for stay quiet.
    fleet.webhook(8, &["runs-fleet/cpu=2"]).await;
    assert_eq!(stream.name().await, "snapshot");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_fell_behind_starts_over() {
    let fleet = fleet();
    let app = router(fleet.state.clone());
    let mut stream = Listener::open(&app, "/api/events").await;
    assert_eq!(stream.name().await, "reset");
    assert_eq!(stream.name().await, "snapshot");
    for job in 1..=300 {
        fleet.webhook(job, &["runs-fleet/cpu=2"]).await;
    }
    assert_eq!(stream.name().await, "reset");
    while stream.next().await.unwrap().1["states"]["requeued"] != 300 {}
}

#[tokio::test(start_paused = true)]
async fn there_is_room_for_twenty_and_a_place_left_is_free_again() {
    let fleet = fleet();
    let app = router(fleet.state);
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(Listener::open(&app, "/api/events").await);
    }
    let refused = ask(&app, Method::GET, "/api/events").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    open.pop();
    Listener::open(&app, "/api/events").await;
}

#[tokio::test(start_paused = true)]
async fn a_draining_server_ends_its_streams() {
    let fleet = fleet();
    let app = router(fleet.state.clone());
    let mut stream = Listener::open(&app, "/api/events").await;
    stream.next().await;
    fleet.state.stop.cancel();
    while let Some((name, _)) = stream.next().await {
        assert_eq!(name, "snapshot");
    }
}
