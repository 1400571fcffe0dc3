//! What survives the agent: `<state directory>/state.json`.
//!
//! It holds ids and times, never a credential. It is written before the step it announces, so that an agent that is
//! started again on the same machine knows what its predecessor may have done: a disk on which a job was ever
//! started never serves another job.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::clock::{Timestamp, since};
use provider::processes::ProcessId;
use serde::{Deserialize, Serialize};

/// How far the agent came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// A hand-over is taken.
    Claimed,
    /// `run.sh` is, or is about to be, spawned.
    Running,
    /// The outcome is decided.
    Finishing,
    /// The outcome is reported.
    Finished,
}

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// How far; absent before the first claim.
    pub phase: Option<Phase>,
    /// The kernel's boot id at the claim.
    pub boot_id: String,
    /// The job of the hand-over, decimal.
    pub job_id: String,
    /// Its workflow run.
    pub run_id: String,
    /// The assignment.
    pub dispatch_id: String,
    /// This machine.
    pub instance_id: String,
    /// Where the hand-over wants reports; empty when it did not say.
    pub queue_url: String,
    /// When the hand-over was taken.
    pub claimed_at: Option<Timestamp>,
    /// `run.sh`.
    pub runner: Option<ProcessId>,
    /// When `run.sh` was spawned, epoch milliseconds.
    pub run_started_at_ms: Option<i64>,
    /// When the agent was last known to live.
    pub heartbeat_at: Option<Timestamp>,
    /// The completion report without its proof, once it is decided.
    pub completion: Option<String>,
    /// Fingerprints of hand-overs that were ever taken.
    pub consumed: Vec<String>,
}

/// What the state file tells an agent that starts.
#[derive(Debug, Clone, PartialEq)]
pub enum Recovery {
    /// Nothing stands in the way of a job.
    None,
    /// Everything was done and reported.
    Done,
    /// A predecessor decided this report and died before it was known to be accepted.
    Unreported(String),
    /// A predecessor died with this job in hand.
    Died(&'static str),
    /// A job ran here in another life of the machine; nobody waits for word of it. No other may run here.
    Tainted,
}

/// A machine that was up again this soon was restarted by its job; otherwise somebody stopped and started it.
const REBOOT_WITHIN: Duration = Duration::from_secs(180);

/// The rule of recovery, for an agent that starts in the boot of this id, which began at `booted`. Pure.
pub fn recovery(state: &State, boot_id: &str, booted: Option<Timestamp>) -> Recovery {
    let same_boot = state.boot_id == boot_id;
    let restarted = match (booted, state.heartbeat_at) {
        (Some(booted), Some(heartbeat)) => since(booted, heartbeat) <= REBOOT_WITHIN,
        _ => false,
    };
    match state.phase {
        None => Recovery::None,
        Some(Phase::Finished) => Recovery::Done,
        // Nothing ran, and the boot that claimed it is over.
        Some(Phase::Claimed) if !same_boot => Recovery::None,
        Some(Phase::Finishing) if (same_boot || restarted) && state.completion.is_some() => {
            Recovery::Unreported(state.completion.clone().unwrap_or_default())
        }
        Some(_) if same_boot => Recovery::Died("agent_restarted: the previous agent process ended unexpectedly"),
        Some(_) if restarted => Recovery::Died("instance_rebooted: the machine restarted during the job"),
        Some(_) => Recovery::Tainted,
    }
}

/// The state file. When its directory cannot be written, the agent runs on without crash recovery.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file in `dir`, which is made (mode 0700) if missing. What a predecessor was writing when it died goes.
    pub fn open(dir: &Path) -> io::Result<Self> {
        provider::files::private_dir(dir)?;
        provider::files::clear_unfinished(dir)?;
        Ok(Self { path: dir.join("state.json") })
    }

    /// Its content; the empty state when there is none. Unreadable content is an error: something was here.
    pub fn read(&self) -> io::Result<State> {
        match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
            content => serde_json::from_slice(&content?).map_err(io::Error::from),
        }
    }

    /// Replaces it. On return it outlives the agent, and once a job may have started a power cut, too. A claim need not:
    /// nothing ran, and the next boot does not take what was handed over before it.
    pub fn write(&self, state: &State) -> io::Result<()> {
        let content = serde_json::to_vec(state)?;
        match state.phase {
            None | Some(Phase::Claimed) => provider::files::swap(&self.path, &content),
            Some(Phase::Running | Phase::Finishing | Phase::Finished) => provider::files::replace(&self.path, &content),
        }
    }
}

/// How long the kernel runs; `None` when it does not say.
pub fn uptime(proc_root: &Path) -> Option<Duration> {
    let uptime = std::fs::read_to_string(proc_root.join("uptime")).ok()?;
    let seconds: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok().filter(|uptime| !uptime.is_zero())
}

/// When the kernel started; `None` when it does not say.
pub fn boot_time(proc_root: &Path, now: Timestamp) -> Option<Timestamp> {
    now.checked_sub(uptime(proc_root)?).ok()
}

/// The kernel's name for this boot; empty when it has none.
pub fn boot_id(proc_root: &Path) -> String {
    let id = std::fs::read_to_string(proc_root.join("sys/kernel/random/boot_id"));
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
