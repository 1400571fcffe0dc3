//! Conditions and updates as expressions. Pure.
//!
//! Every attribute name is an alias (`#0`) and every value a placeholder (`:0`), whatever the word: DynamoDB reserves
//! hundreds of words, and `status`, `pool`, `region` and `owner` are among them. Constant parts are folded away before
//! anything is named, because an unused name or value is refused, and so are doubled parentheses.
//!
//! Comparisons hold within a kind only, as everywhere; the expression says so itself.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::value::{Row, fits, to_attribute};
use crate::cond::{self, canonical};
use crate::table::{Cond, Error, Name, Schema, Update, Value};

/// Most operands of one `IN`.
const OPERANDS: usize = 100;

/// The names and values that the expressions of one request share.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Terms {
    aliases: BTreeMap<String, String>,
    values: Row,
}

impl Terms {
    pub(super) fn name(&mut self, name: &str) -> String {
        let next = self.aliases.len();
        self.aliases.entry(name.to_owned()).or_insert_with(|| format!("#{next}")).clone()
    }
    pub(super) fn value(&mut self, value: &Value) -> String {
        let name = format!(":{}", self.values.len());
        self.values.insert(name.clone(), to_attribute(value));
        name
    }
    /// Alias to name; `None` when there is none, as the request wants it.
    pub(super) fn names(&self) -> Option<std::collections::HashMap<String, String>> {
        let names = self.aliases.iter().map(|(name, alias)| (alias.clone(), name.clone()));
        (!self.aliases.is_empty()).then(|| names.collect())
    }
    /// Placeholder to value.
    pub(super) fn values(&self) -> Option<std::collections::HashMap<String, AttributeValue>> {
        (!self.values.is_empty()).then(|| self.values.clone())
    }
}

/// A condition without constants inside.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Test {
    True,
    False,
    Exists(Name),
    /// Name, operator, value.
    Is(Name, &'static str, Value),
    /// Also that the attribute is of this type.
    Ordered(Name, &'static str, Value),
    In(Name, Vec<Value>),
    BeginsWith(Name, String),
    All(Vec<Test>),
    Any(Vec<Test>),
    Not(Box<Test>),
}

impl Test {
    pub(super) fn all(tests: impl IntoIterator<Item = Self>) -> Self {
        Self::join(tests, Self::True, Self::False, Self::All)
    }
    pub(super) fn any(tests: impl IntoIterator<Item = Self>) -> Self {
        Self::join(tests, Self::False, Self::True, Self::Any)
    }
    pub(super) fn negate(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            Self::Not(test) => *test,
            test => Self::Not(Box::new(test)),
        }
    }

    fn join(tests: impl IntoIterator<Item = Self>, neutral: Self, ending: Self, of: fn(Vec<Self>) -> Self) -> Self {
        let mut kept = Vec::new();
        for test in tests {
            if test == ending {
                return ending;
            }
            if test != neutral {
                kept.push(test);
            }
        }
        match kept.pop() {
            None => neutral,
            Some(only) if kept.is_empty() => only,
            Some(last) => {
                kept.push(last);
                of(kept)
            }
        }
    }

    /// The expression; `None` for what always holds. What never holds must not be asked.
    pub(super) fn render(&self, terms: &mut Terms) -> Option<String> {
        match self {
            Self::True | Self::False => None,
            test => Some(test.text(terms)),
        }
    }

    fn text(&self, terms: &mut Terms) -> String {
        match self {
            Self::True | Self::False => String::new(),
            Self::Exists(name) => format!("attribute_exists({})", terms.name(name)),
            Self::Is(name, operator, value) => format!("{} {operator} {}", terms.name(name), terms.value(value)),
            Self::Ordered(name, operator, value) => {
                let kind = if matches!(value, Value::S(_)) { "S" } else { "N" };
                let (name, kind, value) = (terms.name(name), terms.value(&kind.into()), terms.value(value));
                format!("attribute_type({name}, {kind}) AND {name} {operator} {value}")
            }
            Self::In(name, values) => {
                let name = terms.name(name);
                let chunk = |values: &[Value], terms: &mut Terms| {
                    let values: Vec<_> = values.iter().map(|value| terms.value(value)).collect();
                    format!("{name} IN ({})", values.join(", "))
                };
                let chunks: Vec<_> = values.chunks(OPERANDS).map(|values| chunk(values, terms)).collect();
                chunks.join(" OR ")
            }
            Self::BeginsWith(name, text) => {
                let (name, text) = (terms.name(name), terms.value(&text.as_str().into()));
                format!("begins_with({name}, {text})")
            }
            Self::All(tests) => Self::list(tests, " AND ", terms),
            Self::Any(tests) => Self::list(tests, " OR ", terms),
            Self::Not(test) => format!("NOT {}", test.part(terms)),
        }
    }

    /// As a part of something else.
    fn part(&self, terms: &mut Terms) -> String {
        let compound = match self {
            Self::All(_) | Self::Any(_) | Self::Ordered(..) => true,
            Self::In(_, values) => values.len() > OPERANDS,
            _ => false,
        };
        let text = self.text(terms);
        if compound { format!("({text})") } else { text }
    }

    fn list(tests: &[Self], between: &str, terms: &mut Terms) -> String {
        let parts: Vec<_> = tests.iter().map(|test| test.part(terms)).collect();
        parts.join(between)
    }
}

/// The test for a condition.
pub(super) fn test(cond: &Cond) -> Result<Test, Error> {
    let ordered = |name: &Name, operator, value: &Value| {
        Ok::<_, Error>(match plain(value)? {
            value @ (Value::S(_) | Value::N(_) | Value::F(_)) => Test::Ordered(name.clone(), operator, value),
            // Other kinds have no order.
            _ => Test::False,
        })
    };
    Ok(match cond {
        Cond::Always => Test::True,
        Cond::Exists(name) => Test::Exists(name.clone()),
        Cond::Absent(name) => Test::Exists(name.clone()).negate(),
        Cond::Eq(name, value) => Test::Is(name.clone(), "=", plain(value)?),
        Cond::Lt(name, value) => ordered(name, "<", value)?,
        Cond::Gt(name, value) => ordered(name, ">", value)?,
        Cond::In(_, values) if values.is_empty() => Test::False,
        Cond::In(name, values) => Test::In(name.clone(), values.iter().map(plain).collect::<Result<_, _>>()?),
        Cond::BeginsWith(name, text) => Test::BeginsWith(name.clone(), text.clone()),
        Cond::And(all) => Test::all(all.iter().map(test).collect::<Result<Vec<_>, _>>()?),
        Cond::Or(any) => Test::any(any.iter().map(test).collect::<Result<Vec<_>, _>>()?),
        Cond::Not(cond) => test(cond)?.negate(),
    })
}

fn plain(value: &Value) -> Result<Value, Error> {
    let mut value = value.clone();
    match canonical(&mut value) {
        Some(()) if fits(&value) => Ok(value),
        _ => Err(Error::Invalid("a condition compares with a number that DynamoDB cannot hold".to_owned())),
    }
}

/// Whether the row is past its expiry at `now` (epoch seconds); DynamoDB removes such rows up to days later.
pub(super) fn expired(table: &Schema, now: i64) -> Test {
    table.ttl.map_or(Test::False, |ttl| Test::Ordered(ttl.into(), "<=", Value::N(now)))
}

/// The test for a condition to which a row past its expiry is none.
pub(super) fn of_live(table: &Schema, cond: &Cond, now: i64) -> Result<Test, Error> {
    let (gone, test) = (expired(table, now), test(cond)?);
    Ok(if cond::holds(cond, None) { Test::any([gone, test]) } else { Test::all([gone.negate(), test]) })
}

/// The update expression; `None` when there is nothing to change.
pub(super) fn update(update: &Update, terms: &mut Terms) -> Option<String> {
    let mut set = Vec::new();
    for (name, value) in &update.set {
        set.push(format!("{} = {}", terms.name(name), terms.value(value)));
    }
    for (name, value) in &update.set_if_absent {
        let name = terms.name(name);
        set.push(format!("{name} = if_not_exists({name}, {})", terms.value(value)));
    }
    let add: Vec<_> = update.add.iter().map(|(name, by)| format!("{} {}", terms.name(name), terms.value(by))).collect();
    let remove: Vec<_> = update.remove.iter().map(|name| terms.name(name)).collect();
    let clauses: Vec<_> = [("SET", set), ("ADD", add), ("REMOVE", remove)]
        .into_iter()
        .filter(|(_, parts)| !parts.is_empty())
        .map(|(word, parts)| format!("{word} {}", parts.join(", ")))
        .collect();
    (!clauses.is_empty()).then(|| clauses.join(" "))
}
