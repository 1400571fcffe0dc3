//! What tasks work with.

use std::sync::Arc;
use std::time::Duration;

use config::HotPoolCaps;
use db::{Claims, Locks, Pools, Tasks};
use dispatch::Dispatch;
use domain::clock::{Clock, Rng, Timestamp};
use provider::{BlobStore, Compute, HandOver};
use telemetry::Metrics;
use tokio::sync::Semaphore;

/// Tasks at the same time.
const SLOTS: usize = 3;

/// Everything outside the process that tasks talk to.
pub struct Ports {
    /// The life of a job, with its ports.
    pub dispatch: Arc<Dispatch>,
    /// The schedule.
    pub tasks: Tasks,
    /// Locks of tasks.
    pub locks: Locks,
    /// Claims on machines.
    pub claims: Claims,
    /// Pools of machines.
    pub pools: Arc<Pools>,
    /// Where records of jobs go before they are deleted. `None`: they stay until the table's own expiry.
    pub archive: Option<Arc<dyn BlobStore>>,
}

/// What operators decide.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Every interval is divided by this; 1 in production.
    pub divisor: u32,
    /// Who we are, in locks.
    pub owner: String,
    /// Runtime ceiling of a job.
    pub max_runtime: Duration,
    /// How long a machine may live without a job, a claim or an assignment.
    pub unclaimed_grace: Duration,
    /// How long a machine may outlive its job.
    pub completed_grace: Duration,
    /// How long a stopped machine without a pool is kept. `None`: for ever.
    pub stopped_grace: Option<Duration>,
    /// How spares may linger. `None`: they do not.
    pub hot_pools: Option<HotPoolCaps>,
    /// Delete records of jobs although there is no archive.
    pub hard_delete: bool,
}

impl Settings {
    /// Where operators cannot say otherwise.
    pub const UNCLAIMED_GRACE: Duration = Duration::from_secs(30 * 60);
    /// The same.
    pub const COMPLETED_GRACE: Duration = Duration::from_secs(15 * 60);

    /// From here on a machine has outlived every job: the agent ends it ten minutes earlier.
    pub fn ceiling(&self) -> Duration {
        self.max_runtime + Duration::from_secs(600)
    }
    /// From here on what should have been used is dead: the longest job, or two hours, and two hours.
    pub fn dead_age(&self) -> Duration {
        const TWO_HOURS: Duration = Duration::from_secs(7200);
        self.max_runtime.max(TWO_HOURS) + TWO_HOURS
    }
}

/// Housekeeping. Every method may run on any number of tasks and replicas at once.
pub struct Housekeeping {
    pub(crate) ports: Ports,
    pub(crate) settings: Settings,
    /// Of all tasks, and of those that read the jobs table broadly.
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) readers: Arc<Semaphore>,
}

impl Housekeeping {
    /// Brings ports and settings together.
    pub fn new(ports: Ports, settings: Settings) -> Arc<Self> {
        let (slots, readers) = (Arc::new(Semaphore::new(SLOTS)), Arc::new(Semaphore::new(1)));
        Arc::new(Self { ports, settings, slots, readers })
    }

    pub(crate) fn dispatch(&self) -> &dispatch::Ports {
        self.ports.dispatch.ports()
    }
    pub(crate) fn compute(&self) -> &dyn Compute {
        self.dispatch().compute.as_ref()
    }
    pub(crate) fn hand_over(&self) -> &dyn HandOver {
        self.dispatch().hand_over.as_ref()
    }
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.dispatch().metrics
    }
    pub(crate) fn rng(&self) -> &dyn Rng {
        self.dispatch().rng.as_ref()
    }
    pub(crate) fn clock(&self) -> &dyn Clock {
        self.dispatch().clock.as_ref()
    }
    pub(crate) fn now(&self) -> Timestamp {
        self.clock().now()
    }
    pub(crate) fn short(&self, t: Duration) -> Duration {
        t / self.settings.divisor.max(1)
    }
}

/// Why a step of a task could not be taken. The next run tries again, whatever it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step of dispatch failed.
    #[error(transparent)]
    Dispatch(#[from] dispatch::Error),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] db::Error),
    /// The provider did not answer.
    #[error(transparent)]
    Compute(#[from] provider::compute::Error),
    /// The hand-over store did not answer.
    #[error(transparent)]
    HandOver(#[from] provider::handover::Error),
    /// GitHub did not answer.
    #[error(transparent)]
    GitHub(#[from] github::client::Error),
    /// A pool could not be worked on.
    #[error(transparent)]
    Pool(#[from] pools::Error),
    /// The archive did not answer.
    #[error(transparent)]
    Archive(#[from] provider::blobs::Error),
    /// Something in this process failed.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// Whether GitHub asked us to wait: then nothing more of this run will be answered.
    pub(crate) fn is_throttling(&self) -> bool {
        let (Self::GitHub(error) | Self::Dispatch(dispatch::Error::GitHub(error))) = self else { return false };
        error.retry_at().is_some()
    }
}
