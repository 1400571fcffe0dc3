use proptest::prelude::*;

use super::*;
use crate::testing::at;

const MINUTE: i64 = 60;

fn type_key() -> CircuitKey {
    CircuitKey::of_type("c7g.xlarge")
}

fn zone_key() -> CircuitKey {
    CircuitKey::in_zone("c7g.xlarge", "a")
}

/// Interruptions of fresh machines at these minutes in these zones.
fn after_all(key: &CircuitKey, events: &[(i64, Option<&str>)]) -> Circuit {
    let mut circuit = Circuit::default();
    for (number, (minute, zone)) in events.iter().enumerate() {
        let machine = format!("i-{number}");
        circuit = interrupted(&circuit, key, &machine, *zone, at(minute * MINUTE)).expect("a fresh machine").next;
    }
    circuit
}

fn open(minute: i64) -> Circuit {
    after_all(&zone_key(), &[(minute, Some("a")), (minute, Some("a")), (minute, Some("a"))])
}

fn half_open(minute: i64) -> Circuit {
    looked_at(&open(minute), at((minute + 30) * MINUTE)).expect("the cool-down is over")
}

fn interrupt(circuit: &Circuit, minute: i64) -> Interrupted {
    interrupted(circuit, &zone_key(), "i-new", Some("a"), at(minute * MINUTE)).expect("a fresh machine")
}

#[test]
fn every_state_meets_every_event() {
    use CircuitState::{Closed, HalfOpen, Open};
    // From a state: the state after an interruption, whether that is a trip, and the state after a look.
    let two = after_all(&zone_key(), &[(0, Some("a")), (1, Some("a"))]);
    for (name, circuit, minute, interruption, tripped, look) in [
        ("nothing stored", Circuit::default(), 0, Closed, false, Closed),
        ("one more and it opens", two.clone(), 15, Open, true, Closed),
        ("the window is over", two, 16, Closed, false, Closed),
        ("open", open(0), 29, Open, false, Open),
        ("open, the cool-down is over", open(0), 30, Open, false, HalfOpen),
        ("open without an end", Circuit { auto_reset_at: None, ..open(0) }, 1, Open, false, HalfOpen),
        ("half open", half_open(0), 31, Open, true, HalfOpen),
        ("half open, still not long quiet", half_open(0), 44, Open, true, HalfOpen),
        ("half open and quiet", half_open(0), 45, Closed, false, Closed),
        ("another's half open", Circuit { half_open_at: None, ..half_open(0) }, 99, Open, true, HalfOpen),
    ] {
        let after_interruption = interrupt(&circuit, minute);
        assert_eq!((after_interruption.next.state, after_interruption.tripped), (interruption, tripped), "{name}");
        let after_look = looked_at(&circuit, at(minute * MINUTE)).unwrap_or(circuit.clone());
        assert_eq!(after_look.state, look, "{name}");
        assert_eq!(reset(&circuit).state, Closed, "{name}");
    }
}

#[test]
fn a_zone_alone_opens_only_itself() {
    let (a, b) = (Some("a"), Some("b"));
    for (key, zones, state) in [
        (zone_key(), [a, a, a], CircuitState::Open),
        (type_key(), [a, a, a], CircuitState::Closed),
        (type_key(), [a, a, b], CircuitState::Open),
        (type_key(), [a, a, None], CircuitState::Open),
        (type_key(), [a, a, Some("")], CircuitState::Open),
    ] {
        let circuit = after_all(&key, &zones.map(|zone| (0, zone)));
        assert_eq!(circuit.state, state, "{key} {zones:?}");
    }
    // A fourth, from another zone.
    assert_eq!(after_all(&type_key(), &[(0, a), (0, a), (0, a), (1, b)]).state, CircuitState::Open);
}

#[test]
fn a_machine_is_counted_once() {
    let circuit = after_all(&zone_key(), &[(0, None), (1, None)]);
    assert_eq!(interrupted(&circuit, &zone_key(), "i-1", None, at(99)), None);
    let many: Vec<_> = (0..30).map(|minute| (minute, None)).collect();
    assert_eq!(after_all(&zone_key(), &many).recent.len(), REMEMBERED);
    let closed = reset(&after_all(&zone_key(), &many));
    assert_eq!(interrupted(&closed, &zone_key(), "i-29", None, at(99)), None, "also after a reset");
}

#[test]
fn a_window_begins_with_its_first_interruption() {
    let circuit = after_all(&type_key(), &[(0, Some("a")), (14, Some("b")), (16, Some("c"))]);
    assert_eq!((circuit.state, circuit.count), (CircuitState::Closed, 1));
    assert_eq!((circuit.first, circuit.last), (Some(at(16 * MINUTE)), Some(at(16 * MINUTE))));
    assert_eq!(circuit.zones, ["c"]);
    // A late notice of an earlier one counts, and is not the latest.
    let late = interrupted(&circuit, &type_key(), "late", None, at(15 * MINUTE)).expect("fresh").next;
    assert_eq!((late.count, late.last), (2, Some(at(16 * MINUTE))));
}

#[test]
fn an_interruption_while_open_counts_and_does_not_prolong() {
    let next = interrupt(&open(0), 10).next;
    assert_eq!((next.count, next.auto_reset_at), (4, Some(at(30 * MINUTE))));
    assert_eq!(next.open_streak, 1);
}

#[test]
fn every_opening_in_a_row_lasts_twice_as_long() {
    let mut circuit = open(0);
    let mut now = 0;
    for (turn, cooldown) in [30, 60, 120, 240, 240, 240].into_iter().enumerate() {
        assert_eq!(circuit.auto_reset_at, Some(at((now + cooldown) * MINUTE)), "turn {turn}");
        now += cooldown;
        circuit = looked_at(&circuit, at(now * MINUTE)).expect("half open");
        let machine = format!("probe-{turn}");
        circuit = interrupted(&circuit, &zone_key(), &machine, None, at(now * MINUTE)).expect("fresh").next;
    }
    let quiet = looked_at(&half_open(0), at(45 * MINUTE)).expect("closed");
    assert_eq!((quiet.open_streak, quiet.count, quiet.first), (0, 0, None), "and then it starts anew");
}

#[test]
fn a_half_open_circuit_lets_two_machines_through() {
    let circuit = half_open(0);
    assert_eq!(admission(&circuit), Admission::Probe(2));
    assert_eq!(reserve(&circuit, 3), None);
    assert_eq!(reserve(&circuit, 0), None);
    let one = reserve(&circuit, 1).expect("room");
    assert_eq!((admission(&one), reserve(&one, 2)), (Admission::Probe(1), None));
    let two = reserve(&one, 1).expect("room");
    assert_eq!(admission(&two), Admission::Blocked);
    assert_eq!(admission(&reserve(&circuit, 2).expect("room")), Admission::Blocked);
    assert_eq!((admission(&open(0)), reserve(&open(0), 1)), (Admission::Blocked, None));
    assert_eq!((admission(&Circuit::default()), reserve(&Circuit::default(), 1)), (Admission::Free, None));
}

#[test]
fn a_row_outlives_its_phase() {
    assert_eq!(kept_until(&Circuit::default()), None);
    let kept = |circuit: &Circuit| kept_until(circuit).expect("kept");
    assert_eq!(kept(&after_all(&zone_key(), &[(5, None)])), at((5 + 24 * 60) * MINUTE));
    assert_eq!(kept(&open(0)), at(90 * MINUTE));
    // Seen late: the quiet time still ends before the row does.
    let late = looked_at(&open(0), at(89 * MINUTE)).expect("half open");
    assert!(kept(&late) > at((89 + 15) * MINUTE));
}

#[test]
fn keys_name_a_type_and_perhaps_a_zone() {
    assert_eq!(
        (zone_key().as_str(), zone_key().instance_type(), zone_key().zone()),
        ("c7g.xlarge#a", "c7g.xlarge", Some("a"))
    );
    assert_eq!(
        (type_key().as_str(), type_key().instance_type(), type_key().zone()),
        ("c7g.xlarge", "c7g.xlarge", None)
    );
    for state in CircuitState::ALL {
        assert_eq!(CircuitState::parse(state.as_str()), Some(state));
    }
    assert_eq!(CircuitState::parse("ajar"), None);
}

proptest! {
    /// Whatever happens: a trip is exactly a step to open, an open circuit ends, and probes stay within their number.
    #[test]
    fn histories_keep_the_rules(events in prop::collection::vec((0_i64..120, 0_u8..4, 0_usize..3), 0..60)) {
        let (mut circuit, mut now) = (Circuit::default(), 0);
        for (number, (minutes, event, zone)) in events.into_iter().enumerate() {
            now += minutes * MINUTE;
            let before = circuit.clone();
            match event {
                0 | 1 => {
                    let zone = [Some("a"), Some("b"), None][zone];
                    let Interrupted { next, tripped } =
                        interrupted(&before, &type_key(), &number.to_string(), zone, at(now)).expect("fresh");
                    prop_assert_eq!(tripped, before.state != CircuitState::Open && next.state == CircuitState::Open);
                    prop_assert_eq!(next.open_streak > before.open_streak, tripped);
                    circuit = next;
                }
                2 => circuit = looked_at(&before, at(now)).unwrap_or(before),
                _ => circuit = reserve(&before, 1).unwrap_or(before),
            }
            prop_assert!(circuit.half_open_probes <= PROBES);
            prop_assert!(circuit.recent.len() <= REMEMBERED);
            prop_assert_eq!(circuit.state == CircuitState::HalfOpen, circuit.half_open_at.is_some());
            if circuit.state == CircuitState::Open {
                let end = circuit.auto_reset_at.expect("an end");
                prop_assert!(end <= after(circuit.opened_at.expect("a start"), LONGEST));
                prop_assert_eq!(looked_at(&circuit, end).map(|c| c.state), Some(CircuitState::HalfOpen));
            }
        }
    }
}
