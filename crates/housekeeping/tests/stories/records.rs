//! Rows that are over: records of jobs, claims, histories of pools.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use config::HotPoolCaps;
use db::claims::{Action, Holder};
use db::tasks::Ended;
use db::{Claims, Jobs};
use domain::clock::{Clock, Timestamp, after};
use domain::job::{Job, JobState, Settled};
use domain::runner::RunnerState;
use housekeeping::{Ask, Housekeeping, Ports, Settings, Task};
use provider::blobs::{Blob, Created, DirectoryBlobs, Error};
use provider::{BlobStore, MachineState};

use crate::fleet::key;
use crate::support::github::repo;
use crate::support::minutes;
use crate::yard::{Yard, settings};

const WEEK: i64 = 7 * 24 * 60;

/// An archive that may fail, and that somebody may be faster than.
struct Archive {
    store: DirectoryBlobs,
    fails: AtomicBool,
}

#[async_trait]
impl BlobStore for Archive {
    async fn put(&self, key: &str, content: Bytes) -> Result<(), Error> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(Error::Transient("the weather".to_owned()));
        }
        self.store.put(key, content).await
    }
    async fn create(&self, key: &str, content: Bytes) -> Result<Created, Error> {
        self.store.create(key, content).await
    }
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        self.store.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<Blob>, Error> {
        self.store.list(prefix).await
    }
    async fn delete(&self, key: &str) -> Result<(), Error> {
        self.store.delete(key).await
    }
}

fn archive() -> (tempfile::TempDir, Arc<Archive>) {
    let dir = tempfile::tempdir().unwrap();
    let store = DirectoryBlobs::new(dir.path());
    (dir, Arc::new(Archive { store, fails: AtomicBool::new(false) }))
}

#[tokio::test(start_paused = true)]
async fn a_record_is_archived_and_only_then_deleted() {
    let (_dir, archive) = archive();
    let yard = Yard::with(settings(), Some(Arc::clone(&archive) as Arc<dyn BlobStore>));
    yard.ended(1, &key(1), yard.ago(WEEK + 1)).await;
    yard.ended(2, &key(1), yard.ago(WEEK + 60)).await;
    yard.ended(3, &key(1), yard.ago(WEEK - 60)).await;
    yard.running(4, &key(2)).await;

    archive.fails.store(true, Ordering::Relaxed);
    let (end, report) = yard.run(Task::OldJobs).await;
    assert!(matches!(end, Ended::Failed { .. }) && report.acted == 0, "{report:?}");
    assert!(yard.find(1).await.is_some(), "what is not archived stays");
    archive.fails.store(false, Ordering::Relaxed);

    assert_eq!(yard.rehearse(Task::OldJobs).await.acted, 2);
    assert_eq!(archive.list("").await, Ok(vec![]), "a rehearsal writes nothing");
    assert_eq!(yard.runs_well(Task::OldJobs).await, 2);
    for (id, stays) in [(1, false), (2, false), (3, true), (4, true)] {
        assert_eq!(yard.find(id).await.is_some(), stays, "{id}");
    }
    assert!(yard.shows("housekeeping_actions_total{action=\"job_records\"} 2"));
    let objects = archive.list("jobs-archive/dt=2025-12-24/").await.unwrap();
    assert_eq!(objects.len(), 1, "{objects:?}");
    let packed = archive.get(&objects[0].key).await.unwrap().unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*packed).read_to_string(&mut text).unwrap();
    let ids: Vec<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["job_id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, [2, 1], "as they ended");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_changed_since_it_was_read_stays() {
    let yard = Yard::new();
    let job = yard.ended(1, &key(1), yard.ago(WEEK + 1)).await;
    let jobs = Jobs::new(Arc::clone(&yard.table), Arc::clone(&yard.clock));
    let old = jobs.ended_before(yard.ago(WEEK), 10).await.unwrap().remove(0);
    let revived = Job { state: JobState::Settled(Settled::Failure), ..job.clone() };
    assert!(jobs.write(&job, revived).await.unwrap().is_applied());
    assert!(!jobs.delete_ended(&old).await.unwrap().is_applied());
    assert!(yard.find(1).await.is_some());
    let old = jobs.ended_before(yard.ago(WEEK), 10).await.unwrap().remove(0);
    assert!(jobs.delete_ended(&old).await.unwrap().is_applied());
    assert!(!jobs.delete_ended(&old).await.unwrap().is_applied(), "once");
}

#[tokio::test(start_paused = true)]
async fn without_an_archive_records_stay_unless_operators_say_otherwise() {
    for (hard_delete, deleted) in [(false, 0), (true, 1)] {
        let yard = Yard::with(Settings { hard_delete, ..settings() }, None);
        yard.ended(1, &key(1), yard.ago(WEEK + 1)).await;
        assert_eq!(yard.runs_well(Task::OldJobs).await, deleted);
        assert_eq!(yard.find(1).await.is_none(), hard_delete);
        assert_eq!(yard.shows("job_records_unarchived 1"), !hard_delete);
    }
}

#[tokio::test(start_paused = true)]
async fn more_records_than_a_run_takes_wait_for_the_next() {
    let yard = Yard::with(Settings { hard_delete: true, ..settings() }, None);
    for id in 1..=5 {
        yard.ended(id, &key(1), yard.ago(WEEK + 100 - i64::try_from(id).unwrap())).await;
    }
    let (end, report) = yard.run_as(Task::OldJobs, Ask { max_items: Some(3), ..Ask::default() }).await;
    assert_eq!((end, report.acted, report.deferred), (Ended::Success, 3, 1));
    assert!(yard.find(3).await.is_none() && yard.find(4).await.is_some(), "the oldest first");
}

/// A clock that runs ahead of the store's.
struct Ahead(Arc<dyn Clock>);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        after(self.0.now(), minutes(2))
    }
}

/// Stores hide what expired by their own clock, so that only a clock ahead of theirs sees it.
#[tokio::test(start_paused = true)]
async fn a_claim_whose_holder_died_is_removed_and_a_live_one_stays() {
    let mut yard = Yard::new();
    let holder = Holder::Action { action: Action::Retire, owner: "dead" };
    assert!(yard.claims().claim(&key(1), holder, minutes(1)).await.unwrap().is_applied());
    assert!(yard.claims().claim(&key(2), holder, minutes(60)).await.unwrap().is_applied());
    let claims = Claims::new(Arc::clone(&yard.table), Arc::new(Ahead(Arc::clone(&yard.clock))));
    yard.keeper = Housekeeping::new(Ports { claims, ..yard.ports() }, settings());
    assert_eq!(yard.rehearse(Task::ExpiredInstanceClaims).await.acted, 0);
    assert_eq!(yard.runs_well(Task::ExpiredInstanceClaims).await, 1);
    assert_eq!(yard.runs_well(Task::ExpiredInstanceClaims).await, 0);
    assert!(yard.claims().is_claimed(&key(2)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn the_history_of_a_pool_tells_how_its_spares_linger() {
    let caps = HotPoolCaps {
        max_linger_minutes: 30,
        max_hot: 3,
        min_jobs_to_activate: 3,
        lookback_days: 7,
        burst_gap_minutes: 20,
    };
    let yard = Yard::with(Settings { hot_pools: Some(caps), ..settings() }, None);
    let pool = yard.pool("cpu").await;
    for n in 0..4 {
        let at = yard.ago(60 - 5 * n);
        yard.job(u64::try_from(n).unwrap() + 1, |job| {
            job.state = JobState::Settled(Settled::Success);
            job.created_at = at;
            job.completed_at = Some(at);
            Arc::make_mut(job.message.as_mut().unwrap()).spec.pool = Some(pool.clone());
        })
        .await;
    }
    let tuning = async || yard.pools().get(&pool).await.unwrap().unwrap().tuning;
    assert_eq!(yard.rehearse(Task::PoolHotTuner).await.acted, 1);
    assert_eq!(tuning().await, None);
    assert_eq!(yard.runs_well(Task::PoolHotTuner).await, 1);
    let found = tuning().await.unwrap();
    assert_eq!((found.reason.as_str(), found.linger_minutes, found.jobs), ("tuned", 5, 4));

    let off = Yard::new();
    off.pool("cpu").await;
    assert_eq!(off.runs_well(Task::PoolHotTuner).await, 0);
    assert!(off.shows("housekeeping_disabled{reason=\"off\",task=\"pool_hot_tuner\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_sweep_of_dispatch_is_a_task_with_bounds() {
    let yard = Yard::new();
    let machine = yard.fleet.add(1, MachineState::Running, yard.ago(6), &[]);
    let launched = yard
        .job(1, |job| {
            job.state = JobState::Launched;
            job.instance = Some(machine.clone());
            job.prepared_at = Some(yard.ago(6));
        })
        .await;
    assert_eq!(yard.rehearse(Task::UnconfirmedRunners).await.items.keys().collect::<Vec<_>>(), ["1"]);
    assert_eq!(yard.find(1).await.as_ref(), Some(&launched), "a rehearsal changes nothing");
    let other = Ask { job: domain::ids::JobId::new(2), ..Ask::default() };
    let (_, report) = yard.run_as(Task::UnconfirmedRunners, other).await;
    assert_eq!(report.seen, 0);
    // GitHub does not know the job: it is over.
    assert_eq!(yard.runs_well(Task::UnconfirmedRunners).await, 1);
    assert!(yard.find(1).await.unwrap().state.is_settled());
    assert!(yard.shows("housekeeping_actions_total{action=\"unconfirmed_runners\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_runner_will_not_serve_it_does_not_wait_for_its_age() {
    let yard = Yard::new();
    let (done, waits) = (key(1), key(2));
    let mut jobs = Vec::new();
    for (n, machine, state) in [(1, &done, RunnerState::Done), (2, &waits, RunnerState::Minted)] {
        let id = yard.world.queue_job();
        jobs.push(id);
        yard.fleet.add(n, MachineState::Running, yard.clock.now(), &[]);
        yard.runner(machine, state).await;
        yard.job(id.get(), |job| {
            Arc::make_mut(job.message.as_mut().unwrap()).repo = repo();
            job.state = JobState::Launched;
            job.instance = Some(machine.clone());
            job.prepared_at = Some(job.created_at);
        })
        .await;
    }
    assert_eq!(yard.runs_well(Task::BindingRefresh).await, 0, "GitHub was heard of a moment ago");
    yard.pass(minutes(3)).await;
    assert_eq!(yard.rehearse(Task::BindingRefresh).await.seen, 2);
    assert_eq!(yard.runs_well(Task::BindingRefresh).await, 1);
    assert_eq!(yard.find(jobs[0].get()).await.unwrap().state, JobState::Requeued);
    assert_eq!(yard.find(jobs[1].get()).await.unwrap().state, JobState::Launched);
}
