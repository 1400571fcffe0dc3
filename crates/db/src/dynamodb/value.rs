//! Our values and DynamoDB's. Types that we never write (binary, sets, null) read as absent; they survive, because
//! updates are partial.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::cond;
use crate::table::{Item, Value};

/// A row as DynamoDB has it.
pub(super) type Row = HashMap<String, AttributeValue>;

pub(super) fn to_attribute(value: &Value) -> AttributeValue {
    match value {
        Value::S(text) => AttributeValue::S(text.to_string()),
        Value::N(number) => AttributeValue::N(number.to_string()),
        Value::F(number) => AttributeValue::N(decimal(*number)),
        Value::Bool(truth) => AttributeValue::Bool(*truth),
        Value::L(list) => AttributeValue::L(list.iter().map(to_attribute).collect()),
        Value::M(map) => AttributeValue::M(to_row(map)),
    }
}

pub(super) fn to_row(item: &Item) -> Row {
    item.iter().map(|(name, value)| (name.to_string(), to_attribute(value))).collect()
}

pub(super) fn from_row(row: Row) -> Item {
    row.into_iter().filter_map(|(name, value)| Some((name, from_attribute(value)?))).collect()
}

fn from_attribute(value: AttributeValue) -> Option<Value> {
    match value {
        AttributeValue::S(text) => Some(Value::from(text)),
        AttributeValue::N(number) => from_decimal(&number),
        AttributeValue::Bool(truth) => Some(Value::Bool(truth)),
        AttributeValue::L(list) => Some(Value::L(list.into_iter().filter_map(from_attribute).collect())),
        AttributeValue::M(map) => Some(Value::M(from_row(map))),
        _ => None,
    }
}

fn from_decimal(text: &str) -> Option<Value> {
    if let Ok(number) = text.parse() {
        return Some(Value::N(number));
    }
    let mut value = Value::F(text.parse().ok()?);
    cond::canonical(&mut value).map(|()| value)
}

/// The shortest decimal that reads back as the same number; with an exponent where the digits alone would be long.
fn decimal(number: f64) -> String {
    if number != 0.0 && !(1e-5..1e15).contains(&number.abs()) { format!("{number:e}") } else { number.to_string() }
}

/// Whether DynamoDB can hold the number: its magnitude lies between 1e-130 and 9.99…e125.
pub(super) fn fits(value: &Value) -> bool {
    match value {
        Value::F(number) => *number == 0.0 || (1e-130..9.99e125).contains(&number.abs()),
        Value::L(list) => list.iter().all(fits),
        Value::M(map) => map.values().all(fits),
        _ => true,
    }
}
