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

mod cloud;

pub use cloud::{Cloud, Endpoints, Keys};

/// Where things are and how long they may take.
#[derive(Debug, Clone, PartialEq)]
pub struct Environment {
    /// This machine.
    pub key: RunnerKey,
    /// Value of the marker variable, passed on to the job so that its processes can be found.
    pub machine: Option<String>,
    /// What this machine is.
    pub backend: Backend,
    /// Where its hand-over is.
    pub secrets: Secrets,
    /// Directory that a local machine leaves reports in; without one it sends none.
    pub report_spool: Option<PathBuf>,
    /// Queue that an instance sends reports to, unless its hand-over names one.
    pub queue_url: Option<String>,
    /// AWS; present when `backend` or `secrets` need it.
    pub cloud: Option<Cloud>,
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

/// What a machine is, which decides how it reports and how it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A process on somebody's computer: reports are files, the end is the agent's exit.
    Local,
    /// An EC2 instance: reports go to SQS, the end is TerminateInstances.
    Ec2,
}

/// Where hand-overs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secrets {
    /// In files of this directory.
    Files(PathBuf),
    /// In SSM parameters below this prefix.
    Parameters {
        /// Path that every machine's parameters begin with.
        prefix: String,
        /// The parameter of the document, when it is not where the prefix and the machine's key say.
        config: Option<String>,
    },
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
        let backend = reader.backend()?;
        let secrets = reader.secrets()?;
        let needs_cloud = backend == Backend::Ec2 || matches!(secrets, Secrets::Parameters { .. });
        let cloud = if needs_cloud { Some(reader.cloud()?) } else { None };
        let in_files = matches!(secrets, Secrets::Files(_));
        let standby = reader.standby_deadline(backend);
        let environment = Self {
            key: RunnerKey::new(key),
            machine: reader.text(provider::processes::MARKER),
            backend,
            secrets,
            cloud,
            report_spool: reader.path("RUNS_FLEET_REPORT_SPOOL"),
            queue_url: reader.text("RUNS_FLEET_TERMINATION_QUEUE_URL"),
            // The place a machine image keeps a runner in belongs to somebody else on a shared machine.
            runner_dir: reader.path("RUNS_FLEET_RUNNER_DIR").unwrap_or_else(|| match backend {
                Backend::Local => absolute("runner"),
                Backend::Ec2 => PathBuf::from("/opt/actions-runner"),
            }),
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
                deadline: standby,
                fast_polls: reader
                    .number("RUNS_FLEET_STANDBY_FAST_POLLS", 0..=10_000)
                    .and_then(|polls| u32::try_from(polls).ok())
                    .unwrap_or(30),
                fast: reader.millis("RUNS_FLEET_STANDBY_FAST_POLL_MS", 1_000),
                // Looking at a file costs nothing, and nobody tells a local machine that its hand-over is coming.
                slow: reader.millis("RUNS_FLEET_STANDBY_SLOW_POLL_MS", if in_files { 1_000 } else { 5_000 }),
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

    /// A machine on EC2 unless told otherwise. A pod is neither, and must not take itself for an instance.
    fn backend(&self) -> Result<Backend, Fatal> {
        const NAME: &str = "RUNS_FLEET_BACKEND";
        match self.text(NAME).as_deref() {
            Some("local") => Ok(Backend::Local),
            Some("ec2") if cfg!(feature = "aws") => Ok(Backend::Ec2),
            None if cfg!(feature = "aws") && self.text("KUBERNETES_SERVICE_HOST").is_none() => Ok(Backend::Ec2),
            _ if cfg!(feature = "aws") => Err(Fatal::Unsupported { name: NAME, rule: "ec2 or local" }),
            _ => Err(Fatal::Unsupported { name: NAME, rule: "local" }),
        }
    }

    fn secrets(&self) -> Result<Secrets, Fatal> {
        const NAME: &str = "RUNS_FLEET_SECRETS_BACKEND";
        match self.text(NAME).as_deref() {
            Some("file") if cfg!(feature = "local") => {
                let dir = self.path("RUNS_FLEET_HANDOVER_DIR").ok_or(Fatal::Missing("RUNS_FLEET_HANDOVER_DIR"))?;
                Ok(Secrets::Files(dir))
            }
            None | Some("ssm") if cfg!(feature = "aws") => Ok(Secrets::Parameters {
                prefix: self.text("RUNS_FLEET_SECRETS_PATH_PREFIX").unwrap_or_else(|| "/runs-fleet/runners".to_owned()),
                config: self.text("RUNS_FLEET_SSM_PARAMETER"),
            }),
            _ if cfg!(feature = "aws") => Err(Fatal::Unsupported { name: NAME, rule: "ssm or file" }),
            _ => Err(Fatal::Unsupported { name: NAME, rule: "file" }),
        }
    }

    /// An explicit deadline counts for every machine. Otherwise a spare of a pool waits long, and an instance that does
    /// not know whether it is one may be one; a machine that was started for a job waits shortly.
    fn standby_deadline(&mut self, backend: Backend) -> Duration {
        let explicit = self
            .number("RUNS_FLEET_STANDBY_DEADLINE_SECONDS", 1..=864_000)
            .or_else(|| self.number("RUNS_FLEET_STANDBY_DEADLINE_MINUTES", 1..=14_400).map(|m| m * 60));
        let pool = (self.get)("RUNS_FLEET_POOL");
        let spare = backend == Backend::Ec2 && pool.is_none_or(|pool| !pool.trim().is_empty());
        let minutes = match explicit {
            Some(seconds) => return Duration::from_secs(seconds),
            None if spare => 120,
            None => self.number("RUNS_FLEET_COLD_START_DEADLINE_MINUTES", 1..=14_400).unwrap_or(15),
        };
        Duration::from_mins(minutes)
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
