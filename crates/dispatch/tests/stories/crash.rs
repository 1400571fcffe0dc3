//! One job's whole life, once per port call it takes and per way that call can go wrong: the process dies before it or
//! right after it, it fails, or only its answer is lost. Whatever happens, the job is served exactly once and nothing
//! is left behind.

use crate::support::faults::{Mishap, Which};
use crate::support::world::World;
use crate::support::{hours, minutes, seconds};

/// Whether the life was long enough for the call to be made.
async fn survives(mishap: Mishap, nth: usize, runs_from_launch: bool) -> bool {
    let mut world = World::empty();
    world.machines.change(|nature| nature.runs_from_launch = runs_from_launch);
    // Without sweeps, so that the n-th call is one of the job's own.
    world.boot_without_sweeps();
    world.process().plan(Which::Nth(nth), mishap);
    let job = world.queue_job();
    let dies = matches!(mishap, Mishap::DieBefore | Mishap::DieAfter);
    world
        .until("the mishap, or the end", minutes(5), async |w| {
            let happened = if dies { w.process().is_dead() } else { w.process().plan_is_done() };
            let over = w.job_is_over(job).await && w.messages().await + w.reports().await == 0;
            happened || over && !w.process().plan_is_done()
        })
        .await;
    let happened = world.process().plan_is_done();
    let call = if happened { world.process().calls()[nth] } else { "the end" };
    println!("{mishap:?} at call {nth}, {call}");
    if world.process().is_dead() {
        world.pass(seconds(3)).await;
        world.kill().await;
        world.boot();
    } else {
        world.start_sweeps();
    }
    world.settle_down(minutes(90)).await;
    world.must_be_served(job).await;
    world.must_have_no_dead_letters().await;
    let runners = world.launched().len();
    // What a dead attempt launched is adopted; only one that gave up by itself leaves a machine unused.
    assert!(runners <= if dies { 1 } else { 2 }, "{runners} machines\n{}", world.describe().await);
    // One lease, one redelivery, one outbox period.
    let waited = world.waited(job);
    assert!(waited <= seconds(200), "it began after {waited:?}\n{}", world.describe().await);
    // A deletion that fails is left to the sweep of secrets, which is not dispatch's.
    if call != "hand_over.delete" {
        assert!(world.documents.keys().is_empty(), "a hand-over is left\n{}", world.describe().await);
    }
    happened
}

async fn survives_everywhere(mishap: Mishap, runs_from_launch: bool) {
    let mut nth = 0;
    while survives(mishap, nth, runs_from_launch).await {
        nth += 1;
    }
    assert!(nth > 30, "a job's life takes many calls; only {nth} were seen");
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_any_call_loses_nothing() {
    survives_everywhere(Mishap::DieBefore, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_any_call_loses_nothing_where_machines_run_from_their_launch() {
    survives_everywhere(Mishap::DieBefore, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_any_call_loses_nothing() {
    survives_everywhere(Mishap::DieAfter, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_any_call_loses_nothing_where_machines_run_from_their_launch() {
    survives_everywhere(Mishap::DieAfter, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_any_call_loses_nothing() {
    survives_everywhere(Mishap::Refuse, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_of_any_call_loses_nothing() {
    survives_everywhere(Mishap::LoseAnswer, true).await;
}

/// The first process stands still at its n-th call while another takes over, and then goes on as if nothing had
/// happened: it holds a lease that is long dead, and must change nothing.
async fn a_sleeper_wakes(nth: usize, runs_from_launch: bool) -> bool {
    let mut world = World::empty();
    world.machines.change(|nature| nature.runs_from_launch = runs_from_launch);
    // Its own clock stands still, too: no budget of its runs out while it sleeps.
    let timings = world.timings;
    world.timings.process = hours(2);
    world.timings.cleanup = hours(1);
    world.boot_without_sweeps();
    world.timings = timings;
    world.process().plan(Which::Nth(nth), Mishap::Freeze);
    let job = world.queue_long_job(minutes(5));
    world
        .until("it stands still, or all is prepared", minutes(5), async |w| {
            let running = w.find(job).await.is_some_and(|job| job.in_progress_at.is_some());
            w.process().is_frozen() || running && w.messages().await == 0
        })
        .await;
    let sleeper = world.abandon();
    let froze = sleeper.process.is_frozen();
    println!("standing still at call {nth}, {:?}", sleeper.process.calls().last());
    world.boot();
    world
        .until("the job is served by the other", minutes(15), async |w| {
            w.find(job).await.is_some_and(|job| job.in_progress_at.is_some())
        })
        .await;
    sleeper.process.thaw();
    world.pass(minutes(1)).await;
    world.must_be_consistent().await;
    sleeper.process.die();
    world.settle_down(minutes(90)).await;
    world.must_be_served(job).await;
    froze
}

#[tokio::test(start_paused = true)]
async fn a_process_that_wakes_up_late_changes_nothing() {
    let mut nth = 0;
    while a_sleeper_wakes(nth, false).await {
        nth += 1;
    }
    assert!(nth > 20, "an attempt takes many calls; only {nth} were seen");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_wakes_up_late_changes_nothing_where_machines_run_from_their_launch() {
    let mut nth = 0;
    while a_sleeper_wakes(nth, true).await {
        nth += 1;
    }
    assert!(nth > 20, "an attempt takes many calls; only {nth} were seen");
}
