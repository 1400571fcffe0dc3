//! The warm pools of a local run: one of machines that run, one of machines that are off.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use db::pools::PoolConfig;
use domain::clock::{Clock, SystemClock};
use domain::ids::PoolName;
use github::labels::{self, Aliases};
use provider::MachineState;
use provider::local::{Record, read_machines};

use super::Layout;
use crate::cli::complain;

/// What every job asks for.
const LABEL: &str = "runs-fleet/cpu=2/arch=arm64";
/// The pools, and how their spares wait.
const POOLS: [(&str, MachineState); 2] = [("running", MachineState::Running), ("stopped", MachineState::Stopped)];
/// How long the pools may take to fill: a spare is stopped once it has been seen to be unused for a while.
const FILL: Duration = Duration::from_secs(90);

/// Makes the pools, with so many spares each. Before the orchestrator is started: then the store is its own.
pub(super) async fn make(dir: &Path, spares: u32) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let table = db::Sqlite::open(&Layout::new(dir).store(), Arc::clone(&clock))?;
    let store = db::Pools::new(Arc::new(table), clock);
    let spec = labels::parse(&[LABEL.to_owned()], &Aliases::none()).context("the label of local jobs")?.launch_spec();
    for (name, waits) in POOLS {
        let mut config = PoolConfig { desired_running: 0, desired_stopped: 0, ..pools::spec::ephemeral(&spec) };
        match waits {
            MachineState::Running => config.desired_running = spares,
            _ => config.desired_stopped = spares,
        }
        let name = name.parse::<PoolName>().context("a pool's name")?;
        // The directory of an earlier run has them already.
        if !store.create(&name, &config).await?.is_applied() {
            store.save(&name, &config).await?.applied();
        }
    }
    Ok(())
}

/// What the runs of a load ask for, in turn: a fresh machine, and one of either pool.
pub(super) fn classes() -> Vec<Vec<String>> {
    let pooled = POOLS.map(|(name, _)| format!("{LABEL}/pool={name}"));
    std::iter::once(LABEL.to_owned()).chain(pooled).map(|label| vec![label]).collect()
}

/// Waits until the pools are full, for a while.
pub(super) async fn filled(dir: &Path, spares: u32) {
    let deadline = tokio::time::Instant::now() + FILL;
    while !is_full(dir, spares) {
        if tokio::time::Instant::now() > deadline {
            complain("the pools are not full yet; jobs find fewer spares");
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn is_full(dir: &Path, spares: u32) -> bool {
    let machines: Vec<_> = read_machines(dir).unwrap_or_default().iter().map(Record::machine).collect();
    POOLS.iter().all(|(pool, state)| {
        let waiting = machines.iter().filter(|machine| machine.pool() == Some(pool) && machine.state == *state);
        waiting.count() >= spares as usize
    })
}
