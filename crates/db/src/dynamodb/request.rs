//! A conditional write as a request. Pure.
//!
//! What the local back ends check when they compute the row afterwards is checked here before anything is sent, as
//! far as the write alone tells: whether an update makes a row larger than 64 KiB, adds to something that is no
//! number, or makes an index key of a fraction, only DynamoDB sees (its own limit is 400 KiB).

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;

use super::expression::{self, Terms, Test};
use super::names::TableNames;
use super::value::{Row, fits, to_attribute, to_row};
use crate::cond::{self, canonical};
use crate::table::{Error, Item, MAX_WRITES, Update, Value, Write};

/// An attribute that no row has. Removing it is how an update says that it changes nothing.
const NONE: &str = "_";

/// One write, ready to be sent alone or in a transaction.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) table: String,
    pub(super) action: Action,
    pub(super) condition: Option<String>,
    pub(super) terms: Terms,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    Put(Row),
    Update { key: Row, expression: String },
    Delete { key: Row },
}

/// What a request expects of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// The condition of the write. A row past its expiry counts as none; to an update it is in the way, because the
    /// update would keep its attributes.
    Asked,
    /// That the row is past its expiry: the write replaces it.
    Expired,
}

/// The writes in their stored form, if the rules of every back end allow them.
pub(super) fn validated(writes: Vec<Write>) -> Result<Vec<Write>, Error> {
    if writes.len() > MAX_WRITES {
        return Err(Error::Invalid(format!("{} writes in one transaction; the most is {MAX_WRITES}", writes.len())));
    }
    let mut rows = BTreeSet::new();
    let mut stored = Vec::with_capacity(writes.len());
    for write in writes {
        let (table, key) = cond::address(&write)?;
        if !rows.insert((table.name, key)) {
            return Err(Error::Invalid(format!("two writes of one transaction name the same row of {}", table.name)));
        }
        let checked = |item: Item| {
            let item = cond::checked(table, item)?;
            let fit = item.values().all(fits);
            let unfit = || Error::Invalid(format!("{} cannot hold a number this large or small", table.name));
            if fit { Ok(item) } else { Err(unfit()) }
        };
        stored.push(match write {
            Write::Put { table, item, cond } => Write::Put { table, item: checked(item)?, cond },
            Write::Update { table, key, mut update, cond } => {
                cond::named_once(table, &update)?;
                let mut all = update.set.clone();
                all.extend(update.set_if_absent.clone());
                checked(all)?;
                let Update { set, set_if_absent, add, .. } = &mut update;
                for value in set.values_mut().chain(set_if_absent.values_mut()).chain(add.values_mut()) {
                    canonical(value);
                }
                if let Some((name, _)) =
                    add.iter().find(|(_, by)| !matches!(by, Value::N(_) | Value::F(_)) || !fits(by) || nan(by))
                {
                    return Err(Error::Invalid(format!("{}.{name} cannot be added to", table.name)));
                }
                Write::Update { table, key, update, cond }
            }
            delete @ Write::Delete { .. } => delete,
        });
    }
    Ok(stored)
}

fn nan(value: &Value) -> bool {
    matches!(value, Value::F(number) if !number.is_finite())
}

/// The request for a write at `now` (epoch seconds); `None` when its condition can never hold.
pub(super) fn compile(names: &TableNames, write: &Write, guard: Guard, now: i64) -> Result<Option<Request>, Error> {
    let (table, key) = cond::address(write)?;
    let mut terms = Terms::default();
    let test = match (guard, write) {
        (Guard::Expired, _) => expression::expired(table, now),
        (Guard::Asked, Write::Update { cond, .. }) => {
            Test::all([expression::expired(table, now).negate(), expression::test(cond)?])
        }
        (Guard::Asked, Write::Put { cond, .. } | Write::Delete { cond, .. }) => expression::of_live(table, cond, now)?,
    };
    if test == Test::False {
        return Ok(None);
    }
    let condition = test.render(&mut terms);
    let key: Row = [(table.key.to_owned(), to_attribute(&key.to_value()))].into();
    let action = match write {
        Write::Put { item, .. } => Action::Put(to_row(item)),
        Write::Update { update, .. } => {
            let expression = expression::update(update, &mut terms);
            let nothing = |terms: &mut Terms| format!("REMOVE {}", terms.name(NONE));
            Action::Update { key, expression: expression.unwrap_or_else(|| nothing(&mut terms)) }
        }
        Write::Delete { .. } => Action::Delete { key },
    };
    Ok(Some(Request { table: names.of(table)?.to_owned(), action, condition, terms }))
}

/// The write that takes the place of an update whose row turned out to be past its expiry: to the update there was no
/// row. `None`: the row lives, or the update wants one.
pub(super) fn revived(write: &Write, row: Option<&Item>, now: i64) -> Result<Option<Write>, Error> {
    let Write::Update { table, update, cond, .. } = write else { return Ok(None) };
    if !row.is_some_and(|row| cond::expired(table, row, now)) || !cond::holds(cond, None) {
        return Ok(None);
    }
    let (_, key) = cond::address(write)?;
    let item = cond::checked(table, cond::updated(table, &key, None, update.clone())?)?;
    Ok(Some(Write::Put { table, item, cond: cond.clone() }))
}

/// Whether a row looks as the write would have left it. `None`: the write cannot be told from the row.
pub(super) fn done(write: &Write, row: Option<&Item>) -> Option<bool> {
    match write {
        Write::Put { item, .. } => Some(row == Some(item)),
        Write::Delete { .. } => Some(row.is_none()),
        Write::Update { update, .. } if update.set.is_empty() && !update.add.is_empty() => None,
        Write::Update { update, .. } => Some(row.is_some_and(|row| {
            update.set.iter().all(|(name, value)| row.get(name) == Some(value))
                && update.set_if_absent.keys().all(|name| row.contains_key(name))
                && update.remove.iter().all(|name| !row.contains_key(name))
        })),
    }
}

/// Whether sending the write twice is sending it once. An addition is made again.
pub(super) fn repeatable(write: &Write) -> bool {
    !matches!(write, Write::Update { update, .. } if !update.add.is_empty())
}

/// A key as a request has it.
pub(super) fn key_row(name: &str, value: &Value) -> std::collections::HashMap<String, AttributeValue> {
    [(name.to_owned(), to_attribute(value))].into()
}
