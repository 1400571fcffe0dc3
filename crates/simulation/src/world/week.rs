//! Days of one organisation whose work comes in bursts: pipelines of a few stages, minutes apart, some of them every
//! working hour, few in the night and at the weekend. What warm pools are for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use config::HotPoolCaps;
use db::pools::{PoolConfig, Schedule};
use domain::clock::Rng;

use super::scenario::{Load, Push, Scenario, chance, job, pick};
use super::spares::{self, Operator};

/// How a burst finds its machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warmth {
    /// Every job gets a new machine.
    Cold,
    /// As many spares as a burst needs run around the clock.
    Hot,
    /// A pool that comes with its first job and is tuned by what it sees.
    Tuned,
}

impl Warmth {
    /// The word on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Hot => "hot",
            Self::Tuned => "tuned",
        }
    }
}

impl std::str::FromStr for Warmth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Cold, Self::Hot, Self::Tuned];
        all.into_iter().find(|warmth| warmth.as_str() == text).ok_or_else(|| "cold, hot or tuned".to_owned())
    }
}

/// Jobs of one stage at most.
const STAGE: u64 = 4;
/// Limits of lingering spares in these worlds.
pub const CAPS: HotPoolCaps = HotPoolCaps {
    max_linger_minutes: 30,
    max_hot: STAGE as u32,
    min_jobs_to_activate: 20,
    lookback_days: 7,
    burst_gap_minutes: 20,
};

/// Makes the pools that the work asks for; `None`: those of the week.
///
/// # Errors
/// The store refuses a pool.
pub async fn open(operator: &Operator, warmth: Option<Warmth>) -> Result<(), db::Error> {
    match warmth {
        Some(Warmth::Hot) => operator.set("hot", &spares::config(2, STAGE as u32, 0)).await,
        Some(Warmth::Cold | Warmth::Tuned) => Ok(()),
        None => {
            let day = Schedule {
                name: "working hours".to_owned(),
                start_hour: 8,
                end_hour: 18,
                days_of_week: vec![1, 2, 3, 4, 5],
                desired_running: 2,
                desired_stopped: 2,
            };
            let scheduled = PoolConfig { schedules: vec![day], ..spares::config(2, 0, 1) };
            operator.set("hot", &scheduled).await?;
            operator.set("bank", &spares::config(4, 0, 3)).await
        }
    }
}

/// The load.
pub struct Bursts {
    rng: Arc<dyn Rng>,
    scenario: Scenario,
    labels: &'static [&'static [&'static str]],
    /// Two long bursts every day, instead of pipelines now and then.
    all_day: bool,
    hours: u64,
    hour: u64,
    ready: VecDeque<Push>,
}

const COLD: [&[&str]; 1] = [&["runs-fleet/cpu=2/arch=arm64/spot=false"]];
const HOT: [&[&str]; 1] = [&["runs-fleet/cpu=2/arch=arm64/pool=hot"]];
const TUNED: [&[&str]; 1] = [&["runs-fleet/cpu=2/arch=arm64/pool=adhoc"]];

impl Bursts {
    /// So many days; `None`: with jobs for all pools of the week.
    pub fn new(scenario: &Scenario, days: u64, warmth: Option<Warmth>) -> Self {
        let labels: &'static [&'static [&'static str]] = match warmth {
            None => &spares::LABELS,
            Some(Warmth::Cold) => &COLD,
            Some(Warmth::Hot) => &HOT,
            Some(Warmth::Tuned) => &TUNED,
        };
        let rng = chance(scenario.seed, "load");
        Self {
            rng,
            scenario: scenario.clone(),
            labels,
            all_day: warmth.is_some(),
            hours: 24 * days,
            hour: 0,
            ready: VecDeque::new(),
        }
    }

    /// When the stages of an hour begin, in seconds; the world begins on a Friday at noon.
    fn stages(&self, hour: u64) -> Vec<u64> {
        let rng = &*self.rng;
        let (day, clock) = ((12 + hour) / 24 % 7, (12 + hour) % 24);
        let pause = || 120 + rng.next_u64() % 300;
        if self.all_day {
            // Two bursts a day, each of four hours.
            let mut at = pause();
            let mut stages = Vec::new();
            while matches!(clock, 9..=12 | 14..=17) && at < 3600 {
                stages.push(at);
                at += pause();
            }
            return stages;
        }
        let pipelines = match (day, clock) {
            (1 | 2, _) => u64::from(clock == 3),
            (_, 8..18) => 2,
            _ => u64::from(clock == 3),
        };
        let mut stages = Vec::new();
        for _ in 0..pipelines {
            let mut at = rng.next_u64() % 1500;
            for _ in 0..3 + rng.next_u64() % 3 {
                stages.push(at);
                at += 120 + rng.next_u64() % 300;
            }
        }
        stages
    }

    fn fill(&mut self) {
        while self.ready.is_empty() && self.hour < self.hours {
            let rng = Arc::clone(&self.rng);
            let mut stages = self.stages(self.hour);
            stages.sort_unstable();
            for at in stages {
                let size = 1 + rng.next_u64() % STAGE;
                let (Some(repo), Some(labels)) = (self.scenario.repos.first(), pick(&*rng, self.labels)) else {
                    return;
                };
                let jobs = (0..size as usize).map(|place| job(&*rng, place, labels)).collect();
                let at = Duration::from_secs(3600 * self.hour + at);
                self.ready.push_back(Push { at, repo: repo.clone(), jobs, cancelled: None });
            }
            self.hour += 1;
        }
    }
}

impl Load for Bursts {
    fn next(&mut self) -> Option<Push> {
        self.fill();
        self.ready.pop_front()
    }
}
