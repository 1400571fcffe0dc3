//! The SQLite queue, in real time; and what a file must survive.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, SystemClock, SystemRng};
use queue::{Error, OpenError, Queue, QueueConfig, SqliteQueues};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::suite::run;
use crate::{Bench, Seeded, TestClock, message};

const MINUTE: Duration = Duration::from_secs(60);

fn open(dir: &Path, clock: Arc<dyn Clock>) -> SqliteQueues {
    SqliteQueues::open(&dir.join("queue.db"), clock, Arc::new(SystemRng)).unwrap()
}

fn bench() -> (TempDir, Bench) {
    let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
    let queues = open(dir.path(), clock.clone());
    let open = Box::new(move |config| queues.queue(config));
    (dir, Bench { open, unit: Duration::from_millis(400), messages: 1000, clock })
}

run!(
    bench(),
    tokio::test,
    q01_send_receive_ack,
    q02_reappears_after_its_visibility,
    q04_extend_moves_the_end_of_invisibility,
    q05_an_old_handle_works_no_more,
    q06_ack_twice,
    q08_one_id_is_delivered_once,
    q10_one_of_a_group_at_a_time_in_order,
    q10_an_ack_wakes_who_waits_for_the_group,
    q11_a_lapsed_head_comes_before_its_followers,
    q12_a_stuck_group_delays_no_other,
    q13_delivered_too_often_is_dead_lettered,
    q14_reject_dead_letters_with_the_reason,
    q15_a_receive_brings_ten_at_most,
    q16_a_send_wakes_a_waiting_receive,
    q17_an_empty_queue_waits,
    q18_a_cancelled_receive_loses_nothing,
    q19_text_comes_back_as_it_was,
    q20_the_largest_body,
    q21_the_time_of_the_send_is_stable,
    q24_crashing_consumers,
    q27_ping_and_depth,
    q28_a_standard_queue_has_no_lanes,
    queues_are_separate,
    too_old_is_dead_lettered,
    q40_a_clock_step_moves_nothing,
);

/// A receive dropped while its answer is on the way gives back what it was brought, long before visibility ends.
#[tokio::test]
async fn q18_what_nobody_took_is_given_back_at_once() {
    let (_dir, bench) = bench();
    let (queue, rng) = (bench.fifo(), Seeded::new(2));
    for number in 0..100 {
        queue.send(message(&number.to_string(), "a")).await.unwrap();
    }
    let mut taken = 0;
    for _ in 0..200 {
        let receive = queue.receive(1, MINUTE, MINUTE * 10);
        let received = timeout(Duration::from_micros(rng.below(500)), receive).await;
        taken += received.map_or(0, |received| received.unwrap().len());
        if taken == 100 {
            break;
        }
    }
    while taken < 100 {
        let received = queue.receive(10, Duration::from_secs(10), MINUTE * 10).await.unwrap();
        assert!(!received.is_empty(), "{taken} of 100 delivered");
        taken += received.len();
    }
}

/// Q7, Q39: the window is kept over a restart and ends by itself; so do messages, counts and order.
#[tokio::test]
async fn q39_a_restart_keeps_everything_but_deliveries() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
    let main = QueueConfig::fifo("main").dead_letters(&QueueConfig::fifo("main-dlq"), 5);
    let queues = open(dir.path(), clock.clone());
    let queue = queues.queue(main.clone());
    queue.send(message("g", "1")).await.unwrap();
    queue.send(message("g", "2")).await.unwrap();
    queue.send(message("h", "3")).await.unwrap();
    let old = queue.receive(1, Duration::ZERO, MINUTE).await.unwrap();
    assert_eq!(old[0].body, "1");
    drop((queue, queues));

    clock.step(-3600);
    let queues = open(dir.path(), clock.clone());
    let queue = queues.queue(main.clone());
    assert!(matches!(queue.ack(&old[0].handle).await, Err(Error::HandleExpired)));
    let again = queue.receive(10, Duration::ZERO, MINUTE).await.unwrap();
    let seen: Vec<_> = again.iter().map(|d| (d.body.as_str(), d.receive_count)).collect();
    assert_eq!(seen, [("1", Some(2)), ("3", Some(1))]);
    assert_eq!((again[0].sent_at, &again[0].id), (old[0].sent_at, &old[0].id));
    queue.send(message("g", "1")).await.unwrap();
    assert_eq!(queue.depth().await.unwrap().visible, Some(1), "known, though the clock went back an hour");
    drop((queue, queues));

    clock.step(3600 + 301);
    let queues = open(dir.path(), clock);
    let queue = queues.queue(main);
    queue.send(message("g", "1")).await.unwrap();
    assert_eq!(queue.depth().await.unwrap().visible, Some(4), "forgotten after its window");
}

#[tokio::test]
async fn a_second_opener_is_told() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
    let held = open(dir.path(), clock.clone());
    let second = SqliteQueues::open(&dir.path().join("queue.db"), clock.clone(), Arc::new(SystemRng));
    let error = second.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Locked(_)));
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(held);
    open(dir.path(), clock);
}

/// Many senders at once are served together, and each answer is the sender's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_share_a_commit() {
    let (_dir, bench) = bench();
    let queue = bench.fifo();
    let sends = (0..2000).map(|number| {
        let queue = Arc::clone(&queue);
        tokio::spawn(async move { queue.send(message(&number.to_string(), "a")).await.unwrap() })
    });
    let mut ids = BTreeSet::new();
    for send in sends.collect::<Vec<_>>() {
        ids.insert(send.await.unwrap());
    }
    assert_eq!(ids.len(), 2000);
    assert_eq!(queue.depth().await.unwrap().visible, Some(2000));
}

/// Q39: killed at any instant, the file knows every operation that was answered.
#[tokio::test]
async fn q39_a_killed_process_loses_no_answered_operation() {
    let (dir, rng) = (tempfile::tempdir().unwrap(), Seeded::new(39));
    // Bodies by what the victims said about them.
    let (mut sent, mut acking, mut acked) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sqlite::victim", "--ignored", "--nocapture", "--test-threads=1"])
            .env("QUEUE_VICTIM", dir.path())
            .env("QUEUE_VICTIM_ROUND", round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stop = sent.len() as u64 + 20 + rng.below(150);
        // What the pipe still holds after the kill was answered as well.
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            match line.split_once(' ') {
                Some(("sent", body)) => sent.insert(body.to_owned()),
                Some(("acking", body)) => acking.insert(body.to_owned()),
                Some(("acked", body)) => acked.insert(body.to_owned()),
                _ => continue,
            };
            if sent.len() as u64 >= stop {
                let _ = child.kill();
            }
        }
        child.wait().unwrap();
    }
    assert!(sent.len() > 160 && !acked.is_empty(), "the victims did something");
    let queues = open(dir.path(), Arc::new(SystemClock));
    let queue = queues.queue(QueueConfig::fifo("main"));
    let mut stored = BTreeSet::new();
    loop {
        let got = queue.receive(10, Duration::ZERO, MINUTE).await.unwrap();
        if got.is_empty() {
            break;
        }
        for delivery in got {
            queue.ack(&delivery.handle).await.unwrap();
            assert!(stored.insert(delivery.body), "stored once");
        }
    }
    assert_eq!(acked.intersection(&stored).next(), None, "acked, and came back");
    // An ack that was begun may have happened.
    assert_eq!(sent.iter().find(|body| !acking.contains(*body) && !stored.contains(*body)), None, "sent, and is gone");
}

/// The process that [`q39_a_killed_process_loses_no_answered_operation`] kills: sends everything, acks what is even.
#[tokio::test]
#[ignore = "run by another test, in a process of its own"]
async fn victim() {
    let Some(dir) = std::env::var_os("QUEUE_VICTIM") else { return };
    let round = std::env::var("QUEUE_VICTIM_ROUND").unwrap();
    let queues = open(Path::new(&dir), Arc::new(SystemClock));
    let queue: Arc<dyn Queue> = queues.queue(QueueConfig::fifo("main"));
    println!(); // Ends the line the test harness began with this test's name.
    let sender = tokio::spawn({
        let (queue, round) = (Arc::clone(&queue), round.clone());
        async move {
            for number in 0..100_000 {
                let body = format!("{round}-{number}");
                queue.send(message(&body, &body)).await.unwrap();
                println!("sent {body}");
            }
        }
    });
    loop {
        for delivery in queue.receive(10, Duration::from_secs(1), MINUTE).await.unwrap() {
            let mine = delivery.body.starts_with(&format!("{round}-"));
            if mine && delivery.body.ends_with(['0', '2', '4', '6', '8']) {
                println!("acking {}", delivery.body);
                queue.ack(&delivery.handle).await.unwrap();
                println!("acked {}", delivery.body);
            }
        }
        if sender.is_finished() {
            break;
        }
        sleep(Duration::from_millis(1)).await;
    }
}
