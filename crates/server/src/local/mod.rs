//! `local`: everything on one machine, without an account.
//!
//! This process is the parent: the simulated GitHub, the load, and the report. The orchestrator is its child, so that
//! it can be killed; agents are nobody's children, so that they survive it, as machines do. With an App configured the
//! real GitHub takes the place of the simulated one.
//!
//! ```text
//! <dir>/runs-fleet.db      job and runner records      <dir>/machines/<i-…>/  one directory per machine
//! <dir>/queue.db           the main queue              <dir>/hand-over/       what machines are to become
//! <dir>/reports/           what agents report          <dir>/orchestrator.log the orchestrator's log
//! ```

mod chaos;
mod child;
mod pool;
mod report;
mod starts;
mod why;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use domain::clock::{Rng, SystemRng};
use domain::ids::Repo;
use secrecy::SecretString;
use simulation::chance::SeededRng;
use simulation::github::http::{APP_PRIVATE_KEY, Faults, SimConfig, SimulatedGitHub};
use simulation::github::model::OwnerKind;
use simulation::load::{self, Load};
use tokio_util::sync::CancellationToken;

use crate::cli::{self, complain, say};
use child::Orchestrator;

pub(crate) use why::{latest, why};

/// Temporary directories of runs begin so.
const TEMPORARY: &str = "runs-fleet-local-";
/// Every wait of a chaos run, and of one with pools, is so many times shorter.
const FAST_DIVISOR: u32 = 20;
/// The repository whose workflows run.
const REPO: &str = "acme/widgets";

/// Where things are below the directory of a local run.
pub(crate) struct Layout(PathBuf);

impl Layout {
    pub(crate) fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }
    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("runs-fleet.db")
    }
    pub(crate) fn queues(&self) -> PathBuf {
        self.0.join("queue.db")
    }
    pub(crate) fn spool(&self) -> PathBuf {
        self.0.join("reports")
    }
    pub(crate) fn archive(&self) -> PathBuf {
        self.0.join("archive")
    }
    pub(crate) fn hand_overs(&self) -> PathBuf {
        self.0.join("hand-over")
    }
    pub(crate) fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("orchestrator.log")
    }
}

/// This executable is also the agent and the stand-in runner of local machines. Both want to be started early and
/// outside of any runtime.
pub(crate) fn machine_side() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    match args.next()?.to_str()? {
        "agent" => Some(agent::main(args)),
        simulation::runner::SUB_COMMAND => Some(simulation::runner::main()),
        _ => None,
    }
}

/// What every local agent is told, beyond what is its own.
pub(crate) fn agent_environment(dir: &Path, env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let layout = Layout::new(dir);
    let mut agents: BTreeMap<String, String> = env
        .iter()
        .filter(|(name, _)| {
            matches!(
                name.as_str(),
                "RUNS_FLEET_LOCAL_BOOT_MS"
                    | "RUNS_FLEET_RUNNER_URL"
                    | "RUNS_FLEET_RUNNER_SHA256"
                    | "RUNS_FLEET_RUNNER_VERSION"
                    | "RUNS_FLEET_GRACEFUL_SHUTDOWN_SECONDS"
                    | "RUNS_FLEET_JOB_ENV_PASSTHROUGH"
            )
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    agents.insert("RUNS_FLEET_BACKEND".into(), "local".into());
    agents.insert("RUNS_FLEET_SECRETS_BACKEND".into(), "file".into());
    agents.insert("RUNS_FLEET_HANDOVER_DIR".into(), path(layout.hand_overs()));
    agents.insert("RUNS_FLEET_REPORT_SPOOL".into(), path(layout.spool()));
    // To look for a file costs next to nothing.
    agents.insert("RUNS_FLEET_STANDBY_FAST_POLL_MS".into(), "20".into());
    agents.insert("RUNS_FLEET_STANDBY_FAST_POLLS".into(), "10000".into());
    agents
}

/// The sub-command.
pub(crate) fn main(options: cli::Local) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(options))
}

async fn run(options: cli::Local) -> anyhow::Result<ExitCode> {
    let (dir, temporary) = match &options.dir {
        Some(dir) => (dir.clone(), false),
        None => (std::env::temp_dir().join(format!("{TEMPORARY}{}", std::process::id())), true),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let dir = std::fs::canonicalize(dir)?;
    let real = std::env::var_os("RUNS_FLEET_GITHUB_APP_ID").is_some();
    let outcome = if real { on_the_real_github(&options, &dir).await } else { simulated(&options, &dir).await };
    child::end_machines(&dir).await;
    match &outcome {
        Ok(code) if temporary && *code == ExitCode::SUCCESS => {
            let _ = std::fs::remove_dir_all(&dir);
        }
        _ => complain(&format!("logs and stores are in {}", dir.display())),
    }
    outcome
}

async fn on_the_real_github(options: &cli::Local, dir: &Path) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        options.jobs.is_none() && !options.chaos && options.pool.is_none(),
        "--jobs, --chaos and --pool are for the simulated GitHub; unset RUNS_FLEET_GITHUB_APP_ID to use it"
    );
    anyhow::ensure!(
        std::env::var_os("RUNS_FLEET_RUNNER_URL").is_some() && std::env::var_os("RUNS_FLEET_RUNNER_SHA256").is_some(),
        "the real GitHub needs the real runner: set RUNS_FLEET_RUNNER_URL to a release of actions/runner for this \
         machine, and RUNS_FLEET_RUNNER_SHA256 to its checksum from the release notes"
    );
    let mut env = child::inherited(true);
    env.insert("RUNS_FLEET_LISTEN_ADDR".into(), child::address(options.port)?.to_string());
    if options.cache {
        env.extend(with_cache(dir));
    }
    let orchestrator = Orchestrator::start(dir, false, env).await?;
    complain(&format!(
        "page     {}/admin/\nwebhook  {}/webhook  (point your App's webhook here, through a tunnel)",
        orchestrator.url(),
        orchestrator.url()
    ));
    interrupted().await;
    orchestrator.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn simulated(options: &cli::Local, dir: &Path) -> anyhow::Result<ExitCode> {
    let divisor = if options.chaos || options.pool.is_some() { FAST_DIVISOR } else { 1 };
    let secret = SystemRng.token();
    let repo: Repo = REPO.parse()?;
    let mut sim =
        SimConfig::new(options.seed, vec![(repo.clone(), OwnerKind::Organization)], SecretString::from(secret.clone()));
    sim.settings.theft = options.theft;
    sim.runner_exe = Some(std::env::current_exe()?);
    if options.chaos {
        sim.faults = Faults { drop: 0.05, duplicate: 0.1, reorder: Duration::from_millis(500) };
        // GitHub takes minutes to give up on a silent runner; as much shorter as everything else.
        sim.settings.runner_lost_after = Duration::from_secs(5);
    }
    let github = SimulatedGitHub::start(sim).await.context("the simulated GitHub cannot start")?;
    let mut env = environment(options, divisor, &github, &secret)?;
    if options.cache {
        env.extend(with_cache(dir));
    }
    if let Some(spares) = options.pool {
        pool::make(dir, spares).await?;
    }
    let orchestrator = Orchestrator::start(dir, true, env).await?;
    github.set_webhook_url(&format!("{}/webhook", orchestrator.url()))?;
    if !options.json {
        complain(&format!("page  {}/admin/", orchestrator.url()));
        if options.cache {
            complain(&format!(
                "cache {}/  (as ACTIONS_CACHE_URL or ACTIONS_RESULTS_URL, with any token)",
                orchestrator.url()
            ));
        }
    }

    let rng: Arc<dyn Rng> = Arc::new(SeededRng::new(options.seed));
    let mut load = Load::new(repo, options.parallel, Arc::clone(&rng));
    load.jobs = options.jobs;
    load.deadline = options.exit_when_done.then(|| Duration::from_secs(options.deadline));
    if let Some(spares) = options.pool {
        load.classes = pool::classes();
        pool::filled(dir, spares).await;
    }
    if options.chaos {
        load.duration = (Duration::from_millis(500), Duration::from_secs(3));
        load.rerun_grace = Duration::from_secs(60);
    } else if options.jobs.is_none() {
        // A pace that can be watched.
        load.duration = (Duration::from_secs(2), Duration::from_secs(20));
    }
    let stop = CancellationToken::new();
    let started = tokio::time::Instant::now();
    let kills = Mutex::new(chaos::Kills::default());
    let finished = tokio::select! {
        ended = load::run(&github, &load, &stop) => Some(ended?),
        () = chaos::run(dir, &orchestrator, &rng, &kills), if options.chaos => None,
        () = progress(options, &github) => None,
        () = interrupted() => None,
    };
    let took = started.elapsed();
    let Some((end, _)) = finished else {
        orchestrator.stop().await;
        return Ok(ExitCode::SUCCESS);
    };
    if !options.exit_when_done {
        complain("all jobs are done; the page stays up until you stop it");
        interrupted().await;
    }
    let kills = *kills.lock().unwrap_or_else(PoisonError::into_inner);
    let result = report::gather(dir, &github, end, took, kills).await?;
    orchestrator.stop().await;
    if options.json {
        say(&serde_json::to_string(&result)?);
    } else {
        say(&result.to_string());
    }
    Ok(if result.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the orchestrator is told.
fn environment(
    options: &cli::Local,
    divisor: u32,
    github: &SimulatedGitHub,
    secret: &str,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut env = child::inherited(false);
    let mut set = |name: &str, value: String| {
        env.insert(name.to_owned(), value);
    };
    set("RUNS_FLEET_LISTEN_ADDR", child::address(options.port)?.to_string());
    set("RUNS_FLEET_GITHUB_APP_ID", github.app_id().to_string());
    set("RUNS_FLEET_GITHUB_APP_PRIVATE_KEY", APP_PRIVATE_KEY.to_owned());
    set("RUNS_FLEET_GITHUB_WEBHOOK_SECRET", secret.to_owned());
    set("RUNS_FLEET_GITHUB_API_URL", github.api_url().to_owned());
    set("RUNS_FLEET_GITHUB_SERVER_URL", github.api_url().to_owned());
    set("RUNS_FLEET_INGEST_RATE_PER_REPO", "0".to_owned());
    // No balancer stands in front.
    set("RUNS_FLEET_SHUTDOWN_DRAIN_DELAY_SECONDS", "0".to_owned());
    if divisor > 1 {
        set("RUNS_FLEET_TEST_TIME_DIVISOR", divisor.to_string());
        set("RUNS_FLEET_GRACEFUL_SHUTDOWN_SECONDS", "5".to_owned());
    }
    if options.boot > 0 {
        set("RUNS_FLEET_LOCAL_BOOT_MS", (options.boot * 1000).to_string());
    }
    if let Some((url, sha256)) = github.runner_package() {
        set("RUNS_FLEET_RUNNER_URL", url);
        set("RUNS_FLEET_RUNNER_SHA256", sha256.to_owned());
    }
    Ok(env)
}

/// An Actions cache in the directory of the run, for whoever reaches the loopback interface.
fn with_cache(dir: &Path) -> [(String, String); 3] {
    let dir = Layout::new(dir).cache().to_string_lossy().into_owned();
    [("BACKEND", "fs".to_owned()), ("DIR", dir), ("ALLOW_ANONYMOUS", "true".to_owned())]
        .map(|(name, value)| (format!("RUNS_FLEET_CACHE_{name}"), value))
}

/// A line that says how far it is; never ends.
async fn progress(options: &cli::Local, github: &SimulatedGitHub) {
    let terminal = std::io::stderr().is_terminal();
    let mut every = tokio::time::interval(Duration::from_secs(if terminal { 1 } else { 10 }));
    loop {
        every.tick().await;
        if options.json && !terminal {
            continue;
        }
        let c = github.counters();
        let line = format!(
            "jobs {:>4}  queued {:>3}  running {:>3}  done {:>4}  stolen {:>3}  re-run {:>2}",
            c.submitted, c.queued, c.in_progress, c.settled, c.stolen, c.rerun
        );
        if terminal {
            cli::progress(&line);
        } else {
            complain(&line);
        }
    }
}

/// Ctrl-C, a service manager, or a terminal that is closed.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [Ok(mut term), Ok(mut int), Ok(mut hup)] = kinds.map(signal) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        _ = hup.recv() => {}
    }
}
