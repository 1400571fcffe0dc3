//! The API over stores in memory, as a browser would ask it.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]

mod events;
mod fixture;
mod instances;
mod jobs;
mod serving;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use domain::clock::{Clock, Timestamp};
use domain::testing::at;
use fixture::Fleet;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

/// 2026-01-01, ten minutes past midnight.
struct TenPast;

impl Clock for TenPast {
    fn now(&self) -> Timestamp {
        at(600)
    }
}

fn fleet() -> Fleet {
    Fleet::new(Arc::new(TenPast))
}

async fn ask(app: &Router, method: Method, path: &str) -> Response<Body> {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    app.clone().oneshot(request).await.unwrap()
}

async fn get(app: &Router, path: &str) -> (StatusCode, Value) {
    let response = ask(app, Method::GET, path).await;
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

async fn ok(app: &Router, path: &str) -> Value {
    let (status, body) = get(app, path).await;
    assert_eq!(status, StatusCode::OK, "{path} {body}");
    body
}
