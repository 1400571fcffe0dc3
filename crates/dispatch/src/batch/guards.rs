//! Who counts in a batch. Each is a value that counts as long as it lives, so that an attempt that is dropped anywhere
//! is counted out.

use std::sync::Arc;

use domain::ids::{ClassKey, LaunchId};
use provider::compute::{Error, Machine};
use tokio::sync::oneshot;

use super::{Batcher, Member, Seat};

/// Removes the batch from the list however its task ends; members that wait for an answer then learn that none comes.
pub(super) struct Listed<'a> {
    batcher: &'a Batcher,
    launch: &'a LaunchId,
}

impl<'a> Listed<'a> {
    pub(super) const fn new(batcher: &'a Batcher, launch: &'a LaunchId) -> Self {
        Self { batcher, launch }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.batcher.change(|state| state.batches.retain(|batch| batch.launch != *self.launch));
    }
}

/// A call under way.
pub(super) struct Call<'a>(&'a Batcher);

impl<'a> Call<'a> {
    /// Closes the batch.
    pub(super) fn begin(batcher: &'a Batcher, launch: &LaunchId) -> Self {
        batcher.change_batch(launch, |batch| batch.open = false);
        batcher.change(|state| state.calls += 1);
        Self(batcher)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.calls -= 1);
    }
}

/// An attempt that may submit.
pub(crate) struct Approach(Arc<Batcher>);

impl Approach {
    pub(super) fn new(batcher: &Arc<Batcher>) -> Self {
        batcher.change(|state| state.approaching += 1);
        Self(Arc::clone(batcher))
    }
}

impl Drop for Approach {
    fn drop(&mut self) {
        self.0.change(|state| state.approaching -= 1);
    }
}

/// A place in a batch whose call waits for it.
pub(crate) struct Place {
    batcher: Arc<Batcher>,
    launch: LaunchId,
    submitted: bool,
}

impl Place {
    pub(super) fn new(batcher: &Arc<Batcher>, launch: LaunchId) -> Self {
        Self { batcher: Arc::clone(batcher), launch, submitted: false }
    }

    /// What the member writes into its record before it submits.
    pub(crate) const fn launch_id(&self) -> &LaunchId {
        &self.launch
    }

    /// The record names the launch: the call may be made.
    pub(crate) fn submit(mut self, member: Member) -> Ticket {
        let (sender, answer) = oneshot::channel();
        let class = member.class.clone();
        self.submitted = true;
        // A batch whose task died is gone, and the sender with it.
        let _ = self.batcher.change_batch(&self.launch, |batch| {
            batch.writing -= 1;
            batch.seats.push(Seat { member, answer: sender });
        });
        Ticket { batcher: Arc::clone(&self.batcher), answer, class }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.submitted {
            let _ = self.batcher.change_batch(&self.launch, |batch| batch.writing -= 1);
        }
    }
}

/// A claim to one machine of the batch.
pub(crate) struct Ticket {
    batcher: Arc<Batcher>,
    answer: oneshot::Receiver<Result<Machine, Error>>,
    class: Option<ClassKey>,
}

impl Ticket {
    /// The machine, or why there is none.
    pub(crate) async fn machine(mut self) -> Result<Machine, Error> {
        let unknown = || Error::Transient("the launch was not answered".to_owned());
        (&mut self.answer).await.unwrap_or_else(|_| Err(unknown()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.answer.close();
        // Answered, and nobody is left to read it.
        if let Ok(Ok(machine)) = self.answer.try_recv() {
            self.batcher.spare(machine, self.class.take());
        }
        self.batcher.changed.notify_waiters();
    }
}
