//! Work that only a leader does.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{Coordinator, Leadership};

/// How long work may take to end after its term: the one step it is in, with room.
const GRACE: Duration = Duration::from_secs(60);

/// Runs `work` once in every term of this replica, until `stop`.
///
/// The work ends by itself when [`Leadership::check`] fails or [`Leadership::lost`] returns, which both happen at the
/// end of the term and on `stop`; what has not ended a minute later is dropped, as by a crash. Work that ends earlier is
/// not run again in the same term.
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
            term = next(&mut terms, last) => match term {
                Some(term) => term,
                None => return,
            },
        };
        last = Some(term.token());
        let (part, over) = term.part();
        let mut running = pin!(work(part));
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => false,
            () = term.lost() => false,
            () = &mut running => true,
        };
        over.cancel();
        if ended {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = term.lost() => {}
            }
        } else if timeout(GRACE, running).await.is_err() {
            warn!(token = term.token(), "the leader's work did not end with its term and was dropped");
        }
    }
}

/// The next term after the one with the token `last`; `None`: there will be none.
async fn next(terms: &mut watch::Receiver<Option<Leadership>>, last: Option<i64>) -> Option<Leadership> {
    loop {
        let term = terms.borrow_and_update().clone();
        match term.filter(|term| Some(term.token()) != last && term.check().is_ok()) {
            Some(term) => return Some(term),
            None => terms.changed().await.ok()?,
        }
    }
}
