//! The cache over HTTP: two protocols to ask and to reserve, and one way for the bytes.
//!
//! * `v1` — REST, for clients up to 3.x, and newer ones that are told so.
//! * `v2` — Twirp, for newer clients; its messages are in [`proto`].
//! * `blob` — what Azure's storage clients say to a blob, as far as cache clients say it.
//!
//! Clients decide by status, header and text what to do next: retry, warn, or go on without a cache. So every error has
//! the form its protocol knows; one that a client cannot read costs a job half a minute of retries.

mod blob;
pub mod proto;
mod v1;
mod v2;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use domain::clock::Timestamp;
use telemetry::metrics::CacheRefusal;

use crate::body::IDLE;
use crate::engine::Cache;
use crate::token::{Caller, Refused};

/// Largest body of a call that is not about bytes.
const CALL: usize = 1 << 20;
/// Keys of one lookup.
const KEYS: usize = 10;

/// Everything the cache answers. Paths are fixed by its clients.
pub fn router(cache: Arc<Cache>) -> Router {
    Router::new()
        .route("/_apis/artifactcache/cache", any(v1::lookup))
        .route("/_apis/artifactcache/caches", any(v1::caches))
        .route("/_apis/artifactcache/caches/{id}", any(v1::upload))
        .route("/_apis/artifactcache/{*rest}", any(v1::unknown))
        .route("/_artifacts/{id}", get(v1::artifact))
        .route("/twirp/{*method}", any(v2::call))
        .route("/_rfcache/u/{id}", any(blob::upload))
        .route("/_rfcache/u/{id}/presign", any(blob::presign))
        .route("/_rfcache/d/{id}", any(blob::download))
        .route("/_rfcache/{*rest}", any(blob::unknown))
        .with_state(cache)
}

/// Who calls. The first header that is there counts, even when it is wrong.
fn caller(cache: &Cache, headers: &HeaderMap) -> Result<Caller, Refused> {
    let Some(keys) = &cache.keys else { return Ok(Caller::anonymous()) };
    let bearer = || {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    };
    let token = match headers.get("x-cache-token") {
        Some(token) => token.to_str().map_err(|_| Refused::Malformed),
        None => bearer().ok_or(Refused::Missing),
    };
    token.and_then(|token| keys.verify(token, cache.now())).inspect_err(|refused| {
        cache.metrics.cache_auth_rejected(match refused {
            Refused::Missing => CacheRefusal::Missing,
            Refused::Malformed => CacheRefusal::Malformed,
            Refused::Signature => CacheRefusal::Signature,
            Refused::Expired => CacheRefusal::Expired,
            Refused::Scope => CacheRefusal::Scope,
        });
    })
}

/// Where clients find us: as who led them here says, else as configured, else as they found us. A client that says so
/// itself fools nobody else.
fn base(cache: &Cache, headers: &HeaderMap) -> String {
    if let Some(origin) = headers.get("x-cache-origin").and_then(|origin| origin.to_str().ok()) {
        return origin.to_owned();
    }
    let host = || headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    cache.settings.base.clone().unwrap_or_else(|| format!("http://{}", host()))
}

/// A small body; `Err`: it is too large, or did not arrive.
async fn small(body: Body, most: usize) -> Result<Bytes, TooMuch> {
    match tokio::time::timeout(IDLE, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        _ => Err(TooMuch),
    }
}

#[derive(Debug)]
struct TooMuch;

fn json_response(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.into()).into_response()
}

/// As in the header `Last-Modified`.
fn http_date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_http() {
        let at = Timestamp::from_second(784_111_777).expect("in range");
        assert_eq!(http_date(at), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
