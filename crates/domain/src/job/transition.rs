//! What an event does to a job: one total, pure function.
//!
//! [`transition`] is the table. Every writer gathers facts, asks it, and writes what it says under a condition on the
//! version it read; a combination that is not in the table is a no-op: no write, no message, no error. Each event
//! carries only the facts its own rows look at, so that the test can walk the whole product.
//!
//! Rules that hold across rows:
//! * A settled job stays settled; only an operator may revive one that ended in `error` or `orphaned`.
//! * A process that dies is no reason to give up on the job it had: the job waits longer after its third dead lease, and
//!   is tried for as long as GitHub keeps it.
//! * A job GitHub has concluded is never dispatched again. Only a re-run, under a new id, repeats it.
//! * Where GitHub cannot be asked, nothing irreversible happens before the 24 h deadline; the one exception is a spot
//!   warning for a job that has not started.
//! * Before a re-dispatch of a job whose runner may have registered, the caller ends that runner (`dispatch::retire`):
//!   its deleted registration is what keeps it from taking the job a second time.

use crate::gh::{Conclusion, Status};
use crate::job::{JobState, Settled};

/// Something that happened to a job, with the facts that decide what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A verified webhook (or a scan) says the job is queued.
    Accept,
    /// A dispatcher wants the job.
    Claim {
        /// `not_before` is absent or past.
        due: bool,
        /// The message carries a higher `retry_count` than the record.
        message_is_newer: bool,
        /// Nobody holds a live lease.
        lease_expired: bool,
        /// Fewer than three strikes.
        strikes_left: bool,
    },
    /// The dispatcher has a machine.
    Bind {
        /// Its lease token is still the record's.
        token_matches: bool,
    },
    /// The dispatcher gives the machine back and tries another.
    Unbind {
        /// Its lease token is still the record's.
        token_matches: bool,
    },
    /// The dispatcher gives the job back without penalty.
    Abandon {
        /// Its lease token is still the record's.
        token_matches: bool,
    },
    /// The attempt failed.
    DispatchFailed {
        /// Its lease token is still the record's.
        token_matches: bool,
        /// 24 h since the job was queued.
        deadline_passed: bool,
        /// What kind of failure.
        class: FailureClass,
        /// Fewer than three strikes.
        strikes_left: bool,
        /// Spot was asked for, is not forbidden yet, and retries are left.
        can_fall_back: bool,
    },
    /// The agent's listener is up.
    RunnerStarted {
        /// The report comes from the machine the record names.
        instance_matches: bool,
    },
    /// The binding found: GitHub runs the job on one of our runners.
    Serving,
    /// The binding gave the job's runner away and another one in exchange.
    Swapped {
        /// GitHub already has the job in progress somewhere.
        in_progress: bool,
        /// The other runner's listener is up.
        other_online: bool,
    },
    /// The binding gave the job's runner away and found none in exchange.
    Displaced {
        /// GitHub already has the job in progress somewhere.
        in_progress: bool,
        /// Fewer than ten displacements.
        displacements_left: bool,
    },
    /// The binding found: GitHub runs the job on a runner that is not ours.
    ServedElsewhere,
    /// The runner ended and said so.
    AgentCompleted {
        /// The report comes from the machine the record names.
        instance_matches: bool,
        /// The agent's word for it.
        word: AgentWord,
        /// GitHub's word on the job.
        github: Status,
        /// GitHub named this runner for this job.
        named_by_github: bool,
        /// Fewer than ten displacements.
        displacements_left: bool,
    },
    /// The machine never became a runner.
    BootstrapFailed {
        /// The report comes from the machine the record names.
        instance_matches: bool,
        /// Retries are left.
        retries_left: bool,
    },
    /// GitHub concluded the job.
    GithubCompleted {
        /// How.
        conclusion: Conclusion,
        /// On the machine the record names.
        ran_on_bound_instance: bool,
    },
    /// The machine is about to be, or was, reclaimed.
    SpotInterruption {
        /// GitHub's word on the job.
        github: Status,
    },
    /// Recovery looks at a lost job.
    RecoveryCheck {
        /// GitHub's word on the job.
        github: Status,
        /// Recovery has waited long enough.
        age_exceeded: bool,
    },
    /// Prepared, but the runner never confirmed.
    UnconfirmedTimeout {
        /// GitHub's word on the job.
        github: Status,
        /// Retries are left.
        retries_left: bool,
    },
    /// The stale sweep looks at an old `running` or `claiming` record.
    StaleCheck {
        /// GitHub's word on the job.
        github: Status,
        /// GitHub concluded it so long ago that the agent's own report is not coming.
        report_overdue: bool,
        /// The machine is certainly gone.
        instance_gone: bool,
        /// Nobody holds a live lease.
        lease_expired: bool,
        /// Fewer than ten displacements.
        displacements_left: bool,
        /// Fewer than three strikes.
        strikes_left: bool,
    },
    /// The orphan sweep looks at a very old record.
    OrphanCheck {
        /// GitHub's word on the job.
        github: Status,
        /// The machine is certainly gone.
        instance_gone: bool,
        /// Nobody holds a live lease.
        lease_expired: bool,
        /// 24 h since the job was queued.
        deadline_passed: bool,
        /// Fewer than ten displacements.
        displacements_left: bool,
    },
    /// The sweep that enforces the 24 h deadline.
    Deadline {
        /// 24 h since the job was queued.
        deadline_passed: bool,
        /// Nobody holds a live lease.
        lease_expired: bool,
        /// GitHub's word on the job.
        github: Status,
    },
    /// An operator wants the job dispatched again.
    OperatorRequeue {
        /// GitHub's word on the job.
        github: Status,
        /// Retries are left.
        retries_left: bool,
        /// Bypasses counters, never GitHub's word.
        force: bool,
    },
    /// An operator terminated the machine.
    OperatorTerminate {
        /// It was the machine the record names.
        instance_matches: bool,
    },
    /// An operator retires a record whose machine is gone.
    OperatorReconcile {
        /// The machine is certainly gone.
        instance_gone: bool,
        /// The record names no machine.
        instance_none: bool,
        /// Nobody holds a live lease.
        lease_expired: bool,
    },
    /// Old settled records go.
    Gc {
        /// Settled for seven days.
        old_enough: bool,
    },
}

/// What kind of failure ended an attempt, by what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// No machine of this kind right now. Spot falls back to on-demand, the rest waits.
    Capacity,
    /// Try again later: throttling, outages, exhausted budgets, a deployment fault.
    Transient,
    /// GitHub or the hand-over refuses this job: three strikes.
    Permanent,
    /// Can never be launched.
    Invalid,
    /// A Windows job without a Windows launch template.
    WindowsUnsupported,
}

/// How an agent's final report ends a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AgentWord {
    /// The runner served a job and ended by itself.
    Success,
    /// The runner failed.
    Failure,
    /// The runtime ceiling ended it.
    Timeout,
    /// A signal ended it.
    Interrupted,
}

/// What is to be written. [`crate::job::apply`] turns it into the new record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Move {
    /// `none` → `requeued`: a fresh record.
    Accept,
    /// → `claiming`, under a new lease.
    Claim {
        /// The lease of a dead attempt was taken over.
        strike: bool,
    },
    /// `claiming` → `launched`.
    Bind,
    /// `launched` → `claiming`.
    Unbind,
    /// → `requeued`.
    Requeue {
        /// Which counter moves.
        bump: Bump,
        /// When it may be claimed again, and who wakes it.
        wake: Wake,
        /// The metric's and the record's word for it.
        reason: RequeueReason,
    },
    /// `launched` → `running`.
    Start,
    /// → `running`, on the runner GitHub named.
    Serve,
    /// → `launched` or `running`, on the runner received in exchange.
    Swap {
        /// The other runner's listener is up.
        online: bool,
    },
    /// → `terminating`.
    Condemn {
        /// Whether recovery may ask GitHub for a re-run.
        rerun: bool,
    },
    /// → settled.
    Settle {
        /// How.
        end: Settled,
        /// Why, in the record and (for failures of ours) the metric.
        reason: SettleReason,
    },
    /// The row goes.
    Delete,
}

/// Which counter a re-dispatch moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bump {
    /// None.
    None,
    /// `retry_count`: also forces on-demand and starts the strikes anew.
    Retry,
    /// `displaced_count`.
    Displaced,
    /// `claim_attempts`.
    Strike,
    /// All counters start anew.
    Revive,
}

/// When a pending job may be claimed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wake {
    /// At once; the writer sends the wake-up, the outbox stands behind it.
    Now,
    /// After the back-off; the outbox sends.
    BackOff,
    /// After the pause for jobs on somebody else's runner; the outbox sends.
    Elsewhere,
}

/// Why a job went back to pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the metric's word for itself")]
pub enum RequeueReason {
    Shutdown,
    OnDemandFallback,
    CapacityWait,
    Transient,
    Permanent,
    ClaimExhausted,
    RunnerStolen,
    ServedElsewhere,
    JobStillQueued,
    BootstrapFailed,
    SpotInterruption,
    UnconfirmedRunners,
    StaleQueued,
    OrphanQueued,
    OperatorRequeue,
}

impl RequeueReason {
    /// The stored word, and the metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::OnDemandFallback => "on_demand_fallback",
            Self::CapacityWait => "capacity_wait",
            Self::Transient => "transient",
            Self::Permanent => "permanent",
            Self::ClaimExhausted => "claim_exhausted",
            Self::RunnerStolen => "runner_stolen",
            Self::ServedElsewhere => "served_elsewhere",
            Self::JobStillQueued => "job_still_queued",
            Self::BootstrapFailed => "bootstrap_failed",
            Self::SpotInterruption => "spot_interruption",
            Self::UnconfirmedRunners => "unconfirmed_runners",
            Self::StaleQueued => "stale_queued",
            Self::OrphanQueued => "orphan_queued",
            Self::OperatorRequeue => "operator_requeue",
        }
    }
}

/// Why a job was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the record's word for itself")]
pub enum SettleReason {
    Concluded,
    Missing,
    AgentReport,
    RunnerLost,
    InstanceGone,
    Invalid,
    WindowsUnsupported,
    Refused,
    Displaced,
    BootstrapFailed,
    Unconfirmed,
    Deadline,
    NoMessage,
}

impl SettleReason {
    /// Every reason.
    pub const ALL: [Self; 13] = [
        Self::Concluded,
        Self::Missing,
        Self::AgentReport,
        Self::RunnerLost,
        Self::InstanceGone,
        Self::Invalid,
        Self::WindowsUnsupported,
        Self::Refused,
        Self::Displaced,
        Self::BootstrapFailed,
        Self::Unconfirmed,
        Self::Deadline,
        Self::NoMessage,
    ];

    /// The word stored as `settled_reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Concluded => "concluded",
            Self::Missing => "missing",
            Self::AgentReport => "agent_report",
            Self::RunnerLost => "runner_lost",
            Self::InstanceGone => "instance_gone",
            Self::Invalid => "invalid",
            Self::WindowsUnsupported => "windows_unsupported",
            Self::Refused => "refused",
            Self::Displaced => "displaced",
            Self::BootstrapFailed => "bootstrap_failed",
            Self::Unconfirmed => "unconfirmed",
            Self::Deadline => "deadline",
            Self::NoMessage => "no_message",
        }
    }

    /// Reads the stored word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// The `task_type` of `scheduling_failure_total`, when settling so means that we gave up.
    pub const fn scheduling_failure(self) -> Option<&'static str> {
        match self {
            Self::Invalid | Self::Refused => Some("fleet_create"),
            Self::WindowsUnsupported => Some("windows_unsupported"),
            Self::Displaced => Some("job_still_queued"),
            Self::BootstrapFailed => Some("bootstrap_failed"),
            Self::Unconfirmed => Some("unconfirmed_runners"),
            Self::Deadline => Some("deadline"),
            Self::NoMessage => Some("no_message"),
            Self::Concluded | Self::Missing | Self::AgentReport | Self::RunnerLost | Self::InstanceGone => None,
        }
    }
}

impl Move {
    /// Where the job stands afterwards; `None` when the row is gone.
    pub const fn state(self) -> Option<JobState> {
        Some(match self {
            Self::Accept | Self::Requeue { .. } => JobState::Requeued,
            Self::Claim { .. } | Self::Unbind => JobState::Claiming,
            Self::Bind | Self::Swap { online: false } => JobState::Launched,
            Self::Start | Self::Serve | Self::Swap { online: true } => JobState::Running,
            Self::Condemn { .. } => JobState::Terminating,
            Self::Settle { end, .. } => JobState::Settled(end),
            Self::Delete => return None,
        })
    }
}

const fn settle(conclusion: Conclusion) -> Move {
    let end = if matches!(conclusion, Conclusion::Cancelled) { Settled::Cancelled } else { Settled::Completed };
    Move::Settle { end, reason: SettleReason::Concluded }
}

const MISSING: Move = Move::Settle { end: Settled::Cancelled, reason: SettleReason::Missing };
const ORPHANED: Move = Move::Settle { end: Settled::Orphaned, reason: SettleReason::InstanceGone };
const LOST: Move = Move::Settle { end: Settled::Interrupted, reason: SettleReason::RunnerLost };
const CONDEMN: Move = Move::Condemn { rerun: true };

/// Three dispatchers died over it, so it may be what kills them: the next one comes after a pause.
const PAUSE: Move = requeue(Bump::None, Wake::BackOff, RequeueReason::ClaimExhausted);

const fn error(reason: SettleReason) -> Move {
    Move::Settle { end: Settled::Error, reason }
}

const fn requeue(bump: Bump, wake: Wake, reason: RequeueReason) -> Move {
    Move::Requeue { bump, wake, reason }
}

/// GitHub still wants the job, and the runner we had for it did not serve it.
const fn displace(left: bool, reason: RequeueReason) -> Move {
    if left { requeue(Bump::Displaced, Wake::Now, reason) } else { error(SettleReason::Displaced) }
}

/// What `event` does to a job in state `from` (`None`: no record). `None`: nothing.
#[allow(clippy::too_many_lines, reason = "it is the table")]
pub fn transition(from: Option<JobState>, event: &Event) -> Option<Move> {
    use JobState::{Claiming, Launched, Requeued, Running, Terminating};

    let Some(from) = from else {
        return match *event {
            Event::Accept => Some(Move::Accept),
            Event::Claim { .. } => Some(Move::Claim { strike: false }),
            Event::Serving => Some(Move::Serve),
            _ => None,
        };
    };

    match (*event, from) {
        (Event::Accept, _) => None,

        (Event::Claim { due: true, .. }, Requeued) => Some(Move::Claim { strike: false }),
        (Event::Claim { message_is_newer: true, .. }, Terminating) => Some(Move::Claim { strike: false }),
        (Event::Claim { lease_expired: true, strikes_left, .. }, Claiming) => {
            Some(if strikes_left { Move::Claim { strike: true } } else { PAUSE })
        }

        (Event::Bind { token_matches: true }, Claiming) => Some(Move::Bind),
        (Event::Unbind { token_matches: true }, Launched) => Some(Move::Unbind),
        (Event::Abandon { token_matches: true }, Claiming) => {
            Some(requeue(Bump::None, Wake::Now, RequeueReason::Shutdown))
        }
        (
            Event::DispatchFailed { token_matches: true, deadline_passed, class, strikes_left, can_fall_back },
            Claiming | Launched,
        ) => Some(match class {
            _ if deadline_passed => error(SettleReason::Deadline),
            FailureClass::Invalid => error(SettleReason::Invalid),
            FailureClass::WindowsUnsupported => error(SettleReason::WindowsUnsupported),
            FailureClass::Permanent if !strikes_left => error(SettleReason::Refused),
            FailureClass::Permanent => requeue(Bump::Strike, Wake::BackOff, RequeueReason::Permanent),
            FailureClass::Capacity if can_fall_back => requeue(Bump::Retry, Wake::Now, RequeueReason::OnDemandFallback),
            FailureClass::Capacity => requeue(Bump::None, Wake::BackOff, RequeueReason::CapacityWait),
            FailureClass::Transient => requeue(Bump::None, Wake::BackOff, RequeueReason::Transient),
        }),

        (Event::RunnerStarted { instance_matches: true }, Launched) => Some(Move::Start),

        (Event::Serving, Requeued | Claiming | Launched | Running) => Some(Move::Serve),
        (Event::Swapped { in_progress: false, other_online }, Launched | Running) => {
            Some(Move::Swap { online: other_online })
        }
        (Event::Displaced { in_progress: false, displacements_left }, Launched | Running) => {
            Some(displace(displacements_left, RequeueReason::RunnerStolen))
        }
        (Event::ServedElsewhere, Requeued | Claiming | Launched | Running) => {
            Some(requeue(Bump::None, Wake::Elsewhere, RequeueReason::ServedElsewhere))
        }

        (
            Event::AgentCompleted { instance_matches: true, word, github, named_by_github, displacements_left },
            Launched | Running,
        ) => match github {
            Status::Queued => Some(displace(displacements_left, RequeueReason::JobStillQueued)),
            Status::Unknown if !named_by_github => None,
            _ => Some(Move::Settle {
                end: match word {
                    AgentWord::Success => Settled::Success,
                    AgentWord::Failure => Settled::Failure,
                    AgentWord::Timeout => Settled::Timeout,
                    AgentWord::Interrupted => Settled::Interrupted,
                },
                reason: SettleReason::AgentReport,
            }),
        },
        (Event::AgentCompleted { instance_matches: true, word: AgentWord::Success, .. }, Terminating) => {
            Some(Move::Settle { end: Settled::Success, reason: SettleReason::AgentReport })
        }
        (Event::BootstrapFailed { instance_matches: true, retries_left }, Launched) => Some(if retries_left {
            requeue(Bump::Retry, Wake::Now, RequeueReason::BootstrapFailed)
        } else {
            error(SettleReason::BootstrapFailed)
        }),

        (Event::GithubCompleted { conclusion, .. }, Requeued | Claiming) => Some(settle(conclusion)),
        (Event::GithubCompleted { conclusion, ran_on_bound_instance: false }, Launched | Running) => {
            Some(settle(conclusion))
        }
        (Event::GithubCompleted { conclusion: Conclusion::Failure, .. }, Terminating) => Some(LOST),
        (Event::GithubCompleted { conclusion, .. }, Terminating) => Some(settle(conclusion)),

        (Event::SpotInterruption { github }, Launched | Running) => Some(match github {
            Status::Completed(conclusion) => settle(conclusion),
            Status::Missing => MISSING,
            Status::Queued => requeue(Bump::Retry, Wake::Now, RequeueReason::SpotInterruption),
            Status::Unknown if from == Launched => requeue(Bump::Retry, Wake::Now, RequeueReason::SpotInterruption),
            Status::InProgress | Status::Unknown => CONDEMN,
        }),
        (Event::RecoveryCheck { github, age_exceeded }, Terminating) => match github {
            Status::Completed(Conclusion::Failure) => Some(LOST),
            Status::Completed(conclusion) => Some(settle(conclusion)),
            Status::Missing => Some(MISSING),
            Status::Queued => Some(requeue(Bump::Retry, Wake::Now, RequeueReason::SpotInterruption)),
            Status::InProgress | Status::Unknown => age_exceeded.then_some(LOST),
        },

        (Event::UnconfirmedTimeout { github, retries_left }, Launched) => match github {
            Status::Completed(conclusion) => Some(settle(conclusion)),
            Status::Missing => Some(MISSING),
            Status::InProgress | Status::Unknown => None,
            Status::Queued if retries_left => Some(requeue(Bump::Retry, Wake::Now, RequeueReason::UnconfirmedRunners)),
            Status::Queued => Some(error(SettleReason::Unconfirmed)),
        },
        (Event::StaleCheck { github, report_overdue, instance_gone, displacements_left, .. }, Running) => {
            match github {
                Status::Completed(conclusion) => report_overdue.then_some(settle(conclusion)),
                Status::Missing => Some(MISSING),
                Status::Queued => Some(displace(displacements_left, RequeueReason::StaleQueued)),
                Status::InProgress => instance_gone.then_some(CONDEMN),
                Status::Unknown => None,
            }
        }
        (Event::StaleCheck { github, lease_expired: true, strikes_left, .. }, Claiming) => match github {
            Status::Completed(conclusion) => Some(settle(conclusion)),
            Status::Missing => Some(MISSING),
            Status::InProgress => None,
            Status::Queued | Status::Unknown if strikes_left => {
                Some(requeue(Bump::Strike, Wake::Now, RequeueReason::StaleQueued))
            }
            Status::Queued | Status::Unknown => Some(PAUSE),
        },
        (
            Event::OrphanCheck { github, instance_gone: true, deadline_passed, displacements_left, .. },
            Running | Launched,
        ) => match github {
            Status::Completed(conclusion) => Some(settle(conclusion)),
            Status::Missing => Some(MISSING),
            Status::Queued => Some(displace(displacements_left, RequeueReason::OrphanQueued)),
            Status::Unknown => deadline_passed.then_some(ORPHANED),
            Status::InProgress => None,
        },
        (Event::OrphanCheck { github, lease_expired: true, deadline_passed, .. }, Claiming) => match github {
            Status::Completed(conclusion) => Some(settle(conclusion)),
            Status::Missing => Some(MISSING),
            Status::Queued => Some(requeue(Bump::None, Wake::Now, RequeueReason::OrphanQueued)),
            Status::Unknown => deadline_passed.then_some(ORPHANED),
            Status::InProgress => None,
        },
        (Event::OrphanCheck { github, .. }, Requeued) => match github {
            Status::Completed(conclusion) => Some(settle(conclusion)),
            Status::Missing => Some(MISSING),
            _ => None,
        },
        (Event::Deadline { deadline_passed: true, github, .. }, Requeued)
        | (Event::Deadline { deadline_passed: true, lease_expired: true, github }, Claiming)
            if github != Status::InProgress =>
        {
            Some(error(SettleReason::Deadline))
        }

        (Event::OperatorRequeue { github, retries_left, force }, Launched | Running | Claiming)
            if (retries_left || force)
                && (github == Status::Queued || (github == Status::Unknown && from == Launched)) =>
        {
            Some(requeue(Bump::Retry, Wake::Now, RequeueReason::OperatorRequeue))
        }
        (
            Event::OperatorRequeue { github: Status::Queued, force: true, .. },
            JobState::Settled(Settled::Error | Settled::Orphaned),
        ) => Some(requeue(Bump::Revive, Wake::Now, RequeueReason::OperatorRequeue)),
        (Event::OperatorTerminate { instance_matches: true }, Launched | Running) => {
            Some(Move::Condemn { rerun: false })
        }
        (Event::OperatorReconcile { instance_gone: true, .. }, Running | Launched | Requeued) => Some(ORPHANED),
        (Event::OperatorReconcile { instance_none: true, lease_expired: true, .. }, Claiming) => Some(ORPHANED),

        (Event::Gc { old_enough: true }, JobState::Settled(_)) => Some(Move::Delete),

        _ => None,
    }
}

#[cfg(test)]
#[path = "transition_tests.rs"]
mod tests;
