//! One life of the orchestrator's process, as its port calls see it.

use std::collections::BTreeSet;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

/// A port as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    Store,
    Queue,
    Compute,
    HandOver,
    GitHub,
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

/// Which call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The n-th of the process's life, from 0.
    Nth(usize),
    /// The next one of that name.
    Next(&'static str),
}

/// Ports that are down for everybody.
#[derive(Clone, Default)]
pub struct Weather(Arc<Mutex<BTreeSet<Port>>>);

impl Weather {
    pub fn down(&self, port: Port) {
        self.0.lock().unwrap().insert(port);
    }
    pub fn up(&self, port: Port) {
        self.0.lock().unwrap().remove(&port);
    }
    fn is_down(&self, port: Port) -> bool {
        self.0.lock().unwrap().contains(&port)
    }
}

/// See the module.
pub struct Process {
    weather: Weather,
    plan: Mutex<Vec<(Which, Mishap)>>,
    /// Names of the calls so far, in order.
    calls: Mutex<Vec<&'static str>>,
    dead: watch::Sender<bool>,
    frozen: watch::Sender<bool>,
}

impl Process {
    pub fn new(weather: Weather) -> Arc<Self> {
        Arc::new(Self {
            weather,
            plan: Mutex::default(),
            calls: Mutex::default(),
            dead: watch::Sender::new(false),
            frozen: watch::Sender::new(false),
        })
    }

    pub fn plan(&self, which: Which, mishap: Mishap) {
        self.plan.lock().unwrap().push((which, mishap));
    }

    /// Whether every planned mishap has happened.
    pub fn plan_is_done(&self) -> bool {
        self.plan.lock().unwrap().is_empty()
    }

    pub fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().clone()
    }

    /// From here on none of its calls has an effect or an answer.
    pub fn die(&self) {
        self.dead.send_replace(true);
    }

    pub fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }

    pub fn is_frozen(&self) -> bool {
        *self.frozen.borrow()
    }

    /// The process goes on where it stood.
    pub fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    async fn not_frozen(&self) {
        let _ = self.frozen.subscribe().wait_for(|frozen| !*frozen).await;
    }

    pub async fn died(&self) {
        let _ = self.dead.subscribe().wait_for(|dead| *dead).await;
    }

    fn mishap(&self, name: &'static str) -> Option<Mishap> {
        let nth = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(name);
            calls.len() - 1
        };
        let mut plan = self.plan.lock().unwrap();
        let hit = plan.iter().position(|(which, _)| match which {
            Which::Nth(n) => *n == nth,
            Which::Next(wanted) => *wanted == name,
        })?;
        Some(plan.remove(hit).1)
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
        let mishap = self.mishap(name);
        match mishap {
            Some(Mishap::DieBefore) => {
                self.die();
                return pending().await;
            }
            Some(Mishap::Refuse) => return failed(),
            Some(Mishap::Freeze) => {
                self.frozen.send_replace(true);
                self.not_frozen().await;
            }
            _ if self.weather.is_down(port) => return failed(),
            _ => {}
        }
        let answer = tokio::select! {
            biased;
            () = self.died() => return pending().await,
            answer = call => answer,
        };
        self.not_frozen().await;
        match mishap {
            Some(Mishap::DieAfter) => {
                self.die();
                pending().await
            }
            Some(Mishap::LoseAnswer) => failed(),
            _ => answer,
        }
    }
}
