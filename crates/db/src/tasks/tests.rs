use std::sync::atomic::{AtomicI64, Ordering};

use domain::testing::at;

use super::*;
use crate::{Locks, Memory};

struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        at(self.0.load(Ordering::Relaxed))
    }
}

struct Fixture {
    clock: Arc<Hands>,
    locks: Locks,
    tasks: Tasks,
}

const TASK: &str = "old_jobs";
const LOCK: Duration = Duration::from_secs(360);

fn fixture() -> Fixture {
    let clock = Arc::new(Hands(AtomicI64::new(0)));
    let table: Arc<dyn Table> = Arc::new(Memory::new(Arc::clone(&clock) as Arc<dyn Clock>));
    Fixture {
        locks: Locks::new(Arc::clone(&table), Arc::clone(&clock) as Arc<dyn Clock>),
        tasks: Tasks::new(table, Arc::clone(&clock) as Arc<dyn Clock>),
        clock,
    }
}

impl Fixture {
    fn pass(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds, Ordering::Relaxed);
    }
    async fn lock(&self, owner: &str) -> Option<Held> {
        self.locks.task(TASK, owner, LOCK).await.unwrap().applied()
    }
    async fn run(&self, fence: Option<Fence>, end: &Ended) -> bool {
        let held = self.lock("me").await.unwrap();
        assert!(self.tasks.started(TASK, &held, Trigger::Timer, fence).await.unwrap().is_applied());
        self.pass(10);
        self.tasks
            .ended(TASK, &held, at(self.clock.0.load(Ordering::Relaxed) - 10), end, fence)
            .await
            .unwrap()
            .is_applied()
    }
}

#[tokio::test]
async fn a_run_leaves_its_story_and_gives_the_lock_back() {
    let f = fixture();
    assert_eq!(f.tasks.get(TASK).await.unwrap(), TaskRow::default());
    assert!(f.run(None, &Ended::Success).await);
    let row = f.tasks.get(TASK).await.unwrap();
    assert_eq!(
        row,
        TaskRow {
            last_started_at: Some(at(0)),
            last_finished_at: Some(at(10)),
            last_success_at: Some(at(10)),
            last_result: Some("success".to_owned()),
            last_duration: Some(Duration::from_secs(10)),
            last_trigger: Some("timer".to_owned()),
            consecutive_failures: 0,
            consecutive_barren: 0,
            locked_until: None,
        }
    );
    assert_eq!(f.tasks.all().await.unwrap(), BTreeMap::from([(TASK.to_owned(), row)]));

    let failed = |barren| Ended::Failed { why: "x".repeat(400), barren };
    for barren in [true, true] {
        assert!(f.run(None, &failed(barren)).await);
    }
    let row = f.tasks.get(TASK).await.unwrap();
    assert_eq!((row.consecutive_failures, row.consecutive_barren), (2, 2));
    assert_eq!((row.last_success_at, row.last_result.unwrap().len()), (Some(at(10)), 300));
    assert!(f.run(None, &failed(false)).await);
    let row = f.tasks.get(TASK).await.unwrap();
    assert_eq!((row.consecutive_failures, row.consecutive_barren), (3, 0), "something was seen");
    assert!(f.run(None, &Ended::Aborted).await);
    let row = f.tasks.get(TASK).await.unwrap();
    assert_eq!(
        (row.last_finished_at, row.last_started_at),
        (Some(at(40)), Some(at(40))),
        "it began and did not finish"
    );
    assert!(f.run(None, &Ended::Success).await);
    assert_eq!(f.tasks.get(TASK).await.unwrap().consecutive_failures, 0);
}

#[tokio::test]
async fn a_run_whose_lock_was_taken_over_says_nothing() {
    let f = fixture();
    let slow = f.lock("slow").await.unwrap();
    assert!(f.lock("other").await.is_none(), "it is held");
    f.pass(400);
    let next = f.lock("next").await.unwrap();
    assert!(f.tasks.started(TASK, &next, Trigger::Queue, None).await.unwrap().is_applied());
    let ended = f.tasks.ended(TASK, &slow, at(0), &Ended::Success, None).await.unwrap();
    assert!(!ended.is_applied());
    assert!(!f.tasks.started(TASK, &slow, Trigger::Timer, None).await.unwrap().is_applied());
    assert_eq!(f.tasks.get(TASK).await.unwrap().last_result, None);
    assert!(f.lock("other").await.is_none(), "the lock is the next one's");
}

#[tokio::test]
async fn a_leader_that_was_deposed_says_nothing() {
    let f = fixture();
    let (old, new) = (Some(Fence::new(1)), Some(Fence::new(2)));
    assert!(f.run(new, &Ended::Success).await);
    let held = f.lock("old").await.unwrap();
    assert!(!f.tasks.started(TASK, &held, Trigger::Timer, old).await.unwrap().is_applied());
    assert!(!f.tasks.ended(TASK, &held, at(0), &Ended::Success, old).await.unwrap().is_applied());
    assert!(
        f.tasks.is_passed(TASK, Fence::new(1)).await.unwrap() && !f.tasks.is_passed(TASK, Fence::new(2)).await.unwrap()
    );
    assert!(
        f.tasks.started(TASK, &held, Trigger::Queue, None).await.unwrap().is_applied(),
        "a request needs no leader"
    );
}
