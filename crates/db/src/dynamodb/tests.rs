use proptest::prelude::*;

use super::expression::{self, Terms, Test};
use super::fault::{Fault, Reason, canceled_for, meaning};
use super::request::{Action, Guard, compile, done, repeatable, revived, validated};
use super::select::Checked;
use super::tables::{Found, FoundIndex, Step, compare, next};
use super::value::{from_row, to_row};
use super::*;
use crate::schema::{CIRCUITS, JOBS, LOCKS, POOL_STATUS, POOLS, STATUS_CREATED};

fn row(pairs: &[(&str, Value)]) -> Item {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn text(cond: &Cond) -> (Option<String>, Terms) {
    let mut terms = Terms::default();
    let test = expression::test(cond).expect("allowed");
    assert_ne!(test, Test::False);
    (test.render(&mut terms), terms)
}

fn names() -> TableNames {
    TableNames::new().table(&JOBS, "my-jobs").table(&POOLS, "my-pools").table(&LOCKS, "my-locks")
}

fn not(cond: Cond) -> Cond {
    Cond::Not(Box::new(cond))
}

#[test]
fn conditions_become_expressions() {
    for (cond, expected) in [
        (Cond::exists("status"), "attribute_exists(#0)"),
        (Cond::absent("status"), "NOT attribute_exists(#0)"),
        (not(Cond::absent("status")), "attribute_exists(#0)"),
        (Cond::eq("a", 1_i64), "#0 = :0"),
        (not(Cond::eq("a", 1_i64)), "NOT #0 = :0"),
        (Cond::lt("a", 1_i64), "attribute_type(#0, :0) AND #0 < :1"),
        (not(Cond::Gt("a".into(), "x".into())), "NOT (attribute_type(#0, :0) AND #0 > :1)"),
        (Cond::In("a".into(), vec![1_i64.into(), "x".into()]), "#0 IN (:0, :1)"),
        (Cond::BeginsWith("a".into(), "x".into()), "begins_with(#0, :0)"),
        (Cond::eq("a", 1_i64).and(Cond::eq("a", 2_i64)), "#0 = :0 AND #0 = :1"),
        (
            Cond::exists("a").or(Cond::exists("b")).and(Cond::exists("a")),
            "(attribute_exists(#0) OR attribute_exists(#1)) AND attribute_exists(#0)",
        ),
        // Constants leave nothing behind, neither names nor parentheses.
        (Cond::Always.and(Cond::eq("a", 1_i64)), "#0 = :0"),
        (Cond::eq("a", 1_i64).or(Cond::In("b".into(), vec![])), "#0 = :0"),
        (Cond::eq("a", 1_i64).or(Cond::lt("b", true)), "#0 = :0"),
        (Cond::And(vec![Cond::Or(vec![Cond::And(vec![Cond::eq("a", 1_i64)])])]), "#0 = :0"),
    ] {
        assert_eq!(text(&cond).0.as_deref(), Some(expected), "{cond:?}");
    }
    for (cond, constant) in [
        (Cond::Always, Test::True),
        (Cond::And(vec![]), Test::True),
        (not(Cond::Or(vec![])), Test::True),
        (Cond::exists("a").or(Cond::Always), Test::True),
        (Cond::Or(vec![]), Test::False),
        (Cond::exists("a").and(Cond::In("a".into(), vec![])), Test::False),
        (Cond::lt("a", Value::L(Box::new([]))), Test::False),
    ] {
        assert_eq!(expression::test(&cond).expect("allowed"), constant, "{cond:?}");
    }
    assert!(expression::test(&Cond::eq("a", Value::F(f64::NAN))).is_err());
    let many = Cond::In("a".into(), (0..101_i64).map(Value::N).collect()).and(Cond::exists("b"));
    let (many, _) = text(&many);
    let many = many.expect("a condition");
    assert!(many.starts_with("(#0 IN (:0, ") && many.ends_with(", :99) OR #0 IN (:100)) AND attribute_exists(#1)"));
}

#[test]
fn updates_become_expressions() {
    let update = Update::default()
        .set("status", "x")
        .set("pool", "y")
        .set_if_absent("ttl", 1_i64)
        .add("count", 2_i64)
        .remove("owner")
        .remove("token");
    let mut terms = Terms::default();
    let expected = "SET #0 = :0, #1 = :1, #2 = if_not_exists(#2, :2) ADD #3 :3 REMOVE #4, #5";
    assert_eq!(expression::update(&update, &mut terms).as_deref(), Some(expected));
    let names = terms.names().expect("names");
    assert_eq!((&*names["#0"], &*names["#4"], names.len()), ("pool", "owner", 6));
    assert_eq!(terms.values().expect("values").len(), 4);
    assert_eq!(expression::update(&Update::default(), &mut Terms::default()), None);
    assert_eq!((Terms::default().names(), Terms::default().values()), (None, None));
}

/// A row past its expiry is none: a condition that wants no row holds of it, any other does not.
#[test]
fn conditions_see_expired_rows_as_none() {
    let condition = |write: &Write, guard| {
        compile(&names(), write, guard, 100).expect("allowed").and_then(|request| request.condition)
    };
    let put = |table, cond| {
        let key = if table == &POOLS { ("pool_name", "a".into()) } else { ("lock_id", "a".into()) };
        Write::Put { table, item: row(&[key]), cond }
    };
    let gone = "attribute_type(#0, :0) AND #0 <= :1";
    let asked = |write: &Write| condition(write, Guard::Asked);
    assert_eq!(asked(&put(&POOLS, Cond::Always)), None);
    assert_eq!(asked(&put(&POOLS, Cond::absent("x"))), Some(format!("({gone}) OR NOT attribute_exists(#1)")));
    assert_eq!(asked(&put(&POOLS, Cond::exists("x"))), Some(format!("NOT ({gone}) AND attribute_exists(#1)")));
    assert_eq!(asked(&put(&LOCKS, Cond::absent("x"))).as_deref(), Some("NOT attribute_exists(#0)"), "no expiry");
    let key: Value = "a".into();
    let delete = Write::Delete { table: &POOLS, key: key.clone(), cond: Cond::Always };
    assert_eq!(asked(&delete), None);
    // An update would keep the attributes of the expired row.
    let update = |cond| Write::Update { table: &POOLS, key: key.clone(), update: Update::default(), cond };
    assert_eq!(asked(&update(Cond::Always)), Some(format!("NOT ({gone})")));
    assert_eq!(asked(&update(Cond::absent("x"))), Some(format!("NOT ({gone}) AND NOT attribute_exists(#1)")));
    assert_eq!(condition(&put(&POOLS, Cond::exists("x")), Guard::Expired), Some(gone.to_owned()));
    let never = compile(&names(), &put(&POOLS, Cond::Or(vec![])), Guard::Asked, 100).expect("allowed");
    assert_eq!(never, None);
}

#[test]
fn an_update_of_nothing_still_says_something() {
    let write = Write::Update { table: &LOCKS, key: "a".into(), update: Update::default(), cond: Cond::Always };
    let request = compile(&names(), &write, Guard::Asked, 0).expect("allowed").expect("a request");
    assert!(matches!(request.action, Action::Update { expression, .. } if expression == "REMOVE #0"));
    assert_eq!((request.table.as_str(), request.condition), ("my-locks", None));
}

#[test]
fn an_update_of_an_expired_row_begins_with_an_empty_one() {
    let key: Value = "a".into();
    let update = Update::default().set("x", 1_i64).add("n", 2_i64).set_if_absent("y", 3_i64).remove("z");
    let write = |cond| Write::Update { table: &POOLS, key: key.clone(), update: update.clone(), cond };
    let old = row(&[("pool_name", "a".into()), ("claim_expiry", 9_i64.into()), ("n", 5_i64.into())]);
    let new = row(&[("pool_name", "a".into()), ("x", 1_i64.into()), ("n", 2_i64.into()), ("y", 3_i64.into())]);
    let absent = write(Cond::absent("x"));
    let Ok(Some(Write::Put { item, .. })) = revived(&absent, Some(&old), 9) else { panic!("it is over") };
    assert_eq!(item, new);
    assert_eq!(revived(&absent, Some(&old), 8).expect("allowed"), None, "it lives");
    assert_eq!(revived(&absent, None, 9).expect("allowed"), None);
    assert_eq!(revived(&write(Cond::exists("n")), Some(&old), 9).expect("allowed"), None, "it wants a row");
}

#[test]
fn a_write_knows_its_own_row() {
    let key: Value = "a".into();
    let update = |update| Write::Update { table: &POOLS, key: key.clone(), update, cond: Cond::Always };
    let item = row(&[("pool_name", "a".into()), ("x", 1_i64.into())]);
    let other = row(&[("pool_name", "a".into()), ("x", 2_i64.into()), ("z", 2_i64.into())]);
    let set = Update::default().set("x", 1_i64).remove("z");
    for (write, of_item, of_other, of_none) in [
        (Write::Put { table: &POOLS, item: item.clone(), cond: Cond::Always }, Some(true), Some(false), Some(false)),
        (Write::Delete { table: &POOLS, key: key.clone(), cond: Cond::Always }, Some(false), Some(false), Some(true)),
        (update(set.clone()), Some(true), Some(false), Some(false)),
        (update(Update::default().set_if_absent("z", 1_i64)), Some(false), Some(true), Some(false)),
        (update(Update::default().add("x", 1_i64)), None, None, None),
    ] {
        assert_eq!(done(&write, Some(&item)), of_item, "{write:?}");
        assert_eq!(done(&write, Some(&other)), of_other, "{write:?}");
        assert_eq!(done(&write, None), of_none, "{write:?}");
    }
    assert!(repeatable(&update(set.clone())) && !repeatable(&update(set.add("n", 1_i64))));
}

#[test]
fn writes_are_checked_before_they_are_sent() {
    let put = |name: &str, value: Value| Write::Put {
        table: &POOLS,
        item: row(&[("pool_name", "a".into()), (name, value)]),
        cond: Cond::Always,
    };
    let update = |update: Update| Write::Update { table: &POOLS, key: "a".into(), update, cond: Cond::Always };
    for bad in [
        put("row_kind", "".into()),
        put("x", Value::F(f64::INFINITY)),
        put("x", Value::L(Box::new([Value::F(1e200)]))),
        put("x", "x".repeat(crate::table::MAX_ITEM).into()),
        update(Update::default().set("row_kind", "")),
        update(Update::default().set_if_absent("row_kind", true)),
        update(Update::default().set("pool_name", "b")),
        update(Update::default().set("x", 1_i64).remove("x")),
        update(Update::default().add("x", "1")),
        update(Update::default().add("x", Value::F(f64::NAN))),
        update(Update::default().set("x", "x".repeat(crate::table::MAX_ITEM))),
        Write::Delete { table: &POOLS, key: "".into(), cond: Cond::Always },
    ] {
        assert!(matches!(validated(vec![bad.clone()]), Err(Error::Invalid(_))), "{bad:?}");
    }
    let same = put("x", Value::N(1));
    assert!(validated(vec![same.clone(), same.clone()]).is_err());
    assert_eq!(validated(vec![put("x", Value::F(1.0))]).expect("allowed"), [same], "in its stored form");
}

#[test]
fn codes_have_a_meaning() {
    let is = |code: &str, message: &str, status| meaning(code, message, status);
    assert!(matches!(is("ThrottlingException", "", Some(400)), Fault::Busy(_)));
    assert!(matches!(is("TransactionInProgressException", "", Some(400)), Fault::Busy(_)));
    assert!(matches!(is("InternalServerError", "", Some(500)), Fault::Open(_)));
    assert!(matches!(is("unknown", "", Some(503)), Fault::Open(_)));
    assert!(matches!(is("unknown", "", Some(403)), Fault::Final(Error::Unavailable(_))));
    assert!(matches!(is("ResourceNotFoundException", "", Some(400)), Fault::Final(Error::Missing(_))));
    assert!(matches!(is("ValidationException", "wrong", Some(400)), Fault::Final(Error::Invalid(_))));
    for message in
        ["The table does not have the specified index: x", "Cannot read from backfilling global secondary index: x"]
    {
        assert!(matches!(is("ValidationException", message, Some(400)), Fault::NoIndex));
    }
    let reasons = |codes: &[&str]| {
        let reason = |code: &&str| Reason { code: (*code).to_owned(), message: String::new(), row: None };
        canceled_for(codes.iter().map(reason).collect())
    };
    assert!(matches!(reasons(&["None", "TransactionConflict"]), Fault::Busy(_)));
    assert!(matches!(reasons(&["ThrottlingError", "None"]), Fault::Busy(_)));
    assert!(matches!(reasons(&["TransactionConflict", "ConditionalCheckFailed"]), Fault::Canceled(_)));
    assert!(matches!(reasons(&["ConditionalCheckFailed", "ValidationError"]), Fault::Final(Error::Invalid(_))));
}

#[test]
fn what_others_wrote_reads_as_far_as_we_know_it() {
    use aws_sdk_dynamodb::types::AttributeValue as A;
    let foreign = [
        ("set".to_owned(), A::Ss(vec!["x".into()])),
        ("null".to_owned(), A::Null(true)),
        ("binary".to_owned(), A::B(aws_smithy_types::Blob::new([1]))),
        ("whole".to_owned(), A::N("1E+2".into())),
        ("money".to_owned(), A::N("0.10".into())),
        ("list".to_owned(), A::L(vec![A::Null(true), A::N("7".into())])),
    ];
    let expected =
        row(&[("whole", 100_i64.into()), ("money", Value::F(0.1)), ("list", Value::L(Box::new([7_i64.into()])))]);
    assert_eq!(from_row(foreign.into()), expected);
}

#[test]
fn queries_become_key_conditions() {
    let query = Query::of(STATUS_CREATED, "requeued");
    let keys = |query: &Query| {
        Checked::new(&JOBS, query).expect("allowed").selection(&names().index(STATUS_CREATED, "mine"), &JOBS, 5)
    };
    let (from, until) = (Some(Value::from("a")), Some(Value::from("c")));
    assert_eq!(keys(&query).keys, "#0 = :0");
    assert_eq!(keys(&query).index, "mine");
    assert_eq!(keys(&query).filter.as_deref(), Some("NOT (attribute_type(#1, :1) AND #1 <= :2)"));
    assert_eq!(keys(&Query { from: from.clone(), ..query.clone() }).keys, "#0 = :0 AND #1 >= :1");
    assert_eq!(keys(&Query { until: until.clone(), ..query.clone() }).keys, "#0 = :0 AND #1 < :1");
    let both = Query { from, until, ..query.clone() };
    assert_eq!(keys(&both).keys, "#0 = :0 AND #1 BETWEEN :1 AND :2");
    let checked = Checked::new(&JOBS, &both).expect("allowed");
    let at = |created: &str| row(&[("job_id", 1_i64.into()), ("created_at", created.into())]);
    assert!(checked.keeps(&JOBS, &at("bz"), 5) && !checked.keeps(&JOBS, &at("c"), 5), "the upper bound is out");
    assert!(Checked::new(&JOBS, &Query { until: Some("a".into()), ..both }).expect("allowed").is_empty());
    assert!(Checked::new(&JOBS, &Query { limit: Some(0), ..query }).expect("allowed").is_empty());
    let ranged = Query { from: Some("a".into()), ..Query::of(crate::schema::INSTANCE_ID, "i-1") };
    assert!(matches!(Checked::new(&JOBS, &ranged), Err(Error::Invalid(_))));
    assert!(matches!(Checked::new(&JOBS, &Query::of("none", "x")), Err(Error::Missing(_))));
}

fn as_wanted(layout: &Layout) -> Found {
    let key = |(name, kind): (&str, Kind)| (name.to_owned(), kind.as_str().to_owned());
    let indexes = layout.indexes.iter().map(|index| FoundIndex {
        name: index.name.clone(),
        key: std::iter::once(key(index.hash)).chain(index.range.map(key)).collect(),
        all: true,
        ready: true,
    });
    let indexes = indexes.collect();
    Found { key: vec![key(layout.key)], indexes, ttl: layout.ttl.map(str::to_owned), settled: true }
}

#[test]
fn deviations_of_a_table_are_told_apart() {
    let layouts = layouts(&names().index(POOL_STATUS, "by-pool"));
    let jobs = &layouts[0];
    assert_eq!((jobs.table.as_str(), jobs.key), ("my-jobs", ("job_id", Kind::N)));
    assert!(jobs.indexes.iter().any(|index| index.name == "by-pool"));
    let found = as_wanted(jobs);
    let count = |change: &dyn Fn(&mut Found)| {
        let mut changed = found.clone();
        change(&mut changed);
        let findings = compare(jobs, Some(&changed));
        (findings.fatal.len(), findings.warnings.len(), next(jobs, Some(&changed)))
    };
    assert_eq!(count(&|_| {}), (0, 0, None));
    assert_eq!(count(&|found| found.key[0].0 = "instance_id".into()).0, 1);
    assert_eq!(count(&|found| found.key[0].1 = "S".into()).0, 1);
    assert_eq!(count(&|found| found.key.push(("range".into(), "S".into()))).0, 1);
    assert_eq!(count(&|found| found.ttl = None), (0, 1, Some(Step::Expire("ttl"))));
    assert_eq!(count(&|found| found.ttl = Some("other".into())), (0, 1, None), "what is there is not changed");
    let first = Some(Step::Index(jobs.indexes[0].clone()));
    assert_eq!(count(&|found| drop(found.indexes.remove(0))), (0, 1, first));
    assert_eq!(count(&|found| found.indexes[0].all = false), (0, 1, None));
    assert_eq!(count(&|found| found.indexes[0].key.truncate(1)), (0, 1, None));
    assert_eq!(count(&|found| found.indexes[0].ready = false), (0, 1, Some(Step::Wait)));
    assert_eq!(count(&|found| found.settled = false), (0, 0, Some(Step::Wait)));
    assert_eq!(next(jobs, None), Some(Step::Create));
    let missing = compare(jobs, None).fatal.join("");
    assert!(missing.contains("my-jobs") && missing.contains("setup --create"), "{missing}");
    let circuits = TableNames::new().table(&CIRCUITS, "my-circuits");
    let bearable = compare(&super::layouts(&circuits)[0], None);
    assert_eq!((bearable.fatal.len(), bearable.warnings.len()), (0, 1), "spot capacity is used all the same");
}

#[test]
fn the_printed_commands_make_the_tables() {
    for layout in layouts(&names()) {
        let json = layout.create_table();
        assert_eq!(json["AttributeDefinitions"].as_array().map(Vec::len), Some(layout.attributes().len()), "{json}");
        assert_eq!(json["BillingMode"], "PAY_PER_REQUEST");
        assert_eq!(json.get("GlobalSecondaryIndexes").is_none(), layout.indexes.is_empty());
        let text = layout.to_string();
        assert!(text.lines().all(|line| line.starts_with("aws dynamodb ")), "{text}");
        assert_eq!(text.contains("update-time-to-live"), layout.ttl.is_some());
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::N),
        (-1e100_f64..1e100).prop_map(Value::F),
        (-1.0_f64..1.0).prop_map(Value::F),
        any::<bool>().prop_map(Value::Bool),
        ".{0,8}".prop_map(|text| Value::S(text.into())),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| Value::L(list.into())),
            prop::collection::btree_map("[a-c.#]{1,3}", inner, 0..4)
                .prop_map(|map| Value::M(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(mut value in value()) {
        crate::cond::canonical(&mut value).expect("numbers");
        let item = row(&[("x", value)]);
        prop_assert_eq!(from_row(to_row(&item)), item);
    }
}
