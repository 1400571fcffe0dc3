//! What only the inside can see: that the file says the same as memory, and that a failed batch changes nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Rng, SystemRng, Timestamp, after};
use proptest::prelude::*;

use super::file::File;
use crate::broker::Broker;
use crate::{Delivery, Message, OpenError, QueueConfig};

fn configs() -> (Arc<QueueConfig>, Arc<QueueConfig>) {
    let dead = QueueConfig::fifo("dead").retention(Duration::from_secs(5000));
    let queue = QueueConfig::fifo("q").retention(Duration::from_secs(400)).dead_letters(&dead, 2);
    (Arc::new(queue), Arc::new(dead))
}

fn open(file: &File) -> Broker {
    let (queue, dead) = configs();
    let mut broker = Broker::new(file.last_seq().unwrap());
    broker.open(file.load(&queue).unwrap());
    broker.open(file.load(&dead).unwrap());
    broker
}

fn write(file: &File, broker: &mut Broker) {
    file.begin(true).unwrap();
    for change in broker.take_changes() {
        file.apply(&change).unwrap();
    }
    file.commit(broker.now()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// A broker read back from the file is the broker that wrote it, in mid-delivery too.
    #[test]
    fn the_file_says_what_memory_says(steps in prop::collection::vec((0u8..6, 0u64..300), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let file = File::open(&dir.path().join("queue.db")).unwrap();
        let mut broker = open(&file);
        let (mut now, mut taken) = (Timestamp::UNIX_EPOCH, Vec::new());
        for (kind, number) in steps {
            broker.advance(now);
            let message = |body: String| Message { body, group: (number % 4).to_string(), ..Message::default() };
            match kind {
                0 | 1 => drop(broker.send("q", message(number.to_string()), now).unwrap()),
                2 => taken.extend(broker.receive("q", 3, Duration::from_secs(number), &SystemRng).unwrap()),
                3 => now = after(now, Duration::from_secs(number)),
                _ => {
                    if let Some(last) = taken.pop() {
                        let delivery = Delivery {
                            id: String::new(),
                            body: number.to_string(),
                            handle: last.handle,
                            attributes: Default::default(),
                            sent_at: None,
                            receive_count: None,
                            group: None,
                            deadline: tokio::time::Instant::now(),
                        };
                        // Any of these may be refused because the delivery is over.
                        let _ = match number % 3 {
                            0 => broker.ack("q", &delivery.handle),
                            1 => broker.extend("q", &delivery.handle, Duration::from_secs(number / 2)),
                            _ => broker.reject("q", &delivery, "why", now),
                        };
                    }
                }
            }
            write(&file, &mut broker);
        }
        // That a delivery is over is not written: every look finds it out.
        let look = |broker: &mut Broker| {
            broker.advance(now);
            broker.depth("q", now).unwrap();
            broker.depth("dead", now).unwrap();
        };
        look(&mut broker);
        write(&file, &mut broker);
        let mut again = open(&file);
        look(&mut again);
        prop_assert!(again.take_changes().is_empty());
        prop_assert_eq!(broker.lane("q"), again.lane("q"));
        prop_assert_eq!(broker.lane("dead"), again.lane("dead"));
    }
}

#[test]
fn a_batch_that_fails_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::open(&dir.path().join("queue.db")).unwrap();
    let mut broker = open(&file);
    broker.send("q", Message { group: "g".into(), ..Message::default() }, Timestamp::UNIX_EPOCH).unwrap();
    file.begin(true).unwrap();
    for change in broker.take_changes() {
        file.apply(&change).unwrap();
    }
    file.roll_back();
    assert_eq!(open(&file).lane("q").len(), 0);
    assert_eq!(file.last_seq().unwrap(), 0);
}

#[test]
fn a_nonce_of_any_size_survives_the_file() {
    struct Greatest;
    impl Rng for Greatest {
        fn next_u64(&self) -> u64 {
            u64::MAX
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let file = File::open(&dir.path().join("queue.db")).unwrap();
    let mut broker = open(&file);
    broker.send("q", Message { group: "g".into(), ..Message::default() }, Timestamp::UNIX_EPOCH).unwrap();
    let taken = broker.receive("q", 1, Duration::from_secs(60), &Greatest).unwrap();
    write(&file, &mut broker);
    open(&file).ack("q", &taken[0].handle).unwrap();
}

#[test]
fn a_file_that_cannot_be_used_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queue.db");
    let refusal = |path: &Path| File::open(path).map(drop).unwrap_err();

    let held = File::open(&path).unwrap();
    assert!(matches!(refusal(&path), OpenError::Locked(_)), "a second opener");
    drop(held);

    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 2).unwrap();
    drop(conn);
    assert!(matches!(refusal(&path), OpenError::Newer { version: 2, .. }));

    let garbage = dir.path().join("garbage.db");
    std::fs::write(&garbage, vec![7; 8192]).unwrap();
    assert!(matches!(refusal(&garbage), OpenError::Corrupt { .. }));

    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(refusal(&file.join("queue.db")), OpenError::Unavailable { .. }));
}

/// Damage inside a page, which opening alone does not notice.
#[test]
fn a_damaged_page_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queue.db");
    let file = File::open(&path).unwrap();
    let mut broker = open(&file);
    for number in 0..500 {
        let message = Message {
            body: "x".repeat(200),
            group: number.to_string(),
            dedup: number.to_string(),
            ..Message::default()
        };
        broker.send("q", message, Timestamp::UNIX_EPOCH).unwrap();
    }
    write(&file, &mut broker);
    drop(file);
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() > 40_000, "closing has moved everything into the main file");
    for page in (8192..bytes.len()).step_by(4096) {
        bytes[page..page + 64].fill(0xff);
    }
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(File::open(&path).map(drop).unwrap_err(), OpenError::Corrupt { .. }));
}
