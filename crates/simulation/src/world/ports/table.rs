//! The store of everybody, and as one process reaches it.
//!
//! Reads and conditional writes are consistent. Indexes are not: a query may answer from a state up to [`LAG`] old, as
//! DynamoDB's global secondary indexes do, rows and all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use db::schema::{JOBS, LOCKS, RUNNERS};
use db::table::{Cond, Item, Query, Schema, Update, Value, Write};
use db::{Error, Memory, Outcome, Table, Watch};
use domain::clock::{Clock, Rng};
use tokio::time::Instant;

use crate::world::happening::{Happening, Scene};
use crate::world::mutation::Mutation;
use crate::world::process::{Port, Process};

/// How far an index may be behind.
pub const LAG: Duration = Duration::from_secs(2);

/// What was written and is not in the indexes yet.
type Pending = VecDeque<(Instant, &'static Schema, Value, Option<Item>)>;

/// The store of everybody.
pub struct Store {
    rows: Memory,
    /// What queries see, while they lag.
    indexes: Memory,
    written: Arc<Written>,
    rng: Arc<dyn Rng>,
}

struct Written {
    scene: Scene,
    lags: AtomicBool,
    pending: Mutex<Pending>,
}

impl Written {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Written {
    fn wrote(&self, table: &'static Schema, before: Option<&Item>, after: Option<&Item>) {
        self.scene.happened(&Happening::Wrote { table, before, after });
        if self.lags.load(Ordering::Relaxed)
            && let Some(key) = after.or(before).and_then(|row| row.get(table.key))
        {
            self.pending().push_back((Instant::now(), table, key.clone(), after.cloned()));
        }
    }
}

impl Store {
    /// An empty store. With `lags`, indexes are behind, until [`Store::catch_up`].
    pub fn new(clock: &Arc<dyn Clock>, rng: Arc<dyn Rng>, scene: Scene, lags: bool) -> Arc<Self> {
        let written = Arc::new(Written { scene, lags: AtomicBool::new(lags), pending: Mutex::default() });
        Arc::new(Self {
            rows: Memory::watched(Arc::clone(clock), Arc::clone(&written) as Arc<dyn Watch>),
            indexes: Memory::new(Arc::clone(clock)),
            written,
            rng,
        })
    }

    /// What is really there.
    pub const fn rows(&self) -> &Memory {
        &self.rows
    }

    /// From here on indexes are current.
    pub fn catch_up(&self) {
        self.written.lags.store(false, Ordering::Relaxed);
        self.written.pending().clear();
    }

    async fn query(&self, table: &'static Schema, query: Query) -> Result<Vec<Item>, Error> {
        if !self.written.lags.load(Ordering::Relaxed) {
            return self.rows.query(table, query).await;
        }
        self.catch_up_to(LAG.mul_f64(self.rng.unit()))?;
        self.indexes.query(table, query).await
    }

    /// Indexes show what is older than this.
    fn catch_up_to(&self, lag: Duration) -> Result<(), Error> {
        let now = Instant::now();
        let mut pending = self.written.pending();
        while pending.front().is_some_and(|(at, ..)| now.duration_since(*at) >= lag) {
            let Some((_, table, key, row)) = pending.pop_front() else { break };
            match row {
                Some(row) => self.indexes.restore(table, &row)?,
                None => self.indexes.forget(table, &key)?,
            }
        }
        Ok(())
    }
}

/// The store, as one process reaches it.
pub struct ProcessTable {
    /// Whose.
    pub process: Arc<Process>,
    /// The store.
    pub store: Arc<Store>,
    /// A deliberate bug.
    pub mutation: Option<Mutation>,
}

fn unavailable<T>() -> Result<T, Error> {
    Err(Error::Unavailable("no answer".to_owned()))
}

impl ProcessTable {
    async fn call<T>(&self, name: &'static str, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.process.call(Port::Store, name, unavailable, call).await
    }
}

/// What a deliberate bug makes of a write.
fn twisted(mutation: Option<Mutation>, mut write: Write) -> Write {
    let Some(mutation) = mutation else { return write };
    let (Write::Put { table, cond, .. } | Write::Update { table, cond, .. } | Write::Delete { table, cond, .. }) =
        &mut write;
    let (jobs, runners) = (table.name == JOBS.name, table.name == RUNNERS.name);
    let mut free = jobs && mutation == Mutation::IgnoreVersion;
    free |= runners && mutation == Mutation::BindTakenMachine;
    let cond = std::mem::replace(cond, Cond::Always);
    let held = match &write {
        Write::Update { table, key: Value::S(key), update, .. } => is_twisted_hold(mutation, table, key, update),
        _ => false,
    };
    let put_back = |write: &mut Write, cond: Cond| {
        let (Write::Put { cond: place, .. } | Write::Update { cond: place, .. } | Write::Delete { cond: place, .. }) =
            write;
        *place = cond;
    };
    if let Write::Update { update, .. } = &mut write
        && jobs
    {
        let status = update.set.get("status").cloned();
        let becomes = |wanted: &str| status == Some(Value::from(wanted));
        free |= mutation == Mutation::ClaimUnconditionally && becomes("claiming");
        free |= mutation == Mutation::BindUnconditionally && becomes("launched");
        match mutation {
            Mutation::ForgetRetries if becomes("claiming") => {
                update.set.insert("retry_count", Value::N(0));
            }
            Mutation::ForgetAcceptance if becomes("claiming") => {
                update.set.insert("queued_at", Value::from("2031-01-01T00:00:00Z"));
            }
            Mutation::KeepMachineOnRequeue if becomes("requeued") => {
                update.remove.retain(|name| name != "instance_id");
            }
            _ => {}
        }
    }
    if !free && !held {
        put_back(&mut write, cond);
    }
    write
}

/// Whether a deliberate bug takes what another may hold.
fn is_twisted_hold(mutation: Mutation, table: &Schema, key: &str, update: &Update) -> bool {
    let takes = |owner: &str| update.set.contains_key(owner);
    match mutation {
        Mutation::ClaimHeldMachines => key.starts_with("__instance_claim:"),
        Mutation::LockHeldPools => takes("reconcile_lock_owner"),
        Mutation::LockHeldTasks => takes("lock_owner"),
        Mutation::TakeHeldLease => table.name == LOCKS.name && takes("fencing_token"),
        _ => false,
    }
}

impl ProcessTable {
    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    async fn write(&self, write: Write) -> Result<Outcome<Option<Item>>, Error> {
        let rows = &self.store.rows;
        let believed = match &write {
            Write::Update { table, key, .. } if self.is(Mutation::TakeLostForApplied) => Some((*table, key.clone())),
            _ => None,
        };
        let outcome = match twisted(self.mutation, write) {
            Write::Put { table, item, .. } if self.is(Mutation::AcceptNothing) && table.name == JOBS.name => {
                Outcome::Applied(Some(item))
            }
            Write::Put { table, item, cond } => rows.put(table, item, cond).await?.map(|()| None),
            Write::Update { table, key, update, cond } => rows.update(table, &key, update, cond).await?.map(Some),
            Write::Delete { table, key, cond } => rows.delete(table, &key, cond).await?.map(|()| None),
        };
        match (outcome, believed) {
            (Outcome::Lost, Some((table, key))) => Ok(Outcome::Applied(rows.get(table, &key).await?)),
            (outcome, _) => Ok(outcome),
        }
    }

    async fn transaction(&self, mut writes: Vec<Write>) -> Result<Outcome, Error> {
        if self.is(Mutation::HalfTransaction) {
            writes.truncate(1);
        }
        writes = writes.into_iter().map(|write| twisted(self.mutation, write)).collect();
        let outcome = self.store.rows.transact(writes).await?;
        Ok(if self.is(Mutation::TakeLostForApplied) { Outcome::Applied(()) } else { outcome })
    }
}

#[async_trait]
impl Table for ProcessTable {
    async fn get(&self, table: &'static Schema, key: &Value) -> Result<Option<Item>, Error> {
        let get = async {
            let mut row = self.store.rows.get(table, key).await?;
            if let Some(Value::N(until)) = row.as_mut().and_then(|row| row.get_mut("lease_expires_at"))
                && self.is(Mutation::LeaseNeverDies)
            {
                *until += 6 * 3600 * 1000;
            }
            Ok(row)
        };
        self.call("store.get", get).await
    }
    async fn put(&self, table: &'static Schema, item: Item, cond: Cond) -> Result<Outcome, Error> {
        let put = async { Ok(self.write(Write::Put { table, item, cond }).await?.map(|_| ())) };
        self.call("store.put", put).await
    }
    async fn update(
        &self,
        table: &'static Schema,
        key: &Value,
        update: Update,
        cond: Cond,
    ) -> Result<Outcome<Item>, Error> {
        let write = Write::Update { table, key: key.clone(), update, cond };
        let update = async { Ok(self.write(write).await?.map(Option::unwrap_or_default)) };
        self.call("store.update", update).await
    }
    async fn delete(&self, table: &'static Schema, key: &Value, cond: Cond) -> Result<Outcome, Error> {
        let delete = async { Ok(self.write(Write::Delete { table, key: key.clone(), cond }).await?.map(|_| ())) };
        self.call("store.delete", delete).await
    }
    async fn query(&self, table: &'static Schema, query: Query) -> Result<Vec<Item>, Error> {
        self.call("store.query", self.store.query(table, query)).await
    }
    async fn scan(&self, table: &'static Schema) -> Result<Vec<Item>, Error> {
        self.call("store.scan", self.store.rows.scan(table)).await
    }
    async fn transact(&self, writes: Vec<Write>) -> Result<Outcome, Error> {
        self.call("store.transact", self.transaction(writes)).await
    }
}
