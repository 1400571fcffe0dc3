//! The `simulate` command, as its users run it.
#![cfg(feature = "simulate")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::process::{Command, Output};

fn simulate(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runs-fleet-server"));
    command.arg("simulate").args(arguments.split(' ')).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_summary_is_the_same_every_time() {
    let run = || simulate("--seed 3 --jobs 10 --replicas 2 --faults all --json");
    let (first, second) = (run(), run());
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    assert_eq!(text(&first), text(&second));
    let summary: serde_json::Value = serde_json::from_str(&text(&first)).unwrap();
    let fields = [
        "seed",
        "jobs",
        "completed",
        "rerun",
        "lost",
        "wait_s_p50",
        "wait_s_p95",
        "wait_s_p99",
        "launches",
        "extra_launches",
        "reclaims",
        "stolen",
        "cost_usd",
        "virtual_s",
        "violations",
    ];
    for field in fields {
        assert!(summary[field].is_number(), "{field} in {summary}");
    }
    assert_eq!((&summary["jobs"], &summary["violations"]), (&10.into(), &0.into()));
}

#[test]
fn a_broken_invariant_is_told_with_the_command_that_shows_it_again() {
    let broken = simulate("--seed 1 --jobs 20 --faults none --mutation believe-gone");
    let said = text(&broken);
    assert_eq!(broken.status.code(), Some(1), "{said}");
    let again = said.lines().find_map(|line| line.trim().strip_prefix("again: runs-fleet-server simulate "));
    let again = again.unwrap_or_else(|| panic!("no command in {said}"));
    assert!(said.contains("BROKEN "), "{said}");
    let once_more = simulate(again);
    assert_eq!(once_more.status.code(), Some(1));
    assert!(text(&once_more).contains("BROKEN "), "{}", text(&once_more));
}

#[test]
fn a_job_has_a_story() {
    let said = text(&simulate("--seed 1 --jobs 3 --faults none --journal"));
    let id = said.split(" job ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let story = text(&simulate(&format!("--seed 1 --jobs 3 --faults none --trace {id}")));
    for word in ["queued at GitHub", "webhook queued accepted", "launched", "hand-over stored", "began on", "concluded"]
    {
        assert!(story.contains(word), "{word} in {story}");
    }
}

#[test]
fn mistakes_are_explained() {
    for (arguments, words) in [("--seeds 5..5", "seeds"), ("--faults fire", "network"), ("--mutation typo", "one of")] {
        let refused = simulate(arguments);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{arguments}: {said}");
        assert!(said.contains(words), "{arguments}: {said}");
    }
}
