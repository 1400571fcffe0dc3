//! Runs that operators ask for by the queue.

use std::sync::Arc;

use db::tasks::Trigger;
use domain::clock::Clock;
use housekeeping::{Requests, Task};
use provider::MachineState;
use queue::{Consumer, MemoryQueues, Message, Queue, QueueConfig};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{minutes, seconds};
use crate::yard::Yard;

struct Desk {
    yard: Yard,
    queue: Arc<dyn Queue>,
    dead: Arc<dyn Queue>,
    _consumer: JoinSet<()>,
}

/// A replica that takes requests.
fn desk() -> Desk {
    let yard = Yard::new();
    let queues = MemoryQueues::new(Arc::clone(&yard.clock), Arc::clone(&yard.world.rng));
    let dead = QueueConfig::standard("housekeeping-dlq");
    let queue = queues.queue(QueueConfig::standard("housekeeping").dead_letters(&dead, 3));
    let mut consumer = JoinSet::new();
    let handler = Arc::new(Requests { keeper: Arc::clone(&yard.keeper), stop: CancellationToken::new() });
    let rng = Arc::clone(&yard.world.rng);
    consumer
        .spawn(Consumer::new(Arc::clone(&queue), Requests::consuming(), handler, rng).run(CancellationToken::new()));
    Desk { dead: queues.queue(dead), queue, yard, _consumer: consumer }
}

impl Desk {
    async fn ask(&self, body: &str) {
        self.queue.send(Message { body: body.to_owned(), ..Message::default() }).await.unwrap();
    }

    async fn left(&self) -> u64 {
        let depth = self.queue.depth().await.unwrap();
        depth.visible.unwrap() + depth.in_flight.unwrap()
    }

    /// Runs that a request led to, or not.
    fn counted(&self, result: &str, times: u32) -> bool {
        self.yard.shows(&format!("housekeeping_messages_total{{result=\"{result}\"}} {times}"))
    }
}

fn at(clock: &Arc<dyn Clock>) -> String {
    clock.now().to_string()
}

#[tokio::test(start_paused = true)]
async fn a_backlog_of_requests_is_one_run() {
    let desk = desk();
    let machine = desk.yard.fleet.add(1, MachineState::Running, desk.yard.ago(400), &[]);
    let body = format!(r#"{{"task_type": "orphaned_instances", "timestamp": "{}"}}"#, at(&desk.yard.clock));
    for _ in 0..3 {
        desk.ask(&body).await;
    }
    desk.yard.pass(minutes(3)).await;
    assert_eq!(desk.left().await, 0);
    assert_eq!(desk.yard.fleet.ended(), [machine]);
    assert!(desk.counted("done", 1) && desk.counted("coalesced", 2));
    let row = desk.yard.tasks().get("orphaned_instances").await.unwrap();
    assert_eq!(row.last_trigger.as_deref(), Some(Trigger::Queue.as_str()));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_put_aside_at_once_and_what_is_no_task_is_dropped() {
    let desk = desk();
    for body in ["not json", "{}", r#"{"task_type": "old_jobs", "params": {"max_items": 0}}"#] {
        desk.ask(body).await;
    }
    desk.ask(r#"{"task_type": "pool_audit"}"#).await;
    desk.ask(r#"{"task_type": "cost_report"}"#).await;
    desk.yard.pass(minutes(1)).await;
    assert_eq!(desk.left().await, 0);
    assert_eq!(desk.dead.depth().await.unwrap().visible, Some(3));
    assert!(desk.counted("malformed", 3) && desk.counted("retired", 1) && desk.counted("unknown", 1));
    assert!(desk.yard.tasks().all().await.unwrap().is_empty(), "nothing ran");
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_run_under_way_and_is_answered_by_it_or_runs() {
    let desk = desk();
    let before = at(&desk.yard.clock);
    desk.yard.fleet.gate.forget_permits(usize::MAX >> 3);
    let keeper = Arc::clone(&desk.yard.keeper);
    let mut running = JoinSet::new();
    running.spawn(async move {
        keeper.run(Task::OrphanedInstances, &Default::default(), Trigger::Timer, None, Vec::new(), |_| true).await
    });
    desk.yard.pass(seconds(1)).await;
    desk.ask(&format!(r#"{{"task_type": "orphaned_instances", "timestamp": "{before}"}}"#)).await;
    desk.ask(&format!(r#"{{"task_type": "orphaned_instances", "timestamp": "{}"}}"#, at(&desk.yard.clock))).await;
    desk.yard.pass(seconds(10)).await;
    assert_eq!(desk.left().await, 2, "it is locked");
    desk.yard.fleet.gate.add_permits(100);
    running.join_next().await.unwrap().unwrap().unwrap();
    desk.yard.pass(minutes(5)).await;
    assert_eq!(desk.left().await, 0);
    assert!(desk.counted("coalesced", 1) && desk.counted("done", 1), "{}", desk.yard.world.metrics.render());
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_run_fails_comes_back_until_it_is_put_aside() {
    let desk = desk();
    desk.yard.fleet.refuse("list builders");
    desk.ask(r#"{"task_type": "orphaned_packer_instances"}"#).await;
    desk.yard.pass(minutes(1)).await;
    assert_eq!((desk.left().await, desk.counted("failed", 1)), (1, true));
    desk.yard.pass(minutes(20)).await;
    assert_eq!(desk.left().await, 0);
    assert_eq!(desk.dead.depth().await.unwrap().visible, Some(1));
    let row = desk.yard.tasks().get("orphaned_packer_instances").await.unwrap();
    assert_eq!(row.consecutive_failures, 3);
}

#[tokio::test(start_paused = true)]
async fn a_rehearsal_that_was_asked_for_changes_nothing() {
    let desk = desk();
    desk.yard.fleet.add(1, MachineState::Running, desk.yard.ago(400), &[]);
    desk.ask(r#"{"task_type": "orphaned_instances", "params": {"dry_run": true}}"#).await;
    desk.yard.pass(minutes(1)).await;
    assert_eq!(desk.left().await, 0);
    assert!(desk.yard.fleet.ended().is_empty());
    assert!(desk.yard.tasks().all().await.unwrap().is_empty());
    assert!(desk.yard.shows("housekeeping_actions_total{action=\"orphaned_instances\"} 0"));
}
