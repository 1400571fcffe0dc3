//! Replicas on virtual time: each with clocks, a network and a process of its own.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use db::leader::LEADER;
use db::schema::{LOCKS, POOLS};
use db::table::{Cond, Error, Item, Outcome, Query, Schema, Table, Update, Value, Write};
use db::{Fence, Memory, Watch};
use domain::clock::{Clock, Rng, Timestamp};
use domain::testing::at;
use telemetry::Metrics;
use telemetry::metrics::FencedRow;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::coordinator::Kind;
use crate::{Coordinator, Leadership, Mono, Parts, Settings, Timings, while_leading};

/// A wall clock that can be set.
pub(super) struct Wall {
    start: Instant,
    ahead_ms: AtomicI64,
}

impl Wall {
    const fn new(start: Instant) -> Self {
        Self { start, ahead_ms: AtomicI64::new(0) }
    }
    pub(super) fn set_ahead(&self, seconds: i64) {
        self.ahead_ms.store(seconds * 1000, Ordering::SeqCst);
    }
}

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.start.elapsed().as_millis()).expect("small");
        let ms = at(0).as_millisecond() + elapsed + self.ahead_ms.load(Ordering::SeqCst);
        Timestamp::from_millisecond(ms).expect("in range")
    }
}

/// A monotonic clock of its own pace.
struct Pace {
    start: Instant,
    rate: f64,
}

impl Mono for Pace {
    fn now(&self) -> Duration {
        Duration::from_secs(7) + self.start.elapsed().mul_f64(self.rate)
    }
}

/// Equal seeds, equal chance.
struct Seeded(AtomicU64);

impl Rng for Seeded {
    fn next_u64(&self) -> u64 {
        // SplitMix64.
        let mut z = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// How a replica's calls fare.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Weather {
    Fair,
    /// No call arrives.
    Cut,
    /// Calls arrive, answers do not.
    Deaf,
    /// A call takes so long to arrive, its answer so long to come back. A caller that gives up stops nothing.
    Slow(Duration, Duration),
}

/// The way from a replica to the store.
pub(super) struct Link {
    inner: Arc<Memory>,
    pub(super) weather: Mutex<Weather>,
    calls: TaskTracker,
}

impl Link {
    async fn carry<T, F>(&self, call: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let weather = *self.weather.lock().unwrap();
        match weather {
            Weather::Fair => call.await,
            Weather::Cut => std::future::pending().await,
            Weather::Deaf => {
                call.await?;
                Err(Error::Unavailable("the answer was lost".into()))
            }
            Weather::Slow(there, back) => {
                let carried = self.calls.spawn(async move {
                    sleep(there).await;
                    let answer = call.await;
                    sleep(back).await;
                    answer
                });
                carried.await.unwrap()
            }
        }
    }
}

#[async_trait]
impl Table for Link {
    async fn get(&self, table: &'static Schema, key: &Value) -> Result<Option<Item>, Error> {
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        self.carry(async move { inner.get(table, &key).await }).await
    }
    async fn update(
        &self,
        table: &'static Schema,
        key: &Value,
        update: Update,
        cond: Cond,
    ) -> Result<Outcome<Item>, Error> {
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        self.carry(async move { inner.update(table, &key, update, cond).await }).await
    }
    async fn put(&self, _: &'static Schema, _: Item, _: Cond) -> Result<Outcome, Error> {
        unreachable!("nobody puts")
    }
    async fn delete(&self, _: &'static Schema, _: &Value, _: Cond) -> Result<Outcome, Error> {
        unreachable!("nobody deletes")
    }
    async fn query(&self, _: &'static Schema, _: Query) -> Result<Vec<Item>, Error> {
        unreachable!("nobody queries")
    }
    async fn scan(&self, _: &'static Schema) -> Result<Vec<Item>, Error> {
        unreachable!("nobody scans")
    }
    async fn transact(&self, _: Vec<Write>) -> Result<Outcome, Error> {
        unreachable!("nobody transacts")
    }
}

/// What must hold of the store's rows, whatever happens.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) tokens: Mutex<Vec<i64>>,
    pub(super) fenced_writes: AtomicU64,
    pub(super) broken: Mutex<Vec<String>>,
}

impl Watch for Journal {
    fn wrote(&self, table: &'static Schema, before: Option<&Item>, after: Option<&Item>) {
        let number = |row: Option<&Item>, name: &str| match row.and_then(|row| row.get(name)) {
            Some(Value::N(number)) => Some(*number),
            _ => None,
        };
        if table.name == LOCKS.name {
            if let Some(token) =
                number(after, "fencing_token").filter(|new| number(before, "fencing_token") != Some(*new))
            {
                let mut tokens = self.tokens.lock().unwrap();
                if tokens.last().is_some_and(|last| *last >= token) {
                    self.broken.lock().unwrap().push(format!("token {token} after {tokens:?}"));
                }
                tokens.push(token);
            }
        } else {
            self.fenced_writes.fetch_add(1, Ordering::SeqCst);
            let (old, new) = (number(before, "leader_fence"), number(after, "leader_fence"));
            if new < old || number(after, "wrote") != new {
                self.broken.lock().unwrap().push(format!("the fence went from {old:?} to {new:?}"));
            }
        }
    }
}

/// Whether a process may run.
#[derive(Default)]
pub(super) struct Gate {
    shut: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Gate {
    pub(super) fn freeze(&self) {
        self.shut.store(true, Ordering::SeqCst);
    }
    pub(super) fn thaw(&self) {
        self.shut.store(false, Ordering::SeqCst);
        self.waiting.lock().unwrap().drain(..).for_each(Waker::wake);
    }
    /// The future, which makes no step while the gate is shut.
    fn hold<F: Future + Send + 'static>(self: &Arc<Self>, inner: F) -> impl Future<Output = F::Output> + Send + use<F> {
        let (gate, mut inner): (_, Pin<Box<F>>) = (Arc::clone(self), Box::pin(inner));
        std::future::poll_fn(move |cx| {
            if gate.shut.load(Ordering::SeqCst) {
                gate.waiting.lock().unwrap().push(cx.waker().clone());
                return Poll::Pending;
            }
            inner.as_mut().poll(cx)
        })
    }
}

/// One replica. Dropping it is a crash.
pub(super) struct Boot {
    pub(super) coordinator: Arc<Coordinator>,
    pub(super) gate: Arc<Gate>,
    pub(super) link: Arc<Link>,
    pub(super) wall: Arc<Wall>,
    pub(super) metrics: Metrics,
    tasks: JoinSet<()>,
}

impl Boot {
    pub(super) fn leads(&self) -> bool {
        self.coordinator.is_leader()
    }
    /// The term it leads by, as it would be handed to work.
    pub(super) fn term(&self) -> Option<Leadership> {
        self.coordinator.leadership().latest().filter(|term| term.check().is_ok())
    }
    fn replica(&self) -> &Arc<crate::coordinator::Replica> {
        match &self.coordinator.kind {
            Kind::Elected(replica) => replica,
            Kind::Alone => unreachable!("the world elects"),
        }
    }
    /// Begins to run, in a process that can be frozen.
    fn run(&mut self) {
        let election = self.gate.hold(Arc::clone(self.replica()).run());
        self.tasks.spawn(election);
        let (coordinator, link) = (Arc::clone(&self.coordinator), Arc::clone(&self.link));
        let work = async move {
            while_leading(&coordinator, CancellationToken::new(), |term| work(term, Arc::clone(&link))).await;
        };
        let work = self.gate.hold(work);
        self.tasks.spawn(work);
    }
    /// SIGTERM: the term is over, the lease is given up.
    pub(super) async fn stop(&mut self) {
        self.coordinator.stop(Duration::ZERO).await;
        self.gate.thaw();
        sleep(Duration::from_secs(1)).await;
    }
}

/// A leader that writes a fenced row every second, some time after it looked whether it leads.
async fn work(term: Leadership, link: Arc<Link>) {
    let key = Value::from("pool");
    while term.check().is_ok() {
        sleep(Duration::from_millis(300)).await;
        let update = Update::default().set("wrote", term.token());
        let (update, cond) = Fence::guard(Some(term.fence()), update, Cond::Always);
        if let Ok(Outcome::Lost) = link.update(&POOLS, &key, update, cond).await
            && let Ok(Some(row)) = link.get(&POOLS, &key).await
            && term.fence().is_passed_by(&row)
        {
            term.rejected(FencedRow::Pool);
        }
        tokio::select! {
            biased;
            () = term.lost() => {}
            () = sleep(Duration::from_millis(700)) => {}
        }
    }
}

/// Replicas and their store.
pub(super) struct World {
    pub(super) memory: Arc<Memory>,
    pub(super) journal: Arc<Journal>,
    start: Instant,
    seed: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let journal = Arc::new(Journal::default());
        let (watch, start) = (Arc::clone(&journal) as Arc<dyn Watch>, Instant::now());
        Self { memory: Arc::new(Memory::watched(Arc::new(Wall::new(start)), watch)), journal, start, seed }
    }

    /// A replica that does not run yet, whose monotonic clock goes so much faster than time.
    pub(super) fn boot(&mut self, name: &str, rate: f64) -> Boot {
        self.seed += 1;
        let link = Link { inner: Arc::clone(&self.memory), weather: Weather::Fair.into(), calls: TaskTracker::new() };
        let (link, wall, metrics) = (Arc::new(link), Arc::new(Wall::new(self.start)), Metrics::new());
        let parts = Parts {
            table: link.clone(),
            clock: wall.clone(),
            mono: Arc::new(Pace { start: Instant::now(), rate }),
            rng: Arc::new(Seeded(AtomicU64::new(self.seed))),
            metrics: metrics.clone(),
        };
        let settings =
            Settings { name: name.into(), host: "host".into(), version: "1".into(), timings: Timings::PRODUCTION };
        let coordinator = Arc::new(Coordinator::elected(settings, parts));
        Boot { coordinator, gate: Arc::default(), link, wall, metrics, tasks: JoinSet::new() }
    }

    /// The same, running.
    pub(super) fn start(&mut self, name: &str, rate: f64) -> Boot {
        let mut boot = self.boot(name, rate);
        boot.run();
        boot
    }

    /// The lease's row.
    pub(super) async fn row(&self) -> Item {
        self.memory.get(&LOCKS, &Value::from(LEADER)).await.unwrap().unwrap_or_default()
    }
}

/// Waits until it holds, looking every ten milliseconds; how long that took.
pub(super) async fn until(limit: u64, holds: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(limit), "it did not happen within {limit} s");
        sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}
