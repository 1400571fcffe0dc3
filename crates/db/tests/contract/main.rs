//! The contract of the store, run against every back end.
//!
//! * [`table`] — the port: conditions, updates, transactions, indexes, expiry, refusals.
//! * [`records`] — jobs and runners: pinned writes, transactions, indexes.
//! * [`rows`] — pools, claims, locks, markers.
//! * [`model`] — random histories: every back end answers like a plain map.
//! * [`leader`] — the leader lease and fences.
//! * [`legacy`] — rows the Go implementation left behind.
//! * [`circuits`] — the circuit breakers.
//! * `emulated`, `double`, `setup` — DynamoDB: emulated for all of the above, scripted for what goes wrong, and its
//!   tables.
//! * [`file`] — the SQLite file: one process, newer layouts, damage, reading beside a writer.
//! * [`crash`] — the SQLite file after `kill -9`.

#![allow(clippy::expect_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use db::schema::ALL;
use db::table::{Item, Schema, Table, Value};
use db::{Memory, Sqlite};
use domain::clock::{Clock, Timestamp};
use domain::testing::at;

mod circuits;
mod crash;
#[cfg(feature = "aws")]
mod double;
#[cfg(feature = "aws")]
mod emulated;
mod file;
mod leader;
mod legacy;
mod model;
mod records;
mod rows;
#[cfg(feature = "aws")]
mod setup;
mod table;

/// A clock that stands still until it is told otherwise.
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(at(0).as_second())))
    }
    pub(crate) fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).expect("in range")
    }
}

const FILE: &str = "store.db";

/// A back end under test.
pub(crate) struct BackEnd {
    pub(crate) name: &'static str,
    pub(crate) table: Arc<dyn Table>,
    pub(crate) clock: Arc<TestClock>,
    kind: Kind,
}

enum Kind {
    Memory(Arc<Memory>),
    Sqlite(tempfile::TempDir),
    #[cfg(feature = "aws")]
    Dynamo(db::TableNames),
}

impl BackEnd {
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as Arc<dyn Clock>
    }

    /// Stores a row behind the back of the checks, as another implementation may have left it.
    pub(crate) fn restore(&self, table: &'static Schema, item: &Item) {
        match &self.kind {
            #[cfg(feature = "aws")]
            Kind::Dynamo(names) => emulated::restore(names.of(table).expect("named"), table.key, item),
            Kind::Memory(memory) => memory.restore(table, item).expect("a key"),
            Kind::Sqlite(directory) => {
                let file = rusqlite::Connection::open(directory.path().join(FILE)).expect("a store");
                file.busy_timeout(std::time::Duration::from_secs(5)).expect("allowed");
                let json = serde_json::to_string(item).expect("plain values");
                let sql = format!("INSERT INTO \"{}\" (key, item) VALUES (?1, ?2)", table.name);
                match &item[table.key] {
                    Value::N(key) => file.execute(&sql, (key, json)),
                    Value::S(key) => file.execute(&sql, (key.as_str(), json)),
                    other => panic!("{other:?} is no key"),
                }
                .expect("a new row");
            }
        }
    }
}

/// Every local back end, empty, with the given tables.
pub(crate) fn local_back_ends_with(tables: &[&'static Schema]) -> Vec<BackEnd> {
    let clock = TestClock::new();
    let store = Arc::new(Memory::new(Arc::clone(&clock) as Arc<dyn Clock>));
    let table = Arc::clone(&store) as Arc<dyn Table>;
    let memory = BackEnd { name: "memory", table, clock, kind: Kind::Memory(store) };
    let (clock, directory) = (TestClock::new(), tempfile::tempdir().expect("a directory"));
    let path = directory.path().join(FILE);
    let store = Sqlite::open_with(&path, Arc::clone(&clock) as Arc<dyn Clock>, tables).expect("a new store");
    let sqlite = BackEnd { name: "sqlite", table: Arc::new(store), clock, kind: Kind::Sqlite(directory) };
    vec![memory, sqlite]
}

/// Every back end, empty, with the given tables.
pub(crate) fn back_ends_with(tables: &[&'static Schema]) -> Vec<BackEnd> {
    #[cfg(feature = "aws")]
    return local_back_ends_with(tables).into_iter().chain([dynamo_with(tables)]).collect();
    #[cfg(not(feature = "aws"))]
    local_back_ends_with(tables)
}

/// DynamoDB, emulated, with the given tables.
#[cfg(feature = "aws")]
pub(crate) fn dynamo_with(tables: &[&'static Schema]) -> BackEnd {
    let (clock, names) = (TestClock::new(), emulated::names(tables));
    emulated::make(tables, &names);
    let table = Arc::new(emulated::dynamo(names.clone(), &clock));
    BackEnd { name: "dynamodb", table, clock, kind: Kind::Dynamo(names) }
}

/// Every back end with our own tables.
pub(crate) fn back_ends() -> Vec<BackEnd> {
    back_ends_with(&ALL)
}

/// A row from pairs.
pub(crate) fn row<const N: usize>(pairs: [(&str, Value); N]) -> Item {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
