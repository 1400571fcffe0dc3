//! Pools that jobs make by naming them.

use db::table::Outcome;
use domain::ids::PoolName;
use domain::message::JobMessage;
use tracing::{info, warn};

use crate::error::Error;
use crate::pass::bounded;
use crate::spec;
use crate::warm::WarmPools;

/// Most pools that labels may make. They come from workflows, which are not ours to trust: each pool costs money.
pub const MOST_EPHEMERAL: usize = 200;

/// What became of a pool that a job named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// It is there.
    There,
    /// It was made.
    Made,
    /// There are too many: the job gets a machine of its own.
    TooMany,
}

impl WarmPools {
    /// Makes sure that the pool of a queued job exists, and that it stays for a while.
    ///
    /// # Errors
    /// Nothing is known; the job does not need the pool.
    pub async fn ensure(&self, pool: &PoolName, job: &JobMessage) -> Result<Ensured, Error> {
        let pools = &self.ports.pools;
        match bounded(pools.get(pool)).await? {
            Some(found) if !found.ephemeral => return Ok(Ensured::There),
            Some(_) => {
                // Lost: another job did it in the same second, or the pool is gone, and the next job makes it anew.
                bounded(pools.touch(pool)).await?.applied();
                return Ok(Ensured::There);
            }
            None => {}
        }
        let ephemeral = bounded(pools.list()).await?.iter().filter(|pool| pool.ephemeral).count();
        if ephemeral >= MOST_EPHEMERAL {
            warn!(pool_name = pool.as_str(), ephemeral, "a pool was not made: labels have made too many");
            self.ports.metrics.pool_refused();
            return Ok(Ensured::TooMany);
        }
        match bounded(pools.create_ephemeral(pool, &spec::ephemeral(&job.spec))).await? {
            Outcome::Applied(()) => {
                info!(event = "pool_created", pool_name = pool.as_str(), "a job's label made a pool");
                Ok(Ensured::Made)
            }
            Outcome::Lost => {
                bounded(pools.touch(pool)).await?.applied();
                Ok(Ensured::There)
            }
        }
    }
}
