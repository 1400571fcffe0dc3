use db::pools::{Observed, PoolConfig, Schedule, Tuning};
use domain::testing::at;

use super::*;
use crate::testing::pool;

const CAPS: HotPoolCaps = HotPoolCaps {
    max_linger_minutes: 30,
    max_hot: 3,
    min_jobs_to_activate: 20,
    lookback_days: 7,
    burst_gap_minutes: 20,
};

fn target(pool: &Pool, p90: Option<u32>, caps: Option<&HotPoolCaps>) -> (u32, u32, bool) {
    let found = effective(pool, p90, caps, &TimeZone::UTC, at(36_000));
    (found.running, found.stopped, found.lingering)
}

#[test]
fn an_operators_pool_follows_its_schedule_then_its_configuration() {
    let entry = |start_hour, end_hour| Schedule {
        start_hour,
        end_hour,
        desired_running: 5,
        desired_stopped: 6,
        ..Schedule::default()
    };
    let with = |schedules| {
        let config = PoolConfig { desired_running: 1, desired_stopped: 2, schedules, ..PoolConfig::default() };
        Pool { config, ..pool("cpu") }
    };
    assert_eq!(target(&with(vec![]), None, None), (1, 2, false));
    assert_eq!(target(&with(vec![entry(10, 12)]), Some(40), None), (5, 6, false));
    assert_eq!(target(&with(vec![entry(12, 10)]), None, None), (1, 2, false));
}

#[test]
fn an_ephemeral_pool_keeps_as_many_stopped_as_ran_at_a_time() {
    let ephemeral = |last_job: Option<i64>, before: Option<u32>| {
        let observed = Observed { running: 0, stopped: 0, effective_running: Some(0), effective_stopped: before };
        let config = PoolConfig { desired_running: 9, desired_stopped: 3, ..PoolConfig::default() };
        Pool { ephemeral: true, last_job_time: last_job.map(at), observed: Some(observed), config, ..pool("cpu") }
    };
    for (last_job, before, p90, stopped) in [
        (None, None, Some(7), 7),
        (None, None, Some(200), 50),
        (Some(30_000), Some(9), Some(0), 1),
        (Some(36_000 - 4 * 3600), Some(9), Some(0), 3),
        (None, Some(9), Some(0), 3),
        // Unknown: what was aimed at before stays.
        (Some(30_000), Some(9), None, 9),
        (None, Some(0), None, 0),
        (Some(30_000), None, None, 1),
        (None, None, None, 3),
    ] {
        let found = target(&ephemeral(last_job, before), p90, None);
        assert_eq!(found, (0, stopped, false), "{last_job:?} {before:?} {p90:?}");
    }
}

#[test]
fn spares_linger_after_a_job_within_the_limits() {
    let tuned = |linger_minutes, max_hot| Tuning {
        linger_minutes,
        max_hot,
        window_days: 7,
        jobs: 0,
        bursts: 0,
        p90_gap_seconds: 0,
        peak: 0,
        reason: String::new(),
        at: at(0),
    };
    let of = |tuning: Option<Tuning>, linger: Option<u32>, most: Option<u32>, ago: i64| {
        let config = PoolConfig { override_linger_minutes: linger, override_max_hot: most, ..PoolConfig::default() };
        Pool { ephemeral: true, last_job_time: Some(at(36_000 - ago)), tuning, config, ..pool("cpu") }
    };
    for (pool, running) in [
        (of(None, None, None, 0), 0),
        (of(Some(tuned(10, 2)), None, None, 599), 2),
        (of(Some(tuned(10, 2)), None, None, 600), 0),
        (of(Some(tuned(10, 0)), None, None, 0), 1),
        (of(Some(tuned(10, 9)), None, None, 0), 3),
        (of(Some(tuned(90, 2)), None, None, 30 * 60 - 1), 2),
        (of(Some(tuned(90, 2)), None, None, 30 * 60), 0),
        (of(Some(tuned(10, 2)), Some(0), None, 0), 0),
        (of(Some(tuned(10, 2)), None, Some(0), 0), 0),
        (of(None, Some(10), None, 0), 1),
        (of(Some(tuned(0, 0)), Some(10), Some(2), 0), 2),
    ] {
        assert_eq!(target(&pool, Some(0), Some(&CAPS)), (running, 1, running > 0), "{pool:?}");
        assert_eq!(target(&pool, Some(0), None), (0, 1, false), "off");
    }
    // It is a floor: it never lowers a target, and then nothing lingers.
    let mut pool = of(Some(tuned(10, 2)), None, None, 0);
    (pool.ephemeral, pool.config.desired_running) = (false, 5);
    assert_eq!(target(&pool, None, Some(&CAPS)), (5, 0, false));
}
