//! Messages, stores that do not answer, and processes that come and go.

use std::collections::BTreeMap;

use domain::job::JobState;
use queue::Message;

use crate::support::faults::{Mishap, Port, Which};
use crate::support::world::World;
use crate::support::{minutes, seconds};

#[tokio::test(start_paused = true)]
async fn poison_is_put_aside_with_its_reason_and_delays_nobody() {
    let world = World::new();
    for (n, body) in ["nonsense", "{}", r#"{"job_id":0}"#].into_iter().enumerate() {
        let message =
            Message { body: body.to_owned(), group: "poison".to_owned(), dedup: n.to_string(), ..Message::default() };
        world.main.send(message).await.unwrap();
    }
    let job = world.queue_job();
    world.until("they are put aside", seconds(5), async |w| w.dead_letters().await == 3).await;
    for letter in world.dead_letters.receive(10, seconds(0), seconds(60)).await.unwrap() {
        assert!(letter.attributes.contains_key("PoisonReason"), "{:?}", letter.attributes);
    }
    world.until("the job is served", minutes(2), async |w| w.job_is_over(job).await).await;
    assert!(world.waited(job) <= seconds(10));
}

#[tokio::test(start_paused = true)]
async fn a_message_somebody_else_works_on_is_kept() {
    let world = World::new();
    world.machines.change(|nature| nature.launch_takes = seconds(60));
    let job = world.queue_job();
    world.until_state(job, JobState::Claiming, minutes(1)).await;
    let message = world.job(job).await.next_message().unwrap();
    // In a group of its own, so that it is delivered while the first is in flight.
    let copy = Message {
        body: message.encode(),
        group: "copy".to_owned(),
        dedup: "copy".to_owned(),
        attributes: BTreeMap::new(),
    };
    world.main.send(copy).await.unwrap();
    world.pass(seconds(30)).await;
    assert_eq!(world.state(job).await, Some(JobState::Claiming));
    assert_eq!(world.messages().await, 2, "both stay as long as nothing is bound");
    world.settle_down(minutes(20)).await;
    world.must_have_no_dead_letters().await;
    world.must_be_served(job).await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn every_message_may_be_lost() {
    for after in 0..12 {
        let mut world = World::new();
        let job = world.queue_job();
        world.pass(seconds(after)).await;
        world.kill().await;
        // Whatever is in flight or waiting is gone for good.
        for _ in 0..3 {
            world.pass(seconds(121)).await;
            for delivery in world.main.receive(10, seconds(0), minutes(5)).await.unwrap() {
                world.main.ack(&delivery.handle).await.unwrap();
            }
        }
        world.boot();
        world.settle_down(minutes(60)).await;
        world.must_be_served(job).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_is_accepted_while_the_store_is_down() {
    let world = World::new();
    world.weather.down(Port::Store);
    let job = world.queue_job();
    world.pass(seconds(60)).await;
    assert_eq!(world.github.accepted(), [job], "its message is safe");
    assert_eq!(world.messages().await, 1, "and is kept");
    world.weather.up(Port::Store);
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn a_job_is_accepted_while_the_queue_is_down() {
    let world = World::new();
    world.weather.down(Port::Queue);
    let job = world.queue_job();
    world.pass(seconds(60)).await;
    assert_eq!(world.github.accepted(), [job]);
    assert_eq!(world.state(job).await, Some(JobState::Requeued));
    world.weather.up(Port::Queue);
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
    assert!(world.waited(job) <= minutes(4), "the outbox sends it: {:?}", world.waited(job));
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn a_job_is_refused_only_while_both_are_down_and_comes_back() {
    let world = World::new();
    world.weather.down(Port::Queue);
    world.weather.down(Port::Store);
    let job = world.queue_job();
    world.pass(seconds(30)).await;
    assert_eq!(world.github.accepted(), []);
    world.weather.up(Port::Queue);
    world.weather.up(Port::Store);
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
    assert!(world.waited(job) <= minutes(10), "by a delivery asked for again, or by the scan: {:?}", world.waited(job));
}

#[tokio::test(start_paused = true)]
async fn a_restart_on_an_embedded_store_takes_leases_back_without_a_strike() {
    for call in ["compute.launch", "store.transact", "hand_over.put", "compute.start"] {
        let mut world = World::empty();
        world.boot_alone().await;
        world.process().plan(Which::Next(call), Mishap::DieAfter);
        let job = world.queue_job();
        world.process().died().await;
        world.kill().await;
        world.boot_alone().await;
        world.settle_down(minutes(20)).await;
        world.must_be_served(job).await;
        world.must_have_launched(1);
        let strikes = world.job(job).await.claim_attempts;
        assert!(strikes <= 1, "{strikes} after {call}: it was the restart's fault, not the job's");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_told_to_stop_finishes_what_it_began() {
    let mut world = World::new();
    world.machines.change(|nature| nature.launch_takes = seconds(30));
    let job = world.queue_job();
    world.until_state(job, JobState::Claiming, minutes(1)).await;
    world.stop().await;
    assert!(world.job(job).await.prepared_at.is_some(), "{}", world.describe().await);
    assert_eq!(world.messages().await, 0);
    world.boot();
    world.settle_down(minutes(20)).await;
    world.must_be_served(job).await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn two_replicas_make_one_machine_per_job() {
    let mut world = World::new();
    let _second = world.replica();
    let (_, jobs) =
        world.github.queue_jobs(&[crate::support::github::LABEL], 10, seconds(20), domain::gh::Conclusion::Success);
    world.settle_down(minutes(30)).await;
    for job in jobs {
        world.must_be_served(job).await;
    }
    world.must_have_launched(10);
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_any_process_costs_an_hour() {
    let mut world = World::new();
    let waiting = world.queue_job();
    world.until_state(waiting, JobState::Claiming, minutes(1)).await;
    world.kill().await;
    let unheard = world.queue_job();
    world.pass(minutes(60)).await;
    world.boot();
    world
        .until("both run", minutes(3), async |w| {
            w.is_executing(waiting).await && (w.is_executing(unheard).await || w.job_is_over(unheard).await)
                || w.job_is_over(waiting).await
        })
        .await;
    world.settle_down(minutes(30)).await;
    world.must_be_served(waiting).await;
    world.must_be_served(unheard).await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_wakes_a_forgotten_job_and_no_message_goes_round() {
    let world = World::new();
    world.machines.change(|nature| (nature.no_spot, nature.no_on_demand) = (true, true));
    let job = world.queue_job();
    world.until("it is in back-off", minutes(5), async |w| w.reads(job, |job| job.not_before.is_some()).await).await;
    let body = world.job(job).await.next_message().unwrap().encode();
    let letter = |n: u32| Message {
        body: body.clone(),
        group: format!("g{n}"),
        dedup: format!("d{n}"),
        attributes: BTreeMap::new(),
    };
    let before = world.machines.orders().len();
    for n in 0..30 {
        world.dead_letters.send(letter(n)).await.unwrap();
        world.pass(minutes(1)).await;
    }
    let tried = world.machines.orders().len() - before;
    assert!(tried <= 10, "{tried} launches in half an hour: the record's back-off decides, not the letters");
    world.until("the letters are gone", minutes(3), async |w| w.dead_letters().await == 0).await;
    assert!(world.messages().await <= 1, "no letter became a message of its own");
    world.machines.change(|nature| nature.no_on_demand = false);
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
    // The job is over: whatever still comes is dropped.
    let launched = world.launched().len();
    world.dead_letters.send(letter(100)).await.unwrap();
    world.until("it is gone", minutes(3), async |w| w.dead_letters().await == 0).await;
    assert_eq!(world.launched().len(), launched);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_only_a_dead_letter_knows_is_served_unless_github_has_ended_it() {
    let mut world = World::empty();
    world.boot_without_sweeps();
    world.weather.down(Port::Store);
    let (wanted, over) = (world.queue_job(), world.queue_job());
    // Kept and delivered again until the queue has enough of it.
    world.until("both are dead letters", minutes(30), async |w| w.dead_letters().await == 2).await;
    world.kill().await;
    world.weather.up(Port::Store);
    world.github.cancel(world.run_of(over));
    world.boot();
    world.settle_down(minutes(60)).await;
    world.must_be_served(wanted).await;
    world.must_have_launched(1);
    assert_eq!(world.dead_letters().await, 0);
}
