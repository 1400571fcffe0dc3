//! From the configuration to the ports: which back end stands behind which.

use std::sync::Arc;

use anyhow::Context;
use config::Config;
use dispatch::{Ports, ReportTokens, Settings};
use domain::clock::{Clock, Rng};
use domain::timings::Timings;
use futures::future::BoxFuture;
use github::client::{Client, ClientConfig, OctocrabExchange};
use github::labels::Aliases;
use github::mint;
use github::webhook::Secrets;
use queue::Queue;
use secrecy::ExposeSecret;
use telemetry::Metrics;

/// A task of a back end: never ends, and may be dropped at any time.
pub(crate) type Upkeep = BoxFuture<'static, ()>;

/// Everything `serve` runs on.
pub(crate) struct BackEnds {
    pub(crate) ports: Ports,
    pub(crate) settings: Settings,
    /// Where agents report; without it sweeps notice the end of machines.
    pub(crate) reports: Option<Arc<dyn Queue>>,
    /// News of instances from EventBridge.
    pub(crate) events: Option<Arc<dyn Queue>>,
    /// Where a gateway writes webhooks; without it they may come by the main queue.
    pub(crate) webhooks: Option<Arc<dyn Queue>>,
    /// For the page.
    pub(crate) queues: Vec<admin::WatchedQueue>,
    pub(crate) secrets: Secrets,
    /// No other process can hold a lease: leases of earlier boots are dead.
    pub(crate) alone: bool,
    /// Where the leader lease is; without it every replica leads.
    pub(crate) lease: Option<Arc<dyn db::Table>>,
    pub(crate) upkeep: Vec<Upkeep>,
    pub(crate) keeps_house: KeepsHouse,
}

/// What housekeeping adds.
pub(crate) struct KeepsHouse {
    /// Where small rows are.
    pub(crate) table: Arc<dyn db::Table>,
    /// Where records of jobs end.
    pub(crate) archive: Option<Arc<dyn provider::BlobStore>>,
    /// Where operators ask for runs.
    pub(crate) requests: Option<Arc<dyn Queue>>,
}

/// What the configuration names.
#[cfg(feature = "aws")]
pub(crate) async fn cloud(config: &Config, simulated_github: bool, metrics: Metrics) -> anyhow::Result<BackEnds> {
    anyhow::ensure!(
        config.mode == config::Mode::Ec2 && config.kubernetes.is_none(),
        "this build cannot run jobs as pods yet: unset RUNS_FLEET_HYBRID_ENABLED and use RUNS_FLEET_MODE=ec2"
    );
    crate::aws::back_ends(config, simulated_github, metrics).await
}

/// Saying so beats starting without them.
#[cfg(not(feature = "aws"))]
#[allow(clippy::unused_async, reason = "the same shape as with the feature")]
pub(crate) async fn cloud(config: &Config, _: bool, _: Metrics) -> anyhow::Result<BackEnds> {
    anyhow::bail!(
        "this build has no back end for RUNS_FLEET_MODE={}: it runs jobs on one machine only. \
         Start `runs-fleet-server local`, or use a build with the feature `aws`",
        config.mode.as_str()
    )
}

/// Stores, queues, machines and hand-overs below one directory.
#[cfg(feature = "local")]
pub(crate) async fn local(
    config: &Config,
    dir: &std::path::Path,
    agents: std::collections::BTreeMap<String, String>,
    simulated_github: bool,
    metrics: Metrics,
) -> anyhow::Result<BackEnds> {
    use crate::pools;
    use domain::clock::{SystemClock, SystemRng};
    use provider::local::{FileHandOver, Keep, ProcessCompute};
    use provider::{Compute, HandOver};
    use queue::{QueueConfig, SpoolQueue, SqliteQueues};

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let rng: Arc<dyn Rng> = Arc::new(SystemRng);
    let layout = crate::local::Layout::new(dir);
    let table: Arc<dyn db::Table> = Arc::new(db::Sqlite::open(&layout.store(), Arc::clone(&clock))?);
    let queues = SqliteQueues::open(&layout.queues(), Arc::clone(&clock), Arc::clone(&rng))?;
    let dead = QueueConfig::fifo("main-dlq").retention(std::time::Duration::from_secs(14 * 86_400));
    let main = queues.queue(QueueConfig::fifo("main").dead_letters(&dead, 5));
    let dead_letters = queues.queue(dead);
    let reports: Arc<dyn Queue> = Arc::new(SpoolQueue::open("termination", layout.spool(), 5, Arc::clone(&rng))?);
    // The store's lock is ours: an orchestrator that was writing a hand-over is dead, its half of a credential is not.
    provider::files::clear_unfinished(&layout.hand_overs()).context("the hand-overs cannot be read")?;
    let program = std::env::current_exe().context("the path of this executable is unknown")?;
    let compute = ProcessCompute::open(
        provider::local::Settings {
            root: dir.to_owned(),
            program,
            args: vec!["agent".into()],
            env: agents,
            keep: Keep::default(),
        },
        Arc::clone(&clock),
    )
    .await?;
    let mut github = client(config, &clock, &rng)?;
    if simulated_github {
        github = github.with_changes_per_minute(usize::MAX >> 1);
    }
    let jobs = db::Jobs::new(Arc::clone(&table), Arc::clone(&clock));
    let compute: Arc<dyn Compute> = Arc::new(compute);
    let hand_over: Arc<dyn HandOver> = Arc::new(FileHandOver::new(layout.hand_overs()));
    let parts = pools::Parts {
        table: Arc::clone(&table),
        jobs: jobs.clone(),
        compute: Arc::clone(&compute),
        hand_over: Arc::clone(&hand_over),
        clock: Arc::clone(&clock),
        rng: Arc::clone(&rng),
        metrics: metrics.clone(),
    };
    let ports = Ports {
        jobs,
        runners: db::Runners::new(Arc::clone(&table), Arc::clone(&clock)),
        markers: db::Markers::new(Arc::clone(&table), Arc::clone(&clock)),
        main: Arc::clone(&main),
        dead_letters: Some(Arc::clone(&dead_letters)),
        compute,
        pools: Some(pools::build(config, parts)),
        hand_over,
        github: Arc::new(github.with_metrics(metrics.clone())),
        clock,
        rng,
        metrics,
    };
    let settings = settings(config, &ports)?;
    let queues = vec![
        admin::WatchedQueue { queue: main, dead_letters: Some(dead_letters) },
        admin::WatchedQueue { queue: Arc::clone(&reports), dead_letters: None },
    ];
    Ok(BackEnds {
        settings,
        reports: Some(reports),
        events: None,
        webhooks: None,
        queues,
        secrets: secrets(config)?,
        ports,
        alone: true,
        lease: None,
        upkeep: Vec::new(),
        keeps_house: KeepsHouse {
            table,
            archive: Some(Arc::new(provider::blobs::DirectoryBlobs::new(layout.archive()))),
            requests: None,
        },
    })
}

pub(crate) fn client(config: &Config, clock: &Arc<dyn Clock>, rng: &Arc<dyn Rng>) -> anyhow::Result<Client> {
    let app = config.github.app.as_ref().context("no GitHub App is configured: RUNS_FLEET_GITHUB_APP_ID is not set")?;
    let client = ClientConfig {
        app_id: app.id,
        private_key: app.private_key.clone(),
        api_url: config.github.api_url.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let exchange = Arc::new(OctocrabExchange::new()?);
    Ok(Client::new(&client, exchange, Arc::clone(clock), Arc::clone(rng))?)
}

pub(crate) fn secrets(config: &Config) -> anyhow::Result<Secrets> {
    let current = config.github.webhook_secret.clone().context("RUNS_FLEET_GITHUB_WEBHOOK_SECRET is not set")?;
    anyhow::ensure!(!current.expose_secret().is_empty(), "the webhook secret is empty");
    Ok(Secrets { current, previous: config.github.webhook_secret_previous.clone() })
}

pub(crate) fn settings(config: &Config, ports: &Ports) -> anyhow::Result<Settings> {
    let mut timings = Timings::PRODUCTION.divided(config.tuning.time_divisor);
    timings.confirm = config.tuning.confirm / config.tuning.time_divisor.max(1);
    let aliases = match config.github.label_aliases.as_str() {
        "" => Aliases::none(),
        json => Aliases::parse(json)?,
    };
    let minutes = |d: std::time::Duration| u32::try_from(d.as_secs() / 60).unwrap_or(u32::MAX);
    let boot = ports.rng.token();
    Ok(Settings {
        timings,
        owner: format!("{}-{}", config.core.replica_id, &boot[..8]),
        aliases,
        allowed_repos: config.github.allowed_repos.clone(),
        jobs_per_minute: config.tuning.ingest_rate_per_repo.unwrap_or(0),
        registration: match config.github.registration {
            config::Registration::Jit => mint::Registration::Jit,
            config::Registration::Token => mint::Registration::Token,
        },
        rerun_interrupted: config.github.rerun_interrupted_jobs,
        max_runtime: config.tuning.max_runtime,
        batch_max: config.fleet.as_ref().map_or(Settings::BATCH_MAX, |fleet| fleet.batch_max as usize),
        batch_linger: config.fleet.as_ref().map_or(Settings::BATCH_LINGER, |fleet| fleet.batch_linger),
        report_tokens: config.cache.secret.clone().map(ReportTokens::new),
        require_report_token: config.tuning.termination_require_token,
        account: None,
        hand_over: mint::Settings {
            runner_group: config.github.runner_group.clone().unwrap_or_default(),
            max_runtime_minutes: minutes(config.tuning.max_runtime),
            idle_exit_seconds: config
                .tuning
                .runner_idle_exit
                .map_or(0, |d| u32::try_from(d.as_secs()).unwrap_or(u32::MAX)),
            server_url: config.github.server_url.clone(),
            termination_queue_url: config.queues.termination.clone().unwrap_or_default(),
        },
    })
}
