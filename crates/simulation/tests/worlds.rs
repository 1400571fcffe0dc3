//! The orchestrator in simulated worlds: seeds that were drawn long ago, and some that are new every time.
#![cfg(feature = "world")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::clock::{Clock, SystemClock, since};
use simulation::world::journal::Keep;
use simulation::world::mutation::Mutation;
use simulation::world::run::{Options, Outcome, run};
use simulation::world::scenario::{Faults, Work};

const JOBS: u64 = 30;
const KINDS: [&str; 6] = ["none", "network", "crashes", "cloud", "github", "all"];

fn options(seed: u64, faults: Faults) -> Options {
    Options { seed, jobs: JOBS, replicas: 2, faults, keep: Keep::Nothing, work: Work::Hour, mutation: None }
}

fn kind(word: &str) -> Faults {
    word.parse().unwrap()
}

/// What is broken, with the command that shows it.
fn accusations(outcome: &Outcome, seed: u64, faults: &str) -> Option<String> {
    let mut text = String::new();
    for violation in outcome.violations.iter().take(3) {
        let _ = writeln!(text, "{}: {}", violation.invariant, violation.text);
    }
    (!text.is_empty()).then(|| format!("{text}make simulate ARGS=\"--seed {seed} --jobs {JOBS} --faults {faults}\""))
}

#[test]
fn worlds_keep_the_invariants() {
    for faults in KINDS {
        for seed in 1..=3 {
            let outcome = run(&options(seed, kind(faults))).unwrap();
            assert_eq!(accusations(&outcome, seed, faults), None);
            assert_eq!(outcome.summary.jobs, JOBS, "every job was asked for: {faults}, seed {seed}");
        }
    }
}

#[test]
fn worlds_nobody_has_seen_keep_the_invariants() {
    let began = SystemClock.now();
    let first = u64::try_from(began.as_millisecond()).unwrap();
    for seed in first.. {
        if since(SystemClock.now(), began) > Duration::from_secs(30) {
            return;
        }
        let outcome = run(&options(seed, Faults::ALL)).unwrap();
        assert_eq!(accusations(&outcome, seed, "all"), None);
    }
}

#[test]
fn a_seed_tells_one_story() {
    for faults in ["none", "all"] {
        let story = || {
            let outcome = run(&Options { keep: Keep::All, ..options(7, kind(faults)) }).unwrap();
            (outcome.journal.everything(), serde_json::to_string(&outcome.summary).unwrap())
        };
        let (first, second) = (story(), story());
        assert!(first.0.len() > 10_000, "a story has events");
        assert!(first == second, "{faults}: the same seed went another way");
    }
}

#[test]
fn nothing_of_a_world_outlives_it() {
    for faults in ["none", "all"] {
        let outcome = run(&options(3, kind(faults))).unwrap();
        // Whoever can say what happens holds the journal.
        assert_eq!(Arc::strong_count(&outcome.journal), 1, "{faults}");
    }
}

#[test]
fn deliberate_bugs_are_caught() {
    let missed: Vec<&str> =
        Mutation::ALL.iter().filter(|mutation| !is_caught(**mutation)).map(|mutation| mutation.as_str()).collect();
    assert_eq!(missed, [""; 0], "nothing notices these");
    assert!(Mutation::ALL.len() >= 20);
}

/// Whether some invariant notices a bug within the first seeds.
fn is_caught(mutation: Mutation) -> bool {
    const SEEDS: u64 = 150;
    let (next, caught) = (AtomicU64::new(1), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                while caught.load(Ordering::Relaxed) == 0 {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > SEEDS {
                        return;
                    }
                    let world = Options { jobs: 60, mutation: Some(mutation), ..options(seed, mutation.shows_under()) };
                    if !run(&world).unwrap().violations.is_empty() {
                        caught.store(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    println!("{}: seed {}", mutation.as_str(), caught.load(Ordering::Relaxed));
    caught.load(Ordering::Relaxed) > 0
}
