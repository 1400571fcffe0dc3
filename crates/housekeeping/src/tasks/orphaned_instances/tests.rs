use std::collections::BTreeMap;
use std::time::Duration;

use domain::clock::Timestamp;
use domain::runner::RunnerState;
use domain::testing::at;
use provider::{MachineState, tags};

use super::*;
use crate::context::Settings;
use crate::evidence::{Config, Evidence};

const NOW: i64 = 1_000_000;

fn settings(stopped_hours: Option<u64>) -> Settings {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    Settings {
        divisor: 1,
        owner: "test".to_owned(),
        max_runtime: minutes(360),
        unclaimed_grace: minutes(30),
        completed_grace: minutes(15),
        stopped_grace: stopped_hours.map(|hours| minutes(60 * hours)),
        hot_pools: None,
        hard_delete: false,
    }
}

fn minutes_ago(minutes: i64) -> Timestamp {
    at(NOW - 60 * minutes)
}

fn machine(state: MachineState, minutes: i64, tags: &[(&str, &str)]) -> Machine {
    Machine {
        key: "i-0123456789abcdef0".into(),
        state,
        instance_type: "c8g.large".to_owned(),
        zone: None,
        spot: false,
        arch: None,
        image: None,
        launched_at: minutes_ago(minutes),
        ended_at: None,
        launch_id: None,
        tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>(),
    }
}

/// Nobody has it.
fn nobody() -> Evidence {
    Evidence {
        active_job: Some(false),
        completion: Some(None),
        claimed: Some(false),
        config: Some(Config::Absent),
        runner: Some(None),
    }
}

fn done(minutes: i64) -> Evidence {
    Evidence { completion: Some(Some(minutes_ago(minutes))), ..nobody() }
}

/// What becomes of it, and why: the first reason that holds, else whether anything was unknown.
fn judged(
    machine: &Machine,
    which: Which,
    pools: Option<&[&str]>,
    evidence: Option<&Evidence>,
    settings: &Settings,
) -> Result<Reason, Verdict> {
    let limits = Limits::of(settings);
    let pools: Option<BTreeSet<String>> = pools.map(|pools| pools.iter().map(|&p| p.to_owned()).collect());
    let mut answer = Verdict::Keep;
    for reason in suspicion(machine, which, pools.as_ref(), at(NOW), &limits) {
        match verdict(reason, machine, evidence, at(NOW), &limits) {
            Verdict::Act => return Ok(reason),
            Verdict::Unknown => answer = Verdict::Unknown,
            Verdict::Keep => {}
        }
    }
    Err(answer)
}

#[test]
fn a_machine_ends_for_a_reason_and_stays_for_another() {
    use MachineState::{Pending, Running, ShuttingDown, Stopped, Stopping};
    use Verdict::{Keep, Unknown};
    let pool = [(tags::POOL, "cpu")];
    let assigned = [(tags::POOL, "cpu"), (tags::ASSIGNED, "true")];
    let with = |change: &dyn Fn(&mut Evidence)| {
        let mut evidence = nobody();
        change(&mut evidence);
        evidence
    };
    let busy = with(&|e| e.runner = Some(Some(RunnerState::Busy)));
    let pools: Option<&[&str]> = Some(&["cpu"]);
    let other: Option<&[&str]> = Some(&["gpu"]);
    let judge = |what: &str, m: Machine, which, pools, evidence: &Evidence, expected: Result<Reason, Verdict>| {
        assert_eq!(judged(&m, which, pools, Some(evidence), &settings(None)), expected, "{what}");
    };
    let ours = Which::Ours;

    // The hard limit: whatever else is known.
    judge("371 minutes", machine(Running, 371, &[]), ours, pools, &busy, Ok(Reason::Age));
    judge("370 minutes", machine(Running, 370, &[]), ours, pools, &busy, Err(Keep));
    judge("a spare, 371 minutes", machine(Pending, 371, &pool), ours, pools, &busy, Ok(Reason::Age));
    judge("stopped, 371 minutes", machine(Stopped, 371, &pool), ours, pools, &nobody(), Err(Keep));
    judge("ending, 371 minutes", machine(ShuttingDown, 371, &[]), ours, pools, &nobody(), Err(Keep));
    judge("unmarked, 371 minutes", machine(Stopped, 371, &[]), Which::Unmarked, pools, &nobody(), Ok(Reason::Profile));
    judge("unmarked, 370 minutes", machine(Running, 370, &[]), Which::Unmarked, pools, &nobody(), Err(Keep));

    // Nobody has it.
    let up = || machine(Running, 45, &[]);
    judge("45 minutes", up(), ours, pools, &nobody(), Ok(Reason::Unclaimed));
    judge("30 minutes", machine(Running, 30, &[]), ours, pools, &nobody(), Err(Keep));
    judge("a job has it", up(), ours, pools, &with(&|e| e.active_job = Some(true)), Err(Keep));
    judge("nobody knows its jobs", up(), ours, pools, &with(&|e| e.active_job = None), Err(Unknown));
    judge("claimed", up(), ours, pools, &with(&|e| e.claimed = Some(true)), Err(Keep));
    judge("perhaps claimed", up(), ours, pools, &with(&|e| e.claimed = None), Err(Unknown));
    let written = |minutes| with(&move |e: &mut Evidence| e.config = Some(Config::Written(minutes_ago(minutes))));
    judge("assigned a moment ago", up(), ours, pools, &written(29), Err(Keep));
    judge("assigned long ago", up(), ours, pools, &written(31), Ok(Reason::Unclaimed));
    judge("assigned, but when", up(), ours, pools, &with(&|e| e.config = Some(Config::Undated)), Err(Unknown));
    judge("nobody knows its hand-over", up(), ours, pools, &with(&|e| e.config = None), Err(Unknown));
    judge("its runner works for somebody", up(), ours, pools, &busy, Err(Keep));
    let retiring = with(&|e| e.runner = Some(Some(RunnerState::Retiring)));
    judge("its runner may work", up(), ours, pools, &retiring, Err(Keep));
    let online = with(&|e| e.runner = Some(Some(RunnerState::Online)));
    judge("its runner idles", up(), ours, pools, &online, Ok(Reason::Unclaimed));
    judge("a spare", machine(Running, 45, &pool), ours, pools, &nobody(), Err(Keep));
    judge(
        "a spare that was given away",
        machine(Running, 45, &assigned),
        ours,
        pools,
        &nobody(),
        Ok(Reason::Unclaimed),
    );
    judge(
        "one that protects beats one unknown",
        up(),
        ours,
        pools,
        &with(&|e| {
            e.claimed = None;
            e.active_job = Some(true);
        }),
        Err(Keep),
    );

    // Its job is over.
    let young = || machine(Running, 25, &[]);
    judge("done 20 minutes ago", young(), ours, pools, &done(20), Ok(Reason::Completed));
    judge("done 15 minutes ago", young(), ours, pools, &done(15), Err(Keep));
    judge("done before its restart", machine(Running, 2, &pool), ours, pools, &done(40), Err(Keep));
    judge("a spare, done 20 minutes ago", machine(Running, 25, &pool), ours, pools, &done(20), Ok(Reason::Completed));
    judge("a spare without a job", machine(Running, 45, &pool), ours, pools, &nobody(), Err(Keep));
    let again = Evidence { config: Some(Config::Written(minutes_ago(3))), ..done(20) };
    judge("done, and assigned again", young(), ours, pools, &again, Err(Keep));
    judge("done, and claimed", young(), ours, pools, &Evidence { claimed: Some(true), ..done(20) }, Err(Keep));
    judge("nobody knows when", young(), ours, pools, &Evidence { completion: None, ..nobody() }, Err(Unknown));
    judge("done, stopped", machine(Stopped, 25, &pool), ours, pools, &done(20), Err(Keep));

    // Its pool does not exist.
    for state in [Pending, Running, Stopping, Stopped] {
        judge("without its pool", machine(state, 120, &pool), ours, other, &nobody(), Ok(Reason::Unowned));
        judge("for half an hour", machine(state, 30, &pool), ours, other, &nobody(), Err(Keep));
        judge("with its pool", machine(state, 120, &pool), ours, pools, &nobody(), Err(Keep));
        judge("nobody knows the pools", machine(state, 120, &pool), ours, None, &nobody(), Err(Keep));
        judge("assigned", machine(state, 120, &pool), ours, other, &written(200), Err(Keep));
        judge(
            "a job has it",
            machine(state, 120, &pool),
            ours,
            other,
            &with(&|e| e.active_job = Some(true)),
            Err(Keep),
        );
    }
}

#[test]
fn a_stopped_machine_without_a_pool_goes_only_where_operators_say_so() {
    let stopped = |hours: i64| machine(MachineState::Stopped, 60 * hours, &[]);
    let judge = |m: &Machine, grace| judged(m, Which::Ours, Some(&[]), None, &settings(grace));
    assert_eq!(judge(&stopped(72), None), Err(Verdict::Keep));
    assert_eq!(judge(&stopped(72), Some(24)), Ok(Reason::Stopped));
    assert_eq!(judge(&stopped(24), Some(24)), Err(Verdict::Keep));
    let spare = machine(MachineState::Stopped, 60 * 72, &[(tags::POOL, "cpu")]);
    assert_eq!(judged(&spare, Which::Ours, Some(&["cpu"]), None, &settings(Some(24))), Err(Verdict::Keep));
}
