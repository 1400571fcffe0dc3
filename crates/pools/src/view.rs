//! What was seen of a pool a moment ago: jobs that come together need not all ask EC2.

use std::collections::BTreeSet;
use std::sync::Arc;

use db::pools::Pool;
use domain::ids::{PoolName, RunnerKey};
use provider::Machine;
use provider::compute::Filter;
use tokio::time::Instant;
use tracing::debug;

use crate::error::Error;
use crate::pass::bounded;
use crate::warm::{WarmPools, lock};

/// Pools remembered.
const REMEMBERED: usize = 1000;

/// A pool, its machines, and which of them are busy, if that is known.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) pool: Arc<Pool>,
    pub(crate) machines: Arc<Vec<Machine>>,
    pub(crate) busy: Option<Arc<BTreeSet<RunnerKey>>>,
    pub(crate) at: Instant,
}

impl WarmPools {
    /// The machines with the pool's tag.
    pub(crate) async fn machines(&self, pool: &PoolName) -> Result<Vec<Machine>, Error> {
        let filter = Filter { pool: Some(pool.clone()), ..Filter::default() };
        bounded(self.ports.compute.list(&filter)).await
    }

    /// Has a look at the pool, so that a reservation that follows need not. Failures are met again there.
    pub async fn look(&self, name: &PoolName) {
        if let Err(error) = self.view(name).await {
            debug!(pool_name = name.as_str(), %error, "the pool could not be looked at ahead");
        }
    }

    /// The pool as it was at most ten seconds ago. `None`: there is no such pool.
    pub(crate) async fn view(&self, name: &PoolName) -> Result<Option<View>, Error> {
        let known = lock(&self.views).get(name).cloned();
        if let Some(view) = known.filter(|view| view.at.elapsed() < self.settings.times.fresh) {
            return Ok(Some(view));
        }
        let (pool, machines, busy) = tokio::join!(
            bounded(self.ports.pools.get(name)),
            self.machines(name),
            bounded(self.ports.jobs.busy_machines(name)),
        );
        let Some(pool) = pool? else { return Ok(None) };
        let view = View {
            pool: Arc::new(pool),
            machines: Arc::new(machines?),
            busy: busy.ok().map(Arc::new),
            at: Instant::now(),
        };
        let mut views = lock(&self.views);
        views.retain(|_, view| view.at.elapsed() < self.settings.times.fresh);
        if views.len() < REMEMBERED {
            views.insert(name.clone(), view.clone());
        }
        Ok(Some(view))
    }

    /// This machine is no spare any more.
    pub(crate) fn strike(&self, name: &PoolName, key: &RunnerKey) {
        if let Some(view) = lock(&self.views).get_mut(name) {
            Arc::make_mut(&mut view.machines).retain(|machine| machine.key != *key);
        }
    }

    /// What was seen is no longer so.
    pub(crate) fn overlook(&self, name: &PoolName) {
        lock(&self.views).remove(name);
    }
}
