//! The first protocol: REST.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::json;
use telemetry::metrics::{CacheCall, CacheOperation};
use tokio::time::Instant;

use super::{CALL, KEYS, base, caller, json_response, small};
use crate::address::Parameters;
use crate::body::{Announced, incoming};
use crate::engine::{Cache, Committed, Reserved};
use crate::layout::{Manifest, Reservation, UploadId};
use crate::name::{check_key, check_version};
use crate::range::content_range;
use crate::store::{self, Cut};
use crate::token::{Caller, Refused};

const EXISTS: (&str, &str) =
    ("ArtifactCacheItemAlreadyExistsException", "cache entry with the same key, version, and scope already exists");

/// An error, as clients of this protocol read it.
fn error(status: StatusCode, (type_key, message): (&str, &str)) -> Response {
    let body = json!({
        "$id": "1", "innerException": null, "message": message, "typeName": type_key, "typeKey": type_key,
        "errorCode": 0, "eventId": 3000,
    });
    json_response(status, body.to_string())
}

fn bad(message: &str) -> Response {
    error(StatusCode::BAD_REQUEST, ("InvalidRequestException", message))
}

fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, ("NotFoundException", "there is no such cache"))
}

fn exists() -> Response {
    error(StatusCode::CONFLICT, EXISTS)
}

fn denied(what: &str) -> Response {
    let message = format!("cache {what} denied: the token has no scope to {what}");
    error(StatusCode::FORBIDDEN, ("AccessDeniedException", &message))
}

fn refused(refused: Refused) -> Response {
    let message = match refused {
        Refused::Missing => "Unauthorized: missing cache token",
        _ => "Unauthorized: invalid cache token",
    };
    error(StatusCode::UNAUTHORIZED, ("UnauthorizedException", message))
}

fn not_allowed(allow: &'static str) -> Response {
    let mut response =
        error(StatusCode::METHOD_NOT_ALLOWED, ("MethodNotAllowedException", "this method is not allowed here"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

/// The store does not answer while bytes are at stake: worth another try.
fn unavailable() -> Response {
    error(StatusCode::SERVICE_UNAVAILABLE, ("ServiceUnavailableException", "cache storage unavailable"))
}

fn failed(cache: &Cache, call: CacheCall, cause: &store::Error) {
    cache.metrics.cache_errors(call);
    tracing::warn!(protocol = "v1", call = call.as_str(), error = %cause, "a request of the cache failed");
}

/// `GET cache?keys=…&version=…`
pub(super) async fn lookup(State(cache): State<Arc<Cache>>, request: Request) -> Response {
    let started = Instant::now();
    if request.method() != Method::GET {
        return not_allowed("GET");
    }
    let caller = match caller(&cache, request.headers()) {
        Ok(caller) => caller,
        Err(why) => return refused(why),
    };
    let query = Parameters::new(request.uri().query());
    let Some(keys) = query.get("keys").filter(|keys| !keys.is_empty()) else {
        return bad("keys parameter is required");
    };
    let Some(version) = query.get("version").filter(|version| !version.is_empty()) else {
        return bad("version parameter is required");
    };
    let keys: Vec<String> = keys.split(',').map(str::to_owned).collect();
    if keys.len() > KEYS {
        return bad("too many keys");
    }
    if let Err(why) = keys.iter().try_for_each(|key| check_key(key)).and_then(|()| check_version(&version)) {
        return bad(&why.to_string());
    }
    if caller.scopes.read.is_empty() {
        return denied("read");
    }
    let found = cache.lookup(&caller, &keys, &version).await;
    cache.metrics.cache_request(CacheCall::Get, started.elapsed());
    match found {
        Ok(Some(entry)) => {
            let location = cache.signer.download(&base(&cache, request.headers()), &entry.data, cache.now());
            let mut body = shown(&entry);
            body["archiveLocation"] = location.into();
            json_response(StatusCode::OK, body.to_string())
        }
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Err(cause) => {
            failed(&cache, CacheCall::Get, &cause);
            error(StatusCode::INTERNAL_SERVER_ERROR, ("CacheException", "Failed to check cache entry"))
        }
    }
}

fn shown(entry: &Manifest) -> serde_json::Value {
    json!({
        "scope": entry.scope, "cacheKey": entry.key, "cacheVersion": entry.version,
        "creationTime": entry.created_at.to_string(),
    })
}

/// `GET caches?key=…` and `POST caches`
pub(super) async fn caches(State(cache): State<Arc<Cache>>, request: Request) -> Response {
    match *request.method() {
        Method::GET => list(&cache, &request.into_parts().0).await,
        Method::POST => reserve(&cache, request).await,
        _ => not_allowed("GET, POST"),
    }
}

async fn list(cache: &Cache, request: &Parts) -> Response {
    let caller = match caller(cache, &request.headers) {
        Ok(caller) => caller,
        Err(why) => return refused(why),
    };
    let Some(key) = Parameters::new(request.uri.query()).get("key") else { return bad("key parameter is required") };
    if let Err(why) = check_key(&key) {
        return bad(&why.to_string());
    }
    match cache.similar(&caller, &key).await {
        Ok(entries) => {
            let caches: Vec<_> = entries.iter().map(shown).collect();
            let body = json!({ "totalCount": caches.len(), "artifactCaches": caches });
            json_response(StatusCode::OK, body.to_string())
        }
        Err(cause) => {
            failed(cache, CacheCall::Get, &cause);
            error(StatusCode::INTERNAL_SERVER_ERROR, ("CacheException", "Failed to list cache entries"))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reserve {
    #[serde(default)]
    key: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    cache_size: Option<i64>,
}

async fn reserve(cache: &Cache, request: Request) -> Response {
    let started = Instant::now();
    let caller = match caller(cache, request.headers()) {
        Ok(caller) => caller,
        Err(why) => return refused(why),
    };
    let body: Reserve = match decoded(request.into_body()).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    if let Err(why) = check_key(&body.key).and_then(|()| check_version(&body.version)) {
        return bad(&why.to_string());
    }
    let Ok(size) = u64::try_from(body.cache_size.unwrap_or(0)) else { return bad("cacheSize is negative") };
    let reserved = cache.reserve(&caller, &body.key, &body.version, size).await;
    cache.metrics.cache_request(CacheCall::Reserve, started.elapsed());
    match reserved {
        Ok(Reserved::Yes(id)) => {
            cache.metrics.cache_operations(CacheOperation::Reserve);
            json_response(StatusCode::OK, json!({ "cacheId": id.get() }).to_string())
        }
        Ok(Reserved::Exists) => exists(),
        Ok(Reserved::Denied) => denied("write"),
        Ok(Reserved::TooLarge) => {
            let most = cache.settings.max_entry;
            bad(&format!("Cache size of {size} bytes is over the {most} byte limit, not saving cache."))
        }
        Ok(Reserved::TooMany) => {
            let mut response =
                error(StatusCode::TOO_MANY_REQUESTS, ("TooManyRequestsException", "too many reservations"));
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
            response
        }
        Err(cause) => {
            failed(cache, CacheCall::Reserve, &cause);
            unavailable()
        }
    }
}

async fn decoded<T: for<'de> Deserialize<'de>>(body: Body) -> Result<T, Response> {
    let Ok(body) = small(body, CALL).await else {
        return Err(error(StatusCode::PAYLOAD_TOO_LARGE, ("InvalidRequestException", "the body is too large")));
    };
    serde_json::from_slice(&body).map_err(|_| bad("the body is not the JSON that was expected"))
}

/// `PATCH caches/{id}` and `POST caches/{id}`
pub(super) async fn upload(State(cache): State<Arc<Cache>>, Path(id): Path<String>, request: Request) -> Response {
    let method = request.method().clone();
    if method != Method::PATCH && method != Method::POST {
        return not_allowed("PATCH, POST");
    }
    let caller = match caller(&cache, request.headers()) {
        Ok(caller) => caller,
        Err(why) => return refused(why),
    };
    let found = match UploadId::parse(&id) {
        Some(id) => cache.reservation(id).await,
        None => Ok(None),
    };
    let reservation = match found {
        // That it exists is nobody else's business.
        Ok(reservation) => match reservation.filter(|reservation| is_own(&caller, reservation)) {
            Some(reservation) => reservation,
            None => return not_found(),
        },
        Err(cause) => {
            failed(&cache, CacheCall::Commit, &cause);
            return unavailable();
        }
    };
    let (parts, body) = request.into_parts();
    if method == Method::PATCH {
        chunk(&cache, &reservation, &parts.headers, body).await
    } else {
        commit(&cache, reservation, body).await
    }
}

fn is_own(caller: &Caller, reservation: &Reservation) -> bool {
    caller.repo.to_string() == reservation.repo && caller.job == reservation.sub
}

async fn chunk(cache: &Arc<Cache>, reservation: &Reservation, headers: &HeaderMap, body: Body) -> Response {
    if reservation.committed.is_some() {
        return exists();
    }
    let range = headers.get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok()).and_then(content_range);
    let Some((start, end)) = range else { return bad("Content-Range is missing or malformed") };
    let too_large =
        || error(StatusCode::PAYLOAD_TOO_LARGE, ("InvalidRequestException", "the cache is larger than allowed"));
    if end >= cache.settings.max_entry {
        return too_large();
    }
    let length = end - start + 1;
    let announced = Announced { length: Some(length), most: length, ..Announced::default() };
    match cache.put_chunk(reservation, (start, end), incoming(body, announced)).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(store::Error::Cut(Cut::TooLarge)) => too_large(),
        Err(store::Error::Cut(cut)) => bad(&cut.to_string()),
        Err(cause) => {
            if matches!(cause, store::Error::Full) {
                cache.relieve();
            }
            failed(cache, CacheCall::Commit, &cause);
            unavailable()
        }
    }
}

#[derive(Deserialize)]
struct Commit {
    size: Option<i64>,
}

async fn commit(cache: &Arc<Cache>, reservation: Reservation, body: Body) -> Response {
    let started = Instant::now();
    let body: Commit = match decoded(body).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let Some(size) = body.size.and_then(|size| u64::try_from(size).ok()) else {
        return bad("size is missing or negative");
    };
    let committed = cache.commit_chunks(reservation, size).await;
    cache.metrics.cache_request(CacheCall::Commit, started.elapsed());
    match committed {
        Ok(Committed::Yes(_)) => {
            cache.metrics.cache_operations(CacheOperation::Commit);
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(Committed::Taken) => exists(),
        Ok(Committed::Unknown) => not_found(),
        Ok(Committed::Denied) => denied("write"),
        Ok(Committed::Nothing | Committed::Holes) => bad("the chunks do not make up the announced size"),
        Ok(Committed::Size { declared, stored }) => {
            bad(&format!("{declared} bytes were announced, {stored} were uploaded"))
        }
        Ok(Committed::Pending) => unavailable(),
        Err(cause) => {
            failed(cache, CacheCall::Commit, &cause);
            unavailable()
        }
    }
}

/// `GET /_artifacts/{entry id}`
pub(super) async fn artifact(State(cache): State<Arc<Cache>>, Path(id): Path<String>, request: Request) -> Response {
    let caller = match caller(&cache, request.headers()) {
        Ok(caller) => caller,
        Err(why) => return refused(why),
    };
    if percent_decode_str(&id).decode_utf8().is_err() || id.contains(['/', '\\', '\0']) {
        return bad("the path is malformed");
    }
    let found = match UploadId::parse(&id) {
        Some(id) => cache.entry(&caller, id).await,
        None => Ok(None),
    };
    match found {
        Ok(Some(entry)) => {
            let location = cache.signer.download(&base(&cache, request.headers()), &entry.data, cache.now());
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()
        }
        Ok(None) => not_found(),
        Err(cause) => {
            failed(&cache, CacheCall::Get, &cause);
            unavailable()
        }
    }
}

pub(super) async fn unknown() -> Response {
    not_found()
}
