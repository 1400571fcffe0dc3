//! From checked values to the typed configuration. Called only when there is no error, so that required values are there
//! and numbers are within their bounds.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::tz::{TimeZone, TimeZoneDatabase};
use secrecy::SecretString;
use serde_json::Value as Json;

use super::*;
use crate::load::{Effective, Values};

/// Values in the types of the configuration.
struct Typed<'a>(&'a Values);

impl Typed<'_> {
    fn text(&self, name: &str) -> String {
        self.opt(name).unwrap_or_default()
    }
    fn opt(&self, name: &str) -> Option<String> {
        self.0.text(name).map(str::to_owned)
    }
    fn list(&self, name: &str) -> Vec<String> {
        self.0.list(name).to_vec()
    }
    fn on(&self, name: &str) -> bool {
        self.0.on(name)
    }
    fn secret(&self, name: &str) -> Option<SecretString> {
        self.0.secret(name).cloned()
    }
    /// A number; beyond what the type holds it is as good as the largest.
    fn number<T: TryFrom<i64> + Bounded>(&self, name: &str) -> T {
        T::try_from(self.0.int(name).unwrap_or_default()).unwrap_or(T::MOST)
    }
    /// A number of which 0 means "off".
    fn number_or_off<T: TryFrom<i64> + Bounded>(&self, name: &str) -> Option<T> {
        self.0.int(name).filter(|n| *n > 0).map(|n| T::try_from(n).unwrap_or(T::MOST))
    }
    fn seconds(&self, name: &str) -> Duration {
        Duration::from_secs(self.number(name))
    }
    fn minutes(&self, name: &str) -> Duration {
        Duration::from_secs(self.number::<u64>(name).saturating_mul(60))
    }
    fn time_zone(&self, name: &str) -> TimeZone {
        TimeZoneDatabase::bundled().get(&self.text(name)).unwrap_or(TimeZone::UTC)
    }
    fn texts(&self, name: &str) -> BTreeMap<String, String> {
        let members = self.0.json(name).as_object().into_iter().flatten();
        members.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    }
}

trait Bounded {
    const MOST: Self;
}
impl Bounded for u8 {
    const MOST: Self = Self::MAX;
}
impl Bounded for u32 {
    const MOST: Self = Self::MAX;
}
impl Bounded for u64 {
    const MOST: Self = Self::MAX;
}
impl Bounded for usize {
    const MOST: Self = Self::MAX;
}

impl Config {
    pub(crate) fn build(values: &Values, mode: Mode, ec2: bool, k8s: bool, local: bool, effective: &Effective) -> Self {
        let v = Typed(values);
        Self {
            mode,
            local,
            core: core(&v),
            github: github(&v),
            queues: if local { Queues::default() } else { queues(&v) },
            store: store(&v),
            fleet: (ec2 && !local).then(|| fleet(&v, effective)),
            kubernetes: (k8s && !local).then(|| kubernetes(&v)),
            cache: cache(&v, effective),
            cost: cost(&v),
            admin: admin(&v, local, effective),
            metrics: metrics(&v, local),
            tracing: tracing(&v),
            secrets: secrets(&v, local),
            tuning: tuning(&v),
        }
    }
}

fn core(v: &Typed<'_>) -> Core {
    let level = v.text("RUNS_FLEET_LOG_LEVEL");
    Core {
        region: v.text("AWS_REGION"),
        replica_id: v.text("RUNS_FLEET_INSTANCE_ID"),
        listen_addr: v.text("RUNS_FLEET_LISTEN_ADDR"),
        base_url: v.opt("RUNS_FLEET_BASE_URL"),
        log_level: if level == "warning" { "warn".into() } else { level },
        log_format: if v.text("RUNS_FLEET_LOG_FORMAT") == "text" { LogFormat::Text } else { LogFormat::Json },
        shutdown_drain_delay: v.seconds("RUNS_FLEET_SHUTDOWN_DRAIN_DELAY_SECONDS"),
        locks_table: v.opt("RUNS_FLEET_LOCKS_TABLE").filter(|_| v.on("RUNS_FLEET_COORDINATOR_ENABLED")),
    }
}

fn github(v: &Typed<'_>) -> GitHub {
    let id = v.number_or_off("RUNS_FLEET_GITHUB_APP_ID");
    let key = v.secret("RUNS_FLEET_GITHUB_APP_PRIVATE_KEY");
    let repo = v.opt("RUNS_FLEET_CONFIG_REPO").and_then(|repo| repo.parse().ok());
    let aliases = v.0.json("RUNS_FLEET_LABEL_ALIASES");
    GitHub {
        app: id.zip(key).map(|(id, private_key)| App { id, private_key }),
        webhook_secret: v.secret("RUNS_FLEET_GITHUB_WEBHOOK_SECRET"),
        webhook_secret_previous: v.secret("RUNS_FLEET_GITHUB_WEBHOOK_SECRET_PREVIOUS"),
        api_url: v.text("RUNS_FLEET_GITHUB_API_URL"),
        server_url: v.text("RUNS_FLEET_GITHUB_SERVER_URL"),
        label_aliases: if aliases.is_null() { String::new() } else { aliases.to_string() },
        allowed_repos: v.list("RUNS_FLEET_ALLOWED_REPOS"),
        runner_group: v.opt("RUNS_FLEET_RUNNER_GROUP"),
        registration: match v.text("RUNS_FLEET_RUNNER_REGISTRATION").as_str() {
            "token" => Registration::Token,
            _ => Registration::Jit,
        },
        rerun_interrupted_jobs: v.on("RUNS_FLEET_RERUN_INTERRUPTED_JOBS"),
        config_file: repo.map(|repo| (repo, v.text("RUNS_FLEET_CONFIG_PATH"))),
    }
}

fn queues(v: &Typed<'_>) -> Queues {
    Queues {
        main: v.opt("RUNS_FLEET_QUEUE_URL"),
        main_dlq: v.opt("RUNS_FLEET_QUEUE_DLQ_URL"),
        pool: v.opt("RUNS_FLEET_POOL_QUEUE_URL"),
        events: v.opt("RUNS_FLEET_EVENTS_QUEUE_URL"),
        termination: v.opt("RUNS_FLEET_TERMINATION_QUEUE_URL"),
        housekeeping: v.opt("RUNS_FLEET_HOUSEKEEPING_QUEUE_URL"),
        webhook: v.opt("RUNS_FLEET_WEBHOOK_QUEUE_URL"),
    }
}

fn store(v: &Typed<'_>) -> Store {
    Store {
        kind: StoreKind::parse(&v.text("RUNS_FLEET_STORE")).unwrap_or(StoreKind::Embedded),
        path: v.text("RUNS_FLEET_STORE_PATH"),
        jobs_table: v.opt("RUNS_FLEET_JOBS_TABLE"),
        pools_table: v.opt("RUNS_FLEET_POOLS_TABLE"),
        runners_table: v.text("RUNS_FLEET_RUNNERS_TABLE"),
        circuit_breaker_table: v.text("RUNS_FLEET_CIRCUIT_BREAKER_TABLE"),
        audit_table: v.opt("RUNS_FLEET_AUDIT_TABLE"),
        jobs_pool_status_gsi: v.opt("RUNS_FLEET_JOBS_POOL_STATUS_GSI"),
        jobs_instance_id_gsi: v.opt("RUNS_FLEET_JOBS_INSTANCE_ID_GSI"),
        jobs_status_gsi: v.opt("RUNS_FLEET_JOBS_STATUS_GSI"),
        archive_bucket: v.opt("RUNS_FLEET_ARCHIVE_BUCKET"),
        old_jobs_hard_delete: v.on("RUNS_FLEET_OLD_JOBS_HARD_DELETE"),
    }
}

fn fleet(v: &Typed<'_>, effective: &Effective) -> Fleet {
    let tags = v.texts("RUNS_FLEET_TAGS");
    let attribution = [
        ("RUNS_FLEET_TAG_KEY_APPLICATION", "RUNS_FLEET_TAG_VALUE_APPLICATION"),
        ("RUNS_FLEET_TAG_KEY_SERVICE", "RUNS_FLEET_TAG_VALUE_SERVICE"),
    ];
    let caps = v.0.json("RUNS_FLEET_HOT_POOL_CAPS");
    let cap = |name: &str| caps[name].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
    Fleet {
        vpc_id: v.text("RUNS_FLEET_VPC_ID"),
        // Chosen among RUNS_FLEET_SUBNET_IDS, RUNS_FLEET_PUBLIC_SUBNET_IDS and RUNS_FLEET_PRIVATE_SUBNET_IDS.
        default_subnets: effective.default_subnets.clone(),
        private_subnets: effective.private_subnets.clone(),
        security_group_id: v.text("RUNS_FLEET_SECURITY_GROUP_ID"),
        instance_profile_arn: v.text("RUNS_FLEET_INSTANCE_PROFILE_ARN"),
        runner_image: v.text("RUNS_FLEET_RUNNER_IMAGE"),
        key_name: v.opt("RUNS_FLEET_KEY_NAME"),
        spot_enabled: v.on("RUNS_FLEET_SPOT_ENABLED"),
        launch_template_name: v.text("RUNS_FLEET_LAUNCH_TEMPLATE_NAME"),
        attribution_tags: attribution
            .map(|(key, value)| (v.text(key), v.text(value)))
            .into_iter()
            .filter(|(key, _)| !tags.contains_key(key))
            .collect(),
        tags,
        unclaimed_instance_grace: v.minutes("RUNS_FLEET_UNCLAIMED_INSTANCE_GRACE_MINUTES"),
        completed_instance_grace: v.minutes("RUNS_FLEET_COMPLETED_INSTANCE_GRACE_MINUTES"),
        stopped_instance_grace: v
            .number_or_off::<u64>("RUNS_FLEET_STOPPED_INSTANCE_GRACE_HOURS")
            .map(|hours| Duration::from_secs(hours.saturating_mul(3600))),
        batch_max: v.number("RUNS_FLEET_FLEET_BATCH_MAX"),
        batch_linger: Duration::from_millis(v.number("RUNS_FLEET_FLEET_BATCH_LINGER_MS")),
        hot_pools: v.on("RUNS_FLEET_HOT_POOLS_ENABLED").then(|| HotPoolCaps {
            max_linger_minutes: cap("maxLingerMinutes"),
            max_hot: cap("maxHot"),
            min_jobs_to_activate: cap("minJobsToActivate"),
            lookback_days: cap("lookbackDays"),
            burst_gap_minutes: cap("burstGapMinutes"),
        }),
        standby_deadline: v.minutes("RUNS_FLEET_STANDBY_DEADLINE_MINUTES"),
    }
}

fn kubernetes(v: &Typed<'_>) -> Kubernetes {
    let selector = v.list("RUNS_FLEET_KUBE_NODE_SELECTOR");
    let pairs = selector.iter().filter_map(|item| item.split_once('='));
    let tolerations: Json = v.0.json("RUNS_FLEET_KUBE_TOLERATIONS").clone();
    Kubernetes {
        config: v.opt("RUNS_FLEET_KUBE_CONFIG"),
        namespace: v.text("RUNS_FLEET_KUBE_NAMESPACE"),
        service_account: v.text("RUNS_FLEET_KUBE_SERVICE_ACCOUNT"),
        node_selector: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        tolerations: serde_json::from_value(tolerations).unwrap_or_default(),
        runner_image: v.text("RUNS_FLEET_KUBE_RUNNER_IMAGE"),
        resource_labels: v.texts("RUNS_FLEET_KUBE_RESOURCE_LABELS"),
        idle_timeout: v.minutes("RUNS_FLEET_KUBE_IDLE_TIMEOUT_MINUTES"),
        release_name: v.text("RUNS_FLEET_KUBE_RELEASE_NAME"),
        storage_class: v.opt("RUNS_FLEET_KUBE_STORAGE_CLASS"),
        dind_image: v.text("RUNS_FLEET_KUBE_DIND_IMAGE"),
        daemon_json_configmap: v.opt("RUNS_FLEET_KUBE_DAEMON_JSON_CONFIGMAP"),
        docker_wait: v.seconds("RUNS_FLEET_KUBE_DOCKER_WAIT_SECONDS"),
        docker_group_gid: v.number("RUNS_FLEET_KUBE_DOCKER_GROUP_GID"),
        registry_mirror: v.opt("RUNS_FLEET_KUBE_REGISTRY_MIRROR"),
        container_mode: v.text("RUNS_FLEET_KUBE_CONTAINER_MODE"),
        native_sidecar: v.text("RUNS_FLEET_KUBE_NATIVE_SIDECAR").parse().ok(),
        workspace_type: v.text("RUNS_FLEET_KUBE_WORKSPACE_TYPE"),
        runner_uid: v.number("RUNS_FLEET_KUBE_RUNNER_UID"),
        priority_class: v.opt("RUNS_FLEET_KUBE_PRIORITY_CLASS"),
        image_pull_secrets: v.list("RUNS_FLEET_KUBE_IMAGE_PULL_SECRETS"),
        image_pull_policy: v.text("RUNS_FLEET_KUBE_IMAGE_PULL_POLICY"),
        schedule_timeout: v.seconds("RUNS_FLEET_KUBE_SCHEDULE_TIMEOUT_SECONDS"),
        image_pull_timeout: v.seconds("RUNS_FLEET_KUBE_IMAGE_PULL_TIMEOUT_SECONDS"),
        start_timeout: v.seconds("RUNS_FLEET_KUBE_START_TIMEOUT_SECONDS"),
        termination_grace: v.seconds("RUNS_FLEET_KUBE_TERMINATION_GRACE_SECONDS"),
        finished_pod_ttl: v.seconds("RUNS_FLEET_KUBE_FINISHED_POD_TTL_SECONDS"),
        private_egress_cidrs: v.list("RUNS_FLEET_KUBE_PRIVATE_EGRESS_CIDRS"),
        sweep_legacy_pvcs: v.on("RUNS_FLEET_KUBE_SWEEP_LEGACY_PVCS"),
        allow_registration_token: v.on("RUNS_FLEET_KUBE_ALLOW_REGISTRATION_TOKEN"),
        valkey: Valkey {
            addr: v.text("RUNS_FLEET_VALKEY_ADDR"),
            username: v.opt("RUNS_FLEET_VALKEY_USERNAME"),
            password: v.secret("RUNS_FLEET_VALKEY_PASSWORD"),
            db: v.number("RUNS_FLEET_VALKEY_DB"),
            tls: v.on("RUNS_FLEET_VALKEY_TLS"),
            tls_ca_file: v.opt("RUNS_FLEET_VALKEY_TLS_CA_FILE"),
            key_prefix: v.text("RUNS_FLEET_VALKEY_KEY_PREFIX"),
            max_deliveries: v.number("RUNS_FLEET_VALKEY_MAX_DELIVERIES"),
            runner: v.opt("RUNS_FLEET_VALKEY_RUNNER_USERNAME").zip(v.secret("RUNS_FLEET_VALKEY_RUNNER_PASSWORD")),
        },
    }
}

fn cache(v: &Typed<'_>, effective: &Effective) -> Cache {
    Cache {
        bucket: v.opt("RUNS_FLEET_CACHE_BUCKET"),
        dir: v.opt("RUNS_FLEET_CACHE_DIR").filter(|_| v.text("RUNS_FLEET_CACHE_BACKEND") == "fs"),
        // Off without a secret, unless RUNS_FLEET_CACHE_ALLOW_ANONYMOUS says otherwise.
        served: effective.cache_api != "disabled",
        secret: v.secret("RUNS_FLEET_CACHE_SECRET"),
        secret_previous: v.secret("RUNS_FLEET_CACHE_SECRET_PREVIOUS"),
        // RUNS_FLEET_CACHE_URL, else the base URL.
        url: effective.cache_url.clone(),
        max_entry_bytes: v.number("RUNS_FLEET_CACHE_MAX_ENTRY_BYTES"),
        repo_limit_bytes: v.number_or_off("RUNS_FLEET_CACHE_REPO_LIMIT_BYTES"),
        ttl_days: v.number_or_off("RUNS_FLEET_CACHE_TTL_DAYS"),
        token_ttl: v.seconds("RUNS_FLEET_CACHE_TOKEN_TTL_SECONDS"),
        accept_legacy_tokens: v.on("RUNS_FLEET_CACHE_ACCEPT_LEGACY_TOKENS"),
        proxy_downloads: v.text("RUNS_FLEET_CACHE_DOWNLOAD_MODE") == "proxy",
    }
}

fn cost(v: &Typed<'_>) -> Cost {
    Cost {
        report_sns_topic: v.opt("RUNS_FLEET_COST_REPORT_SNS_TOPIC"),
        report_bucket: v.opt("RUNS_FLEET_COST_REPORT_BUCKET"),
        report_timezone: v.time_zone("RUNS_FLEET_REPORT_TIMEZONE"),
        anomaly_daily_usd: v.0.float("RUNS_FLEET_COST_ANOMALY_DAILY_USD"),
        anomaly_factor: v.0.float("RUNS_FLEET_COST_ANOMALY_FACTOR").filter(|factor| *factor > 0.0),
        orchestrator_daily_usd: v.0.float("RUNS_FLEET_COST_ORCHESTRATOR_DAILY_USD"),
        ebs_gib: v.number("RUNS_FLEET_COST_EBS_GIB"),
        github_platform_per_minute: v.0.float("RUNS_FLEET_COST_GITHUB_PLATFORM_PER_MINUTE").unwrap_or_default(),
    }
}

fn admin(v: &Typed<'_>, local: bool, effective: &Effective) -> Admin {
    let client = v.secret("RUNS_FLEET_ADMIN_OIDC_CLIENT_SECRET");
    let secrets = client.zip(v.secret("RUNS_FLEET_ADMIN_SESSION_SECRET"));
    Admin {
        oidc: secrets.map(|(client_secret, session_secret)| Oidc {
            issuer_url: v.text("RUNS_FLEET_ADMIN_OIDC_ISSUER_URL"),
            client_id: v.text("RUNS_FLEET_ADMIN_OIDC_CLIENT_ID"),
            client_secret,
            session_secret,
            session_secret_previous: v.secret("RUNS_FLEET_ADMIN_SESSION_SECRET_PREVIOUS"),
            // RUNS_FLEET_ADMIN_OIDC_REDIRECT_URL, else below the base URL.
            redirect_url: effective.oidc_redirect_url.clone().unwrap_or_default(),
            scopes: v.list("RUNS_FLEET_ADMIN_OIDC_SCOPES"),
            groups_claim: v.text("RUNS_FLEET_ADMIN_OIDC_GROUPS_CLAIM"),
            session_ttl: v.minutes("RUNS_FLEET_ADMIN_SESSION_TTL_MINUTES"),
            operator_groups: v.list("RUNS_FLEET_ADMIN_OPERATOR_GROUPS"),
            viewer_groups: v.list("RUNS_FLEET_ADMIN_VIEWER_GROUPS"),
        }),
        anonymous: v.on("RUNS_FLEET_ADMIN_ALLOW_ANONYMOUS") || local,
        listen_addr: v.opt("RUNS_FLEET_ADMIN_LISTEN_ADDR"),
        rate_limit: v.number("RUNS_FLEET_ADMIN_RATE_LIMIT"),
        trusted_proxy_hops: v.number("RUNS_FLEET_ADMIN_TRUSTED_PROXY_HOPS"),
        trace_ui_url: v.opt("RUNS_FLEET_TRACE_UI_URL"),
    }
}

fn metrics(v: &Typed<'_>, local: bool) -> Metrics {
    let prometheus = v.on("RUNS_FLEET_METRICS_PROMETHEUS_ENABLED") || local;
    let cloudwatch = v.on("RUNS_FLEET_METRICS_CLOUDWATCH_ENABLED");
    let datadog = v.on("RUNS_FLEET_METRICS_DATADOG_ENABLED");
    Metrics {
        prometheus_path: v.opt("RUNS_FLEET_METRICS_PROMETHEUS_PATH").filter(|_| prometheus),
        listen_addr: v.opt("RUNS_FLEET_METRICS_LISTEN_ADDR"),
        cloudwatch: cloudwatch.then(|| v.text("RUNS_FLEET_METRICS_CLOUDWATCH_DETAIL") == "full"),
        datadog_addr: v.opt("RUNS_FLEET_METRICS_DATADOG_ADDR").filter(|_| datadog),
        datadog_tags: v.list("RUNS_FLEET_METRICS_DATADOG_TAGS"),
        datadog_sample_rate: v.0.float("RUNS_FLEET_METRICS_DATADOG_SAMPLE_RATE").unwrap_or(1.0),
        datadog_client: [
            "RUNS_FLEET_METRICS_DATADOG_BUFFER_POOL_SIZE",
            "RUNS_FLEET_METRICS_DATADOG_WORKERS_COUNT",
            "RUNS_FLEET_METRICS_DATADOG_MAX_MSGS_PER_PAYLOAD",
        ]
        .map(|name| v.number(name)),
        legacy_names: v.on("RUNS_FLEET_METRICS_LEGACY_NAMES"),
        legacy_names_cloudwatch: !v.0.is_derived("RUNS_FLEET_METRICS_LEGACY_NAMES")
            && v.on("RUNS_FLEET_METRICS_LEGACY_NAMES"),
    }
}

fn tracing(v: &Typed<'_>) -> Tracing {
    let endpoint = v.opt("RUNS_FLEET_OTEL_ENDPOINT").or_else(|| v.opt("OTEL_EXPORTER_OTLP_ENDPOINT"));
    Tracing {
        endpoint: endpoint.filter(|_| v.on("RUNS_FLEET_TRACING_ENABLED")),
        insecure: v.on("RUNS_FLEET_OTEL_INSECURE"),
        service_name: v.text("RUNS_FLEET_OTEL_SERVICE_NAME"),
        sampling_ratio: v.0.float("OTEL_TRACE_SAMPLING_RATIO").unwrap_or(1.0),
        environment: v.opt("RUNS_FLEET_ENV").or_else(|| v.opt("RUNS_FLEET_ENVIRONMENT")),
    }
}

fn secrets(v: &Typed<'_>, local: bool) -> Secrets {
    let hand_over = match v.text("RUNS_FLEET_SECRETS_BACKEND").as_str() {
        _ if local => HandOverStore::Files,
        "vault" => HandOverStore::Vault,
        _ => HandOverStore::Ssm,
    };
    Secrets {
        hand_over,
        path_prefix: v.text("RUNS_FLEET_SECRETS_PATH_PREFIX"),
        vault: (hand_over == HandOverStore::Vault).then(|| Vault {
            addr: v.text("VAULT_ADDR").trim_end_matches('/').to_owned(),
            namespace: v.opt("VAULT_NAMESPACE"),
            kv_mount: v.text("VAULT_KV_MOUNT"),
            kv_version: v.number_or_off("VAULT_KV_VERSION"),
            base_path: v.text("VAULT_BASE_PATH"),
            auth: match v.text("VAULT_AUTH_METHOD").as_str() {
                "kubernetes" | "k8s" | "jwt" => VaultAuth::Jwt {
                    mount: v.text("VAULT_K8S_AUTH_MOUNT"),
                    role: v.text("VAULT_K8S_ROLE"),
                    path: v.text("VAULT_K8S_JWT_PATH"),
                },
                "approle" => VaultAuth::AppRole {
                    role_id: v.text("VAULT_APP_ROLE_ID"),
                    secret_id: v.secret("VAULT_APP_SECRET_ID").unwrap_or_default(),
                },
                "token" => VaultAuth::Token(v.secret("VAULT_TOKEN").unwrap_or_default()),
                _ => VaultAuth::Aws { role: v.text("VAULT_AWS_ROLE"), region: v.text("VAULT_AWS_REGION") },
            },
        }),
    }
}

fn tuning(v: &Typed<'_>) -> Tuning {
    Tuning {
        max_runtime: v.minutes("RUNS_FLEET_MAX_RUNTIME_MINUTES"),
        runner_idle_exit: v.number_or_off("RUNS_FLEET_RUNNER_IDLE_EXIT_SECONDS").map(Duration::from_secs),
        dispatch_concurrency: v.number("RUNS_FLEET_DISPATCH_CONCURRENCY"),
        ingest_rate_per_repo: v.number_or_off("RUNS_FLEET_INGEST_RATE_PER_REPO"),
        confirm: v.minutes("RUNS_FLEET_CONFIRM_MINUTES"),
        termination_require_token: v.on("RUNS_FLEET_TERMINATION_REQUIRE_TOKEN"),
        schedule_timezone: v.time_zone("RUNS_FLEET_SCHEDULE_TIMEZONE"),
        time_divisor: v.number("RUNS_FLEET_TEST_TIME_DIVISOR"),
    }
}
