//! D39: `kill -9` at any moment. After it the file opens, every acknowledged write is there, and no transaction is
//! there by half.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use db::Sqlite;
use db::table::{Cond, Index, Item, Query, Schema, Table, Update, Value, Write};

use crate::{TestClock, row};

static T: Schema =
    Schema { name: "t", key: "k", indexes: &[Index { name: "lanes", hash: "lane", range: Some("n") }], ttl: None };
const LANES: i64 = 4;
const PATH: &str = "STORE_CRASH_TEST_PATH";

fn open(path: &Path) -> Sqlite {
    Sqlite::open_with(path, TestClock::new(), &[&T]).expect("a sound store")
}

/// How many writes the lane's counter says there were.
async fn counted(store: &Sqlite, lane: i64) -> i64 {
    let row = store.get(&T, &Value::N(lane)).await.expect("an answer");
    match row.as_ref().and_then(|row| row.get("count")) {
        Some(Value::N(count)) => *count,
        _ => 0,
    }
}

/// The child: in each lane, one row and the lane's counter per transaction, acknowledged on standard output.
#[tokio::test]
#[ignore = "the child process of the test below"]
async fn child() {
    let path = std::env::var(PATH).expect("started by the test below");
    let store = Arc::new(open(Path::new(&path)));
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..LANES {
        let store = Arc::clone(&store);
        lanes.spawn(async move {
            for n in counted(&store, lane).await + 1.. {
                let key = Value::from(format!("{lane}:{n}"));
                let item: Item = row([("k", key), ("lane", lane.into()), ("n", n.into())]);
                let count = Update::default().set("count", n);
                let cond = if n == 1 { Cond::absent("k") } else { Cond::eq("count", n - 1) };
                let writes = vec![
                    Write::Put { table: &T, item, cond: Cond::absent("k") },
                    Write::Update { table: &T, key: Value::N(lane), update: count, cond },
                ];
                assert!(store.transact(writes).await.expect("allowed").is_applied());
                let mut out = std::io::stdout().lock();
                writeln!(out, "ack {lane} {n}").and_then(|()| out.flush()).expect("the parent reads");
            }
        });
    }
    while lanes.join_next().await.is_some() {}
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_and_nothing_is_half_done() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.db");
    let mut acknowledged = [0; LANES as usize];
    for round in 0..100_u64 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--ignored", "--exact", "crash::child", "--nocapture"])
            .env(PATH, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        let mut output = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut note = |line: String| {
            let mut words = line.split(' ').skip_while(|word| *word != "ack").skip(1).map(str::parse::<i64>);
            if let (Some(Ok(lane)), Some(Ok(n))) = (words.next(), words.next()) {
                acknowledged[usize::try_from(lane).expect("a lane")] = n;
                return true;
            }
            false
        };
        // Some rounds end while the file is being opened, most while it is being written.
        if round % 10 != 0 {
            while !note(output.next().expect("more output").expect("text")) {}
        }
        tokio::time::sleep(Duration::from_micros(round * 7919 % 20_000)).await;
        child.kill().expect("still running");
        child.wait().expect("ended");
        // What it said before it died was acknowledged; the last line may be torn.
        for line in output.map_while(Result::ok) {
            note(line);
        }

        let store = open(&path);
        for lane in 0..LANES {
            let count = counted(&store, lane).await;
            let acked = acknowledged[usize::try_from(lane).expect("a lane")];
            assert!(count >= acked, "round {round}, lane {lane}: {acked} acknowledged, {count} there");
            let rows = store.query(&T, Query::of("lanes", lane)).await.expect("an answer");
            let numbers: Vec<_> = rows.iter().map(|row| row["n"].clone()).collect();
            assert_eq!(numbers, (1..=count).map(Value::N).collect::<Vec<_>>(), "round {round}, lane {lane}");
        }
    }
    assert!(acknowledged.iter().all(|count| *count > 100), "{acknowledged:?}: the children did too little");
}
