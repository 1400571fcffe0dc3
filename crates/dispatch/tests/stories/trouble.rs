//! Machines that do not come, do not start, or disappear; a GitHub that refuses or does not answer.

use domain::clock::since;
use domain::job::{JobState, RerunState, Settled};

use crate::support::faults::{Mishap, Port, Which};
use crate::support::github::{Fate, Scripted};
use crate::support::world::World;
use crate::support::{hours, minutes, seconds};

/// Every attempt to register a runner is answered so.
fn minting(status: u16, headers: &[(&'static str, &str)]) -> Option<Scripted> {
    let headers: Vec<_> = headers.iter().map(|&(name, value)| (name, value.to_owned())).collect();
    Some(Box::new(move |line| line.ends_with("/generate-jitconfig").then(|| (status, headers.clone()))))
}

#[tokio::test(start_paused = true)]
async fn spot_without_capacity_falls_back_to_on_demand_at_once() {
    let world = World::new();
    world.machines.change(|nature| nature.no_spot = true);
    let job = world.queue_job();
    world.settle_down(minutes(20)).await;
    world.must_be_served(job).await;
    let spot: Vec<bool> = world.machines.orders().iter().map(|order| order.spot).collect();
    assert_eq!(spot, [true, false]);
    assert!(world.waited(job) <= seconds(15), "{:?}", world.waited(job));
    let record = world.job(job).await;
    assert!(record.force_on_demand);
    assert_eq!(record.retry_count, 1);
}

#[tokio::test(start_paused = true)]
async fn a_shortage_is_waited_out() {
    let world = World::new();
    world.machines.change(|nature| (nature.no_spot, nature.no_on_demand) = (true, true));
    let job = world.queue_job();
    for _ in 0..24 {
        world.pass(minutes(5)).await;
        assert!(!world.job_is_over(job).await, "{}", world.describe().await);
    }
    assert!(world.machines.orders().len() > 10, "it is tried again and again");
    world.machines.change(|nature| nature.no_on_demand = false);
    world.until("it runs", minutes(10), async |w| w.is_executing(job).await).await;
    world.settle_down(minutes(20)).await;
    world.must_be_served(job).await;
    assert_eq!(world.job(job).await.retry_count, 1, "waiting costs no retry");
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_fails_for_now_is_tried_again() {
    let world = World::new();
    world.process().plan(Which::Next("compute.launch"), Mishap::Refuse);
    let job = world.queue_job();
    world.settle_down(minutes(20)).await;
    world.must_be_served(job).await;
    assert_eq!(world.job(job).await.retry_count, 0);
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn a_launch_whose_answer_was_lost_is_adopted() {
    let world = World::new();
    world.process().plan(Which::Next("compute.launch"), Mishap::LoseAnswer);
    let job = world.queue_job();
    world.settle_down(minutes(20)).await;
    world.must_be_served(job).await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn a_launch_whose_answer_was_lost_ends_when_nobody_needs_it() {
    let world = World::new();
    world.process().plan(Which::Next("compute.launch"), Mishap::LoseAnswer);
    let job = world.queue_job();
    world.until("the attempt has failed", minutes(1), async |w| w.reads(job, |job| job.dispatch_seq > 0).await).await;
    world.github.cancel(world.run_of(job));
    assert_eq!(world.machines.live().len(), 1);
    world.until("it ends", minutes(5), async |w| w.machines.live().is_empty()).await;
    world.settle_down(minutes(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_repository_that_refuses_runners_gets_three_tries() {
    for status in [403, 404] {
        let world = World::new();
        world.github.script(minting(status, &[]));
        let job = world.queue_job();
        world.until_state(job, JobState::Settled(Settled::Error), minutes(30)).await;
        assert_eq!(world.job(job).await.settled_reason.as_deref(), Some("refused"));
        world.must_have_launched(3);
        assert!(world.machines.live().is_empty(), "each was ended");
        world.must_be_consistent().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_is_waited_out_and_costs_nothing() {
    let world = World::new();
    world.github.script(minting(403, &[("retry-after", "900")]));
    let job = world.queue_job();
    world.until("it is in back-off", minutes(1), async |w| w.reads(job, |job| job.not_before.is_some()).await).await;
    let record = world.job(job).await;
    let wait = since(record.not_before.unwrap(), record.requeued_at.unwrap());
    assert!(wait >= seconds(895) && wait <= seconds(935), "until the limit ends, and a little: {wait:?}");
    world.github.script(None);
    world.pass(minutes(14)).await;
    assert_eq!(world.github.asked("POST /repos/acme/widgets/actions/runners"), 1, "nobody asks before that");
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
    assert_eq!((record.retry_count, record.claim_attempts), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_store_that_is_down_is_waited_out() {
    let world = World::new();
    world.weather.down(Port::HandOver);
    let job = world.queue_job();
    world.pass(minutes(10)).await;
    world
        .until("no machine waits for a hand-over that cannot be written", minutes(1), async |w| {
            w.machines.live().is_empty()
        })
        .await;
    world.weather.up(Port::HandOver);
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
    assert_eq!(world.job(job).await.retry_count, 0);
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_whose_answer_was_lost_is_looked_at() {
    let world = World::new();
    world.process().plan(Which::Next("hand_over.put"), Mishap::LoseAnswer);
    let job = world.queue_job();
    world.settle_down(minutes(20)).await;
    world.must_be_served(job).await;
    world.must_have_launched(1);
    assert!(world.waited(job) <= seconds(10));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_failed_late_does_not_end_a_runner_with_a_job() {
    let world = World::new();
    world.machines.change(|nature| nature.start_takes = seconds(30));
    world.process().plan(Which::Next("compute.start"), Mishap::LoseAnswer);
    let job = world.queue_long_job(minutes(5));
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_took_too_long_does_not_end_a_runner_with_a_job() {
    let world = World::new();
    world.machines.change(|nature| nature.start_takes = minutes(10));
    let job = world.queue_long_job(minutes(5));
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_takes_too_long_before_the_runner_is_up_costs_no_job() {
    let world = World::new();
    world.machines.change(|nature| (nature.start_takes, nature.boot_takes) = (minutes(10), seconds(120)));
    let job = world.queue_job();
    world
        .until("the first attempt has failed", minutes(3), async |w| w.reads(job, |job| job.dispatch_seq > 0).await)
        .await;
    world.machines.change(|nature| (nature.start_takes, nature.boot_takes) = (seconds(0), seconds(5)));
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_vanishes_before_it_runs_is_replaced() {
    let world = World::new();
    world.machines.change(|nature| nature.boot_takes = seconds(60));
    let job = world.queue_job();
    world.until("it is prepared", minutes(1), async |w| w.reads(job, |job| job.prepared_at.is_some()).await).await;
    world.machines.vanish(&world.machines.live()[0]);
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
    let record = world.job(job).await;
    assert_eq!(record.retry_count, 1);
    assert!(record.force_on_demand, "what was reclaimed once is not put on spot again");
    world.must_have_launched(2);
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_machine_vanishes_is_re_run_once_on_demand() {
    let world = World::new();
    let job = world.queue_long_job(minutes(10));
    world.until("the job runs", minutes(1), async |w| w.is_executing(job).await).await;
    world.machines.vanish(&world.machines.live()[0]);
    world.settle_down(minutes(60)).await;

    let record = world.job(job).await;
    assert_eq!(record.state, JobState::Settled(Settled::Interrupted));
    assert_eq!(record.rerun, Some(RerunState::Done));
    let attempts = world.github.reports();
    assert_eq!(attempts.len(), 2, "it was re-run once");
    let second = attempts.iter().find(|report| report.attempt == 2).unwrap().id;
    world.must_be_served(second).await;
    assert!(world.job(second).await.force_on_demand);
    let spot: Vec<bool> = world.machines.orders().iter().map(|order| order.spot).collect();
    assert_eq!(spot, [true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_machine_vanishes_is_not_re_run_where_operators_do_not_want_it() {
    let mut world = World::empty();
    world.rerun_interrupted = false;
    world.boot();
    let job = world.queue_long_job(minutes(10));
    world.until("the job runs", minutes(1), async |w| w.is_executing(job).await).await;
    world.machines.vanish(&world.machines.live()[0]);
    world.settle_down(minutes(60)).await;
    assert_eq!(world.job(job).await.rerun, Some(RerunState::Refused));
    assert_eq!(world.github.counters().rerun, 0);
}

#[tokio::test(start_paused = true)]
async fn a_re_run_whose_answer_was_lost_is_not_asked_for_twice() {
    let world = World::new();
    let job = world.queue_long_job(minutes(10));
    world.until("the job runs", minutes(1), async |w| w.is_executing(job).await).await;
    world.process().plan(Which::Next("github.rerun"), Mishap::LoseAnswer);
    world.machines.vanish(&world.machines.live()[0]);
    world.settle_down(minutes(60)).await;
    assert_eq!(world.github.counters().rerun, 1);
    assert_eq!(world.job(job).await.rerun, Some(RerunState::Done));
}

#[tokio::test(start_paused = true)]
async fn every_lost_job_of_a_run_is_re_run_whichever_came_first() {
    let world = World::new();
    let label = [crate::support::github::LABEL];
    let (_, jobs) = world.github.queue_jobs(&label, 3, minutes(10), domain::gh::Conclusion::Success);
    for job in &jobs {
        world.until("they run", minutes(5), async |w| w.is_executing(*job).await).await;
    }
    for machine in &world.machines.live()[..2] {
        world.machines.vanish(machine);
    }
    world.settle_down(minutes(120)).await;
    let counters = world.github.counters();
    assert_eq!((counters.rerun, counters.awaiting_rerun), (2, 0), "{}", world.describe().await);
}

#[tokio::test(start_paused = true)]
async fn a_re_run_by_a_user_is_not_taken_for_ours() {
    let world = World::new();
    let red =
        world.github.queue_jobs(&[crate::support::github::LABEL], 1, seconds(10), domain::gh::Conclusion::Failure);
    world.until("it is over", minutes(5), async |w| w.job_is_over(red.1[0]).await).await;
    world.github.with(|model, now| model.rerun_job(&crate::support::github::repo(), red.1[0], now)).unwrap();
    world.settle_down(minutes(20)).await;
    let spot: Vec<bool> = world.machines.orders().iter().map(|order| order.spot).collect();
    assert_eq!(spot, [true, true], "spot as the label said");
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_never_confirms_is_replaced_and_given_up_at_the_cap() {
    let world = World::new();
    world.machines.change(|nature| nature.never_connects = true);
    let job = world.queue_job();
    world.until_state(job, JobState::Settled(Settled::Error), minutes(40)).await;
    assert_eq!(world.job(job).await.settled_reason.as_deref(), Some("unconfirmed"));
    world.must_have_launched(3);
    assert!(world.machines.live().is_empty(), "none of them is left");
    world.must_be_consistent().await;
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_confirms_at_the_second_try_serves_the_job() {
    let world = World::new();
    world.machines.change(|nature| nature.never_connects = true);
    let job = world.queue_job();
    world.pass(minutes(2)).await;
    world.machines.change(|nature| nature.never_connects = false);
    world.settle_down(minutes(40)).await;
    world.must_be_served(job).await;
    world.must_have_launched(2);
}

#[tokio::test(start_paused = true)]
async fn machines_that_do_not_become_runners_are_given_up_after_three() {
    let world = World::new();
    world.machines.change(|nature| nature.bootstrap_fails = true);
    let job = world.queue_job();
    world.until_state(job, JobState::Settled(Settled::Error), minutes(5)).await;
    assert_eq!(world.job(job).await.settled_reason.as_deref(), Some("bootstrap_failed"));
    world.must_have_launched(3);
    world.must_be_consistent().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_given_up_while_github_cannot_be_asked() {
    let world = World::new();
    world.machines.change(|nature| nature.never_connects = true);
    let launched = world.queue_job();
    world
        .until("one waits for its runner", minutes(1), async |w| {
            w.reads(launched, |job| job.prepared_at.is_some()).await
        })
        .await;
    world.pass(seconds(10)).await;
    world.machines.change(|nature| nature.never_connects = false);
    let running = world.queue_long_job(minutes(30));
    world.until("one runs", minutes(1), async |w| w.is_executing(running).await).await;

    world.weather.down(Port::GitHub);
    let pending = world.queue_job();
    for _ in 0..12 {
        world.pass(minutes(10)).await;
        assert_eq!(world.state(launched).await, Some(JobState::Launched), "{}", world.describe().await);
        assert!(!world.job_is_over(pending).await, "{}", world.describe().await);
    }
    world.must_be_served(running).await;
    world.must_be_consistent().await;

    world.weather.up(Port::GitHub);
    world.settle_down(minutes(60)).await;
    world.must_be_served(launched).await;
    world.must_be_served(pending).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_could_not_be_placed_for_a_day_is_given_up() {
    let world = World::new();
    world.machines.change(|nature| (nature.no_spot, nature.no_on_demand) = (true, true));
    world.weather.down(Port::GitHub);
    world.github.fate("completed", Fate::Vanishes);
    let job = world.queue_job();
    world.pass(hours(23)).await;
    assert!(!world.job_is_over(job).await, "GitHub keeps it for 24 hours, and so do we");
    world.until_state(job, JobState::Settled(Settled::Error), hours(2)).await;
    assert_eq!(world.job(job).await.settled_reason.as_deref(), Some("deadline"));
    world.must_have_launched(0);
}
