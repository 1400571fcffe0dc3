//! Acks that happen at about the same time share a call.
//!
//! There is no task behind this: whoever comes first waits a moment, takes what has gathered and asks for all.
//!
//! Races it survives:
//!
//! * *Who asks for all is dropped before the answer.* The others notice and ask for themselves; deleting twice is
//!   harmless.
//! * *Who waits is dropped.* Its entry is left out if it has not been asked for yet. Its message then comes back, or is
//!   gone although its owner does not know: an ack that timed out has always meant either.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::{Error, Handle};

/// Most messages of one call.
const BATCH: usize = 10;
/// How long the first one waits for others.
const LINGER: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Default)]
pub(super) struct Acks {
    waiting: Mutex<Vec<Waiting>>,
    /// Held while a batch gathers, not while it is asked for: several may be on their way.
    gate: tokio::sync::Mutex<()>,
}

struct Waiting {
    handle: Handle,
    answer: oneshot::Sender<Result<(), Error>>,
}

impl Acks {
    /// Deletes one message, with others if there are any. `delete` answers in the order of its handles.
    pub(super) async fn ack<F>(&self, handle: &Handle, delete: impl Fn(Vec<Handle>) -> F) -> Result<(), Error>
    where
        F: Future<Output = Vec<Result<(), Error>>>,
    {
        let (answer, mut answered) = oneshot::channel();
        self.waiting().push(Waiting { handle: handle.clone(), answer });
        let early = tokio::select! {
            biased;
            result = &mut answered => Some(result),
            batch = self.gather() => {
                serve(batch, &delete).await;
                None
            }
        };
        let result = match early {
            Some(result) => result,
            None => answered.await,
        };
        match result {
            Ok(result) => result,
            // Nobody answers any more. Not again together: that could end the same way.
            Err(_) => {
                let alone = delete(vec![handle.clone()]).await.pop();
                alone.unwrap_or_else(|| Err(Error::Unavailable("no answer to an ack".into())))
            }
        }
    }

    /// The next batch. Empty when others have taken everything.
    async fn gather(&self) -> Vec<Waiting> {
        let _gate = self.gate.lock().await;
        let full = self.waiting().len() >= BATCH;
        if !full {
            sleep(LINGER).await;
        }
        let mut waiting = self.waiting();
        waiting.retain(|one| !one.answer.is_closed());
        let taken = waiting.len().min(BATCH);
        waiting.drain(..taken).collect()
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve<F>(batch: Vec<Waiting>, delete: &impl Fn(Vec<Handle>) -> F)
where
    F: Future<Output = Vec<Result<(), Error>>>,
{
    if batch.is_empty() {
        return;
    }
    let answers = delete(batch.iter().map(|one| one.handle.clone()).collect()).await;
    for (one, answer) in batch.into_iter().zip(answers) {
        // It may have stopped waiting.
        let _ = one.answer.send(answer);
    }
}
