use domain::testing::{accepted, at};

use super::*;

const CAPS: HotPoolCaps = HotPoolCaps {
    max_linger_minutes: 30,
    max_hot: 3,
    min_jobs_to_activate: 5,
    lookback_days: 7,
    burst_gap_minutes: 20,
};

fn jobs(starts: &[i64], seconds: i64) -> Vec<Job> {
    let job = |start: &i64| Job { created_at: at(*start), completed_at: Some(at(start + seconds)), ..accepted(1) };
    starts.iter().map(job).collect()
}

#[test]
fn a_pattern_of_bursts_is_read_from_the_gaps() {
    // Two bursts an hour apart, jobs of a burst four minutes apart and five minutes long.
    let starts: Vec<_> = [0, 240, 480, 720, 4320, 4560, 4800].into();
    let found = recommend(&jobs(&starts, 300), &CAPS, at(9000));
    assert_eq!((found.linger_minutes, found.max_hot, found.reason.as_str()), (4, 2, "tuned"));
    assert_eq!((found.jobs, found.bursts, found.p90_gap_seconds, found.peak), (7, 2, 240, 2));
    assert_eq!((found.window_days, found.at), (7, at(9000)));
    // The order in which they are listed does not matter.
    let mut mixed = jobs(&starts, 300);
    mixed.reverse();
    assert_eq!(recommend(&mixed, &CAPS, at(9000)), found);
}

#[test]
fn jobs_that_come_together_do_not_make_the_wait_for_the_next_ones_look_short() {
    // Waves of ten, six minutes apart.
    let starts: Vec<_> = (0..5).flat_map(|wave| (0..10).map(move |n| wave * 360 + n)).collect();
    let found = recommend(&jobs(&starts, 120), &CAPS, at(9000));
    assert_eq!((found.linger_minutes, found.p90_gap_seconds), (6, 1));
    assert_eq!((found.bursts, found.peak, found.max_hot), (1, 10, 3));
}

#[test]
fn limits_hold() {
    let apart: Vec<_> = (0..20).map(|n| n * 1200).collect();
    let found = recommend(&jobs(&apart, 12_000), &CAPS, at(50_000));
    assert_eq!((found.linger_minutes, found.max_hot, found.peak), (20, 3, 11));
    let caps = HotPoolCaps { max_linger_minutes: 10, ..CAPS };
    assert_eq!(recommend(&jobs(&apart, 1), &caps, at(50_000)).linger_minutes, 10);
    let at_once = recommend(&jobs(&[0; 6], 1), &CAPS, at(9));
    assert_eq!((at_once.linger_minutes, at_once.max_hot), (1, 3), "never less than a minute");
}

#[test]
fn little_history_and_no_bursts_leave_a_pool_cold() {
    let few = recommend(&jobs(&[0, 60, 120, 180], 300), &CAPS, at(9000));
    assert_eq!((few.linger_minutes, few.jobs, few.reason.as_str()), (0, 4, "insufficient-history"));
    let apart: Vec<_> = (0..6).map(|n| n * 7200).collect();
    let none = recommend(&jobs(&apart, 300), &CAPS, at(50_000));
    assert_eq!((none.linger_minutes, none.bursts, none.reason.as_str()), (0, 6, "no-burst-pattern"));
}

#[test]
fn a_history_is_read_at_once_while_there_is_little_of_it() {
    let few = recommend(&jobs(&[0, 60, 120, 180], 300), &CAPS, at(9000));
    let enough = recommend(&jobs(&[0, 60, 120, 180, 240], 300), &CAPS, at(9000));
    for (ephemeral, tuning, last_job, due) in [
        (true, None, None, true),
        (true, None, Some(1), true),
        (false, None, Some(9001), false),
        (true, Some(&few), Some(9001), true),
        (true, Some(&few), Some(9000), false),
        (true, Some(&few), None, false),
        (true, Some(&enough), Some(9001), false),
    ] {
        let pool =
            Pool { ephemeral, tuning: tuning.cloned(), last_job_time: last_job.map(at), ..crate::testing::pool("cpu") };
        assert_eq!(is_due(&pool, &CAPS), due, "{pool:?}");
    }
}
