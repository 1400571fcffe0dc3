//! The memory queue, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use queue::{MemoryQueues, QueueConfig};
use tokio::time::sleep;

use crate::suite::run;
use crate::{Bench, Seeded, TestClock, message};

fn bench() -> ((), Bench) {
    let clock = TestClock::new();
    let queues = MemoryQueues::new(clock.clone(), Seeded::new(1));
    let open = Box::new(move |config| queues.queue(config));
    ((), Bench { open, unit: Duration::from_secs(10), messages: 10_000, clock })
}

run!(
    bench(),
    tokio::test(start_paused = true),
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

/// Q7
#[tokio::test(start_paused = true)]
async fn q07_an_id_is_forgotten_after_its_window() {
    let ((), bench) = bench();
    let queue = bench.fifo();
    queue.send(message("g", "a")).await.unwrap();
    sleep(Duration::from_secs(299)).await;
    queue.send(message("g", "a")).await.unwrap();
    assert_eq!(queue.depth().await.unwrap().visible, Some(1));
    sleep(Duration::from_secs(2)).await;
    queue.send(message("g", "a")).await.unwrap();
    assert_eq!(queue.depth().await.unwrap().visible, Some(2));
}

/// Q2, exactly: in virtual time there is nothing to excuse.
#[tokio::test(start_paused = true)]
async fn q02_to_the_millisecond() {
    let ((), bench) = bench();
    let queue = bench.fifo();
    queue.send(message("g", "a")).await.unwrap();
    let minute = Duration::from_secs(60);
    let first = queue.receive(1, Duration::ZERO, minute).await.unwrap();
    let again = queue.receive(1, minute * 2, minute).await.unwrap();
    assert_eq!(again[0].deadline - first[0].deadline, minute);
}

/// The same seed gives the same run, handles included.
#[tokio::test(start_paused = true)]
async fn two_runs_are_the_same() {
    let run = || async {
        let ((), bench) = bench();
        let queue = bench.queue(QueueConfig::fifo("main"));
        let mut handles = Vec::new();
        for number in 0..100 {
            queue.send(message(&(number % 7).to_string(), &number.to_string())).await.unwrap();
            let got = queue.receive(3, Duration::from_secs(1), Duration::from_secs(3)).await.unwrap();
            handles.extend(got.iter().map(|delivery| delivery.handle.clone()));
            if let Some(delivery) = got.first() {
                let _ = queue.ack(&delivery.handle).await;
            }
        }
        handles
    };
    assert_eq!(run().await, run().await);
}

/// A clone is the same set of queues, as a restarted process sees it.
#[tokio::test(start_paused = true)]
async fn deliveries_outlive_their_consumer() {
    let clock = TestClock::new();
    let queues = MemoryQueues::new(clock, Seeded::new(1));
    let queue = queues.queue(QueueConfig::fifo("main"));
    queue.send(message("g", "a")).await.unwrap();
    drop(queue.receive(1, Duration::ZERO, Duration::from_secs(60)).await.unwrap());
    drop(queue);
    let again: Arc<_> = queues.clone().queue(QueueConfig::fifo("main"));
    assert!(again.receive(1, Duration::from_secs(59), Duration::from_secs(60)).await.unwrap().is_empty());
    assert_eq!(again.receive(1, Duration::from_secs(2), Duration::from_secs(60)).await.unwrap().len(), 1);
}
