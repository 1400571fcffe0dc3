//! What machines tell us: the runner is up, it ended, it never became one; and what their disappearance tells us.
//!
//! A report speaks for its *machine*. Which job it closes is the runner record's knowledge: the job GitHub gave that
//! runner, or, where nobody knows yet, what GitHub answers when asked about the job the runner is counted for. The job
//! id in a report is only a hint, for machines without a runner record. A job is never closed with a report of a
//! runner that GitHub did not name for it.
//!
//! Races it survives: reports twice, late, or in the wrong order (the record's condition on its machine refuses them);
//! a report before GitHub's word (it is kept on the runner's row, and closes the job when the word comes); a report
//! lost with its machine (the vanished and stale sweeps); a forged report (it can only speak for a machine a record
//! names).

use std::time::Duration;

use async_trait::async_trait;
use domain::clock;
use domain::gh;
use domain::ids::{JobId, RunnerKey};
use domain::job::transition::AgentWord;
use domain::job::{Event, Job, JobState, Milestone};
use domain::report::{AgentReport, AgentStatus};
use domain::runner::{FinalReport, Runner, RunnerState};
use github::client::Priority;
use queue::{Delivery, Disposition, Handler};
use telemetry::metrics::{BootstrapPhase, CacheInterception};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::context::{Dispatch, Error};
use crate::records::{Raised, pool_of, truncate};
use crate::tokens::{Proof, prove};

/// Handles deliveries of the termination queue.
pub struct Reports(pub std::sync::Arc<Dispatch>);

#[async_trait]
impl Handler for Reports {
    async fn handle(&self, delivery: &Delivery, _lost: CancellationToken) -> Disposition {
        let report = match AgentReport::decode(&delivery.body) {
            Ok((report, warnings)) => {
                if !warnings.is_empty() {
                    debug!(instance_id = report.instance_id.as_str(), ?warnings, "a report with unreadable fields");
                }
                report
            }
            Err(poison) => return Disposition::Reject(poison.reason.as_str()),
        };
        let settings = &self.0.settings;
        match prove(&report, settings.report_tokens.as_ref(), settings.require_report_token) {
            Proof::Fine => {}
            Proof::Missing => return Disposition::Reject("missing_token"),
            Proof::Wrong => {
                warn!(instance_id = report.instance_id.as_str(), "a report whose token is not its machine's");
                return Disposition::Reject("wrong_token");
            }
        }
        let first = delivery.receive_count.unwrap_or(1) <= 1;
        match self.0.report(&report, first).await {
            Ok(Handled::Done) => Disposition::Ack,
            Ok(Handled::Early) => Disposition::Keep { after: Some(self.0.settings.timings.send_pause) },
            Err(error) => {
                warn!(instance_id = report.instance_id.as_str(), %error, "a report could not be handled; it comes back");
                Disposition::Keep { after: Some(self.0.settings.timings.heartbeat / 2) }
            }
        }
    }
}

/// Whether a report could be made use of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// Nothing more to do with it.
    Done,
    /// The runner ended, but the webhook that says what it ran is still on its way: to be looked at once more.
    Early,
}

/// How a runner ended, as far as its job's loss is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ending {
    /// The agent saw the notice.
    reclaimed: bool,
    /// Something stopped the runner before its time.
    cut_short: bool,
}

impl Ending {
    /// Nothing came in between.
    const fn is_regular(self) -> bool {
        !self.reclaimed && !self.cut_short
    }

    /// A spot machine that was stopped from outside was taken back, whether its agent saw the notice or not.
    const fn is_interruption(self, job: &Job) -> bool {
        self.reclaimed || (self.cut_short && job.spot)
    }
}

/// Whether a report speaks of work that its machine did before the assignment it has now.
fn is_of_an_earlier_assignment(report: &AgentReport, row: &Runner) -> bool {
    report.dispatch_id.as_ref().is_some_and(|reported| row.dispatch != *reported)
}

/// How long the runner ran, by its own measure, else by its stamps.
fn runtime(report: &AgentReport) -> Duration {
    match (report.duration_seconds, report.started_at, report.completed_at) {
        (0, Some(from), Some(to)) => clock::since(to, from),
        (seconds, ..) => Duration::from_secs(seconds),
    }
}

/// `None` is a word of another release.
fn interception(word: &str) -> Option<CacheInterception> {
    Some(match word {
        "engaged" => CacheInterception::Engaged,
        "failed" => CacheInterception::Failed,
        "disabled" => CacheInterception::Disabled,
        _ => return None,
    })
}

impl Dispatch {
    /// Takes a report. Repeatable. `first` is false when the report was delivered before.
    pub async fn report(&self, report: &AgentReport, first: bool) -> Result<Handled, Error> {
        match report.status {
            AgentStatus::Started => self.runner_started(report).await?,
            AgentStatus::BootstrapFailed => self.bootstrap_failed(report).await?,
            AgentStatus::Success | AgentStatus::Failure | AgentStatus::Timeout | AgentStatus::Interrupted => {
                return self.runner_ended(report, first).await;
            }
        }
        Ok(Handled::Done)
    }

    async fn runner_started(&self, report: &AgentReport) -> Result<(), Error> {
        let key = &report.instance_id;
        let at = report.started_at.unwrap_or_else(|| self.now());
        let row = self
            .change_runner(key, |row| {
                row.advance(RunnerState::Online);
                row.online_at.get_or_insert(clock::whole_seconds(at));
            })
            .await?;
        let Some(job) = row.as_ref().map_or(report.job_id, |row| row.running_job.or(row.bound_job)) else {
            return Ok(());
        };
        let config_fetched = report
            .runner_listening_seconds
            .or(report.bootstrap.total)
            .and_then(|s| clock::SignedDuration::try_from_secs_f64(s).ok())
            .and_then(|s| at.checked_sub(s).ok());
        let raised = self
            .raise(
                job,
                |job, _| Event::RunnerStarted { instance_matches: job.is_on(key) },
                |job| {
                    let attempt = job.attempt();
                    job.timeline.stamp(attempt, Milestone::RunnerRegistered, at);
                    if let Some(fetched) = config_fetched {
                        job.timeline.stamp(attempt, Milestone::ConfigFetched, fetched);
                    }
                    job.started_at = Some(clock::whole_seconds(at));
                },
            )
            .await?;
        if let Raised::Moved { after, .. } = &raised {
            self.bootstrap_metrics(after, report);
        }
        Ok(())
    }

    fn bootstrap_metrics(&self, job: &Job, report: &AgentReport) {
        let b = report.bootstrap;
        for (phase, seconds) in [
            (BootstrapPhase::Boot, b.boot),
            (BootstrapPhase::Config, b.config),
            (BootstrapPhase::RunnerDownload, b.runner),
            (BootstrapPhase::Registration, b.register),
            (BootstrapPhase::Total, b.total),
        ] {
            let took = seconds.filter(|s| (0.0..=86_400.0).contains(s)).map(Duration::from_secs_f64);
            if let Some(took) = took {
                self.ports.metrics.agent_bootstrap(pool_of(job), phase, took);
            }
        }
    }

    async fn bootstrap_failed(&self, report: &AgentReport) -> Result<(), Error> {
        let key = &report.instance_id;
        let row = self.ports.runners.get(key).await?;
        let job = row.as_ref().map_or(report.job_id, |row| row.running_job.or(row.bound_job));
        warn!(
            instance_id = key.as_str(),
            job_id = job.map_or(0, JobId::get),
            error = report.error.as_deref().unwrap_or(""),
            "a machine did not become a runner"
        );
        if let Some(job) = job {
            let error = telemetry::redact(&truncate(report.error.as_deref().unwrap_or_default(), 1024));
            self.raise(
                job,
                |job, _| Event::BootstrapFailed { instance_matches: job.is_on(key), retries_left: job.retries_left() },
                |job| job.last_error = Some(format!("bootstrap failed: {error}")),
            )
            .await?;
        }
        self.end_runner(key, RunnerState::Gone).await?;
        self.clear_machine(key, row.as_ref()).await;
        self.wants_machines(row.as_ref());
        Ok(())
    }

    async fn runner_ended(&self, report: &AgentReport, first: bool) -> Result<Handled, Error> {
        let key = &report.instance_id;
        let kept = FinalReport {
            status: report.status.as_str().to_owned(),
            exit_code: report.exit_code,
            duration_seconds: report.duration_seconds,
            at: clock::whole_seconds(report.completed_at.unwrap_or_else(|| self.now())),
        };
        let row = self.ports.runners.get(key).await?;
        if row.as_ref().is_some_and(|row| is_of_an_earlier_assignment(report, row)) {
            self.clear_earlier(report).await;
            return Ok(Handled::Done);
        }
        if let Some(status) = report.cache_interception.as_deref().and_then(interception).filter(|_| first) {
            self.ports.metrics.runner_cache_interception(status);
        }
        let end = |row: &mut Runner| {
            row.advance(RunnerState::Done);
            row.report.get_or_insert_with(|| kept.clone());
        };
        let row = match row {
            Some(row) => self.change_row(row, end).await?,
            None => None,
        };
        let reclaimed = report.interrupted_by.as_deref() == Some("spot_interruption");
        let cut_short = report.status == AgentStatus::Interrupted && runtime(report) < self.settings.max_runtime;
        match &row {
            // The webhook of a job GitHub gave this runner was sent before the runner could end. Asking GitHub about
            // the job it was counted for before that is read would take a swap for a theft, and launch a machine.
            Some(row) if first && !reclaimed && row.running_job.is_none() && row.bound_job.is_some() => {
                return Ok(Handled::Early);
            }
            Some(row) => self.close(row, Ending { reclaimed, cut_short }).await?,
            // A machine the Go implementation launched: the report's own word on its job, if the record agrees.
            None => {
                if let Some(id) = report.job_id
                    && let Some(job) = self.ports.jobs.get(id).await?
                    && job.is_on(key)
                {
                    if (Ending { reclaimed, cut_short }).is_interruption(&job) {
                        self.interrupted(id, key, true).await?;
                    } else {
                        let github = self.ask(&job, Priority::Dispatch).await?;
                        self.agent_completed(id, key, &kept, github, github != gh::Status::Queued).await?;
                    }
                }
                self.clear_earlier(report).await;
                return Ok(Handled::Done);
            }
        }
        self.clear_machine(key, row.as_ref()).await;
        self.wants_machines(row.as_ref());
        Ok(Handled::Done)
    }

    /// A machine is gone, or about to be: the pool it came from has one less.
    pub(crate) fn wants_machines(&self, row: Option<&Runner>) {
        if let (Some(pools), Some(pool)) = (&self.ports.pools, row.and_then(|row| row.pool.as_ref())) {
            pools.notify_demand(pool);
        }
    }

    /// Closes the job an ended runner served, if that can be known.
    async fn close(&self, row: &Runner, ending: Ending) -> Result<(), Error> {
        if let Some(id) = row.running_job {
            let job = if ending.is_regular() { None } else { self.ports.jobs.get(id).await? };
            if job.is_some_and(|job| job.is_on(&row.key) && ending.is_interruption(&job)) {
                self.interrupted(id, &row.key, true).await?;
            } else {
                self.close_with_report(id, row).await?;
            }
            return Ok(());
        }
        let Some(job) = self.waiting_on(row).await? else { return Ok(()) };
        if ending.is_interruption(&job) {
            self.interrupted(job.id, &row.key, true).await?;
            return Ok(());
        }
        // Nobody knows yet what this runner did. GitHub's word on the job it was counted for decides.
        let github = self.ask(&job, Priority::Dispatch).await?;
        let Some(row) = self.ports.runners.get(&row.key).await? else { return Ok(()) };
        match (row.running_job, github) {
            (Some(id), _) => self.close_with_report(id, &row).await,
            (None, gh::Status::Queued) => match &row.report {
                Some(report) => self.agent_completed(job.id, &row.key, report, github, false).await,
                None => Ok(()),
            },
            // Another runner has the job (the binding has seen to it), or GitHub did not answer: the report stays on
            // the row, and the sweeps settle the job.
            _ => Ok(()),
        }
    }

    /// The job a runner is counted for, if its record still waits there.
    async fn waiting_on(&self, row: &Runner) -> Result<Option<Job>, Error> {
        let Some(id) = row.bound_job else { return Ok(None) };
        Ok(self.ports.jobs.get(id).await?.filter(|job| job.is_on(&row.key)))
    }

    /// Closes a job that GitHub gave this runner with the runner's own report.
    pub(crate) async fn close_with_report(&self, id: JobId, row: &Runner) -> Result<(), Error> {
        match &row.report {
            Some(report) => self.agent_completed(id, &row.key, report, gh::Status::InProgress, true).await,
            None => Ok(()),
        }
    }

    async fn agent_completed(
        &self,
        id: JobId,
        key: &RunnerKey,
        report: &FinalReport,
        github: gh::Status,
        named_by_github: bool,
    ) -> Result<(), Error> {
        let word = match AgentStatus::parse(&report.status) {
            Some(AgentStatus::Success) => AgentWord::Success,
            Some(AgentStatus::Timeout) => AgentWord::Timeout,
            Some(AgentStatus::Interrupted) => AgentWord::Interrupted,
            _ => AgentWord::Failure,
        };
        self.raise(
            id,
            |job, _| Event::AgentCompleted {
                instance_matches: job.is_on(key),
                word,
                github,
                named_by_github,
                displacements_left: job.displacements_left(),
            },
            |job| {
                if github != gh::Status::Queued {
                    job.exit_code = Some(report.exit_code);
                    job.duration_seconds = Some(report.duration_seconds);
                    let attempt = job.attempt();
                    job.timeline.stamp(attempt, Milestone::Completed, report.at);
                }
            },
        )
        .await?;
        Ok(())
    }

    /// The machine of a job is (about to be) gone: GitHub's word on the job decides what follows.
    /// `warned`: the cloud said so, before or after. Says whether the record moved.
    pub(crate) async fn interrupted(&self, id: JobId, key: &RunnerKey, warned: bool) -> Result<bool, Error> {
        let Some(job) = self.ports.jobs.get(id).await?.filter(|job| job.is_on(key)) else { return Ok(false) };
        if !matches!(job.state, JobState::Launched | JobState::Running) {
            return Ok(false);
        }
        let github = Box::pin(self.ask(&job, Priority::Dispatch)).await?;
        self.lose_machine(id, key, github, warned).await
    }

    pub(crate) async fn lose_machine(
        &self,
        id: JobId,
        key: &RunnerKey,
        github: gh::Status,
        warned: bool,
    ) -> Result<bool, Error> {
        let row = self.ports.runners.get(key).await?;
        // A machine that died before its listener was up, without a warning, will hardly do better again: such deaths
        // are counted, so that a broken image ends in an error and not in machines without end.
        let never_up = !warned && row.is_some_and(|row| row.online_at.is_none() && row.running_job.is_none());
        let raised = self
            .raise(
                id,
                |job, _| match (job.is_on(key), job.state) {
                    (true, JobState::Launched) if never_up && github == gh::Status::Queued => {
                        Event::BootstrapFailed { instance_matches: true, retries_left: job.retries_left() }
                    }
                    (true, _) => Event::SpotInterruption { github },
                    // Somebody moved the job meanwhile: an event that does nothing anywhere.
                    (false, _) => Event::RunnerStarted { instance_matches: false },
                },
                |_| {},
            )
            .await?;
        Ok(raised.moved())
    }

    /// A machine is gone without a final report: reclaimed, killed, or vanished. Its job is asked after, and goes back,
    /// or to recovery. Repeatable.
    pub async fn machine_gone(&self, key: &RunnerKey) -> Result<(), Error> {
        // Whatever is left of it must not go on with a job we are about to give to another.
        self.ports.compute.terminate(key).await?;
        let now = clock::whole_seconds(self.now());
        let row = self
            .change_runner(key, |row| {
                if row.report.is_none() {
                    row.interrupted_at.get_or_insert(now);
                }
            })
            .await?;
        let Some(row) = row else { return Ok(()) };
        if row.report.is_none() {
            let job = match row.running_job {
                Some(id) => self.ports.jobs.get(id).await?.filter(|job| job.is_on(key)),
                None => self.waiting_on(&row).await?,
            };
            if let Some(job) = job.filter(|job| matches!(job.state, JobState::Launched | JobState::Running)) {
                info!(job_id = job.id.get(), instance_id = key.as_str(), "the machine of a job is gone");
                self.interrupted(job.id, key, false).await?;
            }
        }
        // Only now: until the job has moved, the live row is what brings us back here.
        let row = self.change_runner(key, |row| row.advance(RunnerState::Gone)).await?;
        self.clear_machine(key, row.as_ref()).await;
        self.wants_machines(row.as_ref());
        Ok(())
    }

    /// Removes the hand-over a report speaks of, and no other: the machine may have been given its next job, whose
    /// hand-over has the same place. Best effort.
    async fn clear_earlier(&self, report: &AgentReport) {
        let key = &report.instance_id;
        let its_own = match self.ports.hand_over.get(key).await {
            Ok(Some(document)) => report.job_id.is_some_and(|id| document.job_id == id.to_string()),
            Ok(None) | Err(_) => false,
        };
        let gone = async || matches!(self.ports.compute.describe(key).await, Ok(machine) if machine.as_ref().is_none_or(|m| m.state.is_gone()));
        if its_own || gone().await {
            self.clear_machine(key, None).await;
        }
    }

    /// Removes what an ended machine leaves behind: its hand-over, and a registration no job holds. Best effort; says
    /// whether the hand-over is gone.
    pub(crate) async fn clear_machine(&self, key: &RunnerKey, row: Option<&Runner>) -> bool {
        let deleted = self.ports.hand_over.delete(key).await;
        if let Err(error) = &deleted {
            warn!(instance_id = key.as_str(), %error, "the hand-over was not deleted; the sweep of secrets does it");
        }
        if let Some(row) = row
            && row.running_job.is_none()
        {
            self.deregister(row).await;
        }
        deleted.is_ok()
    }

    /// Deletes the registration of a runner that will take no job any more. Best effort.
    pub(crate) async fn deregister(&self, row: &Runner) {
        let id = match row.id {
            Some(id) => Some(id),
            // Minted by an attempt that could not note it.
            None => match self.ports.github.runner_by_name(&row.repo, &row.name).await {
                Ok(found) => found.map(|view| view.id),
                Err(_) => None,
            },
        };
        let Some(id) = id else { return };
        match self.ports.github.delete_runner(&row.repo, id).await {
            Ok(_) => self.ports.metrics.registrations_deleted(),
            Err(error) => debug!(instance_id = row.key.as_str(), %error, "the registration was not deleted"),
        }
    }
}
