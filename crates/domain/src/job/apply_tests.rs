use proptest::prelude::*;

use super::*;
use crate::job::transition::{Event, FailureClass, transition};
use crate::testing::{accepted, at, claimed, cx, launched, lease, message};

/// What every record must satisfy, whatever happened to it.
fn check(job: &Job) {
    match job.state {
        JobState::Requeued | JobState::Claiming => assert!(job.instance.is_none(), "{job:?}"),
        JobState::Launched | JobState::Running | JobState::Terminating => assert!(job.instance.is_some(), "{job:?}"),
        JobState::Settled(_) => {}
    }
    assert_eq!(job.completed_at.is_some(), job.state.is_settled(), "{job:?}");
    if job.state == JobState::Requeued {
        assert!(job.redrive_at.is_some(), "a pending job always has a waker: {job:?}");
        assert!(job.lease.is_none());
    }
    if job.force_on_demand {
        assert!(!job.spot || job.state.occupies() || job.state.is_settled());
    }
}

#[derive(Debug, Clone)]
enum Step {
    Claim,
    Bind,
    Fail(FailureClass),
    Start,
    Serve,
    Elsewhere,
    Displace,
    Interrupt(crate::gh::Status),
}

fn step() -> impl Strategy<Value = Step> {
    use crate::gh::{Conclusion, Status};
    prop_oneof![
        3 => Just(Step::Claim),
        3 => Just(Step::Bind),
        1 => prop_oneof![
            Just(FailureClass::Capacity),
            Just(FailureClass::Transient),
            Just(FailureClass::Permanent)
        ].prop_map(Step::Fail),
        1 => Just(Step::Start),
        1 => Just(Step::Serve),
        1 => Just(Step::Elsewhere),
        1 => Just(Step::Displace),
        1 => prop_oneof![
            Just(Status::Queued),
            Just(Status::InProgress),
            Just(Status::Completed(Conclusion::Failure))
        ].prop_map(Step::Interrupt),
    ]
}

fn run(job: &Job, step: &Step, now: i64) -> Option<Job> {
    let cx = cx(now);
    let event = match step {
        Step::Claim => Event::Claim {
            due: job.is_due(cx.now),
            message_is_newer: false,
            lease_expired: job.lease_expired(cx.now),
            strikes_left: job.strikes_left(),
        },
        Step::Bind => Event::Bind { token_matches: job.fenced_by(&"t".into()) },
        Step::Fail(class) => Event::DispatchFailed {
            token_matches: job.fenced_by(&"t".into()),
            deadline_passed: job.deadline_passed(cx.now, cx.timings),
            class: *class,
            strikes_left: job.strikes_left(),
            can_fall_back: job.spot && job.retries_left(),
        },
        Step::Start => Event::RunnerStarted { instance_matches: true },
        Step::Serve => Event::Serving,
        Step::Elsewhere => Event::ServedElsewhere,
        Step::Displace => {
            Event::Displaced { in_progress: job.in_progress_at.is_some(), displacements_left: job.displacements_left() }
        }
        Step::Interrupt(github) => Event::SpotInterruption { github: *github },
    };
    let step = transition(Some(job.state), &event)?;
    job.apply(step, None, &cx).or_else(|| match step {
        Move::Claim { strike } => Some(job.claimed(strike, lease("t", now + 100), &message(7), &cx)),
        Move::Bind => Some(launched(7, "t", "i-1").bound(
            &Bound { key: "i-2".into(), instance_type: String::new(), zone: None, spot: true, warm: false, hot: false },
            &cx,
        ))
        .map(|bound| Job { retry_count: job.retry_count, ..merge(job, bound) }),
        Move::Serve => {
            Some(job.served(&ServedBy { key: "i-3".into(), name: "n".to_owned(), id: None, since: cx.now }, &cx))
        }
        _ => None,
    })
}

/// Binding through the record under test rather than the builder's.
fn merge(job: &Job, bound: Job) -> Job {
    job.bound(
        &Bound {
            key: bound.instance.expect("bound"),
            instance_type: String::new(),
            zone: None,
            spot: true,
            warm: false,
            hot: false,
        },
        &cx(0),
    )
}

proptest! {
    #[test]
    fn any_history_keeps_the_record_whole_and_its_counters_rising(
        steps in proptest::collection::vec((step(), 0i64..200), 1..60),
    ) {
        let mut job = accepted(7);
        let mut now = 0;
        for (step, pause) in steps {
            now += pause;
            if let Some(next) = run(&job, &step, now) {
                check(&next);
                prop_assert!(next.retry_count >= job.retry_count);
                prop_assert!(next.displaced_count >= job.displaced_count);
                prop_assert!(next.dispatch_seq >= job.dispatch_seq);
                prop_assert!(next.force_on_demand || !job.force_on_demand);
                prop_assert_eq!(next.queued_at, job.queued_at);
                prop_assert!(next.displaced_count <= MAX_DISPLACED);
                job = next;
            }
        }
    }
}

#[test]
fn a_retry_forces_on_demand_and_starts_the_strikes_anew() {
    let mut job = launched(7, "t", "i-1");
    job.claim_attempts = 3;
    let next = job.requeued(Bump::Retry, Wake::Now, RequeueReason::SpotInterruption, None, &cx(9));
    assert_eq!((next.retry_count, next.claim_attempts, next.force_on_demand, next.spot), (1, 1, true, false));
    assert_eq!((next.not_before, next.dispatch_seq), (None, 1));
    assert_eq!(next.redrive_at, Some(at(9 + 120)));
    assert!(next.next_message().is_some_and(|m| m.force_on_demand && !m.spec.spot && m.retry_count == 1));
}

#[test]
fn back_off_doubles_up_to_five_minutes_and_the_outbox_wakes_at_its_end() {
    let mut job = claimed(7, "t");
    let mut waits = Vec::new();
    for _ in 0..6 {
        let next = job.requeued(Bump::None, Wake::BackOff, RequeueReason::Transient, None, &cx(0));
        assert_eq!(next.redrive_at, next.not_before);
        waits.push(clock::since(next.not_before.expect("back-off"), at(0)).as_secs());
        job.dispatch_seq = next.dispatch_seq;
    }
    assert_eq!(waits, [30, 60, 120, 240, 300, 300]);
}

#[test]
fn a_rate_limit_names_the_end_of_its_own_back_off() {
    let next = claimed(7, "t").requeued(Bump::None, Wake::BackOff, RequeueReason::Transient, Some(at(777)), &cx(0));
    assert_eq!(next.not_before, Some(at(777)));
}

#[test]
fn a_record_without_a_message_is_settled_instead_of_requeued() {
    let mut job = claimed(7, "t");
    job.message = None;
    let next = job.requeued(Bump::None, Wake::Now, RequeueReason::Shutdown, None, &cx(3));
    assert_eq!(next.settled_reason.as_deref(), Some("no_message"));
}

#[test]
fn only_the_first_attempt_of_a_run_is_re_run() {
    let condemned = launched(7, "t", "i-1").condemned(true, &cx(5));
    let end = |job: &Job| job.settled(Settled::Interrupted, SettleReason::RunnerLost, &cx(9)).rerun;
    assert_eq!(end(&condemned), Some(RerunState::Pending));
    let mut second = condemned.clone();
    std::sync::Arc::make_mut(second.message.as_mut().expect("message")).run_attempt = 2;
    assert_eq!(end(&second), Some(RerunState::Refused));
    let by_operator = launched(7, "t", "i-1").condemned(false, &cx(5));
    assert_eq!(end(&by_operator), Some(RerunState::Refused));
    let off = Context { rerun_enabled: false, ..cx(9) };
    assert_eq!(
        condemned.settled(Settled::Interrupted, SettleReason::RunnerLost, &off).rerun,
        Some(RerunState::Refused)
    );
}

#[test]
fn serving_on_another_machine_breaks_the_dispatchers_fence() {
    let by = ServedBy { key: "i-9".into(), name: "n".to_owned(), id: None, since: at(4) };
    let served = launched(7, "t", "i-1").served(&by, &cx(5));
    assert!(!served.fenced_by(&"t".into()));
    let same = launched(7, "t", "i-9").served(&by, &cx(5));
    assert!(same.fenced_by(&"t".into()) && same.prepared_at.is_some());
}

#[test]
fn redrives_double_up_to_fifteen_minutes_and_raise_the_generation() {
    let mut job = accepted(7);
    let mut waits = Vec::new();
    for _ in 0..5 {
        job = job.redriven(&cx(0));
        waits.push(clock::since(job.redrive_at.expect("redrive"), at(0)).as_secs());
    }
    assert_eq!(waits, [120, 240, 480, 900, 900]);
    assert_eq!(job.dispatch_seq, 5);
}
