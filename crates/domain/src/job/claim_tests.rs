use super::*;
use crate::job::Settled;
use crate::job::transition::SettleReason;
use crate::testing::{accepted, at, claimed, cx, launched, lease, message};

fn ask(job: Option<&Job>, seconds: i64) -> Decision {
    decide(job, &message(7), lease("new", seconds + 100), "class".into(), &cx(seconds))
}

#[test]
fn an_absent_or_pending_job_is_claimed_and_keeps_its_counters() {
    let Decision::Claim { job, stolen: false, .. } = ask(None, 1) else { panic!("absent") };
    assert_eq!((job.state, job.claim_attempts), (JobState::Claiming, 1));
    let mut pending = accepted(7);
    pending.retry_count = 2;
    let Decision::Claim { job, .. } = ask(Some(&pending), 1) else { panic!("pending") };
    assert_eq!(job.retry_count, 2);
    assert!(job.fenced_by(&"new".into()));
}

#[test]
fn a_newer_message_raises_the_generation_and_an_older_one_does_not_lower_it() {
    let mut newer = message(7);
    newer.retry_count = 1;
    newer.force_on_demand = true;
    let Decision::Claim { job, .. } = decide(Some(&accepted(7)), &newer, lease("n", 101), "c".into(), &cx(1)) else {
        panic!()
    };
    assert_eq!((job.retry_count, job.force_on_demand, job.spot), (1, true, false));
}

#[test]
fn a_pending_job_in_back_off_is_left_to_the_outbox() {
    let mut job = accepted(7);
    job.not_before = Some(at(50));
    assert_eq!(ask(Some(&job), 49), Decision::Done(Done::NotDue));
    assert!(matches!(ask(Some(&job), 50), Decision::Claim { .. }));
}

#[test]
fn a_live_lease_contends_and_a_dead_one_is_stolen_with_a_strike() {
    let job = claimed(7, "old");
    let Decision::Contended { remaining } = ask(Some(&job), 100) else { panic!() };
    assert_eq!(remaining.as_secs(), 1);
    let Decision::Claim { job, stolen: true, .. } = ask(Some(&job), 101) else { panic!() };
    assert_eq!(job.claim_attempts, 2);
}

#[test]
fn after_the_third_dead_lease_the_job_waits_and_is_not_given_up() {
    let mut job = claimed(7, "old");
    job.claim_attempts = 3;
    job.launch_id = Some("launch".into());
    let Decision::Pause { job: waits, .. } = ask(Some(&job), 101) else { panic!() };
    assert_eq!((waits.state, waits.requeue_reason.as_deref()), (JobState::Requeued, Some("claim_exhausted")));
    let due = waits.not_before.unwrap();
    assert!(due > at(101) && waits.redrive_at == Some(due), "the outbox wakes it when it is due");
    assert_eq!(ask(Some(&waits), 102), Decision::Done(Done::NotDue));
    let later = clock::since(due, at(0)).as_secs();
    let Decision::Claim { job, previous_launch, .. } = ask(Some(&waits), i64::try_from(later).unwrap()) else {
        panic!()
    };
    assert!(previous_launch.is_some(), "what the dead attempts launched is adopted");
    assert!(!job.strikes_left(), "and the next one that dies costs a pause again");
}

#[test]
fn an_unfinished_hand_over_is_resumed_only_once_its_lease_is_dead() {
    let job = launched(7, "old", "i-1");
    assert!(matches!(ask(Some(&job), 50), Decision::Contended { .. }));
    let Decision::Resume { instance, job } = ask(Some(&job), 101) else { panic!() };
    assert_eq!(instance.as_str(), "i-1");
    assert_eq!(job.state, JobState::Launched);
    assert!(job.fenced_by(&"new".into()));
}

#[test]
fn dispatched_and_settled_jobs_need_no_work() {
    let prepared = launched(7, "old", "i-1").prepared(&cx(3));
    assert_eq!(ask(Some(&prepared), 1000), Decision::Done(Done::Dispatched));
    let running = prepared.started(at(5), &cx(5));
    assert_eq!(ask(Some(&running), 1000), Decision::Done(Done::Dispatched));
    let settled = running.settled(Settled::Success, SettleReason::AgentReport, &cx(9));
    assert_eq!(ask(Some(&settled), 1000), Decision::Done(Done::Settled));
}

#[test]
fn the_launch_of_a_dead_attempt_is_handed_to_its_successor() {
    let job = claimed(7, "old").launching("launch-1".into(), &cx(1));
    let Decision::Claim { previous_launch, job, .. } = ask(Some(&job), 200) else { panic!() };
    assert_eq!(previous_launch, Some("launch-1".into()));
    assert_eq!(job.launch_id, None);
}
