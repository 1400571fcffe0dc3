//! What passes do to a pool.

use std::sync::Arc;

use db::claims::{Action, Holder};
use db::locks::PoolLock;
use domain::job::JobState;
use futures::FutureExt;
use pools::{Passed, Scope};
use provider::MachineState::{Running, Stopped, Stopping};

use crate::support::{Weather, World, cpu, job, seconds};

/// A stopped spare from nothing: made, booted, left alone for a while, stopped; and then nothing more happens.
#[tokio::test(start_paused = true)]
async fn a_reserve_is_filled_and_stays() {
    let world = World::with_pool(0, 2).await;
    let warm = world.replica("a");
    world.minutes(&warm, 1).await;
    assert_eq!(world.done(), ["create new-00", "create new-01"]);
    world.minutes(&warm, 2).await;
    assert_eq!((world.done(), world.states()), (vec![], [("running", 2)].into()), "they may be booting");
    world.minutes(&warm, 5).await;
    assert_eq!(
        (world.done(), world.states()),
        (vec!["stop new-00".into(), "stop new-01".into()], [("stopped", 2)].into())
    );
    world.minutes(&warm, 200).await;
    assert_eq!(world.done(), Vec::<String>::new());
    let pool = world.pool().await;
    assert_eq!(pool.last_reconcile_result.as_deref(), Some("success"));
    let seen = pool.observed.expect("recorded");
    assert_eq!((seen.running, seen.stopped, seen.effective_running, seen.effective_stopped), (0, 2, Some(0), Some(2)));
    assert!(pool.created.keys.is_empty(), "they have proved themselves");
}

/// A running spare from a stopped one, and a new one in its place.
#[tokio::test(start_paused = true)]
async fn a_stopped_spare_is_started_clean() {
    let world = World::with_pool(1, 1).await;
    world.add("old", Stopped, 5000);
    world.hand_over("old");
    let warm = world.replica("a");
    warm.ports().compute.tag(&"old".into(), &[("runs-fleet:job-id".into(), "7".into())]).await.expect("fair");
    world.minutes(&warm, 1).await;
    assert_eq!(world.done(), ["start old", "create new-01"]);
    assert!(world.documents.lock().unwrap().is_empty(), "its agent would take it for a job");
    assert!(!world.machines.lock().unwrap()[&"old".into()].is_assigned());
    assert!(!world.claims().is_claimed(&"old".into()).await.expect("an answer"));
    world.minutes(&warm, 100).await;
    assert_eq!(world.done(), ["stop new-01"], "whichever of the two has been up for longest");
    assert_eq!(world.states(), [("running", 1), ("stopped", 1)].into());
}

/// A spare is replaced before its agent gives up, and one is there all the time.
#[tokio::test(start_paused = true)]
async fn running_spares_are_renewed() {
    let world = World::with_pool(1, 0).await;
    let warm = world.replica("a");
    for minute in 0..400 {
        world.minutes(&warm, 1).await;
        let states = world.states();
        assert!(minute == 0 || states.get("running") >= Some(&1), "minute {minute}: {states:?}");
        assert!(states.values().sum::<usize>() <= 2, "minute {minute}: {states:?}");
    }
    let log = world.done();
    assert_eq!(log.iter().filter(|line| line.starts_with("create")).count(), 4, "{log:?}");
}

/// Nothing in use is touched, by whatever sign of use.
#[tokio::test(start_paused = true)]
async fn what_is_in_use_is_left_alone() {
    let world = World::with_pool(0, 0).await;
    for key in ["busy", "claimed", "handed", "tagged", "reserve-claimed"] {
        world.add(key, if key == "reserve-claimed" { Stopped } else { Running }, 5000);
    }
    world.bind(1, "busy", JobState::Terminating).await;
    world.hand_over("handed");
    let warm = world.replica("a");
    warm.ports().compute.tag(&"tagged".into(), &[("runs-fleet:assigned".into(), "true".into())]).await.expect("fair");
    for key in ["claimed", "reserve-claimed"] {
        let claimed = world.claims().claim(&key.into(), Holder::Job(job(2)), seconds(100_000)).await;
        assert!(claimed.expect("allowed").is_applied());
    }
    world.minutes(&warm, 60).await;
    assert_eq!(world.done(), Vec::<String>::new());
    assert_eq!(world.pool().await.last_reconcile_result.as_deref(), Some("success"));
}

/// A job that takes a machine between the look and the stop wins.
#[tokio::test(start_paused = true)]
async fn a_job_that_comes_first_keeps_its_machine() {
    let world = World::with_pool(0, 1).await;
    world.add("spare", Running, 5000);
    let warm = world.replica("a");
    world.minutes(&warm, 2).await;
    assert_eq!(world.done(), Vec::<String>::new());
    let other = Arc::clone(&world);
    world.omen(move |call| {
        // The probe is over; now the job comes, and the pass only then asks for the claim.
        if call == "secrets.get" {
            let claims = other.claims();
            let spare = "spare".into();
            let claim = claims.claim(&spare, Holder::Job(job(1)), seconds(300));
            assert!(claim.now_or_never().expect("at once").expect("allowed").is_applied());
        }
        Weather::Fair
    });
    world.pass(&warm).await;
    assert_eq!((world.done(), world.state("spare")), (vec!["create new-01".into()], Some(Running)));
    assert!(world.claims().is_claimed(&"spare".into()).await.expect("an answer"), "the job's claim stays");
}

/// What cannot be read leads to nothing being done, and is recorded.
#[tokio::test(start_paused = true)]
async fn a_pass_that_cannot_see_does_nothing() {
    for blind in ["cloud.list", "store.query pool-status-index", "store.get_many"] {
        let world = World::with_pool(3, 3).await;
        world.add("spare", Running, 5000);
        world.add("reserve", Stopped, 5000);
        let warm = world.replica("a");
        world.omen(move |call| if call == blind { Weather::Refused } else { Weather::Fair });
        assert!(matches!(world.pass(&warm).await, Passed::Failed(_)), "{blind}");
        assert_eq!(world.done(), Vec::<String>::new(), "{blind}");
        let result = world.pool().await.last_reconcile_result.expect("recorded");
        assert!(result.starts_with("failed: ") && result.contains("the weather"), "{blind}: {result}");
        world.omen(|_| Weather::Fair);
        assert_eq!(world.pass(&warm).await, Passed::Done);
        assert!(!world.done().is_empty(), "{blind}: seen again");
    }
}

/// Where hand-overs cannot be read no running machine goes, and only what was missing before is made.
#[tokio::test(start_paused = true)]
async fn an_unreadable_hand_over_may_be_a_jobs() {
    let world = World::with_pool(0, 4).await;
    for key in ["a", "b", "c"] {
        world.add(key, Running, 1000);
    }
    let warm = world.replica("a");
    world.omen(|call| if call == "secrets.get" { Weather::Refused } else { Weather::Fair });
    world.minutes(&warm, 30).await;
    assert_eq!(world.done(), ["create new-03"]);
}

/// Without the number of jobs that ran the target stays what it was.
#[tokio::test(start_paused = true)]
async fn an_unknown_history_makes_no_pool_smaller() {
    let world = World::new();
    let warm = world.replica("a");
    let mut message = domain::testing::message(1);
    message.spec = crate::support::spec();
    warm.ensure(&cpu(), &message).await.expect("fair");
    for number in 0..4 {
        world.bind(10 + number, &format!("elsewhere-{number}"), JobState::Running).await;
    }
    tokio::time::sleep(seconds(1800)).await;
    world.minutes(&warm, 1).await;
    let aimed = async || world.pool().await.observed.and_then(|seen| seen.effective_stopped);
    assert_eq!(aimed().await, Some(4));
    world.omen(|call| if call == "store.query pool-created-at-index" { Weather::Refused } else { Weather::Fair });
    tokio::time::sleep(seconds(2 * 3600)).await;
    assert_eq!((world.pass(&warm).await, aimed().await), (Passed::Done, Some(4)));
    world.omen(|_| Weather::Fair);
    assert_eq!((world.pass(&warm).await, aimed().await), (Passed::Done, Some(1)));
}

/// A pass for demand starts and makes machines, and writes nothing but which.
#[tokio::test(start_paused = true)]
async fn demand_only_adds() {
    let world = World::with_pool(1, 1).await;
    world.add("old", Running, 7000);
    for key in ["s1", "s2", "s3"] {
        world.add(key, Stopped, 5000);
    }
    let warm = world.replica("a");
    assert_eq!(warm.pass(&cpu(), Scope::Demand).await, Passed::Done);
    assert_eq!(world.done(), ["start s1"]);
    let pool = world.pool().await;
    assert_eq!((pool.observed, pool.last_reconcile_at, pool.last_reconcile_result), (None, None, None));
    for key in ["s2", "s3"] {
        world.machines.lock().unwrap().remove(&key.into());
    }
    assert_eq!(warm.pass(&cpu(), Scope::Demand).await, Passed::Done);
    assert_eq!(world.done(), ["create new-02"]);
    assert_eq!(world.pool().await.created.keys, ["new-02".into()]);
}

/// Of two passes one works; the leader waits for its turn, demand does not.
#[tokio::test(start_paused = true)]
async fn one_pass_at_a_time() {
    let world = World::with_pool(2, 0).await;
    let (here, there) = (world.replica("a"), world.replica("b"));
    let PoolLock::Acquired(held, _) =
        here.ports().locks.pool(&cpu(), "somebody", seconds(65)).await.expect("an answer")
    else {
        panic!("nobody has it");
    };
    assert_eq!(there.pass(&cpu(), Scope::Demand).await, Passed::Skipped);
    let release = async {
        tokio::time::sleep(seconds(5)).await;
        here.ports().locks.release_pool(&cpu(), &held).await.expect("ours");
    };
    let (passed, ()) = tokio::join!(world.pass(&there), release);
    assert_eq!((passed, world.done().len()), (Passed::Done, 2));
    let cpu = cpu();
    let both = tokio::join!(here.pass(&cpu, Scope::Demand), there.pass(&cpu, Scope::Demand));
    assert!(matches!(both, (Passed::Done, Passed::Skipped) | (Passed::Skipped, Passed::Done)), "{both:?}");
    assert_eq!(world.done(), Vec::<String>::new(), "two are on their way");
}

/// A stop whose answer is lost keeps jobs away from the machine until the claim has run out, and is no end.
#[tokio::test(start_paused = true)]
async fn a_stop_without_an_answer_is_not_repeated_as_an_end() {
    let world = World::with_pool(0, 1).await;
    world.add("spare", Running, 5000);
    let warm = world.replica("a");
    world.minutes(&warm, 2).await;
    world.omen(|call| if call == "cloud.stop" { Weather::Refused } else { Weather::Fair });
    world.pass(&warm).await;
    assert_eq!(world.done(), ["create new-01"], "it does not count as stopped");
    assert!(world.claims().is_claimed(&"spare".into()).await.expect("an answer"));
    world.omen(|_| Weather::Fair);
    world.minutes(&warm, 30).await;
    assert_eq!(world.states(), [("stopped", 1)].into());
}

/// New machines that die keep being tried, more and more seldom.
#[tokio::test(start_paused = true)]
async fn a_broken_image_is_not_launched_for_ever() {
    let world = World::with_pool(1, 0).await;
    let warm = world.replica("a");
    let dies = |world: &World| {
        for machine in world.machines.lock().unwrap().values_mut().filter(|machine| machine.state == Running) {
            machine.state = provider::MachineState::Terminated;
        }
    };
    for _ in 0..240 {
        world.minutes(&warm, 1).await;
        dies(&world);
    }
    let made = world.done().len();
    assert!((8..=20).contains(&made), "{made} in four hours");
    assert!(world.pool().await.health.retry_at.is_some());
    // The image is mended: the first machine that lives clears it.
    world.minutes(&warm, 60).await;
    assert_eq!((world.pool().await.health, world.states()), (Default::default(), [("running", 1)].into()));
}

/// The leader's loop: a new term has watched nothing, and its numbers go with it.
#[tokio::test(start_paused = true)]
async fn a_new_leader_watches_before_it_takes_away() {
    let world = World::with_pool(0, 1).await;
    world.add("spare", Running, 5000);
    let warm = world.replica("a");
    for term in 0..3 {
        let leadership = world.leadership();
        let lead = warm.run_leader(leadership);
        let ended = tokio::time::timeout(seconds(80), lead).await;
        assert!(ended.is_err(), "it lasts");
        assert_eq!((world.done(), world.state("spare")), (vec![], Some(Running)), "term {term}");
    }
    let leadership = world.leadership();
    let _ = tokio::time::timeout(seconds(200), warm.run_leader(leadership)).await;
    assert_eq!((world.done(), world.state("spare")), (vec!["stop spare".into()], Some(Stopping)));
}

/// Demand is gathered: one pass at once, and one when the gap is over.
#[tokio::test(start_paused = true)]
async fn demand_is_served_soon_but_not_all_the_time() {
    let world = World::with_pool(1, 0).await;
    let warm = world.replica("a");
    let stop = tokio_util::sync::CancellationToken::new();
    let story = async {
        for _ in 0..100 {
            warm.notify_demand(&cpu());
            warm.notify_demand(&"nosuch".parse().expect("valid"));
            tokio::time::sleep(seconds(1) / 100).await;
        }
        assert_eq!(world.done(), ["create new-00"]);
        world.machines.lock().unwrap().clear();
        tokio::time::sleep(seconds(3)).await;
        assert_eq!(world.done(), Vec::<String>::new(), "not yet");
        tokio::time::sleep(seconds(120)).await;
        assert_eq!(world.done(), Vec::<String>::new(), "what was asked for counts for a while, listed or not");
        warm.notify_demand(&cpu());
        tokio::time::sleep(seconds(1)).await;
        assert_eq!(world.done(), ["create new-00"]);
        stop.cancel();
    };
    tokio::join!(warm.run_demand(stop.clone()), story);
    assert_eq!(world.states(), [("pending", 1)].into());
}

/// Two passes over the same claim: a machine another pass or sweep holds is left alone.
#[tokio::test(start_paused = true)]
async fn a_claimed_reserve_is_replaced_not_ended() {
    let world = World::with_pool(0, 1).await;
    world.add("s", Stopped, 5000);
    let action = Holder::Action { action: Action::Retire, owner: "a sweep" };
    assert!(world.claims().claim(&"s".into(), action, seconds(120)).await.expect("allowed").is_applied());
    world.pass(&world.replica("a")).await;
    assert_eq!((world.done(), world.state("s")), (vec!["create new-01".into()], Some(Stopped)));
}
