//! The SQLite file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use db::Sqlite;
use db::schema::POOLS;
use db::table::{Cond, Error, Table, Value};
use domain::clock::Clock;

use crate::{TestClock, row};

fn open(path: &Path) -> Result<Sqlite, Error> {
    Sqlite::open(path, TestClock::new())
}

/// The refusal, as the operator reads it.
fn refusal(answer: Result<Sqlite, Error>) -> String {
    match answer {
        Ok(_) => panic!("opened"),
        Err(Error::Invalid(reason)) => reason,
        Err(other) => panic!("{other}"),
    }
}

async fn put(store: &Sqlite, name: &str) {
    let put = store.put(&POOLS, row([("pool_name", name.into())]), Cond::Always).await;
    assert!(put.expect("allowed").is_applied());
}

async fn has(store: &Sqlite, name: &str) -> bool {
    store.get(&POOLS, &Value::from(name)).await.expect("an answer").is_some()
}

#[tokio::test]
async fn one_process_at_a_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("deep/er/store.db");
    let first = open(&path).expect("a new store");
    put(&first, "a").await;
    let reason = refusal(open(&path));
    assert!(reason.contains("in use by another process") && reason.contains("store.db"), "{reason}");
    put(&first, "b").await;
    drop(first);
    let second = open(&path).expect("free again");
    assert!(has(&second, "a").await && has(&second, "b").await);
}

#[tokio::test]
async fn a_reader_beside_the_writer_sees_what_is_acknowledged() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.db");
    let missing = Sqlite::open_read_only(&path, TestClock::new());
    assert!(matches!(missing, Err(Error::Missing(_))));
    let writer = open(&path).expect("a new store");
    let reader = Sqlite::open_read_only(&path, TestClock::new()).expect("a store");
    for number in 0..20 {
        let name = format!("pool-{number}");
        put(&writer, &name).await;
        assert!(has(&reader, &name).await, "{name}");
    }
    let refused = reader.put(&POOLS, row([("pool_name", "x".into())]), Cond::Always).await;
    assert!(matches!(refused, Err(Error::Invalid(_))));
    drop(writer);
    assert!(has(&reader, "pool-1").await);
    let alone = Sqlite::open_read_only(&path, TestClock::new()).expect("a store nobody writes");
    assert!(has(&alone, "pool-19").await && !has(&alone, "x").await);
}

#[tokio::test]
async fn a_file_of_a_newer_release_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.db");
    drop(open(&path).expect("a new store"));
    let file = rusqlite::Connection::open(&path).expect("a store");
    file.pragma_update(None, "user_version", 99).expect("allowed");
    drop(file);
    assert!(refusal(open(&path)).contains("newer release"));
    assert!(refusal(Sqlite::open_read_only(&path, TestClock::new())).contains("newer release"));
}

#[tokio::test]
async fn a_damaged_file_stops_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.db");
    std::fs::write(&path, "this is no store ".repeat(1000)).expect("written");
    assert!(refusal(open(&path)).contains("store.db"));

    std::fs::remove_file(&path).expect("removed");
    let store = open(&path).expect("a new store");
    for number in 0..200 {
        put(&store, &format!("pool-{number}-{}", "x".repeat(200))).await;
    }
    drop(store);
    // All pages but the first, which holds the definitions, lose their middle.
    let mut bytes = std::fs::read(&path).expect("a file");
    for page in bytes.chunks_mut(4096).skip(1) {
        page[8..2048].fill(0xff);
    }
    std::fs::write(&path, bytes).expect("written");
    let reason = refusal(open(&path));
    assert!(reason.contains("restore a backup"), "{reason}");
}

/// A caller that gives up does not take the store with it, and its write is done or not done.
#[tokio::test]
async fn a_caller_may_give_up() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(&directory.path().join("store.db")).expect("a new store");
    for number in 0..50 {
        let name = format!("pool-{number}");
        let write = store.put(&POOLS, row([("pool_name", name.as_str().into())]), Cond::Always);
        let read = store.scan(&POOLS);
        let brief = Duration::from_micros(number * 20);
        let _ = tokio::time::timeout(brief, write).await;
        let _ = tokio::time::timeout(brief, read).await;
    }
    put(&store, "last").await;
    assert!(has(&store, "last").await);
}

#[tokio::test]
async fn expired_rows_leave_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.db");
    let clock = TestClock::new();
    let store = Sqlite::open(&path, Arc::clone(&clock) as Arc<dyn Clock>).expect("a new store");
    let expiry = Value::N(clock.now().as_second() + 10);
    let item = row([("pool_name", "__instance_claim:i-1".into()), ("claim_expiry", expiry)]);
    assert!(store.put(&POOLS, item, Cond::Always).await.expect("allowed").is_applied());
    let malformed = row([("pool_name", "__instance_claim:i-2".into()), ("claim_expiry", "soon".into())]);
    assert!(store.put(&POOLS, malformed, Cond::Always).await.expect("allowed").is_applied());
    clock.advance(120);
    let file = rusqlite::Connection::open(&path).expect("a store");
    let mut rows = Vec::new();
    for _ in 0..500 {
        put(&store, "keep").await;
        rows = file
            .prepare("SELECT key FROM pools ORDER BY key")
            .and_then(|mut statement| statement.query_map([], |row| row.get::<_, String>(0))?.collect())
            .expect("rows");
        if rows.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(rows, ["__instance_claim:i-2", "keep"], "what has no readable expiry stays");
}
