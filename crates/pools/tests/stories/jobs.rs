//! What jobs get from a pool.

use db::claims::Holder;
use domain::ids::RunnerKey;
use domain::job::JobState;
use pools::{Ensured, Error, MOST_EPHEMERAL, Spare, WarmPools};
use provider::MachineState::{Running, Stopped, Stopping};
use provider::tags;
use tokio::time::Instant;

use crate::support::{Weather, World, cpu, job, seconds, spec};

async fn reserve(warm: &WarmPools, id: u64, tried: &[RunnerKey]) -> Option<Spare> {
    let deadline = Instant::now() + seconds(60);
    warm.reserve(&cpu(), job(id), &spec(), tried, deadline).await.expect("an answer")
}

fn key(spare: Option<&Spare>) -> Option<&str> {
    spare.map(|spare| spare.machine.key.as_str())
}

#[tokio::test(start_paused = true)]
async fn a_job_gets_a_spare_and_the_pool_another() {
    let world = World::with_pool(1, 1).await;
    world.add("running", Running, 1000);
    world.add("stopped", Stopped, 1000);
    let warm = world.replica("a");
    let first = reserve(&warm, 1, &[]).await.expect("a spare");
    assert_eq!((first.machine.key.as_str(), first.was_running), ("running", true));
    let second = reserve(&warm, 2, &[]).await.expect("a spare");
    assert_eq!((second.machine.key.as_str(), second.was_running), ("stopped", false));
    assert!(reserve(&warm, 3, &[]).await.is_none());
    warm.mark_assigned(&first, Some(&"org/repo".parse().expect("valid"))).await;
    let marks = world.machines.lock().unwrap()[&"running".into()].tags.clone();
    let mark = |name: &str| marks.get(name).map(String::as_str);
    assert_eq!(
        (mark(tags::ASSIGNED), mark(tags::JOB_ID), mark(tags::ROLE)),
        (Some("true"), Some("1"), Some("org/repo"))
    );
    world.bind(1, "running", JobState::Launched).await;
    world.bind(2, "stopped", JobState::Launched).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let story = async {
        warm.settled(first);
        warm.settled(second);
        tokio::time::sleep(seconds(1)).await;
        stop.cancel();
    };
    tokio::join!(warm.run_demand(stop.clone()), story);
    assert_eq!(world.done(), ["create new-02", "create new-03"], "while the jobs run");
    world.minutes(&warm, 20).await;
    assert!(world.done().iter().all(|line| !line.contains("running")), "claimed for a while, then bound");
}

/// Jobs on two replicas never get one machine.
#[tokio::test(start_paused = true)]
async fn a_spare_has_one_job() {
    let world = World::with_pool(0, 10).await;
    for number in 0..10 {
        world.add(&format!("s{number}"), Stopped, 1000);
    }
    let replicas = [world.replica("a"), world.replica("b")];
    let found = futures::future::join_all((0..30).map(|id| {
        let warm = replicas[id as usize % 2].clone();
        async move { reserve(&warm, id + 1, &[]).await }
    }))
    .await;
    let mut keys: Vec<_> = found.iter().filter_map(|spare| key(spare.as_ref())).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!((keys.len(), found.iter().flatten().count()), (10, 10));
}

/// The message came twice: the job may have its own machine again, once the first attempt let go of it.
#[tokio::test(start_paused = true)]
async fn a_repeated_job_gets_its_own_machine() {
    let world = World::with_pool(0, 1).await;
    world.add("s", Stopped, 1000);
    let (here, there) = (world.replica("a"), world.replica("b"));
    let first = reserve(&here, 1, &[]).await;
    assert_eq!(key(first.as_ref()), Some("s"));
    assert!(reserve(&here, 1, &[]).await.is_none(), "it is in hand here");
    assert_eq!(key(reserve(&there, 1, &[]).await.as_ref()), Some("s"));
    assert!(reserve(&there, 2, &[]).await.is_none());
    drop(first);
    assert_eq!(key(reserve(&here, 1, &[]).await.as_ref()), Some("s"));
    assert!(reserve(&here, 1, &["s".into()]).await.is_none(), "it was tried");
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_is_looked_at_again() {
    let world = World::with_pool(1, 1).await;
    world.add("gone", Stopped, 3000);
    world.add("started", Stopped, 2000);
    world.add("still", Stopped, 1000);
    let warm = world.replica("a");
    assert!(
        warm.reserve(
            &cpu(),
            job(9),
            &domain::launch::LaunchSpec { storage_gib: 9, ..spec() },
            &[],
            Instant::now() + seconds(9)
        )
        .await
        .expect("an answer")
        .is_none()
    );
    {
        let mut machines = world.machines.lock().unwrap();
        machines.remove(&"gone".into());
        machines.get_mut(&"started".into()).expect("there").state = Running;
    }
    assert_eq!(key(reserve(&warm, 1, &[]).await.as_ref()), Some("still"));
    for key in ["gone", "started"] {
        assert!(!world.claims().is_claimed(&key.into()).await.expect("an answer"), "{key}");
    }
}

/// A running machine with a hand-over is a job's, whatever its marks say; so may be one whose hand-over is unreadable.
#[tokio::test(start_paused = true)]
async fn a_running_machine_with_a_hand_over_is_no_spare() {
    let world = World::with_pool(2, 0).await;
    world.add("handed", Running, 1000);
    world.hand_over("handed");
    let warm = world.replica("a");
    assert!(reserve(&warm, 1, &[]).await.is_none());
    assert!(world.machines.lock().unwrap()[&"handed".into()].is_assigned(), "so that the pool replaces it");
    assert!(!world.claims().is_claimed(&"handed".into()).await.expect("an answer"));
    world.add("unreadable", Running, 1000);
    world.omen(|call| if call == "secrets.get" { Weather::Refused } else { Weather::Fair });
    tokio::time::sleep(seconds(11)).await;
    assert!(reserve(&warm, 1, &[]).await.is_none());
    assert!(!world.claims().is_claimed(&"unreadable".into()).await.expect("an answer"));
}

/// Running spares are for jobs only where the pool keeps some: elsewhere they are about to be stopped.
#[tokio::test(start_paused = true)]
async fn a_running_machine_of_a_stopped_pool_is_not_taken() {
    let world = World::with_pool(0, 1).await;
    world.add("running", Running, 1000);
    assert!(reserve(&world.replica("a"), 1, &[]).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_no_answer() {
    let world = World::with_pool(0, 1).await;
    world.add("s", Stopped, 1000);
    let warm = world.replica("a");
    let past = warm.reserve(&cpu(), job(1), &spec(), &[], Instant::now()).await;
    assert!(matches!(past, Err(Error::Late)), "not one call for an attempt that is over");
    for call in ["cloud.list", "store.update", "cloud.describe"] {
        world.omen(move |name| if name == call { Weather::Refused } else { Weather::Fair });
        let failed = warm.reserve(&cpu(), job(1), &spec(), &[], Instant::now() + seconds(60)).await;
        assert!(failed.is_err(), "{call}");
        world.omen(|_| Weather::Fair);
        assert_eq!(key(reserve(&warm, 1, &[]).await.as_ref()), Some("s"), "{call}");
        world.claims().release(&"s".into(), Holder::Job(job(1))).await.expect("fair");
    }
    // Who is busy may stay unknown: stopped ones are told apart by their claims.
    tokio::time::sleep(seconds(11)).await;
    world.omen(|name| if name == "store.query pool-status-index" { Weather::Refused } else { Weather::Fair });
    assert_eq!(key(reserve(&warm, 1, &[]).await.as_ref()), Some("s"));
}

/// What could not be given to its job is a spare again, in the right order.
#[tokio::test(start_paused = true)]
async fn a_spare_is_given_back() {
    let world = World::with_pool(1, 1).await;
    world.add("running", Running, 1000);
    world.add("stopped", Stopped, 1000);
    let warm = world.replica("a");
    let hot = reserve(&warm, 1, &[]).await.expect("a spare");
    let cold = reserve(&warm, 2, &[]).await.expect("a spare");
    warm.mark_assigned(&hot, None).await;
    warm.unwind(hot, false).await;
    warm.unwind(cold, false).await;
    assert_eq!(world.done(), ["stop running"], "its agent may have read what was taken back");
    assert!(!world.machines.lock().unwrap()[&"running".into()].is_assigned());
    for key in ["running", "stopped"] {
        assert!(!world.claims().is_claimed(&key.into()).await.expect("an answer"), "{key}");
    }
    assert_eq!(key(reserve(&warm, 3, &[]).await.as_ref()), Some("stopped"));
}

/// A machine that cannot be stopped is kept from other jobs until its claim has run out: the late stop would be theirs.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_stopped_again_stays_claimed() {
    let world = World::with_pool(1, 0).await;
    world.add("running", Running, 1000);
    let warm = world.replica("a");
    let spare = reserve(&warm, 1, &[]).await.expect("a spare");
    world.omen(|call| if call == "cloud.stop" { Weather::Lost } else { Weather::Fair });
    warm.unwind(spare, false).await;
    assert_eq!(world.state("running"), Some(Stopping));
    assert!(world.claims().is_claimed(&"running".into()).await.expect("an answer"));
    let shown = warm.ports().metrics.render();
    assert!(shown.contains("runs_fleet_pool_rollback_failed_total 1"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_label_makes_a_pool_and_keeps_it() {
    let world = World::new();
    let warm = world.replica("a");
    let message = domain::testing::message(1);
    assert_eq!(warm.ensure(&cpu(), &message).await.expect("fair"), Ensured::Made);
    let made = world.pool().await;
    assert!(made.ephemeral && made.last_job_time.is_some());
    assert_eq!((made.config.desired_running, made.config.desired_stopped, made.config.cpu_min), (0, 1, 2));
    tokio::time::sleep(seconds(100)).await;
    assert_eq!(warm.ensure(&cpu(), &message).await.expect("fair"), Ensured::There);
    assert!(world.pool().await.last_job_time > made.last_job_time);
    // An operator's pool is left as it is.
    let other = "other".parse().expect("valid");
    assert!(world.pools().create(&other, &db::pools::PoolConfig::default()).await.expect("allowed").is_applied());
    assert_eq!(warm.ensure(&other, &message).await.expect("fair"), Ensured::There);
    assert_eq!(world.pools().get(&other).await.expect("fair").expect("there").last_job_time, None);
}

/// Labels come from workflows: they cannot make pools without end.
#[tokio::test(start_paused = true)]
async fn there_is_an_end_to_pools_that_labels_make() {
    let world = World::new();
    let warm = world.replica("a");
    let message = domain::testing::message(1);
    for number in 0..MOST_EPHEMERAL {
        let name = format!("p{number}").parse().expect("valid");
        assert_eq!(warm.ensure(&name, &message).await.expect("fair"), Ensured::Made);
    }
    assert_eq!(warm.ensure(&cpu(), &message).await.expect("fair"), Ensured::TooMany);
    assert_eq!(world.pools().get(&cpu()).await.expect("fair"), None);
    assert_eq!(warm.ensure(&"p7".parse().expect("valid"), &message).await.expect("fair"), Ensured::There);
}
