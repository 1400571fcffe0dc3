//! Circuit breakers for spot capacity: where machines were taken away lately, no new ones are asked for.
//!
//! There is one circuit per instance type and one per type and zone. Three interruptions within fifteen minutes open
//! the zone's circuit, and the type's too when they came from more than one zone. After a cool-down it is half open: a
//! probe of at most two machines is let through. Fifteen minutes without an interruption close it, one interruption
//! opens it for twice as long.
//!
//! Everything here is a pure function from a [`Circuit`] and an event to the next one. Whoever stores the result does
//! so on the condition that `version` has not moved; so concurrent interruptions are all counted, and exactly one
//! writer sees itself open the circuit.

use std::fmt;
use std::time::Duration;

use crate::clock::{Timestamp, after};

#[cfg(test)]
mod tests;

/// Interruptions that open a circuit.
pub const THRESHOLD: u32 = 3;
/// The time within which they count, from the first of them; also how long a half-open circuit must stay quiet.
pub const WINDOW: Duration = Duration::from_secs(15 * 60);
/// How long a circuit is open the first time. It doubles with every further time.
pub const COOLDOWN: Duration = Duration::from_secs(30 * 60);
/// Longest a circuit is open.
pub const LONGEST: Duration = Duration::from_secs(4 * 3600);
/// Machines that a half-open circuit lets through.
pub const PROBES: u32 = 2;
/// Interrupted machines that are remembered, so that a repeated notice counts once.
pub const REMEMBERED: usize = 10;
/// What stands for an unknown zone among [`Circuit::zones`].
pub const UNKNOWN_ZONE: &str = "?";

/// How long the row of a closed circuit is kept behind its last interruption.
const KEPT_CLOSED: Duration = Duration::from_secs(24 * 3600);
/// How long the row of another circuit is kept behind the end of its phase.
const KEPT_OPEN: Duration = Duration::from_secs(3600);

/// What a circuit is about: `c7g.xlarge`, or `c7g.xlarge#ap-northeast-1a` in one zone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CircuitKey(String);

impl CircuitKey {
    /// The circuit of an instance type.
    pub fn of_type(instance_type: &str) -> Self {
        Self(instance_type.to_owned())
    }
    /// The circuit of an instance type in one availability zone.
    pub fn in_zone(instance_type: &str, zone: &str) -> Self {
        Self(format!("{instance_type}#{zone}"))
    }
    /// As it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The instance type.
    pub fn instance_type(&self) -> &str {
        self.0.split_once('#').map_or(&self.0, |(instance_type, _)| instance_type)
    }
    /// The zone, of a circuit of one zone.
    pub fn zone(&self) -> Option<&str> {
        self.0.split_once('#').map(|(_, zone)| zone)
    }
}

impl fmt::Display for CircuitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CircuitState {
    /// Nothing is in the way.
    #[default]
    Closed,
    /// No spot machine is asked for.
    Open,
    /// A probe is let through.
    HalfOpen,
}

impl CircuitState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The stored word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
    /// From the stored word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// A circuit. One without a history is [`Circuit::default`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Circuit {
    /// The write that made it; 0 when nothing is stored.
    pub version: u64,
    /// The phase.
    pub state: CircuitState,
    /// Interruptions of the current window.
    pub count: u32,
    /// The first of them.
    pub first: Option<Timestamp>,
    /// The latest interruption.
    pub last: Option<Timestamp>,
    /// When it opened, last.
    pub opened_at: Option<Timestamp>,
    /// When an open one becomes half open. Without it: at once.
    pub auto_reset_at: Option<Timestamp>,
    /// How often it opened in a row.
    pub open_streak: u32,
    /// When it became half open.
    pub half_open_at: Option<Timestamp>,
    /// Machines let through since.
    pub half_open_probes: u32,
    /// Machines of the latest interruptions, oldest first.
    pub recent: Vec<String>,
    /// Zones of the current window's interruptions.
    pub zones: Vec<String>,
}

/// What an interruption did to a circuit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interrupted {
    /// The circuit afterwards.
    pub next: Circuit,
    /// It opened now.
    pub tripped: bool,
}

/// What a circuit lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admission {
    /// Anything.
    Free,
    /// A reservation of at most so many machines, see [`reserve`].
    Probe(u32),
    /// Nothing.
    Blocked,
}

/// A spot machine was taken away in `zone` (`None`: unknown) at `at`. `None`: this machine has been counted.
pub fn interrupted(
    circuit: &Circuit,
    key: &CircuitKey,
    machine: &str,
    zone: Option<&str>,
    at: Timestamp,
) -> Option<Interrupted> {
    if circuit.recent.iter().any(|seen| seen == machine) {
        return None;
    }
    // Had anybody looked, a circuit that was half open and quiet for long would be closed by now.
    let mut next = match looked_at(circuit, at) {
        Some(closed) if closed.state == CircuitState::Closed => closed,
        _ => circuit.clone(),
    };
    if next.first.is_none_or(|first| at > after(first, WINDOW)) {
        next.count = 0;
        next.first = Some(at);
        next.zones.clear();
    }
    next.count = next.count.saturating_add(1);
    next.last = next.last.max(Some(at));
    next.recent.push(machine.to_owned());
    let forgotten = next.recent.len().saturating_sub(REMEMBERED);
    next.recent.drain(..forgotten);
    let zone = zone.filter(|zone| !zone.is_empty()).unwrap_or(UNKNOWN_ZONE);
    if !next.zones.iter().any(|seen| seen == zone) {
        next.zones.push(zone.to_owned());
    }
    let tripped = match next.state {
        CircuitState::Closed => {
            let widespread = next.zones.len() > 1 || next.zones.iter().any(|zone| zone == UNKNOWN_ZONE);
            next.count >= THRESHOLD && (key.zone().is_some() || widespread)
        }
        CircuitState::Open => false,
        CircuitState::HalfOpen => true,
    };
    if tripped {
        let doubled = COOLDOWN.saturating_mul(2_u32.saturating_pow(next.open_streak));
        next.state = CircuitState::Open;
        next.opened_at = Some(at);
        next.auto_reset_at = Some(after(at, doubled.min(LONGEST)));
        next.open_streak = next.open_streak.saturating_add(1);
        next.half_open_at = None;
        next.half_open_probes = 0;
    }
    Some(Interrupted { next, tripped })
}

/// What time alone has done to a circuit, as far as it has to be stored. `None`: nothing.
pub fn looked_at(circuit: &Circuit, now: Timestamp) -> Option<Circuit> {
    let half_open =
        || Circuit { state: CircuitState::HalfOpen, half_open_at: Some(now), half_open_probes: 0, ..circuit.clone() };
    match circuit.state {
        CircuitState::Closed => None,
        CircuitState::Open => circuit.auto_reset_at.is_none_or(|at| at <= now).then(half_open),
        CircuitState::HalfOpen => match circuit.half_open_at {
            // Another writer's: its quiet time begins when it is first seen.
            None => Some(half_open()),
            Some(since) if now >= after(since, WINDOW) => Some(reset(circuit)),
            Some(_) => None,
        },
    }
}

/// What the circuit lets through at `now`, when what time has done to it is stored.
pub fn admission(circuit: &Circuit) -> Admission {
    match circuit.state {
        CircuitState::Closed => Admission::Free,
        CircuitState::Open => Admission::Blocked,
        CircuitState::HalfOpen => match PROBES.saturating_sub(circuit.half_open_probes) {
            0 => Admission::Blocked,
            left => Admission::Probe(left),
        },
    }
}

/// Reserves a probe of `machines` in a half-open circuit; `None` when it has no room for them, or is not half open.
pub fn reserve(circuit: &Circuit, machines: u32) -> Option<Circuit> {
    match admission(circuit) {
        Admission::Probe(left) if machines > 0 && machines <= left => {
            Some(Circuit { half_open_probes: circuit.half_open_probes + machines, ..circuit.clone() })
        }
        _ => None,
    }
}

/// Closed, with every count cleared: quiet for long enough, or an operator's wish. Machines stay remembered, so that a
/// late repetition of a notice is still one.
pub fn reset(circuit: &Circuit) -> Circuit {
    Circuit { version: circuit.version, recent: circuit.recent.clone(), last: circuit.last, ..Circuit::default() }
}

/// Until when the row is kept: long enough for the phase to end and to be seen ended.
pub fn kept_until(circuit: &Circuit) -> Option<Timestamp> {
    match circuit.state {
        CircuitState::Closed => circuit.last.map(|last| after(last, KEPT_CLOSED)),
        CircuitState::Open => circuit.auto_reset_at.map(|at| after(at, KEPT_OPEN)),
        CircuitState::HalfOpen => circuit.half_open_at.map(|at| after(at, WINDOW.saturating_add(KEPT_OPEN))),
    }
}
