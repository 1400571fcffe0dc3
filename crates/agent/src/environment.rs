//! The agent's settings, read from the environment.
//!
//! Lenient where the server is strict: an agent must not refuse to run for a typo in a tuning value. Such a value is
//! reported once and the next source in its precedence is used. Only what makes the agent someone else, or nobody,
//! is fatal.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use domain::ids::RunnerKey;

use crate::core::Limits;

/// Where things are and how long they may take.
#[derive(Debug, Clone, PartialEq)]
pub struct Environment {
    /// This machine.
    pub key: RunnerKey,
    /// Value of the marker variable, passed on to the job so that its processes can be found.
    pub machine: Option<String>,
    /// Directory of hand-over files.
    pub handover_dir: PathBuf,
    /// Directory that reports are left in; without one none are sent.
    pub report_spool: Option<PathBuf>,
    /// The Actions runner; made from `runner_url` when there is none.
    pub runner_dir: PathBuf,
    /// Tarball of the runner: `http(s)://`, `file://`, or a path.
    pub runner_url: Option<String>,
    /// SHA-256 of the tarball, hex.
    pub runner_sha256: Option<String>,
    /// Version of the runner, for reports.
    pub runner_version: Option<String>,
    /// Crash state, mode 0700.
    pub state_dir: PathBuf,
    /// Tool cache, named to the runner when it exists.
    pub tool_cache: PathBuf,
    /// Actions cache, when the hand-over names none.
    pub cache_url: Option<String>,
    /// Variables that reach the job although they look like ours.
    pub passthrough: Vec<String>,
    /// `/proc`, or a stand-in.
    pub proc_root: PathBuf,
    /// Limits of a run.
    pub limits: Limits,
    /// Waiting for the hand-over.
    pub standby: Standby,
    /// All attempts to send the completion report.
    pub report_timeout: Duration,
    /// Unit of every retry pause.
    pub retry_base: Duration,
}

/// How the hand-over is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standby {
    /// From the agent's start until it gives up.
    pub deadline: Duration,
    /// This many polls come quickly.
    pub fast_polls: u32,
    /// Pause of the quick ones.
    pub fast: Duration,
    /// Pause of the others.
    pub slow: Duration,
}

/// Why the agent cannot run at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// A variable without which nothing works.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// A variable with a value this build cannot serve.
    #[error("{name} must be {rule}")]
    Unsupported {
        /// The variable.
        name: &'static str,
        /// What it must be.
        rule: &'static str,
    },
}

impl Environment {
    /// Reads the variables through `get`. Problems that were tolerated come back as sentences for the log.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<(Self, Vec<String>), Fatal> {
        let mut reader = Reader { get, warnings: Vec::new() };
        let key = reader.text("RUNS_FLEET_INSTANCE_ID").ok_or(Fatal::Missing("RUNS_FLEET_INSTANCE_ID"))?;
        if reader.text("RUNS_FLEET_BACKEND").is_some_and(|backend| backend != "local") {
            return Err(Fatal::Unsupported { name: "RUNS_FLEET_BACKEND", rule: "local" });
        }
        if !cfg!(feature = "local") || reader.text("RUNS_FLEET_SECRETS_BACKEND").as_deref() != Some("file") {
            return Err(Fatal::Unsupported { name: "RUNS_FLEET_SECRETS_BACKEND", rule: "file" });
        }
        let handover_dir = reader.path("RUNS_FLEET_HANDOVER_DIR").ok_or(Fatal::Missing("RUNS_FLEET_HANDOVER_DIR"))?;
        let environment = Self {
            key: RunnerKey::new(key),
            machine: reader.text(provider::processes::MARKER),
            handover_dir,
            report_spool: reader.path("RUNS_FLEET_REPORT_SPOOL"),
            // Other places a machine image keeps a runner in belong to somebody else on a shared machine.
            runner_dir: reader.path("RUNS_FLEET_RUNNER_DIR").unwrap_or_else(|| absolute("runner")),
            runner_url: reader.text("RUNS_FLEET_RUNNER_URL"),
            runner_sha256: reader.text("RUNS_FLEET_RUNNER_SHA256"),
            runner_version: reader.text("RUNS_FLEET_RUNNER_VERSION"),
            state_dir: reader.path("RUNS_FLEET_STATE_DIR").unwrap_or_else(|| PathBuf::from("/var/lib/runs-fleet")),
            tool_cache: reader.path("AGENT_TOOLSDIRECTORY").unwrap_or_else(|| PathBuf::from("/opt/hostedtoolcache")),
            cache_url: reader.text("RUNS_FLEET_CACHE_URL"),
            passthrough: reader.list("RUNS_FLEET_JOB_ENV_PASSTHROUGH"),
            proc_root: reader.path("RUNS_FLEET_PROC_ROOT").unwrap_or_else(|| PathBuf::from("/proc")),
            limits: Limits {
                grace: reader.seconds("RUNS_FLEET_GRACEFUL_SHUTDOWN_SECONDS", 0..=3_600, 90),
                max_runtime: reader
                    .number("RUNS_FLEET_MAX_RUNTIME_SECONDS", 1..=86_400)
                    .or_else(|| reader.number("RUNS_FLEET_MAX_RUNTIME_MINUTES", 1..=1_440).map(|m| m * 60))
                    .map_or(Duration::from_hours(6), Duration::from_secs),
                pickup: reader.seconds("RUNS_FLEET_JOB_PICKUP_TIMEOUT_SECONDS", 0..=86_400, 600),
            },
            standby: Standby {
                deadline: reader
                    .number("RUNS_FLEET_STANDBY_DEADLINE_SECONDS", 1..=864_000)
                    .or_else(|| reader.number("RUNS_FLEET_STANDBY_DEADLINE_MINUTES", 1..=14_400).map(|m| m * 60))
                    .or_else(|| reader.number("RUNS_FLEET_COLD_START_DEADLINE_MINUTES", 1..=14_400).map(|m| m * 60))
                    .map_or(Duration::from_mins(15), Duration::from_secs),
                fast_polls: reader
                    .number("RUNS_FLEET_STANDBY_FAST_POLLS", 0..=10_000)
                    .and_then(|polls| u32::try_from(polls).ok())
                    .unwrap_or(30),
                fast: reader.millis("RUNS_FLEET_STANDBY_FAST_POLL_MS", 1_000),
                slow: reader.millis("RUNS_FLEET_STANDBY_SLOW_POLL_MS", 5_000),
            },
            report_timeout: reader.seconds("RUNS_FLEET_TELEMETRY_TIMEOUT_SECONDS", 1..=600, 30),
            retry_base: reader.millis("RUNS_FLEET_RETRY_BASE_MS", 1_000),
        };
        Ok((environment, reader.warnings))
    }
}

struct Reader<F> {
    get: F,
    warnings: Vec<String>,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    /// The trimmed value; empty counts as unset.
    fn text(&self, name: &str) -> Option<String> {
        (self.get)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(|path| absolute(&path))
    }

    fn list(&self, name: &str) -> Vec<String> {
        let text = self.text(name).unwrap_or_default();
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    fn number(&mut self, name: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let text = self.text(name)?;
        // Digits only: the number parser would also take a sign.
        let number = Some(&text).filter(|text| text.bytes().all(|b| b.is_ascii_digit())).and_then(|t| t.parse().ok());
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Some(number);
        }
        let (from, to) = range.into_inner();
        self.warnings.push(format!("{name} is ignored: it must be a whole number from {from} to {to}"));
        None
    }

    fn seconds(&mut self, name: &str, range: RangeInclusive<u64>, default: u64) -> Duration {
        Duration::from_secs(self.number(name, range).unwrap_or(default))
    }

    fn millis(&mut self, name: &str, default: u64) -> Duration {
        Duration::from_millis(self.number(name, 1..=600_000).unwrap_or(default))
    }
}

/// Absolute, because the runner's working directory is not ours.
fn absolute(path: &str) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path))
}

#[cfg(test)]
mod tests;
