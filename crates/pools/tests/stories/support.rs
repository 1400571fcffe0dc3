//! A world: a store, machines, hand-overs and any number of replicas. Calls can be made to fail, to do something on the
//! side, or to be the last thing a replica did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use config::HotPoolCaps;
use coordinator::{Coordinator, Leadership};
use db::pools::{Pool, PoolConfig};
use db::table::{Cond, Item, Outcome, Query, Schema, Update, Value, Write};
use db::{Claims, Jobs, Locks, Memory, Pools, Table};
use domain::clock::{Clock, Rng, Timestamp, after};
use domain::handover::HandOver as Document;
use domain::ids::{JobId, LaunchId, PoolName, RunnerKey};
use domain::job::{Job, JobState};
use domain::launch::{Arch, LaunchSpec};
use domain::testing::{at, launched};
use jiff::tz::TimeZone;
use pools::{Passed, Ports, Scope, Settings, Times, WarmPools};
use provider::compute::{Error, Filter, Order, SpotRequest};
use provider::{Compute, HandOver, Machine, MachineState, handover, tags};
use telemetry::Metrics;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Wall time that follows tokio's.
pub(crate) struct WorldClock(Instant);

impl Clock for WorldClock {
    fn now(&self) -> Timestamp {
        after(at(0), self.0.elapsed())
    }
}

/// The next number, scrambled.
#[derive(Default)]
struct Numbers(AtomicU64);

impl Rng for Numbers {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// What a call does besides.
pub(crate) enum Weather {
    /// Nothing.
    Fair,
    /// It fails, and nothing happened.
    Refused,
    /// It happens, and the answer is lost.
    Lost,
}

type Omen = Box<dyn FnMut(&str) -> Weather + Send>;

/// Everything outside of the replicas.
pub(crate) struct World {
    pub clock: Arc<WorldClock>,
    pub memory: Arc<Memory>,
    pub machines: Mutex<BTreeMap<RunnerKey, Machine>>,
    pub documents: Mutex<BTreeSet<RunnerKey>>,
    launches: Mutex<BTreeMap<LaunchId, Vec<RunnerKey>>>,
    /// What was done, in order.
    pub log: Mutex<Vec<String>>,
    omen: Mutex<Omen>,
    calls: AtomicUsize,
    /// The replica dies instead of making this call.
    last: AtomicUsize,
    died: Notify,
    rng: Arc<Numbers>,
}

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn cpu() -> PoolName {
    "cpu".parse().expect("valid")
}

pub(crate) fn job(id: u64) -> JobId {
    JobId::new(id).expect("positive")
}

pub(crate) fn spec() -> LaunchSpec {
    LaunchSpec {
        instance_type: "c8g.large".to_owned(),
        instance_types: vec!["c8g.large".to_owned()],
        arch: Some(Arch::Arm64),
        cpu_min: 2,
        cpu_max: 2,
        ..LaunchSpec::default()
    }
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        let clock = Arc::new(WorldClock(Instant::now()));
        Arc::new(Self {
            memory: Arc::new(Memory::new(clock.clone())),
            clock,
            machines: Mutex::default(),
            documents: Mutex::default(),
            launches: Mutex::default(),
            log: Mutex::default(),
            omen: Mutex::new(Box::new(|_| Weather::Fair)),
            calls: AtomicUsize::new(0),
            last: AtomicUsize::new(usize::MAX),
            died: Notify::new(),
            rng: Arc::default(),
        })
    }

    /// A world with an operator's pool.
    pub(crate) async fn with_pool(running: u32, stopped: u32) -> Arc<Self> {
        let world = Self::new();
        let config = PoolConfig {
            desired_running: running,
            desired_stopped: stopped,
            idle_timeout_minutes: 1,
            instance_type: "c8g.large".to_owned(),
            ..PoolConfig::default()
        };
        assert!(world.pools().create(&cpu(), &config).await.expect("allowed").is_applied());
        world
    }

    pub(crate) fn pools(&self) -> Pools {
        Pools::new(self.memory.clone(), self.clock.clone())
    }

    pub(crate) fn claims(&self) -> Claims {
        Claims::new(self.memory.clone(), self.clock.clone())
    }

    pub(crate) fn jobs(&self) -> Jobs {
        Jobs::new(self.memory.clone(), self.clock.clone())
    }

    pub(crate) async fn pool(&self) -> Pool {
        self.pools().get(&cpu()).await.expect("an answer").expect("a pool")
    }

    /// A replica of the orchestrator.
    pub(crate) fn replica(self: &Arc<Self>, owner: &str) -> Arc<WarmPools> {
        self.replica_with(owner, None)
    }

    /// A replica whose spares may linger.
    pub(crate) fn replica_with(self: &Arc<Self>, owner: &str, hot: Option<HotPoolCaps>) -> Arc<WarmPools> {
        let table: Arc<dyn Table> = Arc::new(Outside(Arc::clone(self)));
        let clock: Arc<dyn Clock> = self.clock.clone();
        let ports = Ports {
            pools: Pools::new(table.clone(), clock.clone()),
            locks: Locks::new(table.clone(), clock.clone()),
            claims: Claims::new(table.clone(), clock.clone()),
            jobs: Jobs::new(table, clock.clone()),
            compute: Arc::new(Outside(Arc::clone(self))),
            hand_over: Arc::new(Outside(Arc::clone(self))),
            clock,
            rng: self.rng.clone(),
            metrics: Metrics::new(),
        };
        let settings = Settings { owner: owner.to_owned(), zone: TimeZone::UTC, hot, times: Times::PRODUCTION };
        WarmPools::new(ports, settings)
    }

    pub(crate) fn leadership(&self) -> Leadership {
        let coordinator = Coordinator::alone(self.clock.clone(), Metrics::new());
        let leadership = coordinator.leadership().latest();
        leadership.expect("alone")
    }

    /// A full pass.
    pub(crate) async fn pass(&self, warm: &WarmPools) -> Passed {
        let leadership = self.leadership();
        warm.pass(&cpu(), Scope::Leader(&leadership)).await
    }

    /// So many full passes, a minute apart; the cloud does meanwhile what it was asked to.
    pub(crate) async fn minutes(&self, warm: &WarmPools, count: usize) {
        for _ in 0..count {
            self.pass(warm).await;
            tokio::time::sleep(seconds(60)).await;
            self.settle();
        }
    }

    /// Machines on their way arrive.
    pub(crate) fn settle(&self) {
        for machine in self.machines.lock().unwrap().values_mut() {
            machine.state = match machine.state {
                MachineState::Pending => MachineState::Running,
                MachineState::Stopping => MachineState::Stopped,
                MachineState::ShuttingDown => MachineState::Terminated,
                state => state,
            };
        }
    }

    /// A machine of the pool that is this old.
    pub(crate) fn add(&self, key: &str, state: MachineState, ago: i64) {
        let launched_at = self.clock.now().saturating_sub(jiff::SignedDuration::from_secs(ago)).expect("in range");
        let machine = Machine {
            key: key.into(),
            state,
            instance_type: "c8g.large".to_owned(),
            zone: None,
            spot: false,
            arch: None,
            image: None,
            launched_at,
            ended_at: None,
            launch_id: None,
            tags: BTreeMap::from([
                (tags::MANAGED.to_owned(), "true".to_owned()),
                (tags::POOL.to_owned(), "cpu".to_owned()),
            ]),
        };
        self.machines.lock().unwrap().insert(key.into(), machine);
    }

    pub(crate) fn state(&self, key: &str) -> Option<MachineState> {
        self.machines.lock().unwrap().get(&RunnerKey::from(key)).map(|machine| machine.state)
    }

    /// Machines in each state, gone ones left out.
    pub(crate) fn states(&self) -> BTreeMap<&'static str, usize> {
        let mut states = BTreeMap::new();
        for machine in self.machines.lock().unwrap().values().filter(|machine| !machine.state.is_gone()) {
            *states.entry(machine.state.as_str()).or_default() += 1;
        }
        states
    }

    pub(crate) fn hand_over(&self, key: &str) {
        self.documents.lock().unwrap().insert(key.into());
    }

    /// A job of the pool is bound to a machine.
    pub(crate) async fn bind(&self, id: u64, key: &str, state: JobState) {
        let mut job = Job { state, ..launched(id, "token", key) };
        if let Some(message) = job.message.as_mut().map(Arc::make_mut) {
            message.spec.pool = Some(cpu());
        }
        assert!(self.jobs().create(&job).await.expect("allowed").is_applied());
    }

    /// What every call does from now on.
    pub(crate) fn omen(&self, omen: impl FnMut(&str) -> Weather + Send + 'static) {
        *self.omen.lock().unwrap() = Box::new(omen);
    }

    /// What was done to machines since the last time somebody asked.
    pub(crate) fn done(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    /// Runs something until the replica is about to make its `n`th call, and no further. `true`: it ended before.
    pub(crate) async fn until_call(&self, n: usize, work: impl Future) -> bool {
        self.calls.store(0, Ordering::SeqCst);
        self.last.store(n, Ordering::SeqCst);
        let ended = tokio::select! {
            biased;
            () = self.died.notified() => false,
            _ = work => true,
        };
        self.last.store(usize::MAX, Ordering::SeqCst);
        ended
    }

    async fn call<T, E>(
        &self,
        name: &str,
        error: impl Fn() -> E,
        act: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        if self.calls.fetch_add(1, Ordering::SeqCst) + 1 >= self.last.load(Ordering::SeqCst) {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        // Others get their turn.
        tokio::task::yield_now().await;
        let weather = (self.omen.lock().unwrap())(name);
        match weather {
            Weather::Fair => act.await,
            Weather::Refused => Err(error()),
            Weather::Lost => {
                let _ = act.await;
                Err(error())
            }
        }
    }

    fn note(&self, what: &str, key: &RunnerKey) {
        self.log.lock().unwrap().push(format!("{what} {key}"));
    }

    fn become_(&self, key: &RunnerKey, from: &[MachineState], to: MachineState) -> bool {
        let mut machines = self.machines.lock().unwrap();
        let Some(machine) = machines.get_mut(key).filter(|machine| from.contains(&machine.state)) else {
            return false;
        };
        machine.state = to;
        if to == MachineState::Pending {
            machine.launched_at = self.clock.now();
        }
        true
    }
}

/// The world as a replica reaches it.
struct Outside(Arc<World>);

fn store() -> db::Error {
    db::Error::Unavailable("the weather".to_owned())
}

fn cloud() -> Error {
    Error::Transient("the weather".to_owned())
}

fn secrets() -> handover::Error {
    handover::Error::Transient("the weather".to_owned())
}

#[async_trait]
impl Table for Outside {
    async fn get(&self, table: &'static Schema, key: &Value) -> Result<Option<Item>, db::Error> {
        self.0.call("store.get", store, self.0.memory.get(table, key)).await
    }
    async fn get_many(&self, table: &'static Schema, keys: &[Value]) -> Result<Vec<Item>, db::Error> {
        self.0.call("store.get_many", store, self.0.memory.get_many(table, keys)).await
    }
    async fn put(&self, table: &'static Schema, item: Item, cond: Cond) -> Result<Outcome, db::Error> {
        self.0.call("store.put", store, self.0.memory.put(table, item, cond)).await
    }
    async fn update(
        &self,
        table: &'static Schema,
        key: &Value,
        update: Update,
        cond: Cond,
    ) -> Result<Outcome<Item>, db::Error> {
        self.0.call("store.update", store, self.0.memory.update(table, key, update, cond)).await
    }
    async fn delete(&self, table: &'static Schema, key: &Value, cond: Cond) -> Result<Outcome, db::Error> {
        self.0.call("store.delete", store, self.0.memory.delete(table, key, cond)).await
    }
    async fn query(&self, table: &'static Schema, query: Query) -> Result<Vec<Item>, db::Error> {
        let name = format!("store.query {}", query.index);
        self.0.call(&name, store, self.0.memory.query(table, query)).await
    }
    async fn scan(&self, table: &'static Schema) -> Result<Vec<Item>, db::Error> {
        self.0.call("store.scan", store, self.0.memory.scan(table)).await
    }
    async fn transact(&self, writes: Vec<Write>) -> Result<Outcome, db::Error> {
        self.0.call("store.transact", store, self.0.memory.transact(writes)).await
    }
}

#[async_trait]
impl Compute for Outside {
    async fn launch(&self, order: &Order) -> Vec<Result<Machine, Error>> {
        let world = &self.0;
        let make = async {
            let known = world.launches.lock().unwrap().get(&order.launch_id).cloned();
            let keys = known.unwrap_or_else(|| {
                (0..order.members.len())
                    .map(|_| {
                        let key = format!("new-{:02}", world.machines.lock().unwrap().len());
                        world.add(&key, MachineState::Pending, 0);
                        world.note("create", &key.as_str().into());
                        RunnerKey::from(key)
                    })
                    .collect()
            });
            world.launches.lock().unwrap().insert(order.launch_id.clone(), keys.clone());
            let machines = world.machines.lock().unwrap();
            Ok(keys.iter().map(|key| Ok(machines[key].clone())).collect())
        };
        let made: Result<_, Error> = world.call("cloud.launch", cloud, make).await;
        made.unwrap_or_else(|error| vec![Err(error); order.members.len()])
    }
    async fn start(&self, key: &RunnerKey) -> Result<(), Error> {
        let start = async {
            if self.0.become_(key, &[MachineState::Stopped], MachineState::Pending) {
                self.0.note("start", key);
            }
            Ok(())
        };
        self.0.call("cloud.start", cloud, start).await
    }
    async fn stop(&self, key: &RunnerKey) -> Result<(), Error> {
        let stop = async {
            let up = [MachineState::Pending, MachineState::Running];
            if self.0.become_(key, &up, MachineState::Stopping) {
                self.0.note("stop", key);
            }
            Ok(())
        };
        self.0.call("cloud.stop", cloud, stop).await
    }
    async fn terminate(&self, key: &RunnerKey) -> Result<(), Error> {
        let terminate = async {
            let alive = [MachineState::Pending, MachineState::Running, MachineState::Stopping, MachineState::Stopped];
            if self.0.become_(key, &alive, MachineState::ShuttingDown) {
                self.0.note("end", key);
            }
            Ok(())
        };
        self.0.call("cloud.terminate", cloud, terminate).await
    }
    async fn describe(&self, key: &RunnerKey) -> Result<Option<Machine>, Error> {
        let describe = async { Ok(self.0.machines.lock().unwrap().get(key).cloned()) };
        self.0.call("cloud.describe", cloud, describe).await
    }
    async fn tag(&self, key: &RunnerKey, tags: &[(String, String)]) -> Result<(), Error> {
        let tag = async {
            if let Some(machine) = self.0.machines.lock().unwrap().get_mut(key) {
                machine.tags.extend(tags.iter().cloned());
            }
            Ok(())
        };
        self.0.call("cloud.tag", cloud, tag).await
    }
    async fn untag(&self, key: &RunnerKey, names: &[&str]) -> Result<(), Error> {
        let untag = async {
            if let Some(machine) = self.0.machines.lock().unwrap().get_mut(key) {
                machine.tags.retain(|name, _| !names.contains(&name.as_str()));
            }
            Ok(())
        };
        self.0.call("cloud.untag", cloud, untag).await
    }
    async fn list(&self, filter: &Filter) -> Result<Vec<Machine>, Error> {
        let list = async {
            let machines = self.0.machines.lock().unwrap();
            Ok(machines.values().filter(|machine| filter.admits(machine)).cloned().collect())
        };
        self.0.call("cloud.list", cloud, list).await
    }
    async fn current_image(&self, _: Arch) -> Result<Option<String>, Error> {
        Ok(None)
    }
    async fn spot_requests(&self) -> Result<Vec<SpotRequest>, Error> {
        Ok(Vec::new())
    }
    async fn cancel_spot_requests(&self, _: &[String]) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait]
impl HandOver for Outside {
    async fn put(&self, key: &RunnerKey, _: &Document) -> Result<(), handover::Error> {
        self.0.hand_over(key.as_str());
        Ok(())
    }
    async fn get(&self, key: &RunnerKey) -> Result<Option<Document>, handover::Error> {
        let get = async { Ok(self.0.documents.lock().unwrap().contains(key).then(Document::default)) };
        self.0.call("secrets.get", secrets, get).await
    }
    async fn delete(&self, key: &RunnerKey) -> Result<(), handover::Error> {
        let delete = async {
            self.0.documents.lock().unwrap().remove(key);
            Ok(())
        };
        self.0.call("secrets.delete", secrets, delete).await
    }
    async fn list(&self) -> Result<Vec<RunnerKey>, handover::Error> {
        Ok(self.0.documents.lock().unwrap().iter().cloned().collect())
    }
}
