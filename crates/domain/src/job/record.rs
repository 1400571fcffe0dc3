//! The job record: what we know and intend for one GitHub job. The record is the truth; messages are wake-ups.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::gh;
use crate::ids::{ClassKey, JobId, LaunchId, LeaseToken, RunnerId, RunnerKey};
use crate::job::{JobState, Timeline};
use crate::message::JobMessage;

/// One row of the jobs table. A record read from the store carries the version it was read at; every write is pinned
/// to it, so a decision taken on a stale read is refused, not applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Identity.
    pub id: JobId,
    /// Version of the row; 0 before the first write and for rows the Go implementation wrote.
    pub version: u64,
    /// Where it stands.
    pub state: JobState,
    /// The accepted message: everything a re-dispatch needs. Its counters are those of the first accept; the record's
    /// own, below, are the current ones. `None` only for rows from which none can be rebuilt.
    pub message: Option<Arc<JobMessage>>,

    /// The machine bound to it. Present exactly in `launched`, `running`, `terminating`.
    pub instance: Option<RunnerKey>,
    /// Type actually launched.
    pub instance_type: Option<String>,
    /// Zone of the machine.
    pub availability_zone: Option<String>,
    /// Whether spot capacity is (while bound) actually used.
    pub spot: bool,
    /// Served by a warm pool member.
    pub warm_pool_hit: bool,
    /// Served by a running spare.
    pub hot_pool_hit: bool,

    /// Failure retries consumed.
    pub retry_count: u32,
    /// Strikes in this retry generation: 1 with the first claim.
    pub claim_attempts: u32,
    /// Re-dispatches because a runner served another job.
    pub displaced_count: u32,
    /// Re-dispatch generation; never decreases.
    pub dispatch_seq: u32,
    /// Never use spot again. Sticky.
    pub force_on_demand: bool,

    /// Claim time while `claiming`, assignment time from `launched` on, else the start of this generation.
    pub created_at: Timestamp,
    /// First accept; never changes.
    pub queued_at: Timestamp,
    /// Last move to pending.
    pub requeued_at: Option<Timestamp>,
    /// Earliest next claim.
    pub not_before: Option<Timestamp>,
    /// When the outbox sends a wake-up.
    pub redrive_at: Option<Timestamp>,
    /// Why it was last sent back.
    pub requeue_reason: Option<String>,
    /// The dispatch attempt's fence.
    pub lease: Option<Lease>,
    /// Launch request of this attempt.
    pub launch_id: Option<LaunchId>,
    /// Hand-over written and machine started: nothing left for the dispatcher to do.
    pub prepared_at: Option<Timestamp>,
    /// The runner was confirmed.
    pub started_at: Option<Timestamp>,
    /// Present exactly when settled.
    pub completed_at: Option<Timestamp>,
    /// Exit code of the runner.
    pub exit_code: Option<i64>,
    /// Spawn to end.
    pub duration_seconds: Option<u64>,
    /// GitHub's conclusion, in its own word.
    pub conclusion: Option<String>,

    /// Warnings of the label parser.
    pub label_warnings: Vec<String>,
    /// Jobs with the same class are interchangeable.
    pub class: Option<ClassKey>,
    /// The runner GitHub named for it.
    pub runner_name: Option<String>,
    /// Its numeric id.
    pub runner_id: Option<RunnerId>,
    /// Since when GitHub has it in progress there.
    pub in_progress_at: Option<Timestamp>,
    /// GitHub's last answer.
    pub sighting: Option<Sighting>,
    /// Whether a lost job is to be re-run.
    pub rerun: Option<RerunState>,

    /// Milestones.
    pub timeline: Timeline,
    /// Class and code of the last failed attempt.
    pub last_error: Option<String>,
    /// Why it was settled.
    pub settled_reason: Option<String>,
    /// When the row may be deleted by the store.
    pub ttl: Option<Timestamp>,
}

/// A dispatch attempt's hold on the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Fences every write of the attempt.
    pub token: LeaseToken,
    /// Replica and boot id, for humans and for the embedded store's restart.
    pub owner: String,
    /// From here on somebody else may take it. `None` once the attempt is over and only the token is kept.
    pub until: Option<Timestamp>,
}

/// GitHub's last answer about a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// What it said.
    pub status: gh::Status,
    /// When we heard it.
    pub at: Timestamp,
    /// When GitHub concluded the job.
    pub completed_at: Option<Timestamp>,
}

/// Where a job's machine came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// It was launched for the job, or for another one that did not need it any more.
    ColdStart,
    /// It was a stopped spare of a pool.
    WarmPool,
    /// It was a running spare of a pool.
    HotPool,
}

impl Origin {
    /// The word shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ColdStart => "cold_start",
            Self::WarmPool => "warm_pool",
            Self::HotPool => "hot_pool",
        }
    }
}

/// What becomes of a job we lost while GitHub ran it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RerunState {
    /// To be asked for.
    Pending,
    /// GitHub accepted it.
    Done,
    /// Not ours to repeat, or GitHub refused.
    Refused,
    /// GitHub did not accept it within 24 h.
    Expired,
}

impl RerunState {
    /// The stored word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Expired => "expired",
        }
    }
    /// Reads the stored word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Pending, Self::Done, Self::Refused, Self::Expired].into_iter().find(|s| s.as_str() == word)
    }
}

impl Job {
    /// 1-based number of this attempt at the job, as people and pod names count it.
    pub const fn attempt(&self) -> u32 {
        self.retry_count + self.displaced_count + 1
    }

    /// Whether the lease is dead: expired, or never there.
    pub fn lease_expired(&self, now: Timestamp) -> bool {
        self.lease.as_ref().and_then(|l| l.until).is_none_or(|until| until <= now)
    }

    /// Whether `token` holds the lease's fence.
    pub fn fenced_by(&self, token: &LeaseToken) -> bool {
        self.lease.as_ref().is_some_and(|l| l.token == *token)
    }

    /// A machine is bound and nothing says yet that GitHub runs the job on it.
    pub const fn is_waiting(&self) -> bool {
        self.state.is_bound() && self.in_progress_at.is_none()
    }

    /// A dispatch attempt has it in hand: claimed, or bound to a machine whose hand-over is not finished.
    pub fn is_being_dispatched(&self) -> bool {
        match self.state {
            JobState::Claiming => true,
            JobState::Launched => self.prepared_at.is_none() && self.lease.is_some(),
            _ => false,
        }
    }

    /// Whether this row is bound to `instance`.
    pub fn is_on(&self, instance: &RunnerKey) -> bool {
        self.state.occupies() && self.instance.as_ref() == Some(instance)
    }

    /// Where its machine came from; `None` while it has none.
    pub fn origin(&self) -> Option<Origin> {
        self.instance.as_ref()?;
        Some(match (self.hot_pool_hit, self.warm_pool_hit) {
            (true, _) => Origin::HotPool,
            (false, true) => Origin::WarmPool,
            (false, false) => Origin::ColdStart,
        })
    }

    /// The message for the next dispatch: the accepted one with the record's counters.
    pub fn next_message(&self) -> Option<JobMessage> {
        let mut message = JobMessage::clone(self.message.as_deref()?);
        message.retry_count = self.retry_count;
        message.displaced_count = self.displaced_count;
        message.dispatch_seq = self.dispatch_seq;
        message.force_on_demand |= self.force_on_demand;
        message.queued_at = Some(self.queued_at);
        if message.force_on_demand {
            message.spec.spot = false;
        }
        Some(message)
    }
}
