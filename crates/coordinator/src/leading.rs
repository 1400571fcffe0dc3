//! Work that only a leader does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{Coordinator, Leadership, Terms};

/// How long work may take to end after its term: the one step it is in, with room.
const GRACE: Duration = Duration::from_secs(60);
/// Between work that panicked and its next run here.
const REST: Duration = Duration::from_secs(60);

/// Runs `work` once in every term of this replica, until `stop`.
///
/// The work ends by itself when [`Leadership::check`] fails or [`Leadership::lost`] returns, which both happen at the
/// end of the term and on `stop`; what has not ended a minute later is dropped, as by a crash. Work that ends earlier is
/// not run again in the same term. Work that panics gives its term up: a leader that does not do its work is worse than
/// none.
pub async fn while_leading<W, F>(coordinator: &Coordinator, stop: CancellationToken, mut work: W)
where
    W: FnMut(Leadership) -> F,
    F: Future<Output = ()>,
{
    let mut terms = coordinator.leadership();
    let mut last = None;
    loop {
        let term = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            term = next(&mut terms, last) => term,
        };
        last = Some(term.token());
        let (part, over) = term.part();
        let mut running = pin!(work(part));
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            () = term.lost() => None,
            ended = finished(running.as_mut()) => Some(ended),
        };
        over.cancel();
        let ended = match ended {
            Some(ended) => ended,
            None => timeout(GRACE, finished(running)).await.unwrap_or_else(|_| {
                warn!(token = term.token(), "the leader's work did not end with its term and was dropped");
                Ok(())
            }),
        };
        let pause = match ended {
            Ok(()) => None,
            Err(Panicked) => {
                error!(token = term.token(), "the leader's work panicked; the term is given up");
                term.resign();
                // Alone, the term goes on, and with it the work.
                last = None;
                Some(REST)
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = rest(&term, pause) => {}
        }
    }
}

struct Panicked;

/// Runs to the end, be it a panic, which the process's hook has reported.
async fn finished<F: Future<Output = ()>>(mut work: Pin<&mut F>) -> Result<(), Panicked> {
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}

/// Waits for the end of the term, or for as long as is said.
async fn rest(term: &Leadership, pause: Option<Duration>) {
    match pause {
        Some(pause) => sleep(pause).await,
        None => term.lost().await,
    }
}

/// The next term after the one with the token `last`.
async fn next(terms: &mut Terms, last: Option<i64>) -> Leadership {
    loop {
        let term = terms.latest();
        match term.filter(|term| Some(term.token()) != last && term.check().is_ok()) {
            Some(term) => return term,
            None => terms.changed().await,
        }
    }
}
