//! D32: circuit breakers.

use std::collections::BTreeMap;
use std::sync::Arc;

use db::schema::CIRCUITS;
use db::table::{Outcome, Value};
use db::{Circuits, Error};
use domain::circuit::{Admission, CircuitKey, CircuitState};
use domain::clock::{SystemRng, Timestamp};
use domain::testing::at;

use crate::{BackEnd, back_ends_with, row};

const TYPE: &str = "c7g.xlarge";

fn back_ends() -> Vec<BackEnd> {
    back_ends_with(&[&CIRCUITS])
}

fn circuits(back: &BackEnd) -> Circuits {
    Circuits::new(back.table.clone(), Arc::new(SystemRng))
}

fn minute(minutes: i64) -> Timestamp {
    at(minutes * 60)
}

fn type_key() -> CircuitKey {
    CircuitKey::of_type(TYPE)
}

fn zone_key(zone: &str) -> CircuitKey {
    CircuitKey::in_zone(TYPE, zone)
}

async fn admissions<const N: usize>(circuits: &Circuits, keys: [CircuitKey; N], now: Timestamp) -> [Admission; N] {
    let answers = circuits.blocked(&keys, now).await.expect("an answer");
    keys.map(|key| answers[&key])
}

#[tokio::test]
async fn an_interruption_of_one_zone_blocks_that_zone() {
    for back in back_ends() {
        let circuits = circuits(&back);
        let keys = || [type_key(), zone_key("a"), zone_key("b")];
        assert_eq!(admissions(&circuits, keys(), at(0)).await, [Admission::Free; 3], "{}", back.name);
        for (machine, opened) in [("i-1", vec![]), ("i-2", vec![]), ("i-2", vec![]), ("i-3", vec![zone_key("a")])] {
            let told = circuits.record_interruption(TYPE, Some("a"), &machine.into(), at(0)).await.expect("counted");
            assert_eq!(told, opened, "{} {machine}", back.name);
        }
        let one_zone = [Admission::Free, Admission::Blocked, Admission::Free];
        assert_eq!(admissions(&circuits, keys(), at(0)).await, one_zone, "{}", back.name);
        let told = circuits.record_interruption(TYPE, None, &"i-4".into(), minute(1)).await.expect("counted");
        assert_eq!(told, [type_key()], "an unknown zone may be another one");
        let found = circuits.get_many(&[type_key(), zone_key("a"), zone_key("c")]).await.expect("an answer");
        assert_eq!(found.len(), 2, "{}", back.name);
        assert_eq!((found[&type_key()].count, found[&zone_key("a")].count), (4, 3));
        assert!(circuits.reset(&type_key()).await.expect("allowed").is_applied());
        assert_eq!(circuits.reset(&zone_key("c")).await.expect("allowed"), Outcome::Lost);
        assert_eq!(admissions(&circuits, keys(), minute(1)).await, one_zone, "{}", back.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_interruptions_none_is_lost_and_one_opens() {
    for back in back_ends() {
        let circuits = circuits(&back);
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..3 {
            let circuits = circuits.clone();
            tasks.spawn(async move {
                let machine = format!("i-{number}");
                circuits.record_interruption(TYPE, None, &machine.as_str().into(), at(0)).await.expect("counted")
            });
        }
        let opened: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!(opened, [type_key()], "{}", back.name);
        assert_eq!(circuits.get_many(&[type_key()]).await.expect("an answer")[&type_key()].count, 3);
    }
}

#[tokio::test]
async fn an_open_circuit_becomes_half_open_once_and_lets_two_machines_through() {
    for back in back_ends() {
        let circuits = circuits(&back);
        for machine in ["i-1", "i-2", "i-3"] {
            circuits.record_interruption(TYPE, None, &machine.into(), at(0)).await.expect("counted");
        }
        let key = type_key();
        let admission = async |now| admissions(&circuits, [type_key()], now).await[0];
        let reserve = async |machines, now| circuits.reserve_probe(&key, machines, now).await.expect("an answer");
        assert_eq!(admission(minute(29)).await, Admission::Blocked, "{}", back.name);
        assert_eq!(reserve(1, minute(29)).await, Outcome::Lost);
        assert_eq!(admission(minute(30)).await, Admission::Probe(2), "{}", back.name);
        assert_eq!(reserve(3, minute(30)).await, Outcome::Lost);
        assert!(reserve(1, minute(30)).await.is_applied());
        assert_eq!(admission(minute(31)).await, Admission::Probe(1), "a second look does not begin it anew");
        assert!(reserve(1, minute(31)).await.is_applied());
        assert_eq!(reserve(1, minute(31)).await, Outcome::Lost);
        assert_eq!(admission(minute(44)).await, Admission::Blocked, "{}", back.name);
        assert_eq!(admission(minute(45)).await, Admission::Free, "quiet for long enough");
        let stored = circuits.get_many(&[type_key()]).await.expect("an answer");
        assert_eq!((stored[&key].state, stored[&key].open_streak), (CircuitState::Closed, 0), "{}", back.name);
    }
}

#[tokio::test]
async fn a_row_of_the_go_implementation_is_honoured() {
    for back in back_ends() {
        let circuits = circuits(&back);
        back.restore(
            &CIRCUITS,
            &row([
                ("instance_type", TYPE.into()),
                ("state", "open".into()),
                ("interruption_count", 3_i64.into()),
                ("first_interruption_at", "2026-01-01T09:00:00+09:00".into()),
                ("half_open_at", "".into()),
                ("auto_reset_at", "2026-01-01T00:30:00Z".into()),
                ("later", "kept".into()),
            ]),
        );
        assert_eq!(admissions(&circuits, [type_key()], minute(1)).await, [Admission::Blocked], "{}", back.name);
        assert_eq!(admissions(&circuits, [type_key()], minute(30)).await, [Admission::Probe(2)], "{}", back.name);
        let item = back.table.get(&CIRCUITS, &TYPE.into()).await.expect("an answer").expect("a row");
        assert_eq!((&item["later"], &item["version"]), (&"kept".into(), &Value::N(1)), "{}", back.name);
        // An end that nobody can read is over.
        back.restore(&CIRCUITS, &row([("instance_type", "m7g.large".into()), ("state", "open".into())]));
        let other = CircuitKey::of_type("m7g.large");
        let answer: BTreeMap<_, _> =
            circuits.blocked(std::slice::from_ref(&other), minute(0)).await.expect("an answer");
        assert_eq!(answer[&other], Admission::Probe(2), "{}", back.name);
        let nothing = circuits.record_interruption("", None, &"i-1".into(), at(0)).await;
        assert!(matches!(nothing, Err(Error::Invalid(_))), "{}", back.name);
    }
}
