//! SQS as the emulator has it, in real time.
//!
//! The suite's other promises are kept by SQS and not by moto, or are not promises of SQS:
//!
//! * `q04`, `q10_an_ack_wakes_who_waits_for_the_group`: a poll of moto looks once which groups are in flight, so one that
//!   waits never sees a group freed; the next poll does;
//! * `q05`, `q24`: moto takes the handle of an ended delivery for the message's next one;
//! * `q08`, `q13`: moto forgets a deduplication id when its message is deleted, names a repeated send anew, and does not
//!   start to count again in the dead letters; what is left of them is tested here;
//! * `q18`: moto goes on with a poll whose caller has left, as SQS may; a short version is here;
//! * `q19`: SQS takes no empty body, no empty attribute and no NUL; what it takes is tested here;
//! * `q21`, `q40`: the clock is the emulator's, and nobody moves it; `q27`: SQS tells no ages;
//! * `too_old_is_dead_lettered`: SQS deletes what is too old.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::clock::{Clock, SystemClock, since};
use queue::sqs::{self, Redrive};
use queue::{Error, Handle, Message, Queue, QueueConfig, QueueSpec, SqsQueue};
use tokio::time::{sleep, timeout};

use crate::suite::run;
use crate::{Bench, TestClock, message};

const UNIT: Duration = Duration::from_secs(1);
const NOW: Duration = Duration::ZERO;

/// A prefix of names that nobody else has.
fn unique() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("q{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn name(prefix: &str, config: &QueueConfig) -> String {
    format!("{prefix}-{}{}", config.name, if config.fifo { ".fifo" } else { "" })
}

fn spec(prefix: &str, config: &QueueConfig) -> QueueSpec {
    let redrive = config
        .dead_letters
        .as_ref()
        .map(|dead| Redrive { queue: name(prefix, &dead.queue), max_receive_count: dead.max_receive_count });
    let visibility = Duration::from_secs(30);
    QueueSpec { name: name(prefix, config), visibility, retention: config.retention, redrive }
}

/// Makes the queue of a configuration and its dead letters, as often as it is opened.
fn open(prefix: &str, config: &QueueConfig) -> Arc<dyn Queue> {
    let dead = config.dead_letters.as_ref().map(|dead| &*dead.queue);
    let specs: Vec<_> = dead.into_iter().chain([config]).map(|config| spec(prefix, config)).collect();
    let sdk = emulator::shared().sdk();
    // The bench opens queues outside of any task.
    let urls = std::thread::scope(|scope| {
        let create = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(sqs::create(&sdk, emulator::silent(), &specs)).unwrap()
        };
        scope.spawn(create).join().unwrap()
    });
    let queue = SqsQueue::new(&sdk, emulator::silent(), &config.name, &urls[&name(prefix, config)]);
    match dead {
        Some(dead) => Arc::new(queue.with_dead_letters(&urls[&name(prefix, dead)])),
        None => Arc::new(queue),
    }
}

fn bench() -> ((), Bench) {
    let prefix = unique();
    let open = Box::new(move |config: QueueConfig| open(&prefix, &config));
    ((), Bench { open, unit: UNIT, messages: 0, clock: TestClock::new() })
}

run!(
    bench(),
    tokio::test,
    q01_send_receive_ack,
    q02_reappears_after_its_visibility,
    q06_ack_twice,
    q10_one_of_a_group_at_a_time_in_order,
    q11_a_lapsed_head_comes_before_its_followers,
    q12_a_stuck_group_delays_no_other,
    q14_reject_dead_letters_with_the_reason,
    q15_a_receive_brings_ten_at_most,
    q16_a_send_wakes_a_waiting_receive,
    q17_an_empty_queue_waits,
    q20_the_largest_body,
    q28_a_standard_queue_has_no_lanes,
    queues_are_separate,
);

/// `q04` without waiters that are woken.
#[tokio::test]
async fn q04_extend_moves_the_end_of_invisibility() {
    let ((), bench) = bench();
    let queue = bench.fifo();
    queue.send(message("g", "a")).await.unwrap();
    let first = queue.receive(1, NOW, UNIT).await.unwrap();
    queue.extend(&first[0].handle, UNIT * 3).await.unwrap();
    sleep(UNIT * 2).await;
    assert!(queue.receive(1, NOW, UNIT).await.unwrap().is_empty(), "extended, so not at its first time");
    queue.extend(&first[0].handle, NOW).await.unwrap();
    sleep(Duration::from_millis(5)).await;
    assert_eq!(queue.receive(1, NOW, UNIT).await.unwrap()[0].receive_count, Some(2));
}

/// What of `q05` moto shows: a handle that never was.
#[tokio::test]
async fn q05_a_handle_of_nothing() {
    let ((), bench) = bench();
    let queue = bench.fifo();
    let handle = Handle("nonsense".into());
    assert!(matches!(queue.ack(&handle).await, Err(Error::HandleExpired)));
    assert!(matches!(queue.extend(&handle, UNIT).await, Err(Error::HandleExpired)));
}

/// What of `q08` moto shows: an id is one message while that message is stored.
#[tokio::test]
async fn q08_one_id_is_stored_once() {
    let ((), bench) = bench();
    let queue = bench.fifo();
    for _ in 0..2 {
        queue.send(message("g", "a")).await.unwrap();
        queue.send(Message { dedup: String::new(), ..message("z", "by content") }).await.unwrap();
    }
    assert_eq!(queue.depth().await.unwrap().visible, Some(2));
    for dedup in ["x", "y"] {
        queue.send(Message { dedup: dedup.into(), ..message(dedup, "a") }).await.unwrap();
    }
    assert_eq!(queue.receive(10, NOW, UNIT).await.unwrap().len(), 4, "same body, two ids");
}

/// `q13` without the count in the dead letters.
#[tokio::test]
async fn q13_delivered_too_often_is_dead_lettered() {
    let ((), bench) = bench();
    let dead = QueueConfig::fifo("main-dlq");
    let queue = bench.queue(QueueConfig::fifo("main").dead_letters(&dead, 3));
    let attributes = BTreeMap::from([("Traceparent".to_owned(), "00-a".to_owned())]);
    queue.send(Message { attributes: attributes.clone(), ..message("g", "poor") }).await.unwrap();
    queue.send(message("g", "next")).await.unwrap();
    for count in 1..=3 {
        let got = queue.receive(1, NOW, UNIT * 60).await.unwrap();
        assert_eq!((got[0].body.as_str(), got[0].receive_count), ("poor", Some(count)));
        queue.extend(&got[0].handle, NOW).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(queue.receive(1, NOW, UNIT).await.unwrap()[0].body, "next", "the group goes on");
    let got = bench.queue(dead).receive(1, NOW, UNIT).await.unwrap().remove(0);
    assert_eq!((got.body.as_str(), got.group.as_deref(), got.attributes), ("poor", Some("g"), attributes));
}

/// `q18`, once: what a poll took whose caller had left comes back when its visibility ends.
#[tokio::test]
async fn q18_a_cancelled_receive_loses_nothing() {
    let ((), bench) = bench();
    let queue = bench.fifo();
    let left = timeout(Duration::from_millis(100), queue.receive(1, UNIT * 3, UNIT)).await;
    assert!(left.is_err(), "left while it waited");
    queue.send(message("g", "a")).await.unwrap();
    let got = queue.receive(1, UNIT * 10, UNIT).await.unwrap();
    assert_eq!(got[0].body, "a");
    queue.ack(&got[0].handle).await.unwrap();
}

/// `q19`, as far as SQS takes text.
#[tokio::test]
async fn q19_text_comes_back_as_it_was() {
    let ((), bench) = bench();
    let queue = bench.fifo();
    let odd = "héllo \u{1F680} \u{2028} \"quoted\" \\ \t end";
    let attributes = BTreeMap::from([("Kind".to_owned(), odd.to_owned())]);
    let mut sent = attributes.clone();
    sent.insert("Empty".into(), String::new());
    queue.send(Message { body: odd.into(), attributes: sent, ..message("g", "") }).await.unwrap();
    let got = queue.receive(10, NOW, UNIT).await.unwrap();
    assert_eq!((got[0].body.as_str(), &got[0].attributes), (odd, &attributes));
}

/// `q21` and `q27` on the emulator's clock.
#[tokio::test]
async fn q21_q27_times_and_depth() {
    let ((), bench) = bench();
    let queue = bench.fifo();
    queue.ping().await.unwrap();
    for number in 0..5 {
        queue.send(message(&number.to_string(), "a")).await.unwrap();
    }
    let first = queue.receive(2, NOW, UNIT).await.unwrap();
    assert!(since(SystemClock.now(), first[0].sent_at.unwrap()) < Duration::from_secs(2));
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.visible, depth.in_flight, depth.oldest), (Some(3), Some(2), None));
    queue.ack(&first[1].handle).await.unwrap();
    sleep(UNIT * 2).await;
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.visible, depth.in_flight), (Some(4), Some(0)));
    let again = queue.receive(10, NOW, UNIT).await.unwrap();
    let again = again.iter().find(|delivery| delivery.group == first[0].group).unwrap();
    assert_eq!((again.sent_at, again.receive_count), (first[0].sent_at, Some(2)));
}

/// Every queue of an installation is made, a second time changes nothing, and what was changed is put right.
#[tokio::test]
async fn an_installation_is_made_and_made_again() {
    let (sdk, prefix) = (emulator::shared().sdk(), unique());
    let specs = sqs::wanted(&prefix);
    let urls = sqs::create(&sdk, emulator::silent(), &specs).await.unwrap();
    assert_eq!(urls.len(), specs.len());
    assert_eq!(sqs::create(&sdk, emulator::silent(), &specs).await.unwrap(), urls);
    let main = &urls[&format!("{prefix}-main.fifo")];
    let queue = SqsQueue::new(&sdk, emulator::silent(), "main", main);
    assert!(sqs::check(&queue).await.is_empty(), "nothing to warn of");
    // As an operator may have left it.
    let hour: Vec<_> = specs
        .iter()
        .cloned()
        .map(|spec| QueueSpec { retention: Duration::from_secs(3600), redrive: None, ..spec })
        .collect();
    sqs::create(&sdk, emulator::silent(), &hour).await.unwrap();
    assert_eq!(sqs::check(&queue).await.len(), 1, "short retention; a redrive policy is never taken away");
    sqs::create(&sdk, emulator::silent(), &specs).await.unwrap();
    assert!(sqs::check(&queue).await.is_empty());
    let nowhere = SqsQueue::new(&sdk, emulator::silent(), "main", &format!("{main}x"));
    assert!(matches!(nowhere.send(message("g", "a")).await, Err(Error::NotFound(_))));
    assert_eq!(sqs::check(&nowhere).await.len(), 1);
    let stray = QueueSpec { redrive: Some(Redrive { queue: "none".into(), max_receive_count: 1 }), ..specs[0].clone() };
    assert!(matches!(sqs::create(&sdk, emulator::silent(), &[stray]).await, Err(Error::Invalid(_))));
}
