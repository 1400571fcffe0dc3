//! Stories of replicas on virtual time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use db::leader::LEADER;
use db::schema::LOCKS;
use db::table::Value;
use telemetry::Metrics;
use telemetry::metrics::FencedRow;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::while_leading;

mod chaos;
mod world;

use world::{Boot, Weather, World, until};

const SECOND: Duration = Duration::from_secs(1);

/// Two replicas, of which the first leads.
async fn pair(world: &mut World) -> (Boot, Boot) {
    let first = world.start("a", 1.0);
    assert!(until(2, || first.leads()).await < SECOND, "the first attempt is made at once");
    let second = world.start("b", 1.0);
    sleep(30 * SECOND).await;
    assert!(first.leads() && !second.leads());
    (first, second)
}

#[tokio::test(start_paused = true)]
async fn a_stopped_leader_hands_over_within_a_second() {
    let mut world = World::new(1);
    let first = world.boot("a", 1.0);
    first.coordinator.start().await.unwrap();
    until(2, || first.leads()).await;
    let second = world.start("b", 1.0);
    sleep(30 * SECOND).await;
    let (term, start) = (first.term().unwrap(), Instant::now());
    first.coordinator.stop(SECOND).await;
    assert!(!first.leads() && term.check().is_err());
    let took = until(2, || second.leads()).await;
    assert!(start.elapsed() < SECOND, "{took:?}");
    assert!(second.term().unwrap().token() > term.token());
    assert!(second.metrics.render().contains("runs_fleet_leader 1"));
    let stopped = first.metrics.render();
    assert!(stopped.contains("runs_fleet_leader 0") && !stopped.contains("runs_fleet_leader_token"), "{stopped}");
    assert!(stopped.contains(r#"leader_transitions_total{reason="released"} 1"#), "{stopped}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_missed_for_about_a_minute() {
    let mut world = World::new(2);
    let (first, second) = pair(&mut world).await;
    drop(first);
    let took = until(70, || second.leads()).await;
    // It renewed last up to twenty-one seconds before it died.
    assert!((40 * SECOND..63_600 * SECOND / 1000).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn belief_ends_without_the_election_s_help() {
    let mut world = World::new(3);
    let (first, second) = pair(&mut world).await;
    let term = first.term().unwrap();
    let lasted = Arc::new(Mutex::new(None));
    let (waiting, noted, start) = (term.clone(), Arc::clone(&lasted), Instant::now());
    let lost = async move {
        waiting.lost().await;
        *noted.lock().unwrap() = Some(start.elapsed());
    };
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(lost);
    first.gate.freeze();
    let took = until(55, || !first.leads()).await;
    assert!((29 * SECOND..=50 * SECOND).contains(&took), "{took:?}");
    assert!(term.check().is_err() && !term.lasts(Duration::ZERO));
    sleep(Duration::from_millis(20)).await;
    assert!(lasted.lock().unwrap().is_some(), "who waits for the end is told");
    assert!(!second.leads(), "and nobody leads yet");
    until(15, || second.leads()).await;
    sleep(240 * SECOND).await;
    first.gate.thaw();
    sleep(5 * SECOND).await;
    assert!(!first.leads() && second.leads(), "whoever slept for minutes follows");
    assert_eq!(*world.journal.broken.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_short_pause_changes_nothing() {
    let mut world = World::new(4);
    let (first, second) = pair(&mut world).await;
    let token = first.term().unwrap().token();
    // The lease was renewed nine to eleven seconds ago.
    first.gate.freeze();
    sleep(25 * SECOND).await;
    first.gate.thaw();
    sleep(100 * SECOND).await;
    assert!(!second.leads());
    assert_eq!(first.term().unwrap().token(), token);
}

#[tokio::test(start_paused = true)]
async fn equal_names_are_different_replicas() {
    let mut world = World::new(5);
    let first = world.start("runs-fleet", 1.0);
    until(2, || first.leads()).await;
    let second = world.start("runs-fleet", 1.0);
    first.gate.freeze();
    until(70, || second.leads()).await;
    first.gate.thaw();
    for _ in 0..3_000 {
        sleep(Duration::from_millis(100)).await;
        assert!(!first.leads() && second.leads());
    }
}

#[tokio::test(start_paused = true)]
async fn a_term_whose_beginning_was_not_answered_is_taken_again() {
    let mut world = World::new(6);
    let first = world.start("a", 1.0);
    *first.link.weather.lock().unwrap() = Weather::Deaf;
    sleep(3 * SECOND).await;
    assert!(!first.leads());
    *first.link.weather.lock().unwrap() = Weather::Slow(Duration::ZERO, 6 * SECOND);
    sleep(20 * SECOND).await;
    assert!(!first.leads(), "nor is what takes longer than one waits");
    *first.link.weather.lock().unwrap() = Weather::Fair;
    until(35, || first.leads()).await;
    assert_eq!(*world.journal.broken.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn one_cut_off_from_the_store_stops_to_lead_and_another_takes_over() {
    let mut world = World::new(7);
    let (first, second) = pair(&mut world).await;
    *first.link.weather.lock().unwrap() = Weather::Cut;
    let ended = until(55, || !first.leads()).await;
    let taken = until(40, || second.leads()).await;
    assert!(ended <= 50 * SECOND && taken >= 11 * SECOND, "{ended:?}, then {taken:?}");
    assert!(first.metrics.render().contains(r#"reason="lapsed"} 1"#));
    *first.link.weather.lock().unwrap() = Weather::Fair;
    sleep(100 * SECOND).await;
    assert!(second.leads() && !first.leads());
}

#[tokio::test(start_paused = true)]
async fn wall_clocks_decide_nothing() {
    let mut world = World::new(8);
    let (first, second) = pair(&mut world).await;
    let token = first.term().unwrap().token();
    for ahead in [3600, -3600] {
        first.wall.set_ahead(ahead);
        sleep(if ahead > 0 { 200 * SECOND } else { 10 * SECOND }).await;
        assert!(first.leads() && !second.leads(), "{ahead} s");
    }
    assert_eq!(first.term().unwrap().token(), token);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_row_is_made_again_with_a_larger_token() {
    let mut world = World::new(9);
    let (first, second) = pair(&mut world).await;
    let token = first.term().unwrap().token();
    world.memory.forget(&LOCKS, &Value::from(LEADER)).unwrap();
    sleep(25 * SECOND).await;
    assert!(second.leads() && !first.leads(), "the first was refused its renewal");
    assert!(second.term().unwrap().token() > token);
    assert!(first.metrics.render().contains(r#"reason="deposed"} 1"#));
}

#[tokio::test(start_paused = true)]
async fn one_that_resigns_lets_another_try() {
    let mut world = World::new(10);
    let (first, second) = pair(&mut world).await;
    let term = first.term().unwrap();
    term.resign();
    assert!(term.check().is_err(), "at once");
    assert!(until(2, || second.leads()).await < SECOND);
    drop(second);
    sleep(55 * SECOND).await;
    assert!(!first.leads());
    assert!(until(20, || first.leads()).await > Duration::ZERO, "then it does what it can");

    // Alone it comes back after a minute.
    first.term().unwrap().resign();
    let took = until(70, || first.leads()).await;
    assert!((60 * SECOND..62 * SECOND).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_fence_ends_the_term() {
    let mut world = World::new(11);
    let (first, _second) = pair(&mut world).await;
    let term = first.term().unwrap();
    term.rejected(FencedRow::Task);
    assert!(term.check().is_err());
    sleep(SECOND).await;
    let metrics = first.metrics.render();
    assert!(metrics.contains(r#"leader_fence_rejections_total{row="task"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"reason="deposed"} 1"#), "{metrics}");
    assert!(first.term().is_none_or(|new| new.token() > term.token()), "it may only come back with a larger token");
}

#[tokio::test(start_paused = true)]
async fn stopping_is_always_possible() {
    let mut world = World::new(12);
    let boot = world.boot("a", 1.0);
    boot.coordinator.stop(SECOND).await;
    boot.coordinator.start().await.unwrap();
    sleep(2 * SECOND).await;
    assert!(!boot.leads(), "stopped before the start");

    let boot = world.boot("b", 1.0);
    boot.coordinator.start().await.unwrap();
    boot.coordinator.start().await.unwrap();
    until(2, || boot.leads()).await;
    *boot.link.weather.lock().unwrap() = Weather::Cut;
    let start = Instant::now();
    boot.coordinator.stop(Duration::ZERO).await;
    assert!(start.elapsed() <= Duration::from_millis(1));
    boot.coordinator.stop(5 * SECOND).await;
    assert!(start.elapsed() <= Duration::from_millis(801), "gives up giving up: {:?}", start.elapsed());
    boot.coordinator.stop(SECOND).await;
    assert!(!boot.leads());

    let boot = world.start("c", 1.0);
    until(70, || boot.leads()).await;
    drop(boot.coordinator);
}

/// The lease is given up even when the first attempt is not answered, and no renewal revives it.
#[tokio::test(start_paused = true)]
async fn a_lease_given_up_stays_given_up() {
    let mut world = World::new(13);
    let boot = world.start("a", 1.0);
    until(2, || boot.leads()).await;
    *boot.link.weather.lock().unwrap() = Weather::Slow(3 * SECOND, Duration::ZERO);
    sleep(21 * SECOND).await;
    // A renewal is on its way for up to three seconds now.
    *boot.link.weather.lock().unwrap() = Weather::Fair;
    boot.coordinator.stop(SECOND).await;
    sleep(10 * SECOND).await;
    assert_eq!(world.row().await["expires_at"], Value::N(0));
}

#[tokio::test(start_paused = true)]
async fn who_cannot_read_the_lease_does_not_start() {
    use db::table::{Cond, Error, Item, Outcome, Query, Schema, Table, Update, Write};
    struct NoTable;
    #[async_trait::async_trait]
    impl Table for NoTable {
        async fn get(&self, _: &'static Schema, _: &Value) -> Result<Option<Item>, Error> {
            Err(Error::Missing("there is no table".into()))
        }
        async fn put(&self, _: &'static Schema, _: Item, _: Cond) -> Result<Outcome, Error> {
            unreachable!()
        }
        async fn update(&self, _: &'static Schema, _: &Value, _: Update, _: Cond) -> Result<Outcome<Item>, Error> {
            unreachable!()
        }
        async fn delete(&self, _: &'static Schema, _: &Value, _: Cond) -> Result<Outcome, Error> {
            unreachable!()
        }
        async fn query(&self, _: &'static Schema, _: Query) -> Result<Vec<Item>, Error> {
            unreachable!()
        }
        async fn scan(&self, _: &'static Schema) -> Result<Vec<Item>, Error> {
            unreachable!()
        }
        async fn transact(&self, _: Vec<Write>) -> Result<Outcome, Error> {
            unreachable!()
        }
    }
    let parts = Parts {
        table: Arc::new(NoTable),
        clock: Arc::new(domain::clock::SystemClock),
        mono: Arc::new(crate::BootClock),
        rng: Arc::new(domain::clock::SystemRng),
        metrics: Metrics::new(),
    };
    let settings =
        Settings { name: "a".into(), host: "host".into(), version: "1".into(), timings: Timings::PRODUCTION };
    let error = Coordinator::elected(settings, parts).start().await.unwrap_err();
    assert_eq!(error.to_string(), "the leader lease cannot be read: there is no table");
}

#[tokio::test(start_paused = true)]
async fn alone_it_always_leads() {
    let metrics = Metrics::new();
    let coordinator = Coordinator::alone(Arc::new(domain::clock::SystemClock), metrics.clone());
    for _ in 0..2 {
        coordinator.start().await.unwrap();
        assert!(coordinator.is_leader());
        coordinator.stop(Duration::ZERO).await;
        assert!(coordinator.is_leader());
    }
    let term = coordinator.leadership().latest().unwrap();
    assert!(term.check().is_ok() && term.lasts(Duration::from_secs(1 << 30)));
    assert!(term.fence().token() >= term.token() && term.token() > 1_700_000_000_000, "epoch milliseconds");
    term.rejected(FencedRow::Pool);
    term.resign();
    assert!(term.check().is_ok(), "nobody else would do the work");
    assert!(metrics.render().contains("runs_fleet_leader 1"));

    let (stop, runs) = (CancellationToken::new(), AtomicUsize::new(0));
    let work = while_leading(&coordinator, stop.clone(), |term| {
        runs.fetch_add(1, Ordering::SeqCst);
        async move { term.lost().await }
    });
    let stopping = async {
        sleep(SECOND).await;
        stop.cancel();
    };
    timeout(2 * SECOND, async { tokio::join!(work, stopping) }).await.expect("a stop ends the work");
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn work_runs_once_per_term_and_ends_with_it() {
    let mut world = World::new(14);
    let boot = world.start("a", 1.0);
    let log = Mutex::new(Vec::new());
    let stop = CancellationToken::new();
    let work = while_leading(&boot.coordinator, stop.clone(), |term| {
        log.lock().unwrap().push(("begins", term.token()));
        let (log, short) = (&log, log.lock().unwrap().len() > 2);
        async move {
            if !short {
                term.lost().await;
                // The step it is in.
                sleep(10 * SECOND).await;
            }
            log.lock().unwrap().push(("ends", term.token()));
        }
    });
    let story = async {
        until(2, || boot.leads()).await;
        sleep(30 * SECOND).await;
        boot.term().unwrap().resign();
        until(70, || boot.leads()).await;
        sleep(30 * SECOND).await;
        assert_eq!(log.lock().unwrap().len(), 4, "work that ended by itself is not run again in its term");
        stop.cancel();
    };
    tokio::join!(work, story);
    let log = log.into_inner().unwrap();
    assert_eq!(log.iter().map(|(what, _)| *what).collect::<Vec<_>>(), ["begins", "ends", "begins", "ends"]);
    assert!(log[0].1 == log[1].1 && log[1].1 < log[2].1 && log[2].1 == log[3].1);
}

#[tokio::test(start_paused = true)]
async fn work_that_does_not_end_is_dropped() {
    let mut world = World::new(15);
    let boot = world.start("a", 1.0);
    let stop = CancellationToken::new();
    let start = Instant::now();
    let work = while_leading(&boot.coordinator, stop.clone(), |_| std::future::pending());
    let stopping = async {
        sleep(10 * SECOND).await;
        stop.cancel();
    };
    tokio::join!(work, stopping);
    assert!((70 * SECOND..71 * SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());
}

/// Else a fleet would be led by a replica that does nothing.
#[tokio::test(start_paused = true)]
async fn work_that_panics_gives_its_term_up_and_is_run_again() {
    let mut world = World::new(16);
    let boot = world.start("a", 1.0);
    let alone = Coordinator::alone(Arc::new(domain::clock::SystemClock), Metrics::new());
    for coordinator in [&*boot.coordinator, &alone] {
        let (stop, runs, start) = (CancellationToken::new(), AtomicUsize::new(0), Instant::now());
        let work = while_leading(coordinator, stop.clone(), |term| {
            let run = runs.fetch_add(1, Ordering::SeqCst);
            async move {
                assert!(run > 0, "the first run panics");
                term.lost().await;
            }
        });
        let story = async {
            until(70, || runs.load(Ordering::SeqCst) == 2).await;
            stop.cancel();
        };
        tokio::join!(work, story);
        assert!((59 * SECOND..63 * SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());
    }
    assert!(boot.metrics.render().contains(r#"reason="voluntary"} 1"#));
}
