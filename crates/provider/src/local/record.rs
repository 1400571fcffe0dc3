//! What is written about a machine: `<root>/machines/<key>/machine.json`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use domain::clock::Timestamp;
use domain::ids::{JobId, LaunchId, RunnerKey};
use serde::{Deserialize, Serialize};

use crate::compute::{Machine, MachineState};
use crate::files;
use crate::processes::{Members, ProcessId};

/// How far a machine came, as far as its directory knows. Whether a started one still runs, only `/proc` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The directory exists.
    Launched,
    /// The agent was spawned.
    Started,
    /// The agent, and whatever it started, is suspended.
    Stopped,
    /// The agent ended, or the machine was terminated.
    Terminated,
}

/// The content of `machine.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the directory.
    pub key: RunnerKey,
    /// How far it came.
    pub state: Stage,
    /// The launch it belongs to.
    pub launch_id: LaunchId,
    /// What was asked for.
    pub instance_type: String,
    /// What was asked for.
    pub spot: bool,
    /// The job it was launched for; a spare of a pool has none.
    pub job: Option<JobId>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// When the directory was made, or the machine was started after a stop.
    pub launched_at: Timestamp,
    /// When the agent was spawned, epoch milliseconds.
    pub spawned_at_ms: Option<i64>,
    /// The agent's process.
    pub process: Option<ProcessId>,
    /// When it was noticed to have ended.
    pub ended_at: Option<Timestamp>,
}

impl Record {
    /// Whether it can never run again.
    pub fn is_over(&self) -> bool {
        match self.state {
            Stage::Launched => false,
            Stage::Started | Stage::Stopped => !self.process.is_some_and(ProcessId::is_alive),
            Stage::Terminated => true,
        }
    }

    /// Whether it is nobody's, but a pool's.
    pub(super) fn is_spare(&self) -> bool {
        self.job.is_none()
    }

    /// Its processes.
    pub(super) fn members(&self) -> Members {
        Members { session: self.process, marker: Some(self.key.to_string()) }
    }

    /// The machine as the port shows it.
    pub fn machine(&self) -> Machine {
        Machine {
            key: self.key.clone(),
            state: match self.state {
                _ if self.is_over() => MachineState::Terminated,
                Stage::Launched => MachineState::Pending,
                Stage::Stopped => MachineState::Stopped,
                Stage::Started | Stage::Terminated => MachineState::Running,
            },
            instance_type: self.instance_type.clone(),
            zone: None,
            spot: self.spot,
            arch: None,
            image: None,
            launched_at: self.launched_at,
            ended_at: self.ended_at,
            launch_id: self.job.map(|_| self.launch_id.clone()),
            tags: self.tags.clone(),
        }
    }

    /// Writes it into its directory below `machines`, which is made if missing. Blocking.
    pub(super) fn write(&self, machines: &Path) -> io::Result<()> {
        let dir = machines.join(self.key.as_str());
        files::private_dir(&dir)?;
        files::replace(&path(&dir), &serde_json::to_vec_pretty(self)?)
    }
}

/// Reads every machine below `<root>/machines`; directories without a readable record are skipped. Blocking.
pub fn read_machines(root: &Path) -> io::Result<Vec<Record>> {
    Ok(read_dirs(&root.join("machines"))?.into_iter().filter_map(|(_, record)| record).collect())
}

/// Every directory with its record, if it has a readable one that names this directory.
pub(super) fn read_dirs(machines: &Path) -> io::Result<Vec<(PathBuf, Option<Record>)>> {
    let entries = match std::fs::read_dir(machines) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let dir = entry?.path();
        let record = std::fs::read(path(&dir)).ok().and_then(|json| serde_json::from_slice::<Record>(&json).ok());
        let record = record.filter(|record| dir.file_name().is_some_and(|name| name == record.key.as_str()));
        found.push((dir, record));
    }
    Ok(found)
}

fn path(dir: &Path) -> PathBuf {
    dir.join("machine.json")
}
