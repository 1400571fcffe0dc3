//! The full product of states and events against an independently written table: one row per line of the
//! documentation's table, each with its own guard, none overlapping, everything else a no-op.

use super::*;
use crate::job::JobState::{Claiming, Launched, Requeued, Running, Terminating};

const BOOLS: [bool; 2] = [false, true];
const CONCLUSIONS: [Conclusion; 4] =
    [Conclusion::Success, Conclusion::Failure, Conclusion::Cancelled, Conclusion::Other];

fn statuses() -> Vec<Status> {
    let mut all = vec![Status::Queued, Status::InProgress, Status::Missing, Status::Unknown];
    all.extend(CONCLUSIONS.map(Status::Completed));
    all
}

/// Every event with every combination of its facts.
fn events() -> Vec<Event> {
    let mut all = vec![Event::Accept, Event::Serving, Event::ServedElsewhere];
    let classes = [
        FailureClass::Capacity,
        FailureClass::Transient,
        FailureClass::Permanent,
        FailureClass::Invalid,
        FailureClass::WindowsUnsupported,
    ];
    for a in BOOLS {
        all.push(Event::Bind { token_matches: a });
        all.push(Event::Unbind { token_matches: a });
        all.push(Event::Abandon { token_matches: a });
        all.push(Event::RunnerStarted { instance_matches: a });
        all.push(Event::OperatorTerminate { instance_matches: a });
        all.push(Event::Gc { old_enough: a });
        for conclusion in CONCLUSIONS {
            all.push(Event::GithubCompleted { conclusion, ran_on_bound_instance: a });
        }
        for github in statuses() {
            all.push(Event::RecoveryCheck { github, age_exceeded: a });
            all.push(Event::UnconfirmedTimeout { github, retries_left: a });
        }
        for b in BOOLS {
            all.push(Event::Swapped { in_progress: a, other_online: b });
            all.push(Event::Displaced { in_progress: a, displacements_left: b });
            all.push(Event::BootstrapFailed { instance_matches: a, retries_left: b });
            for github in statuses() {
                all.push(Event::Deadline { deadline_passed: a, lease_expired: b, github });
                all.push(Event::OperatorRequeue { github, retries_left: a, force: b });
            }
            for c in BOOLS {
                all.push(Event::OperatorReconcile { instance_gone: a, instance_none: b, lease_expired: c });
                for github in statuses() {
                    for word in [AgentWord::Success, AgentWord::Failure, AgentWord::Timeout, AgentWord::Interrupted] {
                        all.push(Event::AgentCompleted {
                            instance_matches: a,
                            named_by_github: b,
                            displacements_left: c,
                            word,
                            github,
                        });
                    }
                }
                for d in BOOLS {
                    all.push(Event::Claim { due: a, message_is_newer: b, lease_expired: c, strikes_left: d });
                    for class in classes {
                        all.push(Event::DispatchFailed {
                            token_matches: a,
                            deadline_passed: b,
                            strikes_left: c,
                            can_fall_back: d,
                            class,
                        });
                    }
                    for github in statuses() {
                        all.push(Event::OrphanCheck {
                            github,
                            instance_gone: a,
                            lease_expired: b,
                            deadline_passed: c,
                            displacements_left: d,
                        });
                        for e in BOOLS {
                            all.push(Event::StaleCheck {
                                github,
                                report_overdue: a,
                                instance_gone: b,
                                lease_expired: c,
                                displacements_left: d,
                                strikes_left: e,
                            });
                        }
                    }
                }
            }
        }
    }
    all.extend(statuses().into_iter().map(|github| Event::SpotInterruption { github }));
    all
}

fn states() -> Vec<Option<JobState>> {
    std::iter::once(None).chain(JobState::all().map(Some)).collect()
}

/// What the table says in words: the state afterwards, and what else the row promises.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    /// A state without further promises.
    To(JobState),
    /// Pending again: counter, wake-up, reason.
    Again(Bump, Wake, &'static str),
    /// We give up, with this scheduling failure.
    Error(&'static str),
    /// GitHub's conclusion settles it.
    Concluded(Conclusion),
    /// GitHub no longer knows it.
    Missing,
    /// Lost; a re-run may follow.
    Interrupted,
    Gone,
}

struct Row(&'static str, fn(Option<JobState>) -> bool, fn(&Event) -> bool, fn(&Event) -> Then);

macro_rules! row {
    ($name:literal, $from:pat, $event:pat $(if $guard:expr)? => $then:expr) => {
        Row(
            $name,
            |from| matches!(from, $from),
            #[allow(unused_variables)]
            |event| matches!(*event, $event $(if $guard)?),
            #[allow(unused_variables)]
            |event| match *event { $event => $then, _ => unreachable!() },
        )
    };
}

#[allow(clippy::redundant_pattern_matching, reason = "`None` is one pattern among many")]
fn table() -> Vec<Row> {
    use Event as E;
    use FailureClass as F;
    use Status as G;
    use Then::{Again, Concluded, Error, Gone, Interrupted, Missing, To};
    vec![
        row!("accept none", None, E::Accept => To(Requeued)),
        row!("claim none", None, E::Claim { .. } => To(Claiming)),
        row!("claim pending", Some(Requeued), E::Claim { due: true, .. } => To(Claiming)),
        row!("claim condemned", Some(Terminating), E::Claim { message_is_newer: true, .. } => To(Claiming)),
        row!("claim dead lease", Some(Claiming), E::Claim { lease_expired: true, strikes_left: true, .. } => To(Claiming)),
        row!("claim exhausted", Some(Claiming), E::Claim { lease_expired: true, strikes_left: false, .. } => Again(Bump::None, Wake::BackOff, "claim_exhausted")),
        row!("bind", Some(Claiming), E::Bind { token_matches: true } => To(Launched)),
        row!("unbind", Some(Launched), E::Unbind { token_matches: true } => To(Claiming)),
        row!("abandon", Some(Claiming), E::Abandon { token_matches: true } => Again(Bump::None, Wake::Now, "shutdown")),
        row!("failed late", Some(Claiming | Launched), E::DispatchFailed { token_matches: true, deadline_passed: true, .. } => Error("deadline")),
        row!("failed invalid", Some(Claiming | Launched), E::DispatchFailed { token_matches: true, deadline_passed: false, class: F::Invalid, .. } => Error("fleet_create")),
        row!("failed windows", Some(Claiming | Launched), E::DispatchFailed { token_matches: true, deadline_passed: false, class: F::WindowsUnsupported, .. } => Error("windows_unsupported")),
        row!("failed permanent", Some(Claiming | Launched), E::DispatchFailed { token_matches: true, deadline_passed: false, class: F::Permanent, strikes_left: false, .. } => Error("fleet_create")),
        row!("failed strike", Some(Claiming | Launched), E::DispatchFailed { token_matches: true, deadline_passed: false, class: F::Permanent, strikes_left: true, .. } => Again(Bump::Strike, Wake::BackOff, "permanent")),
        row!("failed spot", Some(Claiming | Launched), E::DispatchFailed { token_matches: true, deadline_passed: false, class: F::Capacity, can_fall_back: true, .. } => Again(Bump::Retry, Wake::Now, "on_demand_fallback")),
        row!("failed capacity", Some(Claiming | Launched), E::DispatchFailed { token_matches: true, deadline_passed: false, class: F::Capacity, can_fall_back: false, .. } => Again(Bump::None, Wake::BackOff, "capacity_wait")),
        row!("failed transient", Some(Claiming | Launched), E::DispatchFailed { token_matches: true, deadline_passed: false, class: F::Transient, .. } => Again(Bump::None, Wake::BackOff, "transient")),
        row!("started", Some(Launched), E::RunnerStarted { instance_matches: true } => To(Running)),
        row!("serving", None | Some(Requeued | Claiming | Launched | Running), E::Serving => To(Running)),
        row!("swapped offline", Some(Launched | Running), E::Swapped { in_progress: false, other_online: false } => To(Launched)),
        row!("swapped online", Some(Launched | Running), E::Swapped { in_progress: false, other_online: true } => To(Running)),
        row!("displaced", Some(Launched | Running), E::Displaced { in_progress: false, displacements_left: true } => Again(Bump::Displaced, Wake::Now, "runner_stolen")),
        row!("displaced out", Some(Launched | Running), E::Displaced { in_progress: false, displacements_left: false } => Error("job_still_queued")),
        row!("elsewhere", Some(Requeued | Claiming | Launched | Running), E::ServedElsewhere => Again(Bump::None, Wake::Elsewhere, "served_elsewhere")),
        row!("report, still queued", Some(Launched | Running), E::AgentCompleted { instance_matches: true, github: G::Queued, displacements_left: true, .. } => Again(Bump::Displaced, Wake::Now, "job_still_queued")),
        row!("report, still queued, out", Some(Launched | Running), E::AgentCompleted { instance_matches: true, github: G::Queued, displacements_left: false, .. } => Error("job_still_queued")),
        row!("report unknown but named", Some(Launched | Running), E::AgentCompleted { instance_matches: true, github: G::Unknown, named_by_github: true, word, .. } => To(word_of(word))),
        row!("report", Some(Launched | Running), E::AgentCompleted { instance_matches: true, github: G::InProgress | G::Completed(_) | G::Missing, word, .. } => To(word_of(word))),
        row!("report of a condemned", Some(Terminating), E::AgentCompleted { instance_matches: true, word: AgentWord::Success, .. } => To(JobState::Settled(Settled::Success))),
        row!("bootstrap", Some(Launched), E::BootstrapFailed { instance_matches: true, retries_left: true } => Again(Bump::Retry, Wake::Now, "bootstrap_failed")),
        row!("bootstrap out", Some(Launched), E::BootstrapFailed { instance_matches: true, retries_left: false } => Error("bootstrap_failed")),
        row!("concluded pending", Some(Requeued | Claiming), E::GithubCompleted { conclusion, .. } => Concluded(conclusion)),
        row!("concluded elsewhere", Some(Launched | Running), E::GithubCompleted { conclusion, ran_on_bound_instance: false } => Concluded(conclusion)),
        row!("concluded condemned red", Some(Terminating), E::GithubCompleted { conclusion: Conclusion::Failure, .. } => Interrupted),
        row!("concluded condemned", Some(Terminating), E::GithubCompleted { conclusion: conclusion @ (Conclusion::Success | Conclusion::Cancelled | Conclusion::Other), .. } => Concluded(conclusion)),
        row!("spot concluded", Some(Launched | Running), E::SpotInterruption { github: G::Completed(c) } => Concluded(c)),
        row!("spot missing", Some(Launched | Running), E::SpotInterruption { github: G::Missing } => Missing),
        row!("spot queued", Some(Launched | Running), E::SpotInterruption { github: G::Queued } => Again(Bump::Retry, Wake::Now, "spot_interruption")),
        row!("spot busy", Some(Launched | Running), E::SpotInterruption { github: G::InProgress } => To(Terminating)),
        row!("spot unknown, not started", Some(Launched), E::SpotInterruption { github: G::Unknown } => Again(Bump::Retry, Wake::Now, "spot_interruption")),
        row!("spot unknown, running", Some(Running), E::SpotInterruption { github: G::Unknown } => To(Terminating)),
        row!("recovery red", Some(Terminating), E::RecoveryCheck { github: G::Completed(Conclusion::Failure), .. } => Interrupted),
        row!("recovery concluded", Some(Terminating), E::RecoveryCheck { github: G::Completed(c @ (Conclusion::Success | Conclusion::Cancelled | Conclusion::Other)), .. } => Concluded(c)),
        row!("recovery missing", Some(Terminating), E::RecoveryCheck { github: G::Missing, .. } => Missing),
        row!("recovery queued", Some(Terminating), E::RecoveryCheck { github: G::Queued, .. } => Again(Bump::Retry, Wake::Now, "spot_interruption")),
        row!("recovery gives up", Some(Terminating), E::RecoveryCheck { github: G::InProgress | G::Unknown, age_exceeded: true } => Interrupted),
        row!("unconfirmed concluded", Some(Launched), E::UnconfirmedTimeout { github: G::Completed(c), .. } => Concluded(c)),
        row!("unconfirmed missing", Some(Launched), E::UnconfirmedTimeout { github: G::Missing, .. } => Missing),
        row!("unconfirmed", Some(Launched), E::UnconfirmedTimeout { github: G::Queued, retries_left: true } => Again(Bump::Retry, Wake::Now, "unconfirmed_runners")),
        row!("unconfirmed out", Some(Launched), E::UnconfirmedTimeout { github: G::Queued, retries_left: false } => Error("unconfirmed_runners")),
        row!("stale concluded", Some(Running), E::StaleCheck { github: G::Completed(c), report_overdue: true, .. } => Concluded(c)),
        row!("stale missing", Some(Running), E::StaleCheck { github: G::Missing, .. } => Missing),
        row!("stale queued", Some(Running), E::StaleCheck { github: G::Queued, displacements_left: true, .. } => Again(Bump::Displaced, Wake::Now, "stale_queued")),
        row!("stale queued out", Some(Running), E::StaleCheck { github: G::Queued, displacements_left: false, .. } => Error("job_still_queued")),
        row!("stale, machine gone", Some(Running), E::StaleCheck { github: G::InProgress, instance_gone: true, .. } => To(Terminating)),
        row!("stale claim concluded", Some(Claiming), E::StaleCheck { github: G::Completed(c), lease_expired: true, .. } => Concluded(c)),
        row!("stale claim missing", Some(Claiming), E::StaleCheck { github: G::Missing, lease_expired: true, .. } => Missing),
        row!("stale claim", Some(Claiming), E::StaleCheck { github: G::Queued | G::Unknown, lease_expired: true, strikes_left: true, .. } => Again(Bump::Strike, Wake::Now, "stale_queued")),
        row!("stale claim out", Some(Claiming), E::StaleCheck { github: G::Queued | G::Unknown, lease_expired: true, strikes_left: false, .. } => Again(Bump::None, Wake::BackOff, "claim_exhausted")),
        row!("orphan concluded", Some(Launched | Running), E::OrphanCheck { github: G::Completed(c), instance_gone: true, .. } => Concluded(c)),
        row!("orphan missing", Some(Launched | Running), E::OrphanCheck { github: G::Missing, instance_gone: true, .. } => Missing),
        row!("orphan queued", Some(Launched | Running), E::OrphanCheck { github: G::Queued, instance_gone: true, displacements_left: true, .. } => Again(Bump::Displaced, Wake::Now, "orphan_queued")),
        row!("orphan queued out", Some(Launched | Running), E::OrphanCheck { github: G::Queued, instance_gone: true, displacements_left: false, .. } => Error("job_still_queued")),
        row!("orphan", Some(Launched | Running), E::OrphanCheck { github: G::Unknown, instance_gone: true, deadline_passed: true, .. } => To(JobState::Settled(Settled::Orphaned))),
        row!("orphan claim concluded", Some(Claiming), E::OrphanCheck { github: G::Completed(c), lease_expired: true, .. } => Concluded(c)),
        row!("orphan claim missing", Some(Claiming), E::OrphanCheck { github: G::Missing, lease_expired: true, .. } => Missing),
        row!("orphan claim queued", Some(Claiming), E::OrphanCheck { github: G::Queued, lease_expired: true, .. } => Again(Bump::None, Wake::Now, "orphan_queued")),
        row!("orphan claim", Some(Claiming), E::OrphanCheck { github: G::Unknown, lease_expired: true, deadline_passed: true, .. } => To(JobState::Settled(Settled::Orphaned))),
        row!("orphan pending concluded", Some(Requeued), E::OrphanCheck { github: G::Completed(c), .. } => Concluded(c)),
        row!("orphan pending missing", Some(Requeued), E::OrphanCheck { github: G::Missing, .. } => Missing),
        row!("deadline", Some(Requeued), E::Deadline { deadline_passed: true, github: G::Queued | G::Unknown | G::Missing | G::Completed(_), .. } => Error("deadline")),
        row!("deadline of a dead lease", Some(Claiming), E::Deadline { deadline_passed: true, lease_expired: true, github: G::Queued | G::Unknown | G::Missing | G::Completed(_) } => Error("deadline")),
        row!("operator requeue", Some(Launched | Running | Claiming), E::OperatorRequeue { github: G::Queued, retries_left, force } if retries_left || force => Again(Bump::Retry, Wake::Now, "operator_requeue")),
        row!("operator requeue, unknown", Some(Launched), E::OperatorRequeue { github: G::Unknown, retries_left, force } if retries_left || force => Again(Bump::Retry, Wake::Now, "operator_requeue")),
        row!("operator revive", Some(JobState::Settled(Settled::Error | Settled::Orphaned)), E::OperatorRequeue { github: G::Queued, force: true, .. } => Again(Bump::Revive, Wake::Now, "operator_requeue")),
        row!("operator terminate", Some(Launched | Running), E::OperatorTerminate { instance_matches: true } => To(Terminating)),
        row!("operator reconcile", Some(Running | Launched | Requeued), E::OperatorReconcile { instance_gone: true, .. } => To(JobState::Settled(Settled::Orphaned))),
        row!("operator reconcile claim", Some(Claiming), E::OperatorReconcile { instance_none: true, lease_expired: true, .. } => To(JobState::Settled(Settled::Orphaned))),
        row!("gc", Some(JobState::Settled(_)), E::Gc { old_enough: true } => Gone),
    ]
}

fn word_of(word: AgentWord) -> JobState {
    JobState::Settled(match word {
        AgentWord::Success => Settled::Success,
        AgentWord::Failure => Settled::Failure,
        AgentWord::Timeout => Settled::Timeout,
        AgentWord::Interrupted => Settled::Interrupted,
    })
}

fn in_words(m: Move) -> Then {
    match m {
        Move::Requeue { bump, wake, reason } => Then::Again(bump, wake, reason.as_str()),
        Move::Settle { end: Settled::Error, reason } => Then::Error(reason.scheduling_failure().unwrap_or("none")),
        Move::Settle { end: Settled::Cancelled, reason: SettleReason::Concluded } => {
            Then::Concluded(Conclusion::Cancelled)
        }
        Move::Settle { end: Settled::Completed, reason: SettleReason::Concluded } => Then::Concluded(Conclusion::Other),
        Move::Settle { end: Settled::Cancelled, reason: SettleReason::Missing } => Then::Missing,
        Move::Settle { end: Settled::Interrupted, reason: SettleReason::RunnerLost } => Then::Interrupted,
        other => other.state().map_or(Then::Gone, Then::To),
    }
}

/// Success, failure and every other conclusion settle as `completed`; only `cancelled` differs.
fn coarse(then: Then) -> Then {
    match then {
        Then::Concluded(c) if c != Conclusion::Cancelled => Then::Concluded(Conclusion::Other),
        other => other,
    }
}

#[test]
fn the_full_product_equals_the_table() {
    let table = table();
    let mut used = vec![false; table.len()];
    for event in events() {
        for from in states() {
            let rows: Vec<usize> = (0..table.len()).filter(|&i| table[i].1(from) && table[i].2(&event)).collect();
            assert!(
                rows.len() <= 1,
                "{from:?} {event:?} is in the rows {:?}",
                rows.iter().map(|&i| table[i].0).collect::<Vec<_>>()
            );
            let expected = rows.first().map(|&i| coarse(table[i].3(&event)));
            assert_eq!(transition(from, &event).map(in_words), expected, "{from:?} on {event:?}");
            if let Some(&row) = rows.first() {
                used[row] = true;
            }
        }
    }
    for (row, used) in table.iter().zip(used) {
        assert!(used, "row {:?} can never apply", row.0);
    }
}

#[test]
fn settled_absorbs_everything_but_gc_and_revive() {
    for event in events() {
        for end in Settled::ALL {
            match transition(Some(JobState::Settled(end)), &event) {
                None | Some(Move::Delete | Move::Requeue { bump: Bump::Revive, .. }) => {}
                Some(other) => panic!("{end:?} on {event:?} became {other:?}"),
            }
        }
    }
}

#[test]
fn a_concluded_job_is_never_dispatched_again() {
    for event in events() {
        let over = match event {
            Event::AgentCompleted { github, .. }
            | Event::SpotInterruption { github }
            | Event::RecoveryCheck { github, .. }
            | Event::UnconfirmedTimeout { github, .. }
            | Event::StaleCheck { github, .. }
            | Event::OrphanCheck { github, .. }
            | Event::OperatorRequeue { github, .. } => github.is_over(),
            Event::GithubCompleted { .. } => true,
            _ => false,
        };
        if !over {
            continue;
        }
        for from in states() {
            assert!(
                !matches!(transition(from, &event), Some(Move::Requeue { .. } | Move::Claim { .. })),
                "{from:?} on {event:?}"
            );
        }
    }
}
