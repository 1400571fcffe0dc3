//! Jobs that want alike machines are launched together.
//!
//! Providers ration the *calls* that create machines, not the machines; a matrix of a hundred jobs must not make a
//! hundred calls. An attempt joins the open batch of its launch key, writes the batch's launch id into its record, and
//! submits; the batch makes one call for all its members and gives each its machine.
//!
//! Desired:
//!
//! * an idle system adds no delay: with nobody else on the way, a batch of one goes at once;
//! * the launch id is in every member's record before the call, so that a crash leaves its trace;
//! * one member's failure, cancellation or lost lease affects no other;
//! * every machine in the answer ends with a member, or is given away.
//!
//! Races it survives:
//!
//! * *A member is dropped before the call*: it leaves, and no machine is ordered for it.
//! * *A member is dropped during the call, or between the answer and its reading*: its machine is spare, and goes the
//!   way of all machines without a job.
//! * *The attempt that opened the batch is dropped*: the batch is a task of its own, and owes nothing to anybody.
//! * *The call, or the task, dies*: every member is told that nothing is known; their records name the launch.
//! * *Shutdown*: a batch that waits for company goes at once; [`Batcher::finish`] waits for what is under way.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use domain::clock::{Rng, Timestamp};
use domain::ids::{ClassKey, LaunchId};
use domain::launch::LaunchSpec;
use provider::Compute;
use provider::compute::{Error, Machine, Members, Order, Slot};
use telemetry::Metrics;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, error, warn};

pub(crate) use self::guards::{Approach, Place};
use self::guards::{Call, Listed};
use crate::context::{Dispatch, lock};

mod guards;

#[cfg(test)]
mod tests;

/// What bounds a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Members.
    pub(crate) max: usize,
    /// Wait for company after the first member.
    pub(crate) linger: Duration,
    /// What a launch may take beyond the time its members allow.
    pub(crate) grace: Duration,
    /// What giving a spare machine away may take.
    pub(crate) spare: Duration,
}

/// One waiting job.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) slot: Slot,
    pub(crate) queued_at: Timestamp,
    /// When its attempt ends.
    pub(crate) until: Instant,
    pub(crate) class: Option<ClassKey>,
}

/// See the module.
pub(crate) struct Batcher {
    compute: Arc<dyn Compute>,
    rng: Arc<dyn Rng>,
    metrics: Metrics,
    limits: Limits,
    dispatch: Weak<Dispatch>,
    state: Mutex<State>,
    changed: Notify,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct State {
    /// Attempts that may still submit.
    approaching: usize,
    /// Calls that are not answered yet.
    calls: usize,
    closing: bool,
    batches: Vec<Batch>,
}

struct Batch {
    launch: LaunchId,
    spec: LaunchSpec,
    spot: bool,
    opened: Instant,
    /// Whether more may join.
    open: bool,
    /// Members that joined and have not submitted.
    writing: usize,
    seats: Vec<Seat>,
}

struct Seat {
    member: Member,
    answer: oneshot::Sender<Result<Machine, Error>>,
}

impl Batch {
    fn members(&self) -> usize {
        self.writing + self.seats.iter().filter(|seat| !seat.answer.is_closed()).count()
    }
}

/// What a gathering batch does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Everybody left.
    Dissolve,
    /// Nothing better is to be had by waiting.
    Flush,
    Wait,
}

/// What the step depends on.
#[derive(Debug, Clone, Copy)]
struct Facts {
    members: usize,
    max: usize,
    lingered: bool,
    /// Attempts of this process that may still join.
    approaching: usize,
    /// Calls under way: the process is not idle, and who comes next had better come in company.
    calls: usize,
    closing: bool,
}

const fn step(facts: Facts) -> Step {
    let idle = facts.approaching == 0 && facts.calls == 0;
    if facts.members == 0 {
        Step::Dissolve
    } else if idle || facts.lingered || facts.closing || facts.members >= facts.max {
        Step::Flush
    } else {
        Step::Wait
    }
}

impl Batcher {
    pub(crate) fn new(
        compute: Arc<dyn Compute>,
        rng: Arc<dyn Rng>,
        metrics: Metrics,
        limits: Limits,
        dispatch: Weak<Dispatch>,
    ) -> Arc<Self> {
        Arc::new(Self {
            compute,
            rng,
            metrics,
            limits: Limits { max: limits.max.max(1), ..limits },
            dispatch,
            state: Mutex::default(),
            changed: Notify::new(),
            tasks: Mutex::default(),
        })
    }

    /// Counts an attempt that may submit, until the guard is dropped.
    pub(crate) fn approach(self: &Arc<Self>) -> Approach {
        Approach::new(self)
    }

    /// Joins the open batch of the launch key, or opens one. The place is given up by dropping it.
    pub(crate) fn join(self: &Arc<Self>, spec: &LaunchSpec, spot: bool) -> Place {
        let fits = |b: &&mut Batch| b.open && b.spot == spot && b.spec == *spec && b.members() < self.limits.max;
        let (launch, is_new) = {
            let mut state = lock(&self.state);
            if let Some(batch) = state.batches.iter_mut().find(fits) {
                batch.writing += 1;
                (batch.launch.clone(), false)
            } else {
                let launch = LaunchId::new(format!("rf1-{}", self.rng.token()));
                state.batches.push(Batch {
                    launch: launch.clone(),
                    spec: spec.clone(),
                    spot,
                    opened: Instant::now(),
                    open: true,
                    writing: 1,
                    seats: Vec::new(),
                });
                (launch, true)
            }
        };
        if is_new {
            self.spawn(Arc::clone(self).run(launch.clone()));
        }
        self.changed.notify_waiters();
        Place::new(self, launch)
    }

    /// No batch waits for company any more.
    pub(crate) fn close(&self) {
        self.change(|state| state.closing = true);
    }

    /// Waits for every launch and every machine that is being given away.
    pub(crate) async fn finish(&self) {
        self.close();
        loop {
            let mut tasks = std::mem::take(&mut *lock(&self.tasks));
            if tasks.is_empty() {
                return;
            }
            while tasks.join_next().await.is_some() {}
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut lock(&self.state));
        self.changed.notify_waiters();
        result
    }

    fn change_batch<T>(&self, launch: &LaunchId, change: impl FnOnce(&mut Batch) -> T) -> Option<T> {
        self.change(|state| state.batches.iter_mut().find(|b| b.launch == *launch).map(change))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // A process that ends drops its attempts outside of the runtime; the sweeps find what they held.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut tasks = lock(&self.tasks);
        while let Some(ended) = tasks.try_join_next() {
            if let Err(died) = ended
                && died.is_panic()
            {
                self.metrics.task_panics("batch");
                error!(%died, "a launch died; its jobs are dispatched again");
            }
        }
        tasks.spawn_on(task, &runtime);
    }

    async fn run(self: Arc<Self>, launch: LaunchId) {
        let _listed = Listed::new(&self, &launch);
        if !self.gather(&launch).await {
            return;
        }
        // The provider's budget of calls is waited for with the batch still open: it fills meanwhile.
        tokio::select! {
            biased;
            () = self.compute.ready() => {}
            () = self.deserted(&launch) => return,
        }
        let _call = Call::begin(&self, &launch);
        self.all_submitted(&launch).await;
        self.launch(&launch).await;
    }

    /// Waits until the batch should go. `false`: nobody is left in it.
    async fn gather(&self, launch: &LaunchId) -> bool {
        loop {
            let changed = self.changed.notified();
            let now = Instant::now();
            let (next, until) = {
                let mut state = lock(&self.state);
                let (approaching, calls, closing) = (state.approaching, state.calls, state.closing);
                let Some(batch) = state.batches.iter_mut().find(|b| b.launch == *launch) else { return false };
                let until = batch.opened + self.limits.linger;
                let (members, max, lingered) = (batch.members(), self.limits.max, until <= now);
                let next = step(Facts { members, max, lingered, approaching, calls, closing });
                // Under the lock, so that nobody joins a batch that is given up.
                batch.open &= next != Step::Dissolve;
                (next, until)
            };
            match next {
                Step::Dissolve => return false,
                Step::Flush => return true,
                Step::Wait => {
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
            }
        }
    }

    /// Returns when every member has left; nobody can join any more then.
    async fn deserted(&self, launch: &LaunchId) {
        self.wait(launch, |batch| {
            batch.open &= batch.members() > 0;
            !batch.open
        })
        .await;
    }

    /// Returns when every member has submitted or left. Each is bounded by its attempt's own budget.
    async fn all_submitted(&self, launch: &LaunchId) {
        self.wait(launch, |batch| batch.writing == 0).await;
    }

    async fn wait(&self, launch: &LaunchId, mut so: impl FnMut(&mut Batch) -> bool + Send) {
        loop {
            let changed = self.changed.notified();
            let done = lock(&self.state).batches.iter_mut().find(|b| b.launch == *launch).is_none_or(&mut so);
            if done {
                return;
            }
            changed.await;
        }
    }

    async fn launch(&self, launch: &LaunchId) {
        let Some((spec, spot, mut seats)) =
            self.change_batch(launch, |batch| (batch.spec.clone(), batch.spot, std::mem::take(&mut batch.seats)))
        else {
            return;
        };
        seats.retain(|seat| !seat.answer.is_closed());
        // Whoever has waited longest is served first, should there not be machines for all.
        seats.sort_by_key(|seat| (seat.member.queued_at, seat.member.slot.job));
        let Some(until) = seats.iter().map(|seat| seat.member.until).min() else { return };
        let first_class = seats.first().and_then(|seat| seat.member.class.clone());
        // A size, on a scale of seconds.
        self.metrics.fleet_batch_size(Duration::from_secs(seats.len() as u64));
        debug!(launch_id = launch.as_str(), jobs = seats.len(), spot, "launching");
        let members = Members::Jobs(seats.iter().map(|seat| seat.member.slot.clone()).collect());
        let order = Order { launch_id: launch.clone(), spec, spot, members, until };
        let answers = tokio::time::timeout_at(until + self.limits.grace, self.compute.launch(&order)).await;
        let Ok(answers) = answers else {
            warn!(launch_id = launch.as_str(), "a launch was not answered in time");
            return;
        };
        let mut seats = seats.into_iter();
        for answer in answers {
            match (seats.next(), answer) {
                (Some(seat), answer) => {
                    let class = seat.member.class;
                    if let Err(Ok(machine)) = seat.answer.send(answer) {
                        self.spare(machine, class);
                    }
                }
                (None, Ok(machine)) => self.spare(machine, first_class.clone()),
                (None, Err(_)) => {}
            }
        }
    }

    /// A machine whose job no longer waits for it.
    fn spare(&self, machine: Machine, class: Option<ClassKey>) {
        // Without its owner the process is ending: the sweep of surplus machines has it.
        let Some(dispatch) = self.dispatch.upgrade() else { return };
        let deadline = Instant::now() + self.limits.spare;
        self.spawn(async move { Box::pin(dispatch.give_away(machine, class, deadline)).await });
    }
}
