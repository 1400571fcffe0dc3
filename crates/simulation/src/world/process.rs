//! One life of the orchestrator's process, as its port calls see it.
//!
//! Every call of every port passes through [`Process::call`], which is where things go wrong: the call is refused, its
//! answer is late or lost, the process dies before or after the effect, or stands still. What goes wrong is planned by
//! a test, or drawn by a [`Fate`].

use std::collections::BTreeSet;
use std::future::{Future, pending};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::clock::nap;

/// A port as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// The table.
    Store,
    /// Any queue.
    Queue,
    /// Machines.
    Compute,
    /// The store of hand-overs.
    HandOver,
    /// GitHub's API.
    GitHub,
}

impl Port {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Store, Self::Queue, Self::Compute, Self::HandOver, Self::GitHub];

    /// Its name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Queue => "queue",
            Self::Compute => "compute",
            Self::HandOver => "hand_over",
            Self::GitHub => "github",
        }
    }
}

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// The process dies; the call has no effect.
    DieBefore,
    /// The process dies; the call took effect, its answer was never read.
    DieAfter,
    /// An error, and no effect.
    Refuse,
    /// An error, although the call took effect.
    LoseAnswer,
    /// The process stands still until it is thawed, then the call is made.
    Freeze,
}

impl Mishap {
    const fn as_str(self) -> &'static str {
        match self {
            Self::DieBefore => "dies before",
            Self::DieAfter => "dies after",
            Self::Refuse => "refused",
            Self::LoseAnswer => "answer lost",
            Self::Freeze => "freezes before",
        }
    }
}

/// Which call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The n-th of the process's life, from 0.
    Nth(usize),
    /// The next one of that name.
    Next(&'static str),
}

/// How one call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Course {
    /// Before it takes effect.
    pub there: Duration,
    /// From the effect to the answer.
    pub back: Duration,
    /// What goes wrong.
    pub mishap: Option<Mishap>,
}

/// Who decides how calls go.
pub trait Fate: Send + Sync {
    /// The course of a call that is about to be made.
    fn course(&self, port: Port, call: &'static str) -> Course;

    /// Hears of a mishap when it strikes.
    fn struck(&self, _call: &'static str, _what: &'static str) {}
}

/// Calls of a world, by port.
#[derive(Debug, Default)]
pub struct Calls([AtomicU64; 5]);

impl Calls {
    /// How many so far.
    pub fn of(&self, port: Port) -> u64 {
        self.0[port as usize].load(Ordering::Relaxed)
    }

    fn count(&self, port: Port) {
        self.0[port as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Ports that are down for everybody.
#[derive(Clone, Default)]
pub struct Weather(Arc<Mutex<BTreeSet<Port>>>);

impl Weather {
    fn ports(&self) -> MutexGuard<'_, BTreeSet<Port>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every call of the port is refused from now on.
    pub fn down(&self, port: Port) {
        self.ports().insert(port);
    }

    /// The port works again.
    pub fn up(&self, port: Port) {
        self.ports().remove(&port);
    }

    fn is_down(&self, port: Port) -> bool {
        self.ports().contains(&port)
    }
}

/// What a test has in mind for a process.
#[derive(Default)]
struct Plan {
    mishaps: Vec<(Which, Mishap)>,
    /// Names of the calls so far, in order.
    calls: Vec<&'static str>,
}

/// See the module.
pub struct Process {
    weather: Weather,
    counted: Arc<Calls>,
    fate: Option<Arc<dyn Fate>>,
    plan: Mutex<Plan>,
    dead: CancellationToken,
    frozen: AtomicBool,
    changed: Notify,
    last: Mutex<Option<&'static str>>,
}

impl Process {
    /// A process whose mishaps are planned.
    pub fn new(weather: Weather) -> Arc<Self> {
        Arc::new(Self::with(weather, Arc::default(), None))
    }

    /// A process whose mishaps are drawn.
    pub fn fated(weather: Weather, counted: Arc<Calls>, fate: Arc<dyn Fate>) -> Arc<Self> {
        Arc::new(Self::with(weather, counted, Some(fate)))
    }

    fn with(weather: Weather, counted: Arc<Calls>, fate: Option<Arc<dyn Fate>>) -> Self {
        Self {
            weather,
            counted,
            fate,
            plan: Mutex::default(),
            dead: CancellationToken::new(),
            frozen: AtomicBool::new(false),
            changed: Notify::new(),
            last: Mutex::default(),
        }
    }

    fn planned(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans a mishap.
    pub fn plan(&self, which: Which, mishap: Mishap) {
        self.planned().mishaps.push((which, mishap));
    }

    /// Whether every planned mishap has happened.
    pub fn plan_is_done(&self) -> bool {
        self.planned().mishaps.is_empty()
    }

    /// Names of the calls so far; of a process without a fate.
    pub fn calls(&self) -> Vec<&'static str> {
        self.planned().calls.clone()
    }

    /// From here on none of its calls has an effect or an answer.
    pub fn die(&self) {
        self.dead.cancel();
    }

    /// Whether it is.
    pub fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }

    /// The call that killed it.
    pub fn died_during(&self) -> Option<&'static str> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it stands still.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    fn set_frozen(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    async fn until(&self, frozen: bool) {
        while self.is_frozen() != frozen {
            let changed = self.changed.notified();
            if self.is_frozen() != frozen {
                changed.await;
            }
        }
    }

    /// The process stands still at its next call.
    pub fn freeze(&self) {
        self.set_frozen(true);
    }

    /// Waits until it stands still.
    pub async fn froze(&self) {
        self.until(true).await;
    }

    /// The process goes on where it stood.
    pub fn thaw(&self) {
        self.set_frozen(false);
    }

    async fn not_frozen(&self) {
        self.until(false).await;
    }

    /// Waits for its death.
    pub async fn died(&self) {
        self.dead.cancelled().await;
    }

    fn course(&self, port: Port, name: &'static str) -> Course {
        self.counted.count(port);
        if let Some(fate) = &self.fate {
            return fate.course(port, name);
        }
        let mut plan = self.planned();
        plan.calls.push(name);
        let nth = plan.calls.len() - 1;
        let hit = plan.mishaps.iter().position(|(which, _)| match which {
            Which::Nth(n) => *n == nth,
            Which::Next(wanted) => *wanted == name,
        });
        Course { mishap: hit.map(|hit| plan.mishaps.remove(hit).1), ..Course::default() }
    }

    /// Tells that a call met a mishap.
    pub fn struck(&self, call: &'static str, what: &'static str) {
        if let Some(fate) = &self.fate {
            fate.struck(call, what);
        }
    }

    async fn end<T>(&self, name: &'static str) -> T {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(name);
        self.die();
        pending().await
    }

    /// Makes a call, or not. `failed` is what the caller sees of a failure.
    pub async fn call<T>(
        &self,
        port: Port,
        name: &'static str,
        failed: impl FnOnce() -> T,
        call: impl Future<Output = T>,
    ) -> T {
        if self.is_dead() {
            return pending().await;
        }
        self.not_frozen().await;
        let Course { there, back, mishap } = self.course(port, name);
        if let Some(mishap) = mishap {
            self.struck(name, mishap.as_str());
        }
        nap(there).await;
        match mishap {
            Some(Mishap::DieBefore) => return self.end(name).await,
            Some(Mishap::Refuse) => return failed(),
            Some(Mishap::Freeze) => {
                self.set_frozen(true);
                self.not_frozen().await;
            }
            _ if self.weather.is_down(port) => {
                self.struck(name, "the port is down");
                return failed();
            }
            _ if self.is_dead() => return pending().await,
            _ => {}
        }
        let answer = match self.fate {
            // Its tasks are aborted when it dies.
            Some(_) => call.await,
            None => tokio::select! {
                biased;
                () = self.died() => return pending().await,
                answer = call => answer,
            },
        };
        nap(back).await;
        self.not_frozen().await;
        match mishap {
            Some(Mishap::DieAfter) => self.end(name).await,
            Some(Mishap::LoseAnswer) => failed(),
            _ => answer,
        }
    }
}
