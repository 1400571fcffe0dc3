//! A query as a request, and what it means without an index. Pure.

use super::expression::{self, Terms};
use super::names::TableNames;
use crate::cond::{self, Key};
use crate::table::{Error, Index, Item, Query, Schema, Value};

/// A query, ready to be sent page by page.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Selection {
    pub(super) index: String,
    pub(super) keys: String,
    pub(super) filter: Option<String>,
    pub(super) terms: Terms,
}

/// A query whose parts have been checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Checked {
    pub(super) index: &'static Index,
    pub(super) place: usize,
    hash: Key,
    from: Option<Key>,
    until: Option<Key>,
    pub(super) descending: bool,
    pub(super) limit: usize,
}

impl Checked {
    pub(super) fn new(table: &'static Schema, query: &Query) -> Result<Self, Error> {
        let place = cond::index_of(table, query.index)?;
        let index = &table.indexes[place];
        let bound = |value: &Option<Value>| value.as_ref().map(|value| Key::of(table, value)).transpose();
        let (from, until) = (bound(&query.from)?, bound(&query.until)?);
        if index.range.is_none() && (from.is_some() || until.is_some()) {
            return Err(Error::Invalid(format!("index {} has no range to bound", index.name)));
        }
        let (hash, limit) = (Key::of(table, &query.hash)?, query.limit.unwrap_or(usize::MAX));
        Ok(Self { index, place, hash, from, until, descending: query.descending, limit })
    }

    /// Whether no row can be meant. DynamoDB refuses bounds in the wrong order.
    pub(super) fn is_empty(&self) -> bool {
        self.limit == 0 || self.from.as_ref().zip(self.until.as_ref()).is_some_and(|(from, until)| from >= until)
    }

    /// The request. DynamoDB takes one condition on the range: with two bounds the upper one is included, and
    /// [`Checked::keeps`] drops it.
    pub(super) fn selection(&self, names: &TableNames, table: &Schema, now: i64) -> Selection {
        let mut terms = Terms::default();
        let mut keys = format!("{} = {}", terms.name(self.index.hash), terms.value(&self.hash.to_value()));
        if let Some(range) = self.index.range.filter(|_| self.from.is_some() || self.until.is_some()) {
            let range = terms.name(range);
            let mut bound = |key: &Key| terms.value(&key.to_value());
            let of_range = match (&self.from, &self.until) {
                (Some(from), Some(until)) => format!("{range} BETWEEN {} AND {}", bound(from), bound(until)),
                (Some(from), None) => format!("{range} >= {}", bound(from)),
                (None, Some(until)) => format!("{range} < {}", bound(until)),
                (None, None) => String::new(),
            };
            keys = format!("{keys} AND {of_range}");
        }
        let filter = expression::expired(table, now).negate().render(&mut terms);
        Selection { index: self.names_of(names), keys, filter, terms }
    }

    /// The request for the rows at the upper bound alone, which a count with two bounds has to subtract.
    pub(super) fn at_until(&self, names: &TableNames, table: &Schema, now: i64) -> Option<Selection> {
        let (range, _, until) = (self.index.range?, self.from.as_ref()?, self.until.as_ref()?);
        let mut terms = Terms::default();
        let keys = format!(
            "{} = {} AND {} = {}",
            terms.name(self.index.hash),
            terms.value(&self.hash.to_value()),
            terms.name(range),
            terms.value(&until.to_value())
        );
        let filter = expression::expired(table, now).negate().render(&mut terms);
        Some(Selection { index: self.names_of(names), keys, filter, terms })
    }

    fn names_of(&self, names: &TableNames) -> String {
        names.of_index(self.index).to_owned()
    }

    /// Whether a row of the answer is meant.
    pub(super) fn keeps(&self, table: &Schema, row: &Item, now: i64) -> bool {
        !cond::expired(table, row, now)
            && match (&self.until, self.index.range) {
                (Some(until), Some(range)) => row.get(range).and_then(Key::read).is_some_and(|key| key < *until),
                _ => true,
            }
    }

    /// In the order of the range, and among equal ones of the key; DynamoDB does not order those.
    pub(super) fn sort(&self, table: &Schema, rows: &mut [Item]) {
        let place = |row: &Item| {
            let key = |name: &str| row.get(name).and_then(Key::read);
            (self.index.range.and_then(key), key(table.key))
        };
        rows.sort_by_cached_key(place);
        if self.descending {
            rows.reverse();
        }
    }

    /// The answer when there is no index: from every row of the table.
    pub(super) fn among(&self, table: &'static Schema, rows: Vec<Item>) -> Vec<Item> {
        let wanted = |row: &Item| {
            let entry = table.indexes.get(self.place).and_then(|index| cond::entry(index, row));
            entry.is_some_and(|(hash, range)| {
                hash == self.hash
                    && self.from.as_ref().is_none_or(|from| range.as_ref() >= Some(from))
                    && self.until.as_ref().is_none_or(|until| range.as_ref() < Some(until))
            })
        };
        let mut rows: Vec<_> = rows.into_iter().filter(wanted).collect();
        self.sort(table, &mut rows);
        rows.truncate(self.limit);
        rows
    }
}
