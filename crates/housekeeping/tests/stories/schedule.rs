//! Who runs which task when.

use std::sync::Arc;
use std::time::Duration;

use coordinator::{Coordinator, Mono, Parts, Timings, while_leading};
use db::tasks::Ended;
use domain::clock::SignedDuration;
use housekeeping::{Housekeeping, Task};
use provider::{Compute, MachineState, tags};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::world::Boot;
use crate::support::{minutes, seconds};
use crate::yard::{Yard, keeper, settings};

struct Virtual(Instant);

impl Mono for Virtual {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A replica that runs for election, and keeps house while it leads.
struct Replica {
    coordinator: Arc<Coordinator>,
    stop: CancellationToken,
    work: JoinSet<()>,
    _boot: Option<Boot>,
}

impl Replica {
    async fn start(yard: &mut Yard, name: &str) -> Self {
        yard.world.cloud = Some(Arc::clone(&yard.fleet) as Arc<dyn Compute>);
        let boot = yard.world.life();
        let keeper = keeper(&boot, &yard.table, settings(), None);
        let parts = Parts {
            table: Arc::clone(&yard.table),
            clock: Arc::clone(&yard.clock),
            mono: Arc::new(Virtual(Instant::now())),
            rng: Arc::clone(&yard.world.rng),
            metrics: yard.world.metrics.clone(),
        };
        let election = coordinator::Settings {
            name: name.to_owned(),
            host: "here".to_owned(),
            version: "0".to_owned(),
            timings: Timings::PRODUCTION,
        };
        let coordinator = Arc::new(Coordinator::elected(election, parts));
        coordinator.start().await.unwrap();
        Self::over(keeper, coordinator, Some(boot))
    }

    fn over(keeper: Arc<Housekeeping>, coordinator: Arc<Coordinator>, boot: Option<Boot>) -> Self {
        let (stop, mut work) = (CancellationToken::new(), JoinSet::new());
        let (led, until) = (Arc::clone(&coordinator), stop.clone());
        work.spawn(async move {
            while_leading(&led, until, move |term| Arc::clone(&keeper).lead(term)).await;
        });
        Self { coordinator, stop, work, _boot: boot }
    }

    /// SIGTERM.
    async fn end(mut self) {
        self.stop.cancel();
        self.coordinator.stop(seconds(2)).await;
        tokio::time::timeout(minutes(2), async { while self.work.join_next().await.is_some() {} }).await.unwrap();
    }

    /// SIGKILL.
    async fn die(mut self) {
        self.work.shutdown().await;
        // Its lease runs out: nobody gives it up. The election's own task ends with the last who can ask.
        drop(self.coordinator);
    }
}

/// The only replica, without an election.
fn alone(yard: &Yard) -> Replica {
    let coordinator = Coordinator::alone(Arc::clone(&yard.clock), yard.world.metrics.clone());
    Replica::over(Arc::clone(&yard.keeper), Arc::new(coordinator), None)
}

/// How often a task ended so.
fn runs(yard: &Yard, task: &str, result: &str) -> u64 {
    let wanted = format!("runs_fleet_housekeeping_runs_total{{result=\"{result}\",task=\"{task}\"}} ");
    let text = yard.world.metrics.render();
    text.lines().find_map(|line| line.strip_prefix(&wanted)?.parse().ok()).unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn every_task_runs_and_as_often_as_it_should() {
    let yard = Yard::new();
    let replica = alone(&yard);
    replica.coordinator.start().await.unwrap();
    yard.pass(minutes(181)).await;
    for entry in housekeeping::task::TABLE {
        let ok = runs(&yard, entry.name, "ok");
        let wanted = 180 * 60 / entry.every.as_secs();
        // The interval is spread, and looked at every five seconds.
        let range = wanted * 88 / 100..=wanted * 108 / 100 + 2;
        assert!(range.contains(&ok), "{} ran {ok} times, not {range:?}", entry.name);
        assert_eq!(runs(&yard, entry.name, "error"), 0, "{}", entry.name);
        assert!(
            yard.world
                .metrics
                .render()
                .contains(&format!("runs_fleet_housekeeping_last_success_age_seconds{{task=\"{}\"}}", entry.name))
        );
    }
    replica.end().await;
    assert!(
        !yard.world.metrics.render().contains("runs_fleet_housekeeping_last_success_age_seconds{"),
        "no longer ours"
    );
}

#[tokio::test(start_paused = true)]
async fn of_two_replicas_one_keeps_house_and_the_other_goes_on_where_it_stopped() {
    let mut yard = Yard::new();
    let (one, two) = (Replica::start(&mut yard, "one").await, Replica::start(&mut yard, "two").await);
    yard.pass(minutes(30)).await;
    let before = runs(&yard, "stale_jobs", "ok");
    assert!((5..=7).contains(&before), "{before}");
    assert_eq!(runs(&yard, "stale_jobs", "skipped_lock"), 0);
    let (leader, other) = if one.coordinator.is_leader() { (one, two) } else { (two, one) };
    assert!(leader.coordinator.is_leader() && !other.coordinator.is_leader());
    leader.end().await;
    yard.pass(minutes(30)).await;
    assert!(other.coordinator.is_leader());
    let after = runs(&yard, "stale_jobs", "ok") - before;
    assert!((5..=7).contains(&after), "the schedule is in the store: {after}");
    other.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_at_its_next_step_when_its_leader_stops() {
    let mut yard = Yard::new();
    for n in 0..5 {
        yard.fleet.add(n, MachineState::Running, yard.ago(400), &[]);
    }
    // The list waits.
    yard.fleet.gate.forget_permits(usize::MAX >> 3);
    let replica = Replica::start(&mut yard, "one").await;
    yard.pass(seconds(10)).await;
    let row = yard.tasks().get("orphaned_instances").await.unwrap();
    assert!(row.last_started_at.is_some() && row.locked_until.is_some());
    let mut ending = JoinSet::new();
    ending.spawn(replica.end());
    yard.pass(seconds(1)).await;
    yard.fleet.gate.add_permits(100);
    ending.join_next().await.unwrap().unwrap();
    assert!(yard.fleet.ended().is_empty(), "no step began");
    let row = yard.tasks().get("orphaned_instances").await.unwrap();
    assert_eq!((row.last_result.as_deref(), row.locked_until), (Some("aborted"), None));
    assert_eq!(runs(&yard, "orphaned_instances", "aborted"), 1);

    // The next leader sees that it was begun, and waits an interval.
    let next = Replica::start(&mut yard, "two").await;
    yard.pass(seconds(15)).await;
    assert!(yard.fleet.ended().is_empty());
    yard.pass(minutes(6)).await;
    assert_eq!(yard.fleet.ended().len(), 5);
    next.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_keeps_a_task_from_running_for_six_minutes() {
    let yard = Yard::new();
    let machine = yard.fleet.add(1, MachineState::Running, yard.ago(400), &[]);
    yard.fleet.gate.forget_permits(usize::MAX >> 3);
    let crashed = alone(&yard);
    crashed.coordinator.start().await.unwrap();
    yard.pass(seconds(10)).await;
    crashed.die().await;
    yard.fleet.gate.add_permits(1_000_000);
    let next = alone(&yard);
    next.coordinator.start().await.unwrap();
    yard.pass(minutes(5)).await;
    assert!(yard.fleet.ended().is_empty(), "its lock lives");
    yard.pass(minutes(2)).await;
    assert_eq!(yard.fleet.ended(), [machine]);
    assert_eq!(runs(&yard, "orphaned_instances", "skipped_lock"), 0, "nobody asked in vain");
    next.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_has_four_minutes_and_a_last_step() {
    let yard = Yard::new();
    yard.fleet.gate.forget_permits(usize::MAX >> 3);
    let began = yard.clock.now();
    let (end, _) = yard.run(Task::OrphanedPackerInstances).await;
    assert!(matches!(&end, Ended::Failed { why, .. } if why == "out of time"), "{end:?}");
    let took = yard.clock.now().duration_since(began);
    assert!(took >= SignedDuration::from_mins(4) && took <= SignedDuration::from_mins(6), "{took}");
}

#[tokio::test(start_paused = true)]
async fn three_tasks_run_at_once_and_of_those_that_read_the_jobs_one() {
    let yard = Yard::new();
    yard.fleet.gate.forget_permits(usize::MAX >> 3);
    let replica = alone(&yard);
    replica.coordinator.start().await.unwrap();
    let mut most = 0;
    for _ in 0..100 {
        yard.pass(seconds(1)).await;
        let rows = yard.tasks().all().await.unwrap();
        let running = |reads_jobs: bool| {
            let entries = housekeeping::task::TABLE.iter().filter(|entry| !reads_jobs || entry.reads_jobs);
            entries.filter(|e| rows.get(e.name).is_some_and(|row| row.locked_until.is_some())).count()
        };
        most = most.max(running(false));
        assert!(running(true) <= 1);
    }
    assert_eq!(most, 3);
    yard.fleet.gate.add_permits(1_000_000);
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_no_job_uses_is_removed_by_the_leader_and_by_nobody_else() {
    let yard = Yard::new();
    let (unused, used) = (yard.pool("unused").await, yard.pool("used").await);
    let spare = yard.fleet.add(1, MachineState::Stopped, yard.clock.now(), &[(tags::POOL, "unused")]);
    yard.fleet.add(2, MachineState::Stopped, yard.clock.now(), &[(tags::POOL, "used")]);
    yard.pass(minutes(250)).await;
    assert!(yard.pools().touch(&used).await.unwrap().is_applied());
    let rehearsed = yard.rehearse(Task::EphemeralPoolCleanup).await;
    assert_eq!(rehearsed.items.keys().collect::<Vec<_>>(), ["unused"]);
    assert_eq!(yard.runs_well(Task::EphemeralPoolCleanup).await, 0, "whoever runs it does not lead");
    assert!(yard.pools().get(&unused).await.unwrap().is_some());

    yard.pass(minutes(62)).await;
    let replica = alone(&yard);
    replica.coordinator.start().await.unwrap();
    yard.pass(minutes(2)).await;
    assert_eq!(yard.pools().get(&unused).await.unwrap(), None);
    assert!(yard.pools().get(&used).await.unwrap().is_some());
    assert_eq!(yard.fleet.ended(), [spare]);
    assert!(yard.shows("housekeeping_actions_total{action=\"ephemeral_pools\"} 1"));

    replica.end().await;
}
