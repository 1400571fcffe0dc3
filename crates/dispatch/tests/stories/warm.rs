//! Jobs that name a pool, and its spares.

use db::schema::POOLS;
use db::table::Cond;
use domain::ids::{JobId, PoolName, RunnerKey};
use domain::job::{JobState, Settled};
use domain::runner::RunnerState;
use provider::{MachineState, tags};
use serde_json::json;

use crate::support::faults::{Mishap, Port, Which};
use crate::support::world::World;
use crate::support::{hours, minutes, seconds};

const WARM: &str = "runs-fleet/cpu=2/pool=ci";

async fn stopped(world: &World) -> RunnerKey {
    world.spare(MachineState::Stopped).await
}

async fn running(world: &World) -> RunnerKey {
    world.spare(MachineState::Running).await
}

async fn must_be_served_by(world: &World, job: JobId, key: &RunnerKey, hot: bool) {
    world.must_be_served(job).await;
    let record = world.job(job).await;
    assert_eq!(record.instance.as_ref(), Some(key), "{}", world.describe().await);
    assert!(record.warm_pool_hit && !record.spot && record.launch_id.is_none(), "{record:#?}");
    assert_eq!(record.hot_pool_hit, hot);
}

/// A spare that can serve the next job: off, nobody's, and with nothing left on it.
async fn must_be_banked(world: &World, key: &RunnerKey) {
    let machine = world.machines.get(key);
    assert_eq!(machine.state, MachineState::Stopped, "{}", world.describe().await);
    assert!(!machine.is_assigned(), "{machine:?}");
    assert!(world.documents.read(key).is_none(), "a hand-over is left");
    assert!(world.runner(key).await.is_none_or(|row| row.state == RunnerState::Gone), "{}", world.describe().await);
    assert!(!world.claims().is_claimed(key).await.unwrap());
    world.must_be_consistent().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_gets_a_stopped_spare_of_its_pool() {
    let world = World::new();
    let spare = stopped(&world).await;
    let job = world.queue_job_with(&[WARM]);
    world.until("it runs", minutes(1), async |w| w.is_executing(job).await).await;
    assert!(world.machines.get(&spare).is_assigned());
    world.settle_down(minutes(20)).await;
    must_be_served_by(&world, job, &spare, false).await;
    world.must_have_launched(1);
    assert_eq!(world.machines.get(&spare).state, MachineState::Terminated, "it is never used again");
    let text = world.metrics.render();
    assert!(text.contains(r#"jobs_assigned_total{pool="ci",repo="acme/widgets",source="warm_pool"} 1"#), "{text}");
    assert!(text.contains(r#"pool_assign_total{pool="ci",result="stopped"} 1"#), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_job_gets_a_running_spare_without_a_start() {
    let world = World::new();
    let spare = running(&world).await;
    world.pass(minutes(1)).await;
    let job = world.queue_job_with(&[WARM]);
    world.settle_down(minutes(20)).await;
    must_be_served_by(&world, job, &spare, true).await;
    assert!(world.waited(job) <= seconds(3), "{:?}", world.waited(job));
    assert!(!world.process().calls().contains(&"compute.start"));
    assert!(world.metrics.render().contains(r#"source="hot_pool"} 1"#));
}

#[tokio::test(start_paused = true)]
async fn a_running_spare_goes_before_a_stopped_one() {
    let world = World::new();
    let (cold, hot) = (stopped(&world).await, running(&world).await);
    let job = world.queue_job_with(&[WARM]);
    world.settle_down(minutes(20)).await;
    must_be_served_by(&world, job, &hot, true).await;
    must_be_banked(&world, &cold).await;
}

#[tokio::test(start_paused = true)]
async fn of_two_jobs_one_gets_the_spare_and_the_other_a_fresh_machine() {
    let world = World::new();
    let spare = stopped(&world).await;
    let jobs = [world.queue_job_with(&[WARM]), world.queue_job_with(&[WARM])];
    world.settle_down(minutes(20)).await;
    for job in jobs {
        world.must_be_served(job).await;
    }
    world.must_have_launched(2);
    let mut warm = 0;
    for job in jobs {
        warm += usize::from(world.job(job).await.warm_pool_hit);
    }
    assert_eq!(warm, 1, "{}", world.describe().await);
    assert_eq!(world.machines.get(&spare).state, MachineState::Terminated);
}

#[tokio::test(start_paused = true)]
async fn a_spare_that_another_job_has_claimed_is_left_alone() {
    let world = World::new();
    let (taken, free) = (stopped(&world).await, stopped(&world).await);
    let other = JobId::new(1).unwrap();
    let claim = world.claims().claim(&taken, db::claims::Holder::Job(other), minutes(5)).await.unwrap();
    assert!(claim.is_applied());
    let job = world.queue_job_with(&[WARM]);
    world.settle_down(minutes(20)).await;
    must_be_served_by(&world, job, &free, false).await;
    assert_eq!(world.machines.get(&taken).state, MachineState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_job_without_a_pool_leaves_spares_alone() {
    let world = World::new();
    let spare = stopped(&world).await;
    let job = world.queue_job();
    world.until_state(job, JobState::Settled(Settled::Success), minutes(5)).await;
    world.pass(hours(1)).await;
    must_be_banked(&world, &spare).await;
    assert!(!world.job(job).await.warm_pool_hit);
}

#[tokio::test(start_paused = true)]
async fn no_sweep_touches_a_spare_that_waits() {
    let world = World::new();
    let (cold, hot) = (stopped(&world).await, running(&world).await);
    world.pass(minutes(90)).await;
    assert_eq!(world.machines.get(&cold).state, MachineState::Stopped);
    assert_eq!(world.machines.get(&hot).state, MachineState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_start_without_room_goes_on_to_the_next_spare() {
    let world = World::new();
    let (first, second) = (stopped(&world).await, stopped(&world).await);
    world.machines.change(|nature| nature.no_room = 1);
    let job = world.queue_job_with(&[WARM]);
    world.settle_down(minutes(20)).await;
    must_be_served_by(&world, job, &second, false).await;
    must_be_banked(&world, &first).await;
    world.must_have_launched(2);
    assert_eq!(world.job(job).await.claim_attempts, 1, "under the same lease");
}

#[tokio::test(start_paused = true)]
async fn a_pool_without_room_is_made_up_for_by_a_fresh_machine() {
    let world = World::new();
    let spares = [stopped(&world).await, stopped(&world).await, stopped(&world).await, stopped(&world).await];
    world.machines.change(|nature| nature.no_room = 9);
    let job = world.queue_job_with(&[WARM]);
    world.until_state(job, JobState::Settled(Settled::Success), minutes(2)).await;
    let record = world.job(job).await;
    assert_eq!((record.warm_pool_hit, record.claim_attempts, record.dispatch_seq), (false, 1, 0));
    for spare in &spares {
        must_be_banked(&world, spare).await;
    }
    let starts = world.process().calls().into_iter().filter(|call| *call == "compute.start").count();
    assert_eq!(starts, 4, "three spares, and the fresh machine");
}

#[tokio::test(start_paused = true)]
async fn without_the_time_for_a_launch_the_job_comes_back_later() {
    let world = World::new();
    let spare = stopped(&world).await;
    world.machines.change(|nature| (nature.no_room, nature.start_takes) = (1, seconds(60)));
    let job = world.queue_job_with(&[WARM]);
    world.until_state(job, JobState::Requeued, minutes(2)).await;
    assert_eq!(world.job(job).await.requeue_reason.as_deref(), Some("transient"));
    must_be_banked(&world, &spare).await;
    world.machines.change(|nature| nature.start_takes = seconds(1));
    world.settle_down(minutes(20)).await;
    must_be_served_by(&world, job, &spare, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_start_whose_answer_is_lost_costs_no_job() {
    let world = World::new();
    let spare = stopped(&world).await;
    world.process().plan(Which::Next("compute.start"), Mishap::LoseAnswer);
    let job = world.queue_job_with(&[WARM]);
    world.settle_down(minutes(20)).await;
    world.must_be_served(job).await;
    assert!(world.machines.get(&spare).state.is_gone() || !world.claims().is_claimed(&spare).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_hand_over_store_leaves_the_spares_to_the_pool() {
    for hot in [false, true] {
        let world = World::new();
        let spare = if hot { running(&world).await } else { stopped(&world).await };
        world.weather.down(Port::HandOver);
        let job = world.queue_job_with(&[WARM]);
        world.until("the attempt fails", minutes(3), async |w| w.reads(job, |job| job.dispatch_seq > 0).await).await;
        world.weather.up(Port::HandOver);
        world.settle_down(minutes(20)).await;
        world.must_be_served(job).await;
        assert_ne!(world.machines.get(&spare).state, MachineState::Pending);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_that_cannot_be_written_takes_the_spare_back_to_its_pool() {
    let world = World::new();
    let spare = stopped(&world).await;
    world.process().plan(Which::Next("hand_over.put"), Mishap::Refuse);
    let job = world.queue_job_with(&[WARM]);
    world.until_state(job, JobState::Requeued, minutes(1)).await;
    must_be_banked(&world, &spare).await;
    world.settle_down(minutes(20)).await;
    must_be_served_by(&world, job, &spare, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_running_spare_that_is_given_back_is_stopped() {
    let world = World::new();
    let spare = running(&world).await;
    world.process().plan(Which::Next("hand_over.put"), Mishap::Refuse);
    let job = world.queue_job_with(&[WARM]);
    world.until_state(job, JobState::Requeued, minutes(1)).await;
    must_be_banked(&world, &spare).await;
    world.settle_down(minutes(20)).await;
    must_be_served_by(&world, job, &spare, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_running_spare_that_may_have_read_its_hand_over_is_left_to_its_runner() {
    let lost = |world: &World| world.process().plan(Which::Next("hand_over.put"), Mishap::LoseAnswer);
    // Where the attempt looks whether the hand-over is there.
    let world = World::new();
    running(&world).await;
    lost(&world);
    world.queue_job_with(&[WARM]);
    world.settle_down(minutes(20)).await;
    let calls = world.process().calls();
    let put = calls.iter().position(|call| *call == "hand_over.put").unwrap();
    let look = put + calls[put..].iter().position(|call| *call == "hand_over.get").unwrap();

    let world = World::new();
    let spare = running(&world).await;
    lost(&world);
    world.process().plan(Which::Nth(look), Mishap::LoseAnswer);
    let job = world.queue_job_with(&[WARM]);
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
    assert_ne!(world.job(job).await.instance, Some(spare.clone()), "nobody knew whether it had its hand-over");
    assert_eq!(
        world.machines.get(&spare).state,
        MachineState::Terminated,
        "never stopped: a job might have been on it"
    );
    world.must_be_consistent().await;
}

#[tokio::test(start_paused = true)]
async fn a_spare_that_cannot_be_stopped_is_nobodys_until_its_claim_ends() {
    let world = World::new();
    let spare = running(&world).await;
    world.machines.change(|nature| nature.stops_fail = 3);
    world.process().plan(Which::Next("hand_over.put"), Mishap::Refuse);
    let job = world.queue_job_with(&[WARM]);
    world.until_state(job, JobState::Requeued, minutes(1)).await;
    assert!(world.claims().is_claimed(&spare).await.unwrap());
    assert!(world.metrics.render().contains("pool_rollback_failed_total 1"));
    let other = world.queue_job_with(&[WARM]);
    world.until_state(other, JobState::Settled(Settled::Success), minutes(2)).await;
    assert!(!world.job(other).await.warm_pool_hit, "nobody else may have it");
    world.until_state(job, JobState::Settled(Settled::Success), minutes(10)).await;
    world.must_be_consistent().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_gives_its_spare_back_before_the_hand_over() {
    let mut world = World::empty();
    world.github_takes = seconds(5);
    world.boot();
    let spare = stopped(&world).await;
    let job = world.queue_job_with(&[WARM]);
    world.until_state(job, JobState::Launched, minutes(1)).await;
    world.github.cancel(world.run_of(job));
    world.until_state(job, JobState::Settled(Settled::Cancelled), minutes(1)).await;
    world.until("it is over", minutes(20), async |w| w.messages().await == 0).await;
    world.pass(minutes(20)).await;
    world.must_be_consistent().await;
    let machine = world.machines.get(&spare);
    assert!(matches!(machine.state, MachineState::Stopped | MachineState::Terminated), "{machine:?}");
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn a_job_robbed_of_its_spare_s_runner_swaps_with_the_thief() {
    let world = World::of_thieves();
    let spares = [stopped(&world).await, stopped(&world).await];
    let jobs = [world.queue_job_with(&[WARM]), world.queue_job_with(&[WARM])];
    world.settle_down(minutes(30)).await;
    for job in jobs {
        world.must_be_served(job).await;
        assert_eq!(world.job(job).await.displaced_count, 0);
    }
    assert!(world.github.counters().stolen > 0, "there was theft");
    world.must_have_launched(2);
    for spare in &spares {
        assert_eq!(world.machines.get(spare).state, MachineState::Terminated);
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_robbed_by_a_stranger_gets_the_next_spare() {
    let world = World::of_thieves();
    let (first, second) = (stopped(&world).await, stopped(&world).await);
    let job = world.queue_job_with(&[WARM, "linux"]);
    world.until_state(job, JobState::Launched, minutes(1)).await;
    world.queue_job_with(&["linux"]);
    world.until("it was robbed", minutes(1), async |w| w.reads(job, |job| job.displaced_count == 1).await).await;
    world.settle_down(minutes(30)).await;
    must_be_served_by(&world, job, &second, false).await;
    assert_eq!(world.machines.get(&first).state, MachineState::Terminated);
    world.must_have_launched(2);
}

#[tokio::test(start_paused = true)]
async fn a_spare_that_never_becomes_a_runner_ends_and_its_job_gets_another() {
    let world = World::new();
    let (first, second) = (stopped(&world).await, stopped(&world).await);
    world.machines.change(|nature| nature.never_connects = true);
    let job = world.queue_job_with(&[WARM]);
    world.until("it is given up", minutes(10), async |w| w.reads(job, |job| job.retry_count == 1).await).await;
    world.machines.change(|nature| nature.never_connects = false);
    world.settle_down(minutes(30)).await;
    must_be_served_by(&world, job, &second, false).await;
    assert_eq!(world.machines.get(&first).state, MachineState::Terminated, "its disk is not used again");
}

#[tokio::test(start_paused = true)]
async fn news_of_a_spare_s_stop_that_comes_late_does_not_take_it_from_its_job() {
    let world = World::new();
    let spare = stopped(&world).await;
    let at = world.clock.now();
    world.pass(seconds(5)).await;
    world.machines.change(|nature| nature.boot_takes = seconds(60));
    let job = world.queue_job_with(&[WARM]);
    world.until("it is prepared", minutes(1), async |w| w.reads(job, |job| job.prepared_at.is_some()).await).await;
    let news = json!({
        "id": "late", "detail-type": "EC2 Instance State-change Notification", "source": "aws.ec2",
        "account": "123456789012", "time": at.to_string(),
        "detail": {"instance-id": spare.as_str(), "state": "stopped"},
    });
    world.events.send(queue::Message { body: news.to_string(), ..queue::Message::default() }).await.unwrap();
    world.pass(seconds(30)).await;
    assert_eq!(world.state(job).await, Some(JobState::Launched));
    world.settle_down(minutes(20)).await;
    must_be_served_by(&world, job, &spare, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_left_on_a_stopped_spare_is_overwritten() {
    let world = World::new();
    let (first, second) = (stopped(&world).await, stopped(&world).await);
    let before = world.queue_job_with(&[WARM]);
    world.until("it is prepared", minutes(1), async |w| w.reads(before, |job| job.prepared_at.is_some()).await).await;
    let left = world.documents.read(&first).expect("it has its hand-over");
    world.settle_down(minutes(20)).await;
    world.documents.leave(&second, left.clone());
    let job = world.queue_job_with(&[WARM]);
    world.until("it is prepared", minutes(1), async |w| w.reads(job, |job| job.prepared_at.is_some()).await).await;
    assert_eq!(world.documents.read(&second).unwrap().job_id, job.to_string());
    world.settle_down(minutes(20)).await;
    must_be_served_by(&world, job, &second, false).await;
}

#[tokio::test(start_paused = true)]
async fn the_tags_of_an_assignment_decide_nothing() {
    let world = World::new();
    let spare = stopped(&world).await;
    world.process().plan(Which::Next("compute.tag"), Mishap::Refuse);
    let job = world.queue_job_with(&[WARM]);
    world.settle_down(minutes(20)).await;
    must_be_served_by(&world, job, &spare, false).await;
    assert!(!world.machines.get(&spare).tags.contains_key(tags::ASSIGNED));
}

#[tokio::test(start_paused = true)]
async fn a_pool_is_made_by_its_first_job_and_not_by_old_news_of_it() {
    let world = World::new();
    let ci: PoolName = "ci".parse().unwrap();
    let job = world.queue_job_with(&[WARM]);
    world.until("it is over", minutes(5), async |w| w.job_is_over(job).await).await;
    let made = world.pools().get(&ci).await.unwrap();
    assert!(made.is_some_and(|pool| pool.ephemeral), "the label made it");
    // Nobody used it, so it was removed. The webhook of long ago comes once more.
    assert!(world.table().delete(&POOLS, &"ci".into(), Cond::Always).await.unwrap().is_applied());
    let again = world.github.with(|model, _| {
        let queued = model.deliveries(None).find(|delivery| delivery.webhook.action.as_deref() == Some("queued"));
        queued.map(|delivery| delivery.id).map(|id| model.redeliver(id))
    });
    assert_eq!(again, Some(Ok(())));
    world.pass(minutes(1)).await;
    assert!(world.github.with(|model, _| model.deliveries(None).any(|delivery| delivery.webhook.redelivery)));
    assert!(world.pools().get(&ci).await.unwrap().is_none());
}
