//! What holds of every pool, whatever goes wrong on the way.

use MachineState::{Pending, Running, Stopped, Stopping};
use domain::testing::at;
use proptest::prelude::*;
use provider::{MachineState, tags};

use super::*;
use crate::testing::{NOW, machine, now, tagged};

/// A machine and what is known of it besides.
#[derive(Debug, Clone)]
struct Known {
    machine: Machine,
    busy: bool,
    taken: bool,
    probed: Probed,
    idle_since: Option<Timestamp>,
}

prop_compose! {
    fn known(index: usize)(
        state in prop::sample::select(vec![Pending, Running, Running, Running, Stopping, Stopped, Stopped]),
        ago in prop::sample::select(vec![10, 179, 180, 2000, 6599, 6600, 9000]),
        idle in prop::option::of(prop::sample::select(vec![0, 89, 90, 599, 600, 5000])),
        (spot, assigned) in (prop::bool::weighted(0.15), prop::bool::weighted(0.1)),
        (busy, taken) in (prop::bool::weighted(0.15), prop::bool::weighted(0.1)),
        probed in prop::sample::select(vec![Probed::Free, Probed::Free, Probed::Free, Probed::Handed, Probed::Unknown]),
    ) -> Known {
        // Spot capacity is never stopped.
        let spot = spot && matches!(state, Pending | Running);
        let machine = Machine { spot, ..machine(&format!("i-{index:02}"), state, ago) };
        let machine = if assigned { tagged(machine, tags::ASSIGNED, "true") } else { machine };
        Known { machine, busy, taken, probed, idle_since: idle.map(|idle| at(NOW - idle)) }
    }
}

fn world(most: usize) -> impl Strategy<Value = Vec<Known>> {
    (0..=most).prop_flat_map(|count| (0..count).map(known).collect::<Vec<_>>())
}

fn snapshot(world: &[Known], running: u32, stopped: u32, scope: Scope) -> Snapshot {
    let keys = |which: fn(&Known) -> bool| {
        world.iter().filter(|known| which(known)).map(|known| known.machine.key.clone()).collect()
    };
    Snapshot {
        now: now(),
        scope,
        target: Target { running, stopped, lingering: false },
        idle_timeout: Duration::from_secs(600),
        times: Times::PRODUCTION,
        machines: world.iter().map(|known| known.machine.clone()).collect(),
        busy: keys(|known| known.busy),
        taken: keys(|known| known.taken),
        requested: BTreeSet::new(),
        idle_since: world.iter().filter_map(|k| Some((k.machine.key.clone(), k.idle_since?))).collect(),
    }
}

/// Runs a pass in which actions turn out as `fates` say, one after the other.
fn run(plan: &Plan, world: &[Known], fates: &[Acted]) -> (Vec<Step>, Progress) {
    let (mut done, mut steps, mut fates) = (Progress::default(), Vec::new(), fates.iter().copied().cycle());
    let mut fate = || fates.next().unwrap_or(Acted::Done);
    while let Some(step) = plan.next(&done) {
        match &step {
            Step::Probe(key) => {
                let known = world.iter().find(|known| known.machine.key == *key).unwrap();
                assert!(done.probed.insert(key.clone(), known.probed).is_none(), "{key} is probed twice");
            }
            Step::Start(keys, _) => {
                assert!(keys.iter().all(|key| !done.started.contains_key(key)), "started twice");
                done.started.extend(keys.iter().map(|key| (key.clone(), fate())));
            }
            Step::Create(count, Reason::StoppedReplenish) => {
                assert!(done.for_stopped.replace(*count).is_none() && *count > 0);
            }
            Step::Create(count, _) => assert!(done.for_running.replace(*count).is_none() && *count > 0),
            Step::Stop(cuts) | Step::Terminate(cuts) => {
                assert!(!cuts.is_empty() && cuts.iter().all(|(key, _)| !done.cut.contains_key(key)), "cut twice");
                done.cut.extend(cuts.iter().map(|(key, _)| (key.clone(), fate())));
            }
        }
        steps.push(step);
        assert!(steps.len() < 1000, "a pass ends");
    }
    (steps, done)
}

fn fates() -> impl Strategy<Value = Vec<Acted>> {
    prop::collection::vec(prop::sample::select(vec![Acted::Done, Acted::Done, Acted::Refused, Acted::Failed]), 1..8)
}

/// The world as it is once a pass in which everything worked is over, at the same moment.
fn after(world: &[Known], plan: &Plan, steps: &[Step]) -> Vec<Known> {
    let idle = plan.idle_since();
    let mut world: Vec<_> = world
        .iter()
        .map(|known| Known { idle_since: idle.get(&known.machine.key).copied(), ..known.clone() })
        .collect();
    let mut made = 0;
    for step in steps {
        let mut become_ = |key: &RunnerKey, state| {
            for known in world.iter_mut().filter(|known| known.machine.key == *key) {
                known.machine.state = state;
                if state == Pending {
                    // It is cleared of what it was given before, in fact and in its tags.
                    known.machine.launched_at = now();
                    known.machine.tags.remove(tags::ASSIGNED);
                    known.probed = Probed::Free;
                }
            }
        };
        match step {
            Step::Probe(_) => {}
            Step::Start(keys, _) => keys.iter().for_each(|key| become_(key, Pending)),
            Step::Stop(cuts) => cuts.iter().for_each(|(key, _)| become_(key, Stopping)),
            Step::Terminate(cuts) => cuts.iter().for_each(|(key, _)| become_(key, MachineState::Terminated)),
            Step::Create(count, _) => {
                for _ in 0..*count {
                    made += 1;
                    let machine = machine(&format!("new-{made}"), Pending, 0);
                    world.push(Known { machine, busy: false, taken: false, probed: Probed::Free, idle_since: None });
                }
            }
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// I1, I2, I3, I5, whatever fails on the way.
    #[test]
    fn nothing_in_use_is_taken_away(
        world in world(40), running in 0_u32..30, stopped in 0_u32..30, fates in fates(),
    ) {
        let plan = Plan::new(snapshot(&world, running, stopped, Scope::Full));
        let (steps, done) = run(&plan, &world, &fates);
        for key in done.cut.keys() {
            let known = world.iter().find(|known| known.machine.key == *key).unwrap();
            prop_assert!(!known.busy && !known.taken, "{known:?}");
            let running = known.machine.state == Running;
            prop_assert!(running || known.machine.state == Stopped, "{known:?}");
            let free = done.probed.get(key) == Some(&Probed::Free) && known.probed == Probed::Free;
            let unused = free && !known.machine.is_assigned();
            prop_assert!(!running || unused, "{known:?}");
            let ago = since(now(), known.machine.launched_at).as_secs();
            let idle = known.idle_since.map_or(0, |at| since(now(), at).as_secs());
            prop_assert!(!running || (ago >= 180 && idle >= 90), "{known:?}");
            prop_assert!(!done.started.contains_key(key), "{known:?}");
        }
        let mut ended = BTreeSet::new();
        for step in &steps {
            if let Step::Stop(cuts) = step {
                let spot = |key: &RunnerKey| world.iter().any(|k| k.machine.key == *key && k.machine.spot);
                prop_assert!(cuts.iter().all(|(key, _)| !spot(key)));
            }
            if let Step::Stop(cuts) | Step::Terminate(cuts) = step {
                prop_assert!(cuts.iter().all(|(key, _)| ended.insert(key.clone())), "a failed stop is no end");
            }
        }
        prop_assert!(done.for_running.unwrap_or(0) + done.for_stopped.unwrap_or(0) <= MAX_CREATES);
    }

    /// I3: where no hand-over can be read, no running machine goes.
    #[test]
    fn what_is_unknown_stays(world in world(40), running in 0_u32..30, stopped in 0_u32..30) {
        let blind: Vec<_> = world.into_iter().map(|known| Known { probed: Probed::Unknown, ..known }).collect();
        let plan = Plan::new(snapshot(&blind, running, stopped, Scope::Full));
        let (_, done) = run(&plan, &blind, &[Acted::Done]);
        let stopped = |key: &RunnerKey| blind.iter().any(|k| k.machine.key == *key && k.machine.state == Stopped);
        prop_assert!(done.cut.keys().all(stopped));
    }

    /// I4: in the world a pass made, at the same moment, there is nothing more to do. (What is done by and by on
    /// purpose, and what the limits put off, is left out.)
    #[test]
    fn a_second_pass_has_nothing_to_do(world in world(12), running in 0_u32..8, stopped in 0_u32..8) {
        let young = |known: &Known| since(now(), known.machine.launched_at) < Times::PRODUCTION.standby;
        let world: Vec<_> = world.into_iter().filter(young).collect();
        let plan = Plan::new(snapshot(&world, running, stopped, Scope::Full));
        let (steps, _) = run(&plan, &world, &[Acted::Done]);
        let next = after(&world, &plan, &steps);
        let (again, _) = run(&Plan::new(snapshot(&next, running, stopped, Scope::Full)), &next, &[Acted::Done]);
        let acts: Vec<_> = again.iter().filter(|step| !matches!(step, Step::Probe(_))).collect();
        prop_assert!(acts.is_empty(), "first {steps:?}, then {acts:?}");
    }

    /// A pass for demand adds, and adds no more than a full one.
    #[test]
    fn demand_takes_nothing_away(
        world in world(40), running in 0_u32..30, stopped in 0_u32..30, fates in fates(),
    ) {
        let (_, grown) = run(&Plan::new(snapshot(&world, running, stopped, Scope::Growth)), &world, &fates);
        prop_assert!(grown.cut.is_empty() && grown.probed.is_empty());
        let (_, full) = run(&Plan::new(snapshot(&world, running, stopped, Scope::Full)), &world, &fates);
        prop_assert_eq!((&grown.started, grown.for_running), (&full.started, full.for_running));
    }
}
