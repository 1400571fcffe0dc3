//! Webhooks that never arrived.
//!
//! GitHub does not repeat a failed delivery by itself. Two nets catch what falls through: failed deliveries are asked
//! for again, and jobs that stand queued at GitHub without a record are taken over. Both feed the ordinary way in,
//! which is idempotent.
//!
//! Jobs are looked for where there were some lately, in every pass, and in the other repositories of every
//! installation in turn, a few in each pass: the very first job of a repository is nobody's to lose either.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::clock::{self, SignedDuration, Timestamp};
use domain::gh;
use domain::ids::{InstallationId, Repo};
use github::client::{self, DeliverySummary, RunJob};
use github::labels;
use github::webhook::{Action, WorkflowJobEvent};
use telemetry::metrics::RecoverySource;
use tracing::{info, warn};

use super::{Scope, Swept};
use crate::context::{Dispatch, Error};

/// The marker of the last pass that looked at every delivery.
const PASS: &str = "webhook_redelivery";
/// How far back deliveries are looked at, at most.
const LOOK_BACK: SignedDuration = SignedDuration::from_hours(24);
/// Overlap of two passes.
const OVERLAP: SignedDuration = SignedDuration::from_mins(10);
/// Deliveries asked for in one pass.
const REDELIVERIES: usize = 100;
/// A delivery that failed so often is not asked for again.
const MAX_ATTEMPTS: usize = 3;
/// Repositories without a job for so long are scanned in turn only.
const ACTIVE: Duration = Duration::from_secs(24 * 3600);
/// Those scanned in one pass of each installation: 600 questions an hour of the 1,000 that all sweeps have, at most.
const IN_TURN: usize = 25;

impl Dispatch {
    /// Asks GitHub to repeat failed deliveries.
    pub(super) async fn redeliver_webhooks(&self, scope: &Scope<'_>) -> Result<Swept, Error> {
        let now = self.now();
        let oldest = now.saturating_sub(LOOK_BACK).unwrap_or(Timestamp::MIN);
        let last = self.ports.markers.passed(PASS).await?;
        let since = last.and_then(|at| at.checked_sub(OVERLAP).ok()).map_or(oldest, |at| at.max(oldest));
        let mut swept = Swept::default();
        // `None`: the hook is a repository's or an organisation's, not the App's. Nothing to be had.
        let Some(deliveries) = self.ports.github.deliveries(since).await? else { return Ok(swept) };
        let due = to_redeliver(&deliveries);
        let mut cut = false;
        for (at, id) in due.iter().copied().enumerate() {
            if scope.dry_run {
                swept.would_look_into(&id);
                cut = true;
                continue;
            }
            if at >= REDELIVERIES || !scope.goes_on(&swept) {
                swept.deferred += due.len() - at;
                cut = true;
                break;
            }
            let step = match self.ports.github.redeliver(id).await {
                Ok(()) => {
                    self.ports.metrics.webhook_redelivered();
                    Ok(true)
                }
                Err(error) => Err(error.into()),
            };
            swept.count(&step);
        }
        // What did not fit is found again by the next pass, from the same mark.
        if swept.failed == 0 && !cut {
            let _ = self.ports.markers.pass(PASS, now).await?;
        }
        Ok(swept)
    }

    /// Takes over jobs that are queued at GitHub, ours by label, and unknown to us.
    pub(super) async fn scan_queued(&self, scope: &Scope<'_>) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        let active = self.ports.markers.active_repos(ACTIVE).await?;
        for repo in active.iter().filter(|repo| self.serves(repo)) {
            if !scope.goes_on(&swept) {
                swept.deferred += 1;
                return Ok(swept);
            }
            if scope.dry_run {
                swept.would_look_into(repo);
                continue;
            }
            let step = self.scan_repo(repo).await;
            swept.count(&step);
        }
        if scope.dry_run {
            return Ok(swept);
        }
        let mut installations = self.ports.github.installations().await?;
        let round = self.round();
        // Another one begins each time: the first must not use up the patience of a whole pass for ever.
        let first = round % installations.len().max(1);
        installations.rotate_left(first);
        for installation in installations {
            match self.quiet_repos(installation, &active).await {
                Ok(quiet) => {
                    for repo in turn(&quiet, round) {
                        if !scope.goes_on(&swept) {
                            swept.deferred += 1;
                            return Ok(swept);
                        }
                        let step = self.scan_quiet_repo(repo).await;
                        swept.count(&step);
                    }
                }
                Err(error) => swept.count(&Err(error)),
            }
        }
        Ok(swept)
    }

    /// Counts the scan's periods.
    fn round(&self) -> usize {
        let period = self.settings.timings.every.queued_scan.as_secs().max(1);
        usize::try_from(self.now().as_second().unsigned_abs() / period).unwrap_or(0)
    }

    /// The repositories of an installation that we serve and that had no job lately.
    async fn quiet_repos(&self, installation: InstallationId, active: &BTreeSet<Repo>) -> Result<Vec<Repo>, Error> {
        let mut repos = self.ports.github.installed_repos(installation).await?;
        repos.retain(|repo| self.serves(repo) && !active.contains(repo));
        repos.sort_unstable();
        Ok(repos)
    }

    /// One where Actions are switched off, or that is gone by now, is nobody's fault.
    async fn scan_quiet_repo(&self, repo: &Repo) -> Result<bool, Error> {
        match self.scan_repo(repo).await {
            Err(Error::GitHub(client::Error::NotFound(_) | client::Error::Forbidden(_))) => Ok(false),
            other => other,
        }
    }

    async fn scan_repo(&self, repo: &Repo) -> Result<bool, Error> {
        let mut found = false;
        for run in self.ports.github.active_runs(repo).await? {
            for job in self.ports.github.jobs_of_run(repo, run).await? {
                let age = job.view.created_at.map_or(Duration::MAX, |at| clock::since(self.now(), at));
                if job.view.status != gh::Status::Queued || age < self.settings.timings.scan_age {
                    continue;
                }
                let Ok(spec) = labels::parse(&job.view.labels, &self.settings.aliases) else { continue };
                if self.ports.jobs.get(job.id).await?.is_some() {
                    continue;
                }
                let id = job.id;
                let event = synthetic(repo, job);
                match self.accept(&event, &spec, None).await {
                    Ok(true) => {
                        found = true;
                        self.ports.metrics.webhook_recovered(RecoverySource::Scan);
                        info!(
                            job_id = id.get(),
                            repo = repo.as_str(),
                            "took over a queued job whose webhook never came"
                        );
                    }
                    Ok(false) => {}
                    Err(error) => warn!(job_id = id.get(), %error, "a queued job could not be taken over yet"),
                }
            }
        }
        Ok(found)
    }
}

/// Whose turn it is in this round: each part of the repositories once in as many rounds as there are parts.
fn turn(repos: &[Repo], round: usize) -> &[Repo] {
    let parts = repos.len().div_ceil(IN_TURN).max(1);
    repos.chunks(IN_TURN).nth(round % parts).unwrap_or_default()
}

/// The deliveries to ask for: of every event that never succeeded the newest attempt, unless it was tried often enough.
fn to_redeliver(deliveries: &[DeliverySummary]) -> Vec<u64> {
    let mut by_event: BTreeMap<&str, Vec<&DeliverySummary>> = BTreeMap::new();
    for delivery in deliveries.iter().filter(|d| d.event == "workflow_job") {
        by_event.entry(&delivery.guid).or_default().push(delivery);
    }
    let mut due: Vec<&DeliverySummary> = by_event
        .into_values()
        .filter(|attempts| {
            attempts.len() < MAX_ATTEMPTS && !attempts.iter().any(|d| (200..300).contains(&d.status_code))
        })
        .filter_map(|attempts| attempts.into_iter().max_by_key(|d| (d.delivered_at, d.id)))
        .collect();
    due.sort_by_key(|d| (d.delivered_at, d.id));
    due.into_iter().map(|d| d.id).collect()
}

/// The event whose webhook never came.
fn synthetic(repo: &Repo, job: RunJob) -> WorkflowJobEvent {
    WorkflowJobEvent {
        action: Action::Queued,
        job_id: job.id,
        run_id: job.view.run_id,
        run_attempt: job.view.run_attempt,
        name: job.name,
        workflow_name: job.workflow_name.unwrap_or_default(),
        head_branch: job.head_branch.unwrap_or_default(),
        labels: job.view.labels,
        status: "queued".to_owned(),
        conclusion: None,
        created_at: job.view.created_at,
        started_at: None,
        completed_at: None,
        runner_id: None,
        runner_name: None,
        runner_group_id: None,
        html_url: job.html_url.unwrap_or_default(),
        repo: repo.clone(),
        private: false,
        installation_id: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(id: u64, guid: &str, status_code: u16) -> DeliverySummary {
        DeliverySummary {
            id,
            guid: guid.to_owned(),
            event: "workflow_job".to_owned(),
            status_code,
            delivered_at: Timestamp::from_second(i64::try_from(id).unwrap_or(0)).expect("in range"),
            redelivery: id > 100,
        }
    }

    #[test]
    fn only_events_that_never_arrived_are_asked_for_and_by_their_newest_attempt() {
        let deliveries = [
            delivery(1, "lost", 502),
            delivery(101, "lost", 504),
            delivery(2, "arrived late", 500),
            delivery(102, "arrived late", 202),
            delivery(3, "arrived", 200),
            delivery(4, "hopeless", 500),
            delivery(104, "hopeless", 500),
            delivery(204, "hopeless", 500),
            delivery(5, "fresh", 0),
        ];
        assert_eq!(to_redeliver(&deliveries), [5, 101]);
    }

    #[test]
    fn every_repository_has_its_turn_and_never_too_many_at_once() {
        for count in [0, 1, IN_TURN, IN_TURN + 1, 7 * IN_TURN + 3] {
            let repos: Vec<Repo> = (0..count).map(|n| format!("acme/r{n}").parse().expect("a name")).collect();
            let rounds = count.div_ceil(IN_TURN);
            let turns: Vec<_> = (100..100 + rounds).map(|round| turn(&repos, round)).collect();
            assert!(turns.iter().all(|turn| turn.len() <= IN_TURN));
            let seen: BTreeSet<_> = turns.into_iter().flatten().collect();
            assert_eq!(seen.len(), count);
        }
    }

    #[test]
    fn other_events_are_left_alone() {
        let mut ping = delivery(1, "ping", 500);
        "ping".clone_into(&mut ping.event);
        assert!(to_redeliver(&[ping]).is_empty());
    }
}
