//! A replica of the orchestrator: its processes, one after the other.
//!
//! Built as the server builds it, on the ports of the world. A process that dies is replaced after a while, as a
//! container service does; one that is told to stop drains first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use config::HotPoolCaps;
use coordinator::{Coordinator, Leadership};
use db::{Circuits, Claims, Jobs, Locks, Markers, Pools, Runners, Table, Tasks};
use dispatch::sweeps::{self, Sweep};
use dispatch::{Dispatch, Events, Ports, Reports, Settings, Worker, http};
use domain::clock::{Clock, Rng, SignedDuration};
use domain::timings::Timings;
use fleet::{Breaker, Ec2Compute};
use github::client::{Client, ClientConfig};
use github::labels::Aliases;
use github::mint;
use github::webhook::Secrets;
use housekeeping::{Housekeeping, Requests};
use jiff::tz::TimeZone;
use pools::WarmPools;
use provider::{Compute, HandOver};
use queue::{Consumer, ConsumerConfig, Handler, Queue};
use secrecy::SecretString;
use telemetry::Metrics;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::clock::{SkewedClock, WorldMono};
use super::happening::{Happening, Scene};
use super::mutation::Mutation;
use super::ports::ec2::ProcessEc2;
use super::ports::github::Line;
use super::ports::hand_over::{HandOvers, ProcessHandOver};
use super::ports::queue::{Post, ProcessQueue};
use super::ports::table::{ProcessTable, Store};
use super::process::{Calls, Course, Fate, Mishap, Port, Process, Weather};
use crate::cloud::Cloud;
use crate::github::http::APP_PRIVATE_KEY;
use crate::github::line::GitHub;

/// What all replicas share: the world outside of them.
#[derive(Clone)]
pub struct Outside {
    /// GitHub.
    pub github: Arc<GitHub>,
    /// EC2.
    pub cloud: Arc<Cloud>,
    /// The table.
    pub store: Arc<Store>,
    /// The store of hand-overs.
    pub documents: Arc<HandOvers>,
    /// Wake-ups.
    pub main: Arc<dyn Queue>,
    /// Wake-ups that were delivered in vain.
    pub dead_letters: Arc<dyn Queue>,
    /// What machines say.
    pub reports: Arc<dyn Queue>,
    /// What the cloud says.
    pub events: Arc<dyn Queue>,
    /// Runs of tasks that people ask for.
    pub requests: Arc<dyn Queue>,
    /// How queues behave.
    pub post: Arc<Mutex<Post>>,
    /// Ports that are down.
    pub weather: Weather,
    /// The right time.
    pub clock: Arc<dyn Clock>,
    /// Who watches.
    pub scene: Scene,
    /// Port calls.
    pub calls: Arc<Calls>,
    /// What webhooks are signed with.
    pub webhook_secret: SecretString,
    /// Numbers; nobody reads them.
    pub metrics: Metrics,
    /// The subnets machines are launched in.
    pub subnets: Vec<String>,
    /// A deliberate bug.
    pub mutation: Option<Mutation>,
    /// Replicas as candidates for leadership.
    pub candidates: Arc<Candidates>,
    /// How long spares may linger. `None`: they do not.
    pub hot: Option<HotPoolCaps>,
}

/// The processes that live, as candidates for leadership.
#[derive(Default)]
pub struct Candidates(Mutex<Vec<(usize, Arc<Coordinator>)>>);

impl Candidates {
    fn set(&self, replica: usize, coordinator: Option<&Arc<Coordinator>>) {
        let mut all = lock(&self.0);
        all.retain(|(number, _)| *number != replica);
        all.extend(coordinator.map(|coordinator| (replica, Arc::clone(coordinator))));
    }

    /// How many others believe that they lead.
    fn besides(&self, replica: usize) -> usize {
        lock(&self.0).iter().filter(|(number, other)| *number != replica && other.is_leader()).count()
    }
}

/// How often calls go wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Odds {
    /// A call is refused.
    pub refused: f64,
    /// Its answer is lost.
    pub lost: f64,
    /// It takes seconds.
    pub slow: f64,
    /// Calls of the store and of queues take milliseconds, instead of none.
    pub latency: bool,
    /// The process dies before or after it.
    pub dies: f64,
    /// The process stands still before it.
    pub freezes: f64,
}

/// The fate of a replica's processes, drawn call by call.
pub struct Chances {
    replica: usize,
    odds: Odds,
    rng: Arc<dyn Rng>,
    trouble: AtomicBool,
    scene: Scene,
}

impl Chances {
    /// Drawn from `rng`.
    pub fn new(replica: usize, odds: Odds, rng: Arc<dyn Rng>, scene: Scene) -> Arc<Self> {
        Arc::new(Self { replica, odds, rng, trouble: AtomicBool::new(true), scene })
    }

    /// From here on nothing goes wrong.
    pub fn calm(&self) {
        self.trouble.store(false, Ordering::Relaxed);
    }

    /// How long a call takes on a good day.
    fn usual(&self, port: Port, call: &'static str) -> Duration {
        let ms = |least: f64, most: f64| Duration::from_secs_f64((least + (most - least) * self.rng.unit()) / 1000.0);
        match (port, call) {
            (Port::Compute, "ec2.create_fleet") => ms(900.0, 2500.0),
            (Port::Compute, _) => ms(60.0, 250.0),
            (Port::GitHub, _) => ms(80.0, 300.0),
            (Port::HandOver, _) => ms(20.0, 60.0),
            (Port::Store | Port::Queue, _) if self.odds.latency => ms(1.0, 12.0),
            (Port::Store | Port::Queue, _) => Duration::ZERO,
        }
    }
}

impl Fate for Chances {
    fn course(&self, port: Port, call: &'static str) -> Course {
        let there = self.usual(port, call);
        if !self.trouble.load(Ordering::Relaxed) || self.odds == Odds::default() {
            return Course { there, ..Course::default() };
        }
        let mut course = Course { there, ..Course::default() };
        if self.odds.slow > 0.0 && self.rng.unit() < self.odds.slow {
            let late = Duration::from_secs_f64(8.0 * self.rng.unit().powi(2));
            if self.rng.unit() < 0.5 {
                course.there += late;
            } else {
                course.back += late;
            }
        }
        let mut dice = self.rng.unit();
        let half = self.odds.dies / 2.0;
        for (odds, mishap) in [
            (self.odds.refused, Mishap::Refuse),
            (self.odds.lost, Mishap::LoseAnswer),
            (half, Mishap::DieBefore),
            (half, Mishap::DieAfter),
            (self.odds.freezes, Mishap::Freeze),
        ] {
            if dice < odds {
                course.mishap = Some(mishap);
                break;
            }
            dice -= odds;
        }
        course
    }

    fn struck(&self, call: &'static str, what: &'static str) {
        self.scene.happened(&Happening::Mishap { replica: self.replica, call, what });
    }
}

/// One life.
pub struct Life {
    /// How its calls go.
    pub process: Arc<Process>,
    /// Takes its webhooks.
    pub router: Router,
    /// What lives.
    pub dispatch: Arc<Dispatch>,
    coordinator: Arc<Coordinator>,
    tasks: JoinSet<()>,
    upkeep: JoinSet<()>,
    stop: CancellationToken,
}

/// A replica.
pub struct Replica {
    /// Its number, from 0.
    pub number: usize,
    outside: Outside,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    /// What goes wrong in it.
    pub chances: Arc<Chances>,
    lives: u32,
    permits: usize,
}

impl Replica {
    /// A replica without a process.
    pub fn new(
        number: usize,
        outside: Outside,
        skew: SignedDuration,
        odds: Odds,
        rng: Arc<dyn Rng>,
        permits: usize,
    ) -> Self {
        let clock: Arc<dyn Clock> = match skew.is_zero() {
            true => Arc::clone(&outside.clock),
            false => Arc::new(SkewedClock { right: Arc::clone(&outside.clock), skew }),
        };
        let chances = Chances::new(number, odds, Arc::clone(&rng), outside.scene.clone());
        Self { number, outside, clock, rng, chances, lives: 0, permits }
    }

    fn queue(&self, process: &Arc<Process>, queue: &Arc<dyn Queue>) -> Arc<dyn Queue> {
        let outside = &self.outside;
        let (scene, post) = (outside.scene.clone(), Arc::clone(&outside.post));
        let rng = Arc::clone(&self.rng);
        ProcessQueue::new(Arc::clone(process), Arc::clone(queue), scene, rng, post, outside.mutation)
    }

    /// A new process, with consumers, sweeps and a door for webhooks.
    ///
    /// # Errors
    /// The client refuses its own configuration: a mistake in this file.
    pub fn start(&mut self) -> Result<Life, github::client::ConfigError> {
        self.lives += 1;
        let outside = &self.outside;
        let fate: Arc<dyn Fate> = Arc::clone(&self.chances) as Arc<dyn Fate>;
        let process = Process::fated(outside.weather.clone(), Arc::clone(&outside.calls), fate);
        let (clock, rng) = (Arc::clone(&self.clock), Arc::clone(&self.rng));
        let table: Arc<dyn Table> = Arc::new(ProcessTable {
            process: Arc::clone(&process),
            store: Arc::clone(&outside.store),
            mutation: outside.mutation,
        });
        let app = ClientConfig {
            app_id: 1,
            private_key: SecretString::from(APP_PRIVATE_KEY),
            api_url: "https://api.github.com".to_owned(),
            version: "0.0.0".to_owned(),
        };
        let line =
            Line { process: Arc::clone(&process), github: Arc::clone(&outside.github), mutation: outside.mutation };
        let client = Client::new(&app, Arc::new(line), Arc::clone(&clock), Arc::clone(&rng))?;
        let ec2 = ProcessEc2 {
            process: Arc::clone(&process),
            cloud: Arc::clone(&outside.cloud),
            rng: Arc::clone(&rng),
            mutation: outside.mutation,
        };
        let circuits = Arc::new(Circuits::new(Arc::clone(&table), Arc::clone(&rng)));
        let settings = fleet::Settings {
            launch_template: "runs-fleet-runner".to_owned(),
            spot_enabled: true,
            default_subnets: outside.subnets.clone(),
            ..fleet::Settings::default()
        };
        let breaker = Breaker::new(circuits, Arc::clone(&clock), outside.metrics.clone());
        let compute = Arc::new(Ec2Compute::new(
            Arc::new(ec2),
            settings,
            Some(breaker),
            Arc::clone(&clock),
            Arc::clone(&rng),
            outside.metrics.clone(),
        ));
        let main = self.queue(&process, &outside.main);
        let hand_over = ProcessHandOver {
            process: Arc::clone(&process),
            documents: Arc::clone(&outside.documents),
            scene: outside.scene.clone(),
            mutation: outside.mutation,
        };
        let hand_over: Arc<dyn HandOver> = Arc::new(hand_over);
        let jobs = Jobs::new(Arc::clone(&table), Arc::clone(&clock));
        let name = format!("replica-{}-{}", self.number, self.lives);
        let warm = WarmPools::new(
            pools::Ports {
                pools: Pools::new(Arc::clone(&table), Arc::clone(&clock)),
                locks: Locks::new(Arc::clone(&table), Arc::clone(&clock)),
                claims: Claims::new(Arc::clone(&table), Arc::clone(&clock)),
                jobs: jobs.clone(),
                compute: Arc::clone(&compute) as Arc<dyn Compute>,
                hand_over: Arc::clone(&hand_over),
                clock: Arc::clone(&clock),
                rng: Arc::clone(&rng),
                metrics: outside.metrics.clone(),
            },
            pools::Settings {
                owner: name.clone(),
                zone: TimeZone::UTC,
                hot: outside.hot,
                times: pools::Times::PRODUCTION,
            },
        );
        let coordinator = self.coordinator(&name, &table);
        let ports = Ports {
            jobs,
            runners: Runners::new(Arc::clone(&table), Arc::clone(&clock)),
            markers: Markers::new(Arc::clone(&table), Arc::clone(&clock)),
            main: Arc::clone(&main),
            dead_letters: Some(self.queue(&process, &outside.dead_letters)),
            compute: compute.clone(),
            pools: Some(Arc::clone(&warm)),
            hand_over,
            github: Arc::new(client),
            clock: Arc::clone(&clock),
            rng: Arc::clone(&rng),
            metrics: outside.metrics.clone(),
        };
        let dispatch = Dispatch::new(ports, settings_of(name.clone()));
        let secrets = Secrets { current: outside.webhook_secret.clone(), previous: None };
        let (stop, mut tasks, mut upkeep) = (CancellationToken::new(), JoinSet::new(), JoinSet::new());
        let mut consume = |queue: Arc<dyn Queue>, permits: usize, handler: Arc<dyn Handler>| {
            let mut consuming = ConsumerConfig::new(permits);
            consuming.deadline = Timings::PRODUCTION.process + Timings::PRODUCTION.cleanup * 2;
            tasks.spawn(Consumer::new(queue, consuming, handler, Arc::clone(&rng)).run(stop.clone()));
        };
        consume(self.queue(&process, &outside.reports), SIGNALS, Arc::new(Reports(Arc::clone(&dispatch))));
        consume(self.queue(&process, &outside.events), SIGNALS, Arc::new(Events(Arc::clone(&dispatch))));
        let worker = Arc::new(Worker { dispatch: Arc::clone(&dispatch), secrets: secrets.clone() });
        consume(main, self.permits, worker);
        upkeep.spawn(async move { compute.maintain().await });
        let until = stop.clone();
        let demanded = Arc::clone(&warm);
        tasks.spawn(async move { demanded.run_demand(until).await });
        let keeper = Housekeeping::new(
            housekeeping::Ports {
                dispatch: Arc::clone(&dispatch),
                tasks: Tasks::new(Arc::clone(&table), Arc::clone(&clock)),
                locks: Locks::new(Arc::clone(&table), Arc::clone(&clock)),
                claims: Claims::new(Arc::clone(&table), Arc::clone(&clock)),
                pools: Arc::new(Pools::new(table, Arc::clone(&clock))),
                archive: None,
            },
            keeping(name, outside.hot),
        );
        let sweeping = Arc::clone(&dispatch);
        let which = Mutation::sweeps(outside.mutation);
        if which.len() < Sweep::ALL.len() {
            // What is left out may be a task: then everything runs as loops do, everywhere.
            let until = stop.clone();
            tasks.spawn(async move { sweeps::run_some(sweeping, &which, until).await });
        } else {
            tasks.spawn(
                coordinator.lead(&stop, move |term| sweeps::run_some(Arc::clone(&sweeping), Sweep::LOOPS, term.over())),
            );
            let requests = Arc::new(Requests { keeper: Arc::clone(&keeper), stop: stop.clone() });
            let queue = self.queue(&process, &outside.requests);
            tasks.spawn(Consumer::new(queue, Requests::consuming(), requests, Arc::clone(&rng)).run(stop.clone()));
            tasks.spawn(coordinator.lead(&stop, move |term| Arc::clone(&keeper).lead(term)));
        }
        tasks.spawn(coordinator.lead(&stop, move |term| {
            let warm = Arc::clone(&warm);
            async move { warm.run_leader(term).await }
        }));
        tasks.spawn(elect(Arc::clone(&coordinator), stop.clone()));
        outside.candidates.set(self.number, Some(&coordinator));
        tasks.spawn(watch(self.number, Arc::clone(&coordinator), outside.clone(), stop.clone()));
        let router = match outside.mutation {
            Some(Mutation::DropWebhooks) => Router::new().fallback(|| async {}),
            _ => http::router(Arc::clone(&dispatch), secrets),
        };
        outside.scene.happened(&Happening::ReplicaStarted { replica: self.number });
        Ok(Life { process, router, dispatch, coordinator, tasks, upkeep, stop })
    }

    /// A candidate for leadership.
    fn coordinator(&self, name: &str, table: &Arc<dyn Table>) -> Arc<Coordinator> {
        let settings = coordinator::Settings {
            name: name.to_owned(),
            host: name.to_owned(),
            version: "0.0.0".to_owned(),
            timings: coordinator::Timings { watch: WATCH, ..coordinator::Timings::PRODUCTION },
        };
        let parts = coordinator::Parts {
            table: Arc::clone(table),
            clock: Arc::clone(&self.clock),
            mono: WorldMono::starting_now(),
            rng: Arc::clone(&self.rng),
            metrics: self.outside.metrics.clone(),
        };
        Arc::new(Coordinator::elected(settings, parts))
    }

    /// SIGKILL, or the death that a call brought.
    pub async fn end(&self, mut life: Life) {
        life.process.die();
        self.outside.candidates.set(self.number, None);
        let during = life.process.died_during();
        life.tasks.shutdown().await;
        life.upkeep.shutdown().await;
        self.outside.scene.happened(&Happening::ReplicaDied { replica: self.number, during });
    }

    /// SIGTERM: drains, and is killed when that takes too long.
    pub async fn stop(&self, mut life: Life) {
        life.stop.cancel();
        let given_up = Arc::clone(&life.coordinator);
        life.tasks.spawn(async move { given_up.stop(Duration::from_secs(1)).await });
        life.dispatch.drain();
        let drained = async {
            while life.tasks.join_next().await.is_some() {}
            life.dispatch.finish().await;
        };
        let limit = Timings::PRODUCTION.process + Duration::from_secs(10);
        let clean = tokio::select! {
            biased;
            () = life.process.died() => false,
            ended = tokio::time::timeout(limit, drained) => ended.is_ok(),
        };
        if clean {
            life.process.die();
            self.outside.candidates.set(self.number, None);
            life.upkeep.shutdown().await;
            self.outside.scene.happened(&Happening::ReplicaStopped { replica: self.number });
        } else {
            self.end(life).await;
        }
    }
}

/// Messages about machines that are worked on at a time, as in the server.
const SIGNALS: usize = 10;

/// A follower looks less often than in production: a look changes nothing, and costs.
const WATCH: Duration = Duration::from_secs(5);
/// Runtime ceiling of a job.
const MAX_RUNTIME: Duration = Duration::from_secs(6 * 3600);

/// Runs for election as soon as the store answers.
async fn elect(coordinator: Arc<Coordinator>, stop: CancellationToken) {
    while coordinator.start().await.is_err() {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
    }
}

/// Tells of every term, and who else believes to lead at its begin.
async fn watch(replica: usize, coordinator: Arc<Coordinator>, outside: Outside, stop: CancellationToken) {
    let (mut terms, mut last) = (coordinator.leadership(), None);
    loop {
        let token = terms.latest().as_ref().map(Leadership::token);
        if let Some(token) = token.filter(|token| last != Some(*token)) {
            last = Some(token);
            let others = outside.candidates.besides(replica);
            outside.scene.happened(&Happening::Led { replica, token, others });
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = terms.changed() => {}
        }
    }
}

fn keeping(owner: String, hot_pools: Option<HotPoolCaps>) -> housekeeping::Settings {
    housekeeping::Settings {
        divisor: 1,
        owner,
        max_runtime: MAX_RUNTIME,
        unclaimed_grace: housekeeping::Settings::UNCLAIMED_GRACE,
        completed_grace: housekeeping::Settings::COMPLETED_GRACE,
        stopped_grace: None,
        hot_pools,
        hard_delete: false,
    }
}

fn settings_of(owner: String) -> Settings {
    Settings {
        timings: Timings::PRODUCTION,
        owner,
        aliases: Aliases::none(),
        allowed_repos: Vec::new(),
        rerun_interrupted: true,
        max_runtime: MAX_RUNTIME,
        jobs_per_minute: 0,
        registration: mint::Registration::Jit,
        hand_over: mint::Settings { max_runtime_minutes: 360, idle_exit_seconds: 600, ..mint::Settings::default() },
        batch_max: Settings::BATCH_MAX,
        batch_linger: Settings::BATCH_LINGER,
        report_tokens: None,
        cache: None,
        require_report_token: false,
        account: Some("123456789012".to_owned()),
    }
}

/// Locks without minding a panic elsewhere.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
