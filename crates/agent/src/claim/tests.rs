use domain::handover::{Credential, HandOver};
use domain::ids::JobId;

use super::{assignment, fingerprint, outdated, stale, unusable};

fn document() -> HandOver {
    HandOver {
        repo: "o/r".to_owned(),
        job_id: "7".to_owned(),
        instance_id: "i-1".to_owned(),
        jit_config: Credential::new("anit"),
        ..HandOver::default()
    }
}

#[test]
fn a_hand_over_is_taken_once_and_only_by_its_machine() {
    let key = "i-1".into();
    let print = fingerprint(&document());
    assert_eq!(stale(&document(), &print, &key, &[]), None);
    assert!(stale(&document(), &print, &key, std::slice::from_ref(&print)).is_some());
    assert!(stale(&document(), &print, &"i-2".into(), &[]).is_some());
    let anybody = HandOver { instance_id: String::new(), ..document() };
    assert_eq!(stale(&anybody, &fingerprint(&anybody), &"i-2".into(), &[]), None);
    let other = HandOver { jit_config: Credential::new("other"), ..document() };
    assert_ne!(fingerprint(&other), print, "a new credential is a new hand-over");
}

#[test]
fn only_whole_hand_overs_are_usable() {
    assert_eq!(unusable(&document()), None);
    let token = HandOver { jit_config: Credential::default(), jit_token: Credential::new("t"), ..document() };
    assert_eq!(unusable(&token), None);
    let broken = [
        HandOver { repo: "o".to_owned(), ..document() },
        HandOver { repo: "o/../r".to_owned(), ..document() },
        HandOver { repo: "o/r\n".to_owned(), ..document() },
        HandOver { jit_config: Credential::default(), ..document() },
        HandOver { jit_config: Credential::new("a\0b"), ..document() },
        HandOver { run_id: "1\n2".to_owned(), ..document() },
        HandOver { job_id: "1\r".to_owned(), ..document() },
        HandOver { runner_name: "a\0".to_owned(), ..document() },
        HandOver { labels: vec!["ok".to_owned(), "a\nb".to_owned()], ..document() },
    ];
    for document in broken {
        let reason = unusable(&document);
        assert!(reason.is_some(), "{document:?}");
    }
}

#[test]
fn a_job_id_that_is_none_stays_unknown() {
    assert_eq!(assignment(&document()).job, JobId::new(7));
    assert_eq!(assignment(&HandOver { job_id: "x".to_owned(), ..document() }).job, None);
    assert_eq!(assignment(&HandOver { max_runtime_minutes: Some(0), ..document() }).max_runtime, None);
}

#[test]
fn what_an_earlier_life_was_given_is_left_alone() {
    let at = |minute: i64| domain::clock::Timestamp::from_second(1_700_000_000 + minute * 60).unwrap();
    let written = |minute| HandOver { created_at: Some(at(minute)), ..document() };
    let fresh = |minute, boot: Option<i64>| outdated(&written(minute), at(0), boot.map(at)).is_none();
    assert!(fresh(-60, None), "to the minute");
    assert!(!fresh(-61, None));
    assert!(fresh(-30, Some(-20)), "it may be written before the machine starts");
    assert!(!fresh(-31, Some(-20)));
    assert!(fresh(10, Some(-20)), "its writer's clock is ahead");
    assert_eq!(outdated(&document(), at(0), Some(at(0))), None, "nothing is known against it");
}
