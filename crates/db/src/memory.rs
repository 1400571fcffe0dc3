//! The table in memory: for tests and simulation. Ordered maps only, so equal histories give equal answers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use domain::clock::Clock;

use crate::cond::{self, Effect, Key};
use crate::table::{Cond, Error, Item, Outcome, Query, Schema, Table, Update, Value, Write};

/// See the module.
pub struct Memory {
    clock: Arc<dyn Clock>,
    tables: Mutex<BTreeMap<&'static str, Rows>>,
}

#[derive(Default)]
struct Rows {
    rows: BTreeMap<Key, Item>,
    /// Place of the index in the schema, hash, range, key.
    index: BTreeSet<(usize, Key, Option<Key>, Key)>,
}

impl Rows {
    fn replace(&mut self, effect: Effect) {
        let Effect { table, key, before, after } = effect;
        for (place, hash, range) in before.iter().flat_map(|row| cond::entries(table, row)) {
            self.index.remove(&(place, hash, range, key.clone()));
        }
        for (place, hash, range) in after.iter().flat_map(|row| cond::entries(table, row)) {
            self.index.insert((place, hash, range, key.clone()));
        }
        match after {
            Some(row) => self.rows.insert(key, row),
            None => self.rows.remove(&key),
        };
    }
}

impl Memory {
    /// An empty store whose rows expire by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, tables: Mutex::default() }
    }

    /// Stores a row as another implementation left it, without the checks of a write: for tests of legacy rows.
    pub fn restore(&self, table: &'static Schema, item: Item) -> Result<(), Error> {
        let key = Key::of(table, item.get(table.key).unwrap_or(&Value::Bool(false)))?;
        self.with(|tables| {
            let rows = tables.entry(table.name).or_default();
            let before = rows.rows.get(&key).cloned();
            rows.replace(Effect { table, key, before, after: Some(item) });
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
            for effect in effects {
                tables.entry(effect.table.name).or_default().replace(effect);
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
            let Some(Rows { rows, index }) = tables.get(table.name) else {
                return Vec::new();
            };
            let start = (place, hash.clone(), from, Key::N(i64::MIN));
            let entries = index
                .range((Bound::Included(start), Bound::Unbounded))
                .take_while(|(at, of, range, _)| {
                    *at == place && *of == hash && until.as_ref().is_none_or(|until| range.as_ref() < Some(until))
                })
                .filter_map(|(.., key)| rows.get(key))
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
