//! DynamoDB as moto emulates it, for the contract.
//!
//! moto departs from DynamoDB: it ignores transaction tokens, answers a query of a missing index as it answers one of
//! a missing table, accepts empty index keys, and finds a truth equal to the number one. What hangs on those is shown
//! with the double of [`crate::double`] instead, on the other back ends, or left out of the random histories.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, SharedInterceptor};
use db::table::{Item, Schema, Value};
use db::{DynamoDb, TableNames};
use domain::clock::{Clock, Rng};

use crate::TestClock;

/// Sees every call and does nothing.
#[derive(Debug)]
struct Quiet;

impl Intercept for Quiet {
    fn name(&self) -> &'static str {
        "quiet"
    }
}

pub(crate) fn quiet() -> SharedInterceptor {
    SharedInterceptor::new(Quiet)
}

/// Chance that is the same in every run.
pub(crate) struct Dice(pub(crate) AtomicU32);

impl Rng for Dice {
    fn next_u64(&self) -> u64 {
        u64::from(self.0.fetch_add(1, Ordering::SeqCst)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// Key attributes of the tests' own tables that are numbers. DynamoDB fixes the kind of a key.
const NUMBERS: [&str; 5] = ["job_id", "timestamp", "count", "k", "n"];

/// Names that no other test has.
pub(crate) fn names(tables: &[&'static Schema]) -> TableNames {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    tables.iter().fold(TableNames::new(), |names, table| names.table(table, format!("{}-{number}", table.name)))
}

pub(crate) fn dynamo(names: TableNames, clock: &Arc<TestClock>) -> DynamoDb {
    let rng = Arc::new(Dice(AtomicU32::new(1)));
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    DynamoDb::new(&emulator::shared().dynamodb_sdk(), quiet(), names, clock, rng)
}

/// Runs on a runtime of its own, so that tests can stay as they are for the back ends that need none.
pub(crate) fn apart<T: Send>(work: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        scope.spawn(move || runtime.block_on(work)).join().expect("no panic")
    })
}

/// Makes the tables as the tests want them: any schema, without the waits of a real set-up.
pub(crate) fn make(tables: &[&'static Schema], names: &TableNames) {
    apart(async {
        let client = Client::new(&emulator::shared().dynamodb_sdk());
        for table in tables {
            let key = |name: &str, kind| {
                KeySchemaElement::builder().attribute_name(name).key_type(kind).build().expect("complete")
            };
            let mut attributes = vec![table.key];
            let mut request = client.create_table().table_name(names.of(table).expect("named"));
            for index in table.indexes {
                attributes.extend(std::iter::once(index.hash).chain(index.range));
                let range = index.range.map(|range| key(range, KeyType::Range));
                let keys: Vec<_> = std::iter::once(key(index.hash, KeyType::Hash)).chain(range).collect();
                let everything = Projection::builder().projection_type(ProjectionType::All).build();
                let index =
                    GlobalSecondaryIndex::builder().index_name(names.of_index(index)).set_key_schema(Some(keys));
                request = request.global_secondary_indexes(index.projection(everything).build().expect("complete"));
            }
            attributes.sort_unstable();
            attributes.dedup();
            for name in attributes {
                let kind = if NUMBERS.contains(&name) { ScalarAttributeType::N } else { ScalarAttributeType::S };
                let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(kind);
                request = request.attribute_definitions(attribute.build().expect("complete"));
            }
            let request = request.billing_mode(BillingMode::PayPerRequest).key_schema(key(table.key, KeyType::Hash));
            request.send().await.expect("a new table");
        }
    });
}

/// Stores a row behind the back of the checks. An empty text in an index key goes in by an update: rows have it from
/// before there was an index, and moto, unlike DynamoDB, lets an update make it.
pub(crate) fn restore(name: &str, key: &str, item: &Item) {
    let whole = item.iter().filter(|(_, value)| **value != Value::from(""));
    let whole: HashMap<_, _> = whole.map(|(name, value)| (name.to_string(), attribute(value))).collect();
    let empty = item.iter().filter(|(_, value)| **value == Value::from("")).map(|(name, _)| name);
    apart(async {
        let client = Client::new(&emulator::shared().dynamodb_sdk());
        client.put_item().table_name(name).set_item(Some(whole)).send().await.expect("stored");
        for attr in empty {
            let update = client.update_item().table_name(name).key(key, attribute(&item[key]));
            let update = update.update_expression("SET #a = :a").expression_attribute_names("#a", attr.as_ref());
            let value = AttributeValue::S(String::new());
            update.expression_attribute_values(":a", value).send().await.expect("stored");
        }
    });
}

fn attribute(value: &Value) -> AttributeValue {
    match value {
        Value::S(text) => AttributeValue::S(text.to_string()),
        Value::N(number) => AttributeValue::N(number.to_string()),
        Value::Bool(truth) => AttributeValue::Bool(*truth),
        other => panic!("no legacy row has {other:?}"),
    }
}
