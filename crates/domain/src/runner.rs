//! The runner record: one row per machine a runner was minted for.
//!
//! Jobs are demand, runners are supply; which runner serves which job is GitHub's decision and is *discovered*. The
//! row says what we know of the supply: how far the machine has come, which waiting job it is counted for, and which
//! job GitHub gave it.

use crate::clock::{SignedDuration, Timestamp};
use crate::gh::{Conclusion, Status};
use crate::ids::{ClassKey, DispatchId, JobId, PoolName, Repo, RunnerId, RunnerKey};

/// How far a runner has come. Moves only down this list, except that a retiring runner may turn out busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RunnerState {
    /// Bound to a job; the GitHub call or the hand-over is under way.
    Minting,
    /// Hand-over delivered, listener not confirmed.
    Minted,
    /// Listener up, no job known.
    Online,
    /// GitHub named it for a job.
    Busy,
    /// Deregistered; may still hold a job.
    Retiring,
    /// Its job completed, or the agent reported the end.
    Done,
    /// The machine vanished, was reclaimed, or never registered.
    Gone,
}

impl RunnerState {
    /// Every state, in order.
    pub const ALL: [Self; 7] =
        [Self::Minting, Self::Minted, Self::Online, Self::Busy, Self::Retiring, Self::Done, Self::Gone];

    /// The stored word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minting => "minting",
            Self::Minted => "minted",
            Self::Online => "online",
            Self::Busy => "busy",
            Self::Retiring => "retiring",
            Self::Done => "done",
            Self::Gone => "gone",
        }
    }
    /// Reads the stored word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }
    /// Whether the machine may still run something.
    pub fn is_live(self) -> bool {
        self < Self::Done
    }
}

/// One runner. A row read from the store carries the version it was read at; every write is pinned to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Runner {
    /// The machine.
    pub key: RunnerKey,
    /// Version of the row; 0 before the first write.
    pub version: u64,
    /// How far it has come.
    pub state: RunnerState,
    /// Where it is registered.
    pub repo: Repo,
    /// The name it is (or is being) registered under.
    pub name: String,
    /// Names of mints whose answer was lost: their registrations may exist and are swept.
    pub abandoned_names: Vec<String>,
    /// GitHub's id of the registration, once minted.
    pub id: Option<RunnerId>,
    /// Labels it is registered with.
    pub labels: Vec<String>,
    /// Derived from repository and labels.
    pub class: ClassKey,
    /// The pool it came from.
    pub pool: Option<PoolName>,
    /// The waiting job it is counted for. Stale once that job's record names another machine.
    pub bound_job: Option<JobId>,
    /// The job GitHub gave it.
    pub running_job: Option<JobId>,
    /// This assignment, as in the hand-over.
    pub dispatch: DispatchId,
    /// When it was bound; the sort key of the state index.
    pub minted_at: Timestamp,
    /// The agent's `started`.
    pub online_at: Option<Timestamp>,
    /// GitHub's `started_at` of the job it runs.
    pub running_since: Option<Timestamp>,
    /// A spot warning or the machine's disappearance.
    pub interrupted_at: Option<Timestamp>,
    /// From here on a finished runner that sent no report counts as done.
    pub retire_at: Option<Timestamp>,
    /// The last terminal report, as it came in.
    pub report: Option<FinalReport>,
    /// When the row may be deleted.
    pub ttl: Option<Timestamp>,
}

/// What of a terminal report is kept on the row, so that a later sweep can settle the job with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalReport {
    /// The agent's word.
    pub status: String,
    /// The runner's exit code.
    pub exit_code: i64,
    /// Spawn to end.
    pub duration_seconds: u64,
    /// When it ended.
    pub at: Timestamp,
}

impl Runner {
    /// A runner that is to be registered on this machine, for nobody yet.
    pub fn new(
        key: RunnerKey,
        repo: Repo,
        class: ClassKey,
        name: String,
        dispatch: DispatchId,
        minted_at: Timestamp,
    ) -> Self {
        Self {
            key,
            version: 0,
            state: RunnerState::Minting,
            repo,
            name,
            abandoned_names: Vec::new(),
            id: None,
            labels: Vec::new(),
            class,
            pool: None,
            bound_job: None,
            running_job: None,
            dispatch,
            minted_at,
            online_at: None,
            running_since: None,
            interrupted_at: None,
            retire_at: None,
            report: None,
            ttl: None,
        }
    }
    /// Moves to `state` unless that would go back up. `Retiring` → `Busy` is the one legal step up.
    pub fn advance(&mut self, state: RunnerState) {
        if state > self.state || (self.state == RunnerState::Retiring && state == RunnerState::Busy) {
            self.state = state;
        }
    }
    /// Whether its machine took a job along, by GitHub's word on the job: the machine is gone and never said how its work
    /// ended, and the job runs there still, or failed after the machine was taken back or known to be gone. A job that
    /// fails by itself ends before its machine does.
    pub fn took_along(&self, job: Status, ended: Option<Timestamp>) -> bool {
        let silent = self.state == RunnerState::Gone && self.report.is_none();
        silent
            && match job {
                Status::InProgress => true,
                Status::Completed(Conclusion::Failure) => {
                    self.interrupted_at.zip(ended).is_some_and(|(gone, ended)| gone < ended)
                }
                _ => false,
            }
    }
    /// How long a row outlives its last write: the longest job and the day GitHub keeps one queued.
    pub fn keep_until(now: Timestamp, max_runtime: std::time::Duration) -> Timestamp {
        let keep = SignedDuration::try_from(max_runtime).unwrap_or(SignedDuration::from_hours(24))
            + SignedDuration::from_hours(26);
        now.saturating_add(keep).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
