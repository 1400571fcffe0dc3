//! The simulated GitHub over HTTP, on loopback.
//!
//! [`SimulatedGitHub::start`] serves the REST paths that runs-fleet uses, sends signed webhooks, and speaks a small
//! private protocol with the stand-in runner. It decides nothing: every request becomes one call of the
//! [`Model`] under one lock, at the clock's time.
//!
//! Tasks: the server, the sender of webhooks, and the one that lets the model's time pass. All belong to the handle
//! and end with it.
//!
//! Races it survives: a listener whose long poll is cut off asks again and hears the same; a receiver of webhooks
//! that is killed leaves failed deliveries in the log, which can be asked for again.

mod answer;
mod app;
mod auth;
mod gate;
mod hooks;
mod rest;
mod runners;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use domain::clock::{Clock, Rng, SystemClock, Timestamp, since};
use domain::ids::{InstallationId, JobId, Repo, RunId};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::model::{Counters, JobReport, JobSpec, Model, OwnerKind, Refusal, RunnerReport, Settings};
use crate::chance::SeededRng;
use crate::runner::{RunnerTarball, runner_tarball};

pub use auth::APP_PRIVATE_KEY;
pub use hooks::Faults;

#[allow(clippy::unwrap_used, reason = "a positive constant")]
const INSTALLATION: InstallationId = InstallationId::new(1).unwrap();

/// What to start.
#[derive(Clone)]
pub struct SimConfig {
    /// Where to listen; port 0 picks one.
    pub listen: SocketAddr,
    /// Seed of all chance.
    pub seed: u64,
    /// Id of the only App. Its key is [`APP_PRIVATE_KEY`].
    pub app_id: u64,
    /// Repositories the App is installed on.
    pub repositories: Vec<(Repo, OwnerKind)>,
    /// Where webhooks go (`http://` only). While it is `None`, they fail.
    pub webhook_url: Option<String>,
    /// Webhooks are signed with this.
    pub webhook_secret: SecretString,
    /// What goes wrong with webhooks.
    pub faults: Faults,
    /// The receiver's time to answer a webhook. GitHub: 10 s.
    pub webhook_timeout: Duration,
    /// How long an installation token lives. GitHub: one hour.
    pub token_lifetime: Duration,
    /// Requests per hour. Far above GitHub's thousands, because an hour of `make run` should not end in a quota.
    pub rate_limit: u64,
    /// The executable inside the runner tarball; without it none is served.
    pub runner_exe: Option<PathBuf>,
    /// How the model behaves. `api_url` is filled in, and `first_id`, when 0, with the clock's milliseconds, so that
    /// a new GitHub on old stores repeats no id.
    pub settings: Settings,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl SimConfig {
    /// An App on loopback with one repository, no faults, theft at its default.
    pub fn new(seed: u64, repositories: Vec<(Repo, OwnerKind)>, webhook_secret: SecretString) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            seed,
            app_id: 1,
            repositories,
            webhook_url: None,
            webhook_secret,
            faults: Faults::default(),
            webhook_timeout: Duration::from_secs(10),
            token_lifetime: Duration::from_secs(3_600),
            rate_limit: 1_000_000,
            runner_exe: None,
            settings: Settings::new("", INSTALLATION, 0),
            clock: Arc::new(SystemClock),
        }
    }
}

/// A running simulated GitHub. Dropping it stops it.
pub struct SimulatedGitHub {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl SimulatedGitHub {
    /// Binds, builds the runner tarball, and begins.
    ///
    /// # Errors
    /// The address is taken, the executable's path is unusable, or the webhook URL is none.
    pub async fn start(config: SimConfig) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let api_url = format!("http://{}", listener.local_addr()?);
        let tarball = config.runner_exe.as_deref().map(runner_tarball).transpose()?;
        let now = config.clock.now();
        let mut settings = Settings { api_url, ..config.settings };
        if settings.first_id == 0 {
            settings.first_id = u64::try_from(now.as_millisecond()).unwrap_or(1);
        }
        let mut model = Model::new(settings, Arc::new(SeededRng::new(config.seed)));
        for (repo, owner) in config.repositories {
            model.add_repository(repo, owner);
        }
        let shared = Arc::new(Shared {
            api_url: model.settings().api_url.clone(),
            lost_after: model.settings().runner_lost_after,
            app_id: config.app_id,
            gate: Mutex::new(gate::Gate::new(config.rate_limit, config.token_lifetime)),
            hooks: hooks::Hooks::new(
                config.webhook_url.as_deref(),
                config.webhook_secret,
                config.faults,
                config.webhook_timeout,
            )?,
            model: Mutex::new(model),
            changed: watch::Sender::new(0),
            clock: config.clock,
            // Its own stream: faults must not shift the model's dice.
            rng: Arc::new(SeededRng::new(!config.seed)),
            tarball,
            stop: CancellationToken::new(),
        });
        let mut tasks = JoinSet::new();
        let router = Router::new()
            .merge(app::routes(&shared))
            .merge(rest::routes(&shared))
            .merge(runners::routes(&shared))
            .fallback(|| async { answer::Answer::from(Refusal::NotFound) });
        let listener = listener.tap_io(|tcp| {
            let _ = tcp.set_nodelay(true);
        });
        let stopped = shared.stop.clone().cancelled_owned();
        tasks.spawn(async move {
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
                tracing::error!(%error, "the simulated GitHub stopped serving");
            }
        });
        tasks.spawn(hooks::run(Arc::clone(&shared)));
        tasks.spawn(pass_time(Arc::clone(&shared)));
        Ok(Self { shared, tasks })
    }

    /// Base URL of the REST API, without a trailing `/`.
    pub fn api_url(&self) -> &str {
        &self.shared.api_url
    }

    /// The App's id.
    pub fn app_id(&self) -> u64 {
        self.shared.app_id
    }

    /// Where the runner tarball is served, and its SHA-256 in hex. `None` without an executable.
    pub fn runner_package(&self) -> Option<(String, &str)> {
        let tarball = self.shared.tarball.as_ref()?;
        Some((format!("{}{}", self.shared.api_url, runners::TARBALL_PATH), &tarball.sha256))
    }

    /// Where webhooks go from now on.
    ///
    /// # Errors
    /// Not an `http://` URL.
    pub fn set_webhook_url(&self, url: &str) -> io::Result<()> {
        self.shared.hooks.set_url(Some(url))
    }

    /// What goes wrong with webhooks from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.hooks.set_faults(faults);
    }

    /// Sends the `ping` event.
    pub fn ping(&self) {
        self.shared.with(|model, _| model.ping());
    }

    /// A workflow starts: one run with these jobs.
    ///
    /// # Errors
    /// As [`Model::submit_run`].
    pub fn submit_run(&self, repo: &Repo, jobs: Vec<JobSpec>) -> Result<(RunId, Vec<JobId>), Refusal> {
        self.shared.with(|model, now| model.submit_run(repo, jobs, now))
    }

    /// A run with one job.
    ///
    /// # Errors
    /// As [`Model::submit_run`].
    pub fn submit_job(&self, repo: &Repo, job: JobSpec) -> Result<JobId, Refusal> {
        let (_, jobs) = self.submit_run(repo, vec![job])?;
        jobs.first().copied().ok_or(Refusal::NotFound)
    }

    /// Somebody cancels a run.
    ///
    /// # Errors
    /// As [`Model::cancel_run`].
    pub fn cancel_run(&self, repo: &Repo, run: RunId) -> Result<(), Refusal> {
        self.shared.with(|model, now| model.cancel_run(repo, run, now))
    }

    /// The totals so far.
    pub fn counters(&self) -> Counters {
        self.shared.with(|model, _| model.counters())
    }

    /// Every attempt at a job still remembered, oldest first.
    pub fn jobs(&self) -> Vec<JobReport> {
        self.shared.with(|model, _| model.job_reports())
    }

    /// Every runner, oldest first.
    pub fn runners(&self) -> Vec<RunnerReport> {
        self.shared.with(|model, _| model.runner_reports())
    }

    /// Wakes its holder after every change worth looking at.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Ends everything it started, at most 5 s later.
    pub async fn stop(mut self) {
        self.shared.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(5), all).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

impl Drop for SimulatedGitHub {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// What requests and tasks share.
struct Shared {
    api_url: String,
    lost_after: Duration,
    app_id: u64,
    model: Mutex<Model>,
    gate: Mutex<gate::Gate>,
    hooks: hooks::Hooks,
    changed: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    tarball: Option<RunnerTarball>,
    stop: CancellationToken,
}

impl Shared {
    /// One call of the model, now. Wakes whoever waits if it changed something.
    fn with<T>(&self, call: impl FnOnce(&mut Model, Timestamp) -> T) -> T {
        let now = self.clock.now();
        let mut model = lock(&self.model);
        let before = model.revision();
        let result = call(&mut model, now);
        let after = model.revision();
        drop(model);
        if after != before {
            // Two callers may get here in the wrong order: the number must not go back.
            self.changed.send_modify(|seen| *seen = after.max(*seen));
        }
        result
    }
}

/// A poisoned lock means that another request panicked; the model itself is still the best knowledge there is.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the model's time pass.
async fn pass_time(shared: Arc<Shared>) {
    // The wall clock may be set; no nap is longer than this.
    const LONGEST_NAP: Duration = Duration::from_secs(1);
    let mut changed = shared.changed.subscribe();
    loop {
        changed.mark_unchanged();
        let nap = shared.with(|model, now| {
            model.advance(now);
            model.next_due(now).map_or(LONGEST_NAP, |due| since(due, now).min(LONGEST_NAP))
        });
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(nap.max(Duration::from_millis(1))) => {}
            _ = changed.changed() => {}
        }
    }
}
