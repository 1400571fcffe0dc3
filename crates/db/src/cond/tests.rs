use super::*;
use crate::schema::{JOBS, POOLS};

fn row(pairs: &[(&str, Value)]) -> Item {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

#[test]
fn conditions_see_a_missing_row_as_one_without_attributes() {
    let not = |cond| Cond::Not(Box::new(cond));
    for (cond, of_missing) in [
        (Cond::Always, true),
        (Cond::exists("a"), false),
        (Cond::absent("a"), true),
        (Cond::eq("a", 1_i64), false),
        (not(Cond::eq("a", 1_i64)), true),
        (Cond::lt("a", 1_i64), false),
        (Cond::Gt("a".into(), 1_i64.into()), false),
        (Cond::In("a".into(), vec![1_i64.into()]), false),
        (Cond::BeginsWith("a".into(), String::new()), false),
        (Cond::And(vec![]), true),
        (Cond::Or(vec![]), false),
    ] {
        assert_eq!(holds(&cond, None), of_missing, "{cond:?}");
        assert_eq!(holds(&cond, Some(&Item::new())), of_missing, "{cond:?}");
    }
}

#[test]
fn comparisons_hold_within_a_kind_only() {
    let item = row(&[("n", 5_i64.into()), ("s", "b".into()), ("f", Value::F(1.5)), ("t", true.into())]);
    let gt = |name: &'static str, value: Value| Cond::Gt(name.into(), value);
    for (cond, expected) in [
        (Cond::eq("n", 5_i64), true),
        (Cond::eq("n", Value::F(5.0)), true),
        (Cond::eq("n", "5"), false),
        (Cond::eq("t", true), true),
        (Cond::eq("t", 1_i64), false),
        (Cond::lt("n", 6_i64), true),
        (Cond::lt("n", 5_i64), false),
        (Cond::lt("n", "6"), false),
        (Cond::lt("f", 2_i64), true),
        (gt("f", 1_i64.into()), true),
        (Cond::lt("s", "c"), true),
        (gt("s", "a".into()), true),
        (gt("s", 1_i64.into()), false),
        (Cond::lt("t", true), false),
        (Cond::In("s".into(), vec!["a".into(), "b".into()]), true),
        (Cond::BeginsWith("s".into(), "b".into()), true),
        (Cond::BeginsWith("n".into(), "5".into()), false),
        (Cond::eq("n", 5_i64).and(Cond::eq("s", "b")), true),
        (Cond::eq("n", 5_i64).and(Cond::eq("s", "x")), false),
        (Cond::eq("n", 1_i64).or(Cond::eq("s", "b")), true),
        // `and` binds what stands before it as a whole.
        (Cond::eq("n", 5_i64).or(Cond::Always).and(Cond::eq("s", "x")), false),
    ] {
        assert_eq!(holds(&cond, Some(&item)), expected, "{cond:?}");
    }
}

#[test]
fn a_row_is_gone_in_the_second_it_expires() {
    let until = |value: Value| row(&[("claim_expiry", value)]);
    assert!(!expired(&POOLS, &until(11_i64.into()), 10));
    assert!(expired(&POOLS, &until(10_i64.into()), 10));
    assert!(!expired(&POOLS, &until("1".into()), 10), "not a number: never expires");
    assert!(!expired(&POOLS, &Item::new(), 10));
    assert!(!expired(&JOBS, &until(1_i64.into()), 10), "another table's attribute");
}

#[test]
fn a_number_without_a_fraction_has_one_form() {
    for (value, stored) in [
        (Value::F(2.0), Some(Value::N(2))),
        (Value::F(-0.0), Some(Value::N(0))),
        (Value::F(2.5), Some(Value::F(2.5))),
        (Value::F(1e300), Some(Value::F(1e300))),
        (Value::F(f64::NAN), None),
        (Value::F(f64::INFINITY), None),
        (Value::L(Box::new([Value::F(1.0)])), Some(Value::L(Box::new([Value::N(1)])))),
        (Value::M(row(&[("x", Value::F(f64::NAN))])), None),
    ] {
        let mut item = value.clone();
        assert_eq!(canonical(&mut item).map(|()| item), stored, "{value:?}");
    }
}

#[test]
fn sums_refuse_what_cannot_be_added() {
    for (to, by, expected) in [
        (None, Value::N(2), Some(Value::N(2))),
        (Some(Value::N(1)), Value::N(2), Some(Value::N(3))),
        (Some(Value::N(1)), Value::F(0.5), Some(Value::F(1.5))),
        (Some(Value::N(i64::MAX)), Value::N(1), None),
        (Some(Value::S("1".into())), Value::N(1), None),
        (None, Value::S("1".into()), None),
    ] {
        assert_eq!(sum(to.as_ref(), &by), expected, "{to:?} + {by:?}");
    }
}
