//! What the tables must look like, and how what is there differs. Pure.
//!
//! A table with another key, or none, is fatal: every operation on it would fail. Everything else costs time or money
//! only, and is a warning.

use std::fmt;

use serde_json::{Value as Json, json};

use super::names::TableNames;
use crate::schema::{ALL, CIRCUITS, JOBS};
use crate::table::Schema;

/// The kind of a key attribute; DynamoDB fixes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Text.
    S,
    /// A number.
    N,
}

impl Kind {
    /// Of our key attributes only the jobs' own is a number.
    fn of(attribute: &str) -> Self {
        if attribute == JOBS.key { Self::N } else { Self::S }
    }

    /// DynamoDB's letter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::S => "S",
            Self::N => "N",
        }
    }
}

/// What a table must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Its name (or ARN) in the account.
    pub table: String,
    /// What it is for.
    pub role: &'static str,
    /// Hash key; there is no range key.
    pub key: (&'static str, Kind),
    /// Secondary indexes; each projects every attribute.
    pub indexes: Vec<IndexLayout>,
    /// Attribute with the expiry of a row.
    pub ttl: Option<&'static str>,
}

/// What an index must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexLayout {
    /// Its name in the account.
    pub name: String,
    /// Hash attribute.
    pub hash: (&'static str, Kind),
    /// Range attribute.
    pub range: Option<(&'static str, Kind)>,
}

/// The layout of every configured table.
pub fn layouts(names: &TableNames) -> Vec<Layout> {
    ALL.into_iter().filter_map(|table| layout(names, table)).collect()
}

fn layout(names: &TableNames, table: &'static Schema) -> Option<Layout> {
    let typed = |attribute: &'static str| (attribute, Kind::of(attribute));
    let indexes = table.indexes.iter().map(|index| IndexLayout {
        name: names.of_index(index).to_owned(),
        hash: typed(index.hash),
        range: index.range.map(typed),
    });
    Some(Layout {
        table: names.of(table).ok()?.to_owned(),
        role: table.name,
        key: typed(table.key),
        indexes: indexes.collect(),
        ttl: table.ttl,
    })
}

impl Layout {
    /// Key attributes with their kinds, each once.
    pub fn attributes(&self) -> Vec<(&'static str, Kind)> {
        let of_indexes = self.indexes.iter().flat_map(|index| std::iter::once(index.hash).chain(index.range));
        let mut attributes: Vec<_> = std::iter::once(self.key).chain(of_indexes).collect();
        attributes.sort_unstable();
        attributes.dedup();
        attributes
    }

    /// What `aws dynamodb create-table --cli-input-json` takes.
    pub fn create_table(&self) -> Json {
        let keys = |hash: &str, range: Option<&str>| {
            let mut keys = vec![json!({"AttributeName": hash, "KeyType": "HASH"})];
            keys.extend(range.map(|range| json!({"AttributeName": range, "KeyType": "RANGE"})));
            keys
        };
        let attributes = self
            .attributes()
            .into_iter()
            .map(|(name, kind)| json!({"AttributeName": name, "AttributeType": kind.as_str()}));
        let mut table = json!({
            "TableName": self.table,
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": attributes.collect::<Vec<_>>(),
            "KeySchema": keys(self.key.0, None),
        });
        let indexes = self.indexes.iter().map(|index| {
            json!({
                "IndexName": index.name,
                "KeySchema": keys(index.hash.0, index.range.map(|(name, _)| name)),
                "Projection": {"ProjectionType": "ALL"},
            })
        });
        if !self.indexes.is_empty() {
            table["GlobalSecondaryIndexes"] = indexes.collect();
        }
        table
    }
}

/// Commands of the AWS command line that make the table, one a line.
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = &self.table;
        writeln!(f, "aws dynamodb create-table --cli-input-json '{}'", self.create_table())?;
        writeln!(f, "aws dynamodb wait table-exists --table-name '{table}'")?;
        if let Some(ttl) = self.ttl {
            let ttl = format!("Enabled=true,AttributeName={ttl}");
            writeln!(f, "aws dynamodb update-time-to-live --table-name '{table}' --time-to-live-specification {ttl}")?;
        }
        let recovery = "PointInTimeRecoveryEnabled=true";
        writeln!(
            f,
            "aws dynamodb update-continuous-backups --table-name '{table}' --point-in-time-recovery-specification \
             {recovery}"
        )
    }
}

/// A table as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Found {
    /// Hash attribute, then range attribute, each with DynamoDB's letter for its kind.
    pub(super) key: Vec<(String, String)>,
    pub(super) indexes: Vec<FoundIndex>,
    /// Attribute with the expiry, when there is one.
    pub(super) ttl: Option<String>,
    /// Nothing about it is changing just now.
    pub(super) settled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct FoundIndex {
    pub(super) name: String,
    pub(super) key: Vec<(String, String)>,
    /// Projects every attribute.
    pub(super) all: bool,
    /// Filled, and ready to be asked.
    pub(super) ready: bool,
}

/// How a table differs from its layout.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Findings {
    pub(super) fatal: Vec<String>,
    pub(super) warnings: Vec<String>,
}

fn keys(hash: (&str, Kind), range: Option<(&str, Kind)>) -> Vec<(String, String)> {
    let key = |(name, kind): (&str, Kind)| (name.to_owned(), kind.as_str().to_owned());
    std::iter::once(key(hash)).chain(range.map(key)).collect()
}

fn words(keys: &[(String, String)]) -> String {
    keys.iter().map(|(name, kind)| format!("{name} ({kind})")).collect::<Vec<_>>().join(", ")
}

/// Compares a table with its layout; `None`: there is no such table.
pub(super) fn compare(layout: &Layout, found: Option<&Found>) -> Findings {
    let Layout { table, role, .. } = layout;
    let mut findings = Findings::default();
    let Some(found) = found else {
        let text = format!(
            "DynamoDB table {table} ({role}) does not exist; `runs-fleet-server setup --create` makes it, or:\n{layout}"
        );
        // Without circuits spot capacity is used as if nothing had ever been interrupted; jobs run.
        let bearable = *role == CIRCUITS.name;
        if bearable { &mut findings.warnings } else { &mut findings.fatal }.push(text);
        return findings;
    };
    let wanted = keys(layout.key, None);
    if found.key != wanted {
        findings.fatal.push(format!(
            "DynamoDB table {table} ({role}) has the key {}, but must have {}; a key cannot be changed: configure \
             another name and run `runs-fleet-server setup --create`",
            words(&found.key),
            words(&wanted)
        ));
        return findings;
    }
    for index in &layout.indexes {
        let (name, wanted) = (&index.name, keys(index.hash, index.range));
        let mut warn = |text: String| findings.warnings.push(format!("table {table}: index {name} {text}"));
        match found.indexes.iter().find(|found| found.name == *name) {
            None => warn("is missing; the whole table is read in its place".to_owned()),
            Some(found) if found.key != wanted => {
                warn(format!("has the key {}, but must have {}", words(&found.key), words(&wanted)));
            }
            Some(found) if !found.all => {
                warn("does not project all attributes; rows found by it are partial".to_owned());
            }
            Some(found) if !found.ready => warn("is still being filled".to_owned()),
            Some(_) => {}
        }
    }
    match (layout.ttl, found.ttl.as_deref()) {
        (Some(wanted), None) => {
            findings.warnings.push(format!("table {table}: rows do not expire; time to live should be on {wanted}"));
        }
        (Some(wanted), Some(found)) if wanted != found => {
            findings.warnings.push(format!("table {table}: rows expire by {found}, but should by {wanted}"));
        }
        _ => {}
    }
    findings
}

/// What to do next to make a table look right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Create,
    /// Wait: something is being changed.
    Wait,
    /// Make this index.
    Index(IndexLayout),
    /// Make rows expire by this attribute.
    Expire(&'static str),
}

/// The next step; `None` when nothing is missing that could be added. What is there is never changed.
pub(super) fn next(layout: &Layout, found: Option<&Found>) -> Option<Step> {
    let Some(found) = found else { return Some(Step::Create) };
    if !found.settled || found.indexes.iter().any(|index| !index.ready) {
        return Some(Step::Wait);
    }
    let missing = |index: &&IndexLayout| found.indexes.iter().all(|found| found.name != index.name);
    if let Some(index) = layout.indexes.iter().find(missing) {
        return Some(Step::Index(index.clone()));
    }
    layout.ttl.filter(|_| found.ttl.is_none()).map(Step::Expire)
}
