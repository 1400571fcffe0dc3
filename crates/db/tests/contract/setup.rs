//! Making and checking the tables of DynamoDB, emulated.

use db::schema::{ALL, JOBS, RUNNERS, STATUS_CREATED};
use db::table::{Cond, Item, Query, Schema, Table};
use db::{Error, TableNames};

use crate::emulated::{dynamo, make, names};
use crate::{TestClock, row};

#[tokio::test]
async fn a_set_up_account_has_no_deviations_and_setting_up_again_does_nothing() {
    let names = names(&ALL).index(STATUS_CREATED, "by-status");
    let store = dynamo(names, &TestClock::new());
    let Err(Error::Missing(text)) = store.check().await else { panic!("nothing is there") };
    assert!(text.contains("(runners) does not exist") && text.contains("aws dynamodb create-table"), "{text}");
    let made = store.create().await.expect("made");
    assert_eq!(made.iter().filter(|made| made.starts_with("table ")).count(), ALL.len(), "{made:?}");
    assert_eq!(store.check().await.expect("complete"), [] as [String; 0]);
    assert_eq!(store.create().await.expect("complete"), [] as [String; 0]);
    // The configured index name is the one that is asked.
    let job: Item = row([("job_id", 1_i64.into()), ("status", "running".into()), ("created_at", "t".into())]);
    assert!(store.put(&JOBS, job.clone(), Cond::Always).await.expect("allowed").is_applied());
    assert_eq!(store.query(&JOBS, Query::of(STATUS_CREATED, "running")).await.expect("an answer"), [job]);
}

#[tokio::test]
async fn missing_indexes_and_expiry_are_added_to_a_table_that_is_there() {
    static BARE: Schema = Schema { name: "jobs", key: "job_id", indexes: &[], ttl: None };
    let names = names(&[&JOBS]);
    make(&[&BARE], &names);
    let store = dynamo(names, &TestClock::new());
    let warnings = store.check().await.expect("usable");
    assert_eq!(warnings.len(), JOBS.indexes.len() + 1, "{warnings:?}");
    assert_eq!(store.create().await.expect("made").len(), JOBS.indexes.len() + 1);
    assert_eq!(store.check().await.expect("complete"), [] as [String; 0]);
}

#[tokio::test]
async fn a_table_with_another_key_stops_the_start() {
    static OLD: Schema = Schema { name: "jobs", key: "instance_id", indexes: &[], ttl: None };
    let names = names(&[&JOBS, &RUNNERS]);
    make(&[&OLD], &names);
    let store = dynamo(names, &TestClock::new());
    for answer in [store.check().await.map(|_| ()), store.create().await.map(|_| ())] {
        let Err(Error::Missing(text)) = answer else { panic!("{answer:?}") };
        assert!(text.contains("has the key instance_id (S), but must have job_id (N)"), "{text}");
    }
}

#[tokio::test]
async fn a_table_that_is_not_there_is_named() {
    let store = dynamo(TableNames::new().table(&JOBS, "never-made"), &TestClock::new());
    let Err(Error::Missing(text)) = store.get(&JOBS, &1_i64.into()).await else { panic!("no such table") };
    assert!(text.contains("never-made") && text.contains("setup"), "{text}");
    let Err(Error::Missing(text)) = store.scan(&RUNNERS).await else { panic!("not configured") };
    assert!(text.contains("runners"), "{text}");
}
