//! The second protocol: Twirp.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use telemetry::metrics::{CacheCall, CacheOperation};
use tokio::time::Instant;

use super::proto::{Answer, Create, Encoding, Finalize, Lookup, Undecodable, encode};
use super::{CALL, KEYS, base, caller, json_response, small};
use crate::engine::{Cache, Committed, Reserved};
use crate::name::{BadName, check_key, check_version};
use crate::store;
use crate::token::{Caller, Refused};

const SERVICE: &str = "github.actions.results.api.v1.CacheService";
const EXISTS: &str = "cache entry with the same key, version, and scope already exists";
const UNAVAILABLE: &str = "cache storage unavailable";

/// An error, as clients of this protocol read it: JSON, whatever the request was.
#[derive(Debug)]
struct Error(StatusCode, &'static str, String);

impl Error {
    fn malformed(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, "malformed", message.into())
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, "invalid_argument", message.into())
    }
}

impl From<BadName> for Error {
    fn from(why: BadName) -> Self {
        Self::invalid(why.to_string())
    }
}

impl From<Undecodable> for Error {
    fn from(why: Undecodable) -> Self {
        match why {
            Undecodable::Malformed => Self::malformed(why.to_string()),
            Undecodable::Field(_) => Self::invalid(why.to_string()),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let Self(status, code, message) = self;
        let mut response = json_response(status, json!({ "code": code, "msg": message }).to_string());
        match status {
            StatusCode::TOO_MANY_REQUESTS => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            }
            _ => {}
        }
        response
    }
}

/// Services of others, and methods of the future.
fn no_route() -> Error {
    Error(StatusCode::NOT_FOUND, "bad_route", "there is no such method here".to_owned())
}

/// `POST /twirp/<service>/<method>`
pub(super) async fn call(State(cache): State<Arc<Cache>>, Path(path): Path<String>, request: Request) -> Response {
    let (service, method) = path.split_once('/').unwrap_or_default();
    answered(&cache, service, method, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answered(cache: &Arc<Cache>, service: &str, method: &str, request: Request) -> Result<Response, Error> {
    let (call, known) = match method {
        "CreateCacheEntry" => (CacheCall::Reserve, true),
        "FinalizeCacheEntryUpload" => (CacheCall::Commit, true),
        "GetCacheEntryDownloadURL" => (CacheCall::Get, true),
        _ => (CacheCall::Get, false),
    };
    if service != SERVICE || !known {
        return Err(no_route());
    }
    if request.method() != Method::POST {
        return Err(Error(StatusCode::METHOD_NOT_ALLOWED, "bad_route", "only POST is allowed here".to_owned()));
    }
    let encoding = encoding(request.headers()).ok_or_else(no_route)?;
    let caller = caller(cache, request.headers()).map_err(|refused| {
        let what = if refused == Refused::Missing { "missing" } else { "invalid" };
        Error(StatusCode::UNAUTHORIZED, "unauthenticated", format!("Unauthorized: {what} cache token"))
    })?;
    let base = base(cache, request.headers());
    let Ok(body) = small(request.into_body(), CALL).await else {
        return Err(Error(StatusCode::PAYLOAD_TOO_LARGE, "malformed", "the body is too large".to_owned()));
    };
    let started = Instant::now();
    let fields = match call {
        CacheCall::Reserve => create(cache, &caller, &base, &Create::decode(encoding, &body)?).await,
        CacheCall::Commit => finalize(cache, &caller, &Finalize::decode(encoding, &body)?).await,
        _ => lookup(cache, &caller, &base, Lookup::decode(encoding, &body)?).await,
    }?;
    cache.metrics.cache_request(call, started.elapsed());
    let kind = match encoding {
        Encoding::Json => "application/json",
        Encoding::Protobuf => "application/protobuf",
    };
    Ok(([(header::CONTENT_TYPE, kind)], encode(encoding, &fields)).into_response())
}

fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Some(Encoding::Json) };
    let kind = kind.to_str().ok()?.split(';').next()?.trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" | "" => Some(Encoding::Json),
        "application/protobuf" => Some(Encoding::Protobuf),
        _ => None,
    }
}

type Fields = Vec<(&'static str, u8, Answer)>;

fn not_ok(message: &str) -> Fields {
    vec![("ok", 1, Answer::Bool(false)), ("message", 3, Answer::Text(message.to_owned()))]
}

fn failed(cache: &Cache, call: CacheCall, cause: &store::Error) {
    cache.metrics.cache_errors(call);
    tracing::warn!(protocol = "v2", call = call.as_str(), error = %cause, "a request of the cache failed");
}

fn write_denied() -> Fields {
    not_ok("cache write denied: the token has no scope to write to")
}

async fn create(cache: &Cache, caller: &Caller, base: &str, request: &Create) -> Result<Fields, Error> {
    check_key(&request.key)?;
    check_version(&request.version)?;
    match cache.reserve(caller, &request.key, &request.version, 0).await {
        Ok(Reserved::Yes(id)) => {
            cache.metrics.cache_operations(CacheOperation::Reserve);
            let url = cache.signer.upload(base, id, cache.now());
            Ok(vec![("ok", 1, Answer::Bool(true)), ("signed_upload_url", 2, Answer::Text(url))])
        }
        Ok(Reserved::Exists) => Err(Error(StatusCode::CONFLICT, "already_exists", EXISTS.to_owned())),
        Ok(Reserved::Denied) => Ok(write_denied()),
        Ok(Reserved::TooLarge) => Err(Error::invalid("the cache is larger than allowed")),
        Ok(Reserved::TooMany) => {
            Err(Error(StatusCode::TOO_MANY_REQUESTS, "resource_exhausted", "too many reservations".to_owned()))
        }
        // A server error would make the client try for half a minute; the job should go on.
        Err(cause) => {
            failed(cache, CacheCall::Reserve, &cause);
            Ok(not_ok(UNAVAILABLE))
        }
    }
}

async fn finalize(cache: &Arc<Cache>, caller: &Caller, request: &Finalize) -> Result<Fields, Error> {
    check_key(&request.key)?;
    check_version(&request.version)?;
    let unavailable = || Error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", UNAVAILABLE.to_owned());
    match cache.finalize(caller, &request.key, &request.version, request.size_bytes).await {
        Ok(Committed::Yes(id)) => {
            cache.metrics.cache_operations(CacheOperation::Commit);
            Ok(vec![("ok", 1, Answer::Bool(true)), ("entry_id", 2, Answer::Int64(id.get()))])
        }
        Ok(Committed::Denied) => Ok(write_denied()),
        Ok(Committed::Taken) => Err(Error(StatusCode::CONFLICT, "already_exists", EXISTS.to_owned())),
        Ok(Committed::Unknown) => {
            Err(Error(StatusCode::NOT_FOUND, "not_found", "nothing was reserved for this key".to_owned()))
        }
        Ok(Committed::Nothing | Committed::Holes) => Err(Error::invalid("nothing was uploaded for this key")),
        Ok(Committed::Size { declared, stored }) => {
            Err(Error::invalid(format!("{declared} bytes were announced, {stored} were uploaded")))
        }
        // The bytes are here: another try is worth it, and joins what goes on.
        Ok(Committed::Pending) => Err(unavailable()),
        Err(cause) => {
            failed(cache, CacheCall::Commit, &cause);
            Err(unavailable())
        }
    }
}

async fn lookup(cache: &Arc<Cache>, caller: &Caller, base: &str, request: Lookup) -> Result<Fields, Error> {
    let keys: Vec<String> = std::iter::once(request.key).chain(request.restore_keys).collect();
    keys.iter().try_for_each(|key| check_key(key))?;
    check_version(&request.version)?;
    // Some clients repeat the primary key among the restore keys.
    let distinct: std::collections::HashSet<&String> = keys.iter().collect();
    if distinct.len() > KEYS {
        return Err(Error::invalid("too many keys"));
    }
    if caller.scopes.read.is_empty() {
        let message = "cache read denied: the token has no scope to read from".to_owned();
        return Err(Error(StatusCode::FORBIDDEN, "permission_denied", message));
    }
    match cache.lookup(caller, &keys, &request.version).await {
        Ok(Some(entry)) => {
            let url = cache.signer.download(base, &entry.data, cache.now());
            Ok(vec![
                ("ok", 1, Answer::Bool(true)),
                ("signed_download_url", 2, Answer::Text(url)),
                ("matched_key", 3, Answer::Text(entry.key)),
            ])
        }
        Ok(None) => Ok(vec![("ok", 1, Answer::Bool(false))]),
        Err(cause) => {
            failed(cache, CacheCall::Get, &cause);
            Ok(vec![("ok", 1, Answer::Bool(false))])
        }
    }
}
