//! `POST /webhook`: the way in for GitHub.
//!
//! Checked in an order that tells a prober nothing: method, headers, size, signature, and only then the body. The
//! answer is 200 once a record or a message exists, 503 when neither could be written.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use github::webhook::{self, Secrets, WorkflowJobEvent};
use http_body_util::{BodyExt, Limited};
use telemetry::metrics::{Ingress, WebhookAction, WebhookEvent, WebhookResult};
use tracing::{debug, error, info};

use crate::context::Dispatch;
use crate::ingest::Ingested;

const BAD_REQUEST: &str = "Bad request\n";
const ACKNOWLEDGED: &str = "Event acknowledged\n";

/// Bound on reading a body.
const READ: Duration = Duration::from_secs(8);

#[derive(Clone)]
struct Ingest {
    dispatch: Arc<Dispatch>,
    secrets: Arc<Secrets>,
}

/// The route.
pub fn router(dispatch: Arc<Dispatch>, secrets: Secrets) -> Router {
    Router::new().route("/webhook", any(receive)).with_state(Ingest { dispatch, secrets: Arc::new(secrets) })
}

async fn receive(State(ingest): State<Ingest>, method: Method, headers: HeaderMap, body: Body) -> Response {
    if method != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")], "Method not allowed\n").into_response();
    }
    let received = ingest.dispatch.now();
    let started = tokio::time::Instant::now();
    let response = ingest.handle(&headers, body, received).await;
    ingest.dispatch.ports.metrics.webhook_handler(started.elapsed());
    response
}

impl Ingest {
    async fn handle(&self, headers: &HeaderMap, body: Body, received: domain::clock::Timestamp) -> Response {
        let event = text(headers, "x-github-event");
        if event.is_empty() {
            return self.bad_request("no_event");
        }
        let signature = text(headers, "x-hub-signature-256");
        if !signature.starts_with("sha256=") {
            return self.bad_request("signature_format");
        }
        // One byte over the limit is enough to know.
        let read = tokio::time::timeout(READ, Limited::new(body, webhook::MAX_BODY).collect()).await;
        let Ok(Ok(body)) = read.map(|body| body.map(|b| b.to_bytes())) else {
            return self.bad_request("body");
        };
        if webhook::verify(&self.secrets, signature, &body).is_err() {
            return self.bad_request("signature_mismatch");
        }
        if event != "workflow_job" {
            self.count(event, None, WebhookResult::Ignored);
            return (StatusCode::OK, ACKNOWLEDGED).into_response();
        }
        self.workflow_job(text(headers, "x-github-delivery"), &body, received).await
    }

    async fn workflow_job(&self, delivery: &str, body: &Bytes, received: domain::clock::Timestamp) -> Response {
        let event = match WorkflowJobEvent::decode(body) {
            Ok(event) => event,
            Err(error) => {
                info!(delivery, %error, "a signed webhook makes no sense");
                return self.bad_request("payload");
            }
        };
        let action = WebhookAction::parse(event.action.as_str());
        let (result, answer) = match self.dispatch.ingest(&event, delivery, received).await {
            Ok(Ingested::Ignored) => (WebhookResult::Ignored, ACKNOWLEDGED),
            Ok(Ingested::Rejected) => (WebhookResult::Rejected, ACKNOWLEDGED),
            Ok(Ingested::Queued) => (WebhookResult::Queued, "Job queued\n"),
            Ok(Ingested::Forwarded) => (WebhookResult::Queued, "Event queued\n"),
            Err(error) => {
                error!(job_id = event.job_id.get(), delivery, %error, "answering 503; the delivery is asked for again");
                self.count("workflow_job", action, WebhookResult::Error);
                return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "30")], "Queue unavailable\n")
                    .into_response();
            }
        };
        debug!(job_id = event.job_id.get(), delivery, action = event.action.as_str(), "webhook handled");
        self.count("workflow_job", action, result);
        (StatusCode::OK, answer).into_response()
    }

    fn count(&self, event: &str, action: Option<WebhookAction>, result: WebhookResult) {
        let event = WebhookEvent::parse(webhook::event_label(event)).unwrap_or(WebhookEvent::Other);
        self.dispatch.ports.metrics.webhook_events(event, action, result);
    }

    fn bad_request(&self, reason: &'static str) -> Response {
        self.dispatch.ports.metrics.webhook_rejected(Ingress::Http, reason);
        debug!(reason, "webhook refused");
        (StatusCode::BAD_REQUEST, BAD_REQUEST).into_response()
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
