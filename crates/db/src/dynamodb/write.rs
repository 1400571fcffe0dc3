//! Sending conditional writes.

use aws_sdk_dynamodb::types::{
    Delete, Put, ReturnValue, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};

use super::DynamoDb;
use super::fault::{Failure, Fault, call};
use super::request::{self, Action, Guard, Request};
use super::value::from_row;
use crate::table::{Error, Item, Outcome, Write};

/// How often a write goes back to its row because the row expired, or came back, in between.
const TURNS: u32 = 4;
const OLD: ReturnValuesOnConditionCheckFailure = ReturnValuesOnConditionCheckFailure::AllOld;

impl DynamoDb {
    /// One write on its own. Answers the row as it is afterwards, except for a deletion.
    ///
    /// Races: the row expires just before or comes back during an update (it is looked at again); an attempt whose
    /// answer was lost did write (the row then already is as it should be, and the write counts as made).
    pub(super) async fn one(&self, write: Write) -> Result<Outcome<Option<Item>>, Error> {
        let Some(asked) = request::validated(vec![write])?.pop() else { return Ok(Outcome::Lost) };
        let mut replacement = None;
        for _ in 0..TURNS {
            let now = self.now();
            let (write, guard) = match &replacement {
                Some(put) => (put, Guard::Expired),
                None => (&asked, Guard::Asked),
            };
            let Some(request) = request::compile(&self.names, write, guard, now)? else {
                return Ok(Outcome::Lost);
            };
            let Failure { fault, unsure } = match self.send(&request, request::repeatable(write)).await {
                Ok(row) => {
                    let put = if let Write::Put { item, .. } = write { Some(item.clone()) } else { None };
                    return Ok(Outcome::Applied(row.or(put)));
                }
                Err(failure) => failure,
            };
            let Fault::Lost(row) = fault else {
                return Err(Failure { fault, unsure }.into());
            };
            if unsure {
                match request::done(write, row.as_ref()) {
                    Some(true) => return Ok(Outcome::Applied(row)),
                    Some(false) => {}
                    None => return Err(Error::Unavailable("the answer to a write was lost".to_owned())),
                }
            }
            let replaced = replacement.take().is_some();
            replacement = request::revived(&asked, row.as_ref(), now)?;
            if replacement.is_none() && !replaced {
                return Ok(Outcome::Lost);
            }
        }
        Err(Error::Unavailable("a row expires and returns too often to be written".to_owned()))
    }

    async fn send(&self, request: &Request, repeatable: bool) -> Result<Option<Item>, Failure> {
        let Request { table, action, condition, terms } = request;
        let (rng, what) = (self.rng.as_ref(), table.as_str());
        match action {
            Action::Put(item) => {
                let send = || {
                    self.client
                        .put_item()
                        .table_name(table)
                        .set_item(Some(item.clone()))
                        .set_condition_expression(condition.clone())
                        .set_expression_attribute_names(terms.names())
                        .set_expression_attribute_values(terms.values())
                        .return_values_on_condition_check_failure(OLD)
                        .send()
                };
                call(rng, what, repeatable, send).await.map(|_| None)
            }
            Action::Update { key, expression } => {
                let send = || {
                    self.client
                        .update_item()
                        .table_name(table)
                        .set_key(Some(key.clone()))
                        .update_expression(expression)
                        .set_condition_expression(condition.clone())
                        .set_expression_attribute_names(terms.names())
                        .set_expression_attribute_values(terms.values())
                        .return_values(ReturnValue::AllNew)
                        .return_values_on_condition_check_failure(OLD)
                        .send()
                };
                let answer = call(rng, what, repeatable, send).await?;
                Ok(Some(answer.attributes.map(from_row).unwrap_or_default()))
            }
            Action::Delete { key } => {
                let send = || {
                    self.client
                        .delete_item()
                        .table_name(table)
                        .set_key(Some(key.clone()))
                        .set_condition_expression(condition.clone())
                        .set_expression_attribute_names(terms.names())
                        .set_expression_attribute_values(terms.values())
                        .return_values_on_condition_check_failure(OLD)
                        .send()
                };
                call(rng, what, repeatable, send).await.map(|_| None)
            }
        }
    }

    /// Several writes, all or none. Every attempt of one transaction carries the same token, by which DynamoDB knows a
    /// transaction that it has already made.
    pub(super) async fn all(&self, writes: Vec<Write>) -> Result<Outcome, Error> {
        let asked = request::validated(writes)?;
        let mut replacements: Vec<Option<Write>> = vec![None; asked.len()];
        for _ in 0..TURNS {
            let now = self.now();
            let mut items = Vec::with_capacity(asked.len());
            let mut tables: Vec<String> = Vec::new();
            for (asked, replacement) in asked.iter().zip(&replacements) {
                let (write, guard) = match replacement {
                    Some(put) => (put, Guard::Expired),
                    None => (asked, Guard::Asked),
                };
                let Some(request) = request::compile(&self.names, write, guard, now)? else {
                    return Ok(Outcome::Lost);
                };
                if !tables.contains(&request.table) {
                    tables.push(request.table.clone());
                }
                items.push(item(request)?);
            }
            let token = self.rng.token();
            let send = || {
                self.client
                    .transact_write_items()
                    .set_transact_items(Some(items.clone()))
                    .client_request_token(&token)
                    .send()
            };
            let reasons = match call(self.rng.as_ref(), &tables.join(", "), true, send).await {
                Ok(_) => return Ok(Outcome::Applied(())),
                Err(Failure { fault: Fault::Canceled(reasons), .. }) => reasons,
                Err(failure) => return Err(failure.into()),
            };
            for (place, reason) in reasons.iter().enumerate().filter(|(_, r)| r.code == "ConditionalCheckFailed") {
                let (Some(asked), Some(replacement)) = (asked.get(place), replacements.get_mut(place)) else {
                    return Ok(Outcome::Lost);
                };
                let replaced = replacement.take().is_some();
                *replacement = request::revived(asked, reason.row.as_ref(), now)?;
                if replacement.is_none() && !replaced {
                    return Ok(Outcome::Lost);
                }
            }
        }
        Err(Error::Unavailable("a row expires and returns too often to be written".to_owned()))
    }
}

fn item(request: Request) -> Result<TransactWriteItem, Error> {
    let Request { table, action, condition, terms } = request;
    let (names, values) = (terms.names(), terms.values());
    let item = TransactWriteItem::builder();
    let item = match action {
        Action::Put(row) => Put::builder()
            .table_name(table)
            .set_item(Some(row))
            .set_condition_expression(condition)
            .set_expression_attribute_names(names)
            .set_expression_attribute_values(values)
            .return_values_on_condition_check_failure(OLD)
            .build()
            .map(|put| item.put(put)),
        Action::Update { key, expression } => Update::builder()
            .table_name(table)
            .set_key(Some(key))
            .update_expression(expression)
            .set_condition_expression(condition)
            .set_expression_attribute_names(names)
            .set_expression_attribute_values(values)
            .return_values_on_condition_check_failure(OLD)
            .build()
            .map(|update| item.update(update)),
        Action::Delete { key } => Delete::builder()
            .table_name(table)
            .set_key(Some(key))
            .set_condition_expression(condition)
            .set_expression_attribute_names(names)
            .set_expression_attribute_values(values)
            .return_values_on_condition_check_failure(OLD)
            .build()
            .map(|delete| item.delete(delete)),
    };
    Ok(item.map_err(|error| Error::Invalid(error.to_string()))?.build())
}
