//! What a run came to, in numbers, counted as it happens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use db::schema::JOBS;
use db::table::{Item, Value};
use domain::clock::{Timestamp, since};
use domain::ids::JobId;
use serde::Serialize;

use super::happening::{Happening, Witness};
use super::replica::lock;
use crate::cloud::Ledger;

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Where everything was drawn from.
    pub seed: u64,
    /// Jobs asked for; re-runs are not counted.
    pub jobs: u64,
    /// Attempts that began on a runner and ended there.
    pub completed: u64,
    /// Attempts that are re-runs.
    pub rerun: u64,
    /// Attempts that never got a runner, and that nobody cancelled.
    pub lost: u64,
    /// Those, by the reason in their records; `open` when the record is not settled.
    pub lost_to: BTreeMap<String, u64>,
    /// Seconds from queued to begun.
    pub wait_s_p50: f64,
    /// See `wait_s_p50`.
    pub wait_s_p95: f64,
    /// See `wait_s_p50`.
    pub wait_s_p99: f64,
    /// Instances.
    pub launches: u64,
    /// Instances beyond one for each attempt that began.
    pub extra_launches: i64,
    /// Instances taken back.
    pub reclaims: u64,
    /// Attempts that began on a runner minted for another.
    pub stolen: u64,
    /// Jobs bound to a running spare of a pool,
    pub hot: u64,
    /// to a stopped one,
    pub warm: u64,
    /// and to a machine launched for them.
    pub cold: u64,
    /// What the instances cost.
    pub cost_usd: f64,
    /// How long it took in the world.
    pub virtual_s: u64,
    /// Broken invariants.
    pub violations: u64,
}

/// A minute of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Minute {
    /// Attempts that wait for a runner at its end.
    pub queued: u64,
    /// Attempts on a runner at its end.
    pub running: u64,
    /// Instances at its end.
    pub instances: u64,
    /// Seconds that attempts begun in it have waited.
    pub wait_s_p50: f64,
    /// See `wait_s_p50`.
    pub wait_s_p95: f64,
}

/// A run, minute by minute.
pub type Series = Vec<Minute>;

/// Waits, in classes one percent wide: exact enough, and small however many there are.
#[derive(Debug, Clone, Default)]
struct Waits {
    classes: BTreeMap<i32, u64>,
    count: u64,
}

impl Waits {
    fn add(&mut self, wait: Duration) {
        let class = (wait.as_secs_f64().max(0.001).ln() / 1.01_f64.ln()).ceil() as i32;
        *self.classes.entry(class).or_default() += 1;
        self.count += 1;
    }

    /// Nearest rank, in seconds; zero without any.
    fn percentile(&self, percent: u64) -> f64 {
        let rank = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        for (class, count) in &self.classes {
            seen += count;
            if seen >= rank {
                return (1.01_f64.powi(*class) * 1000.0).round() / 1000.0;
            }
        }
        0.0
    }
}

#[derive(Default)]
struct Counts {
    jobs: u64,
    completed: u64,
    rerun: u64,
    lost: BTreeMap<String, u64>,
    /// Why jobs were given up that may still be served.
    given_up: BTreeMap<JobId, String>,
    began: u64,
    launches: u64,
    ended: u64,
    stolen: u64,
    hot: u64,
    warm: u64,
    cold: u64,
    waits: Waits,
    /// Attempts that wait, and since when.
    queued: BTreeMap<JobId, Timestamp>,
    running: BTreeSet<JobId>,
    series: Series,
    minute: Waits,
}

/// Counts.
pub struct Tally {
    seed: u64,
    began: Timestamp,
    counts: Mutex<Counts>,
}

const MINUTE: u64 = 60;

impl Tally {
    /// Nothing has happened yet.
    pub fn new(seed: u64, began: Timestamp) -> Arc<Self> {
        Arc::new(Self { seed, began, counts: Mutex::default() })
    }

    /// The numbers at the end.
    pub fn summary(&self, now: Timestamp, ledger: &Ledger, violations: u64) -> Summary {
        let counts = lock(&self.counts);
        let mut lost_to = counts.lost.clone();
        for job in counts.queued.keys() {
            *lost_to.entry(counts.reason(*job)).or_default() += 1;
        }
        Summary {
            seed: self.seed,
            jobs: counts.jobs,
            completed: counts.completed,
            rerun: counts.rerun,
            lost: lost_to.values().sum(),
            lost_to,
            wait_s_p50: counts.waits.percentile(50),
            wait_s_p95: counts.waits.percentile(95),
            wait_s_p99: counts.waits.percentile(99),
            launches: counts.launches,
            extra_launches: counts.launches as i64 - counts.began as i64,
            reclaims: ledger.reclaimed,
            stolen: counts.stolen,
            hot: counts.hot,
            warm: counts.warm,
            cold: counts.cold,
            cost_usd: (ledger.usd * 100.0).round() / 100.0,
            virtual_s: since(now, self.began).as_secs(),
            violations,
        }
    }

    /// The numbers over time.
    pub fn series(&self) -> Series {
        lock(&self.counts).series.clone()
    }
}

impl Counts {
    fn reason(&self, job: JobId) -> String {
        self.given_up.get(&job).map_or_else(|| "open".to_owned(), Clone::clone)
    }

    fn minutes(&mut self, passed: u64) {
        while (self.series.len() as u64) < passed / MINUTE {
            self.series.push(Minute {
                queued: self.queued.len() as u64,
                running: self.running.len() as u64,
                instances: self.launches - self.ended,
                wait_s_p50: self.minute.percentile(50),
                wait_s_p95: self.minute.percentile(95),
            });
            self.minute = Waits::default();
        }
    }
}

impl Witness for Tally {
    fn saw(&self, now: Timestamp, what: &Happening<'_>) {
        let mut counts = lock(&self.counts);
        counts.minutes(since(now, self.began).as_secs());
        match what {
            Happening::JobQueued { job, attempt, labels, .. } if super::is_ours(labels) => {
                if *attempt == 1 {
                    counts.jobs += 1;
                } else {
                    counts.rerun += 1;
                }
                counts.queued.insert(*job, now);
            }
            Happening::JobBegan { job, stolen, .. } => {
                if let Some(at) = counts.queued.remove(job) {
                    let wait = since(now, at);
                    counts.waits.add(wait);
                    counts.minute.add(wait);
                    counts.running.insert(*job);
                    counts.began += 1;
                    counts.stolen += u64::from(*stolen);
                }
            }
            Happening::JobConcluded { job, conclusion, .. } => {
                if counts.queued.remove(job).is_some() && *conclusion != domain::gh::Conclusion::Cancelled {
                    let reason = counts.reason(*job);
                    *counts.lost.entry(reason).or_default() += 1;
                }
                counts.given_up.remove(job);
                counts.completed += u64::from(counts.running.remove(job));
            }
            Happening::Wrote { table, before: Some(before), after: Some(after) } if table.name == JOBS.name => {
                let is = |row: &Item, name: &str, value: &Value| row.get(name) == Some(value);
                if is(after, "status", &"error".into())
                    && let (Some(Value::N(id)), Some(Value::S(reason))) =
                        (after.get("job_id"), after.get("settled_reason"))
                    && let Some(job) = u64::try_from(*id).ok().and_then(JobId::new)
                {
                    counts.given_up.insert(job, reason.to_string());
                }
                let bound = is(before, "status", &"claiming".into()) && is(after, "status", &"launched".into());
                match bound {
                    true if is(after, "hot_pool_hit", &true.into()) => counts.hot += 1,
                    true if is(after, "warm_pool_hit", &true.into()) => counts.warm += 1,
                    true => counts.cold += 1,
                    false => {}
                }
            }
            Happening::Launched { .. } => counts.launches += 1,
            Happening::Ended { .. } => counts.ended += 1,
            _ => {}
        }
    }
}
