//! The table in DynamoDB.
//!
//! Wanted: what a condition, an update or a query means is decided in [`crate::cond`]; this back end only translates
//! ([`expression`](self), `request`, `select` are pure) and asks (`write`, `read`). It answers like the local back
//! ends, with these differences: DynamoDB fixes the kind of each key, so a key of the other kind is refused rather than
//! absent; a write that breaks a rule is refused even when its condition would not hold; and an update is not checked
//! for the size of the row it makes.
//!
//! Races survived:
//! * *An answer is lost and the write is sent again*: a single write that then finds its condition broken looks at the
//!   row, and counts as made when the row is as it would have left it; a transaction carries a token. A write that adds
//!   to a number is never sent twice.
//! * *A row is past its expiry but still there* (DynamoDB removes it up to days later): conditions and reads do not see
//!   it; an update that may create the row replaces it whole, on the condition that it is still expired.
//! * *Two transactions meet*: the refused one is tried again, then reported as unavailable.
//! * *An index does not exist yet*: the whole table is read, consistently, with a warning once an hour.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_smithy_runtime_api::client::interceptors::SharedInterceptor;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use domain::clock::{Clock, Rng};
use tokio::time::Instant;

use crate::table::{Cond, Error, Item, Outcome, Query, Schema, Table, Update, Value, Write};

mod expression;
mod fault;
mod names;
mod read;
mod request;
mod select;
mod setup;
mod tables;
mod value;
mod write;

#[cfg(test)]
mod tests;

pub use names::TableNames;
pub use tables::{IndexLayout, Kind, Layout, layouts};

/// See the module.
pub struct DynamoDb {
    client: Client,
    names: TableNames,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    /// Missing indexes, and when they were last spoken of.
    mentioned: Mutex<BTreeMap<String, Instant>>,
}

impl DynamoDb {
    /// A store on the named tables. `interceptor` sees every call; rows expire by `clock`; `rng` makes transaction
    /// tokens and spreads retries. The client connects within 3 s and waits 10 s for an answer; an operation, its
    /// retries included, ends within 15 s.
    pub fn new(
        config: &SdkConfig,
        interceptor: SharedInterceptor,
        names: TableNames,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
    ) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .read_timeout(Duration::from_secs(10))
            .operation_timeout(fault::TOTAL)
            .build();
        let mut config = aws_sdk_dynamodb::config::Builder::from(config)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        config.push_interceptor(interceptor);
        let client = Client::from_conf(config.build());
        Self { client, names, clock, rng, mentioned: Mutex::default() }
    }

    fn now(&self) -> i64 {
        self.clock.now().as_second()
    }
}

#[async_trait]
impl Table for DynamoDb {
    async fn get(&self, table: &'static Schema, key: &Value) -> Result<Option<Item>, Error> {
        self.row(table, key).await
    }

    async fn get_many(&self, table: &'static Schema, keys: &[Value]) -> Result<Vec<Item>, Error> {
        self.rows(table, keys).await
    }

    async fn put(&self, table: &'static Schema, item: Item, cond: Cond) -> Result<Outcome, Error> {
        Ok(self.one(Write::Put { table, item, cond }).await?.map(|_| ()))
    }

    async fn update(
        &self,
        table: &'static Schema,
        key: &Value,
        update: Update,
        cond: Cond,
    ) -> Result<Outcome<Item>, Error> {
        let write = Write::Update { table, key: key.clone(), update, cond };
        Ok(self.one(write).await?.map(Option::unwrap_or_default))
    }

    async fn delete(&self, table: &'static Schema, key: &Value, cond: Cond) -> Result<Outcome, Error> {
        Ok(self.one(Write::Delete { table, key: key.clone(), cond }).await?.map(|_| ()))
    }

    async fn query(&self, table: &'static Schema, query: Query) -> Result<Vec<Item>, Error> {
        self.of_index(table, &query).await
    }

    async fn count(&self, table: &'static Schema, query: Query) -> Result<usize, Error> {
        self.count_of(table, &query).await
    }

    async fn scan(&self, table: &'static Schema) -> Result<Vec<Item>, Error> {
        self.every(table).await
    }

    async fn transact(&self, mut writes: Vec<Write>) -> Result<Outcome, Error> {
        // One write needs no transaction, which costs twice as much and can meet another.
        if writes.len() == 1
            && let Some(write) = writes.pop()
        {
            return Ok(self.one(write).await?.map(|_| ()));
        }
        if writes.is_empty() {
            return Ok(Outcome::Applied(()));
        }
        self.all(writes).await
    }
}
