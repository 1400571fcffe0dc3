//! The one listener, with an end to everything a client may leave unfinished.
//!
//! Properties wanted: a client that says nothing, or half of something, or does not take what it asked for, costs one of
//! a bounded number of connections for a bounded time; and it never holds up a shutdown. A request under way when the
//! listener closes gets its answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, warn};

/// Connections at the same time. GitHub and a balancer need a few dozen, clients of the cache up to ten each; descriptors
/// must remain for everything else.
const CONNECTIONS: usize = 512;
/// A client may leave what it is sent untaken for so long.
const STUCK: Duration = Duration::from_secs(60);
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

/// A connection that ends when nothing of what is written is taken for too long.
struct Taken {
    stream: TcpStream,
    stuck: Option<Pin<Box<Sleep>>>,
}

impl Taken {
    fn bounded<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep(STUCK)));
        stuck.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Taken {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Taken {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bounded(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.bounded(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn connection(stream: TcpStream, app: Router, closing: CancellationToken) {
    let service = TowerToHyperService::new(app.map_request(|request: Request<Incoming>| request.map(Body::new)));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(Taken { stream, stuck: None }), service);
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
