//! The port for machines: EC2 instances, pods, or processes on a laptop.
//!
//! `launch` may be repeated with the same order after an ambiguous answer and never starts a second machine for
//! the same spec. A launched machine does nothing until `start` (EC2 machines boot at once and wait for their
//! hand-over, so `start` is a no-op there; a pod's gate is lifted; a local process is spawned).

use std::collections::BTreeMap;

use async_trait::async_trait;
use domain::clock::Timestamp;
use domain::ids::{JobId, LaunchId, Repo, RunId, RunnerKey};
use domain::launch::LaunchSpec;

/// Machines alike, launched together by one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// Names the request; a repeated launch under the same name never starts a second machine for the same slot.
    pub launch_id: LaunchId,
    /// What each machine must be like.
    pub spec: LaunchSpec,
    /// Spot capacity, decided by dispatch.
    pub spot: bool,
    /// One machine each.
    pub slots: Vec<Slot>,
    /// Nothing of the launch may still be going on after this.
    pub until: tokio::time::Instant,
}

/// Whom one machine of an [`Order`] is for: for its tags, where the creating call can carry them. Any machine of an
/// order serves any of its slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The job.
    pub job: JobId,
    /// Its workflow run, if known.
    pub run: Option<RunId>,
    /// Its repository.
    pub repo: Repo,
}

/// A machine as the provider sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Its id.
    pub key: RunnerKey,
    /// Where it stands.
    pub state: MachineState,
    /// Actual type.
    pub instance_type: String,
    /// Availability zone, if there are such.
    pub zone: Option<String>,
    /// Actual lifecycle.
    pub spot: bool,
    /// When it was created.
    pub launched_at: Timestamp,
    /// The request it came from.
    pub launch_id: Option<LaunchId>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// EC2's words for where a machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MachineState {
    /// Booting.
    Pending,
    /// Up.
    Running,
    /// On its way to `stopped`.
    Stopping,
    /// Off, its disk kept.
    Stopped,
    /// On its way to `terminated`.
    ShuttingDown,
    /// Gone; listed for a while.
    Terminated,
}

impl MachineState {
    /// The word in the API and on the page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
        }
    }
    /// Whether it can still run a job without being started again.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Pending | Self::Running)
    }
    /// Whether it will never run anything again.
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}

/// Why no machine was launched, or an operation failed, by what dispatch must do (`docs/ARCHITECTURE.md`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No capacity of this kind right now: spot jobs fall back to on-demand, others wait.
    #[error("no capacity: {0}")]
    Capacity(String),
    /// Try again later.
    #[error("the provider is busy or unreachable: {0}")]
    Transient(String),
    /// The deployment is wrong (launch template, permissions): every job waits until an operator mends it.
    #[error("the deployment needs attention: {0}")]
    Deployment(String),
    /// The request can never be launched.
    #[error("the request cannot be launched: {0}")]
    Invalid(String),
}

/// What to list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// Only machines of this launch.
    pub launch_id: Option<LaunchId>,
    /// Also terminated ones that are still listed.
    pub include_gone: bool,
}

/// Machines.
#[async_trait]
pub trait Compute: Send + Sync + 'static {
    /// Returns when a launch may be sent. Back ends with a budget of calls wait here, before the order is closed, so
    /// that it fills meanwhile; the launch that follows does not wait again.
    async fn ready(&self) {}
    /// Launches one machine per slot and answers one result per slot, in order. The same order, repeated, returns the
    /// same machines.
    async fn launch(&self, order: &Order) -> Vec<Result<Machine, Error>>;
    /// The cloud announced that it takes a spot machine back: later launches look elsewhere. Repeatable.
    async fn reclaimed(&self, _machine: &Machine, _at: Timestamp) {}
    /// Lets a launched or stopped machine run. Repeatable.
    async fn start(&self, key: &RunnerKey) -> Result<(), Error>;
    /// Stops a machine, keeping its disk. Repeatable.
    async fn stop(&self, key: &RunnerKey) -> Result<(), Error>;
    /// Ends a machine for good, with everything it started. Repeatable; a missing machine is fine.
    async fn terminate(&self, key: &RunnerKey) -> Result<(), Error>;
    /// One machine; `None` when the provider does not know it (any more).
    async fn describe(&self, key: &RunnerKey) -> Result<Option<Machine>, Error>;
    /// Every machine of ours that matches.
    async fn list(&self, filter: &Filter) -> Result<Vec<Machine>, Error>;
}
