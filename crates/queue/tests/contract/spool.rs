//! The spool directory: the part of the contract it takes on, and its own.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, SystemClock, since};
use queue::{Delivery, Error, MAX_BODY, Message, Queue, SpoolQueue, spool};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::Seeded;

const UNIT: Duration = Duration::from_millis(300);

fn open(dir: &Path) -> Arc<SpoolQueue> {
    Arc::new(SpoolQueue::open("termination", dir, 3, Seeded::new(3)).unwrap())
}

fn fresh() -> (TempDir, Arc<SpoolQueue>) {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    (dir, queue)
}

async fn now(queue: &SpoolQueue) -> Vec<Delivery> {
    queue.receive(10, Duration::ZERO, UNIT).await.unwrap()
}

fn bodies(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|delivery| delivery.body.as_str()).collect()
}

/// Q1, Q21: in the order of the sends, and each as it was written.
#[tokio::test]
async fn files_are_messages_in_the_order_of_their_names() {
    let (dir, queue) = fresh();
    for body in ["1", "", "{\"a\": \"\u{1F680}\u{2028}\"}"] {
        spool::send(dir.path(), body, "../odd name").unwrap();
    }
    let got = now(&queue).await;
    assert_eq!(bodies(&got), ["1", "", "{\"a\": \"\u{1F680}\u{2028}\"}"]);
    assert_eq!(got[0].receive_count, Some(1));
    assert!(since(SystemClock.now(), got[0].sent_at.unwrap()) < Duration::from_secs(2));
    for delivery in &got {
        queue.ack(&delivery.handle).await.unwrap();
        queue.ack(&delivery.handle).await.unwrap();
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "an ack unlinks, and nothing else was left");
}

/// Q2, Q3, Q4, Q5, Q27
#[tokio::test]
async fn visibility_and_fencing() {
    let (dir, queue) = fresh();
    spool::send(dir.path(), "a", "a").unwrap();
    let first = now(&queue).await.remove(0);
    assert!(now(&queue).await.is_empty());
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.visible, depth.in_flight), (Some(0), Some(1)));
    let again = queue.receive(10, UNIT * 20, UNIT * 100).await.unwrap().remove(0);
    assert!(Instant::now() >= first.deadline);
    assert_eq!(again.receive_count, Some(2));
    assert!(matches!(queue.ack(&first.handle).await, Err(Error::HandleExpired)));
    assert!(matches!(queue.extend(&first.handle, UNIT).await, Err(Error::HandleExpired)));
    queue.extend(&again.handle, Duration::ZERO).await.unwrap();
    let third = now(&queue).await.remove(0);
    assert_eq!(third.receive_count, Some(3));
    queue.ack(&third.handle).await.unwrap();
}

/// Q16: woken by the directory, in a process that does not poll it.
#[tokio::test]
async fn a_send_wakes_a_waiting_receive() {
    let (dir, queue) = fresh();
    let waiting = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.receive(10, Duration::from_secs(20), UNIT).await.unwrap() }
    });
    sleep(UNIT).await;
    assert!(!waiting.is_finished());
    spool::send(dir.path(), "a", "a").unwrap();
    let got = timeout(Duration::from_secs(2), waiting).await.expect("woken").unwrap();
    assert_eq!(bodies(&got), ["a"]);
}

/// Q17
#[tokio::test]
async fn an_empty_spool_waits() {
    let (_dir, queue) = fresh();
    let from = Instant::now();
    assert!(queue.receive(10, UNIT, UNIT).await.unwrap().is_empty());
    assert!(from.elapsed() >= UNIT);
}

/// Q13, Q14: what cannot be processed is kept apart, and blocks nothing.
#[tokio::test]
async fn poison_is_set_aside() {
    let (dir, queue) = fresh();
    fs::write(dir.path().join("0-not-text.json"), [0xff, 0xfe]).unwrap();
    fs::write(dir.path().join("1-too-large.json"), vec![b'x'; MAX_BODY + 1]).unwrap();
    fs::write(dir.path().join("2-unfinished"), "{").unwrap();
    fs::write(dir.path().join(".3-unfinished.json"), "{").unwrap();
    spool::send(dir.path(), "poison", "p").unwrap();
    spool::send(dir.path(), "failing", "f").unwrap();
    let got = now(&queue).await;
    assert_eq!(bodies(&got), ["poison", "failing"]);
    queue.reject(&got[0], "invalid_json").await.unwrap();
    queue.extend(&got[1].handle, Duration::ZERO).await.unwrap();
    for count in 2..=3 {
        let failing = now(&queue).await.remove(0);
        assert_eq!(failing.receive_count, Some(count));
        queue.extend(&failing.handle, Duration::ZERO).await.unwrap();
    }
    assert!(now(&queue).await.is_empty());
    assert_eq!(fs::read_dir(dir.path().join("rejected")).unwrap().count(), 4);
    assert!(dir.path().join("2-unfinished").exists(), "not a message, not touched");
}

/// Q39: a restart makes everything visible again; a file that was written while nobody ran is there.
#[tokio::test]
async fn a_restart_loses_nothing() {
    let (dir, queue) = fresh();
    spool::send(dir.path(), "a", "a").unwrap();
    let old = now(&queue).await.remove(0);
    drop(queue);
    spool::send(dir.path(), "b", "b").unwrap();
    let queue = open(dir.path());
    assert!(matches!(queue.ack(&old.handle).await, Err(Error::HandleExpired)));
    assert_eq!(bodies(&now(&queue).await), ["a", "b"]);
}

/// Q20, Q26
#[tokio::test]
async fn what_cannot_be_kept_is_refused() {
    let (dir, queue) = fresh();
    let large = Message { body: "x".repeat(MAX_BODY + 1), ..Message::default() };
    assert!(matches!(queue.send(large).await, Err(Error::TooLarge(_))));
    let attributes = [("a".to_owned(), "b".to_owned())].into();
    assert!(matches!(queue.send(Message { attributes, ..Message::default() }).await, Err(Error::Invalid(_))));
    queue.send(Message { body: "a".into(), ..Message::default() }).await.unwrap();
    assert_eq!(bodies(&now(&queue).await), ["a"]);
    queue.ping().await.unwrap();
    fs::remove_dir_all(dir.path()).unwrap();
    assert!(matches!(queue.ping().await, Err(Error::NotFound(_))));
}

/// Many agents at once: no name is used twice, nothing is read half written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers() {
    let (dir, queue) = fresh();
    let body = "x".repeat(10_000);
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (dir, body) = (dir.path().to_owned(), body.clone());
            std::thread::spawn(move || (0..25).for_each(|_| spool::send(&dir, &body, "same").unwrap()))
        })
        .collect();
    let mut acked = 0;
    while acked < 200 {
        let got = queue.receive(10, Duration::from_secs(10), Duration::from_secs(60)).await.unwrap();
        assert!(!got.is_empty(), "{acked} of 200");
        for delivery in got {
            assert_eq!(delivery.body, body);
            queue.ack(&delivery.handle).await.unwrap();
            acked += 1;
        }
    }
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert!(now(&queue).await.is_empty());
}
