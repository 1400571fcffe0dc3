//! Sending reads. Every page is followed to the end; single rows and scans are strongly consistent, indexes cannot be.

use std::collections::{BTreeSet, HashMap};
use std::sync::PoisonError;
use std::time::Duration;

use aws_sdk_dynamodb::types::{KeysAndAttributes, Select};
use tokio::time::{Instant, sleep};

use super::DynamoDb;
use super::expression::{Terms, expired};
use super::fault::{Failure, Fault, call};
use super::request::key_row;
use super::select::{Checked, Selection};
use super::value::{Row, from_row};
use crate::cond::{self, Key};
use crate::table::{Error, Item, Query, Schema, Value};

/// Keys of one batch.
const BATCH: usize = 100;
/// How often what a batch left out is asked for again.
const LEFT_OVERS: u32 = 5;
/// How often a missing index is mentioned.
const MENTION: Duration = Duration::from_secs(3600);

impl DynamoDb {
    pub(super) async fn row(&self, table: &'static Schema, key: &Value) -> Result<Option<Item>, Error> {
        let key = Key::of(table, key)?.to_value();
        let name = self.names.of(table)?;
        let send = || {
            let key = key_row(table.key, &key);
            self.client.get_item().table_name(name).set_key(Some(key)).consistent_read(true).send()
        };
        let answer = call(self.rng.as_ref(), name, true, send).await?;
        let now = self.now();
        Ok(answer.item.map(from_row).filter(|row| !cond::expired(table, row, now)))
    }

    pub(super) async fn rows(&self, table: &'static Schema, keys: &[Value]) -> Result<Vec<Item>, Error> {
        let keys = keys.iter().map(|key| Key::of(table, key)).collect::<Result<BTreeSet<_>, _>>()?;
        let keys: Vec<_> = keys.iter().map(|key| key_row(table.key, &key.to_value())).collect();
        let name = self.names.of(table)?;
        let mut found = Vec::new();
        for batch in keys.chunks(BATCH) {
            let mut wanted = batch.to_vec();
            let mut pause = Duration::from_millis(50);
            for turn in 0.. {
                let keys = KeysAndAttributes::builder().set_keys(Some(wanted)).consistent_read(true).build();
                let keys = keys.map_err(|error| Error::Invalid(error.to_string()))?;
                let send = || self.client.batch_get_item().request_items(name, keys.clone()).send();
                let answer = call(self.rng.as_ref(), name, true, send).await?;
                found.extend(answer.responses.into_iter().flatten().flat_map(|(_, rows)| rows).map(from_row));
                wanted = answer.unprocessed_keys.into_iter().flatten().flat_map(|(_, keys)| keys.keys).collect();
                if wanted.is_empty() {
                    break;
                }
                if turn == LEFT_OVERS {
                    return Err(Error::Unavailable(format!("{} rows of {name} were left out", wanted.len())));
                }
                sleep(self.rng.jitter(pause, 0.5)).await;
                pause *= 2;
            }
        }
        let now = self.now();
        found.retain(|row| !cond::expired(table, row, now));
        found.sort_by_cached_key(|row| row.get(table.key).and_then(Key::read));
        Ok(found)
    }

    pub(super) async fn every(&self, table: &'static Schema) -> Result<Vec<Item>, Error> {
        let (name, now) = (self.names.of(table)?, self.now());
        let mut terms = Terms::default();
        let filter = expired(table, now).negate().render(&mut terms);
        let (mut rows, mut next): (Vec<Item>, Option<Row>) = (Vec::new(), None);
        loop {
            let send = || {
                self.client
                    .scan()
                    .table_name(name)
                    .consistent_read(true)
                    .set_filter_expression(filter.clone())
                    .set_expression_attribute_names(terms.names())
                    .set_expression_attribute_values(terms.values())
                    .set_exclusive_start_key(next.clone())
                    .send()
            };
            let page = call(self.rng.as_ref(), name, true, send).await?;
            rows.extend(page.items.into_iter().flatten().map(from_row));
            next = page.last_evaluated_key.filter(|key| !key.is_empty());
            if next.is_none() {
                break;
            }
        }
        rows.sort_by_cached_key(|row| row.get(table.key).and_then(Key::read));
        Ok(rows)
    }

    pub(super) async fn of_index(&self, table: &'static Schema, query: &Query) -> Result<Vec<Item>, Error> {
        let checked = Checked::new(table, query)?;
        if checked.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.now();
        let selection = checked.selection(&self.names, table, now);
        let (mut rows, mut next) = (Vec::new(), None);
        while rows.len() < checked.limit {
            let page = match self.page(table, &selection, &checked, rows.len(), next, false).await {
                Ok(page) => page,
                Err(Failure { fault: Fault::NoIndex, .. }) => {
                    self.mention(table, &selection);
                    return Ok(checked.among(table, self.every(table).await?));
                }
                Err(failure) => return Err(failure.into()),
            };
            rows.extend(page.rows.into_iter().filter(|row| checked.keeps(table, row, now)));
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        checked.sort(table, &mut rows);
        rows.truncate(checked.limit);
        Ok(rows)
    }

    pub(super) async fn count_of(&self, table: &'static Schema, query: &Query) -> Result<usize, Error> {
        let checked = Checked::new(table, query)?;
        if checked.is_empty() {
            return Ok(0);
        }
        if query.limit.is_some() {
            return Ok(self.of_index(table, query).await?.len());
        }
        let now = self.now();
        let mut total: usize = 0;
        // All between the bounds, less those at the upper one.
        let less = checked.at_until(&self.names, table, now);
        for (selection, minus) in [(Some(checked.selection(&self.names, table, now)), false), (less, true)] {
            let Some(selection) = selection else { continue };
            let (mut count, mut next) = (0, None);
            loop {
                let page = match self.page(table, &selection, &checked, 0, next, true).await {
                    Ok(page) => page,
                    Err(Failure { fault: Fault::NoIndex, .. }) => return Ok(self.of_index(table, query).await?.len()),
                    Err(failure) => return Err(failure.into()),
                };
                count += page.count;
                next = page.next;
                if next.is_none() {
                    break;
                }
            }
            total = if minus { total.saturating_sub(count) } else { count };
        }
        Ok(total)
    }

    async fn page(
        &self,
        table: &Schema,
        selection: &Selection,
        checked: &Checked,
        have: usize,
        start: Option<Row>,
        count: bool,
    ) -> Result<Page, Failure> {
        let fatal = |error| Failure { fault: Fault::Final(error), unsure: false };
        let name = self.names.of(table).map_err(fatal)?;
        // One more than wanted: with two bounds a page may begin with a row that is not meant.
        let most = i32::try_from((checked.limit - have.min(checked.limit)).saturating_add(1)).ok();
        let send = || {
            self.client
                .query()
                .table_name(name)
                .index_name(&selection.index)
                .key_condition_expression(&selection.keys)
                .set_filter_expression(selection.filter.clone())
                .set_expression_attribute_names(selection.terms.names())
                .set_expression_attribute_values(selection.terms.values())
                .scan_index_forward(!checked.descending)
                .set_limit(most)
                .set_select(count.then_some(Select::Count))
                .set_exclusive_start_key(start.clone())
                .send()
        };
        let what = format!("{name}, index {}", selection.index);
        let answer = call(self.rng.as_ref(), &what, true, send).await?;
        Ok(Page {
            count: usize::try_from(answer.count).unwrap_or(0),
            rows: answer.items.into_iter().flatten().map(from_row).collect(),
            next: answer.last_evaluated_key.filter(|key| !key.is_empty()),
        })
    }

    /// Says, once an hour, that the whole table is read because an index is missing.
    fn mention(&self, table: &Schema, selection: &Selection) {
        let mut mentioned = self.mentioned.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if mentioned.get(&selection.index).is_none_or(|last| now.duration_since(*last) >= MENTION) {
            mentioned.insert(selection.index.clone(), now);
            tracing::warn!(
                table = table.name,
                index = selection.index,
                "the index is missing: the whole table is read instead; `runs-fleet-server setup --create` makes it"
            );
        }
    }
}

struct Page {
    rows: Vec<Item>,
    count: usize,
    next: Option<HashMap<String, aws_sdk_dynamodb::types::AttributeValue>>,
}
