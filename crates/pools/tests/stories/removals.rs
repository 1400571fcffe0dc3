//! The removal of pools.

use db::claims::Holder;
use domain::job::JobState;
use futures::FutureExt;
use pools::{Removal, Removed};
use provider::MachineState::{Running, Stopped};

use crate::support::{Weather, World, cpu, job, seconds};

/// An ephemeral pool, unused for five hours, with a running and a stopped machine.
async fn unused() -> std::sync::Arc<World> {
    let world = World::new();
    world.replica("a").ensure(&cpu(), &domain::testing::message(1)).await.expect("fair");
    tokio::time::sleep(seconds(5 * 3600)).await;
    world.add("r", Running, 5000);
    world.add("s", Stopped, 5000);
    world
}

async fn remove(world: &std::sync::Arc<World>) -> Removed {
    let leadership = world.leadership();
    world.replica("a").remove(&cpu(), Removal::Unused(&leadership)).await.expect("an answer")
}

#[tokio::test(start_paused = true)]
async fn an_unused_pool_goes_with_its_machines() {
    let world = unused().await;
    assert_eq!(remove(&world).await, Removed::Gone);
    assert_eq!(
        (world.done(), world.pools().get(&cpu()).await.expect("fair")),
        (vec!["end r".into(), "end s".into()], None)
    );
    assert_eq!(remove(&world).await, Removed::NotFound);
}

/// Every sign of use keeps the whole pool.
#[tokio::test(start_paused = true)]
async fn a_pool_in_use_stays() {
    for sign in ["job", "claim", "claimed reserve", "hand-over", "mark", "booting", "unreadable", "recent"] {
        let world = unused().await;
        let warm = world.replica("b");
        match sign {
            "job" => world.bind(1, "elsewhere", JobState::Running).await,
            "claim" | "claimed reserve" => {
                let key = if sign == "claim" { "r" } else { "s" };
                let claim = world.claims().claim(&key.into(), Holder::Job(job(1)), seconds(300)).await;
                assert!(claim.expect("allowed").is_applied());
            }
            "hand-over" => world.hand_over("r"),
            "mark" => {
                let mark = [("runs-fleet:job-id".to_owned(), "1".to_owned())];
                warm.ports().compute.tag(&"r".into(), &mark).await.expect("fair");
            }
            "booting" => world.add("r", Running, 100),
            "unreadable" => world.omen(|call| if call == "secrets.get" { Weather::Refused } else { Weather::Fair }),
            _ => {
                warm.ensure(&cpu(), &domain::testing::message(2)).await.expect("fair");
            }
        }
        let leadership = world.leadership();
        let removed = warm.remove(&cpu(), Removal::Unused(&leadership)).await;
        assert!(matches!(removed, Ok(Removed::Kept(_)) | Err(_)), "{sign}: {removed:?}");
        assert_eq!(world.done(), Vec::<String>::new(), "{sign}");
        assert_eq!(world.pool().await.deleting_at, None, "{sign}");
        world.omen(|_| Weather::Fair);
        assert_eq!(world.pass(&warm).await, pools::Passed::Done, "{sign}: the lock was given back");
    }
}

/// A job that comes while the machines go keeps the pool: it is the next job's, too.
#[tokio::test(start_paused = true)]
async fn a_job_that_comes_meanwhile_keeps_the_pool() {
    let world = unused().await;
    let other = std::sync::Arc::clone(&world);
    world.omen(move |call| {
        if call == "cloud.terminate" {
            // Lost: it came in this second already.
            other.pools().touch(&cpu()).now_or_never().expect("at once").expect("allowed").applied();
        }
        Weather::Fair
    });
    assert!(matches!(remove(&world).await, Removed::Kept(_)));
    let pool = world.pool().await;
    assert_eq!((pool.deleting_at, pool.ephemeral), (None, true));
}

/// A removal that died half-way is finished by the next one; passes leave the pool alone meanwhile.
#[tokio::test(start_paused = true)]
async fn a_removal_that_died_is_finished() {
    for call in 1.. {
        let world = unused().await;
        if world.until_call(call, remove(&world)).await {
            assert!(call > 10, "it makes more calls than that");
            break;
        }
        tokio::time::sleep(seconds(130)).await;
        if world.pools().get(&cpu()).await.expect("fair").is_some_and(|pool| pool.deleting_at.is_some()) {
            assert_eq!(world.pass(&world.replica("b")).await, pools::Passed::Skipped);
        }
        let removed = remove(&world).await;
        assert!(matches!(removed, Removed::Gone | Removed::NotFound), "call {call}: {removed:?}");
        assert!(world.states().is_empty(), "call {call}");
    }
}

/// An operator's pool goes when it is asked for and has no targets.
#[tokio::test(start_paused = true)]
async fn an_operators_pool_goes_only_when_asked_for() {
    let world = World::with_pool(0, 1).await;
    world.add("s", Stopped, 5000);
    assert!(matches!(remove(&world).await, Removed::Kept(_)));
    let warm = world.replica("a");
    let asked = async || warm.remove(&cpu(), Removal::Asked).await.expect("an answer");
    assert_eq!(asked().await, Removed::Kept("its targets are not 0".to_owned()));
    assert!(world.pools().save(&cpu(), &db::pools::PoolConfig::default()).await.expect("allowed").is_applied());
    assert_eq!(asked().await, Removed::Gone);
    assert_eq!(world.done(), ["end s"]);
}
