//! What the cloud announces: warnings, and ends of machines.

use std::time::Duration;

use domain::gh::Conclusion;
use domain::ids::{JobId, RunnerKey};
use domain::job::{JobState, RerunState, Settled};
use queue::Message;
use serde_json::json;

use crate::support::faults::Port;
use crate::support::github::{Fate, LABEL};
use crate::support::world::World;
use crate::support::{minutes, seconds};

async fn announce(world: &World, id: &str, kind: &str, detail: serde_json::Value) {
    let body = json!({
        "id": id, "detail-type": kind, "source": "aws.ec2", "account": "123456789012",
        "resources": ["arn:aws:ec2:xx-east-1b:instance/i"], "detail": detail,
    });
    send(world, &body.to_string()).await;
}

async fn send(world: &World, body: &str) {
    world.events.send(Message { body: body.to_owned(), ..Message::default() }).await.unwrap();
}

async fn warn(world: &World, key: &RunnerKey) {
    let detail = json!({"instance-id": key.as_str(), "instance-action": "terminate"});
    announce(world, "warning", "EC2 Spot Instance Interruption Warning", detail).await;
}

async fn ended(world: &World, key: &RunnerKey) {
    let detail = json!({"instance-id": key.as_str(), "state": "terminated"});
    announce(world, &format!("end of {key}"), "EC2 Instance State-change Notification", detail).await;
}

async fn handled(world: &World) {
    world
        .until("the events are handled", minutes(1), async |w| {
            let depth = w.events.depth().await.unwrap();
            depth.visible.unwrap() + depth.in_flight.unwrap() == 0
        })
        .await;
}

async fn machine_of(world: &World, job: JobId) -> RunnerKey {
    world.job(job).await.instance.expect("it is bound")
}

/// A world whose machines take long to boot, and a job that waits on one.
/// An idle runner of the usual class, left by a cancelled job; that job, and the machine.
async fn idle_runner(world: &World) -> (JobId, RunnerKey) {
    let job = world.queue_job();
    world.until_state(job, JobState::Launched, minutes(1)).await;
    let key = machine_of(world, job).await;
    world.github.cancel(world.run_of(job));
    world.pass(seconds(30)).await;
    (job, key)
}

async fn until_re_run(world: &World, job: JobId, within: Duration) {
    let asked = async |w: &World| w.reads(job, |job| job.rerun == Some(RerunState::Done)).await;
    world.until("the re-run is asked for", within, asked).await;
}

async fn launched() -> (World, JobId, RunnerKey) {
    let world = World::new();
    world.machines.change(|nature| nature.boot_takes = minutes(2));
    let job = world.queue_job();
    world.until("it is prepared", minutes(1), async |w| w.reads(job, |job| job.prepared_at.is_some()).await).await;
    let key = machine_of(&world, job).await;
    (world, job, key)
}

#[tokio::test(start_paused = true)]
async fn a_warning_before_the_job_began_brings_exactly_one_on_demand_machine() {
    for github_is_down in [false, true] {
        let (world, job, key) = launched().await;
        if github_is_down {
            world.weather.down(Port::GitHub);
        }
        // Twice, and under another id, as from another replica.
        warn(&world, &key).await;
        handled(&world).await;
        let record = world.job(job).await;
        assert_eq!(record.retry_count, 1, "{}", world.describe().await);
        assert!(record.force_on_demand);
        assert!(world.documents.read(&key).is_none(), "the doomed machine finds no hand-over");
        warn(&world, &key).await;
        announce(
            &world,
            "again",
            "EC2 Spot Instance Interruption Warning",
            json!({"instance-id": key.as_str(), "instance-action": "hibernate"}),
        )
        .await;
        handled(&world).await;
        world.weather.up(Port::GitHub);
        world.pass(minutes(1)).await;
        world.machines.vanish(&key);
        ended(&world, &key).await;
        world.settle_down(minutes(60)).await;
        world.must_be_served(job).await;
        // A GitHub that is down mints no runner either, and a machine without one is ended.
        if !github_is_down {
            world.must_have_launched(2);
        }
        let orders: Vec<bool> = world.machines.orders().iter().map(|order| order.spot).collect();
        assert!(orders[0] && orders[1..].iter().all(|spot| !spot), "{orders:?}");
        assert_eq!(world.job(job).await.retry_count, 1);
        let reclaimed = world.machines.reclaimed.lock().unwrap().clone();
        assert!(reclaimed.iter().all(|(machine, _)| machine.key == key) && !reclaimed.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_warning_while_the_job_runs_leads_to_one_re_run_on_demand() {
    let world = World::new();
    let job = world.queue_long_job(minutes(20));
    world.until("it runs", minutes(2), async |w| w.is_executing(job).await).await;
    let key = machine_of(&world, job).await;
    warn(&world, &key).await;
    handled(&world).await;
    assert_eq!(world.state(job).await, Some(JobState::Terminating), "{}", world.describe().await);
    assert_eq!(world.machines.orders().len(), 1, "nothing is launched for a job that GitHub still runs");
    world.pass(minutes(2)).await;
    world.machines.vanish(&key);
    ended(&world, &key).await;
    until_re_run(&world, job, minutes(30)).await;
    assert_eq!(world.state(job).await, Some(JobState::Settled(Settled::Interrupted)));
    world.settle_down(minutes(90)).await;
    let again: Vec<_> = world.all_jobs().await.into_iter().filter(|record| record.id != job).collect();
    assert_eq!(again.len(), 1, "one re-run: {}", world.describe().await);
    assert!(again[0].force_on_demand, "it starts on-demand");
    assert_eq!(again[0].retry_count, 0);
    world.must_be_served(again[0].id).await;
    world.must_have_launched(2);
    assert_eq!(world.machines.orders().iter().map(|order| order.spot).collect::<Vec<_>>(), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_job_nobody_told_us_of_is_re_run_when_its_machine_took_it_along() {
    let world = World::new();
    let (gone, key) = idle_runner(&world).await;
    world.github.fate("queued", Fate::Vanishes);
    world.github.fate("in_progress", Fate::Vanishes);
    let job = world.queue_long_job(minutes(20));
    world.pass(seconds(30)).await;
    assert!(world.state(job).await.is_none(), "{}", world.describe().await);
    world.machines.vanish(&key);
    ended(&world, &key).await;
    // The first we hear of it is that GitHub has given its runner up.
    until_re_run(&world, job, minutes(60)).await;
    world.settle_down(minutes(90)).await;
    let again: Vec<_> = world.all_jobs().await.into_iter().filter(|record| ![job, gone].contains(&record.id)).collect();
    assert_eq!(again.len(), 1, "one re-run: {}", world.describe().await);
    world.must_be_served(again[0].id).await;
}

#[tokio::test(start_paused = true)]
async fn a_red_job_nobody_told_us_of_is_not_re_run_although_its_machine_is_gone() {
    let world = World::new();
    world.machines.change(|nature| nature.final_report_lost = true);
    let (_, key) = idle_runner(&world).await;
    world.github.fate("queued", Fate::Vanishes);
    world.github.fate("in_progress", Fate::Vanishes);
    world.github.fate("completed", Fate::Late(minutes(20)));
    let (_, jobs) = world.github.queue_jobs(&[LABEL], 1, seconds(20), Conclusion::Failure);
    world.until("its machine is gone", minutes(15), async |w| !w.machines.live().contains(&key)).await;
    assert!(world.state(jobs[0]).await.is_none(), "{}", world.describe().await);
    world.until_state(jobs[0], JobState::Settled(Settled::Completed), minutes(60)).await;
    world.pass(minutes(60)).await;
    assert_eq!(world.all_jobs().await.len(), 2, "{}", world.describe().await);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_ends_before_the_machine_does_is_a_success() {
    let world = World::new();
    let job = world.queue_long_job(seconds(60));
    world.until("it runs", minutes(2), async |w| w.is_executing(job).await).await;
    warn(&world, &machine_of(&world, job).await).await;
    handled(&world).await;
    assert_eq!(world.state(job).await, Some(JobState::Terminating));
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn a_warning_that_the_store_does_not_take_comes_back() {
    let (world, job, key) = launched().await;
    world.weather.down(Port::Store);
    warn(&world, &key).await;
    world.pass(seconds(20)).await;
    world.weather.up(Port::Store);
    handled(&world).await;
    assert_eq!(world.job(job).await.retry_count, 1, "{}", world.describe().await);
    world.pass(seconds(30)).await;
    world.machines.vanish(&key);
    world.settle_down(minutes(60)).await;
    world.must_be_served(job).await;
    world.must_have_launched(2);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_machine_brings_a_waiting_job_another_within_seconds() {
    let (world, job, key) = launched().await;
    world.machines.vanish(&key);
    ended(&world, &key).await;
    handled(&world).await;
    let record = world.job(job).await;
    assert_eq!(record.requeue_reason.as_deref(), Some("unconfirmed_runners"), "{}", world.describe().await);
    assert_eq!(record.retry_count, 1);
    world.settle_down(minutes(60)).await;
    world.must_be_served(job).await;
    world.must_have_launched(2);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_machine_decides_nothing_where_github_is_silent_or_the_job_runs() {
    let (world, job, key) = launched().await;
    world.weather.down(Port::GitHub);
    ended(&world, &key).await;
    handled(&world).await;
    assert_eq!(world.state(job).await, Some(JobState::Launched));
    world.weather.up(Port::GitHub);
    world.settle_down(minutes(60)).await;

    let world = World::new();
    let job = world.queue_long_job(minutes(5));
    world.until("it runs", minutes(2), async |w| w.is_executing(job).await).await;
    let key = machine_of(&world, job).await;
    ended(&world, &key).await;
    handled(&world).await;
    assert_eq!(world.state(job).await, Some(JobState::Running));
    world.settle_down(minutes(60)).await;
    world.must_be_served(job).await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn machines_of_others_and_nonsense_change_nothing() {
    let world = World::new();
    let stranger = RunnerKey::new("i-0abc1234def567890");
    warn(&world, &stranger).await;
    ended(&world, &stranger).await;
    for kind in ["EC2 Instance Rebalance Recommendation", "EC2 Something New"] {
        announce(&world, kind, kind, json!({"instance-id": stranger.as_str()})).await;
    }
    send(&world, "{}").await;
    send(&world, "nonsense").await;
    handled(&world).await;
    assert!(world.machines.reclaimed.lock().unwrap().is_empty());
    assert!(world.all_jobs().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_job_message_among_the_events_reaches_its_own_queue() {
    let mut world = World::empty();
    world.boot_without_sweeps();
    world.weather.down(Port::Queue);
    let job = world.queue_job();
    world.pass(seconds(5)).await;
    world.weather.up(Port::Queue);
    world.until_state(job, JobState::Requeued, seconds(5)).await;
    send(&world, &world.job(job).await.next_message().unwrap().encode()).await;
    world.until("it is launched", minutes(1), async |w| w.state(job).await != Some(JobState::Requeued)).await;
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
}

#[tokio::test(start_paused = true)]
async fn a_spot_runner_that_is_stopped_from_outside_is_taken_for_reclaimed() {
    let world = World::new();
    let job = world.queue_long_job(minutes(20));
    world.until("it runs", minutes(2), async |w| w.is_executing(job).await).await;
    let key = machine_of(&world, job).await;
    let mut report = domain::report::AgentReport::new(key.clone(), domain::report::AgentStatus::Interrupted);
    report.job_id = Some(job);
    report.interrupted_by = Some("terminated".to_owned());
    report.duration_seconds = 30;
    let message = Message {
        body: report.encode(),
        group: report.group().to_owned(),
        dedup: report.dedup_id(),
        ..Message::default()
    };
    world.reports.send(message).await.unwrap();
    world.until_state(job, JobState::Terminating, minutes(1)).await;
    world.machines.vanish(&key);
    world.settle_down(minutes(90)).await;
    assert_eq!(world.job(job).await.rerun, Some(RerunState::Done));
}

#[tokio::test(start_paused = true)]
async fn a_late_report_deletes_no_other_assignments_hand_over() {
    let (world, job, key) = launched().await;
    let mut report = domain::report::AgentReport::new(key.clone(), domain::report::AgentStatus::Success);
    report.job_id = JobId::new(1);
    report.dispatch_id = Some(domain::ids::DispatchId::new("an earlier one"));
    let message = Message { body: report.encode(), group: "g".to_owned(), dedup: "d".to_owned(), ..Message::default() };
    world.reports.send(message).await.unwrap();
    world.until("it is taken", minutes(1), async |w| w.reports().await == 0).await;
    assert!(world.documents.read(&key).is_some(), "the hand-over of the job that waits there stays");
    assert_eq!(world.state(job).await, Some(JobState::Launched));
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn only_a_machine_itself_can_report_its_end_where_reports_carry_tokens() {
    let mut world = World::empty();
    world.report_secret = Some("secret");
    world.boot();
    let job = world.queue_long_job(minutes(5));
    world.until("it runs", minutes(2), async |w| w.is_executing(job).await).await;
    let key = machine_of(&world, job).await;
    for token in [None, Some("00"), Some("nonsense")] {
        let mut forged = domain::report::AgentReport::new(key.clone(), domain::report::AgentStatus::Success);
        forged.job_id = Some(job);
        forged.token = token.map(domain::handover::Credential::new);
        let message = Message {
            body: forged.encode(),
            group: "forged".to_owned(),
            dedup: format!("{token:?}"),
            ..Message::default()
        };
        world.reports.send(message).await.unwrap();
    }
    world.until("they are looked at", minutes(1), async |w| w.reports().await == 0).await;
    assert_eq!(world.state(job).await, Some(JobState::Running));
    // The machine's own are believed.
    world.settle_down(minutes(30)).await;
    assert_eq!(world.state(job).await, Some(JobState::Settled(Settled::Success)), "{}", world.describe().await);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_warnings_recovers_every_job_once() {
    let world = World::new();
    let (_, jobs) = world.github.queue_jobs(&[LABEL], 12, minutes(10), Conclusion::Success);
    world
        .until("they run", minutes(5), async |w| {
            let mut all = true;
            for job in &jobs {
                all &= w.is_executing(*job).await;
            }
            all
        })
        .await;
    for key in world.machines.live() {
        let detail = json!({"instance-id": key.as_str(), "instance-action": "terminate"});
        announce(&world, &format!("{key}"), "EC2 Spot Instance Interruption Warning", detail).await;
    }
    handled(&world).await;
    world.pass(minutes(2)).await;
    for key in world.machines.live() {
        world.machines.vanish(&key);
        ended(&world, &key).await;
    }
    world.settle_down(minutes(180)).await;
    world.must_have_launched(24);
}
