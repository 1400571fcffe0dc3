//! Looking at the tables, and making them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, CreateGlobalSecondaryIndexAction, GlobalSecondaryIndex,
    GlobalSecondaryIndexUpdate, IndexStatus, KeySchemaElement, KeyType, PointInTimeRecoverySpecification, Projection,
    ProjectionType, ScalarAttributeType, TableDescription, TableStatus, TimeToLiveSpecification, TimeToLiveStatus,
};
use aws_smithy_types::error::operation::BuildError;
use tokio::time::{Instant, sleep};

use super::DynamoDb;
use super::fault::{Failure, Fault, call};
use super::tables::{Found, FoundIndex, IndexLayout, Layout, Step, compare, layouts, next};
use crate::table::Error;

/// Pause between two looks at a table that is being changed.
const LOOK: Duration = Duration::from_secs(2);
/// Longest wait for one table. Filling an index of a large table takes longer; whoever asks again continues.
const PATIENCE: Duration = Duration::from_secs(600);

impl DynamoDb {
    /// Compares every configured table with what it must look like. Answers the deviations that only cost time or
    /// money: a missing index, rows that do not expire.
    ///
    /// # Errors
    /// [`Error::Missing`] when a table is missing or has another key; the text names each and says what to do.
    /// [`Error::Unavailable`] when DynamoDB did not answer.
    pub async fn check(&self) -> Result<Vec<String>, Error> {
        let (mut fatal, mut warnings) = (Vec::new(), Vec::new());
        for layout in layouts(&self.names) {
            let found = self.found(&layout).await?;
            let findings = compare(&layout, found.as_ref());
            fatal.extend(findings.fatal);
            warnings.extend(findings.warnings);
        }
        if fatal.is_empty() { Ok(warnings) } else { Err(Error::Missing(fatal.join("\n"))) }
    }

    /// Makes every configured table, index and expiry that is missing, and waits until they are ready. Answers what
    /// it made, in words. What exists is not changed; doing it again does nothing.
    ///
    /// # Errors
    /// [`Error::Missing`] for a table with another key; [`Error::Unavailable`] when DynamoDB refused, did not answer,
    /// or was not ready after ten minutes: do it again.
    pub async fn create(&self) -> Result<Vec<String>, Error> {
        let mut made = Vec::new();
        for layout in layouts(&self.names) {
            let end = Instant::now() + PATIENCE;
            loop {
                let found = self.found(&layout).await?;
                if found.is_some()
                    && let Some(fatal) = compare(&layout, found.as_ref()).fatal.pop()
                {
                    return Err(Error::Missing(fatal));
                }
                let table = &layout.table;
                match next(&layout, found.as_ref()) {
                    None => break,
                    Some(_) if Instant::now() >= end => {
                        return Err(Error::Unavailable(format!("table {table} is not ready yet; set up again")));
                    }
                    Some(Step::Wait) => sleep(LOOK).await,
                    Some(Step::Create) => {
                        self.make(&layout).await?;
                        made.push(format!("table {table}"));
                    }
                    Some(Step::Index(index)) => {
                        self.index(&layout, &index, &found.unwrap_or_default()).await?;
                        made.push(format!("index {} of table {table}", index.name));
                    }
                    Some(Step::Expire(attribute)) => {
                        self.expire(&layout, attribute).await?;
                        made.push(format!("time to live of table {table} on {attribute}"));
                    }
                }
            }
            self.recovery(&layout).await?;
        }
        Ok(made)
    }

    async fn found(&self, layout: &Layout) -> Result<Option<Found>, Error> {
        let (rng, name) = (self.rng.as_ref(), layout.table.as_str());
        let send = || self.client.describe_table().table_name(name).send();
        let table = match call(rng, name, true, send).await {
            Ok(answer) => answer.table,
            Err(Failure { fault: Fault::Final(Error::Missing(_)), .. }) => return Ok(None),
            Err(failure) => return Err(failure.into()),
        };
        let Some(table) = table else { return Ok(None) };
        let send = || self.client.describe_time_to_live().table_name(name).send();
        let ttl = match call(rng, name, true, send).await {
            Ok(answer) => answer.time_to_live_description,
            // A table in the making.
            Err(Failure { fault: Fault::Final(Error::Missing(_)), .. }) => None,
            Err(failure) => return Err(failure.into()),
        };
        let on = |status: &TimeToLiveStatus| matches!(status, TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling);
        let ttl = ttl.filter(|ttl| ttl.time_to_live_status().is_some_and(on)).and_then(|ttl| ttl.attribute_name);
        Ok(Some(Found { ttl, ..described(&table) }))
    }

    async fn make(&self, layout: &Layout) -> Result<(), Error> {
        let attributes = layout.attributes();
        let attributes = definitions(attributes.iter().map(|(name, kind)| (*name, kind.as_str())))?;
        let keys = keys(layout.key.0, None)?;
        let mut indexes = Vec::new();
        for IndexLayout { name, hash, range } in &layout.indexes {
            let index = GlobalSecondaryIndex::builder()
                .index_name(name)
                .set_key_schema(Some(self::keys(hash.0, range.map(|(name, _)| name))?))
                .projection(everything())
                .build();
            indexes.push(index.map_err(build)?);
        }
        let send = || {
            self.client
                .create_table()
                .table_name(&layout.table)
                .billing_mode(BillingMode::PayPerRequest)
                .set_attribute_definitions(Some(attributes.clone()))
                .set_key_schema(Some(keys.clone()))
                .set_global_secondary_indexes(Some(indexes.clone()).filter(|indexes| !indexes.is_empty()))
                .send()
        };
        call(self.rng.as_ref(), &layout.table, true, send).await?;
        Ok(())
    }

    async fn index(&self, layout: &Layout, index: &IndexLayout, found: &Found) -> Result<(), Error> {
        // Those of all key attributes, also of the ones that are there: the list is the table's.
        let there = found.key.iter().chain(found.indexes.iter().flat_map(|index| &index.key));
        let there = there.map(|(name, kind)| (name.as_str(), kind.as_str()));
        let new = std::iter::once(index.hash).chain(index.range).map(|(name, kind)| (name, kind.as_str()));
        let attributes = definitions(there.chain(new))?;
        let action = CreateGlobalSecondaryIndexAction::builder()
            .index_name(&index.name)
            .set_key_schema(Some(keys(index.hash.0, index.range.map(|(name, _)| name))?))
            .projection(everything())
            .build()
            .map_err(build)?;
        let update = GlobalSecondaryIndexUpdate::builder().create(action).build();
        let send = || {
            self.client
                .update_table()
                .table_name(&layout.table)
                .set_attribute_definitions(Some(attributes.clone()))
                .global_secondary_index_updates(update.clone())
                .send()
        };
        call(self.rng.as_ref(), &layout.table, true, send).await?;
        Ok(())
    }

    async fn expire(&self, layout: &Layout, attribute: &str) -> Result<(), Error> {
        let wanted = TimeToLiveSpecification::builder().enabled(true).attribute_name(attribute).build();
        let wanted = wanted.map_err(build)?;
        let send = || {
            let request = self.client.update_time_to_live().table_name(&layout.table);
            request.time_to_live_specification(wanted.clone()).send()
        };
        call(self.rng.as_ref(), &layout.table, true, send).await?;
        Ok(())
    }

    /// Point-in-time recovery: on, also when it is already.
    async fn recovery(&self, layout: &Layout) -> Result<(), Error> {
        let wanted = PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true).build();
        let wanted = wanted.map_err(build)?;
        let send = || {
            let request = self.client.update_continuous_backups().table_name(&layout.table);
            request.point_in_time_recovery_specification(wanted.clone()).send()
        };
        call(self.rng.as_ref(), &layout.table, true, send).await?;
        Ok(())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn build(error: BuildError) -> Error {
    Error::Invalid(error.to_string())
}

fn everything() -> Projection {
    Projection::builder().projection_type(ProjectionType::All).build()
}

fn keys(hash: &str, range: Option<&str>) -> Result<Vec<KeySchemaElement>, Error> {
    let key = |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().map_err(build);
    std::iter::once(key(hash, KeyType::Hash)).chain(range.map(|range| key(range, KeyType::Range))).collect()
}

fn definitions<'a>(attributes: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Vec<AttributeDefinition>, Error> {
    let definition = |(name, kind): (&str, &str)| {
        let kind = ScalarAttributeType::from(kind);
        AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().map_err(build)
    };
    attributes.collect::<BTreeMap<_, _>>().into_iter().map(definition).collect()
}

/// A table in our words, its expiry aside.
fn described(table: &TableDescription) -> Found {
    let kinds = table.attribute_definitions().iter();
    let kinds: HashMap<_, _> = kinds.map(|a| (a.attribute_name(), a.attribute_type().as_str())).collect();
    let keys = |keys: &[KeySchemaElement]| {
        let mut keys: Vec<_> = keys.iter().collect();
        keys.sort_by_key(|key| *key.key_type() != KeyType::Hash);
        let kind = |name: &str| kinds.get(name).copied().unwrap_or_default().to_owned();
        keys.into_iter().map(|key| (key.attribute_name().to_owned(), kind(key.attribute_name()))).collect()
    };
    let indexes = table.global_secondary_indexes().iter().map(|index| FoundIndex {
        name: index.index_name().unwrap_or_default().to_owned(),
        key: keys(index.key_schema()),
        all: index.projection().and_then(Projection::projection_type) == Some(&ProjectionType::All),
        ready: index.index_status().is_none_or(|status| *status == IndexStatus::Active)
            && index.backfilling() != Some(true),
    });
    Found {
        key: keys(table.key_schema()),
        indexes: indexes.collect(),
        ttl: None,
        settled: table.table_status().is_none_or(|status| *status == TableStatus::Active),
    }
}
