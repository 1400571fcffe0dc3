//! Which path leads where, and what every answer carries.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{any, get};
use axum::{Json, Router};

use crate::error::ApiError;
use crate::page::Site;
use crate::snapshot::Snapshots;
use crate::state::{Access, AdminState};
use crate::status::AuthConfig;
use crate::{cache, events, instances, jobs, queues, status};

/// Bound on a reading request.
const READ: Duration = Duration::from_secs(15);

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Everything under `/api` and `/admin`.
pub fn router(state: AdminState) -> Router {
    let access = state.access;
    let api = Router::new()
        .route("/api/auth/config", get(move || async move { Json(AuthConfig::of(access)) }))
        .merge(match access {
            Access::Open => reads(state),
            Access::Closed => Router::new(),
        })
        .route("/api", any(unknown))
        .route("/api/", any(unknown))
        .route("/api/{*path}", any(unknown))
        .method_not_allowed_fallback(async || ApiError::method())
        .layer(middleware::map_response(no_store));
    let site = Arc::new(Site::new());
    let page = Router::new()
        .route("/admin", get(async || Redirect::permanent("/admin/")))
        .route("/admin/", get(Site::serve))
        .route("/admin/{*path}", get(Site::serve))
        .with_state(site);
    api.merge(page).layer(middleware::map_response(secured))
}

/// `/` leads to the page. For local mode; elsewhere `/` is nobody's.
pub fn root_redirect() -> Router {
    Router::new().route("/", get(async || Redirect::temporary("/admin/")))
}

fn reads(state: AdminState) -> Router {
    Router::new()
        .route("/api/jobs", get(jobs::list))
        .route("/api/jobs/stats", get(jobs::stats))
        .route("/api/jobs/rejected", get(jobs::rejected))
        .route("/api/jobs/{id}", get(jobs::one))
        .route("/api/jobs/{id}/timeline", get(jobs::timeline))
        .route("/api/jobs/{id}/why", get(jobs::explain))
        .route("/api/instances", get(instances::list))
        .route("/api/queues", get(queues::list))
        .route("/api/queues/{name}", get(queues::one))
        .route("/api/cache/stats", get(cache::stats))
        .route("/api/status", get(status::status))
        .layer(middleware::from_fn(bounded))
        .with_state(state.clone())
        .merge(events::router(state, Arc::new(Snapshots::default())))
}

async fn unknown() -> ApiError {
    ApiError::not_found()
}

async fn bounded(request: Request, next: Next) -> Response {
    match tokio::time::timeout(READ, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::timeout().into_response(),
    }
}

async fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn secured(mut response: Response) -> Response {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

impl AdminState {
    /// An answer for a failure that is not the caller's. The cause goes to the log: it may name tables and accounts.
    pub(crate) fn failed(&self, cause: &dyn std::fmt::Display) -> ApiError {
        let request_id = self.dispatch.ports().rng.token();
        tracing::error!(request_id, error = %cause, "a request of the operator API failed");
        ApiError::internal("The answer could not be read", request_id)
    }
}
