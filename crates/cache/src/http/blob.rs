//! The bytes: what Azure's storage clients say to a block blob, as far as cache clients say it.
//!
//! Clients are particular: an upload's answer is 201 and nothing else, a failure worth another try is 503 and nothing
//! else, and some crash without the header that names the request.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::StreamExt;
use telemetry::metrics::{CacheCall, CacheOperation};

use super::{http_date, json_response, small};
use crate::address::Parameters;
use crate::blocks::{BadList, block_id, block_list};
use crate::body::{Announced, incoming};
use crate::engine::{Cache, ListPut};
use crate::layout::{Reservation, UploadId};
use crate::range::{Wanted, wanted};
use crate::store::{self, Cut};

/// Largest block list: 50,000 ids.
const LIST: usize = 8 << 20;
/// Largest block.
const BLOCK: u64 = 4000 << 20;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");
const VERSION: HeaderName = HeaderName::from_static("x-ms-version");
const ERROR_CODE: HeaderName = HeaderName::from_static("x-ms-error-code");
const BLOB_TYPE: HeaderName = HeaderName::from_static("x-ms-blob-type");

/// An error, as Azure's clients read it.
#[derive(Debug, Clone, Copy)]
struct Error(StatusCode, &'static str, &'static str);

impl Error {
    const SIGNATURE: Self =
        Self(StatusCode::FORBIDDEN, "AuthenticationFailed", "The address is not signed, or no longer valid.");
    const NO_BLOB: Self = Self(StatusCode::NOT_FOUND, "BlobNotFound", "There is no such blob.");
    const METHOD: Self =
        Self(StatusCode::METHOD_NOT_ALLOWED, "UnsupportedHttpVerb", "This method is not allowed here.");
    const QUERY: Self = Self(
        StatusCode::BAD_REQUEST,
        "InvalidQueryParameterValue",
        "A query parameter has a value that is not allowed.",
    );
    const HEADER: Self =
        Self(StatusCode::BAD_REQUEST, "InvalidHeaderValue", "A header has a value that is not allowed.");
    const LENGTH: Self = Self(StatusCode::LENGTH_REQUIRED, "MissingContentLengthHeader", "Content-Length is missing.");
    const TOO_LARGE: Self =
        Self(StatusCode::PAYLOAD_TOO_LARGE, "RequestBodyTooLarge", "The body is larger than allowed.");
    const CUT: Self = Self(StatusCode::BAD_REQUEST, "InvalidInput", "The body is not as long as announced.");
    const MD5: Self = Self(StatusCode::BAD_REQUEST, "Md5Mismatch", "The MD5 of the body is not the announced one.");
    const CRC64: Self =
        Self(StatusCode::BAD_REQUEST, "Crc64Mismatch", "The CRC-64 of the body is not the announced one.");
    const XML: Self = Self(StatusCode::BAD_REQUEST, "InvalidXmlDocument", "The body is not a block list.");
    const BLOCKS: Self = Self(StatusCode::BAD_REQUEST, "InvalidBlockList", "The list names a block that is not there.");
    const FINAL: Self =
        Self(StatusCode::CONFLICT, "BlobImmutableDueToPolicy", "The entry is committed and cannot be changed.");
    const BUSY: Self = Self(StatusCode::SERVICE_UNAVAILABLE, "ServerBusy", "The store does not answer at the moment.");
    const CONDITION: Self =
        Self(StatusCode::PRECONDITION_FAILED, "ConditionNotMet", "The condition of a header is not met.");

    fn response(self) -> Response {
        let Self(status, code, message) = self;
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        );
        let headers = [(header::CONTENT_TYPE, "application/xml"), (ERROR_CODE, code)];
        (status, headers, body).into_response()
    }
}

/// Adds what every answer carries.
fn named(cache: &Cache, request: &HeaderMap, mut response: Response) -> Response {
    let headers = response.headers_mut();
    let id = HeaderValue::from_str(&cache.request_id()).unwrap_or(HeaderValue::from_static("0"));
    headers.insert(REQUEST_ID, id);
    for name in [VERSION, CLIENT_REQUEST_ID] {
        if let Some(value) = request.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    response
}

pub(super) async fn unknown() -> Response {
    Error::NO_BLOB.response()
}

/// `PUT /_rfcache/u/{id}`
pub(super) async fn upload(State(cache): State<Arc<Cache>>, Path(id): Path<String>, request: Request) -> Response {
    let headers = request.headers().clone();
    let response = match put(&cache, &id, request).await {
        Ok(()) => created(&cache),
        Err(error) => error.response(),
    };
    named(&cache, &headers, response)
}

fn created(cache: &Cache) -> Response {
    let etag = format!("\"{}\"", cache.request_id());
    let headers = [
        (header::ETAG, etag),
        (header::LAST_MODIFIED, http_date(cache.now())),
        (HeaderName::from_static("x-ms-request-server-encrypted"), "true".to_owned()),
        (header::CONTENT_LENGTH, "0".to_owned()),
    ];
    (StatusCode::CREATED, headers).into_response()
}

async fn put(cache: &Arc<Cache>, id: &str, request: Request) -> Result<(), Error> {
    if request.method() != Method::PUT {
        return Err(Error::METHOD);
    }
    let (parts, body) = request.into_parts();
    let query = Parameters::new(parts.uri.query());
    let id = UploadId::parse(id).ok_or(Error::SIGNATURE)?;
    cache.signer.check_upload(id, &query, cache.now()).map_err(|_| Error::SIGNATURE)?;
    let found = cache.reservation(id).await.map_err(|cause| stopped(cache, &cause))?;
    let reservation = found.ok_or(Error::NO_BLOB)?;
    if reservation.committed.is_some() {
        return Err(Error::FINAL);
    }
    match query.get("comp").as_deref() {
        None => {
            let kind = parts.headers.get(BLOB_TYPE);
            if kind.is_some_and(|kind| !kind.as_bytes().eq_ignore_ascii_case(b"BlockBlob")) {
                return Err(Error::HEADER);
            }
            let announced = announced(&parts.headers, cache.settings.max_entry)?;
            let length = announced.length;
            let stored = cache.put_blob(&reservation, length, incoming(body, announced)).await;
            stored.map_err(|cause| stopped(cache, &cause))
        }
        Some("block") => {
            let block = query.get("blockid").as_deref().and_then(block_id).ok_or(Error::QUERY)?;
            let announced = announced(&parts.headers, cache.settings.max_entry.min(BLOCK))?;
            if announced.length == Some(0) {
                return Err(Error::HEADER);
            }
            let length = announced.length;
            let stored = cache.put_block(&reservation, &block, length, incoming(body, announced)).await;
            stored.map_err(|cause| stopped(cache, &cause))
        }
        Some("blocklist") => list(cache, &reservation, &parts.headers, body).await,
        Some(_) => Err(Error::QUERY),
    }
}

async fn list(cache: &Arc<Cache>, reservation: &Reservation, headers: &HeaderMap, body: Body) -> Result<(), Error> {
    let announced = announced(headers, LIST as u64)?;
    let checked = incoming(body, announced).map(|bytes| bytes.map_err(std::io::Error::other));
    let text = match small(Body::from_stream(checked), LIST).await {
        Ok(bytes) => String::from_utf8(bytes.into()).map_err(|_| Error::XML)?,
        Err(_) => return Err(Error::CUT),
    };
    let blocks = block_list(&text).map_err(|bad| match bad {
        BadList::Xml => Error::XML,
        BadList::Block => Error::BLOCKS,
    })?;
    match cache.put_list(reservation, &blocks).await {
        Ok(ListPut::Accepted) => Ok(()),
        Ok(ListPut::UnknownBlock) => Err(Error::BLOCKS),
        Ok(ListPut::TooLarge) => Err(Error::TOO_LARGE),
        Err(cause) => Err(stopped(cache, &cause)),
    }
}

/// What the headers say about the body.
fn announced(headers: &HeaderMap, most: u64) -> Result<Announced, Error> {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().map_err(|_| Error::HEADER)).transpose();
    let length = match text(&header::CONTENT_LENGTH)? {
        Some(length) => Some(length.parse::<u64>().map_err(|_| Error::HEADER)?),
        None if headers.contains_key(header::TRANSFER_ENCODING) => None,
        None => return Err(Error::LENGTH),
    };
    if length.is_some_and(|length| length > most) {
        return Err(Error::TOO_LARGE);
    }
    let sum = |name: HeaderName, bytes: usize| match text(&name)? {
        None => Ok(None),
        Some(sum) => match BASE64.decode(sum) {
            Ok(sum) if sum.len() == bytes => Ok(Some(sum)),
            _ => Err(Error::HEADER),
        },
    };
    let md5 = sum(HeaderName::from_static("content-md5"), 16)?;
    let crc64 = sum(HeaderName::from_static("x-ms-content-crc64"), 8)?.and_then(|sum| sum.try_into().ok());
    Ok(Announced { length, most, md5, crc64 })
}

/// Why an upload was not stored, and what follows from it.
fn stopped(cache: &Arc<Cache>, cause: &store::Error) -> Error {
    match cause {
        store::Error::Cut(Cut::Md5) => Error::MD5,
        store::Error::Cut(Cut::Crc64) => Error::CRC64,
        store::Error::Cut(Cut::TooLarge) => Error::TOO_LARGE,
        store::Error::Cut(Cut::Early | Cut::Late) => Error::CUT,
        store::Error::Full | store::Error::Unavailable(_) => {
            if matches!(cause, store::Error::Full) {
                cache.relieve();
            }
            cache.metrics.cache_errors(CacheCall::Commit);
            tracing::warn!(protocol = "blob", error = %cause, "bytes of the cache were not stored");
            Error::BUSY
        }
    }
}

/// `POST /_rfcache/u/{id}/presign`: all bytes come through here.
pub(super) async fn presign() -> Response {
    json_response(StatusCode::NOT_IMPLEMENTED, r#"{"code":"unimplemented"}"#)
}

/// `GET` and `HEAD /_rfcache/d/{id}`
pub(super) async fn download(State(cache): State<Arc<Cache>>, Path(id): Path<String>, request: Request) -> Response {
    let request = request.into_parts().0;
    let response = get(&cache, &id, &request).await.unwrap_or_else(Error::response);
    named(&cache, &request.headers, response)
}

async fn get(cache: &Arc<Cache>, id: &str, request: &Parts) -> Result<Response, Error> {
    let head = request.method == Method::HEAD;
    if !head && request.method != Method::GET {
        return Err(Error::METHOD);
    }
    let query = Parameters::new(request.uri.query());
    let id = UploadId::parse(id).ok_or(Error::SIGNATURE)?;
    let data = cache.signer.check_download(id, &query, cache.now()).map_err(|_| Error::SIGNATURE)?;
    let broken = |cause: &store::Error| {
        cache.metrics.cache_errors(CacheCall::Download);
        tracing::warn!(error = %cause, "an entry of the cache cannot be read");
        Error::BUSY
    };
    // A bucket does not know the ranges of Azure, and an address to read from is none to look at.
    let headers = &request.headers;
    let azure = headers.get("x-ms-range");
    if !head
        && azure.is_none()
        && !headers.contains_key(header::IF_MATCH)
        && let Some(location) = cache.elsewhere(&data).await.map_err(|e| broken(&e))?
    {
        cache.metrics.cache_operations(CacheOperation::Download);
        let headers = [(header::LOCATION, location), (header::CACHE_CONTROL, "no-store".to_owned())];
        return Ok((StatusCode::TEMPORARY_REDIRECT, headers).into_response());
    }
    let found = cache.download(data).await.map_err(|e| broken(&e))?.ok_or(Error::NO_BLOB)?;
    let size = found.object.size;
    let etag = format!("\"{}\"", found.data.id());
    if let Some(condition) = headers.get(header::IF_MATCH) {
        let met = condition.to_str().is_ok_and(|tags| tags.split(',').any(|t| t.trim() == etag || t.trim() == "*"));
        if !met {
            return Err(Error::CONDITION);
        }
    }
    let range = azure.or_else(|| headers.get(header::RANGE)).and_then(|range| range.to_str().ok());
    let (status, start, length) = match wanted(range.filter(|_| !head), size) {
        Wanted::Whole => (StatusCode::OK, 0, size),
        Wanted::Part { start, length } => (StatusCode::PARTIAL_CONTENT, start, length),
        Wanted::Unsatisfiable => {
            let unsatisfiable =
                Error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange", "The range is behind the end.");
            let mut response = unsatisfiable.response();
            if let Ok(range) = HeaderValue::from_str(&format!("bytes */{size}")) {
                response.headers_mut().insert(header::CONTENT_RANGE, range);
            }
            return Ok(response);
        }
    };
    let body = if head {
        Body::empty()
    } else {
        let stream = cache.open(&found.object.key, start, length).await.map_err(|e| broken(&e))?;
        if start == 0 {
            cache.metrics.cache_operations(CacheOperation::Download);
        }
        cache.metrics.cache_bytes_served(length);
        Body::from_stream(stream.ok_or(Error::NO_BLOB)?)
    };
    let mut response = (
        status,
        [
            (header::CONTENT_LENGTH, length.to_string()),
            (header::ACCEPT_RANGES, "bytes".to_owned()),
            (header::ETAG, etag),
            (header::LAST_MODIFIED, http_date(found.object.modified)),
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (BLOB_TYPE, "BlockBlob".to_owned()),
        ],
        body,
    )
        .into_response();
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(range) = HeaderValue::from_str(&format!("bytes {start}-{}/{size}", start + length - 1))
    {
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    Ok(response)
}
