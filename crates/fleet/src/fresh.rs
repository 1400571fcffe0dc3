//! Machines that this process launched a moment ago, which EC2 may not show yet.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use domain::ids::{LaunchId, RunnerKey};
use provider::compute::Machine;
use tokio::time::Instant;

/// How long a machine is remembered.
pub(crate) const KEPT: Duration = Duration::from_secs(600);
/// How many are remembered at most, the latest ones: a machine is asked after mostly within seconds of its launch.
const LIMIT: usize = 10_000;

struct Entry {
    machine: Machine,
    at: Instant,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Fresh {
    machines: BTreeMap<RunnerKey, Entry>,
    /// By the launch's name; a spare does not bear it.
    launches: BTreeMap<LaunchId, Vec<RunnerKey>>,
    /// Everything above in the order in which it is forgotten.
    ages: VecDeque<(Instant, LaunchId)>,
}

impl Fresh {
    /// Remembers what a launch brought.
    pub(crate) fn remember(&mut self, launch: &LaunchId, machines: impl IntoIterator<Item = Machine>) {
        let at = Instant::now();
        let mut keys = Vec::new();
        for machine in machines {
            keys.push(machine.key.clone());
            self.machines.insert(machine.key.clone(), Entry { machine, at });
        }
        if !keys.is_empty() {
            self.ages.push_back((at, launch.clone()));
            self.launches.entry(launch.clone()).or_default().extend(keys);
        }
        self.forget_old(at);
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, _)) = self.ages.front()
            && (now.duration_since(*at) >= KEPT || self.machines.len() > LIMIT)
            && let Some((at, launch)) = self.ages.pop_front()
        {
            let mut keys = self.launches.remove(&launch).unwrap_or_default();
            // Of a launch that was answered twice the later half stays.
            keys.retain(|key| match self.machines.get(key) {
                Some(entry) if entry.at > at => true,
                _ => {
                    self.machines.remove(key);
                    false
                }
            });
            if !keys.is_empty() {
                self.launches.insert(launch, keys);
            }
        }
    }

    /// Somebody has changed the machine since: what was launched says nothing about it any more.
    pub(crate) fn remove(&mut self, key: &RunnerKey) {
        self.machines.remove(key);
    }

    /// A machine launched within so long.
    pub(crate) fn within(&self, key: &RunnerKey, window: Duration) -> Option<Machine> {
        self.machines.get(key).filter(|entry| entry.at.elapsed() < window).map(|entry| entry.machine.clone())
    }

    /// What a launch brought, by key.
    pub(crate) fn of(&self, launch: &LaunchId) -> Vec<Machine> {
        let mut keys: Vec<&RunnerKey> = self.launches.get(launch).into_iter().flatten().collect();
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter().filter_map(|key| Some(self.machines.get(key)?.machine.clone())).collect()
    }

    /// Every machine launched within so long.
    pub(crate) fn since(&self, window: Duration) -> impl Iterator<Item = &Machine> {
        let recent = self.ages.iter().rev().take_while(move |(at, _)| at.elapsed() < window);
        let keys = recent.filter_map(|(_, launch)| self.launches.get(launch)).flatten();
        let entries = keys.filter_map(|key| self.machines.get(key));
        entries.filter(move |entry| entry.at.elapsed() < window).map(|entry| &entry.machine)
    }
}

#[cfg(test)]
mod tests {
    use domain::testing::at;
    use provider::compute::MachineState;

    use super::*;

    fn machine(key: &str) -> Machine {
        Machine {
            key: RunnerKey::new(key),
            state: MachineState::Pending,
            instance_type: "c7g.large".to_owned(),
            zone: None,
            spot: true,
            arch: None,
            image: None,
            launched_at: at(0),
            ended_at: None,
            launch_id: None,
            tags: BTreeMap::new(),
        }
    }

    fn keys(machines: impl IntoIterator<Item = Machine>) -> Vec<String> {
        machines.into_iter().map(|machine| machine.key.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn machines_are_found_by_launch_by_key_and_by_age_until_they_are_old() {
        let (first, second) = (LaunchId::new("l1"), LaunchId::new("l2"));
        let mut fresh = Fresh::default();
        fresh.remember(&first, [machine("b"), machine("a")]);
        tokio::time::advance(Duration::from_secs(100)).await;
        fresh.remember(&second, [machine("c")]);
        assert_eq!(keys(fresh.of(&first)), ["a", "b"]);
        assert_eq!(keys(fresh.since(Duration::from_secs(60)).cloned()), ["c"]);
        assert_eq!(fresh.since(Duration::from_secs(200)).count(), 3);
        assert!(fresh.within(&RunnerKey::new("a"), Duration::from_secs(60)).is_none());
        assert!(fresh.within(&RunnerKey::new("a"), KEPT).is_some());

        fresh.remove(&RunnerKey::new("a"));
        assert_eq!(keys(fresh.of(&first)), ["b"]);

        tokio::time::advance(KEPT - Duration::from_secs(100)).await;
        fresh.remember(&second, [machine("c"), machine("d")]);
        assert!(fresh.of(&first).is_empty());
        tokio::time::advance(Duration::from_secs(100)).await;
        fresh.remember(&LaunchId::new("l3"), []);
        assert_eq!(keys(fresh.of(&second)), ["c", "d"], "what was launched again is as old as its last launch");
        tokio::time::advance(KEPT).await;
        fresh.remember(&LaunchId::new("l3"), []);
        assert!(fresh.machines.is_empty() && fresh.launches.is_empty() && fresh.ages.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_machines_are_remembered_however_many_there_are() {
        let mut fresh = Fresh::default();
        for number in 0..=LIMIT {
            fresh.remember(&LaunchId::new(format!("l{number}")), [machine(&format!("m{number}"))]);
        }
        let known = |number: usize| fresh.within(&RunnerKey::new(format!("m{number}")), KEPT).is_some();
        assert!(known(LIMIT) && known(1) && !known(0));
    }
}
