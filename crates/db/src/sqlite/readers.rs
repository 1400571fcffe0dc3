//! The reading connections. They never wait for the writer.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use domain::clock::Clock;
use rusqlite::{Connection, Params, params_from_iter};
use tokio::sync::Semaphore;

use super::{PATIENCE, failed, file, gone};
use crate::cond::{self, Key};
use crate::table::{Error, Item, Query, Schema, Value};

const CONNECTIONS: usize = 4;

pub(super) struct Readers {
    clock: Arc<dyn Clock>,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let idle = (0..CONNECTIONS).map(|_| file::read(path)).collect::<Result<_, _>>()?;
        Ok(Self { clock, idle: Arc::new(Mutex::new(idle)), permits: Arc::new(Semaphore::new(CONNECTIONS)) })
    }

    pub(super) async fn get(&self, table: &'static Schema, key: &Value) -> Result<Option<Item>, Error> {
        let (key, now) = (Key::of(table, key)?, self.now());
        let row = self.run(move |connection| file::load(connection, table, &key)).await?;
        Ok(row.filter(|row| !cond::expired(table, row, now)))
    }

    pub(super) async fn query(&self, table: &'static Schema, query: Query) -> Result<Vec<Item>, Error> {
        let select = Select::of(table, &query, self.now())?;
        self.run(move |connection| select.rows(connection, table)).await
    }

    pub(super) async fn count(&self, table: &'static Schema, query: Query) -> Result<usize, Error> {
        let select = Select::of(table, &query, self.now())?;
        self.run(move |connection| {
            let mut statement =
                connection.prepare_cached(&format!("SELECT count(*) FROM ({})", select.sql)).map_err(failed)?;
            let count: i64 = statement.query_row(select.parameters(), |row| row.get(0)).map_err(failed)?;
            Ok(usize::try_from(count).unwrap_or(usize::MAX))
        })
        .await
    }

    pub(super) async fn scan(&self, table: &'static Schema) -> Result<Vec<Item>, Error> {
        let select = Select {
            sql: format!("SELECT item FROM \"{}\" WHERE {LIVE} ORDER BY key", table.name),
            parameters: vec![Key::N(self.now())],
        };
        self.run(move |connection| select.rows(connection, table)).await
    }

    fn now(&self) -> i64 {
        self.clock.now().as_second()
    }

    /// Runs `f` on an idle connection, off the runtime's threads.
    async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let idle = Arc::clone(&self.idle);
        let permits = Arc::clone(&self.permits);
        let read = async move {
            let permit = permits.acquire_owned().await.map_err(|_| gone())?;
            let task = tokio::task::spawn_blocking(move || {
                let connection = idle.lock().unwrap_or_else(PoisonError::into_inner).pop().ok_or_else(gone)?;
                let answer = f(&connection);
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                // Only now may the next reader look for a connection, even if nobody waits for this answer any more.
                drop(permit);
                answer
            });
            task.await.map_err(|_| gone())?
        };
        tokio::time::timeout(PATIENCE, read)
            .await
            .unwrap_or_else(|_| Err(Error::Unavailable(format!("no answer within {PATIENCE:?}"))))
    }
}

/// Rows not past their expiry; `?1` is the time.
const LIVE: &str = "(expires IS NULL OR expires > ?1)";

/// A query of an index, as SQL.
pub(super) struct Select {
    pub(super) sql: String,
    parameters: Vec<Key>,
}

impl Select {
    pub(super) fn of(table: &'static Schema, query: &Query, now: i64) -> Result<Self, Error> {
        let index = &table.indexes[cond::index_of(table, query.index)?];
        let mut parameters = vec![Key::N(now), Key::of(table, &query.hash)?];
        let mut sql = format!("SELECT item FROM \"{}\" WHERE {LIVE} AND \"a_{}\" = ?2", table.name, index.hash);
        let direction = if query.descending { "DESC" } else { "ASC" };
        let mut order = format!("key {direction}");
        if let Some(range) = index.range {
            sql += &format!(" AND \"a_{range}\" IS NOT NULL");
            for (value, operator) in [(&query.from, ">="), (&query.until, "<")] {
                if let Some(value) = value {
                    parameters.push(Key::of(table, value)?);
                    sql += &format!(" AND \"a_{range}\" {operator} ?{}", parameters.len());
                }
            }
            order = format!("\"a_{range}\" {direction}, {order}");
        }
        sql += &format!(" ORDER BY {order}");
        if let Some(limit) = query.limit {
            parameters.push(Key::N(i64::try_from(limit).unwrap_or(i64::MAX)));
            sql += &format!(" LIMIT ?{}", parameters.len());
        }
        Ok(Self { sql, parameters })
    }

    pub(super) fn parameters(&self) -> impl Params {
        params_from_iter(&self.parameters)
    }

    fn rows(&self, connection: &Connection, table: &Schema) -> Result<Vec<Item>, Error> {
        let mut statement = connection.prepare_cached(&self.sql).map_err(failed)?;
        let mut rows = statement.query(self.parameters()).map_err(failed)?;
        let mut items = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            items.push(file::item(table, row)?);
        }
        Ok(items)
    }
}
