use db::table::{Cond, Error, Index, Item, MAX_ITEM, Outcome, Query, Schema, Update, Value, Write};

use crate::{BackEnd, back_ends_with, local_back_ends_with, row};

/// Every attribute is named with a word that DynamoDB reserves: back ends must not care (D34).
static T: Schema = Schema {
    name: "t",
    key: "key",
    indexes: &[
        Index { name: "by-status", hash: "status", range: Some("timestamp") },
        Index { name: "by-owner", hash: "owner", range: None },
        Index { name: "by-count", hash: "status", range: Some("count") },
    ],
    ttl: Some("ttl"),
};
static U: Schema = Schema { name: "u", key: "name", indexes: &[], ttl: None };

fn back_ends() -> Vec<BackEnd> {
    back_ends_with(&[&T, &U])
}

fn key(text: &str) -> Value {
    Value::from(text)
}

async fn put(back: &BackEnd, item: Item) {
    let put = back.table.put(&T, item, Cond::Always).await.expect("allowed");
    assert!(put.is_applied());
}

async fn get(back: &BackEnd, name: &str) -> Option<Item> {
    back.table.get(&T, &key(name)).await.expect("an answer")
}

#[allow(clippy::needless_pass_by_value, reason = "the answer is over")]
fn refused<X: std::fmt::Debug>(answer: Result<X, Error>) {
    assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
}

#[tokio::test]
async fn a_put_replaces_the_whole_row() {
    for back in back_ends() {
        assert_eq!(get(&back, "a").await, None);
        put(&back, row([("key", "a".into()), ("old", 1_i64.into())])).await;
        let nested =
            Value::L(Box::new([Value::M(row([("x", Value::F(0.5)), ("y", Value::L(Box::new([])))])), true.into()]));
        let new = row([("key", "a".into()), ("region", "é \" ' \0".into()), ("pool", nested)]);
        put(&back, new.clone()).await;
        assert_eq!(get(&back, "a").await, Some(new), "{}", back.name);
    }
}

#[tokio::test]
async fn keys_of_both_kinds_are_different_rows() {
    // DynamoDB fixes the kind of a key: there is nothing to tell apart.
    for back in local_back_ends_with(&[&T, &U]) {
        put(&back, row([("key", 7_i64.into()), ("kind", "number".into())])).await;
        put(&back, row([("key", "7".into()), ("kind", "text".into())])).await;
        let found = back.table.get(&T, &Value::N(7)).await.expect("an answer").expect("a row");
        assert_eq!(found["kind"], Value::from("number"), "{}", back.name);
        assert_eq!(get(&back, "7").await.expect("a row")["kind"], Value::from("text"));
        assert_eq!(back.table.scan(&T).await.expect("an answer").len(), 2);
        assert!(back.table.scan(&U).await.expect("an answer").is_empty(), "tables do not share rows");
    }
}

#[tokio::test]
async fn a_lost_condition_changes_nothing() {
    for back in back_ends() {
        let first = row([("key", "a".into()), ("version", 1_i64.into())]);
        let create = Cond::absent("key");
        assert!(back.table.put(&T, first.clone(), create.clone()).await.expect("allowed").is_applied());
        let second = row([("key", "a".into()), ("version", 9_i64.into())]);
        assert_eq!(back.table.put(&T, second, create).await.expect("allowed"), Outcome::Lost);
        let stale = Cond::eq("version", 2_i64);
        let update = Update::default().set("version", 3_i64);
        assert_eq!(back.table.update(&T, &key("a"), update, stale.clone()).await.expect("allowed"), Outcome::Lost);
        assert_eq!(back.table.delete(&T, &key("a"), stale).await.expect("allowed"), Outcome::Lost);
        assert_eq!(get(&back, "a").await, Some(first), "{}", back.name);
    }
}

#[tokio::test]
async fn an_update_names_what_it_changes_and_answers_the_new_row() {
    for back in back_ends() {
        put(&back, row([("key", "a".into()), ("kept", "k".into()), ("gone", 1_i64.into()), ("count", 1_i64.into())]))
            .await;
        let update = Update::default()
            .set("set", "s")
            .set_if_absent("kept", "other")
            .set_if_absent("first", 5_i64)
            .add("count", 2_i64)
            .add("sum", Value::F(0.5))
            .remove("gone")
            .remove("never there");
        let expected = row([
            ("key", "a".into()),
            ("kept", "k".into()),
            ("set", "s".into()),
            ("first", 5_i64.into()),
            ("count", 3_i64.into()),
            ("sum", Value::F(0.5)),
        ]);
        let answer = back.table.update(&T, &key("a"), update, Cond::exists("key")).await.expect("allowed");
        assert_eq!(answer, Outcome::Applied(expected.clone()), "{}", back.name);
        assert_eq!(get(&back, "a").await, Some(expected));
    }
}

#[tokio::test]
async fn an_update_creates_the_row_only_if_its_condition_allows_that() {
    for back in back_ends() {
        let update = Update::default().set("a", 1_i64);
        let there = Cond::exists("key");
        assert_eq!(back.table.update(&T, &key("n"), update.clone(), there).await.expect("allowed"), Outcome::Lost);
        assert_eq!(get(&back, "n").await, None, "{}", back.name);
        let made = back.table.update(&T, &key("n"), update, Cond::Always).await.expect("allowed");
        assert_eq!(made, Outcome::Applied(row([("key", "n".into()), ("a", 1_i64.into())])));
        assert!(back.table.delete(&T, &key("n"), Cond::Always).await.expect("allowed").is_applied());
        assert!(back.table.delete(&T, &key("n"), Cond::Always).await.expect("allowed").is_applied(), "again is fine");
    }
}

#[tokio::test]
async fn what_can_never_succeed_is_refused() {
    for back in back_ends() {
        let table = &back.table;
        put(&back, row([("key", "a".into()), ("text", "x".into())])).await;
        let before = table.scan(&T).await.expect("an answer");
        refused(table.get(&T, &key("")).await);
        refused(table.get(&T, &Value::Bool(true)).await);
        refused(table.put(&T, row([("no", "key".into())]), Cond::Always).await);
        refused(table.put(&T, row([("key", "".into())]), Cond::Always).await);
        for index_key in ["status", "timestamp", "owner"] {
            refused(table.put(&T, row([("key", "b".into()), (index_key, "".into())]), Cond::Always).await);
            refused(table.put(&T, row([("key", "b".into()), (index_key, true.into())]), Cond::Always).await);
            let update = Update::default().set(index_key, "");
            refused(table.update(&T, &key("a"), update, Cond::Always).await);
        }
        for update in [
            Update::default().set("key", "a"),
            Update::default().remove("key"),
            Update::default().add("key", 1_i64),
            Update::default().set("x", 1_i64).remove("x"),
            Update::default().add("text", 1_i64),
            Update::default().set("x", Value::F(f64::NAN)),
        ] {
            refused(table.update(&T, &key("a"), update, Cond::Always).await);
        }
        let long = |length: usize| row([("key", "b".into()), ("text", "x".repeat(length).into())]);
        refused(table.put(&T, long(MAX_ITEM), Cond::Always).await);
        assert_eq!(table.scan(&T).await.expect("an answer"), before, "{}: nothing was written", back.name);
        assert!(table.put(&T, long(MAX_ITEM - 100), Cond::Always).await.expect("allowed").is_applied());
        let query = Query::of("no-such-index", "x");
        assert!(matches!(table.query(&T, query).await, Err(Error::Missing(_))), "{}", back.name);
    }
}

#[tokio::test]
async fn an_index_is_sparse_ordered_and_complete() {
    for back in back_ends() {
        // Equal times are ordered by key; the store keeps the index through updates.
        let key = |number: i64| Value::from(format!("{number:04}"));
        for number in 0..300_i64 {
            let status = if number % 3 == 0 { "other" } else { "open" };
            let item = row([("key", key(number)), ("status", status.into()), ("timestamp", (number / 10).into())]);
            put(&back, item).await;
        }
        put(&back, row([("key", key(1000)), ("status", "open".into())])).await;
        let moved = Update::default().set("status", "open").set("timestamp", 0_i64);
        assert!(back.table.update(&T, &key(297), moved, Cond::Always).await.expect("allowed").is_applied());
        let left = Update::default().remove("timestamp");
        assert!(back.table.update(&T, &key(1), left, Cond::Always).await.expect("allowed").is_applied());
        assert!(back.table.delete(&T, &key(2), Cond::Always).await.expect("allowed").is_applied());

        let mut expected: Vec<(i64, i64)> =
            (0..300).filter(|n| n % 3 != 0 && *n > 2).map(|n| (n / 10, n)).chain([(0, 297)]).collect();
        expected.sort_unstable();
        let keys = async |query: Query| -> Vec<i64> {
            let rows = back.table.query(&T, query.clone()).await.expect("an answer");
            assert_eq!(back.table.count(&T, query).await.expect("an answer"), rows.len());
            let number = |row: &Item| if let Value::S(key) = &row["key"] { key.parse().ok() } else { None };
            rows.iter().map(|row| number(row).expect("a key of ours")).collect()
        };
        let all: Vec<i64> = expected.iter().map(|(_, key)| *key).collect();
        let open = Query::of("by-status", "open");
        assert_eq!(keys(open.clone()).await, all, "{}", back.name);
        let newest = Query { descending: true, limit: Some(5), ..open.clone() };
        assert_eq!(keys(newest).await, all.iter().rev().take(5).copied().collect::<Vec<_>>(), "{}", back.name);
        let part = Query { from: Some(Value::N(3)), until: Some(Value::N(5)), limit: Some(7), ..open.clone() };
        let within: Vec<_> = expected.iter().filter(|(at, _)| (3..5).contains(at)).map(|(_, key)| *key).collect();
        assert_eq!(keys(part).await, within[..7], "{}", back.name);
        assert_eq!(keys(Query { limit: Some(0), ..open }).await, [] as [i64; 0]);
        assert_eq!(keys(Query::of("by-status", "none")).await, [] as [i64; 0]);
        assert_eq!(keys(Query::of("by-count", "open")).await, [] as [i64; 0], "no row has the range attribute");
    }
}

#[tokio::test]
async fn a_row_past_its_expiry_is_gone() {
    for back in back_ends() {
        use domain::clock::Clock;
        let now = back.clock.now().as_second();
        let item = row([
            ("key", "a".into()),
            ("ttl", (now + 10).into()),
            ("status", "open".into()),
            ("timestamp", 1_i64.into()),
            ("rest", "old".into()),
        ]);
        put(&back, item).await;
        back.clock.advance(9);
        assert!(get(&back, "a").await.is_some(), "{}", back.name);
        back.clock.advance(1);
        assert_eq!(get(&back, "a").await, None, "{}", back.name);
        let query = Query::of("by-status", "open");
        assert!(back.table.query(&T, query.clone()).await.expect("an answer").is_empty());
        assert_eq!(back.table.count(&T, query).await.expect("an answer"), 0);
        assert!(back.table.scan(&T).await.expect("an answer").is_empty());
        // A condition sees no row either, and an update starts from nothing.
        let update = Update::default().set("new", 1_i64);
        assert_eq!(
            back.table.update(&T, &key("a"), update, Cond::absent("rest")).await.expect("allowed"),
            Outcome::Applied(row([("key", "a".into()), ("new", 1_i64.into())])),
            "{}",
            back.name
        );
    }
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing() {
    for back in back_ends() {
        put(&back, row([("key", "a".into()), ("version", 1_i64.into())])).await;
        put(&back, row([("key", "c".into())])).await;
        let writes = |version: i64| {
            vec![
                Write::Put { table: &U, item: row([("name", "n".into())]), cond: Cond::absent("name") },
                Write::Update {
                    table: &T,
                    key: key("a"),
                    update: Update::default().set("version", 2_i64),
                    cond: Cond::eq("version", version),
                },
                Write::Delete { table: &T, key: key("c"), cond: Cond::exists("key") },
            ]
        };
        assert_eq!(back.table.transact(writes(7)).await.expect("allowed"), Outcome::Lost);
        assert_eq!(back.table.get(&U, &key("n")).await.expect("an answer"), None, "{}", back.name);
        assert!(get(&back, "c").await.is_some());
        assert!(back.table.transact(writes(1)).await.expect("allowed").is_applied());
        assert!(back.table.get(&U, &key("n")).await.expect("an answer").is_some());
        assert_eq!(get(&back, "a").await.expect("a row")["version"], Value::N(2));
        assert_eq!(get(&back, "c").await, None);
    }
}

#[tokio::test]
async fn a_transaction_that_can_never_succeed_writes_nothing() {
    for back in back_ends() {
        let put = |name: &str| Write::Put { table: &T, item: row([("key", name.into())]), cond: Cond::Always };
        let bad = Write::Put { table: &T, item: row([("key", "z".into()), ("owner", "".into())]), cond: Cond::Always };
        refused(back.table.transact(vec![put("a"), bad]).await);
        refused(back.table.transact(vec![put("a"), put("a")]).await);
        refused(back.table.transact((0..26).map(|n| put(&n.to_string())).collect()).await);
        assert!(back.table.scan(&T).await.expect("an answer").is_empty(), "{}", back.name);
        let most = (0..25).map(|n| put(&n.to_string())).collect();
        assert!(back.table.transact(most).await.expect("allowed").is_applied());
        assert!(back.table.transact(vec![]).await.expect("allowed").is_applied(), "nothing to do is done");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_expect_the_same_one_wins() {
    for back in back_ends() {
        put(&back, row([("key", "a".into()), ("version", 0_i64.into())])).await;
        for round in 0..10_i64 {
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..50 {
                let table = back.table.clone();
                tasks.spawn(async move {
                    let update = Update::default().set("version", round + 1).add("count", 1_i64);
                    table.update(&T, &key("a"), update, Cond::eq("version", round)).await
                });
            }
            let outcomes = tasks.join_all().await;
            let won = outcomes.into_iter().filter(|outcome| outcome.as_ref().expect("allowed").is_applied()).count();
            assert_eq!(won, 1, "{}", back.name);
        }
        assert_eq!(get(&back, "a").await.expect("a row")["count"], Value::N(10));
    }
}
