//! The one low-level port: conditional writes on single items, and a few of them together.
//!
//! Safety rests on nothing else. A write names what it expects; when the expectation fails the answer is
//! [`Outcome::Lost`], a value, not an error: somebody else moved first. An [`Error`] means the store did not answer or
//! refused, and the outcome of a write is then unknown.

use std::collections::BTreeMap;

use async_trait::async_trait;

/// An attribute's value. Sets and binary values do not occur.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text.
    S(String),
    /// A whole number.
    N(i64),
    /// A number with a fraction (money, gibibytes).
    F(f64),
    /// Truth.
    Bool(bool),
    /// A list.
    L(Vec<Value>),
    /// A map.
    M(Item),
}

/// A row, or the inside of a map attribute.
pub type Item = BTreeMap<String, Value>;

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
    Exists(String),
    /// The attribute is not there.
    Absent(String),
    /// The attribute is there and equals the value.
    Eq(String, Value),
    /// The attribute is there and less than the value (same kind).
    Lt(String, Value),
    /// The attribute is there and greater than the value (same kind).
    Gt(String, Value),
    /// The attribute is there and one of the values.
    In(String, Vec<Value>),
    /// The attribute is text that begins so.
    BeginsWith(String, String),
    /// All hold.
    And(Vec<Cond>),
    /// One holds.
    Or(Vec<Cond>),
    /// It does not hold.
    Not(Box<Cond>),
}

/// A partial change of a row: unnamed attributes survive.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Update {
    /// Attributes to set.
    pub set: Item,
    /// Attributes to set only where the row does not have them yet.
    pub set_if_absent: Item,
    /// Numbers to add; an absent attribute counts as zero.
    pub add: BTreeMap<String, Value>,
    /// Attributes to remove.
    pub remove: Vec<String>,
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
    /// Whether it was written.
    pub const fn is_applied(&self) -> bool {
        matches!(self, Self::Applied(_))
    }
}

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
}

/// A conditional table store.
#[async_trait]
pub trait Table: Send + Sync + 'static {
    /// The row, strongly consistent. Rows past their expiry are not returned.
    async fn get(&self, table: &'static Schema, key: &Value) -> Result<Option<Item>, Error>;
    /// Replaces or creates a whole row.
    async fn put(&self, table: &'static Schema, item: Item, cond: Cond) -> Result<Outcome, Error>;
    /// Changes some attributes and returns the row as it is afterwards.
    async fn update(&self, table: &'static Schema, key: &Value, update: Update, cond: Cond)
    -> Result<Outcome<Item>, Error>;
    /// Removes a row.
    async fn delete(&self, table: &'static Schema, key: &Value, cond: Cond) -> Result<Outcome, Error>;
    /// Rows of an index, in the order of its range attribute. May lag behind writes by up to two seconds on some back
    /// ends: confirm with [`Table::get`] before anything destructive.
    async fn query(&self, table: &'static Schema, query: Query) -> Result<Vec<Item>, Error>;
    /// Every row. For fall-backs, enumerations of small tables, and tests.
    async fn scan(&self, table: &'static Schema) -> Result<Vec<Item>, Error>;
    /// At most 25 writes on distinct rows, all or none.
    async fn transact(&self, writes: Vec<Write>) -> Result<Outcome, Error>;
}
