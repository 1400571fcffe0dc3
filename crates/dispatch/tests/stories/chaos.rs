//! Everything at once, from a seed: thieves, processes that die at any call, calls that fail or lose their answer,
//! webhooks that come twice, late or never, machines that vanish.
//!
//! What is left of every seed: GitHub has concluded every job, every record is settled, every machine has ended, no law
//! was broken on the way, and no job failed but those whose machine the story itself took away.

use std::collections::BTreeSet;

use domain::clock::Rng;
use domain::gh::Conclusion;
use domain::ids::RunnerKey;
use simulation::chance::SeededRng;

use crate::support::faults::{Mishap, Which};
use crate::support::github::{Fate, LABEL};
use crate::support::world::World;
use crate::support::{hours, minutes, seconds};

const JOBS: usize = 6;

/// A number below `n`.
fn below(dice: &SeededRng, n: u64) -> u64 {
    dice.next_u64() % n
}

fn plan_mishaps(world: &World, dice: &SeededRng) {
    // Rather early than late in a life: most calls of a quiet one are idle polls.
    let nth = |spread: u64| usize::try_from(below(dice, spread)).unwrap();
    let mishap = match below(dice, 4) {
        0 => Mishap::DieBefore,
        1 => Mishap::DieAfter,
        2 => Mishap::LoseAnswer,
        _ => Mishap::Refuse,
    };
    world.process().plan(Which::Nth(10 + nth(250)), mishap);
    for _ in 0..below(dice, 4) {
        let mishap = if below(dice, 2) == 0 { Mishap::LoseAnswer } else { Mishap::Refuse };
        world.process().plan(Which::Nth(nth(250)), mishap);
    }
}

fn trouble_webhooks(world: &World, dice: &SeededRng) {
    for action in ["queued", "in_progress", "completed"] {
        let fate = match below(dice, 8) {
            0 => Fate::Twice,
            1 => Fate::Fails,
            2 => Fate::Late(seconds(below(dice, 60))),
            // A repository's first job must be heard of, or nobody looks there.
            3 if action != "queued" => Fate::Vanishes,
            _ => continue,
        };
        world.github.fate(action, fate);
    }
}

async fn survives(seed: u64) {
    let dice = SeededRng::new(!seed);
    let mut world = World::with(seed, 0.4);
    world.machines.change(|nature| nature.runs_from_launch = below(&dice, 2) == 0);
    let mut taken: BTreeSet<RunnerKey> = BTreeSet::new();
    world.boot();
    for _ in 0..4 {
        plan_mishaps(&world, &dice);
        trouble_webhooks(&world, &dice);
        world.github.queue_jobs(&[LABEL], JOBS / 2, seconds(20 + below(&dice, 60)), Conclusion::Success);
        world.pass(seconds(below(&dice, 40))).await;
        let live = world.machines.live();
        if !live.is_empty() && below(&dice, 2) == 0 {
            let key = live[usize::try_from(below(&dice, live.len() as u64)).unwrap()].clone();
            world.machines.vanish(&key);
            taken.insert(key);
        }
        world.pass(seconds(below(&dice, 90))).await;
        if world.process().is_dead() || below(&dice, 3) == 0 {
            world.kill().await;
            world.pass(seconds(below(&dice, 30))).await;
            if below(&dice, 2) == 0 { world.boot() } else { world.boot_alone().await }
        }
    }
    world.kill().await;
    world.boot();
    world.settle_down(hours(4)).await;
    for report in world.github.reports().into_iter().filter(|report| report.conclusion != Some("success")) {
        let name = report.runner_name.clone().unwrap_or_default();
        let ours = taken.iter().any(|key| name.ends_with(key.as_str().trim_start_matches("i-")));
        assert!(ours, "job {} failed on {name}, and nobody took that\n{}", report.id, world.describe().await);
    }
}

#[tokio::test(start_paused = true)]
async fn chaos_loses_no_job() {
    // Others than these: CHAOS_SEEDS=7..90 cargo test …
    let wanted = std::env::var("CHAOS_SEEDS").unwrap_or_else(|_| "0..50".to_owned());
    let (first, end) = wanted.split_once("..").expect("CHAOS_SEEDS is FIRST..END");
    let seeds = first.parse::<u64>().unwrap()..end.parse().unwrap();
    for seed in seeds {
        println!("seed {seed}");
        tokio::time::timeout(minutes(24 * 60), survives(seed)).await.expect("it ends");
    }
}
