//! Refusals and failures, as the API words them.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An answer that is not the one asked for, by what the caller can do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ApiError {
    #[serde(skip)]
    status: StatusCode,
    error: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

impl ApiError {
    const fn new(status: StatusCode, error: &'static str) -> Self {
        Self { status, error, details: None, code: None, param: None, request_id: None }
    }

    /// Mend the parameter.
    pub(crate) fn parameter(param: &str, details: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, "Invalid parameter");
        Self { details: Some(details.into()), param: Some(param.to_owned()), ..error }
    }

    /// Start over at the first page.
    pub(crate) fn cursor_mismatch() -> Self {
        let details = "the cursor belongs to another filter";
        Self { code: Some("cursor_mismatch"), ..Self::parameter("cursor", details) }
    }

    /// There is no such thing.
    pub(crate) const fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not found")
    }

    /// Ask differently.
    pub(crate) const fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
    }

    /// Close another stream first.
    pub(crate) const fn too_many_streams() -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "Too many event streams")
    }

    /// Try again later; the cause is in the log, under `request_id`.
    pub(crate) fn internal(error: &'static str, request_id: String) -> Self {
        Self { request_id: Some(request_id), ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, error) }
    }

    /// Try again later: every queue failed.
    pub(crate) const fn queues() -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "No queue answered")
    }

    /// Try again later: it took too long.
    pub(crate) const fn timeout() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "The answer took too long")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}
