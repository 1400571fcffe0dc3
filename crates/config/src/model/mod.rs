//! The typed configuration. Every field is one variable of the registry, or follows from a few; units are in the type.

mod build;

use std::collections::BTreeMap;
use std::time::Duration;

use domain::ids::Repo;
use jiff::tz::TimeZone;
use secrecy::SecretString;

/// Everything the server needs to know. Secrets inside print as redacted.
#[derive(Debug, Clone)]
pub struct Config {
    /// Back end of jobs that do not choose one.
    pub mode: Mode,
    /// Local mode: embedded store, child processes as machines, loopback listener, open API.
    pub local: bool,
    /// The process itself.
    pub core: Core,
    /// GitHub.
    pub github: GitHub,
    /// Queues, as URLs; all unset in local mode.
    pub queues: Queues,
    /// Where records live.
    pub store: Store,
    /// EC2 machines; `None` when they are not served, and in local mode.
    pub fleet: Option<Fleet>,
    /// Kubernetes pods; `None` when they are not served, and in local mode.
    pub kubernetes: Option<Kubernetes>,
    /// The Actions cache.
    pub cache: Cache,
    /// Cost reports.
    pub cost: Cost,
    /// The operator's API and pages.
    pub admin: Admin,
    /// Metrics.
    pub metrics: Metrics,
    /// Traces.
    pub tracing: Tracing,
    /// The store agents find their hand-over in.
    pub secrets: Secrets,
    /// Limits and intervals.
    pub tuning: Tuning,
}

/// A compute back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// EC2 machines.
    Ec2,
    /// Kubernetes pods.
    K8s,
}

impl Mode {
    /// The word of `RUNS_FLEET_MODE`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::K8s => "k8s",
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// The process itself.
#[derive(Debug, Clone)]
pub struct Core {
    /// Region of AWS calls.
    pub region: String,
    /// Name of this replica.
    pub replica_id: String,
    /// Public listener, `host:port`.
    pub listen_addr: String,
    /// Public address, without a trailing slash.
    pub base_url: Option<String>,
    /// Lowest level logged: `trace`, `debug`, `info`, `warn` or `error`.
    pub log_level: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Keep serving for so long after SIGTERM, at most 15 s.
    pub shutdown_drain_delay: Duration,
    /// Table of the leader lease; `None`: no coordinator.
    pub locks_table: Option<String>,
}

/// The GitHub App.
#[derive(Debug, Clone)]
pub struct App {
    /// Its id.
    pub id: u64,
    /// Its RSA key, as PEM.
    pub private_key: SecretString,
}

/// The credential minted for runners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// A JIT configuration.
    Jit,
    /// A registration token, for old agents.
    Token,
}

/// GitHub.
#[derive(Debug, Clone)]
pub struct GitHub {
    /// The App. `None` only in local mode: the simulated GitHub stands in.
    pub app: Option<App>,
    /// Key of webhook signatures. `None` only in local mode.
    pub webhook_secret: Option<SecretString>,
    /// Second accepted key during a rotation.
    pub webhook_secret_previous: Option<SecretString>,
    /// REST API, without a trailing slash.
    pub api_url: String,
    /// Web address runners register at, without a trailing slash.
    pub server_url: String,
    /// Label aliases as JSON; empty when there are none. Only the shape has been checked.
    pub label_aliases: String,
    /// Patterns `owner/name` and `owner/*`; empty: every repository is served.
    pub allowed_repos: Vec<String>,
    /// Runner group of organisation runners.
    pub runner_group: Option<String>,
    /// Credential minted for runners.
    pub registration: Registration,
    /// Re-run a job whose machine we lost.
    pub rerun_interrupted_jobs: bool,
    /// Repository and path of the file that configures pools.
    pub config_file: Option<(Repo, String)>,
}

impl GitHub {
    /// Whether jobs of this repository are served.
    pub fn serves(&self, repo: &Repo) -> bool {
        let allows = |pattern: &String| match pattern.strip_suffix("/*") {
            Some(owner) => owner.eq_ignore_ascii_case(repo.owner()),
            None => pattern.eq_ignore_ascii_case(repo.as_str()),
        };
        self.allowed_repos.is_empty() || self.allowed_repos.iter().any(allows)
    }
}

/// Queues, as URLs.
#[derive(Debug, Clone, Default)]
pub struct Queues {
    /// Job messages.
    pub main: Option<String>,
    /// Dead letters of the main queue.
    pub main_dlq: Option<String>,
    /// Unused; its depth is shown.
    pub pool: Option<String>,
    /// Spot events.
    pub events: Option<String>,
    /// Reports of agents.
    pub termination: Option<String>,
    /// Housekeeping asked for by operators.
    pub housekeeping: Option<String>,
    /// Raw webhooks.
    pub webhook: Option<String>,
}

/// A kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// DynamoDB tables.
    DynamoDb,
    /// A Valkey server.
    Valkey,
    /// A file of this machine.
    Embedded,
}

impl StoreKind {
    /// The word of `RUNS_FLEET_STORE`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DynamoDb => "dynamodb",
            Self::Valkey => "valkey",
            Self::Embedded => "embedded",
        }
    }
    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::DynamoDb, Self::Valkey, Self::Embedded].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Where records live.
#[derive(Debug, Clone)]
pub struct Store {
    /// The kind.
    pub kind: StoreKind,
    /// File of the embedded store.
    pub path: String,
    /// Job records.
    pub jobs_table: Option<String>,
    /// Pools, locks, claims.
    pub pools_table: Option<String>,
    /// Runner records.
    pub runners_table: String,
    /// Circuit breakers.
    pub circuit_breaker_table: String,
    /// Audit events; `None`: only in logs.
    pub audit_table: Option<String>,
    /// Index (`pool`, `status`) of the jobs table.
    pub jobs_pool_status_gsi: Option<String>,
    /// Index (`instance_id`) of the jobs table.
    pub jobs_instance_id_gsi: Option<String>,
    /// Index (`status`, `created_at`) of the jobs table.
    pub jobs_status_gsi: Option<String>,
    /// Bucket for settled records before they are deleted.
    pub archive_bucket: Option<String>,
    /// Delete records although there is no archive.
    pub old_jobs_hard_delete: bool,
}

/// Limits of hot pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HotPoolCaps {
    /// Longest time a machine lingers, in minutes.
    pub max_linger_minutes: u32,
    /// Most hot machines of one pool.
    pub max_hot: u32,
    /// Jobs before a pool becomes hot.
    pub min_jobs_to_activate: u32,
    /// Days looked back at.
    pub lookback_days: u32,
    /// A longer pause ends a burst, in minutes.
    pub burst_gap_minutes: u32,
}

/// EC2 machines.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// Network.
    pub vpc_id: String,
    /// Subnets of ordinary jobs.
    pub default_subnets: Vec<String>,
    /// Subnets of jobs that ask for private ones.
    pub private_subnets: Vec<String>,
    /// Security group.
    pub security_group_id: String,
    /// Role.
    pub instance_profile_arn: String,
    /// Container image of runners.
    pub runner_image: String,
    /// SSH key pair.
    pub key_name: Option<String>,
    /// Use spot capacity.
    pub spot_enabled: bool,
    /// Launch template; the architecture is appended.
    pub launch_template_name: String,
    /// Custom tags.
    pub tags: BTreeMap<String, String>,
    /// Attribution tags, key and value; a custom tag of the same key replaces one.
    pub attribution_tags: BTreeMap<String, String>,
    /// A machine that never claimed a job is ended after this.
    pub unclaimed_instance_grace: Duration,
    /// A machine whose job is over is ended after this.
    pub completed_instance_grace: Duration,
    /// A stopped machine is terminated after this; `None`: never.
    pub stopped_instance_grace: Option<Duration>,
    /// Jobs of one fleet request.
    pub batch_max: u32,
    /// How long a batch fills.
    pub batch_linger: Duration,
    /// Limits of hot pools; `None`: off.
    pub hot_pools: Option<HotPoolCaps>,
    /// A machine whose agent has found no work for so long ends itself.
    pub standby_deadline: Duration,
}

/// A toleration of a pod, as in the Kubernetes API.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Toleration {
    /// The taint's key.
    pub key: Option<String>,
    /// `Exists` or `Equal`.
    pub operator: Option<String>,
    /// The taint's value.
    pub value: Option<String>,
    /// The taint's effect.
    pub effect: Option<String>,
    /// For `NoExecute`.
    pub toleration_seconds: Option<i64>,
}

/// A Valkey server.
#[derive(Debug, Clone)]
pub struct Valkey {
    /// `host:port`.
    pub addr: String,
    /// User.
    pub username: Option<String>,
    /// Password.
    pub password: Option<SecretString>,
    /// Database number.
    pub db: u32,
    /// Encrypt the connection.
    pub tls: bool,
    /// Certificate authority; `None`: the system's.
    pub tls_ca_file: Option<String>,
    /// In front of every key.
    pub key_prefix: String,
    /// Then a message is a dead letter.
    pub max_deliveries: u32,
    /// User and password for the pods' reports.
    pub runner: Option<(String, SecretString)>,
}

/// Kubernetes pods.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    /// Path of a kubeconfig; `None`: in-cluster.
    pub config: Option<String>,
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// Labels nodes must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    pub tolerations: Vec<Toleration>,
    /// Container image of runners.
    pub runner_image: String,
    /// Labels of everything created.
    pub resource_labels: BTreeMap<String, String>,
    /// Idle pods of a pool end after this.
    pub idle_timeout: Duration,
    /// Name of the Helm release.
    pub release_name: String,
    /// Storage class of workspaces.
    pub storage_class: Option<String>,
    /// Image of the Docker side container.
    pub dind_image: String,
    /// ConfigMap with Docker's `daemon.json`.
    pub daemon_json_configmap: Option<String>,
    /// Longest wait for Docker.
    pub docker_wait: Duration,
    /// Group of Docker's socket.
    pub docker_group_gid: u32,
    /// Registry mirror of Docker.
    pub registry_mirror: Option<String>,
    /// `dind` or `none`.
    pub container_mode: String,
    /// Native side containers; `None`: find out.
    pub native_sidecar: Option<bool>,
    /// `pvc` or `emptydir`.
    pub workspace_type: String,
    /// User of the runner container.
    pub runner_uid: u32,
    /// Priority class.
    pub priority_class: Option<String>,
    /// Secrets for pulling images.
    pub image_pull_secrets: Vec<String>,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// Longest wait for a node.
    pub schedule_timeout: Duration,
    /// Longest wait for an image.
    pub image_pull_timeout: Duration,
    /// Longest wait for a start.
    pub start_timeout: Duration,
    /// Time to end.
    pub termination_grace: Duration,
    /// Finished pods stay so long.
    pub finished_pod_ttl: Duration,
    /// Private networks that jobs may reach.
    pub private_egress_cidrs: Vec<String>,
    /// Delete volumes of the Go implementation.
    pub sweep_legacy_pvcs: bool,
    /// Allow registration tokens in pods.
    pub allow_registration_token: bool,
    /// Queues, and the store if it is Valkey.
    pub valkey: Valkey,
}

/// The Actions cache.
#[derive(Debug, Clone)]
pub struct Cache {
    /// Bucket. Also holds layer caches and runner logs, whatever the back end.
    pub bucket: Option<String>,
    /// Directory of the `fs` back end; `None`: the bucket.
    pub dir: Option<String>,
    /// Whether the API is served at all.
    pub served: bool,
    /// Key of cache tokens; `None` and served: everybody may use it.
    pub secret: Option<SecretString>,
    /// Second accepted key during a rotation.
    pub secret_previous: Option<SecretString>,
    /// Address given to runners.
    pub url: Option<String>,
    /// Largest entry in bytes.
    pub max_entry_bytes: u64,
    /// Bytes per repository; `None`: no limit.
    pub repo_limit_bytes: Option<u64>,
    /// Entries unused for so many days go; `None`: never.
    pub ttl_days: Option<u32>,
    /// Life of a token.
    pub token_ttl: Duration,
    /// Accept two-part tokens.
    pub accept_legacy_tokens: bool,
    /// Downloads go through this server instead of a redirect.
    pub proxy_downloads: bool,
}

/// Cost reports. Money is in USD.
#[derive(Debug, Clone)]
pub struct Cost {
    /// Topic of the daily report.
    pub report_sns_topic: Option<String>,
    /// Bucket of the daily report.
    pub report_bucket: Option<String>,
    /// What a day is.
    pub report_timezone: TimeZone,
    /// Alarm above this cost of a day.
    pub anomaly_daily_usd: Option<f64>,
    /// Alarm above so many times the mean of a week; `None`: off.
    pub anomaly_factor: Option<f64>,
    /// Cost of the orchestrator itself; `None`: computed.
    pub orchestrator_daily_usd: Option<f64>,
    /// Volume size in GiB where it is unknown.
    pub ebs_gib: u32,
    /// GitHub's charge per minute.
    pub github_platform_per_minute: f64,
}

/// Sign-in with OpenID Connect.
#[derive(Debug, Clone)]
pub struct Oidc {
    /// Issuer.
    pub issuer_url: String,
    /// Client id.
    pub client_id: String,
    /// Client secret.
    pub client_secret: SecretString,
    /// Key of session cookies.
    pub session_secret: SecretString,
    /// Second accepted key during a rotation.
    pub session_secret_previous: Option<SecretString>,
    /// Where the issuer sends people back to.
    pub redirect_url: String,
    /// Scopes asked for.
    pub scopes: Vec<String>,
    /// Claim with a person's groups.
    pub groups_claim: String,
    /// Life of a session.
    pub session_ttl: Duration,
    /// Groups that may act.
    pub operator_groups: Vec<String>,
    /// Groups that may look.
    pub viewer_groups: Vec<String>,
}

/// The operator's API and pages.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Sign-in; `None`: see `anonymous`.
    pub oidc: Option<Oidc>,
    /// Open to everybody. Without this and without sign-in the API is closed.
    pub anonymous: bool,
    /// Listener of its own; `None`: the public one.
    pub listen_addr: Option<String>,
    /// Requests a minute.
    pub rate_limit: u32,
    /// Proxies in front whose headers are believed.
    pub trusted_proxy_hops: u32,
    /// Link to a trace, with `{trace_id}`.
    pub trace_ui_url: Option<String>,
}

/// Metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Path they are served to Prometheus on; `None`: not served.
    pub prometheus_path: Option<String>,
    /// Listener of its own; `None`: the public one.
    pub listen_addr: Option<String>,
    /// CloudWatch; `Some(true)`: with all dimensions.
    pub cloudwatch: Option<bool>,
    /// Datadog agent, `host:port`; `None`: off.
    pub datadog_addr: Option<String>,
    /// Tags of every metric sent to Datadog.
    pub datadog_tags: Vec<String>,
    /// Share of distributions sent to Datadog.
    pub datadog_sample_rate: f64,
    /// Buffer pool size, workers and messages per payload of the Datadog client; 0: its own.
    pub datadog_client: [u32; 3],
    /// Names of the Go implementation too, for Prometheus and Datadog.
    pub legacy_names: bool,
    /// The same for CloudWatch.
    pub legacy_names_cloudwatch: bool,
}

/// Traces.
#[derive(Debug, Clone)]
pub struct Tracing {
    /// Where they are sent; `None`: off.
    pub endpoint: Option<String>,
    /// Without TLS.
    pub insecure: bool,
    /// Service name.
    pub service_name: String,
    /// Share that is sent, 0 to 1.
    pub sampling_ratio: f64,
    /// Deployment environment.
    pub environment: Option<String>,
}

/// How to log in to Vault.
#[derive(Debug, Clone)]
pub enum VaultAuth {
    /// With the machine's AWS identity.
    Aws {
        /// Role.
        role: String,
        /// For diagnostics only.
        region: String,
    },
    /// With a projected token, which is read anew at every login.
    Jwt {
        /// Mount of the login.
        mount: String,
        /// Role.
        role: String,
        /// File of the token.
        path: String,
    },
    /// With an application role.
    AppRole {
        /// Role id.
        role_id: String,
        /// Secret id.
        secret_id: SecretString,
    },
    /// With a token.
    Token(SecretString),
}

/// A Vault server.
#[derive(Debug, Clone)]
pub struct Vault {
    /// Its address, without a trailing slash.
    pub addr: String,
    /// Namespace.
    pub namespace: Option<String>,
    /// Mount of the key-value engine.
    pub kv_mount: String,
    /// Version of the engine; `None`: find out.
    pub kv_version: Option<u8>,
    /// Path below the mount.
    pub base_path: String,
    /// How to log in.
    pub auth: VaultAuth,
}

/// Where agents find their hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandOverStore {
    /// AWS Systems Manager parameters.
    Ssm,
    /// Vault.
    Vault,
    /// Files of this machine: local mode.
    Files,
}

/// The store agents find their hand-over in.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// Which one.
    pub hand_over: HandOverStore,
    /// In front of every parameter's name, without a trailing slash.
    pub path_prefix: String,
    /// The Vault server, when the hand-over lives there.
    pub vault: Option<Vault>,
}

/// Limits and intervals.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// Ceiling of a job's run time.
    pub max_runtime: Duration,
    /// A runner without a job for so long ends itself; `None`: never.
    pub runner_idle_exit: Option<Duration>,
    /// Job messages handled at a time.
    pub dispatch_concurrency: usize,
    /// Jobs a minute per repository; `None`: no limit.
    pub ingest_rate_per_repo: Option<u32>,
    /// Longest wait for a prepared runner's first report.
    pub confirm: Duration,
    /// Agents must sign their reports.
    pub termination_require_token: bool,
    /// Time zone of pool schedules.
    pub schedule_timezone: TimeZone,
    /// Divides every interval; 1 outside tests.
    pub time_divisor: u32,
}
