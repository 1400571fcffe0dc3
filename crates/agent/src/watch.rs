//! What the machine's surroundings do while the agent works: EC2 wants it back, space or memory runs short.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::{Clock, Timestamp};
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::core::{Input, Resource};
use crate::log::Log;

/// Less free space than this is a warning, bytes.
const LOW_DISK: u64 = 500 * 1024 * 1024;
/// Less available memory than this is a warning, bytes.
const LOW_MEMORY: u64 = 200 * 1024 * 1024;
/// A warning that stays is logged again after this long.
const REMIND_EVERY: Duration = Duration::from_mins(10);

/// What an instance says about itself and what EC2 has in mind for it.
#[async_trait]
pub trait Metadata: Send + Sync + 'static {
    /// What is at `/latest/<path>`; `None` also when nobody answers.
    async fn look(&self, path: &str) -> Option<String>;
}

/// Looks at space and memory every `every`, for ever. `dirs` are looked at for space; one that is missing is skipped.
pub async fn resources(dirs: Vec<PathBuf>, meminfo: PathBuf, every: Duration, inputs: mpsc::Sender<Input>, log: Log) {
    let mut warned: BTreeMap<Resource, Instant> = BTreeMap::new();
    loop {
        let (looked_at, memory) = (dirs.clone(), meminfo.clone());
        let short = tokio::task::spawn_blocking(move || short(&looked_at, std::fs::read_to_string(memory).ok())).await;
        let short = short.unwrap_or_default();
        warned.retain(|resource, _| short.contains(resource));
        for resource in short {
            let again = warned.get(&resource).is_none_or(|at| at.elapsed() >= REMIND_EVERY);
            if again {
                log.warn("resource_warning", &[("resource", resource.as_str().into())]);
                warned.insert(resource, Instant::now());
                if inputs.send(Input::Low(resource)).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(every).await;
    }
}

fn short(dirs: &[PathBuf], meminfo: Option<String>) -> Vec<Resource> {
    let free = dirs.iter().filter_map(|dir| rustix::fs::statvfs(dir).ok());
    let disk = free.map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize)).any(|bytes| bytes < LOW_DISK);
    let memory = meminfo.and_then(|text| available(&text)).is_some_and(|bytes| bytes < LOW_MEMORY);
    let found = [(disk, Resource::Disk), (memory, Resource::Memory)];
    found.into_iter().filter(|(short, _)| *short).map(|(_, resource)| resource).collect()
}

/// `MemAvailable` of proc_meminfo(5), bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Asks every `every` whether EC2 takes the machine back, for ever. It announces that two minutes ahead ("Spot Instance
/// interruption notices"). A service that does not answer is asked again.
pub async fn spot(
    metadata: Arc<dyn Metadata>,
    every: Duration,
    clock: Arc<dyn Clock>,
    inputs: mpsc::Sender<Input>,
    log: Log,
) {
    let (mut told, mut recommended) = (None, false);
    loop {
        if let Some(body) = metadata.look("meta-data/spot/instance-action").await {
            // One that cannot be read is as good as the usual two minutes, once.
            let deadline = reclaim(&body).or(told).unwrap_or_else(|| in_two_minutes(clock.now()));
            if told != Some(deadline) {
                log.warn("spot_notice", &[("at", deadline.to_string().into())]);
                told = Some(deadline);
                if inputs.send(Input::SpotNotice(deadline)).await.is_err() {
                    return;
                }
            }
        }
        if !recommended && let Some(body) = metadata.look("meta-data/events/recommendations/rebalance").await {
            recommended = true;
            log.info("rebalance_notice", &[("notice", Value::from(body))]);
        }
        tokio::time::sleep(every).await;
    }
}

/// Rings once the instance is tagged as assigned: the hand-over follows at once. Asks every `every` after `quiet`.
pub async fn assigned(metadata: Arc<dyn Metadata>, quiet: Duration, every: Duration, ring: Arc<Notify>) {
    tokio::time::sleep(quiet).await;
    while metadata.look("meta-data/tags/instance/runs-fleet:assigned").await.as_deref() != Some("true") {
        tokio::time::sleep(every).await;
    }
    ring.notify_one();
}

/// When an instance action takes the machine away.
fn reclaim(body: &str) -> Option<Timestamp> {
    serde_json::from_str::<Value>(body).ok()?["time"].as_str()?.parse().ok()
}

fn in_two_minutes(now: Timestamp) -> Timestamp {
    now.checked_add(Duration::from_secs(120)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortage_is_measured_or_nothing_is_said() {
        let memory = |kib: u64| Some(format!("MemTotal: 9 kB\nMemAvailable:  {kib} kB\n"));
        assert_eq!(short(&[], memory(204_799)), [Resource::Memory]);
        assert_eq!(short(&[], memory(204_800)), []);
        assert_eq!(short(&["/nowhere".into()], None), []);
        assert_eq!(short(&[], Some("MemAvailable: many\n".to_owned())), []);
        // A file system without any space at all.
        assert_eq!(short(&["/proc".into()], None), [Resource::Disk]);
    }

    #[test]
    fn a_notice_names_its_time() {
        let at = reclaim("{\"action\": \"terminate\", \"time\": \"2026-01-01T00:02:00Z\"}").unwrap();
        assert_eq!(at.to_string(), "2026-01-01T00:02:00Z");
        assert_eq!(reclaim("soon"), None);
        assert_eq!(reclaim("{\"action\": \"stop\"}"), None);
    }
}
