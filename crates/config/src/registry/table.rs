//! The table.

use super::Kind::*;
use super::Revision::{Both as B, Later as L, New as N, Seed as S};
use super::Scope::{Coordinator, Datadog, Ec2, K8s, Oidc, Prometheus, Vault};
use super::{Kind, Section, Variable};
use crate::parse::structured::{aliases, hot_pool_caps, node_selector, resource_labels, tags, tolerations};
use crate::parse::text::*;

const MAX: i64 = i64::MAX;

const fn v(name: &'static str, kind: Kind) -> Variable {
    Variable::new(name, kind)
}
const fn int(name: &'static str, min: i64, max: i64) -> Variable {
    Variable::new(name, Int { min, max })
}
const fn float(name: &'static str, min: f64, max: f64) -> Variable {
    Variable::new(name, Float { min, max })
}
const fn https(name: &'static str) -> Variable {
    Variable::new(name, Url { https: true })
}
const fn queue(name: &'static str) -> Variable {
    Variable::new(name, Url { https: false }).within(Ec2).check(queue_url, "with a path")
}
const fn table(name: &'static str) -> Variable {
    Variable::new(name, Text).check(table_name, "3 to 255 of letters, digits, `_.-`, or an ARN")
}
const fn k8s(name: &'static str, kind: Kind) -> Variable {
    Variable::new(name, kind).within(K8s)
}
const fn vault(name: &'static str, kind: Kind) -> Variable {
    Variable::new(name, kind).within(Vault)
}

/// Every variable the server reads, by chapter.
pub const SECTIONS: &[Section] = &[
    Section { title: "Core", variables: CORE },
    Section { title: "Queues", variables: QUEUES },
    Section { title: "Stores, cache and cost", variables: STORES },
    Section { title: "EC2 fleet", variables: FLEET },
    Section { title: "Kubernetes and Valkey", variables: KUBERNETES },
    Section { title: "Admin", variables: ADMIN },
    Section { title: "Metrics and traces", variables: METRICS },
    Section { title: "Hand-over store", variables: SECRETS },
];

const CORE: &[Variable] = &[
    v("AWS_REGION", Text).or("ap-northeast-1").derived("`AWS_DEFAULT_REGION`, else `ap-northeast-1` with a warning")
        .check(region, "looks like a region").doc(B, "Region of every AWS call."),
    v("RUNS_FLEET_MODE", Enum(&["ec2", "k8s"])).or("ec2").doc(S, "Back end of jobs that do not choose one."),
    v("RUNS_FLEET_HYBRID_ENABLED", Bool).or("false").doc(N, "Serve both back ends; variables of both apply."),
    v("RUNS_FLEET_GITHUB_WEBHOOK_SECRET", Secret).required().check(weak_below_16, "16 characters or more")
        .doc(B, "Key of `X-Hub-Signature-256`."),
    v("RUNS_FLEET_GITHUB_WEBHOOK_SECRET_PREVIOUS", Secret).doc(N, "Second accepted key during a rotation."),
    int("RUNS_FLEET_GITHUB_APP_ID", 1, MAX).required().doc(B, "Id of the GitHub App."),
    v("RUNS_FLEET_GITHUB_APP_PRIVATE_KEY", Pem).required().doc(B, "The App's RSA key, 2048 bits or more."),
    https("RUNS_FLEET_BASE_URL").check(trim_slash, "a trailing `/` is removed")
        .doc(L, "Public address; the cache's and the sign-in's addresses follow from it."),
    v("RUNS_FLEET_LISTEN_ADDR", HostPort { any_host: true }).or("0.0.0.0:8080")
        .derived("`0.0.0.0:8080`; local mode `127.0.0.1:8080`").doc(N, "Public listener."),
    v("RUNS_FLEET_LABEL_ALIASES", Json(aliases)).doc(L, "`runs-on` labels of other runner systems served unchanged."),
    int("RUNS_FLEET_MAX_RUNTIME_MINUTES", 1, 1440).or("360").doc(B, "Ceiling of a job's run time."),
    int("RUNS_FLEET_SHUTDOWN_DRAIN_DELAY_SECONDS", 0, 15).or("5")
        .doc(L, "Keep serving after SIGTERM while load balancers take the replica out."),
    v("RUNS_FLEET_LOG_LEVEL", Enum(&["trace", "debug", "info", "warn", "warning", "error"])).or("info").any_case()
        .lenient().doc(B, "Lowest level that is logged."),
    v("RUNS_FLEET_LOG_FORMAT", Enum(&["json", "text"])).or("json").lenient().doc(L, "How log lines look."),
    v("RUNS_FLEET_INSTANCE_ID", Text).derived("the host's name").doc(S, "Name of this replica in logs and queues."),
    v("RUNS_FLEET_COORDINATOR_ENABLED", Bool).or("false").doc(S, "Elect one leader among replicas."),
    table("RUNS_FLEET_LOCKS_TABLE").or("runs-fleet-locks").within(Coordinator).doc(S, "Table of the leader lease."),
    https("RUNS_FLEET_GITHUB_API_URL").or("https://api.github.com").check(trim_slash, "a trailing `/` is removed")
        .doc(N, "REST API of GitHub or of an Enterprise Server."),
    https("RUNS_FLEET_GITHUB_SERVER_URL").derived("from the API's address").check(trim_slash, "a trailing `/` is removed")
        .doc(N, "Web address runners register at."),
    v("RUNS_FLEET_ALLOWED_REPOS", List).check(repos, "`owner/name` or `owner/*`")
        .doc(N, "Repositories that are served; unset means all."),
    v("RUNS_FLEET_RUNNER_GROUP", Text).doc(N, "Runner group of organisation runners; unset means the default group."),
    int("RUNS_FLEET_RUNNER_IDLE_EXIT_SECONDS", 0, 86400).or("600").check(off_or_60, "0 (off) or 60 and more")
        .doc(N, "A runner without a job for so long ends itself."),
    v("RUNS_FLEET_RERUN_INTERRUPTED_JOBS", Bool).or("true").doc(N, "Re-run a job whose machine we lost."),
    v("RUNS_FLEET_CONFIG_REPO", Text).check(repo, "`owner/name`").doc(N, "Repository whose file configures pools."),
    v("RUNS_FLEET_CONFIG_PATH", Text).or(".github/runs-fleet.yml").check(relative_path, "relative, without `..`")
        .doc(N, "That file."),
    int("RUNS_FLEET_DISPATCH_CONCURRENCY", 1, 512).or("64").doc(N, "Job messages handled at a time."),
    int("RUNS_FLEET_INGEST_RATE_PER_REPO", 0, MAX).or("500").doc(N, "Jobs a minute per repository; 0 means no limit."),
    int("RUNS_FLEET_CONFIRM_MINUTES", 3, 60).or("5").doc(N, "Longest wait for a prepared runner's first report."),
    v("RUNS_FLEET_TERMINATION_REQUIRE_TOKEN", Bool).or("false").doc(N, "Agents must sign their reports."),
    v("RUNS_FLEET_SCHEDULE_TIMEZONE", Text).derived("`RUNS_FLEET_REPORT_TIMEZONE` if set, else `UTC`")
        .check(time_zone, "IANA name").doc(N, "Time zone of pool schedules."),
    v("RUNS_FLEET_RUNNER_REGISTRATION", Enum(&["jit", "token"])).or("jit").doc(N, "Credential minted for runners."),
    int("RUNS_FLEET_TEST_TIME_DIVISOR", 1, 100).or("1").check(one_outside_tests, "more than 1 in tests only")
        .doc(N, "Divides every interval."),
];

const QUEUES: &[Variable] = &[
    queue("RUNS_FLEET_QUEUE_URL").required().doc(B, "Main job queue, FIFO."),
    queue("RUNS_FLEET_QUEUE_DLQ_URL").doc(B, "Dead letters of the main queue."),
    queue("RUNS_FLEET_POOL_QUEUE_URL").doc(B, "Accepted for compatibility; nothing is consumed."),
    queue("RUNS_FLEET_EVENTS_QUEUE_URL").doc(B, "Spot events."),
    queue("RUNS_FLEET_TERMINATION_QUEUE_URL").doc(B, "Reports of agents."),
    queue("RUNS_FLEET_HOUSEKEEPING_QUEUE_URL").doc(B, "Housekeeping asked for by operators."),
    queue("RUNS_FLEET_WEBHOOK_QUEUE_URL").doc(N, "Raw webhooks from an API gateway; unset: they come on the main queue."),
];

const STORES: &[Variable] = &[
    table("RUNS_FLEET_JOBS_TABLE").doc(B, "Job records."),
    table("RUNS_FLEET_POOLS_TABLE").doc(B, "Pools, locks, claims, cost samples."),
    table("RUNS_FLEET_CIRCUIT_BREAKER_TABLE").or("runs-fleet-circuit-state").doc(B, "Circuit breakers."),
    v("RUNS_FLEET_JOBS_POOL_STATUS_GSI", Text).doc(L, "Index (`pool`, `status`) of the jobs table."),
    v("RUNS_FLEET_JOBS_INSTANCE_ID_GSI", Text).doc(L, "Index (`instance_id`) of the jobs table."),
    v("RUNS_FLEET_JOBS_STATUS_GSI", Text).doc(N, "Index (`status`, `created_at`) of the jobs table."),
    table("RUNS_FLEET_RUNNERS_TABLE").or("runs-fleet-runners").doc(N, "Runner records."),
    v("RUNS_FLEET_STORE", Enum(&["dynamodb", "valkey", "embedded"]))
        .derived("`dynamodb` with a jobs table, else `valkey` with k8s, else `embedded`").doc(N, "Where records live."),
    v("RUNS_FLEET_STORE_PATH", Text).or("/var/lib/runs-fleet/runs-fleet.db").doc(N, "File of the embedded store."),
    table("RUNS_FLEET_AUDIT_TABLE").doc(L, "Audit events; unset: only in logs."),
    v("RUNS_FLEET_CACHE_BUCKET", Text).doc(B, "Bucket of the Actions cache; unset: off."),
    v("RUNS_FLEET_CACHE_SECRET", Secret).check(weak_below_16, "16 characters or more").doc(B, "Key of cache tokens."),
    v("RUNS_FLEET_CACHE_ALLOW_ANONYMOUS", Bool).or("false").doc(N, "Serve the cache without a secret."),
    v("RUNS_FLEET_CACHE_SECRET_PREVIOUS", Secret).doc(N, "Second accepted key during a rotation."),
    v("RUNS_FLEET_CACHE_BACKEND", Enum(&["s3", "fs"])).or("s3").doc(N, "Where cache entries live."),
    v("RUNS_FLEET_CACHE_DIR", Text).check(absolute_path, "absolute").doc(N, "Directory of the `fs` back end."),
    int("RUNS_FLEET_CACHE_MAX_ENTRY_BYTES", 1, 5_497_558_138_880).or("10737418240").doc(N, "Largest entry."),
    int("RUNS_FLEET_CACHE_REPO_LIMIT_BYTES", 0, MAX).or("10737418240").doc(N, "Per repository; 0 means no limit."),
    int("RUNS_FLEET_CACHE_TTL_DAYS", 0, MAX).or("7").doc(N, "Entries unused for so long go; 0 means never."),
    int("RUNS_FLEET_CACHE_TOKEN_TTL_SECONDS", 1, MAX).derived("86400, or the maximum run time and an hour if longer")
        .doc(N, "Life of a cache token."),
    v("RUNS_FLEET_CACHE_ACCEPT_LEGACY_TOKENS", Bool).or("true").doc(N, "Accept two-part tokens."),
    v("RUNS_FLEET_CACHE_DOWNLOAD_MODE", Enum(&["redirect", "proxy"])).or("redirect").doc(N, "How entries are sent."),
    v("RUNS_FLEET_ARCHIVE_BUCKET", Text).derived("the cost reports' bucket, else the cache's")
        .doc(N, "Settled job records before they are deleted."),
    v("RUNS_FLEET_OLD_JOBS_HARD_DELETE", Bool).or("false").doc(N, "Delete records although there is no archive."),
    v("RUNS_FLEET_CACHE_URL", Url { https: false }).doc(S, "Cache address given to runners; wins over the base URL."),
    v("RUNS_FLEET_COST_REPORT_SNS_TOPIC", Text).check(arn, "an ARN").doc(B, "Topic of the daily cost report."),
    v("RUNS_FLEET_COST_REPORT_BUCKET", Text).doc(B, "Bucket of the daily cost report."),
    v("RUNS_FLEET_REPORT_TIMEZONE", Text).or("Asia/Seoul").check(time_zone, "IANA name").doc(L, "A day, for costs."),
    float("RUNS_FLEET_COST_ANOMALY_DAILY_USD", 0.0, f64::MAX).doc(N, "Alarm above this cost of a day."),
    float("RUNS_FLEET_COST_ANOMALY_FACTOR", 0.0, f64::MAX).or("2.0").check(off_or_one, "0 (off) or 1 and more")
        .doc(N, "Alarm above so many times the mean of a week."),
    float("RUNS_FLEET_COST_ORCHESTRATOR_DAILY_USD", 0.0, f64::MAX).doc(N, "Cost of the orchestrator itself."),
    int("RUNS_FLEET_COST_EBS_GIB", 0, 16384).or("100").doc(N, "Volume size where it is unknown."),
    float("RUNS_FLEET_COST_GITHUB_PLATFORM_PER_MINUTE", 0.0, f64::MAX).or("0").doc(N, "GitHub's charge per minute."),
];

const FLEET: &[Variable] = &[
    v("RUNS_FLEET_VPC_ID", Text).within(Ec2).required().check(vpc, "`vpc-…`").doc(B, "Network of the machines."),
    v("RUNS_FLEET_SUBNET_IDS", List).within(Ec2).check(subnets, "each `subnet-…`").doc(L, "Subnets of all machines."),
    v("RUNS_FLEET_PUBLIC_SUBNET_IDS", List).within(Ec2).check(subnets, "each `subnet-…`")
        .doc(S, "Subnets of ordinary jobs."),
    v("RUNS_FLEET_PRIVATE_SUBNET_IDS", List).within(Ec2).check(subnets, "each `subnet-…`")
        .doc(S, "Subnets of jobs with `private=true`."),
    v("RUNS_FLEET_SECURITY_GROUP_ID", Text).within(Ec2).required().check(security_group, "`sg-…`")
        .doc(B, "Security group of the machines."),
    v("RUNS_FLEET_INSTANCE_PROFILE_ARN", Text).within(Ec2).required()
        .check(instance_profile, "`arn:…:instance-profile/…`").doc(B, "Role of the machines."),
    v("RUNS_FLEET_RUNNER_IMAGE", Text).within(Ec2).required().check(ecr_image, "an image in ECR")
        .doc(B, "Container image of runners."),
    v("RUNS_FLEET_KEY_NAME", Text).within(Ec2).doc(B, "SSH key pair."),
    v("RUNS_FLEET_SPOT_ENABLED", Bool).or("true").within(Ec2).doc(B, "Use spot capacity."),
    v("RUNS_FLEET_LAUNCH_TEMPLATE_NAME", Text).or("runs-fleet-runner").within(Ec2)
        .check(launch_template, "3 to 123 of letters, digits, `().-/_`")
        .doc(B, "Launch template; `-arm64` or `-amd64` is appended."),
    v("RUNS_FLEET_TAGS", Json(tags)).or("{}").within(Ec2).doc(B, "Tags of the machines, at most 36."),
    v("RUNS_FLEET_TAG_KEY_APPLICATION", Text).or("Application").within(Ec2).check(tag_key, "a tag key")
        .doc(L, "Attribution tag."),
    v("RUNS_FLEET_TAG_KEY_SERVICE", Text).or("Service").within(Ec2).check(tag_key, "a tag key")
        .doc(L, "Attribution tag."),
    v("RUNS_FLEET_TAG_VALUE_APPLICATION", Text).or("runs-fleet").within(Ec2).check(tag_value, "256 characters or fewer")
        .doc(L, "Its value."),
    v("RUNS_FLEET_TAG_VALUE_SERVICE", Text).or("runner").within(Ec2).check(tag_value, "256 characters or fewer")
        .doc(L, "Its value."),
    int("RUNS_FLEET_UNCLAIMED_INSTANCE_GRACE_MINUTES", 5, MAX).or("30").within(Ec2)
        .doc(L, "A machine that never claimed a job is ended after this."),
    int("RUNS_FLEET_COMPLETED_INSTANCE_GRACE_MINUTES", 5, MAX).or("15").within(Ec2)
        .doc(L, "A machine whose job is over is ended after this."),
    int("RUNS_FLEET_STOPPED_INSTANCE_GRACE_HOURS", 0, MAX).or("0").within(Ec2)
        .doc(L, "A stopped machine is terminated after this; 0 means never."),
    int("RUNS_FLEET_FLEET_BATCH_MAX", 1, 200).or("50").within(Ec2).doc(N, "Jobs of one fleet request."),
    int("RUNS_FLEET_FLEET_BATCH_LINGER_MS", 0, 2000).or("100").within(Ec2).doc(N, "How long a batch fills."),
    v("RUNS_FLEET_HOT_POOLS_ENABLED", Bool).or("false").within(Ec2).doc(L, "Keep machines running for busy pools."),
    v("RUNS_FLEET_HOT_POOL_CAPS", Json(hot_pool_caps)).or("{}").within(Ec2).doc(L, "Limits of that."),
    int("RUNS_FLEET_STANDBY_DEADLINE_MINUTES", 1, 14_400).or("120").within(Ec2)
        .doc(L, "What agents have: without work a machine ends itself after this. Spares are replaced before."),
];

const KUBERNETES: &[Variable] = &[
    k8s("RUNS_FLEET_KUBE_CONFIG", Text).derived("in-cluster").doc(S, "Path of a kubeconfig."),
    k8s("RUNS_FLEET_KUBE_NAMESPACE", Text).required().check(dns_label, "DNS label").doc(S, "Namespace of the pods."),
    k8s("RUNS_FLEET_KUBE_SERVICE_ACCOUNT", Text).or("runs-fleet-runner").check(dns_subdomain, "DNS subdomain")
        .doc(S, "Service account of the pods."),
    k8s("RUNS_FLEET_KUBE_NODE_SELECTOR", List).check(node_selector, "`key=value`").doc(S, "Nodes of the pods."),
    k8s("RUNS_FLEET_KUBE_TOLERATIONS", Json(tolerations)).or("[]").doc(S, "Tolerations of the pods."),
    k8s("RUNS_FLEET_KUBE_RUNNER_IMAGE", Text).required().check(no_white_space, "no white space")
        .doc(S, "Container image of runners."),
    k8s("RUNS_FLEET_KUBE_RESOURCE_LABELS", Json(resource_labels)).or("{}").doc(L, "Labels of everything created."),
    int("RUNS_FLEET_KUBE_IDLE_TIMEOUT_MINUTES", 1, MAX).or("10").within(K8s).lenient().doc(S, "Idle pods of a pool."),
    k8s("RUNS_FLEET_KUBE_RELEASE_NAME", Text).or("runs-fleet").doc(S, "Name of the Helm release."),
    k8s("RUNS_FLEET_KUBE_STORAGE_CLASS", Text).doc(S, "Storage class of workspaces."),
    k8s("RUNS_FLEET_KUBE_DIND_IMAGE", Text).or("docker:dind").doc(S, "Image of the Docker side container."),
    k8s("RUNS_FLEET_KUBE_DAEMON_JSON_CONFIGMAP", Text).doc(S, "ConfigMap with Docker's `daemon.json`."),
    int("RUNS_FLEET_KUBE_DOCKER_WAIT_SECONDS", 10, 300).or("120").within(K8s).doc(S, "Longest wait for Docker."),
    int("RUNS_FLEET_KUBE_DOCKER_GROUP_GID", 1, 65535).or("123").within(K8s).doc(S, "Group of Docker's socket."),
    k8s("RUNS_FLEET_KUBE_REGISTRY_MIRROR", Url { https: false }).doc(S, "Registry mirror of Docker."),
    k8s("RUNS_FLEET_VALKEY_ADDR", HostPort { any_host: false }).or("valkey:6379").doc(S, "Valkey server."),
    k8s("RUNS_FLEET_VALKEY_PASSWORD", Secret).doc(S, "Its password."),
    int("RUNS_FLEET_VALKEY_DB", 0, MAX).or("0").within(K8s).doc(S, "Its database number."),
    k8s("RUNS_FLEET_KUBE_CONTAINER_MODE", Enum(&["dind", "none"])).or("dind").doc(N, "How jobs get containers."),
    k8s("RUNS_FLEET_KUBE_NATIVE_SIDECAR", Enum(&["auto", "true", "false"])).or("auto").doc(N, "Native side containers."),
    k8s("RUNS_FLEET_KUBE_WORKSPACE_TYPE", Enum(&["pvc", "emptydir"])).or("pvc").doc(N, "Volume of the workspace."),
    int("RUNS_FLEET_KUBE_RUNNER_UID", 0, 4_294_967_294).or("0").within(K8s).doc(N, "User of the runner container."),
    k8s("RUNS_FLEET_KUBE_PRIORITY_CLASS", Text).doc(N, "Priority class of the pods."),
    k8s("RUNS_FLEET_KUBE_IMAGE_PULL_SECRETS", List).doc(N, "Secrets for pulling images."),
    k8s("RUNS_FLEET_KUBE_IMAGE_PULL_POLICY", Enum(&["Always", "IfNotPresent", "Never"])).or("IfNotPresent")
        .doc(N, "When images are pulled."),
    int("RUNS_FLEET_KUBE_SCHEDULE_TIMEOUT_SECONDS", 60, 3600).or("600").within(K8s).doc(N, "Longest wait for a node."),
    int("RUNS_FLEET_KUBE_IMAGE_PULL_TIMEOUT_SECONDS", 30, 1800).or("300").within(K8s)
        .doc(N, "Longest wait for an image."),
    int("RUNS_FLEET_KUBE_START_TIMEOUT_SECONDS", 60, 3600).or("600").within(K8s).doc(N, "Longest wait for a start."),
    int("RUNS_FLEET_KUBE_TERMINATION_GRACE_SECONDS", 95, 900).or("120").within(K8s).doc(N, "Time to end."),
    int("RUNS_FLEET_KUBE_FINISHED_POD_TTL_SECONDS", 0, 86400).or("60").within(K8s).doc(N, "Finished pods stay so long."),
    k8s("RUNS_FLEET_KUBE_PRIVATE_EGRESS_CIDRS", List).check(cidrs, "each a CIDR block")
        .doc(N, "Private networks that jobs may reach."),
    k8s("RUNS_FLEET_KUBE_SWEEP_LEGACY_PVCS", Bool).or("false").doc(N, "Delete volumes of the Go implementation."),
    k8s("RUNS_FLEET_KUBE_ALLOW_REGISTRATION_TOKEN", Bool).or("false").doc(N, "Allow registration tokens in pods."),
    k8s("RUNS_FLEET_VALKEY_USERNAME", Text).doc(N, "User at the Valkey server."),
    k8s("RUNS_FLEET_VALKEY_TLS", Bool).or("false").doc(N, "Encrypt the connection."),
    k8s("RUNS_FLEET_VALKEY_TLS_CA_FILE", Text).derived("system roots").doc(N, "Certificate authority."),
    k8s("RUNS_FLEET_VALKEY_KEY_PREFIX", Text).or("runs-fleet:").doc(N, "In front of every key."),
    int("RUNS_FLEET_VALKEY_MAX_DELIVERIES", 3, 100).or("10").within(K8s).doc(N, "Then a message is a dead letter."),
    k8s("RUNS_FLEET_VALKEY_RUNNER_USERNAME", Text).doc(N, "User for the pods' reports."),
    k8s("RUNS_FLEET_VALKEY_RUNNER_PASSWORD", Secret).doc(N, "Its password."),
];

const ADMIN: &[Variable] = &[
    https("RUNS_FLEET_ADMIN_OIDC_ISSUER_URL").doc(L, "Issuer of sign-ins; with it, client and session secret are due."),
    v("RUNS_FLEET_ADMIN_OIDC_CLIENT_ID", Text).doc(L, "Client id at the issuer."),
    v("RUNS_FLEET_ADMIN_OIDC_CLIENT_SECRET", Secret).doc(L, "Client secret at the issuer."),
    v("RUNS_FLEET_ADMIN_SESSION_SECRET", Secret).check(weak_below_32, "32 characters or more")
        .doc(L, "Key of session cookies."),
    v("RUNS_FLEET_ADMIN_SESSION_SECRET_PREVIOUS", Secret).doc(N, "Second accepted key during a rotation."),
    https("RUNS_FLEET_ADMIN_OIDC_REDIRECT_URL").derived("base URL and `/api/auth/callback`")
        .doc(L, "Where the issuer sends people back to."),
    v("RUNS_FLEET_ADMIN_OIDC_SCOPES", List).or("openid,profile,email").check(scopes, "contains `openid`")
        .doc(L, "Scopes asked for."),
    v("RUNS_FLEET_ADMIN_OIDC_GROUPS_CLAIM", Text).or("groups").doc(L, "Claim with a person's groups."),
    int("RUNS_FLEET_ADMIN_SESSION_TTL_MINUTES", 1, 43200).or("480").within(Oidc).doc(L, "Life of a session."),
    int("RUNS_FLEET_ADMIN_RATE_LIMIT", 1, MAX).or("60").lenient().doc(L, "Requests a minute."),
    v("RUNS_FLEET_ADMIN_OPERATOR_GROUPS", List).doc(N, "Groups that may act."),
    v("RUNS_FLEET_ADMIN_VIEWER_GROUPS", List).doc(N, "Groups that may look."),
    v("RUNS_FLEET_ADMIN_ALLOW_ANONYMOUS", Bool).or("false").doc(N, "Open the API to everybody."),
    v("RUNS_FLEET_ADMIN_LISTEN_ADDR", HostPort { any_host: true }).derived("the public listener")
        .doc(N, "Listener of its own for the API."),
    int("RUNS_FLEET_ADMIN_TRUSTED_PROXY_HOPS", 0, 5).or("0").doc(N, "Proxies in front whose headers are believed."),
    v("RUNS_FLEET_TRACE_UI_URL", Url { https: false }).doc(L, "Link to a trace; `{trace_id}` is replaced."),
];

const METRICS: &[Variable] = &[
    v("RUNS_FLEET_METRICS_CLOUDWATCH_ENABLED", Bool).or("false").doc(B, "Send metrics to CloudWatch."),
    v("RUNS_FLEET_METRICS_CLOUDWATCH_DETAIL", Enum(&["core", "full"])).or("core").doc(N, "How many of them."),
    v("RUNS_FLEET_METRICS_PROMETHEUS_ENABLED", Bool).or("false").doc(B, "Serve metrics to Prometheus."),
    v("RUNS_FLEET_METRICS_PROMETHEUS_PATH", Text).or("/metrics").within(Prometheus)
        .check(metrics_path, "starts with `/` and is not taken").doc(B, "Where."),
    v("RUNS_FLEET_METRICS_LISTEN_ADDR", HostPort { any_host: true }).derived("the public listener")
        .doc(N, "Listener of its own for metrics."),
    v("RUNS_FLEET_METRICS_DATADOG_ENABLED", Bool).or("false").doc(B, "Send metrics to a Datadog agent."),
    v("RUNS_FLEET_METRICS_DATADOG_ADDR", HostPort { any_host: false }).or("127.0.0.1:8125").within(Datadog)
        .doc(B, "The agent's address."),
    v("RUNS_FLEET_METRICS_DATADOG_TAGS", List).doc(B, "Tags of every metric."),
    float("RUNS_FLEET_METRICS_DATADOG_SAMPLE_RATE", f64::MIN_POSITIVE, 1.0).or("1.0").lenient()
        .doc(L, "Share of distributions that is sent."),
    int("RUNS_FLEET_METRICS_DATADOG_BUFFER_POOL_SIZE", 0, MAX).or("0").lenient().doc(L, "0 means the library's."),
    int("RUNS_FLEET_METRICS_DATADOG_WORKERS_COUNT", 0, MAX).or("0").lenient().doc(L, "0 means the library's."),
    int("RUNS_FLEET_METRICS_DATADOG_MAX_MSGS_PER_PAYLOAD", 0, MAX).or("0").lenient().doc(L, "0 means the library's."),
    v("RUNS_FLEET_METRICS_LEGACY_NAMES", Bool).derived("`true`, but not for CloudWatch")
        .doc(N, "Send the names of the Go implementation too."),
    v("RUNS_FLEET_TRACING_ENABLED", Bool).derived("whether `OTEL_EXPORTER_OTLP_ENDPOINT` is set").doc(L, "Send traces."),
    v("RUNS_FLEET_OTEL_ENDPOINT", Text).check(endpoint, "`host:port` or an http(s) URL").doc(L, "Where; wins."),
    v("OTEL_EXPORTER_OTLP_ENDPOINT", Text).check(endpoint, "`host:port` or an http(s) URL").doc(S, "Where."),
    v("RUNS_FLEET_OTEL_INSECURE", Bool).or("true").doc(L, "Without TLS."),
    v("RUNS_FLEET_OTEL_SERVICE_NAME", Text).or("runs-fleet").doc(L, "Service name in traces."),
    float("OTEL_TRACE_SAMPLING_RATIO", 0.0, 1.0).or("1.0").doc(S, "Share of traces that is sent."),
    v("RUNS_FLEET_ENV", Text).doc(L, "Deployment environment in traces; wins."),
    v("RUNS_FLEET_ENVIRONMENT", Text).doc(S, "Deployment environment in traces."),
];

const SECRETS: &[Variable] = &[
    v("RUNS_FLEET_SECRETS_BACKEND", Enum(&["ssm", "vault"])).or("ssm").doc(L, "Where agents find their hand-over."),
    v("RUNS_FLEET_SECRETS_PATH_PREFIX", Text).or("/runs-fleet/runners").check(path_prefix, "starts with `/`")
        .doc(L, "Under which name."),
    vault("VAULT_ADDR", Url { https: false }).required().check(plain_http, "https, except on this machine")
        .doc(L, "Vault server."),
    vault("VAULT_NAMESPACE", Text).doc(L, "Vault namespace."),
    vault("VAULT_KV_MOUNT", Text).or("secret").doc(L, "Mount of the key-value engine."),
    int("VAULT_KV_VERSION", 0, 2).or("0").doc(L, "Version of the engine; 0 means find out."),
    vault("VAULT_BASE_PATH", Text).or("runs-fleet/runners").check(base_path, "`/` around it is removed")
        .doc(L, "Path below the mount."),
    vault("VAULT_AUTH_METHOD", Enum(&["aws", "kubernetes", "k8s", "jwt", "approle", "token"])).or("aws")
        .doc(L, "How to log in."),
    vault("VAULT_AWS_ROLE", Text).or("runs-fleet").doc(L, "Role for `aws`."),
    vault("VAULT_AWS_REGION", Text).derived("`AWS_REGION`").doc(L, "For diagnostics only."),
    vault("VAULT_K8S_AUTH_MOUNT", Text).or("kubernetes").doc(L, "Mount of the Kubernetes login."),
    vault("VAULT_K8S_ROLE", Text).doc(L, "Role for `kubernetes`, `k8s` and `jwt`."),
    vault("VAULT_K8S_JWT_PATH", Text).or("/var/run/secrets/kubernetes.io/serviceaccount/token")
        .check(jwt_path, "below `/var/run/secrets/`").doc(L, "File of the token."),
    vault("VAULT_APP_ROLE_ID", Text).doc(L, "Role id for `approle`."),
    vault("VAULT_APP_SECRET_ID", Secret).doc(L, "Secret id for `approle`."),
    vault("VAULT_TOKEN", Secret).doc(L, "Token for `token`."),
];

/// Variables that once did something: accepted, never parsed, warned about.
pub const HISTORIC: &[&str] = &[
    "RUNS_FLEET_ADMIN_SECRET",
    "RUNS_FLEET_CONFIG_BUCKET",
    "RUNS_FLEET_DEFAULT_BACKEND",
    "RUNS_FLEET_GITHUB_ORG",
    "RUNS_FLEET_HOT_POOLS",
    "RUNS_FLEET_KUBE_WARM_POOL_ENABLED",
    "RUNS_FLEET_METRICS_ENABLED",
    "RUNS_FLEET_METRICS_NAMESPACE",
    "RUNS_FLEET_METRICS_PORT",
    "RUNS_FLEET_POOL_ENABLED",
    "RUNS_FLEET_STALE_AMI_SWEEP_ENABLED",
    "RUNS_FLEET_VAULT_KV_PATH",
];

/// Variables of agents: known here so that nobody is warned about them.
pub const AGENT: &[&str] = &[
    "RUNS_FLEET_BACKEND",
    "RUNS_FLEET_BUILDKIT_BUILDER_CONFIG",
    "RUNS_FLEET_BUILDKIT_CACHE_BUCKET",
    "RUNS_FLEET_BUILDKIT_CACHE_OUTCOME",
    "RUNS_FLEET_BUILDKIT_CACHE_PREFIX",
    "RUNS_FLEET_BUILDKIT_CACHE_REGION",
    "RUNS_FLEET_BUILDKIT_REAL_PLUGIN",
    "RUNS_FLEET_BUILD_CACHE",
    "RUNS_FLEET_CACHE_LISTEN_ADDR",
    "RUNS_FLEET_CACHE_TOKEN",
    "RUNS_FLEET_COLD_START_DEADLINE_MINUTES",
    "RUNS_FLEET_GITHUB_URL",
    "RUNS_FLEET_GRACEFUL_SHUTDOWN_SECONDS",
    "RUNS_FLEET_IS_ORG",
    "RUNS_FLEET_JIT_CONFIG",
    "RUNS_FLEET_JIT_TOKEN",
    "RUNS_FLEET_JOB_ENV_PASSTHROUGH",
    "RUNS_FLEET_JOB_ID",
    "RUNS_FLEET_JOB_IMDS_ACCESS",
    "RUNS_FLEET_JOB_PICKUP_TIMEOUT_SECONDS",
    "RUNS_FLEET_K8S_CONFIG_DIR",
    "RUNS_FLEET_K8S_SECRET_DIR",
    "RUNS_FLEET_LABELS",
    "RUNS_FLEET_LOCAL_BOOT_MS",
    "RUNS_FLEET_LOG_GROUP",
    "RUNS_FLEET_LOG_UPLOAD_TIMEOUT_SECONDS",
    "RUNS_FLEET_MAX_RUNTIME_SECONDS",
    "RUNS_FLEET_ORG",
    "RUNS_FLEET_POOL",
    "RUNS_FLEET_PROC_ROOT",
    "RUNS_FLEET_REPO",
    "RUNS_FLEET_RETRY_BASE_MS",
    "RUNS_FLEET_RUNNER_DIR",
    "RUNS_FLEET_RUNNER_LOGS_BUCKET",
    "RUNS_FLEET_RUNNER_LOGS_PREFIX",
    "RUNS_FLEET_RUNNER_NAME",
    "RUNS_FLEET_RUNNER_RELEASES_URL",
    "RUNS_FLEET_RUNNER_SHA256",
    "RUNS_FLEET_RUNNER_URL",
    "RUNS_FLEET_RUNNER_USER",
    "RUNS_FLEET_RUNNER_VERSION",
    "RUNS_FLEET_RUN_ID",
    "RUNS_FLEET_SAFETY_CHECK_SECONDS",
    "RUNS_FLEET_SHUTDOWN_COMMAND",
    "RUNS_FLEET_SPOT_POLL_MS",
    "RUNS_FLEET_SSM_PARAMETER",
    "RUNS_FLEET_STANDBY_DEADLINE_SECONDS",
    "RUNS_FLEET_STANDBY_FAST_POLLS",
    "RUNS_FLEET_STANDBY_FAST_POLL_MS",
    "RUNS_FLEET_STANDBY_SLOW_POLL_MS",
    "RUNS_FLEET_STATE_DIR",
    "RUNS_FLEET_TELEMETRY_TIMEOUT_SECONDS",
    "RUNS_FLEET_TELEMETRY_TOKEN",
    "RUNS_FLEET_TERMINATION_LOG",
    "RUNS_FLEET_WAIT_FOR_DOCKER_SECONDS",
    "RUNS_FLEET_WORK_DIR",
];

/// Secrets among the variables that are not the server's own: never shown, should they be set.
pub const AGENT_SECRETS: &[&str] = &[
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "RUNS_FLEET_ADMIN_SECRET",
    "RUNS_FLEET_CACHE_TOKEN",
    "RUNS_FLEET_JIT_CONFIG",
    "RUNS_FLEET_JIT_TOKEN",
    "RUNS_FLEET_TELEMETRY_TOKEN",
];
