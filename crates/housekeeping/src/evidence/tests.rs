use domain::job::Settled;
use domain::job::transition::SettleReason;
use domain::testing::{accepted, at, cx, launched};

use super::*;

fn ended(id: u64, end: Settled, seconds: i64) -> Job {
    accepted(id).settled(end, SettleReason::Missing, &cx(seconds))
}

#[test]
fn only_ends_that_prove_it_say_when_a_machine_fell_idle() {
    let open = || launched(3, "t", "i-1");
    let undated = Job { completed_at: None, ..ended(4, Settled::Success, 50) };
    for (what, jobs, expected) in [
        ("none", vec![], None),
        ("one", vec![ended(1, Settled::Success, 50)], Some(at(50))),
        ("the last of two", vec![ended(1, Settled::Cancelled, 50), ended(2, Settled::Error, 70)], Some(at(70))),
        ("one goes on", vec![ended(1, Settled::Success, 50), open()], None),
        ("perhaps it goes on", vec![ended(1, Settled::Success, 50), ended(2, Settled::Orphaned, 60)], None),
        ("an older release's word", vec![ended(1, Settled::Failed, 50)], None),
        ("nobody knows when", vec![undated], None),
    ] {
        assert_eq!(last_completion(&jobs), expected, "{what}");
    }
}

#[test]
fn ec2_knows_only_its_own_ids() {
    for (key, expected) in [
        ("i-0123abcd", true),
        ("i-0123456789abcdef0", true),
        ("i-0123456789abcdef", false),
        ("i-0123ABCD", false),
        ("runner-abc", false),
        ("i-", false),
        ("", false),
    ] {
        assert_eq!(is_instance_id(&RunnerKey::from(key)), expected, "{key}");
    }
}
