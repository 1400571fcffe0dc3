//! What the local back ends share: the one evaluator of conditions and updates, and the rules DynamoDB would enforce.
//!
//! Everything here is pure. `plan` takes the writes of one transaction and a way to read the rows they touch, and
//! answers either *lost* or the rows as they will be. A back end only reads rows, stores rows, and makes the two one
//! atomic step; so what a condition means cannot differ between them.
//!
//! A row past its expiry is gone: reads do not show it, conditions see no attributes, an update starts from an empty
//! row. Whether a reaper has come by makes no difference.

use std::cmp::Ordering;

use smol_str::SmolStr;

use crate::table::{Cond, Error, Index, Item, MAX_ITEM, MAX_WRITES, Name, Outcome, Schema, Update, Value, Write};

#[cfg(test)]
mod tests;

/// A key or index value. Numbers sort before text, as in SQLite.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    N(i64),
    S(SmolStr),
}

impl Key {
    pub(crate) fn read(value: &Value) -> Option<Self> {
        match value {
            Value::N(number) => Some(Self::N(*number)),
            Value::S(text) if !text.is_empty() => Some(Self::S(text.clone())),
            _ => None,
        }
    }
    /// A key as the caller gave it.
    pub(crate) fn of(table: &Schema, value: &Value) -> Result<Self, Error> {
        Self::read(value).ok_or_else(|| {
            Error::Invalid(format!("{}.{} must be a whole number or a non-empty text", table.name, table.key))
        })
    }
    pub(crate) fn to_value(&self) -> Value {
        match self {
            Self::N(number) => Value::N(*number),
            Self::S(text) => Value::S(text.clone()),
        }
    }
}

/// Whether `cond` holds of a row; a missing row has no attributes.
pub fn holds(cond: &Cond, row: Option<&Item>) -> bool {
    let attr = |name: &Name| row.and_then(|item| item.get(name));
    let is = |name: &Name, value: &Value, wanted: Ordering| {
        attr(name).and_then(|found| compare(found, value)).is_some_and(|found| found == wanted)
    };
    match cond {
        Cond::Always => true,
        Cond::Exists(name) => attr(name).is_some(),
        Cond::Absent(name) => attr(name).is_none(),
        Cond::Eq(name, value) => attr(name).is_some_and(|found| equal(found, value)),
        Cond::Lt(name, value) => is(name, value, Ordering::Less),
        Cond::Gt(name, value) => is(name, value, Ordering::Greater),
        Cond::In(name, values) => attr(name).is_some_and(|found| values.iter().any(|value| equal(found, value))),
        Cond::BeginsWith(name, prefix) => {
            matches!(attr(name), Some(Value::S(text)) if text.starts_with(prefix.as_str()))
        }
        Cond::And(all) => all.iter().all(|cond| holds(cond, row)),
        Cond::Or(any) => any.iter().any(|cond| holds(cond, row)),
        Cond::Not(cond) => !holds(cond, row),
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    compare(a, b).map_or_else(|| a == b, |order| order == Ordering::Equal)
}

#[allow(clippy::cast_precision_loss, reason = "a number with a fraction is an approximation anyway")]
fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::S(a), Value::S(b)) => Some(a.cmp(b)),
        (Value::N(a), Value::N(b)) => Some(a.cmp(b)),
        (Value::N(a), Value::F(b)) => (*a as f64).partial_cmp(b),
        (Value::F(a), Value::N(b)) => a.partial_cmp(&(*b as f64)),
        (Value::F(a), Value::F(b)) => a.partial_cmp(b),
        _ => None,
    }
}

/// Whether the row is past its expiry at `now` (epoch seconds). Only a number is an expiry.
#[allow(clippy::cast_precision_loss, reason = "seconds of this era are far below 2^53")]
pub(crate) fn expired(table: &Schema, row: &Item, now: i64) -> bool {
    match table.ttl.and_then(|name| row.get(name)) {
        Some(Value::N(at)) => *at <= now,
        Some(Value::F(at)) => *at <= now as f64,
        _ => false,
    }
}

/// What a transaction makes of a row.
#[derive(Debug)]
pub(crate) struct Effect {
    pub(crate) table: &'static Schema,
    pub(crate) key: Key,
    /// `None`: remove it.
    pub(crate) after: Option<Item>,
}

/// What the writes will do, or that a condition does not hold. Nothing is stored here.
pub(crate) fn plan(
    writes: Vec<Write>,
    now: i64,
    mut read: impl FnMut(&'static Schema, &Key) -> Result<Option<Item>, Error>,
) -> Result<Outcome<Vec<Effect>>, Error> {
    if writes.len() > MAX_WRITES {
        return Err(Error::Invalid(format!("{} writes in one transaction; the most is {MAX_WRITES}", writes.len())));
    }
    let rows = writes.iter().map(address).collect::<Result<Vec<_>, _>>()?;
    let mut effects = Vec::with_capacity(writes.len());
    let mut lost = false;
    for (place, (write, (table, key))) in writes.into_iter().zip(&rows).enumerate() {
        if rows[..place].iter().any(|(other, taken)| other.name == table.name && taken == key) {
            return Err(Error::Invalid(format!("two writes of one transaction name the same row of {}", table.name)));
        }
        let before = read(table, key)?;
        let row = before.as_ref().filter(|row| !expired(table, row, now));
        let (Write::Put { cond, .. } | Write::Update { cond, .. } | Write::Delete { cond, .. }) = &write;
        if !holds(cond, row) {
            lost = true;
            continue;
        }
        let after = match write {
            Write::Put { item, .. } => Some(item),
            Write::Update { update, .. } => Some(updated(table, key, row, update)?),
            Write::Delete { .. } => None,
        };
        let after = after.map(|item| checked(table, item)).transpose()?;
        effects.push(Effect { table, key: key.clone(), after });
    }
    Ok(if lost { Outcome::Lost } else { Outcome::Applied(effects) })
}

pub(crate) fn address(write: &Write) -> Result<(&'static Schema, Key), Error> {
    let (table, value) = match write {
        Write::Put { table, item, .. } => {
            let missing = || Error::Invalid(format!("the row has no {}", table.key));
            (*table, item.get(table.key).ok_or_else(missing)?)
        }
        Write::Update { table, key, .. } | Write::Delete { table, key, .. } => (*table, key),
    };
    Ok((table, Key::of(table, value)?))
}

/// Refuses an update that names an attribute twice, or the key.
pub(crate) fn named_once(table: &Schema, update: &Update) -> Result<(), Error> {
    let names = || {
        let set = update.set.keys().chain(update.set_if_absent.keys());
        set.chain(update.add.keys()).chain(&update.remove)
    };
    if names().any(|name| name == table.key) {
        return Err(Error::Invalid(format!("an update cannot change the key {}.{}", table.name, table.key)));
    }
    let mut named: Vec<&Name> = names().collect();
    named.sort_unstable();
    match named.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::Invalid(format!("an update names {}.{} twice", table.name, pair[0]))),
        None => Ok(()),
    }
}

/// The row after the update; unnamed attributes survive.
pub(crate) fn updated(table: &Schema, key: &Key, row: Option<&Item>, update: Update) -> Result<Item, Error> {
    named_once(table, &update)?;
    let fresh = |name: &str| row.is_none_or(|row| !row.contains_key(name));
    let set = update.set.iter().chain(&update.set_if_absent).map(|(name, _)| name);
    let more = set.chain(update.add.keys()).filter(|name| fresh(name)).count();
    let mut item = row.unwrap_or(&Item::new()).with_room(more + usize::from(row.is_none()));
    item.insert(table.key, key.to_value());
    for name in &update.remove {
        item.remove(name);
    }
    for (name, value) in update.set_if_absent {
        if !item.contains_key(&name) {
            item.insert(name, value);
        }
    }
    for (name, by) in update.add {
        let sum = sum(item.get(&name), &by)
            .ok_or_else(|| Error::Invalid(format!("{}.{name} cannot be added to", table.name)))?;
        item.insert(name, sum);
    }
    item.extend(update.set);
    Ok(item)
}

#[allow(clippy::cast_precision_loss, reason = "a number with a fraction is an approximation anyway")]
fn sum(to: Option<&Value>, by: &Value) -> Option<Value> {
    match (to.unwrap_or(&Value::N(0)), by) {
        (Value::N(a), Value::N(b)) => a.checked_add(*b).map(Value::N),
        (Value::N(a), Value::F(b)) => Some(Value::F(*a as f64 + b)),
        (Value::F(a), Value::N(b)) => Some(Value::F(a + *b as f64)),
        (Value::F(a), Value::F(b)) => Some(Value::F(a + b)),
        _ => None,
    }
}

/// The row in its stored form, if the rules of every back end allow it.
pub(crate) fn checked(table: &Schema, mut item: Item) -> Result<Item, Error> {
    for value in item.values_mut() {
        canonical(value).ok_or_else(|| Error::Invalid(format!("a row of {} holds a non-number", table.name)))?;
    }
    let keys = table.indexes.iter().flat_map(|index| std::iter::once(index.hash).chain(index.range));
    for name in keys.chain([table.key]) {
        if let Some(value) = item.get(name)
            && Key::read(value).is_none()
        {
            return Err(Error::Invalid(format!(
                "{}.{name} is an index key: a whole number or a non-empty text, else absent",
                table.name
            )));
        }
    }
    let size = || serde_json::to_vec(&item).map_or(usize::MAX, |json| json.len());
    if most(&item) > MAX_ITEM && size() > MAX_ITEM {
        let size = size();
        return Err(Error::Invalid(format!("a row of {} has {size} bytes; the most is {MAX_ITEM}", table.name)));
    }
    Ok(item)
}

/// No row's JSON form is longer than this.
fn most(item: &Item) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            // Control characters take six bytes each.
            Value::S(text) => 6 * text.len() + 2,
            Value::N(_) | Value::Bool(_) => 20,
            Value::F(_) => 32,
            Value::L(list) => list.iter().map(|value| of(value) + 1).sum::<usize>() + 2,
            Value::M(map) => most(map),
        }
    }
    item.iter().map(|(name, value)| 6 * name.len() + of(value) + 4).sum::<usize>() + 2
}

/// Numbers have one stored form each; `None` for what is not a number at all.
#[allow(clippy::cast_possible_truncation, reason = "checked to be whole and below 2^53")]
pub(crate) fn canonical(value: &mut Value) -> Option<()> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::F(number) if !number.is_finite() => None,
        Value::F(number) if number.fract() == 0.0 && number.abs() < EXACT => {
            *value = Value::N(*number as i64);
            Some(())
        }
        Value::L(list) => list.iter_mut().try_for_each(canonical),
        Value::M(map) => map.values_mut().try_for_each(canonical),
        _ => Some(()),
    }
}

/// The entry of a row in an index: hash, range. Sparse: a row without the attributes has none.
pub(crate) fn entry(index: &Index, row: &Item) -> Option<(Key, Option<Key>)> {
    let key = |name: &str| row.get(name).and_then(Key::read);
    match index.range {
        Some(range) => Some((key(index.hash)?, Some(key(range)?))),
        None => Some((key(index.hash)?, None)),
    }
}

/// The place of an index in its schema.
pub(crate) fn index_of(table: &'static Schema, name: &str) -> Result<usize, Error> {
    table
        .indexes
        .iter()
        .position(|index| index.name == name)
        .ok_or_else(|| Error::Missing(format!("table {} has no index {name}", table.name)))
}
