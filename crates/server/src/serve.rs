//! `serve`: configuration → back ends → tasks → wait for a signal → drain.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use admin::{About, Access, AdminState, ConfigWarning, WatchedQueue};
use anyhow::Context;
use axum::Router;
use config::{Config, Loaded, SystemFiles};
use coordinator::{BootClock, Coordinator, Leadership, while_leading};
use dispatch::sweeps::{self, Sweep};
use dispatch::{Dispatch, Events, Reports, Webhooks, Worker};
use domain::clock::{Clock, Rng, SystemClock};
use housekeeping::Requests;
use queue::{Consumer, ConsumerConfig, Handler, Queue};
use secrecy::ExposeSecret;
use telemetry::logging::{self, LogConfig};
use telemetry::{Metrics, Redactor};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::back_ends::{self, BackEnds};
use crate::http::{self, Health};
use crate::observe::{self, Observed};
use crate::{cli, commands};

/// Reports, events, and webhooks of a gateway handled at the same time, each.
const SIGNALS: usize = 10;
/// How often the main queue is asked for before the start is given up.
const STARTS: u32 = 10;
/// Between those, and between ticks of the watchdog behind `/health`.
const TICK: Duration = Duration::from_secs(1);
/// How long giving the leader lease up may hold up a stop.
const RELEASE: Duration = Duration::from_secs(1);
/// How long open HTTP requests may take once nobody routes here any more.
const HTTP_CLOSE: Duration = Duration::from_secs(5);

/// The sub-command.
pub(crate) fn main(options: &cli::Serve) -> anyhow::Result<ExitCode> {
    let env = commands::environment();
    #[cfg(feature = "local")]
    let dir = options.local.as_deref();
    #[cfg(not(feature = "local"))]
    let dir: Option<&std::path::Path> = None;
    let mut loaded = if dir.is_some() { Config::local(&env, &SystemFiles) } else { Config::load(&env, &SystemFiles) };
    commands::check_aliases(&mut loaded, &env);
    let Some(config) = loaded.config.clone().filter(|_| loaded.ok(false)) else {
        cli::say(&config::render_text(&loaded, false));
        return Ok(ExitCode::FAILURE);
    };

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Metrics::new();
    let redactor = Redactor::new(Arc::clone(&clock));
    redactor.install();
    for secret in &loaded.secrets {
        redactor.register(secret.expose_secret(), None);
    }
    let _guard = logging::init(log_config(&config), redactor, clock, metrics.clone())
        .map_err(|_| anyhow::anyhow!("logging is set up twice"))?;
    for problem in &loaded.problems {
        warn!(
            event = "config_warning",
            code = problem.code.as_str(),
            variables = problem.variables.join(","),
            "{}",
            problem.message
        );
    }
    for (code, count) in loaded.warnings() {
        metrics.config_warnings(code.as_str(), Some(count as f64));
    }
    metrics.build_info(
        env!("CARGO_PKG_VERSION"),
        option_env!("RUNS_FLEET_COMMIT").unwrap_or("unknown"),
        std::env::consts::ARCH,
        Some(1.0),
    );

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let clean = runtime.block_on(async {
        let back_ends = match dir {
            #[cfg(feature = "local")]
            Some(dir) => {
                let agents = crate::local::agent_environment(dir, &env);
                back_ends::local(&config, dir, agents, options.simulated_github, metrics.clone()).await?
            }
            _ => back_ends::cloud(&config, simulated(options), metrics.clone()).await?,
        };
        run(&config, config_warnings(&loaded), back_ends, metrics).await
    });
    if let Err(error) = &clean {
        error!(%error, "the server cannot go on");
    }
    // What did not end in time is listed in the log; its messages and leases bring the work back.
    runtime.shutdown_timeout(HTTP_CLOSE);
    Ok(if clean? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(feature = "local")]
fn simulated(options: &cli::Serve) -> bool {
    options.simulated_github
}

#[cfg(not(feature = "local"))]
fn simulated(_: &cli::Serve) -> bool {
    false
}

fn log_config(config: &Config) -> LogConfig {
    LogConfig {
        level: config.core.log_level.parse().unwrap_or(tracing::Level::INFO),
        format: match config.core.log_format {
            config::LogFormat::Json => logging::Format::Json,
            config::LogFormat::Text => logging::Format::Text,
        },
        host: host(),
        replica_id: config.core.replica_id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn host() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned())
}

/// Runs until a signal, then drains. `false`: something did not end in time.
async fn run(
    config: &Config,
    warnings: Vec<ConfigWarning>,
    back_ends: BackEnds,
    metrics: Metrics,
) -> anyhow::Result<bool> {
    let BackEnds { ports, settings, reports, events, webhooks, queues, secrets, alone, lease, upkeep, keeps_house } =
        back_ends;
    let timings = settings.timings;
    let divisor = config.tuning.time_divisor;
    let (main, rng, clock) = (Arc::clone(&ports.main), Arc::clone(&ports.rng), Arc::clone(&ports.clock));
    answering(&*main).await.context("the main queue does not answer")?;
    let dispatch = Dispatch::new(ports, settings);
    if alone {
        dispatch.recover_own_leases().await.context("the store does not answer")?;
    }

    let about = About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: if config.local { "local" } else { config.mode.as_str() }.to_owned(),
        started_at: clock.now(),
        features: BTreeMap::from([
            ("rerun_interrupted_jobs".to_owned(), config.github.rerun_interrupted_jobs),
            ("prometheus".to_owned(), config.local || config.metrics.prometheus_path.is_some()),
        ]),
        warnings,
    };
    if lease.is_none() && !alone {
        warn!("RUNS_FLEET_COORDINATOR_ENABLED is not set: no leader is elected, every replica does a leader's work");
    }
    let coordinator = Arc::new(coordinator(config, lease, &clock, &rng, &metrics));
    let health = Health::new(Arc::clone(&main), Arc::clone(&coordinator));
    let observer = Arc::new(Observed { metrics: metrics.clone(), clock });
    let (stop, close) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks = JoinSet::new();
    let worker = Arc::new(Worker { dispatch: Arc::clone(&dispatch), secrets: secrets.clone() });
    let mut consume = |queue: Option<Arc<dyn Queue>>, permits: usize, handler: Arc<dyn Handler>| {
        let Some(queue) = queue else { return };
        let mut consuming = ConsumerConfig::new(permits).divided(divisor);
        // An attempt bounds itself; the consumer's deadline is the net below it.
        consuming.deadline = timings.process + timings.cleanup * 2;
        let consumer = Consumer::observed(queue, consuming, handler, Arc::clone(&rng), observer.clone());
        tasks.spawn(consumer.run(stop.clone()));
    };
    consume(reports, SIGNALS, Arc::new(Reports(Arc::clone(&dispatch))));
    consume(events, SIGNALS, Arc::new(Events(Arc::clone(&dispatch))));
    consume(webhooks, SIGNALS, Arc::new(Webhooks(Arc::clone(&worker))));
    consume(Some(main), config.tuning.dispatch_concurrency, worker);
    let (requests, keeper) = (keeps_house.requests.clone(), crate::tasks::keeper(config, keeps_house, &dispatch));
    if let Some(queue) = requests {
        let handler = Arc::new(Requests { keeper: Arc::clone(&keeper), stop: stop.clone() });
        let consuming = Requests::consuming().divided(divisor);
        let consumer = Consumer::observed(queue, consuming, handler, Arc::clone(&rng), observer.clone());
        tasks.spawn(consumer.run(stop.clone()));
    }
    tasks.spawn(lead(&coordinator, &stop, move |term| Arc::clone(&keeper).lead(term)));
    let mut keeping = JoinSet::new();
    for task in upkeep {
        keeping.spawn(task);
    }
    let watched: Vec<_> =
        queues.iter().flat_map(|q| [Some(Arc::clone(&q.queue)), q.dead_letters.clone()]).flatten().collect();
    let (sweeping, measured) = (Arc::clone(&dispatch), metrics.clone());
    tasks.spawn(lead(&coordinator, &stop, move |term| {
        sweeps::run_some(Arc::clone(&sweeping), Sweep::LOOPS, term.over())
    }));
    tasks.spawn(lead(&coordinator, &stop, move |term| observe::depths(watched.clone(), measured.clone(), term.over())));
    if let Some(pools) = dispatch.ports().pools.clone() {
        let (demanded, until) = (Arc::clone(&pools), stop.clone());
        tasks.spawn(async move { demanded.run_demand(until).await });
        tasks.spawn(lead(&coordinator, &stop, move |term| {
            let pools = Arc::clone(&pools);
            async move { pools.run_leader(term).await }
        }));
    }
    tasks.spawn(check_app(Arc::clone(&dispatch)));
    tasks.spawn(watchdog(Arc::clone(&health), close.clone()));

    // Last, so that no webhook is accepted before it can be stored.
    let listener = TcpListener::bind(&config.core.listen_addr)
        .await
        .with_context(|| format!("cannot listen on {}", config.core.listen_addr))?;
    let address = listener.local_addr()?;
    coordinator.start().await.context("a leader cannot be elected in the table of RUNS_FLEET_LOCKS_TABLE")?;
    let app = app(config, &dispatch, secrets, queues, about, &health, metrics, &close);
    tasks.spawn(crate::listener::serve(listener, app, close.clone()));
    info!(event = "server_started", address = %address, "serving");

    wait_for_signal().await?;
    info!(event = "server_draining", "draining: readiness is off, nothing new is received");
    health.drain();
    stop.cancel();
    // At once, not after the drain: what a successor could do twice is kept apart by conditions, and idle time is not.
    tasks.spawn(async move { coordinator.stop(RELEASE).await });
    dispatch.drain();
    tokio::select! {
        () = tokio::time::sleep(config.core.shutdown_drain_delay) => {}
        () = second_signal() => {}
    }
    close.cancel();
    let limit = timings.process + Duration::from_secs(10);
    let drained = async {
        while tasks.join_next().await.is_some() {}
        dispatch.finish().await;
        keeping.shutdown().await;
    };
    let clean = tokio::select! {
        done = tokio::time::timeout(limit, drained) => done.is_ok(),
        () = second_signal() => false,
    };
    if !clean {
        warn!(left = tasks.len(), "not everything ended in time; leases and messages bring the work back");
    }
    info!(event = "server_stopped", clean, "stopped");
    Ok(clean)
}

/// What one replica does for all: `work`, in every term of this one.
fn lead<W, F>(
    coordinator: &Arc<Coordinator>,
    stop: &CancellationToken,
    work: W,
) -> impl Future<Output = ()> + Send + use<W, F>
where
    W: FnMut(Leadership) -> F + Send,
    F: Future<Output = ()> + Send,
{
    let (coordinator, stop) = (Arc::clone(coordinator), stop.clone());
    async move { while_leading(&coordinator, stop, work).await }
}

/// The election that the configuration asks for. Its timings are never divided: replicas must agree on them.
fn coordinator(
    config: &Config,
    lease: Option<Arc<dyn db::Table>>,
    clock: &Arc<dyn Clock>,
    rng: &Arc<dyn Rng>,
    metrics: &Metrics,
) -> Coordinator {
    let Some(table) = lease else { return Coordinator::alone(Arc::clone(clock), metrics.clone()) };
    let settings = coordinator::Settings {
        name: config.core.replica_id.clone(),
        host: host(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        timings: coordinator::Timings::PRODUCTION,
    };
    let (clock, rng) = (Arc::clone(clock), Arc::clone(rng));
    let parts = coordinator::Parts { table, clock, mono: Arc::new(BootClock), rng, metrics: metrics.clone() };
    Coordinator::elected(settings, parts)
}

/// Waits for the main queue: a moment's throttling is no reason not to start.
async fn answering(main: &dyn Queue) -> Result<(), queue::Error> {
    for _ in 1..STARTS {
        match main.ping().await {
            Err(error) if error.is_retryable() => warn!(%error, "the main queue does not answer yet"),
            answer => return answer,
        }
        tokio::time::sleep(TICK).await;
    }
    main.ping().await
}

fn config_warnings(loaded: &Loaded) -> Vec<ConfigWarning> {
    let warnings = loaded.problems.iter().filter(|p| !p.code.is_error());
    warnings
        .flat_map(|p| {
            p.variables.iter().map(|name| ConfigWarning { code: p.code.as_str().to_owned(), name: name.clone() })
        })
        .collect()
}

#[allow(clippy::too_many_arguments, reason = "the parts of the one listener, named once")]
fn app(
    config: &Config,
    dispatch: &Arc<Dispatch>,
    secrets: github::webhook::Secrets,
    queues: Vec<WatchedQueue>,
    about: About,
    health: &Arc<Health>,
    metrics: Metrics,
    closing: &CancellationToken,
) -> Router {
    let state = AdminState {
        dispatch: Arc::clone(dispatch),
        queues,
        access: if config.local { Access::Open } else { Access::Closed },
        about,
        stop: closing.clone(),
    };
    let mut app = dispatch::http::router(Arc::clone(dispatch), secrets)
        .merge(http::health(Arc::clone(health)))
        .merge(admin::router(state));
    if config.local {
        app = app.merge(admin::root_redirect());
    }
    let path = config.metrics.prometheus_path.as_deref().or(config.local.then_some("/metrics"));
    if let Some(path) = path {
        app = app.merge(http::metrics(path, metrics.clone()));
    }
    app.layer(axum::middleware::from_fn_with_state(metrics, http::counted))
}

/// Tells operators what the App lacks, in words; a call that fails later says it less well.
async fn check_app(dispatch: Arc<Dispatch>) {
    match dispatch.ports().github.app().await {
        Ok(app) => {
            for missing in app.missing() {
                warn!(app = app.slug, missing, "the GitHub App lacks something it needs");
            }
        }
        Err(error) => warn!(%error, "the GitHub App could not be checked"),
    }
}

async fn watchdog(health: Arc<Health>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => health.tick(),
        }
    }
}

async fn wait_for_signal() -> anyhow::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// An impatient operator.
async fn second_signal() {
    if wait_for_signal().await.is_err() {
        std::future::pending::<()>().await;
    }
}
