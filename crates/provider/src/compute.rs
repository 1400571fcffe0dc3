//! The port for machines: EC2 instances, pods, or processes on a laptop.
//!
//! `launch` may be repeated with the same order after an ambiguous answer and never starts a second machine for
//! the same spec. A launched machine does nothing until `start` (EC2 machines boot at once and wait for their
//! hand-over, so `start` is a no-op there; a pod's gate is lifted; a local process is spawned). A machine of a warm pool
//! boots at once everywhere, and waits.

use std::collections::BTreeMap;

use async_trait::async_trait;
use domain::clock::Timestamp;
use domain::ids::{JobId, LaunchId, PoolName, Repo, RunId, RunnerKey};
use domain::launch::{Arch, LaunchSpec};

use crate::tags;

/// Machines alike, launched together by one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// Names the request; a repeated launch under the same name never starts a second machine for the same member.
    pub launch_id: LaunchId,
    /// What each machine must be like.
    pub spec: LaunchSpec,
    /// Spot capacity, decided by dispatch. Machines of a pool are on-demand whatever it says: spot capacity cannot be
    /// stopped and started again.
    pub spot: bool,
    /// One machine each.
    pub members: Members,
    /// Nothing of the launch may still be going on after this.
    pub until: tokio::time::Instant,
}

/// Whom the machines of an [`Order`] are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// Jobs that wait; the machines carry the launch's name.
    Jobs(Vec<Slot>),
    /// Spares of a warm pool. They carry the pool's name and, since they are nobody's yet, not the launch's.
    Pool {
        /// Whose.
        pool: PoolName,
        /// How many.
        count: usize,
    },
}

impl Members {
    /// How many machines that makes.
    pub fn len(&self) -> usize {
        match self {
            Self::Jobs(slots) => slots.len(),
            Self::Pool { count, .. } => *count,
        }
    }
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The jobs; none of a pool's order.
    pub fn slots(&self) -> &[Slot] {
        match self {
            Self::Jobs(slots) => slots,
            Self::Pool { .. } => &[],
        }
    }
    /// The pool whose spares these are.
    pub fn pool(&self) -> Option<&PoolName> {
        match self {
            Self::Jobs(_) => None,
            Self::Pool { pool, .. } => Some(pool),
        }
    }
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
    /// Its architecture, where the provider says so.
    pub arch: Option<Arch>,
    /// The image it was made from, where there are such.
    pub image: Option<String>,
    /// When it was launched, or started last.
    pub launched_at: Timestamp,
    /// When it ended, if it has and the provider says so.
    pub ended_at: Option<Timestamp>,
    /// The request it came from; of machines launched for jobs.
    pub launch_id: Option<LaunchId>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

impl Machine {
    /// The warm pool it belongs to.
    pub fn pool(&self) -> Option<&str> {
        self.tag(tags::POOL)
    }
    /// Whether it is some job's, or will be of no use to one: a spare that was given away, a machine launched for a job,
    /// a machine that was announced to be taken back. Tags lag behind; what they do not say may be so all the same.
    pub fn is_assigned(&self) -> bool {
        let is_set = |name| self.tag(name) == Some("true");
        let named = |name| self.tag(name).is_some();
        is_set(tags::ASSIGNED) || is_set(tags::INTERRUPTED) || named(tags::JOB_ID) || named(tags::LAUNCH_ID)
    }
    fn tag(&self, name: &str) -> Option<&str> {
        self.tags.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
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
    /// Only machines of this pool.
    pub pool: Option<PoolName>,
    /// Also terminated ones that are still listed.
    pub include_gone: bool,
    /// Of what kind.
    pub which: Which,
}

impl Filter {
    /// Whether a machine that is [`Which::Ours`] matches.
    pub fn admits(&self, machine: &Machine) -> bool {
        self.which == Which::Ours
            && (self.include_gone || !machine.state.is_gone())
            && self.launch_id.as_ref().is_none_or(|launch| machine.launch_id.as_ref() == Some(launch))
            && self.pool.as_ref().is_none_or(|pool| machine.pool() == Some(pool.as_str()))
    }
}

/// Kinds of machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Which {
    /// Those we launched.
    #[default]
    Ours,
    /// Those that build images; their tool marks them.
    Builders,
    /// Those with the rights of a runner that lost our mark, or never got it.
    Unmarked,
}

/// A request for spot capacity that was fulfilled and is still open: it may bring its machine back from the dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpotRequest {
    /// Its id.
    pub id: String,
    /// The machine it brought.
    pub machine: RunnerKey,
}

/// Machines.
#[async_trait]
pub trait Compute: Send + Sync + 'static {
    /// Returns when a launch may be sent. Back ends with a budget of calls wait here, before the order is closed, so
    /// that it fills meanwhile; the launch that follows does not wait again.
    async fn ready(&self) {}
    /// Launches one machine per member and answers one result per member, in order. The same order, repeated, returns
    /// the same machines.
    async fn launch(&self, order: &Order) -> Vec<Result<Machine, Error>>;
    /// The cloud announced that it takes a spot machine back: later launches look elsewhere. Repeatable.
    async fn reclaimed(&self, _machine: &Machine, _at: Timestamp) {}
    /// Lets a launched or stopped machine run; one that runs already is fine. Repeatable.
    ///
    /// Errors: [`Error::Capacity`] when there is no room for it where its disk is; [`Error::Transient`] while it is on
    /// its way to a stop, or gone.
    async fn start(&self, key: &RunnerKey) -> Result<(), Error>;
    /// Stops a machine, keeping its disk. A machine of a kind that cannot be stopped (spot) is terminated instead, so
    /// that nothing is left running. Repeatable; a missing machine is fine.
    async fn stop(&self, key: &RunnerKey) -> Result<(), Error>;
    /// Ends a machine for good, with everything it started. Repeatable; a missing machine is fine.
    async fn terminate(&self, key: &RunnerKey) -> Result<(), Error>;
    /// Sets or overwrites tags. Repeatable.
    async fn tag(&self, key: &RunnerKey, tags: &[(String, String)]) -> Result<(), Error>;
    /// Removes tags by name; one that is not there is fine. Repeatable.
    async fn untag(&self, key: &RunnerKey, names: &[&str]) -> Result<(), Error>;
    /// One machine; `None` when the provider does not know it (any more).
    async fn describe(&self, key: &RunnerKey) -> Result<Option<Machine>, Error>;
    /// Those of these machines that the provider knows, ended ones too: what is missing from the answer is gone. All or
    /// an error.
    async fn describe_many(&self, keys: &[RunnerKey]) -> Result<Vec<Machine>, Error> {
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            found.extend(self.describe(key).await?);
        }
        Ok(found)
    }
    /// Every machine that matches.
    async fn list(&self, filter: &Filter) -> Result<Vec<Machine>, Error>;
    /// The image that a machine of this architecture would be made from now; learnt at most 10 minutes ago, else `None`.
    async fn current_image(&self, arch: Arch) -> Result<Option<String>, Error>;
    /// Our open spot requests that were fulfilled.
    async fn spot_requests(&self) -> Result<Vec<SpotRequest>, Error>;
    /// Cancels spot requests by id; their machines stay. Repeatable.
    async fn cancel_spot_requests(&self, ids: &[String]) -> Result<(), Error>;
}
