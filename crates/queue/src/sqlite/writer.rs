//! The one thread that touches the file. It takes every operation that waits, runs them in one transaction, and
//! answers after the commit: the disk is synced once per batch, not once per operation.
//!
//! When anything about a batch fails, the broker forgets what it knew and reads the file again, so memory can never be
//! ahead of the disk; every operation of the batch is answered with the failure, and may safely be repeated.

use std::sync::Arc;

use tokio::sync::mpsc::Receiver;

use super::file::File;
use crate::QueueConfig;
use crate::broker::Broker;
use crate::embedded::{Keep, Payloads, Waiters};

/// Most operations in one transaction.
const BATCH: usize = 256;

/// Tells the caller of an operation how it went; `Err` says why the batch failed.
pub(super) type Answer = Box<dyn FnOnce(Result<(), &str>) + Send>;

/// What an operation works on; nothing when its batch has failed already.
pub(super) type Grounds<'a> = Option<(&'a mut Broker, &'a dyn Payloads)>;

/// One operation on one queue.
pub(super) struct Job {
    pub(super) queue: Arc<QueueConfig>,
    pub(super) keep: Keep,
    pub(super) op: Box<dyn FnOnce(Grounds<'_>) -> Answer + Send>,
}

/// Serves until every sender is gone.
pub(super) fn serve(file: &File, jobs: &mut Receiver<Job>, waiters: &Waiters) {
    let mut broker = None;
    let mut batch = Vec::new();
    while let Some(job) = jobs.blocking_recv() {
        batch.push(job);
        while batch.len() < BATCH
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
        let mut answers = Vec::with_capacity(batch.len());
        match run(file, &mut broker, &mut batch, &mut answers) {
            Ok(woken) => {
                answers.into_iter().for_each(|answer| answer(Ok(())));
                waiters.wake(&woken);
            }
            Err(error) => {
                tracing::error!(%error, operations = answers.len(), "queue file: batch failed");
                file.roll_back();
                broker = None;
                let error = error.to_string();
                answers.extend(batch.drain(..).map(|job| (job.op)(None)));
                answers.into_iter().for_each(|answer| answer(Err(&error)));
            }
        }
    }
}

fn run(
    file: &File,
    broker: &mut Option<Broker>,
    batch: &mut Vec<Job>,
    answers: &mut Vec<Answer>,
) -> rusqlite::Result<Vec<String>> {
    let broker = match broker {
        Some(broker) => broker,
        None => broker.insert(Broker::new(file.last_seq()?)),
    };
    let synced = batch.iter().any(|job| job.keep == Keep::Synced);
    let mut begun = false;
    for job in batch.drain(..) {
        if let Err(error) = open(file, broker, &job.queue) {
            answers.push((job.op)(None));
            return Err(error);
        }
        answers.push((job.op)(Some((&mut *broker, file))));
        // At once, because the next operation may want the body of a message that this one sent.
        for change in broker.take_changes() {
            if !begun {
                file.begin(synced)?;
                begun = true;
            }
            file.apply(&change)?;
        }
    }
    if begun {
        file.commit(broker.now())?;
    }
    Ok(broker.take_woken())
}

fn open(file: &File, broker: &mut Broker, queue: &Arc<QueueConfig>) -> rusqlite::Result<()> {
    for config in [Some(queue), queue.dead_letters.as_ref().map(|dead| &dead.queue)].into_iter().flatten() {
        if !broker.has(&config.name) {
            broker.open(file.load(config)?);
        }
    }
    Ok(())
}
