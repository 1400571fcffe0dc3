//! The one low-level port: conditional writes on single items, and a few of them together.
//!
//! Safety rests on nothing else. A write names what it expects; when the expectation fails the answer is
//! [`Outcome::Lost`], a value, not an error: somebody else moved first. An [`Error`] means the store did not answer or
//! refused, and the outcome of a write is then unknown.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

pub use crate::item::{Item, Name};

/// An attribute's value. Sets and binary values do not occur. Its JSON is the plain one (`"a"`, `1`, `1.5`, `true`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Text.
    S(SmolStr),
    /// A whole number.
    N(i64),
    /// A number with a fraction (money, gibibytes). One without a fraction is stored, and read back, as [`Value::N`].
    F(f64),
    /// Truth.
    Bool(bool),
    /// A list.
    L(Box<[Value]>),
    /// A map.
    M(Item),
}

// Rows are made of these. Short texts (ids, times, states) are inside, not behind a pointer.
const _: () = assert!(size_of::<Value>() <= 24);

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::S(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::S(text.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::N(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::N(number.into())
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

/// A table, its key and its indexes. Table, attribute and index names are an operator contract.
#[derive(Debug, PartialEq, Eq)]
pub struct Schema {
    /// What we call it; back ends map it to the configured table name.
    pub name: &'static str,
    /// Hash key attribute. There is no range key.
    pub key: &'static str,
    /// Sparse secondary indexes that project everything.
    pub indexes: &'static [Index],
    /// Attribute with the row's expiry in epoch seconds.
    pub ttl: Option<&'static str>,
}

/// A secondary index. A row is in it when it has both attributes.
#[derive(Debug, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: &'static str,
    /// Hash attribute.
    pub hash: &'static str,
    /// Range attribute; rows are ordered by it.
    pub range: Option<&'static str>,
}

/// What a write expects of the row it is about to change. A missing row has no attributes.
#[derive(Debug, Clone, PartialEq)]
pub enum Cond {
    /// Nothing.
    Always,
    /// The attribute is there.
    Exists(Name),
    /// The attribute is not there.
    Absent(Name),
    /// The attribute is there and equals the value.
    Eq(Name, Value),
    /// The attribute is there and less than the value (same kind).
    Lt(Name, Value),
    /// The attribute is there and greater than the value (same kind).
    Gt(Name, Value),
    /// The attribute is there and one of the values.
    In(Name, Vec<Value>),
    /// The attribute is text that begins so.
    BeginsWith(Name, String),
    /// All hold.
    And(Vec<Cond>),
    /// One holds.
    Or(Vec<Cond>),
    /// It does not hold.
    Not(Box<Cond>),
}

impl Cond {
    /// The attribute is there.
    pub fn exists(name: impl Into<Name>) -> Self {
        Self::Exists(name.into())
    }
    /// The attribute is not there.
    pub fn absent(name: impl Into<Name>) -> Self {
        Self::Absent(name.into())
    }
    /// The attribute equals the value.
    pub fn eq(name: impl Into<Name>, value: impl Into<Value>) -> Self {
        Self::Eq(name.into(), value.into())
    }
    /// The attribute is less than the value.
    pub fn lt(name: impl Into<Name>, value: impl Into<Value>) -> Self {
        Self::Lt(name.into(), value.into())
    }
    /// Both hold.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match self {
            Self::And(mut all) => {
                all.push(other);
                Self::And(all)
            }
            first => Self::And(vec![first, other]),
        }
    }
    /// One of them holds.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match self {
            Self::Or(mut any) => {
                any.push(other);
                Self::Or(any)
            }
            first => Self::Or(vec![first, other]),
        }
    }
}

/// A partial change of a row: unnamed attributes survive.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Update {
    /// Attributes to set.
    pub set: Item,
    /// Attributes to set only where the row does not have them yet.
    pub set_if_absent: Item,
    /// Numbers to add; an absent attribute counts as zero.
    pub add: BTreeMap<Name, Value>,
    /// Attributes to remove.
    pub remove: Vec<Name>,
}

impl Update {
    /// Also sets an attribute.
    #[must_use]
    pub fn set(mut self, name: impl Into<Name>, value: impl Into<Value>) -> Self {
        self.set.insert(name, value.into());
        self
    }
    /// Also sets an attribute, where the row does not have it yet.
    #[must_use]
    pub fn set_if_absent(mut self, name: impl Into<Name>, value: impl Into<Value>) -> Self {
        self.set_if_absent.insert(name, value.into());
        self
    }
    /// Also adds to a number.
    #[must_use]
    pub fn add(mut self, name: impl Into<Name>, value: impl Into<Value>) -> Self {
        self.add.insert(name.into(), value.into());
        self
    }
    /// Also removes an attribute.
    #[must_use]
    pub fn remove(mut self, name: impl Into<Name>) -> Self {
        self.remove.push(name.into());
        self
    }
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.set_if_absent.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Replace or create the whole row.
    Put {
        /// Where.
        table: &'static Schema,
        /// The row, key included.
        item: Item,
        /// What must hold of the row it replaces.
        cond: Cond,
    },
    /// Change some attributes; creates the row when it is missing and the condition allows that.
    Update {
        /// Where.
        table: &'static Schema,
        /// Which row.
        key: Value,
        /// The change.
        update: Update,
        /// What must hold before.
        cond: Cond,
    },
    /// Remove the row; a missing row is fine when the condition allows that.
    Delete {
        /// Where.
        table: &'static Schema,
        /// Which row.
        key: Value,
        /// What must hold before.
        cond: Cond,
    },
}

/// The result of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome<T = ()> {
    /// Written.
    Applied(T),
    /// The condition did not hold; nothing was written.
    Lost,
}

impl<T> Outcome<T> {
    /// The written value, if it was.
    pub fn applied(self) -> Option<T> {
        match self {
            Self::Applied(value) => Some(value),
            Self::Lost => None,
        }
    }
    /// The same outcome about something else.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Applied(value) => Outcome::Applied(f(value)),
            Self::Lost => Outcome::Lost,
        }
    }
    /// Whether it was written.
    pub const fn is_applied(&self) -> bool {
        matches!(self, Self::Applied(_))
    }
}

/// Most writes of one transaction.
pub const MAX_WRITES: usize = 25;
/// Largest row, in bytes of its JSON form.
pub const MAX_ITEM: usize = 64 * 1024;

/// Which rows of an index, and how many.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Name of the index.
    pub index: &'static str,
    /// Value of its hash attribute.
    pub hash: Value,
    /// Range attribute at least this, when given.
    pub from: Option<Value>,
    /// Range attribute less than this, when given.
    pub until: Option<Value>,
    /// Newest (largest) first.
    pub descending: bool,
    /// At most so many rows; `None` follows every page to the end.
    pub limit: Option<usize>,
}

impl Query {
    /// Every row with this hash, oldest (smallest) first.
    pub fn of(index: &'static str, hash: impl Into<Value>) -> Self {
        Self { index, hash: hash.into(), from: None, until: None, descending: false, limit: None }
    }
}

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Try again later: throttled, unreachable, timed out. A write may or may not have happened.
    #[error("the store did not answer: {0}")]
    Unavailable(String),
    /// The request can never succeed: a bad key, an empty string in an index key, an item over 64 KiB.
    #[error("the store refused the request: {0}")]
    Invalid(String),
    /// The table or index does not exist; the message says how to create it.
    #[error("{0}")]
    Missing(String),
    /// The row is there but this release cannot read it: leave it alone and report it.
    #[error("unreadable row: {0}")]
    Unreadable(String),
}

/// A conditional table store.
#[async_trait]
pub trait Table: Send + Sync + 'static {
    /// The row, strongly consistent. Rows past their expiry are not returned.
    async fn get(&self, table: &'static Schema, key: &Value) -> Result<Option<Item>, Error>;
    /// Those of the rows that exist, strongly consistent each, ordered by key.
    async fn get_many(&self, table: &'static Schema, keys: &[Value]) -> Result<Vec<Item>, Error> {
        let mut rows = BTreeMap::new();
        for key in keys {
            if let Some(row) = self.get(table, key).await? {
                rows.insert(crate::cond::Key::of(table, key)?, row);
            }
        }
        Ok(rows.into_values().collect())
    }
    /// Replaces or creates a whole row.
    async fn put(&self, table: &'static Schema, item: Item, cond: Cond) -> Result<Outcome, Error>;
    /// Changes some attributes and returns the row as it is afterwards.
    async fn update(
        &self,
        table: &'static Schema,
        key: &Value,
        update: Update,
        cond: Cond,
    ) -> Result<Outcome<Item>, Error>;
    /// Removes a row.
    async fn delete(&self, table: &'static Schema, key: &Value, cond: Cond) -> Result<Outcome, Error>;
    /// Rows of an index, in the order of its range attribute. May lag behind writes by up to two seconds on some back
    /// ends: confirm with [`Table::get`] before anything destructive.
    async fn query(&self, table: &'static Schema, query: Query) -> Result<Vec<Item>, Error>;
    /// How many rows [`Table::query`] would return.
    async fn count(&self, table: &'static Schema, query: Query) -> Result<usize, Error> {
        Ok(self.query(table, query).await?.len())
    }
    /// Every row. For fall-backs, enumerations of small tables, and tests.
    async fn scan(&self, table: &'static Schema) -> Result<Vec<Item>, Error>;
    /// At most 25 writes on distinct rows, all or none.
    async fn transact(&self, writes: Vec<Write>) -> Result<Outcome, Error>;
}
