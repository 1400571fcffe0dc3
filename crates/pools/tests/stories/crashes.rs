//! A replica dies before any of its calls, or gets no answer to it: nothing in use is touched, and the next passes put
//! the pool right.

use domain::job::JobState;
use provider::MachineState::{Running, Stopped};

use crate::support::{Weather, World, cpu, seconds};

/// A pool in which a pass starts, makes, stops and ends machines. It has watched them already.
async fn world(warm_owner: &str) -> (std::sync::Arc<World>, std::sync::Arc<pools::WarmPools>) {
    let world = World::with_pool(0, 2).await;
    for number in 0..3 {
        world.add(&format!("r{number}"), Running, 3000 - number);
    }
    world.add("busy", Running, 4500);
    world.bind(1, "busy", JobState::Running).await;
    world.add("handed", Running, 4000);
    world.hand_over("handed");
    for number in 0..2 {
        world.add(&format!("s{number}"), Stopped, 5000 - number);
    }
    let warm = world.replica(warm_owner);
    let quiet = config(4, 2);
    assert!(world.pools().save(&cpu(), &quiet).await.expect("allowed").is_applied());
    world.minutes(&warm, 2).await;
    assert_eq!(world.done(), Vec::<String>::new());
    (world, warm)
}

fn config(running: u32, stopped: u32) -> db::pools::PoolConfig {
    db::pools::PoolConfig {
        desired_running: running,
        desired_stopped: stopped,
        idle_timeout_minutes: 1,
        instance_type: "c8g.large".to_owned(),
        ..db::pools::PoolConfig::default()
    }
}

/// Which target makes a pass do what.
const TARGETS: [(u32, u32); 4] = [(6, 3), (1, 4), (0, 0), (0, 1)];

async fn is_right(world: &World, running: usize, stopped: usize, what: &str) {
    assert_eq!(world.state("busy"), Some(Running), "{what}");
    assert_eq!(world.state("handed"), Some(Running), "{what}");
    let states = world.states();
    let spares = (states.get("running").copied().unwrap_or(0) - 2, states.get("stopped").copied().unwrap_or(0));
    // The one with the hand-over may pass for a spare as long as there is none too many.
    let enough = spares.0 <= running && running <= spares.0 + 1;
    assert!(enough && spares.1 == stopped, "{what}: {states:?}");
    assert!(states.keys().all(|state| ["running", "stopped"].contains(state)), "{what}: {states:?}");
    assert_eq!(world.pool().await.last_reconcile_result.as_deref(), Some("success"), "{what}");
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_dies_anywhere_is_made_up_for() {
    for (running, stopped) in TARGETS {
        for call in 1.. {
            let (world, warm) = world("a").await;
            assert!(world.pools().save(&cpu(), &config(running, stopped)).await.expect("allowed").is_applied());
            let over = world.until_call(call, world.pass(&warm)).await;
            let next = world.replica("b");
            tokio::time::sleep(seconds(130)).await;
            world.settle();
            world.minutes(&next, 20).await;
            is_right(&world, running as usize, stopped as usize, &format!("{running}/{stopped}, call {call}")).await;
            if over {
                assert!(call > 6, "it makes more calls than that");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_lost_anywhere_is_made_up_for() {
    for (running, stopped) in TARGETS {
        for lost in 1..40 {
            for happened in [false, true] {
                let (world, warm) = world("a").await;
                assert!(world.pools().save(&cpu(), &config(running, stopped)).await.expect("allowed").is_applied());
                let mut calls = 0;
                world.omen(move |_| {
                    calls += 1;
                    match (calls == lost, happened) {
                        (false, _) => Weather::Fair,
                        (true, false) => Weather::Refused,
                        (true, true) => Weather::Lost,
                    }
                });
                world.minutes(&warm, 25).await;
                let what = format!("{running}/{stopped}, call {lost}, happened: {happened}");
                is_right(&world, running as usize, stopped as usize, &what).await;
            }
        }
    }
}
