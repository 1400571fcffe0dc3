//! D40: rows of both revisions of the Go implementation, as it wrote them, take part in everything.

use db::schema::JOBS;
use db::table::{Item, Outcome, Value};
use db::{Change, Jobs, Pools};
use domain::ids::{JobId, LeaseToken};
use domain::job::{Job, JobState};
use domain::testing::{at, lease};

use crate::{BackEnd, back_ends, row};

/// The first revision: local times, empty texts instead of absent attributes.
fn first_revision(status: &str) -> Item {
    row([
        ("job_id", 7_i64.into()),
        ("run_id", 77_i64.into()),
        ("repo", "org/repo".into()),
        ("instance_id", "i-1".into()),
        ("instance_type", "c7g.xlarge".into()),
        ("pool", "".into()),
        ("private", true.into()),
        ("spot", true.into()),
        ("runner_spec", "4cpu-linux-arm64".into()),
        ("retry_count", 2_i64.into()),
        ("status", status.into()),
        ("created_at", "2026-01-01T09:00:00+09:00".into()),
        ("started_at", "0001-01-01T00:00:00Z".into()),
        ("spot_request_id", "sir-1".into()),
    ])
}

/// The later one.
fn later_revision(status: &str) -> Item {
    let mut item = first_revision(status);
    item.extend(row([
        ("pool", "cpu".into()),
        ("original_label", "runs-fleet/cpu=4".into()),
        ("warm_pool_hit", true.into()),
        ("trace_id", "".into()),
        ("created_at", "2026-01-01T00:00:00.123456789Z".into()),
    ]));
    item.remove("private");
    item.remove("runner_spec");
    item
}

fn jobs(back: &BackEnd) -> Jobs {
    Jobs::new(back.table.clone(), back.clock())
}

async fn read(jobs: &Jobs) -> Job {
    jobs.get(JobId::new(7).expect("positive")).await.expect("an answer").expect("a row")
}

fn claimed(old: &Job) -> Job {
    Job { state: JobState::Claiming, instance: None, lease: Some(lease("ours", 500)), ..old.clone() }
}

#[tokio::test]
async fn a_row_is_read_in_our_words() {
    for back in back_ends() {
        back.restore(&JOBS, &first_revision("launched"));
        let job = read(&jobs(&back)).await;
        assert_eq!((job.version, job.state, job.retry_count), (0, JobState::Launched, 2), "{}", back.name);
        assert_eq!((job.created_at, job.queued_at, job.started_at), (at(0), at(0), None));
        assert_eq!(job.prepared_at, Some(at(0)), "without a token it counts as prepared");
        let message = job.message.expect("rebuilt from the columns");
        assert_eq!((message.repo.as_str(), message.retry_count, message.queued_at), ("org/repo", 2, Some(at(0))));
        assert_eq!((&message.spec.pool, message.spec.private), (&None, true));
        assert_eq!((&*message.spec.runner_spec, &*message.spec.instance_type), ("4cpu-linux-arm64", "c7g.xlarge"));
    }
    for back in back_ends() {
        back.restore(&JOBS, &later_revision("running"));
        let job = read(&jobs(&back)).await;
        assert!(job.warm_pool_hit && job.prepared_at.is_none());
        let message = job.message.expect("rebuilt from the columns");
        assert_eq!(message.spec.pool.clone().map(String::from).as_deref(), Some("cpu"));
        assert_eq!(message.original_label, "runs-fleet/cpu=4");
    }
}

/// D3: its claims carry no token: their age is their lease, and their `retry_count` the strikes.
#[tokio::test]
async fn a_claim_without_a_token_lasts_a_hundred_seconds() {
    for back in back_ends() {
        back.restore(&JOBS, &later_revision("claiming"));
        let job = read(&jobs(&back)).await;
        assert!(!job.lease_expired(at(99)) && job.lease_expired(at(101)), "{}", back.name);
        assert_eq!((job.claim_attempts, job.retry_count), (2, 0));
        assert!(!job.fenced_by(&LeaseToken::new("anything")));
    }
    for back in back_ends() {
        let mut item = later_revision("claiming");
        item.insert("created_at", "a while ago".into());
        item.insert("retry_count", 0_i64.into());
        back.restore(&JOBS, &item);
        let job = read(&jobs(&back)).await;
        assert!(job.lease_expired(at(0)), "{}: an unreadable age is a dead lease", back.name);
        assert_eq!(job.claim_attempts, 1);
    }
}

#[tokio::test]
async fn a_row_of_any_status_takes_a_step() {
    for state in JobState::all() {
        for item in [first_revision(state.as_str()), later_revision(state.as_str())] {
            for back in back_ends() {
                back.restore(&JOBS, &item.clone());
                let jobs = jobs(&back);
                let old = read(&jobs).await;
                let new = jobs.write(&old, claimed(&old)).await.expect("allowed").applied().expect("ours");
                assert_eq!((new.version, new.state), (1, JobState::Claiming), "{} {state:?}", back.name);
                assert_eq!((new.retry_count, new.claim_attempts), (old.retry_count, old.claim_attempts));
                assert_eq!(read(&jobs).await, new);
                let row = back.table.get(&JOBS, &Value::N(7)).await.expect("an answer").expect("a row");
                assert_eq!(row["created_at"], Value::from("2026-01-01T00:00:00Z"), "in order with ours");
                assert_eq!(row["spot_request_id"], Value::from("sir-1"), "what we do not know survives");
                let empty = row.values().any(|value| *value == Value::from(""));
                assert!(!empty && !row.contains_key("instance_id") && !row.contains_key("started_at"), "{row:?}");
                assert!(row.contains_key("job_message"), "the next read needs no columns");
                assert_eq!(jobs.write(&old, claimed(&old)).await.expect("allowed"), Outcome::Lost);
            }
        }
    }
}

#[tokio::test]
async fn a_row_that_moved_since_it_was_read_is_lost() {
    for (name, value) in [("status", "running"), ("created_at", "2026-01-01T00:00:09Z"), ("lease_token", "x")] {
        for back in back_ends() {
            let jobs = jobs(&back);
            back.restore(&JOBS, &later_revision("launched"));
            let old = read(&jobs).await;
            let moved = db::table::Update::default().set(name, value);
            let moved = back.table.update(&JOBS, &Value::N(7), moved, db::table::Cond::Always).await;
            assert!(moved.expect("allowed").is_applied());
            assert_eq!(jobs.write(&old, claimed(&old)).await.expect("allowed"), Outcome::Lost, "{} {name}", back.name);
            let change = Change::Job { old: Some(old.clone()), new: claimed(&old) };
            assert_eq!(jobs.commit(vec![change]).await.expect("allowed"), Outcome::Lost);
            assert_eq!(jobs.delete(&old).await.expect("allowed"), Outcome::Lost);
        }
    }
}

/// An empty index attribute behind a version of ours is removed by whatever is written next.
#[tokio::test]
async fn an_empty_index_attribute_never_blocks_a_write() {
    for back in back_ends() {
        let jobs = jobs(&back);
        let mut item = first_revision("launched");
        item.insert("version", 4_i64.into());
        item.insert("lease_token", "t".into());
        item.insert("instance_id", "".into());
        back.restore(&JOBS, &item);
        let old = read(&jobs).await;
        let new = Job { last_error: Some("x".into()), ..old.clone() };
        let new = jobs.commit(vec![Change::Job { old: Some(old), new }]).await.expect("allowed").applied();
        assert_eq!(new.expect("ours").jobs[0].version, 5, "{}", back.name);
        let row = back.table.get(&JOBS, &Value::N(7)).await.expect("an answer").expect("a row");
        assert!(!row.contains_key("pool") && !row.contains_key("instance_id"), "{}", back.name);
    }
}

#[tokio::test]
async fn sweeps_find_rows_with_local_times() {
    for back in back_ends() {
        back.restore(&JOBS, &later_revision("launched"));
        let mut eastern = later_revision("launched");
        eastern.insert("job_id", 8_i64.into());
        // 23:59 UTC of the day before, and text far behind it.
        eastern.insert("created_at", "2026-01-01T08:59:00+09:00".into());
        back.restore(&JOBS, &eastern);
        let found = jobs(&back).by_state(JobState::Launched, Some(at(60)), None).await.expect("an answer");
        assert_eq!(found.iter().map(|job| job.id.get()).collect::<Vec<_>>(), [8, 7], "{}", back.name);
        let one = jobs(&back).by_state(JobState::Launched, Some(at(-1)), Some(1)).await.expect("an answer");
        assert_eq!(one.iter().map(|job| job.id.get()).collect::<Vec<_>>(), [8], "{}", back.name);
    }
}

/// Pools of the Go implementation carry no row kind; the first listing marks them.
#[tokio::test]
async fn pools_without_a_kind_are_listed() {
    for back in back_ends() {
        let zero = Value::from("0001-01-01T00:00:00Z");
        back.restore(&db::schema::POOLS, &row([("pool_name", "old".into()), ("last_job_time", zero)]));
        let lock = row([("pool_name", "__task_lock:sweep".into()), ("lock_owner", "x".into())]);
        back.restore(&db::schema::POOLS, &lock);
        for pools in [Pools::new(back.table.clone(), back.clock()), Pools::new(back.table.clone(), back.clock())] {
            for _ in 0..2 {
                let found = pools.list().await.expect("an answer");
                assert_eq!(found.len(), 1, "{}", back.name);
                assert_eq!((found[0].name.as_str(), found[0].last_job_time), ("old", None));
            }
        }
    }
}
