//! The states a job record can be in.

/// Where a job stands with us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Pending: freshly accepted, or to be dispatched again. Stored as `requeued` so that the Go implementation can
    /// claim it after a roll-back.
    Requeued,
    /// A dispatch attempt holds the lease.
    Claiming,
    /// A machine is bound to it.
    Launched,
    /// The agent reported its listener up, or GitHub named our runner for the job.
    Running,
    /// We lost, or are losing, the machine; recovery is pending.
    Terminating,
    /// Over. Final, except for an operator's revive.
    Settled(Settled),
}

/// How a settled job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Settled {
    /// GitHub concluded it.
    Completed,
    /// The agent's word.
    Success,
    /// The agent's word.
    Failure,
    /// The agent's word.
    Timeout,
    /// Lost to a reclaim; a re-run may be pending.
    Interrupted,
    /// We gave up. The record says why, and GitHub fails the job after 24 h.
    Error,
    /// Written by the Go implementation only.
    Failed,
    /// GitHub cancelled it, or no longer knows it.
    Cancelled,
    /// The machine is gone and nobody could say what became of the job.
    Orphaned,
}

impl Settled {
    /// Every way to end.
    pub const ALL: [Self; 9] = [
        Self::Completed,
        Self::Success,
        Self::Failure,
        Self::Timeout,
        Self::Interrupted,
        Self::Error,
        Self::Failed,
        Self::Cancelled,
        Self::Orphaned,
    ];

    /// Whether this end proves that the machine has no work left. `orphaned` may rest on a fault of the cloud's
    /// answer, and `failed` on an older revision's.
    pub const fn proves_idle(self) -> bool {
        !matches!(self, Self::Failed | Self::Orphaned)
    }
}

impl JobState {
    /// Every state.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Requeued, Self::Claiming, Self::Launched, Self::Running, Self::Terminating]
            .into_iter()
            .chain(Settled::ALL.map(Self::Settled))
    }

    /// The stored word (`status`).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requeued => "requeued",
            Self::Claiming => "claiming",
            Self::Launched => "launched",
            Self::Running => "running",
            Self::Terminating => "terminating",
            Self::Settled(Settled::Completed) => "completed",
            Self::Settled(Settled::Success) => "success",
            Self::Settled(Settled::Failure) => "failure",
            Self::Settled(Settled::Timeout) => "timeout",
            Self::Settled(Settled::Interrupted) => "interrupted",
            Self::Settled(Settled::Error) => "error",
            Self::Settled(Settled::Failed) => "failed",
            Self::Settled(Settled::Cancelled) => "cancelled",
            Self::Settled(Settled::Orphaned) => "orphaned",
        }
    }

    /// Reads the stored word. `None`: a word of another release; such a record is left alone and reported.
    pub fn parse(word: &str) -> Option<Self> {
        Self::all().find(|s| s.as_str() == word)
    }

    /// Over for good.
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Settled(_))
    }

    /// A machine is bound.
    pub const fn is_bound(self) -> bool {
        matches!(self, Self::Launched | Self::Running)
    }

    /// The machine named by the record is (or may be) taken.
    pub const fn occupies(self) -> bool {
        matches!(self, Self::Launched | Self::Running | Self::Terminating)
    }
}
