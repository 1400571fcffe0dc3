//! The file: its tables, its version, and whether it is sound.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::{ToSql, ToSqlOutput, Value as SqlValue, ValueRef};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::failed;
use crate::cond::Key;
use crate::table::{Error, Index, Item, Schema};

/// Version of the layout below. An older file is brought up to date, a newer one refused.
const LAYOUT: i64 = 1;

/// Opens the file for writing, creates what is missing, and checks what is there.
pub(super) fn create(path: &Path, tables: &[&'static Schema]) -> Result<Connection, Error> {
    let broken = |error: rusqlite::Error| {
        Error::Invalid(format!("the store {} cannot be opened: {error}; restore a backup", path.display()))
    };
    let connection = Connection::open(path).map_err(broken)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(broken)?;
    connection.set_prepared_statement_cache_capacity(128);
    connection.pragma_update(None, "journal_mode", "WAL").map_err(broken)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(broken)?;
    version(&connection, path)?;
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(broken)?;
    if verdict != "ok" {
        return Err(Error::Invalid(format!("the store {} is damaged ({verdict}); restore a backup", path.display())));
    }
    for table in tables {
        connection.execute_batch(&definition(table)).map_err(broken)?;
    }
    connection.pragma_update(None, "user_version", LAYOUT).map_err(broken)?;
    Ok(connection)
}

/// Opens the file for reading.
pub(super) fn read(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(128);
    version(&connection, path)?;
    Ok(connection)
}

fn version(connection: &Connection, path: &Path) -> Result<(), Error> {
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(|error| Error::Invalid(format!("{} is not a store of ours: {error}", path.display())))?;
    if found > LAYOUT {
        return Err(Error::Invalid(format!(
            "the store {} was written by a newer release (layout {found}, this one knows {LAYOUT})",
            path.display()
        )));
    }
    Ok(())
}

/// `key` is the hash key, `item` the row's JSON, `expires` its expiry. Each attribute that an index needs is a
/// generated column `a_<attribute>`: columns of type `ANY` keep numbers numbers and text text.
fn definition(table: &Schema) -> String {
    let name = table.name;
    let expires = table.ttl.map_or("NULL".to_owned(), json);
    let mut columns: Vec<&str> = table.indexes.iter().flat_map(|i| std::iter::once(i.hash).chain(i.range)).collect();
    columns.sort_unstable();
    columns.dedup();
    let mut sql = format!(
        "CREATE TABLE IF NOT EXISTS \"{name}\" (key ANY NOT NULL UNIQUE, item TEXT NOT NULL, \
         expires ANY GENERATED ALWAYS AS ({expires}) VIRTUAL"
    );
    for column in columns {
        sql += &format!(", \"a_{column}\" ANY GENERATED ALWAYS AS ({}) VIRTUAL", json(column));
    }
    sql += ") STRICT;\n";
    sql +=
        &format!("CREATE INDEX IF NOT EXISTS \"{name}.expires\" ON \"{name}\" (expires) WHERE expires IS NOT NULL;\n");
    for Index { name: index, hash, range } in table.indexes {
        let (range, sparse) = match range {
            Some(range) => (format!("\"a_{range}\", "), format!(" AND \"a_{range}\" IS NOT NULL")),
            None => (String::new(), String::new()),
        };
        sql += &format!(
            "CREATE INDEX IF NOT EXISTS \"{name}.{index}\" ON \"{name}\" (\"a_{hash}\", {range}key) \
             WHERE \"a_{hash}\" IS NOT NULL{sparse};\n"
        );
    }
    sql
}

fn json(attribute: &str) -> String {
    format!("json_extract(item, '$.\"{attribute}\"')")
}

impl ToSql for Key {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::N(number) => ToSqlOutput::Owned(SqlValue::Integer(*number)),
            Self::S(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        })
    }
}

/// The row, expired or not.
pub(super) fn load(connection: &Connection, table: &Schema, key: &Key) -> Result<Option<Item>, Error> {
    let sql = format!("SELECT item FROM \"{}\" WHERE key = ?1", table.name);
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let json: Option<String> = statement.query_row(params![key], |row| row.get(0)).optional().map_err(failed)?;
    json.map(|json| parse(table, &json)).transpose()
}

/// Stores or removes the row.
pub(super) fn store(connection: &Connection, table: &Schema, key: &Key, row: Option<&Item>) -> Result<(), Error> {
    let name = table.name;
    let Some(row) = row else {
        let mut statement =
            connection.prepare_cached(&format!("DELETE FROM \"{name}\" WHERE key = ?1")).map_err(failed)?;
        return statement.execute(params![key]).map(|_| ()).map_err(failed);
    };
    let json = serde_json::to_string(row).map_err(|error| Error::Invalid(error.to_string()))?;
    let sql = format!(
        "INSERT INTO \"{name}\" (key, item) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET item = excluded.item"
    );
    connection.prepare_cached(&sql).map_err(failed)?.execute(params![key, json]).map(|_| ()).map_err(failed)
}

/// Removes rows whose expiry has passed, at most `most`.
pub(super) fn reap(connection: &Connection, table: &Schema, now: i64, most: usize) -> Result<usize, Error> {
    let name = table.name;
    let sql = format!(
        "DELETE FROM \"{name}\" WHERE rowid IN \
         (SELECT rowid FROM \"{name}\" WHERE expires <= ?1 AND typeof(expires) <> 'text' LIMIT ?2)"
    );
    connection.prepare_cached(&sql).map_err(failed)?.execute(params![now, most as i64]).map_err(failed)
}

/// The first column as a row of the table.
pub(super) fn item(table: &Schema, row: &Row<'_>) -> Result<Item, Error> {
    let json = row.get_ref(0).map_err(failed)?;
    parse(table, json.as_str().map_err(|error| Error::Unreadable(format!("{}: {error}", table.name)))?)
}

fn parse(table: &Schema, json: &str) -> Result<Item, Error> {
    serde_json::from_str(json).map_err(|error| Error::Unreadable(format!("{}: {error}", table.name)))
}
