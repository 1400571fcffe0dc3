//! The agent's settings, read from the environment.
//!
//! Lenient where the server is strict: an agent must not refuse to run for a typo in a tuning value. Such a value is
//! reported once and the next source in its precedence is used. Only what makes the agent someone else, or nobody,
//! is fatal.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use domain::handover::{Credential, HandOver};
use domain::ids::RunnerKey;

use crate::core::Limits;
use crate::machine::PowerOff;
use crate::pod::Mounted;

mod cloud;
mod vault;

pub use cloud::{Cloud, Endpoints, Identity, Keys};
#[cfg(feature = "aws")]
pub(crate) use vault::acceptable;
pub use vault::{Vault, VaultLogin};

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
    /// Where a pod's termination message is written.
    pub termination_log: PathBuf,
    /// Queue that an instance sends reports to, unless its hand-over names one.
    pub queue_url: Option<String>,
    /// AWS; present when `backend` or `secrets` need it.
    pub cloud: Option<Cloud>,
    /// The Actions runner; fetched when there is none.
    pub runner_dir: PathBuf,
    /// Where a machine image may have put a runner instead.
    pub other_runner_dirs: Vec<PathBuf>,
    /// Tarball of the runner: `http(s)://`, `file://`, or a path. Without one the latest release is looked up.
    pub runner_url: Option<String>,
    /// Where the latest release is looked up; local machines are not to ask.
    pub releases_url: Option<String>,
    /// SHA-256 of the tarball, hex.
    pub runner_sha256: Option<String>,
    /// Version of the runner, for reports.
    pub runner_version: Option<String>,
    /// The account that jobs run as when the agent is root, if it is not a usual one.
    pub runner_user: Option<String>,
    /// Whether the job's account is kept from the instance's metadata.
    pub deny_metadata: bool,
    /// Where runners register, when the hand-over does not say.
    pub github_url: String,
    /// The runner's work directory, when it is not its own choice.
    pub work_dir: Option<String>,
    /// How long a job waits for the container engine.
    pub docker_wait: Duration,
    /// The last resort when the machine does not end.
    pub power_off: PowerOff,
    /// Crash state, mode 0700.
    pub state_dir: PathBuf,
    /// Tool cache, named to the runner when it exists.
    pub tool_cache: PathBuf,
    /// Actions cache, when the hand-over names none.
    pub cache_url: Option<String>,
    /// Where the host that serves GitHub's cache is answered for.
    pub cache_listen: SocketAddr,
    /// Variables that reach the job although they look like ours.
    pub passthrough: Vec<String>,
    /// `/proc`, or a stand-in.
    pub proc_root: PathBuf,
    /// How long a machine that is a process plays that it boots.
    pub boot: Duration,
    /// Limits of a run.
    pub limits: Limits,
    /// Waiting for the hand-over.
    pub standby: Standby,
    /// All attempts to send the completion report.
    pub report_timeout: Duration,
    /// Unit of every retry pause.
    pub retry_base: Duration,
    /// How often space and memory are looked at, and the crash state says that the agent lives.
    pub safety_every: Duration,
    /// How often EC2 is asked whether it wants the machine back.
    pub spot_every: Duration,
    /// Keeping the logs of a run, at most.
    pub logs_within: Duration,
}

/// What a machine is, which decides how it reports and how it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A process on somebody's computer: reports are files, the end is the agent's exit.
    Local,
    /// An EC2 instance: reports go to SQS, the end is TerminateInstances.
    Ec2,
    /// A pod: the report is its termination message, the end is the agent's exit.
    Pod,
}

/// Where hand-overs are.
#[derive(Debug, Clone, PartialEq)]
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
    /// In Vault.
    Vault(Box<Vault>),
    /// In the files of a ConfigMap and a Secret.
    Mounted(Mounted),
    /// In the agent's own variables.
    Given(Box<HandOver>),
}

impl Secrets {
    /// Whether it takes an identity of AWS to read them.
    fn need_cloud(&self) -> bool {
        match self {
            Self::Parameters { .. } => true,
            Self::Vault(vault) => matches!(vault.login, VaultLogin::Aws { .. }),
            Self::Files(_) | Self::Mounted(_) | Self::Given(_) => false,
        }
    }

    /// Whether what is there may be of another life of this machine, or of nobody any more. Files of a local machine end
    /// with it.
    pub fn outlive(&self) -> bool {
        matches!(self, Self::Parameters { .. } | Self::Vault(_))
    }
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
        let backend = reader.backend()?;
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let key = reader.text("RUNS_FLEET_INSTANCE_ID").or_else(|| (backend == Backend::Pod).then(host));
        let key = key.ok_or(Fatal::Missing("RUNS_FLEET_INSTANCE_ID"))?;
        let secrets = reader.secrets(backend)?;
        let needs_cloud = backend == Backend::Ec2 || secrets.need_cloud();
        let cloud = if needs_cloud { Some(reader.cloud()?) } else { None };
        let in_files = matches!(secrets, Secrets::Files(_));
        // What a pod reads was there before it.
        let standby = match backend {
            Backend::Pod => Duration::ZERO,
            Backend::Ec2 | Backend::Local => reader.standby_deadline(backend),
        };
        let environment = Self {
            // Its processes are looked for by this name on every kind of machine.
            machine: reader
                .text(provider::processes::MARKER)
                .or_else(|| (backend != Backend::Local).then(|| key.clone())),
            key: RunnerKey::new(key),
            backend,
            secrets,
            cloud,
            report_spool: reader.path("RUNS_FLEET_REPORT_SPOOL"),
            termination_log: reader
                .path("RUNS_FLEET_TERMINATION_LOG")
                .unwrap_or_else(|| PathBuf::from("/dev/termination-log")),
            queue_url: reader.text("RUNS_FLEET_TERMINATION_QUEUE_URL"),
            // The place a machine image keeps a runner in belongs to somebody else on a shared machine.
            runner_dir: reader.path("RUNS_FLEET_RUNNER_DIR").unwrap_or_else(|| match backend {
                Backend::Local => absolute("runner"),
                Backend::Ec2 => PathBuf::from("/opt/actions-runner"),
                Backend::Pod => PathBuf::from("/home/runner"),
            }),
            other_runner_dirs: match backend {
                Backend::Local => Vec::new(),
                Backend::Ec2 | Backend::Pod => ["/opt/actions-runner", "/home/runner"].map(PathBuf::from).to_vec(),
            },
            releases_url: reader.text("RUNS_FLEET_RUNNER_RELEASES_URL").or_else(|| match backend {
                Backend::Local | Backend::Pod => None,
                Backend::Ec2 => Some("https://api.github.com/repos/actions/runner/releases/latest".to_owned()),
            }),
            runner_user: reader.text("RUNS_FLEET_RUNNER_USER"),
            deny_metadata: reader.deny_metadata(),
            github_url: reader.text("RUNS_FLEET_GITHUB_URL").unwrap_or_else(|| "https://github.com".to_owned()),
            work_dir: reader.text("RUNS_FLEET_WORK_DIR"),
            docker_wait: reader.seconds("RUNS_FLEET_WAIT_FOR_DOCKER_SECONDS", 0..=600, 0),
            power_off: reader.power_off(backend),
            runner_url: reader.text("RUNS_FLEET_RUNNER_URL"),
            runner_sha256: reader.text("RUNS_FLEET_RUNNER_SHA256"),
            runner_version: reader.text("RUNS_FLEET_RUNNER_VERSION"),
            state_dir: reader.path("RUNS_FLEET_STATE_DIR").unwrap_or_else(|| PathBuf::from("/var/lib/runs-fleet")),
            tool_cache: reader.path("AGENT_TOOLSDIRECTORY").unwrap_or_else(|| PathBuf::from("/opt/hostedtoolcache")),
            cache_url: reader.text("RUNS_FLEET_CACHE_URL"),
            cache_listen: reader.cache_listen(),
            passthrough: reader.list("RUNS_FLEET_JOB_ENV_PASSTHROUGH"),
            boot: match backend {
                Backend::Local => reader.millis("RUNS_FLEET_LOCAL_BOOT_MS", 0),
                Backend::Ec2 | Backend::Pod => Duration::ZERO,
            },
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
            safety_every: reader.seconds("RUNS_FLEET_SAFETY_CHECK_SECONDS", 1..=3_600, 30),
            spot_every: reader.millis("RUNS_FLEET_SPOT_POLL_MS", 5_000),
            logs_within: reader.seconds("RUNS_FLEET_LOG_UPLOAD_TIMEOUT_SECONDS", 1..=600, 60),
        };
        Ok((environment, reader.warnings))
    }

    /// Where this hand-over's cache is, with one slash at the end: clients append to it.
    pub fn cache_url(&self, document: &HandOver) -> Option<String> {
        let named = Some(document.cache_url.as_str()).filter(|url| !url.is_empty());
        named.or(self.cache_url.as_deref()).map(|url| format!("{}/", url.trim_end_matches('/')))
    }
}

/// Base URL of the metadata service; `None` when it must not be asked.
pub fn metadata_endpoint(get: impl Fn(&str) -> Option<String>) -> Option<String> {
    Reader { get, warnings: Vec::new() }.metadata()
}

/// How a machine is switched off about which too little is known to do anything else. Nothing, where it may be somebody's
/// computer.
pub fn last_resort(get: impl Fn(&str) -> Option<String>) -> PowerOff {
    let reader = Reader { get, warnings: Vec::new() };
    reader.backend().map(|backend| reader.power_off(backend)).unwrap_or_default()
}

/// Whether this is an instance that has to ask its metadata service who it is.
pub fn needs_identity(get: impl Fn(&str) -> Option<String>) -> bool {
    let reader = Reader { get, warnings: Vec::new() };
    let known = reader.text("RUNS_FLEET_INSTANCE_ID").is_some();
    let placed = reader.text("AWS_REGION").or_else(|| reader.text("AWS_DEFAULT_REGION")).is_some();
    matches!(reader.backend(), Ok(Backend::Ec2)) && !(known && placed) && reader.metadata().is_some()
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

    /// A machine on EC2 unless told otherwise, or unless it is a pod, which must not take itself for an instance.
    fn backend(&self) -> Result<Backend, Fatal> {
        const NAME: &str = "RUNS_FLEET_BACKEND";
        let pod = self.text("KUBERNETES_SERVICE_HOST").is_some();
        match self.text(NAME).as_deref() {
            Some("local") => Ok(Backend::Local),
            Some("k8s") => Ok(Backend::Pod),
            None if pod => Ok(Backend::Pod),
            None | Some("ec2") if cfg!(feature = "aws") => Ok(Backend::Ec2),
            _ if cfg!(feature = "aws") => Err(Fatal::Unsupported { name: NAME, rule: "ec2, k8s or local" }),
            _ => Err(Fatal::Unsupported { name: NAME, rule: "k8s or local" }),
        }
    }

    /// Anything but the word that allows it denies.
    fn deny_metadata(&mut self) -> bool {
        const NAME: &str = "RUNS_FLEET_JOB_IMDS_ACCESS";
        match self.text(NAME).as_deref() {
            Some("allow") => false,
            None | Some("deny") => true,
            Some(_) => {
                self.warnings.push(format!("{NAME} is taken for deny: it must be deny or allow"));
                true
            }
        }
    }

    /// Clients look for it at the port of HTTPS.
    fn cache_listen(&mut self) -> SocketAddr {
        const NAME: &str = "RUNS_FLEET_CACHE_LISTEN_ADDR";
        let usual = (Ipv4Addr::LOCALHOST, 443).into();
        let Some(text) = self.text(NAME) else { return usual };
        text.parse().unwrap_or_else(|_| {
            self.warnings.push(format!("{NAME} is ignored: it must be an address and a port"));
            usual
        })
    }

    /// An agent that no service manager started is somebody's experiment, and must not switch a workstation off.
    fn power_off(&self, backend: Backend) -> PowerOff {
        let service = self.text("INVOCATION_ID").is_some();
        let commands = match (self.get)("RUNS_FLEET_SHUTDOWN_COMMAND") {
            Some(command) => [command.trim().to_owned()].into_iter().filter(|command| !command.is_empty()).collect(),
            None if service && backend == Backend::Ec2 => {
                ["systemctl poweroff", "shutdown -h now"].map(str::to_owned).to_vec()
            }
            None => Vec::new(),
        };
        PowerOff { commands }
    }

    fn secrets(&mut self, backend: Backend) -> Result<Secrets, Fatal> {
        const NAME: &str = "RUNS_FLEET_SECRETS_BACKEND";
        if backend == Backend::Pod {
            let dir = |name: &str, usual: &str| self.path(name).unwrap_or_else(|| PathBuf::from(usual));
            return Ok(Secrets::Mounted(Mounted {
                config: dir("RUNS_FLEET_K8S_CONFIG_DIR", "/etc/runs-fleet/config"),
                secrets: dir("RUNS_FLEET_K8S_SECRET_DIR", "/etc/runs-fleet/secrets"),
            }));
        }
        match self.text(NAME).as_deref() {
            Some("env") => Ok(Secrets::Given(Box::new(self.given()))),
            Some("file") if cfg!(feature = "local") => {
                let dir = self.path("RUNS_FLEET_HANDOVER_DIR").ok_or(Fatal::Missing("RUNS_FLEET_HANDOVER_DIR"))?;
                Ok(Secrets::Files(dir))
            }
            None | Some("ssm") if cfg!(feature = "aws") => Ok(Secrets::Parameters {
                prefix: self.text("RUNS_FLEET_SECRETS_PATH_PREFIX").unwrap_or_else(|| "/runs-fleet/runners".to_owned()),
                config: self.text("RUNS_FLEET_SSM_PARAMETER"),
            }),
            Some("vault") if cfg!(feature = "vault") => Ok(Secrets::Vault(Box::new(self.vault()?))),
            _ if cfg!(feature = "vault") => Err(Fatal::Unsupported { name: NAME, rule: "ssm, vault, file or env" }),
            _ if cfg!(feature = "aws") => Err(Fatal::Unsupported { name: NAME, rule: "ssm, file or env" }),
            _ => Err(Fatal::Unsupported { name: NAME, rule: "file or env" }),
        }
    }

    /// The hand-over that variables are. What is missing in it is told like what is missing in any other.
    fn given(&self) -> HandOver {
        let text = |name: &str| self.text(name).unwrap_or_default();
        let secret = |name: &str| Credential::new(text(name));
        HandOver {
            org: text("RUNS_FLEET_ORG"),
            repo: text("RUNS_FLEET_REPO"),
            run_id: text("RUNS_FLEET_RUN_ID"),
            job_id: text("RUNS_FLEET_JOB_ID"),
            labels: self.list("RUNS_FLEET_LABELS"),
            runner_group: text("RUNS_FLEET_RUNNER_GROUP"),
            runner_name: text("RUNS_FLEET_RUNNER_NAME"),
            jit_config: secret("RUNS_FLEET_JIT_CONFIG"),
            jit_token: secret("RUNS_FLEET_JIT_TOKEN"),
            cache_token: secret("RUNS_FLEET_CACHE_TOKEN"),
            cache_url: text("RUNS_FLEET_CACHE_URL"),
            telemetry_token: secret("RUNS_FLEET_TELEMETRY_TOKEN"),
            termination_queue_url: text("RUNS_FLEET_TERMINATION_QUEUE_URL"),
            is_org: matches!(text("RUNS_FLEET_IS_ORG").as_str(), "true" | "1"),
            buildkit_cache_bucket: text("RUNS_FLEET_BUILDKIT_CACHE_BUCKET"),
            buildkit_cache_region: text("RUNS_FLEET_BUILDKIT_CACHE_REGION"),
            buildkit_cache_prefix: text("RUNS_FLEET_BUILDKIT_CACHE_PREFIX"),
            runner_logs_bucket: text("RUNS_FLEET_RUNNER_LOGS_BUCKET"),
            runner_logs_prefix: text("RUNS_FLEET_RUNNER_LOGS_PREFIX"),
            // The rest has variables of its own that count for every hand-over, or belongs to a store.
            created_at: None,
            instance_id: String::new(),
            dispatch_id: String::new(),
            server_url: String::new(),
            max_runtime_minutes: None,
            idle_exit_seconds: None,
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
