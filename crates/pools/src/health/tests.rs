use domain::testing::at;

use super::*;

const TIMES: Times = Times::PRODUCTION;

fn judged(health: Health, fates: &[Fate]) -> Health {
    judge(health, fates, &TIMES, at(0))
}

#[test]
fn three_failures_in_a_row_put_the_brake_on_for_longer_and_longer() {
    let first = judged(Health::default(), &[Fate::Failed, Fate::Open, Fate::Failed]);
    assert_eq!(first, Health { failures: 2, retry_at: None });
    assert_eq!(allowance(first, 5, at(0)), usize::MAX);
    let mut health = first;
    for minutes in [1, 2, 4, 8, 16, 30, 30] {
        health = judged(health, &[Fate::Failed]);
        assert_eq!(health.retry_at, Some(at(minutes * 60)));
        assert_eq!(allowance(health, 0, at(minutes * 60 - 1)), 0);
        assert_eq!((allowance(health, 0, at(minutes * 60)), allowance(health, 1, at(minutes * 60))), (1, 0));
    }
    assert_eq!(judged(health, &[Fate::Open, Fate::Moot]), health);
    assert_eq!(judged(health, &[Fate::Failed, Fate::Useful]), Health::default());
    // A whole batch at once counts as three: the first pause is the shortest.
    assert_eq!(judged(Health::default(), &[Fate::Failed; 20]), Health { failures: 3, retry_at: Some(at(60)) });
}

#[test]
fn a_machine_fails_when_it_goes_away_before_it_was_of_use() {
    let fate = |listed, served, asked: i64| fate(at(-asked), listed, served, &TIMES, at(0));
    for class in [Class::Stopped, Class::Reserved, Class::Busy, Class::Claimed, Class::Assigned] {
        assert_eq!(fate(Some((Some(class), at(-10))), None, 20), Fate::Useful, "{class:?}");
    }
    assert_eq!(fate(Some((Some(Class::Ready), at(-899))), None, 900), Fate::Open);
    assert_eq!(fate(Some((Some(Class::Ready), at(-900))), None, 900), Fate::Useful);
    assert_eq!(fate(Some((Some(Class::Stopping), at(-300))), None, 300), Fate::Open);
    assert_eq!(fate(None, Some(false), 119), Fate::Open, "it may not be listed yet");
    assert_eq!(fate(None, Some(false), 120), Fate::Failed);
    assert_eq!(fate(None, Some(true), 120), Fate::Useful);
    assert_eq!(fate(None, None, 120), Fate::Open, "unknown");
    assert_eq!(fate(None, Some(false), 900), Fate::Moot);
}
