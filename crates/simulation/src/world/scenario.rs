//! What a seed stands for: how many replicas, what goes wrong and how often, and what people ask of GitHub when.
//!
//! Everything is drawn here, before the world begins, or by the generators that are split off here: so that the
//! story of a job can be told again from the seed alone.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Rng, SignedDuration};
use domain::gh::Conclusion;
use domain::ids::Repo;

use super::spares;
use super::week::Warmth;
use crate::chance::SeededRng;
use crate::github::model::JobSpec;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Calls are slow, refused, or their answers lost; messages and index entries late, doubled.
    pub network: bool,
    /// Replicas are killed, stand still, or are stopped and started again.
    pub crashes: bool,
    /// Capacity, reclaims, machines and agents that fail.
    pub cloud: bool,
    /// Webhooks lost, late, doubled; an API that fails; stolen jobs.
    pub github: bool,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self { network: false, crashes: false, cloud: false, github: false };
    /// Everything does.
    pub const ALL: Self = Self { network: true, crashes: true, cloud: true, github: true };

    /// Whether anything does.
    pub fn any(self) -> bool {
        self != Self::NONE
    }

    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        NAMES.iter().find(|(_, faults)| *faults == self).map_or("mixed", |(name, _)| name)
    }
}

const NAMES: [(&str, Faults); 6] = [
    ("none", Faults::NONE),
    ("network", Faults { network: true, ..Faults::NONE }),
    ("crashes", Faults { crashes: true, ..Faults::NONE }),
    ("cloud", Faults { cloud: true, ..Faults::NONE }),
    ("github", Faults { github: true, ..Faults::NONE }),
    ("all", Faults::ALL),
];

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = NAMES.iter().find(|(name, _)| *name == text);
        known.map(|(_, faults)| *faults).ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("one of {}", names.join(", "))
        })
    }
}

/// A generator for one purpose: what is drawn for one does not shift what is drawn for another.
pub fn chance(seed: u64, purpose: &str) -> Arc<dyn Rng> {
    let mixed = purpose.bytes().fold(seed ^ 0x5851_f42d_4c95_7f2d, |mix, byte| {
        (mix ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    });
    let rng = SeededRng::new(mixed);
    // Neighbouring seeds begin far apart.
    Arc::new(SeededRng::new(rng.next_u64()))
}

/// What people do, and for how long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Work {
    /// A bad hour of two organisations.
    #[default]
    Hour,
    /// A day of sixty-four organisations.
    Day,
    /// The same at a constant rate, in jobs a minute.
    Steady(NonZeroU32),
    /// A week of one organisation, with warm pools.
    Week,
    /// Three days of one organisation with two long bursts each, whose machines are found so.
    Bursts(Warmth),
}

impl Work {
    /// The pools are part of the work, and trouble lasts as long as it.
    pub fn days(self) -> Option<u64> {
        match self {
            Self::Hour | Self::Day | Self::Steady(_) => None,
            Self::Week => Some(7),
            Self::Bursts(_) => Some(3),
        }
    }

    /// Sixty-four organisations, whose records are collected while the work goes on.
    pub fn is_of_many(self) -> bool {
        matches!(self, Self::Day | Self::Steady(_))
    }

    /// How bursts find their machines.
    pub fn warmth(self) -> Option<Warmth> {
        match self {
            Self::Bursts(warmth) => Some(warmth),
            _ => None,
        }
    }
}

/// Somebody's workflow starts, and what becomes of it.
#[derive(Debug, Clone)]
pub struct Push {
    /// After the beginning.
    pub at: Duration,
    /// Where.
    pub repo: Repo,
    /// What.
    pub jobs: Vec<JobSpec>,
    /// Somebody cancels it so long after.
    pub cancelled: Option<Duration>,
}

/// What people ask of GitHub, in order of time.
pub trait Load: Send {
    /// The next workflow.
    fn next(&mut self) -> Option<Push>;
}

/// A scenario without its load.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where everything is drawn from.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// Wrong clocks, one for each replica.
    pub skews: Vec<SignedDuration>,
    /// Trouble lasts so long from the beginning.
    pub trouble: Duration,
    /// The run ends at the latest so long after trouble and load have ended.
    pub patience: Duration,
    /// Accounts, each an installation of the App, and their repositories.
    pub repos: Vec<Repo>,
    /// Whether there are warm pools, and jobs that ask for them.
    pub pools: bool,
}

impl Scenario {
    /// What a seed stands for.
    pub fn draw(seed: u64, replicas: usize, faults: Faults, accounts: usize) -> Self {
        let rng = chance(seed, "scenario");
        let skew = |_| {
            let ms = if faults.network { (rng.unit() * 10_000.0) as i64 - 5_000 } else { 0 };
            SignedDuration::from_millis(ms)
        };
        // Lower-case letters and digits only: always valid.
        let repo = |account: usize, name: usize| format!("account{account}/repo{name}").parse().ok();
        Self {
            seed,
            faults,
            skews: (0..replicas).map(skew).collect(),
            trouble: if faults.any() { minutes(30 + rng.next_u64() % 60) } else { Duration::ZERO },
            patience: minutes(240),
            pools: chance(seed, "pools").unit() < 0.5,
            repos: (0..accounts).flat_map(|account| (0..2).filter_map(move |name| repo(account, name))).collect(),
        }
    }
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// Labels jobs ask for; some cover others, so that runners of one class can take jobs of another.
const LABELS: [&[&str]; 6] = [
    &["runs-fleet/cpu=2"],
    &["runs-fleet/cpu=4/arch=arm64"],
    &["runs-fleet/cpu=2", "nightly"],
    &["self-hosted", "runs-fleet/cpu=8/ram=32"],
    &["runs-fleet/cpu=4/spot=false"],
    &["runs-fleet/cpu=2"],
];

/// A few repositories on a bad hour: single jobs and matrices, some that fail, some that are cancelled.
pub struct Hour {
    rng: Arc<dyn Rng>,
    repos: Vec<Repo>,
    left: u64,
    at: Duration,
    pace: Duration,
    cancels: f64,
    pools: bool,
}

impl Hour {
    /// So many jobs.
    pub fn new(scenario: &Scenario, jobs: u64) -> Self {
        let rng = chance(scenario.seed, "load");
        // A hundred jobs fill about half an hour, whatever their number.
        let pace = Duration::from_secs(1800).div_f64(jobs.max(1) as f64 / 3.0);
        let cancels = if scenario.faults.any() { 0.06 } else { 0.0 };
        Self {
            rng,
            repos: scenario.repos.clone(),
            left: jobs,
            at: Duration::from_secs(1),
            pace,
            cancels,
            pools: scenario.pools,
        }
    }
}

pub(super) fn pick<'a, T>(rng: &dyn Rng, from: &'a [T]) -> Option<&'a T> {
    let place = rng.next_u64() % from.len().max(1) as u64;
    from.get(usize::try_from(place).unwrap_or(0))
}

/// Job lengths: a few seconds to half an hour, most of them minutes.
fn duration(rng: &dyn Rng) -> Duration {
    let (a, b) = (rng.unit(), rng.unit());
    Duration::from_secs_f64(5.0 + 300.0 * a * b + if rng.unit() < 0.05 { 1500.0 * rng.unit() } else { 0.0 })
}

pub(super) fn job(rng: &dyn Rng, place: usize, labels: &[&str]) -> JobSpec {
    JobSpec {
        name: format!("build {place}"),
        labels: labels.iter().map(|&label| label.to_owned()).collect(),
        duration: duration(rng),
        outcome: if rng.unit() < 0.9 { Conclusion::Success } else { Conclusion::Failure },
    }
}

impl Load for Hour {
    fn next(&mut self) -> Option<Push> {
        if self.left == 0 {
            return None;
        }
        let rng = &*self.rng;
        let size = if rng.unit() < 0.7 { 1 + rng.next_u64() % 3 } else { 4 + rng.next_u64() % 9 };
        let size = size.min(self.left);
        self.left -= size;
        let labels = if self.pools && rng.unit() < 0.5 { pick(rng, &spares::LABELS)? } else { pick(rng, &LABELS)? };
        let mixed = rng.unit() < 0.2;
        let jobs = (0..size as usize)
            .filter_map(|place| Some(job(rng, place, if mixed { pick(rng, &LABELS)? } else { labels })))
            .collect();
        let cancelled = (rng.unit() < self.cancels).then(|| Duration::from_secs_f64(rng.unit().powi(2) * 600.0));
        let push = Push { at: self.at, repo: pick(rng, &self.repos)?.clone(), jobs, cancelled };
        self.at += self.pace.mul_f64(-(1.0 - rng.unit()).ln());
        Some(push)
    }
}

/// A working day of many organisations: a quiet night, two humps, and on every full hour the jobs that somebody
/// scheduled. Or the same jobs at a constant rate.
pub struct Day {
    rng: Arc<dyn Rng>,
    repos: Vec<Repo>,
    jobs: u64,
    per_minute: Option<NonZeroU32>,
    given: u64,
    second: u64,
    ready: Vec<Push>,
}

const SECONDS: u64 = 86_400;

impl Day {
    /// So many jobs, about; in a day, or at a rate.
    pub fn new(scenario: &Scenario, jobs: u64, per_minute: Option<NonZeroU32>) -> Self {
        let rng = chance(scenario.seed, "load");
        Self { rng, repos: scenario.repos.clone(), jobs, per_minute, given: 0, second: 0, ready: Vec::new() }
    }

    /// How busy a second of the day is; over the day it sums up to about 1 for each second.
    fn busy(second: u64) -> f64 {
        let hour = second as f64 / 3600.0;
        let hump = |at: f64, width: f64| (-((hour - at) / width).powi(2)).exp();
        let scheduled = if second % 3600 < 60 { 3.0 } else { 0.0 };
        (0.15 + 2.1 * hump(10.5, 2.2) + 2.3 * hump(15.5, 2.5) + scheduled) / 0.966
    }

    fn fill(&mut self) {
        let rng = Arc::clone(&self.rng);
        let ends = if self.per_minute.is_some() { u64::MAX } else { SECONDS };
        while self.ready.is_empty() && self.second < ends && self.given < self.jobs {
            let mut due = match self.per_minute {
                Some(rate) => f64::from(rate.get()) / 60.0,
                None => self.jobs as f64 / SECONDS as f64 * Self::busy(self.second),
            };
            let at = Duration::from_secs(self.second);
            self.second += 1;
            while due > 0.0 && self.given < self.jobs {
                // Small runs and matrices; 4.6 jobs on average.
                let size = match rng.unit() {
                    u if u < 0.6 => 1 + rng.next_u64() % 2,
                    u if u < 0.95 => 3 + rng.next_u64() % 8,
                    _ => 16 + rng.next_u64() % 25,
                };
                let size = size.min(self.jobs - self.given);
                if due < size as f64 && rng.unit() >= due / size as f64 {
                    break;
                }
                due -= size as f64;
                let (Some(repo), Some(labels)) = (pick(&*rng, &self.repos), pick(&*rng, &LABELS)) else { return };
                let jobs = (0..size as usize).map(|place| job(&*rng, place, labels)).collect();
                self.given += size;
                let at = at + Duration::from_millis(rng.next_u64() % 1000);
                self.ready.push(Push { at, repo: repo.clone(), jobs, cancelled: None });
            }
            self.ready.sort_by_key(|push| std::cmp::Reverse(push.at));
        }
    }
}

impl Load for Day {
    fn next(&mut self) -> Option<Push> {
        self.fill();
        self.ready.pop()
    }
}
