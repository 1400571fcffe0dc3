//! The world, and the words stories are told in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use db::pools::PoolConfig;
use db::{Claims, Jobs, Locks, Markers, Memory, Pools, Runners, Table};
use dispatch::{CacheAccess, Dispatch, Events, Ports, ReportTokens, Reports, Settings, Worker, http, sweeps};
use domain::clock::{Clock, Rng};
use domain::gh::Conclusion;
use domain::ids::{JobId, RunId, RunnerKey};
use domain::job::{Job, JobState, Settled};
use domain::runner::Runner;
use domain::timings::Timings;
use github::client::{Client, ClientConfig};
use github::labels::Aliases;
use github::mint;
use github::webhook::Secrets;
use pools::{Times, WarmPools};
use provider::{Compute, HandOver, Machine, MachineState};
use queue::{Consumer, ConsumerConfig, MemoryQueues, Queue, QueueConfig};
use secrecy::SecretString;
use simulation::chance::SeededRng;
use simulation::github::http::APP_PRIVATE_KEY;
use simulation::github::model::Status;
use telemetry::Metrics;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::faults::{Process, Weather};
use super::github::{GitHub, LABEL, Line, secret};
use super::laws::Laws;
use super::machines::{Machines, ProcessCompute};
use super::stores::{HandOvers, ProcessHandOver, ProcessQueue, ProcessTable};
use super::{WorldClock, minutes, seconds};

/// One life of the orchestrator.
pub struct Boot {
    pub process: Arc<Process>,
    pub dispatch: Arc<Dispatch>,
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
}

/// See the module.
pub struct World {
    pub github: Arc<GitHub>,
    pub machines: Arc<Machines>,
    pub documents: Arc<HandOvers>,
    pub weather: Weather,
    pub laws: Arc<Laws>,
    pub main: Arc<dyn Queue>,
    pub dead_letters: Arc<dyn Queue>,
    pub timings: Timings,
    pub rerun_interrupted: bool,
    /// What reports are proven with, if they are.
    pub report_secret: Option<&'static str>,
    /// How jobs get into the Actions cache, if there is one.
    pub cache: Option<Arc<CacheAccess>>,
    /// Messages worked on at a time.
    pub permits: usize,
    /// What GitHub's client lets through that changes something. As many as a story makes, unless it is about them.
    pub changes_per_minute: usize,
    /// How long an answer of GitHub takes.
    pub github_takes: Duration,
    /// Stands behind the port to machines instead of [`World::machines`].
    pub cloud: Option<Arc<dyn Compute>>,
    table: Arc<Memory>,
    pub reports: Arc<dyn Queue>,
    pub events: Arc<dyn Queue>,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
    pub metrics: Metrics,
    boots: u32,
    boot: Option<Boot>,
    _tasks: JoinSet<()>,
}

impl World {
    /// A world without an orchestrator.
    pub fn empty() -> Self {
        Self::with(11, 0.0)
    }

    /// The same, with chance of its own, and runners that prefer other jobs to theirs with this probability.
    pub fn with(seed: u64, theft: f64) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(WorldClock::starting_now());
        let rng: Arc<dyn Rng> = Arc::new(SeededRng::new(seed));
        let queues = MemoryQueues::new(Arc::clone(&clock), Arc::clone(&rng));
        let dead = QueueConfig::fifo("main-dlq").retention(minutes(14 * 24 * 60));
        let main = queues.queue(QueueConfig::fifo("main").dead_letters(&dead, 5));
        let events = queues.queue(QueueConfig::standard("events"));
        let reports = queues.queue(QueueConfig::fifo("termination").retention(minutes(4 * 24 * 60)));
        let github = GitHub::new(seed, theft, Arc::clone(&clock));
        let documents = Arc::new(HandOvers::default());
        let machines =
            Machines::new(Arc::clone(&github), Arc::clone(&documents), Arc::clone(&reports), Arc::clone(&clock));
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&github).run());
        Self {
            github,
            machines,
            documents,
            weather: Weather::default(),
            laws: Arc::default(),
            main,
            dead_letters: queues.queue(dead),
            timings: Timings::PRODUCTION,
            rerun_interrupted: true,
            report_secret: None,
            cache: None,
            permits: 20,
            changes_per_minute: 100_000,
            github_takes: Duration::from_millis(20),
            cloud: None,
            table: Arc::new(Memory::new(Arc::clone(&clock))),
            reports,
            events,
            clock,
            rng,
            metrics: Metrics::new(),
            boots: 0,
            boot: None,
            _tasks: tasks,
        }
    }

    /// A world with one replica of the orchestrator, sweeps and all.
    pub fn new() -> Self {
        let mut world = Self::empty();
        world.boot();
        world
    }

    /// One where every runner is a thief.
    pub fn of_thieves() -> Self {
        let mut world = Self::with(11, 1.0);
        world.boot();
        world
    }

    /// A new life of the orchestrator, beside none.
    pub fn boot(&mut self) {
        let boot = self.life();
        self.live(boot, true);
    }

    /// The same, without sweeps: what they would repair stays broken.
    pub fn boot_without_sweeps(&mut self) {
        let boot = self.life();
        self.live(boot, false);
    }

    /// The sweeps of a process that was started without them.
    pub fn start_sweeps(&mut self) {
        let boot = self.boot.as_mut().unwrap();
        boot.tasks.spawn(sweeps::run(Arc::clone(&boot.dispatch), boot.shutdown.clone()));
    }

    /// A new life, as the only process on an embedded store.
    pub async fn boot_alone(&mut self) {
        let boot = self.life();
        boot.dispatch.recover_own_leases().await.unwrap();
        self.live(boot, true);
    }

    fn live(&mut self, mut boot: Boot, sweep: bool) {
        assert!(self.boot.is_none(), "one life at a time");
        self.start(&mut boot, sweep);
        self.github.serve(Some(http::router(Arc::clone(&boot.dispatch), secrets())));
        self.boot = Some(boot);
    }

    /// A second replica, with consumers and sweeps, whose life is the caller's.
    pub fn replica(&mut self) -> Boot {
        let mut boot = self.life();
        self.start(&mut boot, true);
        boot
    }

    fn start(&self, boot: &mut Boot, sweep: bool) {
        let (dispatch, stop) = (Arc::clone(&boot.dispatch), boot.shutdown.clone());
        let mut consuming = ConsumerConfig::new(self.permits);
        consuming.deadline = self.timings.process + self.timings.cleanup * 2;
        let worker = Arc::new(Worker { dispatch: Arc::clone(&dispatch), secrets: secrets() });
        let main = Arc::clone(&dispatch.ports().main);
        boot.tasks.spawn(Consumer::new(main, consuming.clone(), worker, Arc::clone(&self.rng)).run(stop.clone()));
        let reports = self.reach(&self.reports, &boot.process);
        let handler = Arc::new(Reports(Arc::clone(&dispatch)));
        boot.tasks.spawn(Consumer::new(reports, consuming.clone(), handler, Arc::clone(&self.rng)).run(stop.clone()));
        let events = self.reach(&self.events, &boot.process);
        let handler = Arc::new(Events(Arc::clone(&dispatch)));
        boot.tasks.spawn(Consumer::new(events, consuming, handler, Arc::clone(&self.rng)).run(stop.clone()));
        if sweep {
            boot.tasks.spawn(sweeps::run(dispatch, stop));
        }
    }

    fn reach(&self, queue: &Arc<dyn Queue>, process: &Arc<Process>) -> Arc<dyn Queue> {
        Arc::new(ProcessQueue {
            process: Arc::clone(process),
            queue: Arc::clone(queue),
            table: Arc::clone(&self.table),
            laws: Arc::clone(&self.laws),
            held: Default::default(),
        })
    }

    /// A process that does nothing by itself.
    pub fn life(&mut self) -> Boot {
        self.boots += 1;
        let process = Process::new(self.weather.clone());
        let table: Arc<dyn Table> = Arc::new(ProcessTable {
            process: Arc::clone(&process),
            table: Arc::clone(&self.table),
            laws: Arc::clone(&self.laws),
        });
        let line = Line { process: Arc::clone(&process), github: Arc::clone(&self.github), takes: self.github_takes };
        let app = ClientConfig {
            app_id: 1,
            private_key: SecretString::from(APP_PRIVATE_KEY),
            api_url: "https://api.github.com".to_owned(),
            version: "0.0.0".to_owned(),
        };
        let (clock, rng) = (Arc::clone(&self.clock), Arc::clone(&self.rng));
        let client = Client::new(&app, Arc::new(line), Arc::clone(&clock), Arc::clone(&rng)).unwrap();
        let compute: Arc<dyn Compute> = match &self.cloud {
            Some(cloud) => Arc::clone(cloud),
            None => Arc::new(ProcessCompute {
                process: Arc::clone(&process),
                machines: Arc::clone(&self.machines),
                laws: Arc::clone(&self.laws),
            }),
        };
        let hand_over: Arc<dyn HandOver> =
            Arc::new(ProcessHandOver { process: Arc::clone(&process), documents: Arc::clone(&self.documents) });
        let jobs = Jobs::new(Arc::clone(&table), Arc::clone(&clock));
        let pools = WarmPools::new(
            pools::Ports {
                pools: Pools::new(Arc::clone(&table), Arc::clone(&clock)),
                locks: Locks::new(Arc::clone(&table), Arc::clone(&clock)),
                claims: Claims::new(Arc::clone(&table), Arc::clone(&clock)),
                jobs: jobs.clone(),
                compute: Arc::clone(&compute),
                hand_over: Arc::clone(&hand_over),
                clock: Arc::clone(&clock),
                rng: Arc::clone(&rng),
                metrics: self.metrics.clone(),
            },
            pools::Settings {
                owner: format!("replica-{}", self.boots),
                zone: jiff::tz::TimeZone::UTC,
                hot: None,
                times: Times::PRODUCTION,
            },
        );
        let ports = Ports {
            jobs,
            runners: Runners::new(Arc::clone(&table), Arc::clone(&clock)),
            markers: Markers::new(table, Arc::clone(&clock)),
            main: self.reach(&self.main, &process),
            dead_letters: Some(Arc::clone(&self.dead_letters)),
            compute,
            pools: Some(pools),
            hand_over,
            github: Arc::new(client.with_changes_per_minute(self.changes_per_minute)),
            clock,
            rng,
            metrics: self.metrics.clone(),
        };
        let settings = Settings {
            timings: self.timings,
            owner: format!("replica-{}", self.boots),
            aliases: Aliases::none(),
            allowed_repos: Vec::new(),
            rerun_interrupted: self.rerun_interrupted,
            max_runtime: minutes(360),
            jobs_per_minute: 0,
            registration: mint::Registration::Jit,
            hand_over: mint::Settings { max_runtime_minutes: 360, idle_exit_seconds: 600, ..mint::Settings::default() },
            batch_max: Settings::BATCH_MAX,
            batch_linger: Settings::BATCH_LINGER,
            cache: self.cache.clone(),
            report_tokens: self.report_secret.map(|secret| ReportTokens::new(SecretString::from(secret))),
            require_report_token: self.report_secret.is_some(),
            account: Some("123456789012".to_owned()),
        };
        let dispatch = Dispatch::new(ports, settings);
        Boot { process, dispatch, tasks: JoinSet::new(), shutdown: CancellationToken::new() }
    }

    /// The process that lives now.
    pub fn process(&self) -> &Arc<Process> {
        &self.boot.as_ref().unwrap().process
    }

    pub fn dispatch(&self) -> &Arc<Dispatch> {
        &self.boot.as_ref().unwrap().dispatch
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.github.serve(None);
        if let Some(mut boot) = self.boot.take() {
            boot.process.die();
            boot.tasks.shutdown().await;
        }
    }

    /// The process is cut off from its webhooks, but goes on; whoever takes it ends it.
    pub fn abandon(&mut self) -> Boot {
        self.github.serve(None);
        self.boot.take().unwrap()
    }

    /// SIGTERM, and the wait for what is in flight.
    pub async fn stop(&mut self) {
        self.github.serve(None);
        if let Some(mut boot) = self.boot.take() {
            boot.dispatch.drain();
            boot.shutdown.cancel();
            let all = async {
                while boot.tasks.join_next().await.is_some() {}
                boot.dispatch.finish().await;
            };
            tokio::time::timeout(minutes(5), all).await.expect("the process drains");
        }
    }

    // What happens.

    /// A job of ours, ten seconds long.
    pub fn queue_job(&self) -> JobId {
        self.queue_job_with(&[LABEL])
    }

    pub fn queue_job_with(&self, labels: &[&str]) -> JobId {
        self.github.queue_jobs(labels, 1, seconds(10), Conclusion::Success).1[0]
    }

    /// Another spare of the pool `ci`: a machine that waits for work, running or stopped.
    pub async fn spare(&self, state: MachineState) -> RunnerKey {
        let config = PoolConfig { desired_running: 1, ..PoolConfig::default() };
        // Lost: it is there.
        let _ = self.pools().create(&"ci".parse().unwrap(), &config).await.unwrap();
        self.machines.spare("ci", state)
    }

    /// A job that takes long.
    pub fn queue_long_job(&self, takes: Duration) -> JobId {
        self.queue_long_job_with(&[LABEL], takes)
    }

    pub fn queue_long_job_with(&self, labels: &[&str], takes: Duration) -> JobId {
        self.github.queue_jobs(labels, 1, takes, Conclusion::Success).1[0]
    }

    pub fn run_of(&self, job: JobId) -> RunId {
        self.github.reports().into_iter().find(|report| report.id == job).unwrap().run
    }

    /// Time passes.
    pub async fn pass(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    /// Time passes until it is so, at most `limit`.
    pub async fn until(&self, what: &str, limit: Duration, mut so: impl AsyncFnMut(&Self) -> bool) {
        let started = tokio::time::Instant::now();
        while !so(self).await {
            if started.elapsed() > limit {
                panic!("not within {limit:?}: {what}\n{}", self.describe().await);
            }
            // A long wait is looked at less often.
            tokio::time::sleep((limit / 1000).max(Duration::from_millis(250))).await;
        }
    }

    /// The job's record reaches a state.
    pub async fn until_state(&self, job: JobId, state: JobState, limit: Duration) {
        self.until(&format!("job {job} is {}", state.as_str()), limit, async |w| w.state(job).await == Some(state))
            .await;
    }

    // What can be seen.

    /// From the job's webhook to its begin on a runner.
    pub fn waited(&self, job: JobId) -> Duration {
        let report = self.github.reports().into_iter().find(|report| report.id == job).unwrap();
        domain::clock::since(report.started_at.expect("it began"), report.queued_at)
    }

    /// The store of everybody, as nobody's process reaches it.
    pub fn table(&self) -> Arc<dyn Table> {
        Arc::clone(&self.table) as Arc<dyn Table>
    }

    pub fn jobs(&self) -> Jobs {
        let table: Arc<dyn Table> = Arc::clone(&self.table) as Arc<dyn Table>;
        Jobs::new(table, Arc::clone(&self.clock))
    }

    pub fn runners(&self) -> Runners {
        let table: Arc<dyn Table> = Arc::clone(&self.table) as Arc<dyn Table>;
        Runners::new(table, Arc::clone(&self.clock))
    }

    pub fn markers(&self) -> Markers {
        let table: Arc<dyn Table> = Arc::clone(&self.table) as Arc<dyn Table>;
        Markers::new(table, Arc::clone(&self.clock))
    }

    pub fn claims(&self) -> Claims {
        let table: Arc<dyn Table> = Arc::clone(&self.table) as Arc<dyn Table>;
        Claims::new(table, Arc::clone(&self.clock))
    }

    pub fn pools(&self) -> Pools {
        let table: Arc<dyn Table> = Arc::clone(&self.table) as Arc<dyn Table>;
        Pools::new(table, Arc::clone(&self.clock))
    }

    pub async fn find(&self, job: JobId) -> Option<Job> {
        self.jobs().get(job).await.unwrap()
    }

    pub async fn job(&self, job: JobId) -> Job {
        self.find(job).await.expect("the job has a record")
    }

    pub async fn state(&self, job: JobId) -> Option<JobState> {
        self.find(job).await.map(|job| job.state)
    }

    pub async fn runner(&self, key: &RunnerKey) -> Option<Runner> {
        self.runners().get(key).await.unwrap()
    }

    /// There is a record, and it reads so.
    pub async fn reads(&self, job: JobId, so: impl Fn(&Job) -> bool) -> bool {
        self.find(job).await.as_ref().is_some_and(so)
    }

    /// The record says that GitHub runs it.
    pub async fn is_executing(&self, job: JobId) -> bool {
        self.find(job).await.is_some_and(|job| job.in_progress_at.is_some())
    }

    pub async fn job_is_over(&self, job: JobId) -> bool {
        self.state(job).await.is_some_and(JobState::is_settled)
    }

    pub async fn all_jobs(&self) -> Vec<Job> {
        let mut all = Vec::new();
        for state in JobState::all() {
            all.extend(self.jobs().by_state(state, None, None).await.unwrap());
        }
        all.sort_by_key(|job| job.id);
        all
    }

    pub fn launched(&self) -> Vec<Machine> {
        self.machines.all()
    }

    /// Main-queue messages, those in flight included.
    pub async fn messages(&self) -> u64 {
        let depth = self.main.depth().await.unwrap();
        depth.visible.unwrap() + depth.in_flight.unwrap()
    }

    /// Reports nobody has taken yet.
    pub async fn reports(&self) -> u64 {
        let depth = self.reports.depth().await.unwrap();
        depth.visible.unwrap() + depth.in_flight.unwrap()
    }

    pub async fn dead_letters(&self) -> u64 {
        self.dead_letters.depth().await.unwrap().visible.unwrap()
    }

    /// Everything worth knowing when a story goes wrong.
    pub async fn describe(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for job in self.all_jobs().await {
            let _ = writeln!(
                text,
                "record {} {} on {:?} retry={} displaced={} seq={} strikes={} reason={:?}/{:?} error={:?} lease={:?} prepared={:?}",
                job.id,
                job.state.as_str(),
                job.instance.as_ref().map(RunnerKey::as_str),
                job.retry_count,
                job.displaced_count,
                job.dispatch_seq,
                job.claim_attempts,
                job.requeue_reason,
                job.settled_reason,
                job.last_error,
                job.lease,
                job.prepared_at,
            );
        }
        for report in self.github.reports() {
            let _ = writeln!(
                text,
                "github {} attempt {} {:?} on {:?}",
                report.id, report.attempt, report.conclusion, report.runner_name
            );
        }
        for machine in self.machines.all() {
            let row = self.runner(&machine.key).await;
            let row = row.map(|row| (row.state, row.bound_job, row.running_job, row.report));
            let _ = writeln!(text, "machine {} {:?} row={row:?}", machine.key, machine.state);
        }
        let _ = writeln!(text, "messages {:?}", self.main.depth().await);
        for letter in self.dead_letters.receive(10, seconds(0), seconds(1)).await.unwrap_or_default() {
            let body: String = letter.body.chars().take(100).collect();
            let _ = writeln!(text, "dead letter {:?} {body}", letter.attributes);
        }
        if let Some(boot) = &self.boot {
            let calls = boot.process.calls();
            let _ = writeln!(text, "last calls {:?}", &calls[calls.len().saturating_sub(20)..]);
        }
        let _ = writeln!(text, "laws broken: {:?}", self.laws.broken());
        text
    }

    // What must be true.

    /// Everything GitHub queued has been concluded, every record is settled, every machine but spares that wait has ended,
    /// nothing is left in the queue; and nothing that must never be, ever was.
    pub async fn settle_down(&self, limit: Duration) {
        self.until("everything is over", limit, async |w| {
            let open = w.github.counters().unsettled() > 0;
            let records = w
                .all_jobs()
                .await
                .iter()
                .all(|job| job.state.is_settled() && job.rerun != Some(domain::job::RerunState::Pending));
            !open && records && w.machines.working().is_empty() && w.messages().await == 0 && w.reports().await == 0
        })
        .await;
        self.must_be_consistent().await;
    }

    /// What holds at any quiet moment.
    pub async fn must_be_consistent(&self) {
        let broken = self.laws.broken();
        assert!(broken.is_empty(), "laws broken: {broken:#?}\n{}", self.describe().await);
        for id in self.github.accepted() {
            let job = self.find(id).await;
            assert!(job.is_some(), "job {id} was answered with 200 and has no record\n{}", self.describe().await);
        }
        let live: BTreeSet<RunnerKey> = self.machines.live().into_iter().collect();
        for job in self.all_jobs().await.into_iter().filter(|job| job.state.is_bound()) {
            let key = job.instance.clone().unwrap();
            assert!(live.contains(&key), "job {} is bound to a dead machine\n{}", job.id, self.describe().await);
            let row = self.runner(&key).await.expect("a bound machine has a row");
            let counted = row.bound_job == Some(job.id) || row.running_job == Some(job.id);
            assert!(counted, "job {} and its runner disagree\n{}", job.id, self.describe().await);
        }
    }

    /// No message was delivered in vain so often that it was put aside.
    pub async fn must_have_no_dead_letters(&self) {
        assert_eq!(self.dead_letters().await, 0, "{}", self.describe().await);
    }

    /// So many machines were launched, ever.
    pub fn must_have_launched(&self, machines: usize) {
        let all = self.machines.all();
        assert_eq!(all.len(), machines, "{all:#?}");
    }

    /// The job was served, once, and GitHub calls it green.
    pub async fn must_be_served(&self, job: JobId) {
        assert_eq!(self.github.status(job), Status::Completed, "{}", self.describe().await);
        assert_eq!(self.github.conclusion(job), Some("success"), "{}", self.describe().await);
        let record = self.job(job).await;
        let served = [JobState::Settled(Settled::Success), JobState::Settled(Settled::Completed)];
        assert!(served.contains(&record.state), "{}", self.describe().await);
    }
}

fn secrets() -> Secrets {
    Secrets { current: secret(), previous: None }
}
