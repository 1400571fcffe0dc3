//! What goes wrong in a chaos run, besides the webhooks: the orchestrator dies, machines die.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::Rng;
use provider::local::{Record, Stage, read_machines};
use provider::processes::{self, Members};

use super::child::Orchestrator;

/// How often something happens.
const EVERY: Duration = Duration::from_millis(1500);

/// Kills until dropped. What has been killed is counted in `kills`.
pub(super) async fn run(dir: &Path, orchestrator: &Orchestrator, rng: &Arc<dyn Rng>, kills: &std::sync::Mutex<Kills>) {
    loop {
        tokio::time::sleep(rng.jitter(EVERY, 0.8)).await;
        let count = |f: fn(&mut Kills)| f(&mut kills.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        if rng.unit() < 0.5 {
            orchestrator.kill().await;
            count(|k| k.orchestrator += 1);
        } else if kill_machine(dir, rng).await {
            count(|k| k.machines += 1);
        }
    }
}

/// What was killed.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Kills {
    pub(super) orchestrator: u64,
    pub(super) machines: u64,
}

/// A machine at random, with everything on it, as a reclaim without warning would.
async fn kill_machine(dir: &Path, rng: &Arc<dyn Rng>) -> bool {
    let mut live: Vec<Record> = read_machines(dir).unwrap_or_default();
    live.retain(|m| m.state == Stage::Started && !m.is_over());
    live.sort_by(|a, b| a.key.cmp(&b.key));
    if live.is_empty() {
        return false;
    }
    let record = &live[(rng.next_u64() % live.len() as u64) as usize];
    let members = Members { session: record.process, marker: Some(record.key.to_string()) };
    processes::end(&members, Duration::from_secs(5)).await.is_ok()
}
