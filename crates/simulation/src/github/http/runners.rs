//! The stand-in runner's side: its session, and the tarball it comes in.
//!
//! Not GitHub's protocol, which is private and large, but one with the same effects. A listener holds a long poll
//! open all the time, with or without a job; each poll is also its sign of life.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Shared;
use super::answer::{Answer, Reply};
use crate::github::model::{Connect, Message, Refusal};
use crate::runner::wire::{Complete, Hello, Poll, Word};

/// Where the tarball is.
pub(super) const TARBALL_PATH: &str = "/_sim/runner/actions-runner.tar.gz";

pub(super) fn routes(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/_sim/counters", get(counters))
        .route(TARBALL_PATH, get(tarball))
        .route("/_sim/runner/connect", post(connect))
        .route("/_sim/runner/message", post(message))
        .route("/_sim/runner/complete", post(complete))
        .route("/_sim/runner/disconnect", post(disconnect))
        .with_state(Arc::clone(shared))
}

async fn counters(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!(shared.with(|model, _| model.counters())))
}

async fn tarball(State(shared): State<Arc<Shared>>) -> Response {
    match &shared.tarball {
        Some(tarball) => ([(CONTENT_TYPE, "application/gzip")], tarball.bytes.clone()).into_response(),
        None => Answer::from(Refusal::NotFound).into_response(),
    }
}

fn credential(headers: &HeaderMap) -> Result<&str, Answer> {
    let bearer = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    bearer.ok_or_else(|| Answer::error(StatusCode::UNAUTHORIZED, "Requires authentication"))
}

async fn connect(State(shared): State<Arc<Shared>>, headers: HeaderMap, Json(hello): Json<Hello>) -> Reply {
    let credential = credential(&headers)?;
    let hello = Connect { pid: hello.pid, process_started_ms: hello.process_started_ms, attended: false };
    let id = shared.with(|model, now| model.connect(credential, hello, now))?;
    Ok(Answer::ok(json!({ "runner_id": id })))
}

async fn message(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Json(poll): Json<Poll>,
) -> Result<Json<Word>, Answer> {
    let credential = credential(&headers)?;
    // Two of these must fit into the silence after which a runner is lost.
    let patience = (shared.lost_after / 3).min(Duration::from_secs(20));
    let until = Instant::now() + patience;
    let mut changed = shared.changed.subscribe();
    shared.with(|model, now| model.heard(credential, now));
    loop {
        changed.mark_unchanged();
        let message = shared.with(|model, _| model.message(credential, poll.running));
        let waited = Instant::now() >= until || shared.stop.is_cancelled();
        if message != Message::Nothing || waited {
            shared.with(|model, now| model.heard(credential, now));
            return Ok(Json(Word::from(message)));
        }
        tokio::select! {
            () = shared.stop.cancelled() => {}
            () = tokio::time::sleep_until(until) => {}
            _ = changed.changed() => {}
        }
    }
}

async fn complete(State(shared): State<Arc<Shared>>, headers: HeaderMap, Json(end): Json<Complete>) -> Reply {
    let credential = credential(&headers)?;
    shared.with(|model, now| model.complete(credential, end.job, end.conclusion, now))?;
    Ok(Answer::ok(json!({})))
}

async fn disconnect(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Reply {
    let credential = credential(&headers)?;
    shared.with(|model, now| model.disconnect(credential, now));
    Ok(Answer::ok(json!({})))
}
