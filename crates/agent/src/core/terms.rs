//! What the state machine is told and what it answers.

use std::time::Duration;

use domain::clock::Timestamp;
use domain::handover::Credential;
use domain::ids::{DispatchId, JobId};
use domain::report::AgentReport;

use super::Exit;

/// When something happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Since the agent's start, on a clock that never steps.
    pub elapsed: Duration,
    /// Wall time, for reports.
    pub wall: Timestamp,
}

/// The limits of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// SIGTERM to SIGKILL.
    pub grace: Duration,
    /// Claim to stop.
    pub max_runtime: Duration,
    /// Listening without a job to stop; zero switches it off.
    pub pickup: Duration,
}

/// What of a hand-over matters here.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// The job it was minted for.
    pub job: Option<JobId>,
    /// Its workflow run.
    pub run: String,
    /// The assignment.
    pub dispatch: Option<DispatchId>,
    /// Proof that the hand-over was read here.
    pub token: Credential,
    /// Wins over [`Limits::max_runtime`].
    pub max_runtime: Option<Duration>,
    /// Wins over [`Limits::pickup`].
    pub idle_exit: Option<Duration>,
}

/// What the runner's output and diagnostics say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// The listener is connected.
    Listening,
    /// The runner got a job.
    JobReceived,
    /// The runner finished its job.
    JobCompleted,
    /// The listener gave up with this code.
    ListenerFailed(i32),
    /// The listener is being restarted.
    Retrying,
}

/// A signal that asks the agent to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
}

/// What a machine can run short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Space in a file system that the job writes to.
    Disk,
    /// Memory.
    Memory,
}

impl Resource {
    /// The word for reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "low_disk",
            Self::Memory => "low_memory",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A fresh hand-over was found.
    Found(Box<Assignment>),
    /// What was found can never be used; with the assignment if it could be read that far.
    Unusable(Option<Box<Assignment>>, String),
    /// No hand-over came before the standby deadline.
    NobodyCame,
    /// A previous agent on this machine claimed this assignment at that time and died.
    Recovered(Box<Assignment>, Timestamp, String),
    /// The runner is ready to be spawned.
    Prepared {
        /// Version of the runner, if known.
        version: Option<String>,
        /// Discovery or download took this long.
        runner: Duration,
        /// Registration files and environment took this long.
        register: Duration,
    },
    /// The runner cannot be made ready: `<kind>: <text>`.
    PrepareFailed(String),
    /// `run.sh` was spawned.
    Spawned,
    /// It could not be spawned.
    SpawnFailed(String),
    /// Something was learnt about the runner.
    Seen(Evidence),
    /// Nothing contradicts that the runner is idle; the answer to [`Action::LookForWorker`].
    Idle,
    /// `run.sh` ended and its output is read; during a stop, its listener and workers ended as well.
    Exited(Exit),
    /// The agent was signalled.
    Signal(Signal),
    /// EC2 takes the machine back at this time.
    SpotNotice(Timestamp),
    /// The machine ran short of this.
    Low(Resource),
    /// A part of the agent panicked.
    Panicked(String),
    /// A deadline may have passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Record the claim durably, then make the runner ready.
    Prepare,
    /// Spawn `run.sh`.
    Spawn,
    /// Send this report in the background.
    Report(Box<AgentReport>),
    /// Look for a worker process or log: answer [`Evidence::JobReceived`] or [`Input::Idle`].
    LookForWorker,
    /// SIGTERM to the process group of `run.sh`.
    Terminate,
    /// SIGKILL to everything the runner started.
    Kill,
    /// End: leave no process and no credential, keep the logs, send the report, end the machine, clean up, exit with
    /// the code. The last action.
    Finish {
        /// The completion.
        report: Option<Box<AgentReport>>,
        /// Exit code of the agent.
        code: u8,
        /// How long keeping the logs may delay the report.
        logs_within: Duration,
        /// Leave the machine to whoever told the agent to go: it is unused and may be wanted again.
        spare_machine: bool,
    },
}

/// Where the agent stands, in a word for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for a hand-over.
    Standby,
    /// Making the runner ready.
    Preparing,
    /// `run.sh` runs.
    Running,
    /// It was asked to stop.
    Stopping,
    /// Nothing further will be decided.
    Over,
}

impl Phase {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Over => "over",
        }
    }
}
