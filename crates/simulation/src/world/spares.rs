//! The warm pools of a world: what an operator set up, what jobs ask for, and whether there is what should be.

use std::sync::Arc;

use db::pools::PoolConfig;
use db::table::Cond;
use db::{Pools, Table, schema};
use domain::clock::Clock;
use domain::ids::PoolName;
use domain::launch::Arch;
use fleet::ec2::Instance;
use provider::tags;

use super::ports::table::{ProcessTable, Store};
use super::process::{Process, Weather};
use crate::cloud::Cloud;

/// Labels of jobs that name a pool: one that an operator made, or one that comes with its first job.
pub const LABELS: [&[&str]; 4] = [
    &["runs-fleet/cpu=2/arch=arm64/pool=hot"],
    &["runs-fleet/cpu=2/arch=arm64/pool=hot"],
    &["runs-fleet/cpu=4/arch=arm64/pool=bank"],
    &["runs-fleet/cpu=2/arch=amd64/pool=adhoc"],
];

/// A pool of an operator: name, vCPUs, running and stopped spares.
const POOLS: [(&str, u32, u32, u32); 2] = [("hot", 2, 2, 1), ("bank", 4, 0, 3)];

/// An operator's hand on the pools of a world.
pub struct Operator {
    table: Arc<dyn Table>,
    pools: Pools,
    cloud: Arc<Cloud>,
}

impl Operator {
    /// Reaches the store directly: whatever goes wrong in the world is not his to suffer.
    pub fn new(store: Arc<Store>, cloud: Arc<Cloud>, clock: Arc<dyn Clock>) -> Self {
        let process = Process::new(Weather::default());
        let table: Arc<dyn Table> = Arc::new(ProcessTable { process, store, mutation: None });
        Self { pools: Pools::new(Arc::clone(&table), clock), table, cloud }
    }

    /// Makes a pool, or changes it.
    ///
    /// # Errors
    /// The name or the configuration is none.
    pub async fn set(&self, name: &str, config: &PoolConfig) -> Result<(), db::Error> {
        let name = named(name)?;
        if !self.pools.create(&name, config).await?.is_applied() {
            self.pools.save(&name, config).await?.applied();
        }
        Ok(())
    }

    /// Makes the pools of [`LABELS`].
    ///
    /// # Errors
    /// The store refuses a pool.
    pub async fn open(&self) -> Result<(), db::Error> {
        for (name, cpus, running, stopped) in POOLS {
            self.set(name, &config(cpus, running, stopped)).await?;
        }
        Ok(())
    }

    /// No spares from now on. The pool that came with a job is removed without a look at its machines.
    ///
    /// # Errors
    /// The store refuses it.
    pub async fn close(&self) -> Result<(), db::Error> {
        for pool in self.pools.list().await? {
            if pool.ephemeral {
                self.table.delete(&schema::POOLS, &pool.name.as_str().into(), Cond::Always).await?.applied();
            } else {
                let none = PoolConfig { desired_running: 0, desired_stopped: 0, schedules: Vec::new(), ..pool.config };
                self.pools.save(&pool.name, &none).await?.applied();
            }
        }
        Ok(())
    }

    /// What is missing, or too much.
    pub fn unmet(&self) -> Option<String> {
        let instances = self.cloud.instances();
        POOLS.iter().find_map(|(name, _, running, stopped)| {
            // As a pass counts: what a stopped machine was given to once does not matter, its next start clears that.
            let spares = |state: &str| {
                let of_pool = |i: &&Instance| i.tags.get(tags::POOL).is_some_and(|pool| pool == name);
                let free = |i: &&Instance| state == "stopped" || !i.tags.contains_key(tags::JOB_ID);
                let ours = |i: &&Instance| i.state == state && !i.tags.contains_key(tags::LAUNCH_ID);
                instances.iter().filter(ours).filter(of_pool).filter(free).count()
            };
            let (up, down) = (spares("running"), spares("stopped"));
            let met = up == *running as usize && down == *stopped as usize;
            (!met).then(|| {
                format!("{name} has {up} running and {down} stopped spares, instead of {running} and {stopped}")
            })
        })
    }
}

fn named(name: &str) -> Result<PoolName, db::Error> {
    name.parse().map_err(|_| db::Error::Invalid(format!("{name} names no pool")))
}

/// A pool of ARM machines.
pub fn config(cpus: u32, running: u32, stopped: u32) -> PoolConfig {
    PoolConfig {
        desired_running: running,
        desired_stopped: stopped,
        arch: Some(Arch::Arm64),
        cpu_min: cpus,
        cpu_max: cpus,
        ..PoolConfig::default()
    }
}
