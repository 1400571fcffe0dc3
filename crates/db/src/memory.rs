//! The table in memory: for tests and simulation. Ordered maps only, so equal histories give equal answers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use domain::clock::Clock;

use crate::cond::{self, Effect, Key};
use crate::table::{Cond, Error, Item, Outcome, Query, Schema, Table, Update, Value, Write};

/// Who hears of every change, after it was made. Called while the table is locked: it must not call back.
pub trait Watch: Send + Sync {
    /// A row was created (`before` is none), changed, or removed (`after` is none).
    fn wrote(&self, table: &'static Schema, before: Option<&Item>, after: Option<&Item>);
}

/// See the module.
pub struct Memory {
    clock: Arc<dyn Clock>,
    watch: Option<Arc<dyn Watch>>,
    tables: Mutex<BTreeMap<&'static str, Rows>>,
}

/// What an index has of one hash: range and key.
type Entries = BTreeSet<(Option<Key>, Key)>;

struct Rows {
    table: &'static Schema,
    rows: BTreeMap<Key, Item>,
    /// Rows that will expire, by when.
    expiring: BTreeSet<(i64, Key)>,
    /// The indexes in the order of the schema: by hash.
    indexes: Vec<BTreeMap<Key, Entries>>,
}

impl Rows {
    fn of(table: &'static Schema) -> Self {
        let indexes = table.indexes.iter().map(|_| BTreeMap::new()).collect();
        Self { table, rows: BTreeMap::new(), expiring: BTreeSet::new(), indexes }
    }

    fn expiry(&self, row: &Item) -> Option<i64> {
        match row.get(self.table.ttl?) {
            Some(Value::N(at)) => Some(*at),
            _ => None,
        }
    }

    fn replace(&mut self, key: Key, after: Option<&Item>) -> Option<Item> {
        // An item shares its values: a copy of it costs nothing.
        let before = match after {
            Some(row) => self.rows.insert(key.clone(), row.clone()),
            None => self.rows.remove(&key),
        };
        for (index, entries) in self.table.indexes.iter().zip(&mut self.indexes) {
            let read = |row: Option<&Item>| cond::entry(index, row?);
            let (old, new) = (read(before.as_ref()), read(after));
            if old == new {
                continue;
            }
            if let Some((hash, range)) = old
                && let Some(of_hash) = entries.get_mut(&hash)
            {
                of_hash.remove(&(range, key.clone()));
                if of_hash.is_empty() {
                    entries.remove(&hash);
                }
            }
            if let Some((hash, range)) = new {
                entries.entry(hash).or_default().insert((range, key.clone()));
            }
        }
        let expiry = |row: Option<&Item>| row.and_then(|row| self.expiry(row));
        let (old, new) = (expiry(before.as_ref()), expiry(after));
        if old != new {
            if let Some(at) = old {
                self.expiring.remove(&(at, key.clone()));
            }
            if let Some(at) = new {
                self.expiring.insert((at, key));
            }
        }
        before
    }

    fn remove(&mut self, key: &Key) {
        self.replace(key.clone(), None);
    }
}

impl Memory {
    /// An empty store whose rows expire by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, watch: None, tables: Mutex::default() }
    }

    /// The same, whose changes somebody hears of.
    pub fn watched(clock: Arc<dyn Clock>, watch: Arc<dyn Watch>) -> Self {
        Self { watch: Some(watch), ..Self::new(clock) }
    }

    /// Really removes rows that have expired. Nobody sees them any more; this frees their memory.
    pub fn expire(&self) {
        let now = self.now();
        self.with(|tables| {
            for rows in tables.values_mut() {
                let expired: Vec<Key> =
                    rows.expiring.range(..(now, Key::N(i64::MIN))).map(|(_, key)| key.clone()).collect();
                for key in expired {
                    rows.remove(&key);
                }
            }
        });
    }

    /// Removes a row without the checks of a write: the opposite of [`Memory::restore`].
    pub fn forget(&self, table: &'static Schema, key: &Value) -> Result<(), Error> {
        let key = Key::of(table, key)?;
        self.with(|tables| {
            if let Some(rows) = tables.get_mut(table.name) {
                rows.remove(&key);
            }
        });
        Ok(())
    }

    /// Stores a row as another implementation left it, without the checks of a write: for tests of legacy rows.
    pub fn restore(&self, table: &'static Schema, item: &Item) -> Result<(), Error> {
        let key = Key::of(table, item.get(table.key).unwrap_or(&Value::Bool(false)))?;
        self.with(|tables| {
            tables.entry(table.name).or_insert_with(|| Rows::of(table)).replace(key, Some(item));
        });
        Ok(())
    }

    fn now(&self) -> i64 {
        self.clock.now().as_second()
    }

    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<&'static str, Rows>) -> T) -> T {
        f(&mut self.tables.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Applies the writes and returns the first row as it is afterwards.
    fn write(&self, writes: Vec<Write>) -> Result<Outcome<Option<Item>>, Error> {
        let now = self.now();
        self.with(|tables| {
            let read = |table: &'static Schema, key: &Key| {
                Ok(tables.get(table.name).and_then(|rows| rows.rows.get(key)).cloned())
            };
            let Outcome::Applied(effects) = cond::plan(writes, now, read)? else {
                return Ok(Outcome::Lost);
            };
            let first = effects.first().and_then(|effect| effect.after.clone());
            for Effect { table, key, after, .. } in effects {
                let rows = tables.entry(table.name).or_insert_with(|| Rows::of(table));
                match &self.watch {
                    Some(watch) => {
                        let before = rows.replace(key.clone(), after.as_ref());
                        watch.wrote(table, before.as_ref(), rows.rows.get(&key));
                    }
                    None => {
                        rows.replace(key, after.as_ref());
                    }
                }
            }
            Ok(Outcome::Applied(first))
        })
    }
}

#[async_trait]
impl Table for Memory {
    async fn get(&self, table: &'static Schema, key: &Value) -> Result<Option<Item>, Error> {
        let (key, now) = (Key::of(table, key)?, self.now());
        Ok(self.with(|tables| {
            let row = tables.get(table.name)?.rows.get(&key)?;
            (!cond::expired(table, row, now)).then(|| row.clone())
        }))
    }

    async fn put(&self, table: &'static Schema, item: Item, cond: Cond) -> Result<Outcome, Error> {
        Ok(self.write(vec![Write::Put { table, item, cond }])?.map(|_| ()))
    }

    async fn update(
        &self,
        table: &'static Schema,
        key: &Value,
        update: Update,
        cond: Cond,
    ) -> Result<Outcome<Item>, Error> {
        let write = Write::Update { table, key: key.clone(), update, cond };
        Ok(self.write(vec![write])?.map(Option::unwrap_or_default))
    }

    async fn delete(&self, table: &'static Schema, key: &Value, cond: Cond) -> Result<Outcome, Error> {
        Ok(self.write(vec![Write::Delete { table, key: key.clone(), cond }])?.map(|_| ()))
    }

    async fn query(&self, table: &'static Schema, query: Query) -> Result<Vec<Item>, Error> {
        let place = cond::index_of(table, query.index)?;
        let (hash, now) = (Key::of(table, &query.hash)?, self.now());
        let bound = |value: Option<Value>| value.map(|value| Key::of(table, &value)).transpose();
        let (from, until) = (bound(query.from)?, bound(query.until)?);
        Ok(self.with(|tables| {
            let Some(Rows { rows, indexes, .. }) = tables.get(table.name) else {
                return Vec::new();
            };
            let Some(of_hash) = indexes.get(place).and_then(|entries| entries.get(&hash)) else {
                return Vec::new();
            };
            let entries = of_hash
                .range((Bound::Included((from, Key::N(i64::MIN))), Bound::Unbounded))
                .take_while(|(range, _)| until.as_ref().is_none_or(|until| range.as_ref() < Some(until)))
                .filter_map(|(_, key)| rows.get(key))
                .filter(|row| !cond::expired(table, row, now));
            let limit = query.limit.unwrap_or(usize::MAX);
            if query.descending {
                let all: Vec<_> = entries.collect();
                all.into_iter().rev().take(limit).cloned().collect()
            } else {
                entries.take(limit).cloned().collect()
            }
        }))
    }

    async fn scan(&self, table: &'static Schema) -> Result<Vec<Item>, Error> {
        let now = self.now();
        Ok(self.with(|tables| {
            let rows = tables.get(table.name).into_iter().flat_map(|rows| rows.rows.values());
            rows.filter(|row| !cond::expired(table, row, now)).cloned().collect()
        }))
    }

    async fn transact(&self, writes: Vec<Write>) -> Result<Outcome, Error> {
        Ok(self.write(writes)?.map(|_| ()))
    }
}
