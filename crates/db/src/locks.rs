//! Task locks and pool locks: advisory, for work that may be repeated. A lock limits concurrency, never frequency, and
//! it is no fence: what must not be counted twice is written conditionally.
//!
//! An owner names one *acquisition*, not a process, and acquiring again is not re-entrant: two passes in one process
//! exclude each other, too. A holder that overran its time must assume it lost the lock; the token says which
//! acquisition a row belongs to.

use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, after};
use domain::ids::PoolName;

use crate::attrs;
use crate::claims::SKEW;
use crate::pools::{self, Pool};
use crate::schema::POOLS;
use crate::table::{Cond, Error, Item, Outcome, Table, Update, Value};

/// Names of a lock's attributes: owner, expiry (epoch s), token.
struct Names {
    owner: &'static str,
    expires: &'static str,
    token: &'static str,
}

const TASK: Names = Names { owner: "lock_owner", expires: "lock_expires", token: "lock_token" };
const POOL: Names =
    Names { owner: "reconcile_lock_owner", expires: "reconcile_lock_expires", token: "reconcile_lock_token" };

/// One acquisition. Pass it back to refresh or release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    owner: String,
    token: i64,
}

impl Held {
    /// The number of this acquisition; larger than that of every earlier one, as long as the row lives.
    pub const fn token(&self) -> i64 {
        self.token
    }

    /// Who acquired it; unlike the token it is never used again.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// That a pool's row still belongs to this acquisition.
    pub(crate) fn ours(&self) -> Cond {
        ours(&POOL, self)
    }

    /// What gives a pool's lock back. The token stays: it must never count backwards.
    pub(crate) fn returned(&self) -> Update {
        returned(&POOL)
    }
}

/// The answer to a request for a pool's lock.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
#[allow(clippy::large_enum_variant, reason = "one at a time")]
pub enum PoolLock {
    /// Ours; with the pool as it is at this moment.
    Acquired(Held, Pool),
    /// Somebody else's.
    Held,
    /// There is no such pool.
    NotFound,
}

/// See the module.
#[derive(Clone)]
pub struct Locks {
    table: Arc<dyn Table>,
    clock: Arc<dyn Clock>,
}

impl Locks {
    /// A store on `table`.
    pub fn new(table: Arc<dyn Table>, clock: Arc<dyn Clock>) -> Self {
        Self { table, clock }
    }

    /// Takes a task's lock for `ttl`; lost when it is held.
    pub async fn task(&self, task: &str, owner: &str, ttl: Duration) -> Result<Outcome<Held>, Error> {
        let extra = Update::default().set("row_kind", "task_lock");
        Ok(self.take(&TASK, task_key(task)?, owner, ttl, extra, Cond::Always).await?.map(|(held, _)| held))
    }

    /// Extends a held task lock to `ttl` from now; lost when it is no longer ours.
    pub async fn refresh_task(&self, task: &str, held: &Held, ttl: Duration) -> Result<Outcome, Error> {
        self.refresh(&TASK, task_key(task)?, held, ttl).await
    }

    /// Gives a task's lock back. No longer ours: fine, nothing changes.
    pub async fn release_task(&self, task: &str, held: &Held) -> Result<(), Error> {
        self.release(&TASK, task_key(task)?, held).await
    }

    /// Takes a pool's lock for `ttl`.
    pub async fn pool(&self, pool: &PoolName, owner: &str, ttl: Duration) -> Result<PoolLock, Error> {
        let key = pools::key(pool);
        let there = Cond::exists(POOLS.key);
        match self.take(&POOL, key.clone(), owner, ttl, Update::default(), there).await? {
            Outcome::Applied((held, item)) => match pools::decode(&item) {
                Some(pool) => Ok(PoolLock::Acquired(held, pool)),
                None => Err(Error::Unreadable(format!("pool {pool}"))),
            },
            Outcome::Lost if self.table.get(&POOLS, &key).await?.is_some() => Ok(PoolLock::Held),
            Outcome::Lost => Ok(PoolLock::NotFound),
        }
    }

    /// Extends a held pool lock to `ttl` from now; lost when it is no longer ours.
    pub async fn refresh_pool(&self, pool: &PoolName, held: &Held, ttl: Duration) -> Result<Outcome, Error> {
        self.refresh(&POOL, pools::key(pool), held, ttl).await
    }

    /// Gives a pool's lock back. No longer ours: fine, nothing changes.
    pub async fn release_pool(&self, pool: &PoolName, held: &Held) -> Result<(), Error> {
        self.release(&POOL, pools::key(pool), held).await
    }

    async fn take(
        &self,
        names: &Names,
        key: Value,
        owner: &str,
        ttl: Duration,
        extra: Update,
        there: Cond,
    ) -> Result<Outcome<(Held, Item)>, Error> {
        if owner.is_empty() || ttl < Duration::from_secs(1) {
            return Err(Error::Invalid("a lock has an owner and lasts at least a second".to_owned()));
        }
        let free = Cond::absent(names.expires).or(Cond::lt(names.expires, self.clock.now().as_second() - SKEW));
        let update = extra.set(names.owner, owner).set(names.expires, self.until(ttl)).add(names.token, 1_i64);
        let taken = self.table.update(&POOLS, &key, update, there.and(free)).await?;
        Ok(taken.map(|item| {
            let token = attrs::whole(&item, names.token).unwrap_or(0);
            (Held { owner: owner.to_owned(), token }, item)
        }))
    }

    async fn refresh(&self, names: &Names, key: Value, held: &Held, ttl: Duration) -> Result<Outcome, Error> {
        let update = Update::default().set(names.expires, self.until(ttl));
        Ok(self.table.update(&POOLS, &key, update, ours(names, held)).await?.map(|_| ()))
    }

    async fn release(&self, names: &Names, key: Value, held: &Held) -> Result<(), Error> {
        self.table.update(&POOLS, &key, returned(names), ours(names, held)).await?.applied();
        Ok(())
    }

    fn until(&self, ttl: Duration) -> i64 {
        after(self.clock.now(), ttl).as_second()
    }
}

fn ours(names: &Names, held: &Held) -> Cond {
    Cond::eq(names.owner, held.owner.as_str()).and(Cond::eq(names.token, held.token))
}

fn returned(names: &Names) -> Update {
    Update::default().remove(names.owner).remove(names.expires)
}

fn task_key(task: &str) -> Result<Value, Error> {
    if task.is_empty() {
        return Err(Error::Invalid("the task has no name".to_owned()));
    }
    Ok(Value::from(format!("__task_lock:{task}")))
}
