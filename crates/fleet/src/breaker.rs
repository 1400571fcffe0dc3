//! Spot capacity that is being taken back lately is not asked for: the circuits of `domain::circuit` in front of a
//! request's overrides.
//!
//! An override passes when neither the circuit of its type nor that of its type and zone stands in the way. Half-open
//! circuits let a small request through that has reserved a probe. What a circuit lets through is remembered for a
//! minute, also that it has no history: a burst reads the table once. When the table cannot be read, everything
//! passes: an interrupted job is run again, a job that is never launched is not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::catalogue;
use domain::circuit::{Admission, CircuitKey, PROBES};
use domain::clock::{Clock, Timestamp};
use domain::ids::RunnerKey;
use domain::launch::Arch;
use telemetry::Metrics;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::request::{self, Candidate};

#[cfg(test)]
mod tests;

/// How long an answer of the store is believed.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where circuits are kept. The store of `db` is one.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What each circuit lets through at `now`.
    async fn admissions(
        &self,
        keys: &[CircuitKey],
        now: Timestamp,
    ) -> Result<BTreeMap<CircuitKey, Admission>, db::Error>;
    /// Reserves a probe of so many machines; whether there was room.
    async fn reserve(&self, key: &CircuitKey, machines: u32, now: Timestamp) -> Result<bool, db::Error>;
    /// Counts an interruption, once for each machine; the circuits that opened by it.
    async fn interrupted(
        &self,
        instance_type: &str,
        zone: Option<&str>,
        machine: &RunnerKey,
        at: Timestamp,
    ) -> Result<Vec<CircuitKey>, db::Error>;
}

#[async_trait]
impl Store for db::Circuits {
    async fn admissions(
        &self,
        keys: &[CircuitKey],
        now: Timestamp,
    ) -> Result<BTreeMap<CircuitKey, Admission>, db::Error> {
        self.blocked(keys, now).await
    }
    async fn reserve(&self, key: &CircuitKey, machines: u32, now: Timestamp) -> Result<bool, db::Error> {
        Ok(self.reserve_probe(key, machines, now).await?.is_applied())
    }
    async fn interrupted(
        &self,
        instance_type: &str,
        zone: Option<&str>,
        machine: &RunnerKey,
        at: Timestamp,
    ) -> Result<Vec<CircuitKey>, db::Error> {
        self.record_interruption(instance_type, zone, machine, at).await
    }
}

/// The breaker of one process.
pub struct Breaker {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    known: Mutex<BTreeMap<CircuitKey, (Admission, Instant)>>,
    warned: Mutex<Option<Instant>>,
}

impl Breaker {
    /// A breaker on `store`.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        Self { store, clock, metrics, known: Mutex::default(), warned: Mutex::default() }
    }

    /// What of a spot request for so many machines may be asked for. Nothing may be left.
    pub async fn admit(&self, groups: &[(Arch, Vec<Candidate>)], machines: u32) -> Vec<(Arch, Vec<Candidate>)> {
        let keys: BTreeSet<CircuitKey> = groups.iter().flat_map(|(_, list)| list).flat_map(circuits).collect();
        let known = self.admissions(&keys.into_iter().collect::<Vec<_>>()).await;
        let admitted = self.reserve(groups, machines, &known).await;
        request::without(groups, |candidate| !passes(candidate, &known, &admitted))
    }

    /// Counts the interruption of a machine. Repeatable.
    pub async fn interrupted(&self, instance_type: &str, zone: Option<&str>, machine: &RunnerKey, at: Timestamp) {
        match timeout(PATIENCE, self.store.interrupted(instance_type, zone, machine, at)).await {
            Ok(Ok(opened)) => {
                for key in opened {
                    warn!(circuit = key.as_str(), "spot machines are being taken back: circuit opened");
                    if let Some(known) = catalogue::lookup(key.instance_type()) {
                        self.metrics.circuit_breaker_trip(&known.name);
                    }
                }
            }
            Ok(Err(error)) => warn!(%error, instance_id = machine.as_str(), "an interruption could not be counted"),
            Err(_) => warn!(instance_id = machine.as_str(), "an interruption could not be counted in time"),
        }
        lock(&self.known).retain(|key, _| key.instance_type() != instance_type);
    }

    /// From memory where it is fresh, else from the store in one read.
    async fn admissions(&self, keys: &[CircuitKey]) -> BTreeMap<CircuitKey, Admission> {
        let now = Instant::now();
        let (mut answers, asked) = {
            let mut known = lock(&self.known);
            known.retain(|_, (_, at)| now.duration_since(*at) < REMEMBERED);
            let answers: BTreeMap<_, _> =
                keys.iter().filter_map(|key| Some((key.clone(), known.get(key)?.0))).collect();
            let asked: Vec<_> = keys.iter().filter(|key| !answers.contains_key(*key)).cloned().collect();
            (answers, asked)
        };
        if asked.is_empty() {
            return answers;
        }
        match timeout(PATIENCE, self.store.admissions(&asked, self.clock.now())).await {
            Ok(Ok(read)) => {
                self.show(&read);
                lock(&self.known).extend(read.iter().map(|(key, admission)| (key.clone(), (*admission, now))));
                answers.extend(read);
            }
            Ok(Err(error)) => self.complain(&error.to_string()),
            Err(_) => self.complain("no answer in time"),
        }
        answers
    }

    /// Reserves a probe for the first override that only a half-open circuit holds back. One is enough: the point is to
    /// learn whether the capacity stays.
    async fn reserve(
        &self,
        groups: &[(Arch, Vec<Candidate>)],
        machines: u32,
        known: &BTreeMap<CircuitKey, Admission>,
    ) -> BTreeSet<CircuitKey> {
        let none = BTreeSet::new();
        if machines > PROBES {
            return none;
        }
        let probed = |candidate: &&Candidate| {
            let answers: Vec<_> = circuits(candidate).iter().map(|key| admission(known, key)).collect();
            !answers.contains(&Admission::Blocked) && answers.iter().any(|a| matches!(a, Admission::Probe(_)))
        };
        let Some(candidate) = groups.iter().flat_map(|(_, list)| list).find(probed) else { return none };
        let mut reserved = BTreeSet::new();
        for key in circuits(candidate) {
            if !matches!(admission(known, &key), Admission::Probe(_)) {
                continue;
            }
            lock(&self.known).remove(&key);
            match timeout(PATIENCE, self.store.reserve(&key, machines, self.clock.now())).await {
                Ok(Ok(true)) => reserved.insert(key),
                _ => return none,
            };
        }
        info!(circuits = ?reserved.iter().map(CircuitKey::as_str).collect::<Vec<_>>(), machines, "a probe of spot capacity");
        reserved
    }

    fn show(&self, read: &BTreeMap<CircuitKey, Admission>) {
        for (key, admission) in read.iter().filter(|(key, _)| key.zone().is_none()) {
            if let Some(known) = catalogue::lookup(key.instance_type()) {
                let open = if *admission == Admission::Blocked { 1.0 } else { 0.0 };
                self.metrics.circuit_breaker_open(&known.name, Some(open));
            }
        }
    }

    /// At most once a minute: every launch would say the same.
    fn complain(&self, error: &str) {
        let mut warned = lock(&self.warned);
        if warned.is_none_or(|at| at.elapsed() >= REMEMBERED) {
            *warned = Some(Instant::now());
            warn!(error, "circuits cannot be read; spot capacity is used as if all were closed");
        }
    }
}

/// The circuits an override depends on.
fn circuits(candidate: &Candidate) -> Vec<CircuitKey> {
    let name = &candidate.request.instance_type;
    let zone = candidate.zone.as_ref().map(|zone| CircuitKey::in_zone(name, zone));
    std::iter::once(CircuitKey::of_type(name)).chain(zone).collect()
}

/// A circuit nobody could tell us about lets everything through.
fn admission(known: &BTreeMap<CircuitKey, Admission>, key: &CircuitKey) -> Admission {
    known.get(key).copied().unwrap_or(Admission::Free)
}

fn passes(candidate: &Candidate, known: &BTreeMap<CircuitKey, Admission>, reserved: &BTreeSet<CircuitKey>) -> bool {
    circuits(candidate).iter().all(|key| match admission(known, key) {
        Admission::Free => true,
        Admission::Probe(_) => reserved.contains(key),
        Admission::Blocked => false,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
