use domain::gh::NamedRunner;
use domain::ids::{JobId, RunnerId};
use domain::job::Settled;
use domain::job::transition::SettleReason;
use domain::testing::{accepted, at, claimed, cx, launched, message};

use super::*;

fn job_id(n: u64) -> JobId {
    JobId::new(n).expect("positive")
}

fn runner(key: &str, bound: Option<u64>) -> Runner {
    Runner {
        version: 1,
        state: RunnerState::Online,
        name: format!("runs-fleet-runner-repo-{key}"),
        id: RunnerId::new(5),
        labels: vec!["runs-fleet/cpu=2".to_owned()],
        bound_job: bound.and_then(JobId::new),
        minted_at: at(2),
        ..domain::testing::runner(key)
    }
}

/// A waiting job on a machine.
fn waiting(n: u64, machine: &str) -> Job {
    launched(n, "t", machine).prepared(&cx(3))
}

fn evidence(key: &str, since: i64) -> Evidence {
    Evidence {
        named: NamedRunner { id: RunnerId::new(5), name: format!("runs-fleet-runner-repo-{key}") },
        since: Some(at(since)),
        message: Some((message(1), "class".into())),
    }
}

fn job_of(plan: &Plan, n: u64) -> &Job {
    plan.jobs.iter().map(|w| &w.new).find(|j| j.id == job_id(n)).expect("a write of that job")
}

fn runner_of<'a>(plan: &'a Plan, key: &str) -> &'a Runner {
    plan.runners.iter().map(|w| &w.new).find(|r| r.key == key.into()).expect("a write of that runner")
}

#[test]
fn rule_2_a_job_on_its_own_runner_is_running() {
    let scene = Scene { job: Some(waiting(1, "i-a")), runner: Some(runner("i-a", Some(1))), ..Scene::default() };
    let plan = bind(job_id(1), &scene, &evidence("i-a", 9), &cx(10));
    assert_eq!(plan.rule, Some(2));
    let job = job_of(&plan, 1);
    assert_eq!((job.state, job.in_progress_at), (JobState::Running, Some(at(9))));
    let r = runner_of(&plan, "i-a");
    assert_eq!((r.state, r.bound_job, r.running_job), (RunnerState::Busy, None, Some(job_id(1))));
}

#[test]
fn rule_0_the_same_event_again_writes_nothing() {
    let scene = Scene { job: Some(waiting(1, "i-a")), runner: Some(runner("i-a", Some(1))), ..Scene::default() };
    let first = bind(job_id(1), &scene, &evidence("i-a", 9), &cx(10));
    let again = Scene {
        job: Some(job_of(&first, 1).clone()),
        runner: Some(runner_of(&first, "i-a").clone()),
        ..Scene::default()
    };
    let second = bind(job_id(1), &again, &evidence("i-a", 9), &cx(11));
    assert_eq!(second.rule, Some(0));
    assert!(second.is_empty());
}

#[test]
fn rule_3_theft_within_a_class_is_a_swap() {
    let scene = Scene {
        job: Some(waiting(1, "i-b")),
        runner: Some(runner("i-a", Some(2))),
        bound: Some(waiting(2, "i-a")),
        previous: Some(runner("i-b", Some(1))),
    };
    let plan = bind(job_id(1), &scene, &evidence("i-a", 9), &cx(10));
    assert_eq!((plan.rule, plan.displaced, &plan.surplus), (Some(3), None, &None));
    assert_eq!(job_of(&plan, 1).instance, Some("i-a".into()));
    assert_eq!(job_of(&plan, 2).instance, Some("i-b".into()));
    assert_eq!(runner_of(&plan, "i-b").bound_job, Some(job_id(2)));
    assert_eq!((plan.jobs.len(), plan.runners.len()), (2, 2));
}

#[test]
fn rule_4_without_an_exchange_the_robbed_job_goes_back() {
    let mut other = runner("i-b", Some(1));
    other.labels = vec!["something-else".to_owned()];
    for previous in [None, Some(other)] {
        let scene = Scene {
            job: Some(accepted(1)),
            runner: Some(runner("i-a", Some(2))),
            bound: Some(waiting(2, "i-a")),
            previous,
        };
        let plan = bind(job_id(1), &scene, &evidence("i-a", 9), &cx(10));
        assert_eq!((plan.rule, plan.displaced), (Some(4), Some(job_id(2))));
        let robbed = job_of(&plan, 2);
        assert_eq!((robbed.state, robbed.displaced_count, robbed.retry_count), (JobState::Requeued, 1, 0));
        assert!(!robbed.force_on_demand, "a theft is not a failure");
        assert_eq!(job_of(&plan, 1).state, JobState::Running);
    }
}

#[test]
fn rule_4_leaves_the_robbed_job_to_the_launch_that_is_no_longer_needed() {
    let scene = Scene {
        job: Some(claimed(1, "t")),
        runner: Some(runner("i-a", Some(2))),
        bound: Some(waiting(2, "i-a")),
        previous: None,
    };
    let plan = bind(job_id(1), &scene, &evidence("i-a", 9), &cx(10));
    assert_eq!((plan.rule, plan.displaced), (Some(4), None));
    let robbed = job_of(&plan, 2);
    assert!(robbed.is_due(at(10)), "the launch in flight may have it at once");
    assert_eq!(robbed.redrive_at, Some(at(15)), "the outbox stands behind that launch");
}

#[test]
fn rule_4_leaves_the_robbed_job_to_a_runner_that_is_being_minted() {
    let minting = Runner { state: RunnerState::Minting, ..runner("i-b", Some(1)) };
    let other_class = Runner { labels: vec!["something-else".to_owned()], ..minting.clone() };
    for (previous, woken) in [(minting, None), (other_class, Some(job_id(2)))] {
        let scene = Scene {
            job: Some(waiting(1, "i-b")),
            runner: Some(runner("i-a", Some(2))),
            bound: Some(waiting(2, "i-a")),
            previous: Some(previous),
        };
        let plan = bind(job_id(1), &scene, &evidence("i-a", 9), &cx(10));
        assert_eq!((plan.rule, plan.displaced), (Some(4), woken));
        let robbed = job_of(&plan, 2);
        assert!(robbed.state == JobState::Requeued && robbed.redrive_at.is_some(), "the outbox stands behind it");
        assert_eq!(runner_of(&plan, "i-b").bound_job, None);
    }
}

#[test]
fn rule_4_hands_on_what_a_robbed_job_was_left_to() {
    let rob = |job: u64, from: &str, of: Job| {
        let (runner, bound) = (Some(runner(from, Some(job))), Some(waiting(job, from)));
        let scene = Scene { job: Some(of.clone()), runner, bound, previous: None };
        let plan = bind(of.id, &scene, &evidence(from, 9), &cx(10));
        (plan.displaced, job_of(&plan, job).clone())
    };
    let (woken, left) = rob(2, "i-a", claimed(1, "t"));
    assert_eq!((woken, left.redrive_at), (None, Some(at(15))));
    let (woken, next) = rob(3, "i-b", left);
    assert_eq!(
        (woken, next.redrive_at),
        (None, Some(at(15))),
        "there is still one launch, and one job without a runner"
    );
    // One that was woken has no launch to hand on.
    let (woken, back) = rob(2, "i-a", accepted(1));
    assert_eq!(woken, Some(job_id(2)));
    assert_eq!(rob(3, "i-b", back).0, Some(job_id(3)));
}

#[test]
fn rule_4_applies_when_a_stranger_takes_our_runner() {
    let scene = Scene { runner: Some(runner("i-a", Some(2))), bound: Some(waiting(2, "i-a")), ..Scene::default() };
    let plan = bind(job_id(1), &scene, &Evidence { message: None, ..evidence("i-a", 9) }, &cx(10));
    assert_eq!((plan.rule, plan.displaced), (Some(4), Some(job_id(2))));
    assert_eq!(plan.jobs.len(), 1, "no record is made for a job that is not ours");
    assert_eq!(runner_of(&plan, "i-a").running_job, Some(job_id(1)));
}

#[test]
fn rule_5_the_runner_a_job_no_longer_needs_is_surplus_and_untouched() {
    let scene = Scene {
        job: Some(waiting(1, "i-b")),
        runner: Some(runner("i-a", None)),
        bound: None,
        previous: Some(runner("i-b", Some(1))),
    };
    let plan = bind(job_id(1), &scene, &evidence("i-a", 9), &cx(10));
    assert_eq!((plan.rule, plan.surplus.clone()), (Some(5), Some("i-b".into())));
    let left = runner_of(&plan, "i-b");
    assert_eq!((left.bound_job, left.state), (None, RunnerState::Online));
}

#[test]
fn rule_6_an_unknown_job_of_ours_gets_a_record_that_is_running() {
    let scene = Scene { runner: Some(runner("i-a", None)), ..Scene::default() };
    let plan = bind(job_id(1), &scene, &evidence("i-a", 9), &cx(10));
    assert_eq!(plan.rule, Some(6));
    assert_eq!(plan.jobs[0].old, None);
    assert_eq!(job_of(&plan, 1).state, JobState::Running);
}

#[test]
fn rule_1_a_job_on_somebody_elses_runner_waits_and_frees_ours() {
    let scene = Scene { job: Some(waiting(1, "i-b")), previous: Some(runner("i-b", Some(1))), ..Scene::default() };
    let plan = bind(job_id(1), &scene, &evidence("i-x", 9), &cx(10));
    assert_eq!(plan.rule, Some(1));
    let job = job_of(&plan, 1);
    assert_eq!((job.state, job.not_before), (JobState::Requeued, Some(at(10 + 300))));
    assert_eq!(plan.surplus, Some("i-b".into()));
    let again = bind(job_id(1), &Scene { job: Some(job.clone()), ..Scene::default() }, &evidence("i-x", 9), &cx(20));
    assert!(again.is_empty(), "the same news twice changes nothing");
}

#[test]
fn a_settled_job_is_left_alone_but_the_robbed_one_is_not() {
    let settled = waiting(1, "i-b").settled(Settled::Completed, SettleReason::Concluded, &cx(5));
    let scene = Scene {
        job: Some(settled),
        runner: Some(runner("i-a", Some(2))),
        bound: Some(waiting(2, "i-a")),
        previous: Some(runner("i-b", Some(1))),
    };
    let plan = bind(job_id(1), &scene, &evidence("i-a", 9), &cx(10));
    assert_eq!((plan.rule, plan.displaced), (Some(4), Some(job_id(2))));
    assert!(plan.jobs.iter().all(|w| w.new.id != job_id(1)));
}

#[test]
fn an_older_in_progress_does_not_move_a_job_back() {
    let scene = Scene { job: Some(waiting(1, "i-a")), runner: Some(runner("i-a", Some(1))), ..Scene::default() };
    let running = job_of(&bind(job_id(1), &scene, &evidence("i-a", 9), &cx(10)), 1).clone();
    let late = Scene { job: Some(running), runner: Some(runner("i-z", None)), ..Scene::default() };
    assert!(bind(job_id(1), &late, &evidence("i-z", 8), &cx(12)).is_empty());
    assert_eq!(job_of(&bind(job_id(1), &late, &evidence("i-z", 11), &cx(12)), 1).instance, Some("i-z".into()));
}

#[test]
fn completion_on_our_runner_waits_for_its_report_and_elsewhere_settles() {
    let running = {
        let scene = Scene { job: Some(waiting(1, "i-a")), runner: Some(runner("i-a", Some(1))), ..Scene::default() };
        bind(job_id(1), &scene, &evidence("i-a", 9), &cx(10))
    };
    let here = Scene {
        job: Some(job_of(&running, 1).clone()),
        runner: Some(runner_of(&running, "i-a").clone()),
        ..Scene::default()
    };
    let plan = complete(&here, Conclusion::Failure, "failure", Some(at(20)), &cx(21));
    let job = job_of(&plan, 1);
    assert_eq!((job.state, job.conclusion.as_deref()), (JobState::Running, Some("failure")));
    assert!(runner_of(&plan, "i-a").retire_at.is_some());

    let cancelled = Scene { job: Some(waiting(1, "i-b")), previous: Some(runner("i-b", Some(1))), ..Scene::default() };
    let plan = complete(&cancelled, Conclusion::Cancelled, "cancelled", Some(at(20)), &cx(21));
    assert_eq!(job_of(&plan, 1).state, JobState::Settled(Settled::Cancelled));
    assert_eq!(plan.surplus, Some("i-b".into()), "its runner stays for other jobs");
}

#[test]
fn labels_are_compared_as_a_set_without_regard_to_case() {
    let s = |l: &[&str]| l.iter().map(|x| (*x).to_owned()).collect::<Vec<_>>();
    assert!(covers(&s(&["A", "b", "c"]), &s(&["a", "C"])));
    assert!(!covers(&s(&["a"]), &s(&["a", "b"])));
    assert!(covers(&s(&["a"]), &[]));
}
