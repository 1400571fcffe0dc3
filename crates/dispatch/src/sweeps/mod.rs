//! The reconcilers: each looks at records and the world, and repairs one kind of difference.
//!
//! Every step is won by a conditional write, so any number of replicas may run them at once. A sweep reads candidates
//! from an index, reads each again consistently, goes on past single failures, and reports an error if any step
//! failed: a sweep that never succeeds must not look healthy. "Cannot tell" counts as alive.

mod dead_letters;
mod lost;
mod pending;
mod recovery;
mod refresh;
mod runners;
mod secrets;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use domain::ids::JobId;
use domain::job::Job;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::context::{Dispatch, Error};

/// Calls of GitHub one run of a sweep may cost.
const GITHUB_CALLS: usize = 30;
/// Jobs one run of a sweep may dispatch again.
const REDISPATCHES: usize = 5;

/// What bounds a run of a sweep that is a task.
pub struct Scope<'a> {
    /// Asked before every step: may another one begin?
    pub go_on: &'a (dyn Fn() -> bool + Send + Sync),
    /// Act on so many things at most.
    pub max_items: Option<usize>,
    /// Only this job.
    pub job: Option<JobId>,
    /// Only select: ask nobody outside the store, and change nothing.
    pub dry_run: bool,
}

impl Scope<'static> {
    /// Everything.
    pub const ALL: Self = Self { go_on: &|| true, max_items: None, job: None, dry_run: false };
}

impl Scope<'_> {
    fn goes_on(&self, swept: &Swept) -> bool {
        !swept.throttled && self.max_items.is_none_or(|most| swept.acted < most) && (self.go_on)()
    }
    fn covers(&self, job: &Job) -> bool {
        self.job.is_none_or(|id| id == job.id)
    }
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// Rows looked at.
    pub seen: usize,
    /// Rows acted upon.
    pub acted: usize,
    /// Rows left for the next run; at least.
    pub deferred: usize,
    /// Rows whose step failed.
    pub failed: usize,
    /// The first failure, in words.
    pub first_error: Option<String>,
    /// GitHub asked us to wait.
    pub throttled: bool,
    /// What a dry run would look into.
    pub candidates: Vec<String>,
}

impl Swept {
    fn count(&mut self, step: &Result<bool, Error>) {
        self.seen += 1;
        match step {
            Ok(true) => self.acted += 1,
            Ok(false) => {}
            Err(error) => {
                self.failed += 1;
                self.throttled |= matches!(error, Error::GitHub(error) if error.retry_at().is_some());
                self.first_error.get_or_insert_with(|| error.to_string());
                debug!(%error, "a step of a sweep failed; the next run tries again");
            }
        }
    }
    fn would_look_into(&mut self, id: &impl ToString) {
        self.seen += 1;
        self.acted += 1;
        self.candidates.push(id.to_string());
    }
}

macro_rules! sweeps {
    ($($(#[$doc:meta])* $name:ident, $period:ident;)+) => {
        /// A sweep of dispatch.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Sweep { $($(#[$doc])* $name),+ }

        impl Sweep {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its name in logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($period)),+ }
            }

            /// How often it runs.
            pub const fn period(self, every: &domain::timings::Periods) -> Duration {
                match self { $(Self::$name => every.$period),+ }
            }
        }
    };
}

sweeps! {
    /// Pending records whose wake-up is due.
    Outbox, outbox;
    /// Records whose lease died.
    Lease, lease;
    /// Jobs whose machine we lost, and their re-runs.
    Recovery, recovery;
    /// Machines that were launched and never bound.
    Surplus, surplus;
    /// Machines that were prepared and never confirmed.
    Unconfirmed, unconfirmed;
    /// Old `running` and `claiming` records GitHub may know better about.
    Stale, stale;
    /// Very old records, and the 24 h deadline.
    Orphan, orphan;
    /// Jobs that wait on a runner which will not serve them.
    Refresh, refresh;
    /// Runners whose machine is gone.
    Vanished, vanished;
    /// Failed webhook deliveries.
    Redelivery, redelivery;
    /// Jobs queued at GitHub that we never heard of.
    QueuedScan, queued_scan;
    /// Wake-ups that were delivered in vain too often.
    DeadLetters, dead_letters;
    /// Hand-overs whose machine is gone.
    Secrets, secrets;
}

impl Sweep {
    /// Those that run as loops of their own; the others are housekeeping's tasks.
    pub const LOOPS: &'static [Self] = &[Self::Outbox, Self::Lease, Self::Recovery, Self::Surplus, Self::Vanished];
}

impl Dispatch {
    /// Runs a sweep once.
    pub async fn sweep(&self, sweep: Sweep) -> Result<Swept, Error> {
        self.sweep_within(sweep, &Scope::ALL).await
    }

    /// The same within bounds, which those that are no tasks do not have.
    pub async fn sweep_within(&self, sweep: Sweep, scope: &Scope<'_>) -> Result<Swept, Error> {
        match sweep {
            Sweep::Outbox => self.outbox().await,
            Sweep::Lease => self.dead_leases().await,
            Sweep::Recovery => self.recovery().await,
            Sweep::Surplus => self.surplus().await,
            Sweep::Vanished => self.vanished().await,
            Sweep::Unconfirmed => self.unconfirmed(scope).await,
            Sweep::Stale => self.stale(scope).await,
            Sweep::Orphan => self.orphans(scope).await,
            Sweep::Refresh => self.refresh(scope).await,
            Sweep::Redelivery => self.redeliver_webhooks(scope).await,
            Sweep::QueuedScan => self.scan_queued(scope).await,
            Sweep::DeadLetters => self.dead_letters(scope).await,
            Sweep::Secrets => self.stale_secrets(scope).await,
        }
    }
}

/// Runs every sweep on its own period until `shutdown`; a run in flight is finished. Between runs it sleeps.
pub async fn run(dispatch: Arc<Dispatch>, shutdown: CancellationToken) {
    run_some(dispatch, Sweep::ALL, shutdown).await;
}

/// The same for some of them: what the others would repair stays broken.
pub async fn run_some(dispatch: Arc<Dispatch>, sweeps: &[Sweep], shutdown: CancellationToken) {
    let mut loops = JoinSet::new();
    for &sweep in sweeps {
        loops.spawn(run_one(Arc::clone(&dispatch), sweep, shutdown.clone()));
    }
    while let Some(ended) = loops.join_next().await {
        if let Err(error) = ended {
            error!(%error, "a sweep died");
        }
    }
}

async fn run_one(dispatch: Arc<Dispatch>, sweep: Sweep, shutdown: CancellationToken) {
    let period = sweep.period(&dispatch.settings.timings.every);
    // The first run comes soon: a restart is when most is left to repair, and a process that restarts often must not
    // starve its sweeps. Then spread over the period, so that sweeps and replicas do not march in step.
    let mut pause = period.mul_f64(0.1 * dispatch.ports.rng.unit());
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = dispatch.ports.rng.jitter(period, 0.1);
        // A panic in one run must not end the sweep: it runs as a task of its own, and its death is counted.
        let mut task = JoinSet::new();
        let runner = Arc::clone(&dispatch);
        task.spawn(async move { runner.sweep(sweep).await });
        match task.join_next().await {
            Some(Ok(Ok(swept))) if swept.failed > 0 => {
                error!(
                    sweep = sweep.as_str(),
                    seen = swept.seen,
                    failed = swept.failed,
                    "a sweep could not do all it should"
                );
            }
            Some(Ok(Ok(swept))) if swept.acted > 0 => {
                tracing::info!(sweep = sweep.as_str(), seen = swept.seen, acted = swept.acted, "swept");
            }
            Some(Ok(Err(error))) => error!(sweep = sweep.as_str(), %error, "a sweep failed"),
            Some(Err(panic)) => {
                dispatch.ports.metrics.task_panics(sweep.as_str());
                error!(sweep = sweep.as_str(), %panic, "a sweep died; it runs again");
            }
            _ => {}
        }
    }
}
