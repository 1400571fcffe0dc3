//! Registrations at GitHub whose runner is not coming back.
//!
//! GitHub removes a runner of ours once it has done its job; one that was killed before stays for ever. Being offline
//! says little: a runner is offline until it boots, and while its listener reconnects. So what counts is how long it has
//! been seen so, and that is a row of its own: consecutive looks may be different replicas'.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::clock::{SignedDuration, Timestamp};
use domain::ids::{Repo, RunnerKey};
use domain::runner::{Runner, RunnerState};
use github::client::{Deleted, RunnerView};
use github::mint::runner_key_candidates;
use telemetry::metrics::HousekeepingAction;

use crate::context::{Error, Housekeeping};
use crate::evidence::{Existence, SURE, Verdict, is_instance_id};
use crate::run::Run;

#[cfg(test)]
mod tests;

/// Registrations one run deletes.
const MOST: usize = 200;
/// Repositories without a job for so long are not asked about.
const ACTIVE: Duration = Duration::from_secs(7 * 24 * 3600);
/// A sighting older than this is of a registration that is no more.
const FORGOTTEN: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Whether a name is one that we give.
fn is_ours(name: &str) -> bool {
    name.starts_with("runs-fleet-runner-") || name.starts_with("runs-fleet-i-")
}

/// The machines a name may mean. One that can be read as a machine of EC2 is hardly anything else.
fn machines_named(name: &str) -> impl Iterator<Item = RunnerKey> {
    runner_key_candidates(name).into_iter().filter(is_instance_id)
}

/// Whether a registration seen offline and idle for so long is over. `row` is its runner's record, `machines` the
/// machines its name may mean.
fn verdict(name: &str, offline: Duration, row: Option<&Runner>, machines: &[Existence], dead: Duration) -> Verdict {
    if offline >= dead {
        return Verdict::Act;
    }
    if offline < SURE {
        return Verdict::Keep;
    }
    if let Some(row) = row {
        let over = matches!(row.state, RunnerState::Done | RunnerState::Gone);
        if over || row.abandoned_names.iter().any(|abandoned| abandoned == name) {
            return Verdict::Act;
        }
    }
    if machines.iter().any(|machine| matches!(machine, Existence::Alive(_))) {
        Verdict::Keep
    } else if machines.is_empty() || machines.contains(&Existence::Unknown) {
        // It may mean a machine that this provider does not know. Age decides, later.
        Verdict::Unknown
    } else {
        Verdict::Act
    }
}

impl Housekeeping {
    pub(super) async fn orphaned_runners(&self, run: &Run<'_>) -> Result<(), Error> {
        let mut left = run.budget(MOST);
        for repo in self.dispatch().markers.active_repos(ACTIVE).await? {
            if !run.goes_on() || left == 0 {
                run.deferred(1);
                break;
            }
            match self.dispatch().github.runners(&repo).await {
                Ok(views) => self.runners_of(run, &repo, &views, &mut left).await,
                Err(error) => run.failed(repo.as_str(), &error.into()),
            }
        }
        if !run.ask.dry_run && run.goes_on() {
            let old = self.now().checked_sub(FORGOTTEN).unwrap_or(Timestamp::MIN);
            if let Err(error) = self.dispatch().markers.offline_reap(old).await {
                tracing::debug!(%error, "old sightings of runners were not removed");
            }
        }
        Ok(())
    }

    async fn runners_of(&self, run: &Run<'_>, repo: &Repo, views: &[RunnerView], left: &mut usize) {
        let markers = &self.dispatch().markers;
        let mut offline = Vec::new();
        for view in views.iter().filter(|view| is_ours(&view.name)) {
            if !run.goes_on() {
                return;
            }
            if view.online || view.busy {
                run.kept();
                let forgotten = match run.ask.dry_run {
                    true => Ok(()),
                    false => markers.offline_forget(repo, view.id).await,
                };
                if let Err(error) = forgotten {
                    run.failed(&view.name, &error.into());
                }
                continue;
            }
            let seen = match run.ask.dry_run {
                true => markers.offline_since(repo, view.id).await.map(Option::unwrap_or_default),
                false => markers.offline_seen(repo, view.id).await,
            };
            match seen {
                Ok(seen) => offline.push((view, seen)),
                Err(error) => run.failed(&view.name, &error.into()),
            }
        }
        let (dead, sure) = (self.settings.dead_age(), SURE);
        let asked = offline.iter().filter(|(_, seen)| (sure..dead).contains(seen));
        let keys: Vec<RunnerKey> = asked.flat_map(|(view, _)| machines_named(&view.name)).collect();
        let machines = self.existence(&keys).await;
        for (view, seen) in offline {
            if !run.goes_on() {
                return;
            }
            match self.registration(run, repo, view, seen, &machines, *left > 0).await {
                Ok(Some(Verdict::Act)) => {
                    *left -= 1;
                    run.acted(Some(HousekeepingAction::OrphanedRunners), &view.name, "it is offline for good");
                }
                Ok(Some(Verdict::Keep)) => run.kept(),
                Ok(Some(Verdict::Unknown)) => run.unknown(&view.name),
                Ok(None) => run.deferred(1),
                Err(error) => run.failed(&view.name, &error),
            }
        }
    }

    /// What becomes of one. `None`: it is over, and its turn has not come.
    async fn registration(
        &self,
        run: &Run<'_>,
        repo: &Repo,
        view: &RunnerView,
        seen: Duration,
        machines: &BTreeMap<RunnerKey, Existence>,
        may_act: bool,
    ) -> Result<Option<Verdict>, Error> {
        let candidates = runner_key_candidates(&view.name);
        let mut row = None;
        for key in &candidates {
            let found = self.runner(key).await?;
            // One whose registration has another id is another incarnation.
            row = row
                .or(found
                    .filter(|row| row.repo == *repo && row.id.is_none_or(|id| id == view.id || row.name != view.name)));
        }
        let known: Vec<Existence> = machines_named(&view.name).filter_map(|key| machines.get(&key).cloned()).collect();
        let verdict = verdict(&view.name, seen, row.as_ref(), &known, self.settings.dead_age());
        if verdict != Verdict::Act || run.ask.dry_run {
            return Ok(Some(verdict));
        }
        if !may_act {
            return Ok(None);
        }
        match self.dispatch().github.delete_runner(repo, view.id).await? {
            Deleted::Busy => return Ok(Some(Verdict::Keep)),
            Deleted::Gone => self.metrics().registrations_deleted(),
        }
        self.dispatch().markers.offline_forget(repo, view.id).await?;
        Ok(Some(Verdict::Act))
    }
}
