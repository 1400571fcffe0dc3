use domain::testing::at;

use super::*;
use crate::task::Task;

fn term(since: i64) -> Term {
    Term { since: at(since), chance: 0.5, divisor: 1 }
}

fn started(seconds: i64) -> TaskRow {
    TaskRow { last_started_at: Some(at(seconds)), ..TaskRow::default() }
}

#[test]
fn a_task_is_due_an_interval_after_its_last_begin() {
    let hourly = Task::OldJobs.entry();
    for (what, row, now, expected) in [
        ("never ran, in the first minute", TaskRow::default(), 1029, false),
        ("never ran, its turn has come", TaskRow::default(), 1030, true),
        ("ran just now", started(990), 1000, false),
        ("a second too early", started(0), 3599, false),
        ("an interval later", started(0), 3600, true),
        ("days were missed: once", started(-200_000), 1000, true),
        ("somebody runs it", TaskRow { locked_until: Some(at(3700)), ..started(0) }, 3650, false),
        ("somebody who ran it died", TaskRow { locked_until: Some(at(3700)), ..started(0) }, 3701, true),
    ] {
        assert_eq!(is_due(hourly, &row, &term(1000), at(now)), expected, "{what}");
    }
}

#[test]
fn two_tasks_run_as_soon_as_somebody_leads() {
    let eager = Task::OrphanedInstances.entry();
    assert_eq!(eager.first, First::AtOnce);
    assert_eq!(Task::DlqRedrive.entry().first, First::AtOnce);
    assert!(is_due(eager, &TaskRow::default(), &term(1000), at(1000)), "it never ran");
    assert!(is_due(eager, &started(960), &term(1000), at(1000)), "the last leader began it a while ago");
    assert!(!is_due(eager, &started(980), &term(1000), at(1000)), "the last leader began it just now");
    assert!(!is_due(eager, &started(1000), &term(1000), at(1100)), "we did; now its interval counts");
    assert!(is_due(eager, &started(1000), &term(1000), at(1300)));
}

#[test]
fn a_task_that_sees_nothing_runs_less_often() {
    let due = |task: Task, barren| {
        let row = TaskRow { consecutive_barren: barren, ..started(0) };
        due_at(task.entry(), &row, &term(0))
    };
    for (barren, minutes) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 4), (5, 8), (6, 8), (u32::MAX, 8)] {
        assert_eq!(due(Task::DlqRedrive, barren), Some(at(60 * minutes)), "{barren}");
    }
    assert_eq!(due(Task::StaleJobs, u32::MAX), Some(at(15 * 60)), "none grows beyond a quarter of an hour");
    assert_eq!(due(Task::OldJobs, u32::MAX), Some(at(3600)), "longer ones do not grow");
}

#[test]
fn intervals_are_spread_and_may_be_shortened() {
    let hourly = Task::OldJobs.entry();
    let with = |chance, divisor| due_at(hourly, &started(0), &Term { since: at(0), chance, divisor });
    assert_eq!(with(0.0, 1), Some(at(3420)));
    assert_eq!(with(1.0, 1), Some(at(3780)));
    assert_eq!(with(0.5, 20), Some(at(180)));
}

#[test]
fn an_interval_of_zero_is_never() {
    let never = Entry { every: Duration::ZERO, ..*Task::OldJobs.entry() };
    assert_eq!(due_at(&never, &TaskRow::default(), &term(0)), None);
    assert_eq!(due_at(&never, &started(0), &term(0)), None);
}
