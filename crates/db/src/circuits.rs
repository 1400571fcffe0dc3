//! The stored circuits. What an event does to one is decided in [`domain::circuit`]; here it is read, and the result
//! written on the condition that nobody has written since. Whoever loses reads again, a few times.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::circuit::{self, Admission, Circuit, CircuitKey, CircuitState};
use domain::clock::{Rng, Timestamp};
use domain::ids::RunnerKey;

use crate::attrs::{self, Row};
use crate::schema::CIRCUITS;
use crate::table::{Cond, Error, Item, Outcome, Table, Update, Value};

/// Attempts of one change.
const TRIES: u32 = 5;
/// Pause after a lost attempt, on average.
const PAUSE: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Clone)]
pub struct Circuits {
    table: Arc<dyn Table>,
    rng: Arc<dyn Rng>,
}

impl Circuits {
    /// A store on `table`; `rng` spreads the attempts of those who meet at one circuit.
    pub fn new(table: Arc<dyn Table>, rng: Arc<dyn Rng>) -> Self {
        Self { table, rng }
    }

    /// The circuits that have a history; one that is not in the answer is closed. Strongly consistent.
    pub async fn get_many(&self, keys: &[CircuitKey]) -> Result<BTreeMap<CircuitKey, Circuit>, Error> {
        let wanted: Vec<_> = keys.iter().map(|key| Value::from(key.as_str())).collect();
        let rows = self.table.get_many(&CIRCUITS, &wanted).await?;
        let by_key: BTreeMap<_, _> =
            rows.iter().filter_map(|row| Some((attrs::text(row, CIRCUITS.key)?, decode(row)))).collect();
        Ok(keys.iter().filter_map(|key| Some((key.clone(), by_key.get(key.as_str())?.clone()))).collect())
    }

    /// Counts an interruption of `machine` in the circuits of its type and, when the zone is known, of the type in
    /// that zone. Answers those that opened by it: only one of any number of concurrent callers is told. A machine is
    /// counted once, however often it is told of.
    ///
    /// # Errors
    /// When a circuit could not be written; tell again, what has been counted is not counted twice.
    pub async fn record_interruption(
        &self,
        instance_type: &str,
        zone: Option<&str>,
        machine: &RunnerKey,
        at: Timestamp,
    ) -> Result<Vec<CircuitKey>, Error> {
        let zone = zone.filter(|zone| !zone.is_empty());
        let keys = std::iter::once(CircuitKey::of_type(instance_type));
        let keys = keys.chain(zone.map(|zone| CircuitKey::in_zone(instance_type, zone)));
        let mut opened = Vec::new();
        for key in keys {
            let mut tripped = false;
            let changed = self
                .change(&key, |circuit| {
                    let step = circuit::interrupted(circuit, &key, machine.as_str(), zone, at)?;
                    tripped = step.tripped;
                    Some(step.next)
                })
                .await?;
            if changed.is_some() && tripped {
                opened.push(key);
            }
        }
        Ok(opened)
    }

    /// What each circuit lets through at `now`. One whose time has come becomes half open, or closed, by being asked.
    pub async fn blocked(&self, keys: &[CircuitKey], now: Timestamp) -> Result<BTreeMap<CircuitKey, Admission>, Error> {
        let stored = self.get_many(keys).await?;
        let mut answers = BTreeMap::new();
        for key in keys {
            let mut admission = Admission::Free;
            if let Some(circuit) = stored.get(key) {
                admission = circuit::admission(circuit);
                if circuit::looked_at(circuit, now).is_some() {
                    self.change(key, |circuit| {
                        let next = circuit::looked_at(circuit, now);
                        admission = circuit::admission(next.as_ref().unwrap_or(circuit));
                        next
                    })
                    .await?;
                }
            }
            answers.insert(key.clone(), admission);
        }
        Ok(answers)
    }

    /// Reserves a probe of `machines` in a half-open circuit. Lost: it has no room for them, or is not half open.
    pub async fn reserve_probe(&self, key: &CircuitKey, machines: u32, now: Timestamp) -> Result<Outcome, Error> {
        let reserved = self
            .change(key, |circuit| {
                let looked_at = circuit::looked_at(circuit, now);
                circuit::reserve(looked_at.as_ref().unwrap_or(circuit), machines)
            })
            .await?;
        Ok(reserved.map_or(Outcome::Lost, |_| Outcome::Applied(())))
    }

    /// Closes a circuit by an operator's wish. Lost: there is nothing to close.
    pub async fn reset(&self, key: &CircuitKey) -> Result<Outcome, Error> {
        let wanted = |circuit: &Circuit| Some(circuit::reset(circuit)).filter(|next| next != circuit);
        Ok(self.change(key, wanted).await?.map_or(Outcome::Lost, |_| Outcome::Applied(())))
    }

    /// Applies `next` to the circuit as it is. `None`: `next` wants no change.
    async fn change(
        &self,
        key: &CircuitKey,
        mut next: impl FnMut(&Circuit) -> Option<Circuit>,
    ) -> Result<Option<Circuit>, Error> {
        let row_key = Value::from(key.as_str());
        for attempt in 1..=TRIES {
            let row = self.table.get(&CIRCUITS, &row_key).await?;
            let old = row.as_ref().map(decode).unwrap_or_default();
            let Some(mut new) = next(&old) else { return Ok(None) };
            new.version = old.version + 1;
            let cond = match &row {
                None => Cond::absent(CIRCUITS.key),
                // Written by the Go implementation, which never runs beside this one.
                Some(_) if old.version == 0 => Cond::exists(CIRCUITS.key).and(Cond::absent("version")),
                Some(_) => Cond::eq("version", whole(old.version)),
            };
            if self.table.update(&CIRCUITS, &row_key, encode(&new), cond).await?.is_applied() {
                return Ok(Some(new));
            }
            if attempt < TRIES {
                tokio::time::sleep(self.rng.jitter(PAUSE * attempt, 0.9)).await;
            }
        }
        Err(Error::Unavailable(format!("circuit {key} is being written by too many at once")))
    }
}

fn whole(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

/// Every attribute we own; what a circuit does not have is removed.
const OWNED: [&str; 13] = [
    "state",
    "interruption_count",
    "first_interruption_at",
    "last_interruption_at",
    "opened_at",
    "auto_reset_at",
    "open_streak",
    "half_open_at",
    "half_open_probes",
    "recent_instances",
    "azs",
    "ttl",
    "version",
];

fn encode(circuit: &Circuit) -> Update {
    let mut row = Row::default();
    row.put("state", circuit.state.as_str());
    row.put("interruption_count", circuit.count);
    row.time("first_interruption_at", circuit.first);
    row.time("last_interruption_at", circuit.last);
    row.time("opened_at", circuit.opened_at);
    row.time("auto_reset_at", circuit.auto_reset_at);
    row.count("open_streak", circuit.open_streak);
    row.time("half_open_at", circuit.half_open_at);
    row.count("half_open_probes", circuit.half_open_probes);
    row.texts("recent_instances", &circuit.recent);
    row.texts("azs", &circuit.zones);
    row.seconds("ttl", circuit::kept_until(circuit));
    row.put("version", whole(circuit.version));
    let remove = OWNED.iter().filter(|name| !row.0.contains_key(name)).map(|name| (*name).into()).collect();
    Update { set: row.0, remove, ..Update::default() }
}

/// Lenient: what cannot be read is absent, and a state of another release is closed.
fn decode(item: &Item) -> Circuit {
    Circuit {
        version: attrs::count(item, "version").unwrap_or(0),
        state: attrs::text(item, "state").and_then(CircuitState::parse).unwrap_or_default(),
        count: attrs::count(item, "interruption_count").unwrap_or(0),
        first: attrs::time(item, "first_interruption_at"),
        last: attrs::time(item, "last_interruption_at"),
        opened_at: attrs::time(item, "opened_at"),
        auto_reset_at: attrs::time(item, "auto_reset_at"),
        open_streak: attrs::count(item, "open_streak").unwrap_or(0),
        half_open_at: attrs::time(item, "half_open_at"),
        half_open_probes: attrs::count(item, "half_open_probes").unwrap_or(0),
        recent: attrs::texts(item, "recent_instances"),
        zones: attrs::texts(item, "azs"),
    }
}
