//! One world from its beginning to its rest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use db::schema::{self, JOBS, RUNNERS};
use db::table::{Cond, Query, Schema, Value};
use db::{Memory, Table};
use domain::clock::{self, Clock, Rng};
use domain::ids::{InstallationId, Repo, RunId};
use domain::job::JobState;
use domain::runner::RunnerState;
use fleet::ec2::Subnet;
use queue::{MemoryQueues, QueueConfig};
use secrecy::SecretString;
use telemetry::Metrics;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::agents::{self, Agents};
use super::announcements::{self, Announcements, Told};
use super::clock::WorldClock;
use super::happening::{Happening, Scene, Witness};
use super::invariants::{Bounds, Invariants, Violation};
use super::journal::{Journal, Keep};
use super::mutation::Mutation;
use super::ports::github::Told as GitHubTold;
use super::ports::hand_over::HandOvers;
use super::ports::queue::Post;
use super::ports::table::Store;
use super::process::{Calls, Port, Weather};
use super::replica::{Candidates, Odds, Outside, Replica, lock};
use super::requests;
use super::scenario::{Day, Faults, Hour, Load, Scenario, Work, chance};
use super::spares::Operator;
use super::summary::{Series, Summary, Tally};
use super::week::{self, Bursts};
use crate::cloud::{self, Asked, Cloud};
use crate::github::line::{GitHub, Trouble, Usage};
use crate::github::model::{OwnerKind, Settings};

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is drawn from.
    pub seed: u64,
    /// Jobs asked for; re-runs come on top.
    pub jobs: u64,
    /// Replicas of the orchestrator, 1 to 3.
    pub replicas: usize,
    /// What goes wrong.
    pub faults: Faults,
    /// What is kept of what happened.
    pub keep: Keep,
    /// What people do.
    pub work: Work,
    /// A deliberate bug.
    pub mutation: Option<Mutation>,
}

/// What came of it.
pub struct Outcome {
    /// The numbers.
    pub summary: Summary,
    /// The same over time.
    pub series: Series,
    /// Port calls.
    pub calls: Vec<(&'static str, u64)>,
    /// The most that any installation asked of GitHub.
    pub github_usage: Usage,
    /// What was asked of EC2.
    pub ec2_usage: BTreeMap<&'static str, Asked>,
    /// What must never happen, and did.
    pub violations: Vec<Violation>,
    /// What happened.
    pub journal: Arc<Journal>,
}

/// Runs a world. Blocks; time in it is not ours.
///
/// # Errors
/// The runtime cannot be built.
pub fn run(options: &Options) -> std::io::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    // Inside, where time is not real.
    Ok(runtime.block_on(async { World::new(options).play(options).await }))
}

/// Doors of the replicas that live, by number.
type Doors = Arc<Mutex<Vec<Option<Router>>>>;

struct World {
    scenario: Scenario,
    outside: Outside,
    operator: Operator,
    agents: Arc<Agents>,
    announcements: Arc<Announcements>,
    journal: Arc<Journal>,
    invariants: Arc<Invariants>,
    tally: Arc<Tally>,
    began: Instant,
    loaded: Arc<AtomicBool>,
}

/// Accounts of a bad hour, and of a day.
const ACCOUNTS: (usize, usize) = (2, 64);
const ZONES: [&str; 3] = ["eu-1a", "eu-1b", "eu-1c"];
/// How long settled rows of a day are kept.
const KEPT: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// How often the world looks whether it is at rest.
const LOOK: Duration = Duration::from_secs(20);
/// Within which pools have the spares they should have, once there is no work.
const CONVERGED: Duration = Duration::from_secs(60 * 60);

impl World {
    fn new(options: &Options) -> Self {
        let seed = options.seed;
        let accounts = if options.work.is_of_many() { ACCOUNTS.1 } else { ACCOUNTS.0 };
        let mut scenario = Scenario::draw(seed, options.replicas, options.faults, accounts);
        scenario.pools &= options.work == Work::Hour;
        if let Some(days) = options.work.days().filter(|_| options.faults.any()) {
            scenario.trouble = DAY * u32::try_from(days).unwrap_or(1);
        }
        let clock: Arc<dyn Clock> = WorldClock::starting_now();
        let journal = Journal::new(options.keep);
        let bounds =
            if options.work.is_of_many() { Bounds { row_kept: KEPT, ..Bounds::default() } } else { Bounds::default() };
        let invariants = Invariants::new(bounds);
        let tally = Tally::new(seed, WorldClock::beginning());
        let witnesses: Vec<Arc<dyn Witness>> = vec![tally.clone(), journal.clone(), invariants.clone()];
        let scene = Scene::new(Arc::clone(&clock), witnesses);

        let queues = MemoryQueues::new(Arc::clone(&clock), chance(seed, "queues"));
        let dead = QueueConfig::fifo("main-dlq").retention(14 * DAY);
        let main = queues.queue(QueueConfig::fifo("main").dead_letters(&dead, 5));
        let reports = queues.queue(QueueConfig::fifo("termination").retention(4 * DAY));
        let events = queues.queue(QueueConfig::standard("events"));
        let store = Store::new(&clock, chance(seed, "store"), scene.clone(), scenario.faults.network);
        let cloud = Cloud::seeded(nature_of_cloud(&scenario), Arc::clone(&clock), chance(seed, "cloud"));
        let webhook_secret = SecretString::from("It's a Secret to Everybody");
        let github = GitHub::new(
            nature_of_github(&scenario),
            chance(seed, "github"),
            Arc::clone(&clock),
            webhook_secret.clone(),
        );
        github.watched(Arc::new(GitHubTold(scene.clone())));
        github.with(|model, _| {
            for repo in &scenario.repos {
                model.add_repository(repo.clone(), OwnerKind::Organization);
            }
        });
        let documents = Arc::new(HandOvers::default());
        let outside = Outside {
            github: Arc::clone(&github),
            cloud: Arc::clone(&cloud),
            store,
            documents: Arc::clone(&documents),
            main,
            dead_letters: queues.queue(dead),
            reports: Arc::clone(&reports),
            events: Arc::clone(&events),
            requests: queues.queue(QueueConfig::standard("housekeeping")),
            post: Arc::default(),
            weather: Weather::default(),
            clock: Arc::clone(&clock),
            scene: scene.clone(),
            calls: Arc::new(Calls::default()),
            webhook_secret,
            metrics: Metrics::new(),
            mutation: options.mutation,
            candidates: Arc::new(Candidates::default()),
            hot: options.work.days().map(|_| week::CAPS),
            subnets: ZONES.iter().map(|zone| format!("subnet-{zone}")).collect(),
        };
        cloud.host(Arc::new(Told(scene.clone())));
        let announcements = Announcements::new(events, chance(seed, "events"), announcements::Settings::default());
        cloud.host(announcements.clone());
        let agents = Agents::new(
            github,
            documents,
            reports,
            Arc::clone(&cloud),
            clock,
            chance(seed, "agents"),
            scene,
            agents::Nature::default(),
        );
        cloud.host(agents.clone());
        let (began, loaded) = (Instant::now(), Arc::default());
        let operator =
            Operator::new(Arc::clone(&outside.store), Arc::clone(&outside.cloud), Arc::clone(&outside.clock));
        Self { scenario, outside, operator, agents, announcements, journal, invariants, tally, began, loaded }
    }

    async fn play(self, options: &Options) -> Outcome {
        let mut around = JoinSet::new();
        around.spawn(Arc::clone(&self.outside.github).run());
        around.spawn(Arc::clone(&self.outside.cloud).run());
        self.stir_up();
        let opened = match options.work {
            Work::Hour if self.scenario.pools => self.operator.open().await,
            Work::Week | Work::Bursts(_) => week::open(&self.operator, options.work.warmth()).await,
            Work::Hour | Work::Day | Work::Steady(_) => Ok(()),
        };
        if let Err(error) = opened {
            self.outside.scene.happened(&Happening::PoolMissed { what: &error.to_string() });
        }
        let stop = CancellationToken::new();
        let doors: Doors = Arc::new(Mutex::new(vec![None; options.replicas]));
        let mut replicas = JoinSet::new();
        let mut chances = Vec::new();
        for (number, skew) in self.scenario.skews.iter().enumerate() {
            let (odds, rng) = (odds(&self.scenario), chance(self.scenario.seed, &format!("replica {number}")));
            let permits = if options.work.is_of_many() { 512 } else { 20 };
            let replica = Replica::new(number, self.outside.clone(), *skew, odds, rng, permits);
            chances.push(Arc::clone(&replica.chances));
            let fates = Fates {
                rng: chance(self.scenario.seed, &format!("fate {number}")),
                crashes: self.scenario.faults.crashes,
                trouble: self.began + self.scenario.trouble,
            };
            let github = Arc::clone(&self.outside.github);
            replicas.spawn(live(replica, fates, Arc::clone(&doors), github, stop.clone()));
        }
        let load: Box<dyn Load> = match options.work {
            Work::Hour => Box::new(Hour::new(&self.scenario, options.jobs)),
            Work::Day => Box::new(Day::new(&self.scenario, options.jobs, None)),
            Work::Steady(per_minute) => Box::new(Day::new(&self.scenario, options.jobs, Some(per_minute))),
            work @ (Work::Week | Work::Bursts(_)) => {
                Box::new(Bursts::new(&self.scenario, work.days().unwrap_or(1), work.warmth()))
            }
        };
        around.spawn(submit(load, Arc::clone(&self.outside.github), self.began, Arc::clone(&self.loaded)));
        if self.scenario.faults.network {
            let rng = chance(self.scenario.seed, "outages");
            around.spawn(outages(self.outside.weather.clone(), rng, self.began + self.scenario.trouble));
        }
        if options.work == Work::Hour {
            let (requests, clock) = (Arc::clone(&self.outside.requests), Arc::clone(&self.outside.clock));
            around.spawn(requests::ask(requests, clock, chance(self.scenario.seed, "requests")));
        }
        if options.work.is_of_many() {
            around.spawn(collect(Arc::clone(&self.outside.store), Arc::clone(&self.outside.clock)));
        }
        tokio::time::sleep_until(self.began + self.scenario.trouble).await;
        self.calm_down();
        for chances in chances {
            chances.calm();
        }
        self.outside.scene.happened(&Happening::Healthy);
        self.settle().await;
        stop.cancel();
        while replicas.join_next().await.is_some() {}
        let now = self.outside.clock.now();
        self.invariants.quiesce(now);
        let calls = Port::ALL.map(|port| (port.as_str(), self.outside.calls.of(port))).to_vec();
        let violations = self.invariants.violations();
        let summary = self.tally.summary(now, &self.outside.cloud.ledger(), violations.len() as u64);
        let github_usage = self.outside.github.usage().values().fold(Usage::default(), |most, usage| Usage {
            requests_per_hour: most.requests_per_hour.max(usage.requests_per_hour),
            changes_per_minute: most.changes_per_minute.max(usage.changes_per_minute),
        });
        let ec2_usage = self.outside.cloud.asked();
        let series = self.tally.series();
        around.shutdown().await;
        self.outside.cloud.turn_out();
        Outcome { summary, series, calls, github_usage, ec2_usage, violations, journal: self.journal }
    }

    /// Trouble that is not drawn call by call begins.
    fn stir_up(&self) {
        let Faults { network, cloud, github, .. } = self.scenario.faults;
        if network {
            *lock(&self.outside.post) = Post { forgets: 0.01, repeats: 0.02 };
        }
        if cloud {
            self.agents.change(|nature| *nature = agents::Nature::troubled());
            self.announcements.change(|settings| *settings = announcements::Settings::troubled());
        }
        if github {
            self.outside.github.trouble(Trouble {
                fails: 0.08,
                doubled: 0.08,
                late: 0.08,
                answer_lost: 0.04,
                errors: 0.02,
            });
        }
    }

    /// From here on everything outside works as it should.
    fn calm_down(&self) {
        *lock(&self.outside.post) = Post::default();
        for port in Port::ALL {
            self.outside.weather.up(port);
        }
        self.agents.change(|nature| *nature = agents::Nature::default());
        self.announcements.change(|settings| *settings = announcements::Settings::default());
        self.outside.github.trouble(Trouble::default());
        self.outside.cloud.change(|world| {
            world.droughts.clear();
            world.partial = 0.0;
        });
        self.outside.cloud.spare();
        self.outside.store.catch_up();
    }

    /// Until nothing is left to do, or patience ends.
    async fn settle(&self) {
        if !self.quiet(true).await {
            return;
        }
        if self.scenario.pools {
            let limit = Instant::now() + CONVERGED;
            while let Some(unmet) = self.operator.unmet() {
                if Instant::now() > limit {
                    self.outside.scene.happened(&Happening::PoolMissed { what: &unmet });
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        if let Err(error) = self.operator.close().await {
            self.outside.scene.happened(&Happening::PoolMissed { what: &error.to_string() });
        }
        self.quiet(false).await;
    }

    /// Waits until there is no work; with `spares`, those of pools are none. Not for ever, and not once an invariant is
    /// broken.
    async fn quiet(&self, spares: bool) -> bool {
        let mut limit = Instant::now() + self.scenario.patience;
        loop {
            tokio::time::sleep(LOOK).await;
            self.invariants.tick(self.outside.clock.now());
            let loaded = self.loaded.load(Ordering::Relaxed);
            if !loaded {
                limit = Instant::now() + self.scenario.patience;
            }
            if Instant::now() > limit || self.invariants.is_broken() {
                return false;
            }
            if loaded && self.invariants.is_quiet(spares) {
                return true;
            }
        }
    }
}

fn nature_of_cloud(scenario: &Scenario) -> cloud::World {
    let subnet =
        |zone: &&str| Subnet { id: format!("subnet-{zone}"), zone: (*zone).to_owned(), free_addresses: 60_000 };
    let mut world = cloud::World {
        subnets: ZONES.iter().map(subnet).collect(),
        boot: Some(cloud::Boot::default()),
        ..cloud::World::default()
    };
    if scenario.faults.cloud {
        world.invisible = Duration::from_secs(5);
        world.partial = 0.15;
        world.reclaims_per_hour = 2.0;
        world.unwarned = 0.3;
        let rng = chance(scenario.seed, "droughts");
        world.droughts = (0..3).map(|_| drought(&*rng, scenario.trouble)).collect();
    }
    world
}

fn drought(rng: &dyn Rng, trouble: Duration) -> cloud::Drought {
    let from = trouble.mul_f64(rng.unit());
    let length = Duration::from_secs_f64(60.0 + 1200.0 * rng.unit());
    let until = (from + length).min(trouble);
    let at = |after| clock::after(WorldClock::beginning(), after);
    let zone = (rng.unit() < 0.5).then(|| ZONES[(rng.next_u64() % 3) as usize].to_owned());
    let spot = match rng.unit() {
        u if u < 0.6 => Some(true),
        u if u < 0.8 => None,
        _ => Some(false),
    };
    cloud::Drought { instance_type: None, zone, spot, from: at(from), until: at(until) }
}

fn nature_of_github(scenario: &Scenario) -> Settings {
    let installation = InstallationId::new(1).unwrap_or_else(|| unreachable!("1 is an id"));
    let mut settings = Settings::new("https://api.github.com", installation, 1_000_001);
    settings.theft = if scenario.faults.github { 0.3 } else { 0.0 };
    settings.runner_lost_after = Duration::from_secs(600);
    if scenario.faults.github {
        settings.busy_lag = Duration::from_secs(30);
    }
    settings
}

fn odds(scenario: &Scenario) -> Odds {
    let Faults { network, crashes, .. } = scenario.faults;
    Odds {
        refused: if network { 0.01 } else { 0.0 },
        lost: if network { 0.01 } else { 0.0 },
        slow: if network { 0.02 } else { 0.0 },
        latency: network,
        dies: if crashes { 0.000_6 } else { 0.0 },
        freezes: if crashes { 0.000_2 } else { 0.0 },
    }
}

/// What comes over a replica from outside.
struct Fates {
    rng: Arc<dyn Rng>,
    crashes: bool,
    trouble: Instant,
}

impl Fates {
    fn between(&self, least: f64, most: f64) -> Duration {
        Duration::from_secs_f64(least + (most - least) * self.rng.unit())
    }

    /// Until somebody stops or kills it; never, when all is well.
    async fn deployed(&self) -> bool {
        if self.crashes {
            tokio::time::sleep(self.between(60.0, 1800.0)).await;
            if Instant::now() < self.trouble {
                return self.rng.unit() < 0.6;
            }
        }
        std::future::pending().await
    }
}

/// The lives of a replica, until the world ends.
async fn live(mut replica: Replica, fates: Fates, doors: Doors, github: Arc<GitHub>, stop: CancellationToken) {
    let show = |number: usize, router: Option<Router>| {
        let mut doors = lock(&doors);
        doors[number] = router;
        github.set_receivers(doors.iter().flatten().cloned().collect());
    };
    loop {
        let Ok(life) = replica.start() else { return };
        show(replica.number, Some(life.router.clone()));
        let thaws = async {
            loop {
                life.process.froze().await;
                tokio::time::sleep(fates.between(5.0, 180.0)).await;
                life.process.thaw();
            }
        };
        let (over, gently) = tokio::select! {
            biased;
            () = life.process.died() => (false, false),
            () = stop.cancelled() => (true, true),
            gently = fates.deployed() => (false, gently),
            () = thaws => (false, false),
        };
        show(replica.number, None);
        life.process.thaw();
        if gently {
            replica.stop(life).await;
        } else {
            replica.end(life).await;
        }
        if over {
            return;
        }
        tokio::time::sleep(fates.between(1.0, 40.0)).await;
    }
}

/// People push, and cancel.
async fn submit(mut load: Box<dyn Load>, github: Arc<GitHub>, began: Instant, loaded: Arc<AtomicBool>) {
    let mut cancelling = JoinSet::new();
    while let Some(push) = load.next() {
        tokio::time::sleep_until(began + push.at).await;
        let submitted = github.with(|model, now| model.submit_run(&push.repo, push.jobs.clone(), now));
        if let (Ok((run, _)), Some(after)) = (submitted, push.cancelled) {
            cancelling.spawn(cancel(Arc::clone(&github), push.repo, run, after));
        }
    }
    while cancelling.join_next().await.is_some() {}
    loaded.store(true, Ordering::Relaxed);
}

async fn cancel(github: Arc<GitHub>, repo: Repo, run: RunId, after: Duration) {
    tokio::time::sleep(after).await;
    // Complete already: nothing to cancel.
    let _ = github.with(|model, now| model.cancel_run(&repo, run, now));
}

/// Now and then a whole port is down for everybody.
async fn outages(weather: Weather, rng: Arc<dyn Rng>, until: Instant) {
    loop {
        tokio::time::sleep(Duration::from_secs_f64(60.0 + 1200.0 * rng.unit())).await;
        if Instant::now() >= until {
            return;
        }
        let port = Port::ALL[(rng.next_u64() % Port::ALL.len() as u64) as usize];
        weather.down(port);
        tokio::time::sleep(Duration::from_secs_f64(5.0 + 200.0 * rng.unit().powi(2))).await;
        weather.up(port);
    }
}

/// Removes rows that settled an hour ago, as housekeeping does after a week.
async fn collect(store: Arc<Store>, clock: Arc<dyn Clock>) {
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let now = clock.now();
        let before = clock::whole_seconds(now.saturating_sub(KEPT).unwrap_or(now)).to_string();
        for state in JobState::all().filter(|state| state.is_settled()) {
            remove(store.rows(), &JOBS, schema::STATUS_CREATED, state.as_str(), &before).await;
        }
        for state in [RunnerState::Done, RunnerState::Gone] {
            remove(store.rows(), &RUNNERS, schema::STATE, state.as_str(), &before).await;
        }
        store.rows().expire();
    }
}

async fn remove(rows: &Memory, table: &'static Schema, index: &'static str, of: &str, before: &str) {
    let query = Query { until: Some(before.into()), ..Query::of(index, of) };
    let Ok(old) = rows.query(table, query).await else { return };
    for row in old {
        // The index orders by the last assignment; a long job has ended later.
        if row.get("completed_at").is_some_and(|at| matches!(at, Value::S(at) if **at > *before)) {
            continue;
        }
        if let Some(key) = row.get(table.key) {
            let _ = rows.delete(table, key, Cond::Always).await;
        }
    }
}
