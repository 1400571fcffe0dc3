//! Answers in GitHub's form: JSON bodies, `message` for refusals, `Link` for the next page.

use axum::Json;
use axum::http::header::LINK;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::github::model::{Listing, Refusal};

/// An answer; `Err(Answer)` in handlers is the early return of a refusal.
pub(super) struct Answer {
    status: StatusCode,
    body: Option<Value>,
    link: Option<String>,
}

/// What handlers return.
pub(super) type Reply = Result<Answer, Answer>;

impl Answer {
    pub(super) const fn ok(body: Value) -> Self {
        Self { status: StatusCode::OK, body: Some(body), link: None }
    }

    pub(super) const fn created(body: Value) -> Self {
        Self { status: StatusCode::CREATED, body: Some(body), link: None }
    }

    /// 202 with an empty object.
    pub(super) fn accepted() -> Self {
        Self { status: StatusCode::ACCEPTED, body: Some(json!({})), link: None }
    }

    pub(super) const fn empty(status: StatusCode) -> Self {
        Self { status, body: None, link: None }
    }

    /// An error in GitHub's words.
    pub(super) fn error(status: StatusCode, message: &str) -> Self {
        let status_text = status.as_u16().to_string();
        let docs = "https://docs.github.com/rest";
        let body = json!({ "message": message, "documentation_url": docs, "status": status_text });
        Self { status, body: Some(body), link: None }
    }

    /// A page of a list, linked to the next one if there is one.
    pub(super) fn page(listing: Listing, api_url: &str, uri: &Uri, page: usize) -> Self {
        let link = listing.more.then(|| next_link(api_url, uri, "page", &(page + 1).to_string()));
        Self { status: StatusCode::OK, body: Some(listing.body), link }
    }

    pub(super) fn linked(self, link: Option<String>) -> Self {
        Self { link, ..self }
    }
}

/// `Link` to the same list with one query parameter replaced.
pub(super) fn next_link(api_url: &str, uri: &Uri, key: &str, value: &str) -> String {
    let kept = uri.query().unwrap_or_default().split('&');
    let kept = kept.filter(|pair| !pair.is_empty() && pair.split('=').next() != Some(key));
    let query: Vec<String> = kept.map(str::to_owned).chain([format!("{key}={value}")]).collect();
    format!("<{api_url}{}?{}>; rel=\"next\"", uri.path(), query.join("&"))
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::Forbidden(_) => StatusCode::FORBIDDEN,
            Refusal::NotFound => StatusCode::NOT_FOUND,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::error(status, &refusal.to_string())
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = match self.body {
            Some(body) => (self.status, Json(body)).into_response(),
            None => self.status.into_response(),
        };
        if let Some(link) = self.link.and_then(|l| HeaderValue::from_str(&l).ok()) {
            response.headers_mut().insert(LINK, link);
        }
        response
    }
}
