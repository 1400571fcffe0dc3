use std::time::Duration;

use db::schema::JOBS;
use db::table::{Cond, Outcome, Update, Value};
use db::{Change, Error, JobFilter, Jobs, Runners};
use domain::clock::{Clock, after};
use domain::ids::{JobId, RunnerKey};
use domain::job::{Job, JobState, Settled};
use domain::runner::{Runner, RunnerState};
use domain::testing::{accepted, at, claimed, launched, lease};

use crate::{BackEnd, TestClock, back_ends};

fn jobs(back: &BackEnd) -> Jobs {
    Jobs::new(back.table.clone(), back.clock())
}

fn runners(back: &BackEnd) -> Runners {
    Runners::new(back.table.clone(), back.clock())
}

fn id(job: u64) -> JobId {
    JobId::new(job).expect("positive")
}

async fn created(jobs: &Jobs, job: Job) -> Job {
    jobs.create(&job).await.expect("allowed").applied().expect("there was none")
}

async fn read(jobs: &Jobs, job: u64) -> Option<Job> {
    jobs.get(id(job)).await.expect("an answer")
}

/// The record of `to` as a step from `from`.
fn step(from: &Job, to: Job) -> Job {
    Job { version: from.version, ..to }
}

fn minting(machine: &str, job: u64) -> Runner {
    Runner { bound_job: Some(id(job)), minted_at: at(2), ttl: Some(at(1000)), ..domain::testing::runner(machine) }
}

/// D1: accepting a job twice changes nothing the second time.
#[tokio::test]
async fn a_job_is_created_once() {
    for back in back_ends() {
        let jobs = jobs(&back);
        let first = created(&jobs, accepted(1)).await;
        assert_eq!(first.version, 1);
        assert_eq!(jobs.create(&claimed(1, "x")).await.expect("allowed"), Outcome::Lost);
        assert_eq!(read(&jobs, 1).await, Some(first), "{}", back.name);
    }
}

#[tokio::test]
async fn a_step_writes_what_changed_and_answers_the_record() {
    for back in back_ends() {
        let jobs = jobs(&back);
        let first = created(&jobs, accepted(1)).await;
        // An attribute of a later release survives.
        let foreign = Update::default().set("cost_usd", Value::F(0.25));
        assert!(back.table.update(&JOBS, &Value::N(1), foreign, Cond::Always).await.expect("allowed").is_applied());
        let second = jobs.write(&first, step(&first, claimed(1, "t"))).await.expect("allowed").applied().expect("ours");
        assert_eq!((second.version, second.state), (2, JobState::Claiming));
        assert!(second.fenced_by(&"t".into()));
        assert_eq!(read(&jobs, 1).await.as_ref(), Some(&second), "{}", back.name);
        let row = back.table.get(&JOBS, &Value::N(1)).await.expect("an answer").expect("a row");
        assert_eq!(row["cost_usd"], Value::F(0.25));

        let same = jobs.write(&second, second.clone()).await.expect("allowed");
        assert_eq!(same, Outcome::Applied(second), "no change is no write");
        let other = Job { id: id(2), ..first.clone() };
        assert!(matches!(jobs.write(&first, other).await, Err(Error::Invalid(_))));
    }
}

/// D4, D14, D17, D18: of any number of actors that decided on the same record, one moves it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_pinned_writes_one_wins() {
    for back in back_ends() {
        let jobs = jobs(&back);
        let observed = created(&jobs, claimed(1, "dead")).await;
        let mut tasks = tokio::task::JoinSet::new();
        for actor in 0..50 {
            let (jobs, observed) = (jobs.clone(), observed.clone());
            tasks.spawn(async move {
                let mut next = observed.clone();
                next.lease = Some(lease(&format!("token-{actor}"), 500));
                next.claim_attempts += 1;
                jobs.write(&observed, next).await.expect("allowed").applied()
            });
        }
        let winners: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1, "{}", back.name);
        assert_eq!(read(&jobs, 1).await.as_ref(), winners.first());
    }
}

/// D8, D10: a decision on a stale read never resurrects, rebinds or clobbers.
#[tokio::test]
async fn a_stale_step_is_lost() {
    for back in back_ends() {
        let jobs = jobs(&back);
        let read_early = created(&jobs, accepted(1)).await;
        let mut over = read_early.clone();
        over.state = JobState::Settled(Settled::Completed);
        over.completed_at = Some(at(9));
        let over = jobs.write(&read_early, over).await.expect("allowed").applied().expect("ours");
        let late = step(&read_early, claimed(1, "late"));
        assert_eq!(jobs.write(&read_early, late).await.expect("allowed"), Outcome::Lost);
        assert_eq!(jobs.delete(&read_early).await.expect("allowed"), Outcome::Lost);
        assert_eq!(read(&jobs, 1).await.as_ref(), Some(&over), "{}", back.name);
        assert!(jobs.delete(&over).await.expect("allowed").is_applied());
        assert_eq!(read(&jobs, 1).await, None);
        assert_eq!(jobs.delete(&over).await.expect("allowed"), Outcome::Lost, "already gone");
        let revive = step(&over, claimed(1, "late"));
        assert_eq!(jobs.write(&over, revive).await.expect("allowed"), Outcome::Lost, "no row is made of a step");
        assert_eq!(read(&jobs, 1).await, None);
    }
}

/// D9: what was just written is what is read, on every turn.
#[tokio::test]
async fn a_read_sees_every_earlier_write() {
    for back in back_ends() {
        let jobs = jobs(&back);
        let mut job = created(&jobs, accepted(1)).await;
        for turn in 0..300 {
            let next = if turn % 2 == 0 { claimed(1, "t") } else { accepted(1) };
            job = jobs.write(&job, step(&job, next)).await.expect("allowed").applied().expect("nobody else writes");
            assert_eq!(read(&jobs, 1).await.as_ref(), Some(&job), "{}", back.name);
        }
    }
}

/// D11: what is empty is absent, so a record leaves the indexes it has no key for.
#[tokio::test]
async fn empty_index_attributes_are_never_written() {
    for back in back_ends() {
        let jobs = jobs(&back);
        let bound = created(&jobs, launched(1, "t", "i-1")).await;
        assert_eq!(jobs.by_instance(&"i-1".into()).await.expect("an answer"), std::slice::from_ref(&bound));
        let released = jobs.write(&bound, step(&bound, accepted(1))).await.expect("allowed").applied().expect("ours");
        let row = back.table.get(&JOBS, &Value::N(1)).await.expect("an answer").expect("a row");
        for name in ["instance_id", "pool", "lease_token"] {
            assert!(!row.contains_key(name), "{}: {name}", back.name);
        }
        assert!(jobs.by_instance(&"i-1".into()).await.expect("an answer").is_empty());
        assert_eq!(jobs.by_state(JobState::Requeued, None, None).await.expect("an answer"), [released]);
        assert!(jobs.by_state(JobState::Launched, None, None).await.expect("an answer").is_empty());
        assert!(matches!(jobs.by_instance(&RunnerKey::new("")).await, Err(Error::Invalid(_))));
    }
}

/// D12a: binding writes both records or neither.
#[tokio::test]
async fn a_commit_is_all_or_nothing() {
    for back in back_ends() {
        let (jobs, runners) = (jobs(&back), runners(&back));
        let job = created(&jobs, claimed(1, "t")).await;
        let bind = |job: &Job| {
            vec![
                Change::Job { old: Some(job.clone()), new: step(job, launched(1, "t", "i-1")) },
                Change::Runner { old: None, new: minting("i-1", 1) },
            ]
        };
        let done = jobs.commit(bind(&job)).await.expect("allowed").applied().expect("ours");
        assert_eq!(Some(&done.jobs[0]), read(&jobs, 1).await.as_ref(), "{}", back.name);
        let runner = runners.get(&"i-1".into()).await.expect("an answer").expect("a row");
        assert_eq!(done.runners, std::slice::from_ref(&runner));
        assert_eq!((done.jobs[0].version, runner.version), (2, 1));

        // The job has moved: the runner of another machine is not written either.
        let mut again = bind(&job);
        again[1] = Change::Runner { old: None, new: minting("i-2", 1) };
        assert_eq!(jobs.commit(again).await.expect("allowed"), Outcome::Lost);
        assert_eq!(runners.get(&"i-2".into()).await.expect("an answer"), None, "{}", back.name);

        // The machine is taken: the other job stays as it was.
        let other = created(&jobs, claimed(2, "t2")).await;
        let mut next = launched(2, "t2", "i-1");
        next.version = other.version;
        let taken = vec![
            Change::Job { old: Some(other.clone()), new: next },
            Change::Runner { old: None, new: minting("i-1", 2) },
        ];
        assert_eq!(jobs.commit(taken).await.expect("allowed"), Outcome::Lost);
        assert_eq!(read(&jobs, 2).await, Some(other), "{}", back.name);

        // A foreign runner version loses the whole transaction.
        let bound = done.jobs[0].clone();
        let mut busy = runner.clone();
        busy.advance(RunnerState::Busy);
        assert!(runners.write(Some(&runner), busy).await.expect("allowed").is_applied());
        let mut minted = runner.clone();
        minted.advance(RunnerState::Minted);
        let mut serving = bound.clone();
        serving.in_progress_at = Some(at(5));
        let stale = vec![
            Change::Job { old: Some(bound.clone()), new: serving },
            Change::Runner { old: Some(runner), new: minted },
        ];
        assert_eq!(jobs.commit(stale).await.expect("allowed"), Outcome::Lost);
        assert_eq!(read(&jobs, 1).await, Some(bound), "{}", back.name);
    }
}

#[tokio::test]
async fn a_commit_depends_on_records_it_does_not_change() {
    for back in back_ends() {
        let jobs = jobs(&back);
        let (one, two) = (created(&jobs, accepted(1)).await, created(&jobs, accepted(2)).await);
        let moved = jobs.write(&one, step(&one, claimed(1, "t"))).await.expect("allowed");
        assert!(moved.is_applied());
        let changes = vec![
            Change::Job { old: Some(one.clone()), new: one },
            Change::Job { old: Some(two.clone()), new: step(&two, claimed(2, "t")) },
        ];
        assert_eq!(jobs.commit(changes).await.expect("allowed"), Outcome::Lost);
        assert_eq!(read(&jobs, 2).await.as_ref(), Some(&two), "{}", back.name);

        let changes = vec![Change::DeleteJob(two), Change::Job { old: None, new: accepted(3) }];
        let done = jobs.commit(changes).await.expect("allowed").applied().expect("ours");
        assert_eq!(read(&jobs, 2).await, None);
        assert_eq!(read(&jobs, 3).await.as_ref(), done.jobs.first());
    }
}

/// A machine that was unwound is assigned again in its old row; a writer of the earlier assignment stays locked out.
#[tokio::test]
async fn a_gone_runner_is_replaced_without_reusing_its_versions() {
    for back in back_ends() {
        let runners = runners(&back);
        let first = runners.write(None, minting("i-1", 1)).await.expect("allowed").applied().expect("new");
        assert_eq!(runners.write(None, minting("i-1", 2)).await.expect("allowed"), Outcome::Lost, "it lives");
        let mut gone = first.clone();
        gone.advance(RunnerState::Gone);
        gone.online_at = Some(at(4));
        let gone = runners.write(Some(&first), gone).await.expect("allowed").applied().expect("ours");
        assert_eq!(runners.write(None, minting("i-1", 2)).await.expect("allowed"), Outcome::Lost, "whoever saw no row");
        let second =
            runners.write(Some(&gone), minting("i-1", 2)).await.expect("allowed").applied().expect("free again");
        assert_eq!(second, Runner { version: 3, ..minting("i-1", 2) }, "{}: nothing is left of the first", back.name);
        assert_eq!(runners.get(&"i-1".into()).await.expect("an answer").as_ref(), Some(&second));
        for stale in [first, gone] {
            let mut next = stale.clone();
            next.running_job = Some(id(9));
            assert_eq!(runners.write(Some(&stale), next).await.expect("allowed"), Outcome::Lost, "{}", back.name);
        }
    }
}

#[tokio::test]
async fn runners_of_a_state_come_oldest_first() {
    for back in back_ends() {
        let runners = runners(&back);
        for (machine, minted) in [("i-3", 30), ("i-1", 10), ("i-2", 20)] {
            let runner = Runner { minted_at: at(minted), ..minting(machine, 1) };
            assert!(runners.write(None, runner).await.expect("allowed").is_applied());
        }
        let names = async |before, limit| -> Vec<String> {
            let found = runners.in_state(RunnerState::Minting, before, limit).await.expect("an answer");
            found.iter().map(|runner| runner.key.to_string()).collect()
        };
        assert_eq!(names(None, None).await, ["i-1", "i-2", "i-3"], "{}", back.name);
        assert_eq!(names(Some(at(20)), None).await, ["i-1"]);
        assert_eq!(names(None, Some(2)).await, ["i-1", "i-2"]);
        assert!(runners.in_state(RunnerState::Busy, None, None).await.expect("an answer").is_empty());
    }
}

/// D19, D20: indexes answer completely, in order.
#[tokio::test]
async fn jobs_of_a_state_come_oldest_first_and_of_a_machine_newest_first() {
    for back in back_ends() {
        let jobs = jobs(&back);
        for number in (1..=40).rev() {
            let mut job = launched(number, "t", "i-1");
            job.created_at = at(i64::try_from(number).expect("small"));
            created(&jobs, job).await;
        }
        let numbers = |found: Vec<Job>| found.iter().map(|job| job.id.get()).collect::<Vec<_>>();
        let by_state =
            async |before, limit| numbers(jobs.by_state(JobState::Launched, before, limit).await.expect("an answer"));
        assert_eq!(by_state(None, None).await, (1..=40).collect::<Vec<_>>(), "{}", back.name);
        assert_eq!(by_state(None, Some(3)).await, [1, 2, 3]);
        assert_eq!(by_state(Some(at(5)), None).await, [1, 2, 3, 4]);
        assert_eq!(by_state(Some(at(5)), Some(2)).await, [1, 2]);
        let of_machine = jobs.by_instance(&"i-1".into()).await.expect("an answer");
        assert_eq!(numbers(of_machine), (1..=40).rev().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn listings_are_newest_first_filtered_and_paged() {
    for back in back_ends() {
        let jobs = jobs(&back);
        for number in 1..=30_u64 {
            let mut job = if number % 2 == 0 { accepted(number) } else { launched(number, "t", "i-1") };
            job.created_at = at(i64::try_from(number).expect("small"));
            let message = std::sync::Arc::make_mut(job.message.as_mut().expect("a message"));
            if number % 3 == 0 {
                message.spec.pool = "cpu".parse().ok();
            }
            if number % 5 == 0 {
                message.repo = "org/other".parse().expect("valid");
            }
            created(&jobs, job).await;
        }
        let list = async |filter: JobFilter| -> (Vec<u64>, usize) {
            let listing = jobs.list(&filter).await.expect("an answer");
            (listing.jobs.iter().map(|job| job.id.get()).collect(), listing.total)
        };
        let newest = |keep: fn(&u64) -> bool| (1..=30).rev().filter(keep).collect::<Vec<u64>>();
        let all = JobFilter::default();
        assert_eq!(list(all.clone()).await, (newest(|_| true), 30), "{}", back.name);
        let page = JobFilter { limit: 4, offset: 3, ..all.clone() };
        assert_eq!(list(page.clone()).await, (vec![27, 26, 25, 24], 30));
        assert_eq!(list(JobFilter { offset: 99, ..page }).await, (vec![], 30));
        let launched = JobFilter { states: vec![JobState::Launched], ..all.clone() };
        assert_eq!(list(launched.clone()).await, (newest(|n| n % 2 == 1), 15));
        let pool = JobFilter { pool: "cpu".parse().ok(), ..launched.clone() };
        assert_eq!(list(pool).await, (newest(|n| n % 2 == 1 && n % 3 == 0), 5));
        let repo = JobFilter { repo: "org/other".parse().ok(), limit: 2, ..launched.clone() };
        assert_eq!(list(repo).await, (vec![25, 15], 3));
        let between = JobFilter { since: Some(at(10)), until: Some(at(20)), limit: 2, ..all.clone() };
        assert_eq!(list(between.clone()).await, (vec![19, 18], 10));
        let next = JobFilter { after: Some((at(18), JobId::new(18).expect("positive"))), ..between };
        assert_eq!(list(next).await, (vec![17, 16], 10));
        let text = JobFilter { text: Some("OTHER".to_owned()), limit: 2, ..all.clone() };
        assert_eq!(list(text.clone()).await, (vec![30, 25], 6));
        let next = JobFilter { after: Some((at(25), JobId::new(25).expect("positive"))), ..text };
        assert_eq!(list(next).await, (vec![20, 15], 6));
        let machine = JobFilter { instance: Some("i-1".into()), limit: 1, offset: 1, ..all };
        assert_eq!(list(machine).await, (vec![27], 15), "{}", back.name);
    }
}

/// A status of another release: left alone, reported, and no obstacle to the others.
/// A pool's machines are busy in every state that occupies them, whether or not the rest of the row can be read.
#[tokio::test]
async fn a_pools_busy_machines_and_its_history() {
    for back in back_ends() {
        let (jobs, pool) = (jobs(&back), "cpu".parse().expect("valid"));
        let of = |mut job: Job, pool: &str| {
            if let Some(message) = job.message.as_mut().map(std::sync::Arc::make_mut) {
                message.spec.pool = pool.parse().ok();
            }
            job
        };
        let bound = |job| launched(job, "token", "i-0");
        for (number, job, name) in [
            (1, bound(1), "cpu"),
            (2, Job { state: JobState::Running, ..bound(2) }, "cpu"),
            (3, Job { state: JobState::Terminating, ..bound(3) }, "cpu"),
            (4, Job { state: JobState::Settled(Settled::Success), ..bound(4) }, "cpu"),
            (5, Job { state: JobState::Settled(Settled::Orphaned), ..bound(5) }, "cpu"),
            (6, bound(6), "other"),
            (7, accepted(7), "cpu"),
        ] {
            let instance = (number != 7).then(|| RunnerKey::from(format!("i-{number}")));
            let created_at = at(i64::from(number) * 10);
            created(&jobs, of(Job { instance, created_at, ..job }, name)).await;
        }
        let foreign = crate::row([
            ("job_id", 99_i64.into()),
            ("pool", "cpu".into()),
            ("status", "running".into()),
            ("instance_id", "i-99".into()),
        ]);
        back.restore(&JOBS, &foreign);
        let busy = jobs.busy_machines(&pool).await.expect("an answer");
        let busy: Vec<_> = busy.iter().map(RunnerKey::as_str).collect();
        assert_eq!(busy, ["i-1", "i-2", "i-3", "i-99"], "{}", back.name);
        let history = jobs.pool_history(&pool, at(20)).await.expect("an answer");
        let history: Vec<_> = history.iter().map(|job| job.id.get()).collect();
        assert_eq!(history, [2, 3, 4, 7], "{}: oldest first, without the orphan", back.name);
    }
}

#[tokio::test]
async fn an_unreadable_row_is_an_error_alone_and_skipped_among_others() {
    for back in back_ends() {
        let jobs = jobs(&back);
        let fine = created(&jobs, launched(1, "t", "i-1")).await;
        created(&jobs, launched(2, "t", "i-1")).await;
        let strange = Update::default().set("status", "hibernating");
        assert!(back.table.update(&JOBS, &Value::N(2), strange, Cond::Always).await.expect("allowed").is_applied());
        assert!(matches!(jobs.get(id(2)).await, Err(Error::Unreadable(_))), "{}", back.name);
        assert_eq!(jobs.by_instance(&"i-1".into()).await.expect("an answer"), [fine]);
    }
}

#[tokio::test]
async fn a_record_past_its_expiry_makes_room() {
    for back in back_ends() {
        let jobs = jobs(&back);
        let ttl = Some(after(back.clock.now(), Duration::from_secs(30)));
        created(&jobs, Job { ttl, ..accepted(1) }).await;
        back.clock.advance(30);
        assert_eq!(read(&jobs, 1).await, None, "{}", back.name);
        assert!(jobs.by_state(JobState::Requeued, None, None).await.expect("an answer").is_empty());
        created(&jobs, accepted(1)).await;
    }
    // On a back end that shows expired rows for a while: its clock is behind that of the caller.
    for back in back_ends() {
        let clock = TestClock::new();
        let jobs = Jobs::new(back.table.clone(), clock.clone());
        let ttl = Some(after(clock.now(), Duration::from_secs(30)));
        created(&jobs, Job { ttl, ..accepted(1) }).await;
        clock.advance(31);
        assert_eq!(read(&jobs, 1).await, None, "{}", back.name);
        assert!(jobs.by_state(JobState::Requeued, None, None).await.expect("an answer").is_empty());
        created(&jobs, accepted(1)).await;
    }
}
