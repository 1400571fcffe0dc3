//! What every REST request passes: `User-Agent`, credential, quota; and what every answer gets: request id, quota
//! headers, `ETag` and with it 304.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, USER_AGENT};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domain::clock::{Timestamp, after};
use sha2::{Digest, Sha256};

use super::answer::Answer;
use super::{Shared, auth, lock};

/// Which credential a path asks for.
#[derive(Clone, Copy)]
pub(super) enum Speaker {
    /// The App's JWT.
    App,
    /// An installation token.
    Installation,
}

/// Tokens in circulation and the use made of the quota.
pub(super) struct Gate {
    tokens: BTreeMap<String, Timestamp>,
    token_lifetime: Duration,
    limit: u64,
    used: u64,
    resets_at: Timestamp,
}

impl Gate {
    pub(super) const fn new(limit: u64, token_lifetime: Duration) -> Self {
        Self { tokens: BTreeMap::new(), token_lifetime, limit, used: 0, resets_at: Timestamp::UNIX_EPOCH }
    }

    /// Puts an installation token in circulation; answers its end.
    pub(super) fn issue(&mut self, token: &str, now: Timestamp) -> Timestamp {
        self.tokens.retain(|_, expires_at| *expires_at > now);
        let expires_at = after(now, self.token_lifetime);
        self.tokens.insert(token.to_owned(), expires_at);
        expires_at
    }

    fn knows(&self, token: &str, now: Timestamp) -> bool {
        self.tokens.get(token).is_some_and(|expires_at| *expires_at > now)
    }

    /// Takes one request from the quota; `false` when there is none left.
    fn spend(&mut self, now: Timestamp) -> bool {
        if self.resets_at <= now {
            (self.used, self.resets_at) = (0, after(now, Duration::from_secs(3_600)));
        }
        let allowed = self.used < self.limit;
        self.used += u64::from(allowed);
        allowed
    }

    const fn refund(&mut self) {
        self.used = self.used.saturating_sub(1);
    }

    fn headers(&self, headers: &mut HeaderMap) {
        headers.insert("x-ratelimit-limit", self.limit.into());
        headers.insert("x-ratelimit-remaining", self.limit.saturating_sub(self.used).into());
        headers.insert("x-ratelimit-used", self.used.into());
        headers.insert("x-ratelimit-reset", self.resets_at.as_second().into());
        headers.insert("x-ratelimit-resource", HeaderValue::from_static("core"));
    }
}

/// The middleware.
pub(super) async fn pass(
    State((shared, speaker)): State<(Arc<Shared>, Speaker)>,
    request: Request,
    next: Next,
) -> Response {
    let cached = request.headers().get(IF_NONE_MATCH).cloned();
    let is_get = request.method() == Method::GET;
    let mut response = match admit(&shared, speaker, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    if is_get && response.status() == StatusCode::OK {
        response = tag(response, cached.as_ref()).await;
        if response.status() == StatusCode::NOT_MODIFIED {
            lock(&shared.gate).refund();
        }
    }
    lock(&shared.gate).headers(response.headers_mut());
    if let Ok(id) = HeaderValue::from_str(&shared.rng.token().to_uppercase()) {
        response.headers_mut().insert("x-github-request-id", id);
    }
    response
}

fn admit(shared: &Shared, speaker: Speaker, headers: &HeaderMap) -> Result<(), Answer> {
    if headers.get(USER_AGENT).is_none_or(HeaderValue::is_empty) {
        return Err(Answer::error(
            StatusCode::FORBIDDEN,
            "Request forbidden by administrative rules. Please make sure your request has a User-Agent header",
        ));
    }
    let now = shared.clock.now();
    let credential = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.split_once(' '));
    let unauthorized = |message| Err(Answer::error(StatusCode::UNAUTHORIZED, message));
    match (speaker, credential) {
        (_, None) => return unauthorized("Requires authentication"),
        (Speaker::App, Some((scheme, token))) if scheme.eq_ignore_ascii_case("bearer") => {
            auth::check_app(token, shared.app_id, now)?;
        }
        (Speaker::App, _) => return unauthorized("A JSON web token could not be decoded"),
        (Speaker::Installation, Some((scheme, token))) => {
            let scheme_fits = ["bearer", "token"].iter().any(|s| scheme.eq_ignore_ascii_case(s));
            if !scheme_fits || !lock(&shared.gate).knows(token, now) {
                return unauthorized("Bad credentials");
            }
        }
    }
    if lock(&shared.gate).spend(now) {
        Ok(())
    } else {
        Err(Answer::error(StatusCode::FORBIDDEN, "API rate limit exceeded for this installation."))
    }
}

/// Adds an `ETag` made from the body; answers 304 to whoever has that body already.
async fn tag(response: Response, cached: Option<&HeaderValue>) -> Response {
    let (mut parts, body) = response.into_parts();
    // Bodies here are built in memory: reading one cannot fail, and this crate made it no larger than it had to be.
    let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let hash = hex::encode(Sha256::digest(&bytes));
    let Ok(etag) = HeaderValue::from_str(&format!("W/\"{hash}\"")) else {
        return Response::from_parts(parts, Body::from(bytes));
    };
    let unchanged = cached == Some(&etag);
    parts.headers.insert(ETAG, etag);
    if unchanged {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.remove(CONTENT_TYPE);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, Body::from(bytes))
}
