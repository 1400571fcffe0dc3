//! What every queue promises.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use queue::{Delivery, Error, Handle, MAX_BODY, Message, Queue, QueueConfig};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::{Bench, Seeded, message};

const NOW: Duration = Duration::ZERO;

/// Makes one test per promise, each on a bench of its own.
macro_rules! run {
    ($bench:expr, $flavor:meta, $($name:ident),+ $(,)?) => {$(
        #[$flavor]
        async fn $name() {
            let (_keep, bench) = $bench;
            crate::suite::$name(&bench).await;
        }
    )+};
}
pub(crate) use run;

async fn one(queue: &Arc<dyn Queue>, visibility: Duration) -> Delivery {
    let mut got = queue.receive(1, NOW, visibility).await.unwrap();
    assert_eq!(got.len(), 1, "one message is there");
    got.remove(0)
}

async fn none(queue: &Arc<dyn Queue>) {
    let got = queue.receive(10, NOW, Duration::from_secs(60)).await.unwrap();
    assert!(got.is_empty(), "nothing is there, but {:?} came", bodies(&got));
}

fn bodies(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|delivery| delivery.body.as_str()).collect()
}

/// Q1
pub(crate) async fn q01_send_receive_ack(bench: &Bench) {
    let queue = bench.fifo();
    queue.send(message("g", "a")).await.unwrap();
    let delivery = one(&queue, bench.unit).await;
    assert_eq!((delivery.body.as_str(), delivery.receive_count), ("a", Some(1)));
    queue.ack(&delivery.handle).await.unwrap();
    sleep(bench.unit * 2).await;
    none(&queue).await;
}

/// Q2, Q3
pub(crate) async fn q02_reappears_after_its_visibility(bench: &Bench) {
    let queue = bench.fifo();
    queue.send(message("g", "a")).await.unwrap();
    let first = one(&queue, bench.unit).await;
    assert!(first.deadline <= Instant::now() + bench.unit);
    none(&queue).await;
    let again = queue.receive(1, bench.unit * 20, bench.unit).await.unwrap();
    assert!(Instant::now() >= first.deadline, "not before its time");
    assert!(Instant::now() < first.deadline + Duration::from_secs(1));
    assert_eq!((bodies(&again), again[0].receive_count), (vec!["a"], Some(2)));
}

/// Q4
pub(crate) async fn q04_extend_moves_the_end_of_invisibility(bench: &Bench) {
    let queue = bench.fifo();
    queue.send(message("g", "a")).await.unwrap();
    let first = one(&queue, bench.unit).await;
    let from = Instant::now();
    queue.extend(&first.handle, bench.unit * 4).await.unwrap();
    let again = queue.receive(1, bench.unit * 20, bench.unit * 100).await.unwrap();
    assert!(from.elapsed() >= bench.unit * 4, "extended, so not at its first time");
    // A waiter that sleeps towards a later time is woken by the change.
    let waiting = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.receive(1, Duration::from_secs(600), Duration::from_secs(60)).await.unwrap() }
    });
    sleep(bench.unit / 10).await;
    queue.extend(&again[0].handle, NOW).await.unwrap();
    let back = timeout(Duration::from_secs(5), waiting).await.expect("visible at once").unwrap();
    assert_eq!(back[0].receive_count, Some(3));
}

/// Q5
pub(crate) async fn q05_an_old_handle_works_no_more(bench: &Bench) {
    let queue = bench.fifo();
    queue.send(message("g", "a")).await.unwrap();
    let old = one(&queue, bench.unit).await;
    sleep(bench.unit * 2).await;
    assert!(matches!(queue.extend(&old.handle, bench.unit).await, Err(Error::HandleExpired)), "over, though not taken");
    let new = one(&queue, bench.unit * 100).await;
    assert!(matches!(queue.ack(&old.handle).await, Err(Error::HandleExpired)));
    assert!(matches!(queue.extend(&old.handle, NOW).await, Err(Error::HandleExpired)));
    assert!(matches!(queue.reject(&old, "why").await, Err(Error::HandleExpired)));
    none(&queue).await;
    queue.extend(&new.handle, bench.unit).await.unwrap();
    queue.ack(&new.handle).await.unwrap();
    assert!(matches!(queue.ack(&Handle("nonsense".into())).await, Err(Error::Invalid(_))));
}

/// Q6
pub(crate) async fn q06_ack_twice(bench: &Bench) {
    let queue = bench.fifo();
    queue.send(message("g", "a")).await.unwrap();
    let delivery = one(&queue, bench.unit).await;
    queue.ack(&delivery.handle).await.unwrap();
    queue.ack(&delivery.handle).await.unwrap();
    assert!(matches!(queue.extend(&delivery.handle, bench.unit).await, Err(Error::HandleExpired)));
}

/// Q8, Q9, Q22: the end of the window is each back end's own test.
pub(crate) async fn q08_one_id_is_delivered_once(bench: &Bench) {
    let queue = bench.fifo();
    let first = queue.send(message("g", "a")).await.unwrap();
    assert_eq!(queue.send(message("g", "a")).await.unwrap(), first, "a repeated send is the same message");
    queue.ack(&one(&queue, bench.unit).await.handle).await.unwrap();
    queue.send(message("g", "a")).await.unwrap();
    none(&queue).await;
    for dedup in ["x", "y"] {
        queue.send(Message { dedup: dedup.into(), ..message(dedup, "a") }).await.unwrap();
    }
    assert_eq!(queue.receive(10, NOW, bench.unit).await.unwrap().len(), 2, "same body, two ids");
    for _ in 0..2 {
        queue.send(Message { dedup: String::new(), ..message("z", "by content") }).await.unwrap();
    }
    assert_eq!(queue.receive(10, NOW, bench.unit).await.unwrap().len(), 1, "no id: the content is the id");
}

/// Q10
pub(crate) async fn q10_one_of_a_group_at_a_time_in_order(bench: &Bench) {
    let queue = bench.fifo();
    for body in ["1", "2", "3"] {
        queue.send(message("g", body)).await.unwrap();
    }
    for body in ["1", "2", "3"] {
        let got = queue.receive(10, NOW, bench.unit * 100).await.unwrap();
        assert_eq!(bodies(&got), [body]);
        none(&queue).await;
        queue.ack(&got[0].handle).await.unwrap();
    }
}

/// Q10, with a waiter: an ack frees the lane.
pub(crate) async fn q10_an_ack_wakes_who_waits_for_the_group(bench: &Bench) {
    let queue = bench.fifo();
    queue.send(message("g", "1")).await.unwrap();
    queue.send(message("g", "2")).await.unwrap();
    let first = one(&queue, Duration::from_secs(600)).await;
    let waiting = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.receive(1, Duration::from_secs(500), Duration::from_secs(60)).await.unwrap() }
    });
    sleep(bench.unit / 10).await;
    queue.ack(&first.handle).await.unwrap();
    let second = timeout(Duration::from_secs(5), waiting).await.expect("woken by the ack").unwrap();
    assert_eq!(bodies(&second), ["2"]);
}

/// Q11
pub(crate) async fn q11_a_lapsed_head_comes_before_its_followers(bench: &Bench) {
    let queue = bench.fifo();
    queue.send(message("g", "1")).await.unwrap();
    queue.send(message("g", "2")).await.unwrap();
    one(&queue, bench.unit).await;
    sleep(bench.unit * 2).await;
    let got = queue.receive(10, NOW, bench.unit).await.unwrap();
    assert_eq!(bodies(&got), ["1"]);
}

/// Q12
pub(crate) async fn q12_a_stuck_group_delays_no_other(bench: &Bench) {
    let queue = bench.fifo();
    for group in 0..100 {
        for body in ["1", "2"] {
            queue.send(message(&group.to_string(), body)).await.unwrap();
        }
    }
    let mut held = Vec::new();
    while held.len() < 100 {
        let got = queue.receive(10, NOW, Duration::from_secs(600)).await.unwrap();
        assert!(!got.is_empty(), "{} of 100 groups in flight", held.len());
        held.extend(got);
    }
    assert!(held.iter().all(|delivery| delivery.body == "1"));
    for delivery in &held[1..] {
        queue.ack(&delivery.handle).await.unwrap();
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 99 {
        let got = queue.receive(10, NOW, Duration::from_secs(600)).await.unwrap();
        assert!(!got.is_empty(), "{} of 99 groups went on", seen.len());
        seen.extend(got.into_iter().filter_map(|delivery| delivery.group));
    }
    assert!(!seen.contains(held[0].group.as_ref().unwrap()));
}

/// Q13
pub(crate) async fn q13_delivered_too_often_is_dead_lettered(bench: &Bench) {
    let dead = QueueConfig::fifo("main-dlq");
    let queue = bench.queue(QueueConfig::fifo("main").dead_letters(&dead, 3));
    let attributes = BTreeMap::from([("Traceparent".to_owned(), "00-a".to_owned())]);
    queue.send(Message { attributes: attributes.clone(), ..message("g", "poor") }).await.unwrap();
    queue.send(message("g", "next")).await.unwrap();
    for count in 1..=3 {
        let delivery = one(&queue, bench.unit).await;
        assert_eq!((delivery.body.as_str(), delivery.receive_count), ("poor", Some(count)));
        queue.extend(&delivery.handle, NOW).await.unwrap();
    }
    assert_eq!(one(&queue, bench.unit).await.body, "next", "the group goes on");
    let delivery = one(&bench.queue(dead), bench.unit).await;
    assert_eq!((delivery.body.as_str(), delivery.group.as_deref()), ("poor", Some("g")));
    assert_eq!((delivery.attributes, delivery.receive_count), (attributes, Some(1)));
}

/// Q14
pub(crate) async fn q14_reject_dead_letters_with_the_reason(bench: &Bench) {
    let dead = QueueConfig::fifo("main-dlq");
    let queue = bench.queue(QueueConfig::fifo("main").dead_letters(&dead, 3));
    let attributes = BTreeMap::from([("X".to_owned(), "y".to_owned())]);
    queue.send(Message { attributes, ..message("g", "{") }).await.unwrap();
    let delivery = one(&queue, bench.unit).await;
    queue.reject(&delivery, "invalid_json").await.unwrap();
    queue.reject(&delivery, "invalid_json").await.unwrap();
    sleep(bench.unit * 2).await;
    none(&queue).await;
    let dead = bench.queue(dead);
    let poison = one(&dead, bench.unit).await;
    assert_eq!((poison.body.as_str(), poison.group.as_deref()), ("{", Some("poison")));
    assert_eq!(poison.attributes["PoisonReason"], "invalid_json");
    assert_eq!(poison.attributes["SourceMessageId"], delivery.id);
    assert_eq!(poison.attributes["X"], "y");
    none(&dead).await;
    // Without dead letters it is gone.
    let bare = bench.queue(QueueConfig::standard("bare"));
    bare.send(message("", "{")).await.unwrap();
    bare.reject(&one(&bare, bench.unit).await, "invalid_json").await.unwrap();
    sleep(bench.unit * 2).await;
    none(&bare).await;
}

/// Q15
pub(crate) async fn q15_a_receive_brings_ten_at_most(bench: &Bench) {
    let queue = bench.fifo();
    for number in 0..25 {
        queue.send(message(&(number % 13).to_string(), &number.to_string())).await.unwrap();
    }
    let got = queue.receive(10, NOW, Duration::from_secs(600)).await.unwrap();
    assert_eq!(bodies(&got), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"], "the oldest, oldest first");
    assert_eq!(queue.receive(99, NOW, Duration::from_secs(600)).await.unwrap().len(), 3, "one per group");
}

/// Q16
pub(crate) async fn q16_a_send_wakes_a_waiting_receive(bench: &Bench) {
    let queue = bench.fifo();
    let waiting = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.receive(10, Duration::from_secs(20), Duration::from_secs(60)).await.unwrap() }
    });
    sleep(bench.unit / 10).await;
    queue.send(message("g", "a")).await.unwrap();
    let got = timeout(Duration::from_secs(1), waiting).await.expect("within a second").unwrap();
    assert_eq!(bodies(&got), ["a"]);
}

/// Q17
pub(crate) async fn q17_an_empty_queue_waits(bench: &Bench) {
    let queue = bench.fifo();
    let from = Instant::now();
    assert!(queue.receive(10, bench.unit, bench.unit).await.unwrap().is_empty());
    assert!(from.elapsed() >= bench.unit.mul_f64(0.9));
}

/// Q18
pub(crate) async fn q18_a_cancelled_receive_loses_nothing(bench: &Bench) {
    let queue = bench.fifo();
    let (total, rng) = (50, Seeded::new(18));
    let mut got = BTreeSet::new();
    let wait = bench.unit * 10;
    for number in 0..total {
        let mut receive = queue.receive(1, wait, wait);
        // Given up before, during or after the send.
        let polled = timeout(bench.unit.mul_f64(0.02 * rng.below(10) as f64), &mut receive).await;
        queue.send(message(&number.to_string(), &number.to_string())).await.unwrap();
        drop(receive);
        for delivery in polled.into_iter().flatten().flatten() {
            queue.ack(&delivery.handle).await.unwrap();
            got.insert(delivery.body);
        }
    }
    while got.len() < total {
        let more = queue.receive(10, wait * 2, wait).await.unwrap();
        assert!(!more.is_empty(), "{} of {total} came back", got.len());
        for delivery in more {
            queue.ack(&delivery.handle).await.unwrap();
            got.insert(delivery.body);
        }
    }
}

/// Q19
pub(crate) async fn q19_text_comes_back_as_it_was(bench: &Bench) {
    let queue = bench.fifo();
    let odd = "héllo \u{1F680} \u{2028} \"quoted\" \\ \u{0} \t end";
    let attributes = BTreeMap::from([("Kind".to_owned(), odd.to_owned()), ("e".to_owned(), String::new())]);
    queue.send(Message { body: odd.into(), attributes: attributes.clone(), ..message("gröup", "") }).await.unwrap();
    queue.send(message("empty", "")).await.unwrap();
    let got = queue.receive(10, NOW, bench.unit).await.unwrap();
    assert_eq!((got[0].body.as_str(), &got[0].attributes, got[0].group.as_deref()), (odd, &attributes, Some("gröup")));
    assert_eq!(got[1].body, "");
}

/// Q20
pub(crate) async fn q20_the_largest_body(bench: &Bench) {
    let queue = bench.fifo();
    let largest = "x".repeat(MAX_BODY);
    let refused = queue.send(message("g", &format!("{largest}y"))).await;
    assert!(matches!(refused, Err(Error::TooLarge(262_145))));
    none(&queue).await;
    queue.send(message("g", &largest)).await.unwrap();
    assert!(one(&queue, bench.unit).await.body == largest);
}

/// Q21
pub(crate) async fn q21_the_time_of_the_send_is_stable(bench: &Bench) {
    use domain::clock::{Clock, since};
    let queue = bench.fifo();
    queue.send(message("g", "a")).await.unwrap();
    let first = one(&queue, bench.unit).await;
    assert!(since(bench.clock.now(), first.sent_at.unwrap()) < Duration::from_secs(2));
    queue.extend(&first.handle, NOW).await.unwrap();
    assert_eq!(one(&queue, bench.unit).await.sent_at, first.sent_at);
}

/// What a group's history has come to.
#[derive(Default)]
struct Lane {
    done: usize,
    active: Option<(usize, Instant)>,
    /// The ack of the active delivery is under way, so it may have happened.
    acking: bool,
}

/// Q24
pub(crate) async fn q24_crashing_consumers(bench: &Bench) {
    let (groups, visibility) = (50, bench.unit * 3);
    let queue = bench.fifo();
    let lanes = Arc::new(Mutex::new(HashMap::<String, Lane>::new()));
    let mut consumers = JoinSet::new();
    for seed in 0..4 {
        let (queue, lanes, rng, unit) = (Arc::clone(&queue), Arc::clone(&lanes), Seeded::new(seed), bench.unit);
        let total = bench.messages;
        consumers.spawn(async move {
            while lanes.lock().unwrap().values().map(|lane| lane.done).sum::<usize>() < total {
                let received = queue.receive(1 + rng.below(10) as usize, unit, visibility);
                let Ok(received) = timeout(unit.mul_f64(0.2 + rng.below(8) as f64), received).await else { continue };
                let received = received.unwrap();
                for delivery in &received {
                    begin(&mut lanes.lock().unwrap(), delivery);
                }
                for delivery in received {
                    match rng.below(20) {
                        0 => continue,
                        1 => sleep(unit.mul_f64(rng.below(40) as f64 / 10.0)).await,
                        _ => {}
                    }
                    let group = delivery.group.clone().unwrap();
                    lanes.lock().unwrap().get_mut(&group).unwrap().acking = true;
                    let acked = queue.ack(&delivery.handle).await;
                    let number: usize = delivery.body.parse().unwrap();
                    let mut lanes = lanes.lock().unwrap();
                    let lane = lanes.get_mut(&group).unwrap();
                    match acked {
                        Ok(()) if lane.done <= number => *lane = Lane { done: number + 1, ..Lane::default() },
                        Ok(()) | Err(Error::HandleExpired) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
    }
    for number in 0..bench.messages {
        let group = (number % groups).to_string();
        queue.send(message(&group, &(number / groups).to_string())).await.unwrap();
    }
    while let Some(ended) = consumers.join_next().await {
        ended.unwrap();
    }
    // A consumer that was given up may hold nothing that is not done.
    assert_eq!(queue.depth().await.unwrap().visible, Some(0));
}

fn begin(lanes: &mut HashMap<String, Lane>, delivery: &Delivery) {
    let (number, now) = (delivery.body.parse().unwrap(), Instant::now());
    let lane = lanes.entry(delivery.group.clone().unwrap()).or_default();
    if number == lane.done + 1 && lane.acking {
        *lane = Lane { done: number, ..Lane::default() };
    }
    assert_eq!(number, lane.done, "in order, nothing skipped, nothing after its ack");
    if let Some((other, until)) = lane.active {
        assert!(until <= now, "{other} and {number} of one group at the same time");
    }
    *lane = Lane { done: lane.done, active: Some((number, delivery.deadline)), acking: false };
}

/// Q26, Q27
pub(crate) async fn q27_ping_and_depth(bench: &Bench) {
    let queue = bench.fifo();
    queue.ping().await.unwrap();
    for number in 0..5 {
        queue.send(message(&number.to_string(), "a")).await.unwrap();
    }
    sleep(bench.unit).await;
    let held = queue.receive(2, NOW, bench.unit).await.unwrap();
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.visible, depth.in_flight), (Some(3), Some(2)));
    assert!(depth.oldest.unwrap() >= bench.unit);
    queue.ack(&held[0].handle).await.unwrap();
    sleep(bench.unit * 2).await;
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.visible, depth.in_flight), (Some(4), Some(0)));
}

/// Q28, and that a FIFO queue insists.
pub(crate) async fn q28_a_standard_queue_has_no_lanes(bench: &Bench) {
    let refused = bench.fifo().send(Message::default()).await;
    assert!(matches!(refused, Err(Error::Invalid(_))));
    let queue = bench.queue(QueueConfig::standard("termination"));
    assert!(!queue.capabilities().fifo);
    for group in ["", "", "g", "g"] {
        queue.send(Message { body: "same".into(), group: group.into(), ..Message::default() }).await.unwrap();
    }
    assert_eq!(queue.receive(10, NOW, bench.unit).await.unwrap().len(), 4);
}

/// Queues of one store see nothing of each other.
pub(crate) async fn queues_are_separate(bench: &Bench) {
    let (main, other) = (bench.fifo(), bench.queue(QueueConfig::fifo("other")));
    main.send(message("g", "a")).await.unwrap();
    none(&other).await;
    other.send(message("g", "a")).await.unwrap();
    other.ack(&one(&other, bench.unit).await.handle).await.unwrap();
    // Another handle on the same name is the same queue.
    assert_eq!(one(&bench.fifo(), bench.unit).await.body, "a");
    none(&main).await;
}

/// Messages too old go to the dead letters as `expired`, those in flight excepted.
pub(crate) async fn too_old_is_dead_lettered(bench: &Bench) {
    let dead = QueueConfig::fifo("main-dlq");
    let queue = bench.queue(QueueConfig::fifo("main").retention(bench.unit * 2).dead_letters(&dead, 3));
    queue.send(message("g", "held")).await.unwrap();
    queue.send(message("g", "old")).await.unwrap();
    let held = one(&queue, bench.unit * 100).await;
    sleep(bench.unit * 3).await;
    none(&queue).await;
    let old = one(&bench.queue(dead), bench.unit).await;
    assert_eq!((old.body.as_str(), old.attributes["PoisonReason"].as_str()), ("old", "expired"));
    queue.ack(&held.handle).await.unwrap();
}

/// Q40
pub(crate) async fn q40_a_clock_step_moves_nothing(bench: &Bench) {
    let queue = bench.fifo();
    for (seconds, body) in [(3600, "forward"), (-7200, "back")] {
        queue.send(message(body, body)).await.unwrap();
        let first = one(&queue, bench.unit).await;
        bench.clock.step(seconds);
        none(&queue).await;
        let again = queue.receive(1, bench.unit * 20, bench.unit).await.unwrap();
        assert!(Instant::now() >= first.deadline && Instant::now() < first.deadline + Duration::from_secs(1));
        assert_eq!(bodies(&again), [body]);
        queue.ack(&again[0].handle).await.unwrap();
        queue.send(message(body, body)).await.unwrap();
        none(&queue).await;
    }
}
