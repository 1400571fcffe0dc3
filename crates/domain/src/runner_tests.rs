use super::*;
use crate::testing::at;

fn runner(state: RunnerState, interrupted_at: Option<i64>) -> Runner {
    Runner { state, interrupted_at: interrupted_at.map(at), ..crate::testing::runner("i-1") }
}

#[test]
fn a_machine_took_along_what_ran_there_and_what_failed_after_it_was_gone() {
    use RunnerState::{Busy, Done, Gone};
    let failed = Status::Completed(Conclusion::Failure);
    let passed = Status::Completed(Conclusion::Success);
    for (what, state, interrupted, job, ended, expected) in [
        ("it runs there still", Gone, None, Status::InProgress, None, true),
        ("it runs, and the machine lives", Busy, Some(50), Status::InProgress, None, false),
        ("it ended in order", Done, None, Status::InProgress, None, false),
        ("it failed afterwards", Gone, Some(50), failed, Some(51), true),
        ("it had failed before", Gone, Some(50), failed, Some(50), false),
        ("nobody knows when the machine went", Gone, None, failed, Some(51), false),
        ("nobody knows when it failed", Gone, Some(50), failed, None, false),
        ("it failed, and the machine lives", Busy, Some(50), failed, Some(51), false),
        ("it passed", Gone, Some(50), passed, Some(51), false),
        ("it was cancelled", Gone, Some(50), Status::Completed(Conclusion::Cancelled), Some(51), false),
        ("it waits", Gone, Some(50), Status::Queued, None, false),
        ("GitHub is silent", Gone, Some(50), Status::Unknown, None, false),
    ] {
        assert_eq!(runner(state, interrupted).took_along(job, ended.map(at)), expected, "{what}");
    }
    let report = FinalReport { status: "failure".to_owned(), exit_code: 1, duration_seconds: 5, at: at(40) };
    let reported = Runner { report: Some(report), ..runner(Gone, Some(50)) };
    assert!(!reported.took_along(failed, Some(at(51))), "it has said how its work ended");
}
