//! What answers for the host: calls of the cache go to our server, everything else to the real host.
//!
//! Both ways bytes stream, unchanged and for as long as they like. What our server does not answer becomes a miss, or an
//! error that clients try again; the job never learns more.

use std::convert::Infallible;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::handover::Credential;
use futures::FutureExt;
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::names::Names;
use crate::log::Log;

/// The cache's calls and its bytes, as `cache::http` serves them.
const CALLS: &str = "/twirp/github.actions.results.api.v1.CacheService/";
const BYTES: &str = "/_rfcache/";
const LOOKUP: &str = "GetCacheEntryDownloadURL";
const CREATE: &str = "CreateCacheEntry";
/// What our server learns: who calls, what the runner gave the job, and by which address clients are to be led back.
const TOKEN: HeaderName = HeaderName::from_static("x-cache-token");
const RUNTIME_TOKEN: HeaderName = HeaderName::from_static("x-github-runtime-token");
const ORIGIN: HeaderName = HeaderName::from_static("x-cache-origin");
/// A call may take so long; one that puts an entry together longer.
const CALL: Duration = Duration::from_secs(10);
const FINALIZE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// So many times in a row no connection can be accepted, this far apart, before the listener is given up.
const FAILURES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

type Body = Either<Incoming, Full<Bytes>>;

/// Where our cache is, and who this job is there.
#[derive(Debug, Clone)]
pub(super) struct Server {
    /// Without a slash at its end.
    pub(super) url: String,
    pub(super) token: Credential,
}

/// See the module.
pub(super) struct Gateway {
    client: Client<HttpsConnector<HttpConnector<Names>>, Incoming>,
    names: Names,
    server: Server,
    /// The real host, and the address that clients believe they talk to.
    real: String,
    /// Something panicked: the cache is left alone.
    broken: AtomicBool,
    upgrades: TaskTracker,
    log: Log,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'a> {
    Call(&'a str),
    Bytes,
    Elsewhere,
}

fn route(path: &str) -> Route<'_> {
    match path.strip_prefix(CALLS) {
        Some(method) => Route::Call(method),
        None if path.starts_with(BYTES) => Route::Bytes,
        None => Route::Elsewhere,
    }
}

impl Gateway {
    /// # Errors
    /// When the machine has no root certificates.
    pub(super) fn new(real: String, names: Names, server: Server, log: Log) -> io::Result<Self> {
        let mut connector = HttpConnector::new_with_resolver(names.clone());
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        let connector =
            HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1().wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, names, server, real, broken: AtomicBool::new(false), upgrades: TaskTracker::new(), log })
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let path = request.uri().path().to_owned();
        let route = match route(&path) {
            ours if !self.broken.load(Ordering::Relaxed) => ours,
            _ => Route::Elsewhere,
        };
        if route == Route::Elsewhere {
            return Ok(self.pass_on(request).await);
        }
        let in_protobuf =
            request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == PROTOBUF.as_bytes());
        let asked = AssertUnwindSafe(self.ask(route, request)).catch_unwind().await;
        Ok(asked
            .unwrap_or_else(|_| {
                self.broken.store(true, Ordering::Relaxed);
                None
            })
            .unwrap_or_else(|| {
                self.log.warn("cache_unreachable", &[("path", Value::from(path.as_str()))]);
                instead(route, in_protobuf)
            }))
    }

    /// Our server's answer; `None` when it has none that a client can use.
    async fn ask(&self, route: Route<'_>, mut request: Request<Incoming>) -> Option<Response<Body>> {
        readdress(&mut request, &self.server.url)?;
        let headers = request.headers_mut();
        headers.remove(HOST);
        let Route::Call(method) = route else {
            return self.client.request(request).await.ok().map(|response| response.map(Either::Left));
        };
        introduce(headers, &self.server.token, &self.real);
        let quick = [LOOKUP, CREATE].contains(&method);
        let limit = if quick { CALL } else { FINALIZE };
        let response = tokio::time::timeout(limit, self.client.request(request)).await.ok()?.ok()?;
        (!quick || !response.status().is_server_error()).then(|| response.map(Either::Left))
    }

    async fn pass_on(&self, mut request: Request<Incoming>) -> Response<Body> {
        if readdress(&mut request, &self.real).is_none() {
            return plain(StatusCode::BAD_REQUEST);
        }
        let upgrade = request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
        match self.client.request(request).await {
            Ok(mut response) => {
                if let Some(here) = upgrade.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
                    let there = hyper::upgrade::on(&mut response);
                    self.upgrades.spawn(async move {
                        if let (Ok(here), Ok(there)) = tokio::join!(here, there) {
                            let (mut here, mut there) = (TokioIo::new(here), TokioIo::new(there));
                            let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                        }
                    });
                }
                response.map(Either::Left)
            }
            Err(error) => {
                if error.is_connect() {
                    self.names.doubt();
                }
                self.log.warn("results_host_unreachable", &[("error", Value::from(error.to_string()))]);
                plain(StatusCode::BAD_GATEWAY)
            }
        }
    }
}

/// The same path at another place.
fn readdress(request: &mut Request<Incoming>, base: &str) -> Option<()> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = format!("{base}{path}").parse().ok()?;
    Some(())
}

/// Puts our token in the place of the one the runner gave the job, which travels beside it.
fn introduce(headers: &mut HeaderMap, token: &Credential, origin: &str) {
    let bearer = headers.remove(AUTHORIZATION);
    let bearer = bearer.as_ref().and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    for (name, value) in [(RUNTIME_TOKEN, bearer.unwrap_or_default()), (TOKEN, token.expose()), (ORIGIN, origin)] {
        headers.remove(&name);
        if let Ok(mut value) = HeaderValue::from_str(value)
            && !value.is_empty()
        {
            value.set_sensitive(name != ORIGIN);
            headers.insert(name, value);
        }
    }
}

const PROTOBUF: &str = "application/protobuf";
const JSON: &str = "application/json";

/// What a client hears in the place of our server's answer.
fn instead(route: Route<'_>, in_protobuf: bool) -> Response<Body> {
    let (status, kind, body) = match route {
        // All fields of a miss have their defaults.
        Route::Call(LOOKUP | CREATE) if in_protobuf => (StatusCode::OK, PROTOBUF, ""),
        Route::Call(LOOKUP | CREATE) => (StatusCode::OK, JSON, r#"{"ok":false}"#),
        Route::Call(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, JSON, r#"{"code":"unavailable","msg":"the cache does not answer"}"#)
        }
        // What storage clients try again.
        Route::Bytes | Route::Elsewhere => return plain(StatusCode::SERVICE_UNAVAILABLE),
    };
    let mut response = Response::new(Either::Right(Full::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::default()));
    *response.status_mut() = status;
    response
}

/// Serves until it is stopped; an error means that nobody answers any more.
pub(super) async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    gateway: Arc<Gateway>,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut connections = JoinSet::new();
    let mut failures = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    failures = 0;
                    connections.spawn(connection(stream, tls.clone(), Arc::clone(&gateway)));
                }
                Err(error) if failures == FAILURES => return Err(error),
                Err(_) => {
                    failures += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, gateway: Arc<Gateway>) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await else { return };
    let service = service_fn(move |request| Arc::clone(&gateway).answer(request));
    // How it ended is between the client and its server.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_caches_own_paths_are_ours() {
        for (path, expected) in [
            ("/twirp/github.actions.results.api.v1.CacheService/CreateCacheEntry", Route::Call(CREATE)),
            ("/twirp/github.actions.results.api.v1.ArtifactService/CreateArtifact", Route::Elsewhere),
            ("/twirp/results.services.receiver.Receiver/GetStepSummarySignedBlobURL", Route::Elsewhere),
            ("/_rfcache/d/1", Route::Bytes),
            ("/_rfcache", Route::Elsewhere),
            ("/", Route::Elsewhere),
        ] {
            assert_eq!(route(path), expected, "{path}");
        }
    }

    #[test]
    fn our_server_hears_who_calls_and_no_more() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer of-the-runner"));
        headers.insert(TOKEN, HeaderValue::from_static("of-the-job"));
        introduce(&mut headers, &Credential::new("ours"), "https://host");
        let shown = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!((shown(&TOKEN), shown(&RUNTIME_TOKEN)), (Some("ours"), Some("of-the-runner")));
        assert_eq!((shown(&ORIGIN), shown(&AUTHORIZATION)), (Some("https://host"), None));
        introduce(&mut headers, &Credential::new(""), "https://host");
        assert!(!headers.contains_key(TOKEN) && !headers.contains_key(RUNTIME_TOKEN), "nobody is made up");
    }

    #[test]
    fn what_is_not_answered_is_a_miss_or_tried_again() {
        let status = |route| instead(route, false).status().as_u16();
        assert_eq!([LOOKUP, CREATE].map(|method| status(Route::Call(method))), [200, 200]);
        assert_eq!([Route::Call("FinalizeCacheEntryUpload"), Route::Bytes].map(status), [503, 503]);
        assert_eq!(instead(Route::Call(LOOKUP), true).headers()[CONTENT_TYPE], PROTOBUF);
    }
}
