//! What our tables and indexes are called in an account.

use std::collections::BTreeMap;

use crate::table::{Error, Index, Schema};

/// The configured names. A table without one is not used by this deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableNames {
    tables: BTreeMap<&'static str, String>,
    indexes: BTreeMap<&'static str, String>,
}

impl TableNames {
    /// No table yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also `table`, under the name (or ARN) it has in the account.
    #[must_use]
    pub fn table(mut self, table: &'static Schema, name: impl Into<String>) -> Self {
        self.tables.insert(table.name, name.into());
        self
    }

    /// The index that we call `index` has another name in the account.
    #[must_use]
    pub fn index(mut self, index: &'static str, name: impl Into<String>) -> Self {
        self.indexes.insert(index, name.into());
        self
    }

    /// The name of a table.
    ///
    /// # Errors
    /// [`Error::Missing`] for a table that is not configured.
    pub fn of(&self, table: &Schema) -> Result<&str, Error> {
        let missing = || Error::Missing(format!("no DynamoDB table is configured for {}", table.name));
        self.tables.get(table.name).map(String::as_str).ok_or_else(missing)
    }

    /// The name of an index.
    pub fn of_index(&self, index: &Index) -> &str {
        self.indexes.get(index.name).map_or(index.name, String::as_str)
    }
}
