//! The small rows of the pools table: pools, claims, locks, markers.

use std::time::Duration;

use db::claims::{Action, Holder};
use db::locks::{Held, PoolLock};
use db::pools::{Created, Health, Observed, Pool, PoolConfig, Report, Schedule, Tuning};
use db::schema::POOLS;
use db::table::{Cond, Outcome, Update, Value};
use db::{Claims, Error, Fence, Locks, Markers, Pools};
use domain::clock::Clock;
use domain::ids::{JobId, PoolName, Repo, RunId, RunnerId, RunnerKey};
use domain::testing::at;

use crate::{BackEnd, TestClock, back_ends};

const MINUTE: Duration = Duration::from_secs(60);

fn pools(back: &BackEnd) -> Pools {
    Pools::new(back.table.clone(), back.clock())
}
fn claims(back: &BackEnd) -> Claims {
    Claims::new(back.table.clone(), back.clock())
}
fn locks(back: &BackEnd) -> Locks {
    Locks::new(back.table.clone(), back.clock())
}
fn markers(back: &BackEnd) -> Markers {
    Markers::new(back.table.clone(), back.clock())
}
fn name(text: &str) -> PoolName {
    text.parse().expect("valid")
}
fn job(id: u64) -> Holder<'static> {
    Holder::Job(JobId::new(id).expect("positive"))
}

fn config() -> PoolConfig {
    PoolConfig {
        instance_type: "c8g.large".into(),
        desired_running: 1,
        desired_stopped: 2,
        idle_timeout_minutes: 15,
        schedules: vec![Schedule {
            name: "day".into(),
            start_hour: 8,
            end_hour: 24,
            days_of_week: vec![1, 5],
            desired_running: 3,
            desired_stopped: 4,
        }],
        arch: domain::launch::Arch::parse("arm64"),
        cpu_min: 2,
        cpu_max: 4,
        ram_min: 3.5,
        ram_max: 8.0,
        families: vec!["c8g".into()],
        gen_: 8,
        private: true,
        multi_spec: true,
        override_linger_minutes: Some(0),
        override_max_hot: Some(2),
        environment: "dev".into(),
        region: "eu-west-1".into(),
    }
}

async fn lock(back: &BackEnd, pool: &PoolName, owner: &str) -> (Held, Pool) {
    match locks(back).pool(pool, owner, MINUTE).await.expect("an answer") {
        PoolLock::Acquired(held, pool) => (held, pool),
        other => panic!("{}: {other:?}", back.name),
    }
}

async fn stored(back: &BackEnd, pool: &PoolName) -> Option<Pool> {
    pools(back).get(pool).await.expect("an answer")
}

/// D22: every group of attributes has one writer.
#[tokio::test]
async fn saving_a_pool_leaves_what_others_wrote() {
    for back in back_ends() {
        let (pools, pool) = (pools(&back), name("cpu"));
        assert_eq!(pools.save(&pool, &config()).await.expect("allowed"), Outcome::Lost, "there is none yet");
        assert!(pools.create(&pool, &config()).await.expect("allowed").is_applied());
        assert_eq!(pools.create(&pool, &config()).await.expect("allowed"), Outcome::Lost, "{}", back.name);
        assert_eq!(stored(&back, &pool).await.expect("a pool").config, config(), "{}", back.name);
        let observed = Observed { running: 1, stopped: 0, effective_running: Some(0), effective_stopped: None };
        assert!(pools.touch(&pool).await.expect("allowed").is_applied());
        let (held, _) = lock(&back, &pool, "me").await;
        let report = Report {
            result: Some("é".repeat(400)),
            observed: Some(observed),
            created: Some(Created { at: Some(back.clock.now()), keys: vec!["i-1".into()] }),
            health: Some(Health { failures: 3, retry_at: Some(at(60)) }),
        };
        assert!(pools.finish(&pool, &held, None, &report).await.expect("allowed").is_applied());
        let tuning = Tuning {
            linger_minutes: 5,
            max_hot: 2,
            window_days: 7,
            jobs: 40,
            bursts: 3,
            p90_gap_seconds: 250,
            peak: 4,
            reason: "tuned".to_owned(),
            at: at(0),
        };
        assert!(pools.tune(&pool, &tuning, Some(Fence::new(7))).await.expect("allowed").is_applied());
        let key = Value::from("cpu");
        let foreign = Update::default().set("of_another_release", 1_i64);
        assert!(back.table.update(&POOLS, &key, foreign, Cond::Always).await.expect("allowed").is_applied());
        let (held, seen) = lock(&back, &pool, "me").await;
        assert_eq!(seen.config, config());

        // A cleared override is absent, a zero one is zero.
        let cleared = PoolConfig { override_linger_minutes: None, override_max_hot: Some(0), ..PoolConfig::default() };
        assert!(pools.save(&pool, &cleared).await.expect("allowed").is_applied());
        let found = stored(&back, &pool).await.expect("a pool");
        assert_eq!(found.config, cleared, "{}", back.name);
        assert_eq!((found.observed, found.last_job_time), (Some(observed), Some(back.clock.now())));
        assert_eq!(found.last_reconcile_result.as_ref().map(|result| result.chars().count()), Some(300));
        assert_eq!((Some(found.created), Some(found.health)), (report.created, report.health), "{}", back.name);
        assert_eq!(found.tuning, Some(tuning), "{}", back.name);
        let item = back.table.get(&POOLS, &key).await.expect("an answer").expect("a row");
        assert!(item.contains_key("of_another_release"), "{}", back.name);
        assert!(locks(&back).refresh_pool(&pool, &held, MINUTE).await.expect("allowed").is_applied(), "still ours");
        assert!(pools.mend(&pool).await.expect("allowed").is_applied());
        assert_eq!(stored(&back, &pool).await.expect("a pool").health, Health::default());
    }
}

/// What a pass reports is written by the holder of the lock and by the newest leader, and gives the lock back.
#[tokio::test]
async fn only_the_holder_of_the_lock_reports() {
    for back in back_ends() {
        let (pools, pool) = (pools(&back), name("cpu"));
        assert!(pools.create(&pool, &config()).await.expect("allowed").is_applied());
        let result = |text: &str| Report { result: Some(text.to_owned()), ..Report::default() };
        let (first, _) = lock(&back, &pool, "a").await;
        back.clock.advance(66);
        let (second, _) = lock(&back, &pool, "b").await;
        let late = pools.finish(&pool, &first, None, &result("late")).await;
        assert_eq!(late.expect("allowed"), Outcome::Lost, "{}", back.name);
        assert!(pools.finish(&pool, &second, Some(Fence::new(5)), &result("new")).await.expect("allowed").is_applied());
        let (third, _) = lock(&back, &pool, "c").await;
        let deposed = pools.finish(&pool, &third, Some(Fence::new(4)), &result("deposed")).await;
        assert_eq!(deposed.expect("allowed"), Outcome::Lost, "{}", back.name);
        assert!(pools.finish(&pool, &third, Some(Fence::new(5)), &Report::default()).await.expect("ok").is_applied());
        assert_eq!(stored(&back, &pool).await.expect("a pool").last_reconcile_result.as_deref(), Some("new"));
        let fence = Fence::new(4);
        let tuning = Tuning {
            linger_minutes: 0,
            max_hot: 0,
            window_days: 7,
            jobs: 0,
            bursts: 0,
            p90_gap_seconds: 0,
            peak: 0,
            reason: "late".to_owned(),
            at: at(0),
        };
        assert_eq!(pools.tune(&pool, &tuning, Some(fence)).await.expect("allowed"), Outcome::Lost, "{}", back.name);
    }
}

/// D23, D24: no operation makes half a pool; an operator's pool stays unless it is empty and that is insisted on.
#[tokio::test]
async fn ephemeral_pools_are_made_once_and_only_they_are_deleted() {
    for back in back_ends() {
        let (pools, pool) = (pools(&back), name("cpu"));
        for lost in [pools.touch(&pool).await, pools.save(&pool, &config()).await, pools.mend(&pool).await] {
            assert_eq!(lost.expect("allowed"), Outcome::Lost, "{}: no operation makes half a pool", back.name);
        }
        assert!(pools.create_ephemeral(&pool, &config()).await.expect("allowed").is_applied());
        assert_eq!(pools.create_ephemeral(&pool, &config()).await.expect("allowed"), Outcome::Lost);
        assert_eq!(pools.touch(&pool).await.expect("allowed"), Outcome::Lost, "not older");
        back.clock.advance(1);
        assert!(pools.touch(&pool).await.expect("allowed").is_applied());
        let (held, seen) = lock(&back, &pool, "me").await;
        let begun = pools.begin_deletion(&pool, &held, seen.last_job_time, false).await.expect("allowed");
        let deletion = begun.applied().expect("unused");
        assert!(stored(&back, &pool).await.expect("a pool").deleting_at.is_some());
        assert!(pools.delete(&pool, &held, &deletion).await.expect("allowed").is_applied());
        assert_eq!(stored(&back, &pool).await, None, "{}", back.name);

        assert!(pools.create(&pool, &config()).await.expect("allowed").is_applied());
        let (held, _) = lock(&back, &pool, "me").await;
        for forced in [false, true] {
            let begun = pools.begin_deletion(&pool, &held, None, forced).await.expect("allowed");
            assert_eq!(begun, Outcome::Lost, "{}: an operator's, and it has targets", back.name);
        }
        assert!(pools.save(&pool, &PoolConfig::default()).await.expect("allowed").is_applied());
        let begun = pools.begin_deletion(&pool, &held, None, true).await.expect("allowed");
        let deletion = begun.applied().expect("empty");
        assert!(pools.save(&pool, &PoolConfig::default()).await.expect("allowed").is_applied());
        assert_eq!(
            pools.delete(&pool, &held, &deletion).await.expect("ok"),
            Outcome::Lost,
            "somebody wants to keep it"
        );
    }
    assert!("__task_lock:x".parse::<PoolName>().is_err(), "a reserved key is no pool name");
}

/// A job that names a pool while it is being removed keeps it.
#[tokio::test]
async fn a_job_keeps_its_pool() {
    for back in back_ends() {
        let (pools, pool) = (pools(&back), name("cpu"));
        assert!(pools.create_ephemeral(&pool, &config()).await.expect("allowed").is_applied());
        let (held, seen) = lock(&back, &pool, "me").await;
        let begin = async |last| pools.begin_deletion(&pool, &held, last, false).await.expect("allowed").applied();
        back.clock.advance(1);
        assert!(pools.touch(&pool).await.expect("allowed").is_applied());
        assert_eq!(begin(seen.last_job_time).await, None, "{}: used since it was read", back.name);
        let last = stored(&back, &pool).await.expect("a pool").last_job_time;
        let deletion = begin(last).await.expect("unused");
        // Within the same second: the time alone would not tell.
        assert!(pools.touch(&pool).await.expect("allowed").is_applied());
        assert_eq!(pools.delete(&pool, &held, &deletion).await.expect("allowed"), Outcome::Lost, "{}", back.name);
        assert_eq!(stored(&back, &pool).await.expect("a pool").deleting_at, None);
        let deletion = begin(last).await.expect("unused");
        pools.abandon_deletion(&pool, &deletion).await.expect("allowed");
        assert_eq!(pools.delete(&pool, &held, &deletion).await.expect("allowed"), Outcome::Lost, "{}", back.name);
        let deletion = begin(last).await.expect("unused");
        back.clock.advance(66);
        let (other, _) = lock(&back, &pool, "other").await;
        assert_eq!(pools.delete(&pool, &held, &deletion).await.expect("allowed"), Outcome::Lost, "not our lock");
        assert!(pools.delete(&pool, &other, &deletion).await.expect("allowed").is_applied(), "{}", back.name);
    }
}

/// D31: whatever else lives in the table, pools and only pools are listed.
#[tokio::test]
async fn listings_show_pools_and_only_pools() {
    for back in back_ends() {
        let (pools, repo) = (pools(&back), "org/repo".parse::<Repo>().expect("valid"));
        for pool in ["a", "b", "c"] {
            assert!(pools.create(&name(pool), &config()).await.expect("allowed").is_applied());
        }
        for number in 0..500 {
            let machine = RunnerKey::from(format!("i-{number}"));
            assert!(claims(&back).claim(&machine, job(1), MINUTE).await.expect("allowed").is_applied());
        }
        assert!(locks(&back).task("sweep", "me", MINUTE).await.expect("allowed").is_applied());
        let markers = markers(&back);
        markers.ask_rerun(RunId::new(1).expect("positive"), "build", 1).await.expect("allowed");
        markers.saw_job_of(&repo).await.expect("allowed");
        assert!(markers.pass("redelivery", at(0)).await.expect("allowed").is_applied());
        assert_eq!(
            markers.offline_seen(&repo, RunnerId::new(1).expect("positive")).await.expect("allowed").as_secs(),
            0
        );
        let names: Vec<_> =
            pools.list().await.expect("an answer").into_iter().map(|pool| pool.name.to_string()).collect();
        assert_eq!(names, ["a", "b", "c"], "{}", back.name);
    }
}

/// D26, D27.
#[tokio::test]
async fn a_machine_has_one_holder() {
    for back in back_ends() {
        let (claims, machine) = (claims(&back), RunnerKey::from("i-1"));
        let action = |owner| Holder::Action { action: Action::Retire, owner };
        let claim = async |holder| claims.claim(&machine, holder, MINUTE).await.expect("allowed").is_applied();
        assert!(!claims.is_claimed(&machine).await.expect("an answer"));
        assert!(claim(job(1)).await);
        assert!(claims.is_claimed(&machine).await.expect("an answer"), "{}", back.name);
        assert!(!claim(job(2)).await && !claim(action("a")).await, "{}", back.name);
        back.clock.advance(50);
        assert!(claim(job(1)).await, "the same job extends its claim");
        back.clock.advance(50);
        assert!(!claim(job(2)).await, "{}: it was extended", back.name);
        claims.release(&machine, job(2)).await.expect("allowed");
        assert!(claims.is_claimed(&machine).await.expect("an answer"), "not theirs to release");
        back.clock.advance(16);
        assert!(!claims.is_claimed(&machine).await.expect("an answer"), "{}", back.name);
        assert!(claim(action("a")).await, "expired and 5 s over");
        assert!(!claim(action("a")).await && !claim(job(1)).await, "{}: never re-entrant", back.name);
        claims.release(&machine, job(1)).await.expect("allowed");
        assert!(claims.is_claimed(&machine).await.expect("an answer"));
        claims.release(&machine, action("a")).await.expect("allowed");
        assert!(!claims.is_claimed(&machine).await.expect("an answer"));
        assert!(claim(job(2)).await, "{}", back.name);
        let many: Vec<RunnerKey> = (0..3).map(|number| RunnerKey::from(format!("i-{number}"))).collect();
        assert_eq!(claims.claimed(&many).await.expect("an answer"), [machine.clone()].into(), "{}", back.name);

        let malformed = Update::default().set("claim_expiry", "soon");
        let key = Value::from("__instance_claim:i-1");
        assert!(back.table.update(&POOLS, &key, malformed, Cond::Always).await.expect("allowed").is_applied());
        assert!(claims.is_claimed(&machine).await.expect("an answer"), "unreadable counts as held");
        assert_eq!(claims.claimed(&many).await.expect("an answer"), [machine.clone()].into(), "{}", back.name);
        assert!(!claim(job(3)).await, "{}", back.name);
        assert!(matches!(claims.claim(&RunnerKey::new(""), job(1), MINUTE).await, Err(Error::Invalid(_))));
        assert!(matches!(claims.claim(&machine, job(1), Duration::ZERO).await, Err(Error::Invalid(_))));
    }
}

/// D28, on a back end that shows expired rows for a while: its clock is behind that of the caller.
#[tokio::test]
async fn reaping_removes_what_expired_and_spares_what_lives() {
    for back in back_ends() {
        let clock = TestClock::new();
        let claims = Claims::new(back.table.clone(), clock.clone());
        for (machine, ttl) in [("i-1", 10), ("i-2", 100)] {
            let claimed = claims.claim(&machine.into(), job(1), Duration::from_secs(ttl)).await;
            assert!(claimed.expect("allowed").is_applied());
        }
        clock.advance(50);
        assert!(!claims.is_claimed(&"i-1".into()).await.expect("an answer"), "{}: shown, but expired", back.name);
        assert_eq!(claims.reap().await.expect("allowed"), 1, "{}", back.name);
        assert_eq!(claims.reap().await.expect("allowed"), 0);
        assert_eq!(back.table.scan(&POOLS).await.expect("an answer").len(), 1);
        assert!(claims.is_claimed(&"i-2".into()).await.expect("an answer"), "{}", back.name);
    }
}

/// D25.
#[tokio::test]
async fn a_lock_has_one_holder() {
    for back in back_ends() {
        let (locks, pool) = (locks(&back), name("cpu"));
        let first = locks.task("sweep", "a", MINUTE).await.expect("allowed").applied().expect("free");
        assert_eq!(locks.task("sweep", "a", MINUTE).await.expect("allowed"), Outcome::Lost, "not re-entrant");
        assert!(locks.task("other", "a", MINUTE).await.expect("allowed").is_applied());
        back.clock.advance(64);
        assert_eq!(locks.task("sweep", "b", MINUTE).await.expect("allowed"), Outcome::Lost, "clocks differ");
        back.clock.advance(2);
        let second = locks.task("sweep", "b", MINUTE).await.expect("allowed").applied().expect("expired");
        assert!(second.token() > first.token(), "{}", back.name);
        locks.release_task("sweep", &first).await.expect("not ours is fine");
        assert_eq!(locks.refresh_task("sweep", &first, MINUTE).await.expect("allowed"), Outcome::Lost);
        assert_eq!(locks.task("sweep", "c", MINUTE).await.expect("allowed"), Outcome::Lost, "{}", back.name);
        assert!(locks.refresh_task("sweep", &second, 2 * MINUTE).await.expect("allowed").is_applied());
        back.clock.advance(100);
        assert_eq!(locks.task("sweep", "c", MINUTE).await.expect("allowed"), Outcome::Lost, "refreshed");
        locks.release_task("sweep", &second).await.expect("allowed");
        let third = locks.task("sweep", "c", MINUTE).await.expect("allowed").applied().expect("released");
        assert!(third.token() > second.token(), "{}: tokens never come back", back.name);

        assert_eq!(locks.pool(&pool, "a", MINUTE).await.expect("an answer"), PoolLock::NotFound);
        assert_eq!(pools(&back).get(&pool).await.expect("an answer"), None, "a lock makes no pool");
        assert!(pools(&back).create(&pool, &config()).await.expect("allowed").is_applied());
        let PoolLock::Acquired(held, _) = locks.pool(&pool, "a", MINUTE).await.expect("an answer") else {
            panic!("{}: nobody holds it", back.name);
        };
        assert_eq!(locks.pool(&pool, "a", MINUTE).await.expect("an answer"), PoolLock::Held);
        locks.release_pool(&pool, &held).await.expect("allowed");
        assert!(matches!(locks.pool(&pool, "b", MINUTE).await.expect("an answer"), PoolLock::Acquired(..)));
    }
}

/// D29: the first sighting stays the first, whoever looks.
#[tokio::test]
async fn the_first_sighting_counts() {
    for back in back_ends() {
        let (repo, runner) = ("org/repo".parse::<Repo>().expect("valid"), RunnerId::new(3).expect("positive"));
        for sweep in 0..100 {
            let age = markers(&back).offline_seen(&repo, runner).await.expect("allowed");
            assert_eq!(age, Duration::from_secs(sweep * 60), "{}", back.name);
            back.clock.advance(60);
        }
        markers(&back).offline_forget(&repo, runner).await.expect("allowed");
        assert_eq!(markers(&back).offline_seen(&repo, runner).await.expect("allowed"), Duration::ZERO);
    }
}

#[tokio::test]
async fn a_rerun_we_asked_for_is_known_by_run_name_and_attempt() {
    for back in back_ends() {
        let (markers, run) = (markers(&back), RunId::new(77).expect("positive"));
        let ours =
            async |run, job_name: &str, attempt| markers.is_our_rerun(run, job_name, attempt).await.expect("an answer");
        assert!(!ours(run, "build", 2).await);
        markers.ask_rerun(run, "build", 1).await.expect("allowed");
        assert!(ours(run, "build", 2).await && ours(run, "build", 3).await, "{}", back.name);
        assert!(!ours(run, "build", 1).await, "the lost attempt itself");
        assert!(!ours(run, "test", 2).await);
        assert!(!ours(RunId::new(78).expect("positive"), "build", 2).await);
        back.clock.advance(48 * 3600);
        assert!(!ours(run, "build", 2).await, "{}: long over", back.name);
    }
}

#[tokio::test]
async fn active_repositories_are_remembered_for_a_week() {
    for back in back_ends() {
        let markers = markers(&back);
        let (one, two) = ("org/one".parse::<Repo>().expect("valid"), "org/two".parse::<Repo>().expect("valid"));
        markers.saw_job_of(&one).await.expect("allowed");
        back.clock.advance(3600);
        markers.saw_job_of(&two).await.expect("allowed");
        let active = async |minutes: u32| markers.active_repos(minutes * MINUTE).await.expect("an answer");
        assert_eq!(active(61).await, [one.clone(), two.clone()].into(), "{}", back.name);
        assert_eq!(active(30).await, [two.clone()].into());
        back.clock.advance(7 * 24 * 3600 - 3600);
        assert_eq!(active(u32::MAX).await, [two].into(), "{}", back.name);
    }
}

#[tokio::test]
async fn a_pass_never_moves_backwards() {
    for back in back_ends() {
        let markers = markers(&back);
        assert_eq!(markers.passed("redelivery").await.expect("an answer"), None);
        assert!(markers.pass("redelivery", at(10)).await.expect("allowed").is_applied());
        assert_eq!(markers.pass("redelivery", at(9)).await.expect("allowed"), Outcome::Lost);
        assert_eq!(markers.passed("redelivery").await.expect("an answer"), Some(at(10)), "{}", back.name);
        assert!(markers.pass("redelivery", at(11)).await.expect("allowed").is_applied());
    }
}
