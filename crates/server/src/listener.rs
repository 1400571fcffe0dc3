//! The one listener, with an end to everything a client may leave unfinished.
//!
//! Properties wanted: a client that says nothing, or half of something, costs one of a bounded number of connections
//! for a bounded time; and it never holds up a shutdown. A request under way when the listener closes gets its answer.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, warn};

/// Connections at the same time. GitHub and a balancer need a few dozen; descriptors must remain for everything else.
const CONNECTIONS: usize = 512;
/// From an answer, or the connection, to the end of the next request's head. Not shorter than balancers keep idle
/// connections, lest they send a request into one that is just being closed.
const HEAD: Duration = Duration::from_secs(65);
/// How long requests under way may take once the listener closes.
const CLOSE: Duration = Duration::from_secs(5);
/// After an `accept` that failed; descriptors have run out, most likely.
const AGAIN: Duration = Duration::from_millis(200);

/// Serves until `closing`, and ends a few seconds after it at the latest.
pub(crate) async fn serve(listener: TcpListener, app: Router, closing: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = closing.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    // Answers and events are small and nobody sends more behind them.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(connection(stream, app.clone(), closing.clone()));
                }
                Err(error) => {
                    warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, app: Router, closing: CancellationToken) {
    let service = TowerToHyperService::new(app.map_request(|request: Request<Incoming>| request.map(Body::new)));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => Some(ended),
        () = closing.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::time::timeout(CLOSE, serving).await.ok()
        }
    };
    if let Some(Err(error)) = ended {
        debug!(%error, "a connection ended early");
    }
}
