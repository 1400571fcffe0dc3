//! Machines and images: spares made from an image that was replaced, builders of images that were left behind, requests
//! that would bring a machine back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::clock::{Timestamp, since};
use domain::ids::RunnerKey;
use domain::launch::Arch;
use provider::compute::{Filter, SpotRequest, Which};
use provider::{Machine, MachineState};
use telemetry::metrics::HousekeepingAction;

use crate::context::{Error, Housekeeping};
use crate::evidence::{Existence, Verdict};
use crate::run::Run;

#[cfg(test)]
mod tests;

/// Machines one run ends.
const MOST: usize = 100;
/// Spot requests cancelled at once.
const REQUESTS: usize = 100;
/// A build of an image does not take so long.
const BUILD: Duration = Duration::from_secs(3600);

/// The spares to replace: stopped members of a pool made from another image than machines of their architecture are made
/// from now, the oldest of each pool. How many more there are.
fn outdated<'a>(machines: &'a [Machine], current: &BTreeMap<Arch, String>) -> (Vec<&'a Machine>, usize) {
    let mut stale: Vec<_> = machines
        .iter()
        .filter(|machine| {
            let reference = machine.arch.and_then(|arch| current.get(&arch));
            machine.state == MachineState::Stopped
                && machine.pool().is_some()
                && machine.image.as_ref().zip(reference).is_some_and(|(image, reference)| image != reference)
        })
        .collect();
    stale.sort_by_key(|machine| (machine.launched_at, &machine.key));
    let all = stale.len();
    let mut pools = BTreeSet::new();
    stale.retain(|machine| pools.insert(machine.pool()));
    let more = all - stale.len();
    (stale, more)
}

/// Whether a machine that builds an image was left behind.
fn is_left_behind(machine: &Machine, now: Timestamp) -> bool {
    !machine.state.is_gone() && since(now, machine.launched_at) > BUILD
}

/// Whether a request for spot capacity is pointless: its machine is certainly gone.
fn is_pointless(request: &SpotRequest, existence: &BTreeMap<RunnerKey, Existence>) -> Verdict {
    match existence.get(&request.machine) {
        Some(Existence::Gone(_)) => Verdict::Act,
        Some(Existence::Alive(_)) => Verdict::Keep,
        Some(Existence::Unknown) | None => Verdict::Unknown,
    }
}

impl Housekeeping {
    /// One spare per pool and run: the pool stays within one of its target while it is replaced.
    pub(super) async fn stale_images(&self, run: &Run<'_>) -> Result<(), Error> {
        let mut current = BTreeMap::new();
        for arch in [Arch::Arm64, Arch::Amd64] {
            // Unknown: nothing is outdated.
            if let Some(image) = self.compute().current_image(arch).await? {
                current.insert(arch, image);
            }
        }
        let machines = self.machines().await?;
        let (stale, more) = outdated(&machines, &current);
        run.deferred(more);
        for machine in stale.into_iter().take(run.budget(MOST)) {
            if !run.goes_on() {
                break;
            }
            match self.stale_image(run, machine).await {
                Ok(Verdict::Act) => {
                    run.acted(Some(HousekeepingAction::StaleAmi), machine.key.as_str(), "its image was replaced");
                }
                Ok(Verdict::Keep) => run.kept(),
                Ok(Verdict::Unknown) => run.unknown(machine.key.as_str()),
                Err(error) => run.failed(machine.key.as_str(), &error),
            }
        }
        Ok(())
    }

    async fn stale_image(&self, run: &Run<'_>, machine: &Machine) -> Result<Verdict, Error> {
        let key = &machine.key;
        let evidence = self.evidence(run, key, |jobs| jobs.active_job == Some(true)).await;
        match (evidence.claimed, evidence.active_job) {
            (Some(true), _) | (_, Some(true)) => return Ok(Verdict::Keep),
            (Some(false), Some(false)) => {}
            _ => return Ok(Verdict::Unknown),
        }
        if run.ask.dry_run {
            return Ok(Verdict::Act);
        }
        let end = async {
            let current = self.compute().describe(key).await?;
            if current.is_none_or(|current| current.state != MachineState::Stopped) {
                return Ok(Verdict::Keep);
            }
            self.end(key).await.map(|()| Verdict::Act)
        };
        Ok(self.claimed(key, end).await?.unwrap_or(Verdict::Keep))
    }

    pub(super) async fn orphaned_builders(&self, run: &Run<'_>) -> Result<(), Error> {
        let builders = self.compute().list(&Filter { which: Which::Builders, ..Filter::default() }).await?;
        let mut left: Vec<_> = builders.iter().filter(|machine| is_left_behind(machine, self.now())).collect();
        left.sort_by_key(|machine| (machine.launched_at, &machine.key));
        let budget = run.budget(MOST);
        run.deferred(left.len().saturating_sub(budget));
        for machine in left.into_iter().take(budget) {
            if !run.goes_on() {
                break;
            }
            let key = &machine.key;
            let ended = async {
                let again = self.compute().describe(key).await?;
                let same = again.is_some_and(|again| is_left_behind(&again, self.now()));
                if same && !run.ask.dry_run {
                    self.compute().terminate(key).await?;
                }
                Ok(same)
            };
            match ended.await {
                Ok(true) => run.acted(Some(HousekeepingAction::OrphanedInstances), key.as_str(), "its build is over"),
                Ok(false) => run.kept(),
                Err(error) => run.failed(key.as_str(), &error),
            }
        }
        Ok(())
    }

    pub(super) async fn orphaned_spot_requests(&self, run: &Run<'_>) -> Result<(), Error> {
        let requests = self.compute().spot_requests().await?;
        let machines: Vec<_> = requests.iter().map(|request| request.machine.clone()).collect();
        let existence = self.existence(&machines).await;
        let mut ids = Vec::new();
        for request in &requests {
            match is_pointless(request, &existence) {
                Verdict::Act => ids.push(request.id.clone()),
                Verdict::Keep => run.kept(),
                Verdict::Unknown => run.unknown(&request.id),
            }
        }
        let budget = run.budget(usize::MAX);
        run.deferred(ids.len().saturating_sub(budget));
        ids.truncate(budget);
        for batch in ids.chunks(REQUESTS) {
            if !run.goes_on() {
                break;
            }
            let cancelled = match run.ask.dry_run {
                true => Ok(()),
                false => self.compute().cancel_spot_requests(batch).await,
            };
            for id in batch {
                match &cancelled {
                    Ok(()) => run.acted(Some(HousekeepingAction::SpotRequests), id, "its machine is gone"),
                    Err(error) => run.failed(id, &error.clone().into()),
                }
            }
        }
        Ok(())
    }
}
