//! The writing thread: takes whatever has arrived, commits it as one transaction, answers everybody.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use domain::clock::{Clock, Timestamp, after};
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{failed, file};
use crate::cond;
use crate::table::{Error, Item, Outcome, Schema, Write};

/// Requests that share a commit at most.
const GROUP: usize = 128;
/// How often expired rows are removed, and how many of a table at a time.
const REAP: (Duration, usize) = (Duration::from_secs(60), 500);

/// The first row of the request, as it is afterwards.
type Answer = Result<Outcome<Option<Item>>, Error>;

pub(super) struct Request {
    pub(super) writes: Vec<Write>,
    pub(super) reply: oneshot::Sender<Answer>,
    /// A place in the channel; free again when the request is answered.
    pub(super) _room: OwnedSemaphorePermit,
}

/// Serves until every sender is gone.
pub(super) fn run(
    mut connection: Connection,
    inbox: &Receiver<Request>,
    clock: &dyn Clock,
    tables: &[&'static Schema],
) {
    let mut reap_at = Timestamp::MIN;
    loop {
        match inbox.recv_timeout(REAP.0) {
            Ok(first) => {
                let group = std::iter::once(first).chain(inbox.try_iter().take(GROUP - 1)).collect();
                commit(&mut connection, group, clock.now().as_second());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let now = clock.now();
        if now >= reap_at {
            reap_at = after(now, REAP.0);
            for table in tables {
                if let Err(error) = file::reap(&connection, table, now.as_second(), REAP.1) {
                    tracing::warn!(table = table.name, %error, "expired rows were not removed");
                }
            }
        }
    }
    // The file alone is then the whole store, so that it can be copied while nobody runs.
    if let Err(error) = connection.pragma_update(None, "wal_checkpoint", "TRUNCATE") {
        tracing::warn!(%error, "the store's log was not folded into its file; the next start does it");
    }
}

fn commit(connection: &mut Connection, group: Vec<Request>, now: i64) {
    let mut answers = Vec::with_capacity(group.len());
    match write(connection, group, now, &mut answers) {
        Ok(()) => answers.into_iter().for_each(|(reply, answer)| drop(reply.send(answer))),
        // Nothing of the group is stored; those not answered here see their channel close.
        Err(error) => {
            tracing::warn!(%error, "a group of writes was not stored");
            for (reply, _) in answers {
                drop(reply.send(Err(Error::Unavailable(format!("not written: {error}")))));
            }
        }
    }
}

/// On an error the transaction rolls back, and no answer in `answers` is true.
fn write(
    connection: &mut Connection,
    group: Vec<Request>,
    now: i64,
    answers: &mut Vec<(oneshot::Sender<Answer>, Answer)>,
) -> Result<(), Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    for Request { writes, reply, _room } in group {
        let answer = match cond::plan(writes, now, |table, key| file::load(&transaction, table, key)) {
            Ok(Outcome::Applied(effects)) => {
                for effect in &effects {
                    file::store(&transaction, effect.table, &effect.key, effect.after.as_ref())?;
                }
                Ok(Outcome::Applied(effects.into_iter().next().and_then(|effect| effect.after)))
            }
            Ok(Outcome::Lost) => Ok(Outcome::Lost),
            Err(error @ Error::Unavailable(_)) => return Err(error),
            Err(error) => Err(error),
        };
        answers.push((reply, answer));
    }
    transaction.commit().map_err(failed)
}
