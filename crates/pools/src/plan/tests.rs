//! The table of cases: what a pass does with a pool.

use MachineState::{Pending, Running, Stopped, Stopping};
use domain::testing::at;
use provider::{MachineState, tags};

use super::*;
use crate::testing::{NOW, machine, now, tagged};

/// A pool seen at [`NOW`], whose idle machines have been idle for ten minutes unless the case says otherwise.
fn seen(running: u32, stopped: u32, machines: Vec<Machine>) -> Snapshot {
    Snapshot {
        now: now(),
        scope: Scope::Full,
        target: Target { running, stopped, lingering: false },
        idle_timeout: Duration::from_secs(60),
        times: Times::PRODUCTION,
        idle_since: machines.iter().map(|machine| (machine.key.clone(), at(NOW - 600))).collect(),
        machines,
        busy: BTreeSet::new(),
        taken: BTreeSet::new(),
        requested: BTreeSet::new(),
    }
}

/// So many alike, the first of them the oldest.
fn some(name: &str, count: usize, state: MachineState) -> Vec<Machine> {
    (0..count).map(|n| machine(&format!("{name}{n:02}"), state, 3000 - n as i64)).collect()
}

fn keys(names: &[&str]) -> BTreeSet<RunnerKey> {
    names.iter().map(|name| RunnerKey::from(*name)).collect()
}

/// The steps of a pass, in words; `handed` are the machines for which a hand-over waits.
fn steps(snapshot: Snapshot, handed: &[&str]) -> Vec<String> {
    words(&Plan::new(snapshot), handed)
}

/// Every step, as if each of them worked.
fn rehearse(plan: &Plan, handed: &[&str]) -> Vec<Step> {
    let (mut done, mut steps) = (Progress::default(), Vec::new());
    while let Some(step) = plan.next(&done) {
        if let Step::Probe(key) = &step {
            let probed = if handed.contains(&key.as_str()) { Probed::Handed } else { Probed::Free };
            done.probed.insert(key.clone(), probed);
        }
        done.suppose(&step);
        steps.push(step);
    }
    steps
}

fn words(plan: &Plan, handed: &[&str]) -> Vec<String> {
    let steps = rehearse(plan, handed);
    let cuts = |word: &str, cuts: Vec<Cut>| {
        let cuts: Vec<_> = cuts.iter().map(|(key, reason)| format!("{key} {}", reason.as_str())).collect();
        format!("{word} {}", cuts.join(", "))
    };
    let said = steps.into_iter().filter_map(|step| match step {
        Step::Probe(_) => None,
        Step::Start(keys, reason) => {
            let keys: Vec<_> = keys.iter().map(RunnerKey::as_str).collect();
            Some(format!("start {} {}", keys.join(" "), reason.as_str()))
        }
        Step::Create(count, reason) => Some(format!("create {count} {}", reason.as_str())),
        Step::Stop(list) => Some(cuts("stop", list)),
        Step::Terminate(list) => Some(cuts("end", list)),
    });
    said.collect()
}

/// The same without the names: how many of what.
fn tally(snapshot: Snapshot, handed: &[&str]) -> (usize, usize, usize, usize) {
    let mut tally = (0, 0, 0, 0);
    for step in rehearse(&Plan::new(snapshot), handed) {
        match step {
            Step::Probe(_) => {}
            Step::Start(keys, _) => tally.0 += keys.len(),
            Step::Create(count, _) => tally.1 += count,
            Step::Stop(list) => tally.2 += list.len(),
            Step::Terminate(list) => tally.3 += list.len(),
        }
    }
    tally
}

fn nothing() -> Vec<String> {
    Vec::new()
}

#[test]
fn running_spares_are_made_up_for() {
    let ready = |count| some("r", count, Running);
    assert_eq!(steps(seen(3, 0, ready(1)), &[]), ["create 2 ready_deficit"]);
    let both_busy = Snapshot { busy: keys(&["r00", "r01"]), ..seen(2, 0, ready(2)) };
    assert_eq!(steps(both_busy, &[]), ["create 2 ready_deficit"]);
    let dead: Vec<_> = (0..10).map(|n| format!("dead{n}")).collect();
    let busy = dead.iter().map(String::as_str).chain(["r00"]).collect::<Vec<_>>();
    assert_eq!(steps(Snapshot { busy: keys(&busy), ..seen(1, 0, ready(2)) }, &[]), nothing());
    let stopped = [ready(1), some("s", 1, Stopped)].concat();
    assert_eq!(steps(seen(2, 1, stopped), &[]), ["start s00 ready_deficit", "create 1 stopped_replenish"]);
    let pending = [ready(1), some("p", 1, Pending)].concat();
    assert_eq!(steps(seen(2, 0, pending), &[]), nothing());
    let lingering = Target { running: 1, stopped: 0, lingering: true };
    assert_eq!(steps(Snapshot { target: lingering, ..seen(0, 0, vec![]) }, &[]), ["create 1 linger"]);
}

#[test]
fn stopped_spares_are_made_up_for() {
    assert_eq!(steps(seen(0, 2, vec![]), &[]), ["create 2 stopped_replenish"]);
    let fresh = || vec![machine("fresh", Running, 60)];
    assert_eq!(steps(seen(0, 1, fresh()), &[]), nothing(), "it will be stopped");
    let both = [vec![machine("aged", Running, 3000)], fresh()].concat();
    assert_eq!(steps(seen(0, 2, both), &[]), ["stop aged excess_ready"]);
    let stopped = || some("s", 5, Stopped);
    assert_eq!(tally(seen(0, 15, [some("r", 8, Running), stopped()].concat()), &[]), (0, 2, 8, 0));
    assert_eq!(tally(seen(0, 15, [some("r", 20, Running), stopped()].concat()), &[]), (0, 0, 10, 10));
    let on_the_way = [some("g", 1, Stopping), some("p", 1, Pending)].concat();
    assert_eq!(steps(seen(0, 2, on_the_way), &[]), nothing());
    let claimed = Snapshot { taken: keys(&["s00"]), ..seen(0, 1, some("s", 1, Stopped)) };
    assert_eq!(steps(claimed, &[]), ["create 1 stopped_replenish"], "it is somebody else's");
    assert_eq!(steps(seen(1, 2, some("r", 1, Running)), &[]), ["create 2 stopped_replenish"], "a mixed pool, too");
}

#[test]
fn too_many_are_taken_away_the_oldest_first() {
    let both = vec![machine("ready", Running, 3000), Machine { spot: true, ..machine("spot", Running, 3000) }];
    assert_eq!(steps(seen(0, 1, both), &[]), ["stop ready excess_ready", "end spot overflow_idle"]);
    let stopped = [some("r", 1, Running), some("s", 3, Stopped)].concat();
    assert_eq!(steps(seen(1, 1, stopped), &[]), ["end s00 over_desired_stopped, s01 over_desired_stopped"]);
    let handed = seen(1, 0, some("r", 3, Running));
    assert_eq!(steps(handed.clone(), &["r00"]), ["end r01 excess_idle"], "the first was no spare");
    assert_eq!(steps(handed.clone(), &["r00", "r01", "r02"]), nothing(), "nobody can be asked: all stay");
    assert_eq!(tally(handed, &[]), (0, 0, 0, 2));
}

#[test]
fn a_spare_waits_until_it_may_go() {
    let idle = |minutes: i64| {
        let mut seen = seen(0, 0, some("r", 1, Running));
        seen.idle_timeout = Duration::from_secs(600);
        seen.idle_since = seen.idle_since.keys().map(|key| (key.clone(), at(NOW - minutes * 60))).collect();
        seen
    };
    assert_eq!(steps(idle(5), &[]), nothing(), "its idle timeout is ten minutes");
    assert_eq!(steps(idle(10), &[]), ["end r00 excess_idle"]);
    let new_leader = Snapshot { idle_since: BTreeMap::new(), ..seen(0, 1, some("r", 1, Running)) };
    assert_eq!(steps(new_leader.clone(), &[]), nothing());
    let plan = Plan::new(new_leader);
    assert_eq!(plan.idle_since(), BTreeMap::from([("r00".into(), now())]), "the clock starts with the first look");
    assert_eq!(plan.kept(&plan.members()[0]), Some("it has not been seen idle for long enough"));
    let booting = seen(0, 1, vec![machine("r", Running, 179)]);
    assert_eq!(steps(booting, &[]), nothing());
    assert_eq!(steps(seen(0, 1, vec![machine("r", Running, 180)]), &[]), ["stop r excess_ready"]);
}

#[test]
fn an_old_spare_is_replaced_before_its_agent_gives_up() {
    let old = || machine("old", Running, 110 * 60);
    assert_eq!(steps(seen(1, 0, vec![old()]), &[]), ["create 1 ready_deficit", "end old standby_expired"]);
    let with_reserve = vec![old(), machine("s", Stopped, 100)];
    let expected = ["start s ready_deficit", "stop old standby_expired"];
    assert_eq!(steps(seen(1, 2, with_reserve.clone()), &[])[..2], expected);
    assert_eq!(steps(seen(1, 1, with_reserve), &[])[1], "end old standby_expired", "the reserve was full");
    // Not all at once.
    let mut many: Vec<_> = (0..6).map(|n| machine(&format!("old{n}"), Running, 7000 - n)).collect();
    assert_eq!(tally(seen(0, 0, many.clone()), &[]).3, 1);
    many.extend(some("r", 3, Running));
    assert_eq!(tally(seen(3, 0, many), &[]).3, 2);
}

#[test]
fn who_is_a_spare() {
    let one = |machine: Machine| Plan::new(seen(0, 0, vec![machine])).members()[0].class;
    let running = || machine("i", Running, 3000);
    for (name, value) in
        [(tags::ASSIGNED, "true"), (tags::JOB_ID, "7"), (tags::LAUNCH_ID, "l"), (tags::INTERRUPTED, "true")]
    {
        assert_eq!(one(tagged(running(), name, value)), Some(Class::Assigned), "{name}");
        assert_eq!(one(tagged(machine("i", Pending, 9), name, value)), None, "{name}");
    }
    assert_eq!(one(tagged(running(), tags::ASSIGNED, "")), Some(Class::Ready));
    assert_eq!(one(Machine { spot: true, ..running() }), Some(Class::Overflow));
    assert_eq!(one(Machine { spot: true, ..machine("i", Pending, 9) }), None);
    assert_eq!(one(Machine { spot: true, ..machine("i", Stopping, 9) }), None);
    assert_eq!(one(machine("i", Running, 6599)), Some(Class::Ready));
    assert_eq!(one(machine("i", Running, 6600)), Some(Class::Expired));
    assert_eq!(one(machine("i", MachineState::ShuttingDown, 9)), None);
    let with = |state, busy: bool, taken: bool| {
        let of = |yes: bool| if yes { keys(&["i"]) } else { BTreeSet::new() };
        let seen = Snapshot { busy: of(busy), taken: of(taken), ..seen(0, 0, vec![machine("i", state, 3000)]) };
        Plan::new(seen).members()[0].class
    };
    assert_eq!((with(Running, true, true), with(Running, false, true)), (Some(Class::Busy), Some(Class::Claimed)));
    assert_eq!((with(Pending, true, false), with(Pending, false, true)), (None, None));
    assert_eq!(
        (with(Stopped, true, false), with(Stopped, false, true)),
        (Some(Class::Reserved), Some(Class::Reserved))
    );
    assert_eq!(with(Stopping, true, true), Some(Class::Stopping));
    // One that hosts an agent which will never read another hand-over does not satisfy the target, and stays.
    let assigned = tagged(running(), tags::ASSIGNED, "true");
    assert_eq!(steps(seen(1, 0, vec![assigned]), &[]), ["create 1 ready_deficit"]);
}

#[test]
fn what_was_asked_for_a_moment_ago_counts_although_it_is_not_listed() {
    let asked = |running, stopped| Snapshot {
        requested: keys(&["new", "r00"]),
        ..seen(running, stopped, some("r", 1, Running))
    };
    assert_eq!(steps(asked(2, 0), &[]), nothing());
    assert_eq!(steps(asked(1, 1), &[]), nothing());
    assert_eq!(steps(asked(3, 0), &[]), ["create 1 ready_deficit"]);
}

#[test]
fn only_so_many_are_made() {
    assert_eq!(steps(seen(15, 15, vec![]), &[]), ["create 15 ready_deficit", "create 5 stopped_replenish"]);
    assert_eq!(steps(seen(30, 15, vec![]), &[]), ["create 20 ready_deficit"]);
    let braked = |allowance| words(&Plan::new(seen(2, 2, some("s", 1, Stopped))).allowing(allowance), &[]);
    assert_eq!(braked(0), ["start s00 ready_deficit"]);
    assert_eq!(braked(1), ["start s00 ready_deficit", "create 1 ready_deficit"]);
    assert_eq!(tally(seen(60, 0, some("s", 70, Stopped)), &[]), (50, 10, 0, 20));
}

#[test]
fn the_smallest_stopped_spare_is_started_first() {
    let of = |key: &str, instance_type: &str| Machine {
        instance_type: instance_type.to_owned(),
        ..machine(key, Stopped, 3000)
    };
    let stopped = vec![of("big", "c8g.4xlarge"), of("odd", "x9.huge"), of("small", "c8g.large")];
    assert_eq!(steps(seen(2, 1, stopped), &[]), ["start odd small ready_deficit"]);
}

#[test]
fn a_start_somebody_was_in_the_way_of_is_made_up_for() {
    let plan = Plan::new(seen(2, 0, some("s", 3, Stopped)));
    let mut done = Progress::default();
    let first: Vec<RunnerKey> = vec!["s00".into(), "s01".into()];
    assert_eq!(plan.next(&done), Some(Step::Start(first, Reason::ReadyDeficit)));
    done.started.extend([("s00".into(), Acted::Refused), ("s01".into(), Acted::Failed)]);
    assert_eq!(plan.next(&done), Some(Step::Start(vec!["s02".into()], Reason::ReadyDeficit)), "one for one");
    done.started.insert("s02".into(), Acted::Done);
    assert_eq!(
        plan.next(&done),
        Some(Step::Create(1, Reason::ReadyDeficit)),
        "a failed start is made up for by a new one"
    );
    done.for_running = Some(1);
    assert_eq!(plan.next(&done), None, "what was tried to be started is not ended in the same pass");
}

#[test]
fn a_stop_that_failed_is_not_an_end_and_does_not_count() {
    let plan = Plan::new(seen(0, 2, some("r", 2, Running)));
    let mut done = Progress::default();
    done.probed.extend([("r00".into(), Probed::Free), ("r01".into(), Probed::Free)]);
    assert!(matches!(plan.next(&done), Some(Step::Stop(list)) if list.len() == 2));
    done.cut.extend([("r00".into(), Acted::Failed), ("r01".into(), Acted::Done)]);
    assert_eq!(plan.next(&done), Some(Step::Create(1, Reason::StoppedReplenish)));
}

/// Where hand-overs cannot be read nothing goes; and nothing is made instead, or a pool would grow for as long.
#[test]
fn what_nobody_can_say_changes_nothing() {
    for (running, stopped) in [(0, 3), (1, 2), (3, 0), (0, 0)] {
        let plan = Plan::new(seen(running, stopped, some("r", 3, Running)));
        let mut done = Progress::default();
        while let Some(step) = plan.next(&done) {
            let Step::Probe(key) = step else { panic!("{running}/{stopped}: {step:?}") };
            done.probed.insert(key, Probed::Unknown);
        }
    }
}

#[test]
fn demand_only_adds() {
    let machines = [some("r", 3, Running), some("s", 3, Stopped)].concat();
    assert_eq!(steps(Snapshot { scope: Scope::Growth, ..seen(0, 1, machines.clone()) }, &[]), nothing());
    let growth = Snapshot { scope: Scope::Growth, ..seen(5, 2, machines) };
    assert_eq!(steps(growth, &[]), ["start s00 s01 ready_deficit", "create 1 stopped_replenish"]);
}
