//! Which machines nobody owns. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::clock::{Timestamp, since};
use provider::compute::Which;
use provider::{Machine, MachineState};

use crate::context::Settings;
use crate::evidence::{Config, Evidence, Verdict};

/// From when on a machine is suspicious.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    ceiling: Duration,
    unclaimed: Duration,
    completed: Duration,
    stopped: Option<Duration>,
}

/// How long a young hand-over protects its machine, and a machine its pool's name.
const HALF_AN_HOUR: Duration = Duration::from_secs(1800);

impl Limits {
    pub(super) fn of(settings: &Settings) -> Self {
        let short = |t: Duration| t / settings.divisor.max(1);
        Self {
            ceiling: settings.ceiling(),
            unclaimed: short(settings.unclaimed_grace),
            completed: short(settings.completed_grace),
            stopped: settings.stopped_grace,
        }
    }
}

/// Why a machine should not be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It is older than any job may become.
    Age,
    /// The same, without our mark, by the role it has.
    Profile,
    /// It is stopped and in no pool.
    Stopped,
    /// No job has it, and none will.
    Unclaimed,
    /// Its job is over.
    Completed,
    /// Its pool does not exist.
    Unowned,
}

impl Reason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Age => "older than any job",
            Self::Profile => "older than any job, and unmarked",
            Self::Stopped => "stopped, and in no pool",
            Self::Unclaimed => "no job has it",
            Self::Completed => "outlived its job",
            Self::Unowned => "its pool does not exist",
        }
    }
    /// Whether more must be known than the machine says.
    pub(super) const fn needs_evidence(self) -> bool {
        matches!(self, Self::Unclaimed | Self::Completed | Self::Unowned)
    }
}

/// Why a machine is suspicious, by what it says of itself; `pools` are the pools there are, if that is known.
pub(super) fn suspicion(
    machine: &Machine,
    which: Which,
    pools: Option<&BTreeSet<String>>,
    now: Timestamp,
    limits: &Limits,
) -> Vec<Reason> {
    let age = since(now, machine.launched_at);
    let (up, stopped) = (machine.state.is_up(), machine.state == MachineState::Stopped);
    let pool = machine.pool();
    let unowned = pool.zip(pools).is_some_and(|(pool, pools)| !pools.contains(pool));
    let of_ours = [
        (Reason::Age, up && age > limits.ceiling),
        (Reason::Stopped, stopped && pool.is_none() && limits.stopped.is_some_and(|grace| age > grace)),
        (Reason::Unclaimed, up && (pool.is_none() || machine.is_assigned()) && age > limits.unclaimed),
        (Reason::Completed, machine.state == MachineState::Running),
        (Reason::Unowned, !machine.state.is_gone() && unowned && age > HALF_AN_HOUR),
    ];
    let of_others = [(Reason::Profile, (up || stopped) && age > limits.ceiling)];
    let reasons = match which {
        Which::Ours => of_ours.as_slice(),
        Which::Unmarked => of_others.as_slice(),
        Which::Builders => &[],
    };
    reasons.iter().filter(|(_, holds)| *holds).map(|(reason, _)| *reason).collect()
}

/// Whether a suspect is to end. Without evidence only what needs none.
pub(super) fn verdict(
    reason: Reason,
    machine: &Machine,
    evidence: Option<&Evidence>,
    now: Timestamp,
    limits: &Limits,
) -> Verdict {
    if !reason.needs_evidence() {
        return Verdict::Act;
    }
    let Some(evidence) = evidence else { return Verdict::Unknown };
    // What protects it, each `None` where nobody could tell.
    let young = |at: Timestamp| since(now, at) < HALF_AN_HOUR;
    let protections = match reason {
        Reason::Age | Reason::Profile | Reason::Stopped => return Verdict::Act,
        Reason::Unclaimed => [
            evidence.active_job,
            evidence.claimed,
            evidence.runner_may_work(),
            evidence.config.and_then(|config| dated(config, young)),
        ],
        Reason::Completed => {
            let done = match evidence.completion {
                None => return Verdict::Unknown,
                Some(None) => return Verdict::Keep,
                // A spare that was started again keeps its old record; the start moved its launch time.
                Some(Some(done)) if done < machine.launched_at => return Verdict::Keep,
                Some(Some(done)) => done,
            };
            let grace = since(now, done) <= limits.completed;
            let newer = |at: Timestamp| at > done;
            [
                Some(grace),
                evidence.claimed,
                evidence.runner_may_work(),
                evidence.config.and_then(|config| dated(config, newer)),
            ]
        }
        Reason::Unowned => [
            evidence.active_job,
            evidence.claimed,
            evidence.runner_may_work(),
            evidence.config.map(|config| config != Config::Absent),
        ],
    };
    if protections.contains(&Some(true)) {
        Verdict::Keep
    } else if protections.contains(&None) {
        Verdict::Unknown
    } else {
        Verdict::Act
    }
}

/// Whether there is a hand-over whose date says so; unknown when it has none.
fn dated(config: Config, says_so: impl Fn(Timestamp) -> bool) -> Option<bool> {
    match config {
        Config::Absent => Some(false),
        Config::Written(at) => Some(says_so(at)),
        Config::Undated => None,
    }
}
