use super::*;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const KEY: &str = include_str!("../testdata/rsa-2048-pkcs8.pem");
const WEBHOOK: &str = "webhook-secret-0123456789";

/// Files in memory.
#[derive(Default)]
struct Memory {
    files: BTreeMap<String, (Vec<u8>, bool)>,
    read: RefCell<Vec<String>>,
}

impl Files for Memory {
    fn read(&self, path: &Path) -> Result<SecretFile, FileError> {
        let path = path.to_string_lossy().into_owned();
        self.read.borrow_mut().push(path.clone());
        let (bytes, world_readable) =
            self.files.get(&path).cloned().ok_or(FileError::Io(std::io::ErrorKind::NotFound))?;
        Ok(SecretFile { bytes, world_readable })
    }
}

type Env = BTreeMap<String, String>;

fn name(short: &str) -> String {
    if short.starts_with("AWS_") || short.starts_with("VAULT_") || short.starts_with("OTEL_") || short == "HOSTNAME" {
        short.into()
    } else {
        format!("RUNS_FLEET_{short}")
    }
}

fn env(base: &[(&str, &str)], more: &[(&str, &str)]) -> Env {
    base.iter().chain(more).map(|(n, v)| (name(n), (*v).to_owned())).collect()
}

const GITHUB: [(&str, &str); 3] =
    [("GITHUB_WEBHOOK_SECRET", WEBHOOK), ("GITHUB_APP_ID", "12345"), ("GITHUB_APP_PRIVATE_KEY", KEY)];

/// A complete environment of an EC2 deployment.
fn ec2(more: &[(&str, &str)]) -> Env {
    let base = [
        ("AWS_REGION", "eu-west-1"),
        ("HOSTNAME", "replica-7"),
        ("QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/main.fifo"),
        ("QUEUE_DLQ_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/main-dlq.fifo"),
        ("EVENTS_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/events"),
        ("TERMINATION_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/termination"),
        ("JOBS_TABLE", "runs-fleet-jobs"),
        ("POOLS_TABLE", "runs-fleet-pools"),
        ("VPC_ID", "vpc-1"),
        ("SUBNET_IDS", "subnet-a"),
        ("SECURITY_GROUP_ID", "sg-1"),
        ("INSTANCE_PROFILE_ARN", "arn:aws:iam::123456789012:instance-profile/runner"),
        ("RUNNER_IMAGE", "123456789012.dkr.ecr.eu-west-1.amazonaws.com/runner:1"),
    ];
    env(&[&GITHUB[..], &base[..]].concat(), more)
}

/// A complete environment of a Kubernetes deployment.
fn k8s(more: &[(&str, &str)]) -> Env {
    let base = [("MODE", "k8s"), ("KUBE_NAMESPACE", "ci"), ("KUBE_RUNNER_IMAGE", "docker.io/foo:latest")];
    env(&[&GITHUB[..], &base[..]].concat(), more)
}

fn load(env: &Env) -> Loaded {
    Config::load(env, &Memory::default())
}

/// Code and variables of each problem, without the prefix.
fn problems(loaded: &Loaded) -> Vec<(&'static str, Vec<&str>)> {
    let short = |name: &'_ String| -> usize { if name.starts_with("RUNS_FLEET_") { "RUNS_FLEET_".len() } else { 0 } };
    loaded.problems.iter().map(|p| (p.code.as_str(), p.variables.iter().map(|n| &n[short(n)..]).collect())).collect()
}

fn config(env: &Env) -> Config {
    let loaded = load(env);
    let why = render_text(&loaded, false);
    loaded.config.unwrap_or_else(|| panic!("{why}"))
}

#[test]
fn a_complete_environment_has_no_problem() {
    for env in [ec2(&[]), k8s(&[])] {
        let loaded = load(&env);
        assert_eq!(problems(&loaded), []);
        assert!(loaded.ok(true) && loaded.config.is_some());
    }
}

#[test]
fn without_any_variable_there_are_nine_errors_in_one_run() {
    let loaded = load(&Env::new());
    let errors: Vec<_> = problems(&loaded).into_iter().filter(|(code, _)| code.starts_with("E_")).collect();
    assert_eq!(errors.len(), 9, "{errors:?}");
    for variables in [
        vec!["GITHUB_APP_ID"],
        vec!["GITHUB_APP_PRIVATE_KEY"],
        vec!["GITHUB_WEBHOOK_SECRET"],
        vec!["INSTANCE_PROFILE_ARN"],
        vec!["QUEUE_URL"],
        vec!["RUNNER_IMAGE"],
        vec!["SECURITY_GROUP_ID"],
        vec!["SUBNET_IDS", "PUBLIC_SUBNET_IDS", "PRIVATE_SUBNET_IDS"],
        vec!["VPC_ID"],
    ] {
        assert!(errors.contains(&("E_REQUIRED", variables.clone())), "{variables:?} in {errors:?}");
    }
    assert!(loaded.config.is_none());
    assert_eq!(loaded.mode, "ec2");
}

/// What is set, and the problems that follow.
type Row<'a> = (&'a [(&'a str, &'a str)], &'a [(&'a str, &'a [&'a str])]);

/// Every row: what is added to a complete environment, and exactly which problems follow.
#[test]
fn each_mistake_is_exactly_one_problem() {
    let long = "a very long value that is certainly not a number";
    let rows: &[Row<'_>] = &[
        (&[("SPOT_ENABLED", "no")], &[("E_INVALID", &["SPOT_ENABLED"])]),
        (&[("SPOT_ENABLED", "F")], &[]),
        (&[("SPOT_ENABLED", " ")], &[]),
        (&[("MAX_RUNTIME_MINUTES", "0")], &[("E_RANGE", &["MAX_RUNTIME_MINUTES"])]),
        (&[("MAX_RUNTIME_MINUTES", "60m")], &[("E_INVALID", &["MAX_RUNTIME_MINUTES"])]),
        (&[("MAX_RUNTIME_MINUTES", long)], &[("E_INVALID", &["MAX_RUNTIME_MINUTES"])]),
        (&[("MODE", "K8S")], &[("E_INVALID", &["MODE"])]),
        (&[("KUBE_TOLERATIONS", "broken")], &[]),
        (&[("SUBNET_IDS", " , ,")], &[("E_REQUIRED", &["SUBNET_IDS", "PUBLIC_SUBNET_IDS", "PRIVATE_SUBNET_IDS"])]),
        (&[("RUNNER_IMAGE", "docker.io/foo:latest")], &[("E_INVALID", &["RUNNER_IMAGE"])]),
        (&[("TAGS", "{\"AWS:x\":\"1\"}")], &[("E_INVALID", &["TAGS"])]),
        (&[("TAGS", "{\"Runs-Fleet:y\":\"1\"}")], &[("E_INVALID", &["TAGS"])]),
        (&[("TAGS", "{\"Service\":\"x\"}")], &[("W_CONFLICT", &["TAGS", "TAG_KEY_SERVICE"])]),
        (&[("TAG_KEY_APPLICATION", "Service")], &[("E_CONFLICT", &["TAG_KEY_APPLICATION", "TAG_KEY_SERVICE"])]),
        (&[("METRICS_DATADOG_ADDR", "garbage")], &[]),
        (
            &[("METRICS_DATADOG_ENABLED", "true"), ("METRICS_DATADOG_ADDR", "::1:8125")],
            &[("E_INVALID", &["METRICS_DATADOG_ADDR"])],
        ),
        (&[("METRICS_DATADOG_ENABLED", "true"), ("METRICS_DATADOG_ADDR", "[::1]:8125")], &[]),
        (&[("HOT_POOL_CAPS", "{\"maxLinger\":5}")], &[("E_INVALID", &["HOT_POOL_CAPS"])]),
        (&[("HOT_POOL_CAPS", "{\"maxHot\":0}")], &[]),
        (&[("REPORT_TIMEZONE", "Asia/Soul")], &[("E_INVALID", &["REPORT_TIMEZONE"])]),
        (&[("REPORT_TIMEZONE", "UTC")], &[]),
        (
            &[("ADMIN_OIDC_ISSUER_URL", "https://id.example.com")],
            &[
                ("E_REQUIRED", &["ADMIN_OIDC_CLIENT_ID"]),
                ("E_REQUIRED", &["ADMIN_OIDC_CLIENT_SECRET"]),
                ("E_REQUIRED", &["ADMIN_SESSION_SECRET"]),
            ],
        ),
        (
            &[
                ("ADMIN_OIDC_ISSUER_URL", "https://id.example.com"),
                ("ADMIN_OIDC_CLIENT_ID", "x"),
                ("ADMIN_OIDC_CLIENT_SECRET", "a client secret"),
                ("ADMIN_SESSION_SECRET", "too short for a session"),
            ],
            &[("E_REQUIRED", &["ADMIN_OIDC_REDIRECT_URL", "BASE_URL"]), ("W_WEAK_SECRET", &["ADMIN_SESSION_SECRET"])],
        ),
        (&[("ADMIN_SESSION_TTL_MINUTES", "0")], &[]),
        (&[("VAULT_K8S_JWT_PATH", "/etc/passwd")], &[]),
        (
            &[
                ("SECRETS_BACKEND", "vault"),
                ("VAULT_ADDR", "https://vault"),
                ("VAULT_AUTH_METHOD", "jwt"),
                ("VAULT_K8S_ROLE", "r"),
                ("VAULT_K8S_JWT_PATH", "/var/run/secrets/../../etc/passwd"),
            ],
            &[("E_INVALID", &["VAULT_K8S_JWT_PATH"])],
        ),
        (
            &[("SECRETS_BACKEND", "vault"), ("VAULT_AUTH_METHOD", "approle")],
            &[
                ("E_REQUIRED", &["VAULT_ADDR"]),
                ("E_REQUIRED", &["VAULT_APP_ROLE_ID", "VAULT_AUTH_METHOD"]),
                ("E_REQUIRED", &["VAULT_APP_SECRET_ID", "VAULT_AUTH_METHOD"]),
            ],
        ),
        (&[("VAULT_KV_VERSION", "3")], &[("E_RANGE", &["VAULT_KV_VERSION"])]),
        (&[("SECRETS_BACKEND", "Vault")], &[("E_INVALID", &["SECRETS_BACKEND"])]),
        (
            &[("GITHUB_WEBHOOK_SECRET_FILE", "/run/secrets/webhook")],
            &[("E_SECRET_SOURCE", &["GITHUB_WEBHOOK_SECRET", "GITHUB_WEBHOOK_SECRET_FILE"])],
        ),
        (&[("GITHUB_APP_PRIVATE_KEY", "-----BEGIN GARBAGE")], &[("E_INVALID", &["GITHUB_APP_PRIVATE_KEY"])]),
        (&[("GITHUB_WEBHOOK_SECRET", "short")], &[("W_WEAK_SECRET", &["GITHUB_WEBHOOK_SECRET"])]),
        (&[("SPOT_ENABLE", "false")], &[("W_UNKNOWN", &["SPOT_ENABLE"])]),
        (&[("METRICS_PROMETHEUS_PATH", "/health")], &[]),
        (
            &[("METRICS_PROMETHEUS_ENABLED", "1"), ("METRICS_PROMETHEUS_PATH", "/health")],
            &[("E_INVALID", &["METRICS_PROMETHEUS_PATH"])],
        ),
        (
            &[("METRICS_PROMETHEUS_ENABLED", "1"), ("BASE_URL", "https://runs.example.com")],
            &[("W_UNSAFE", &["METRICS_LISTEN_ADDR", "METRICS_PROMETHEUS_ENABLED"])],
        ),
        (
            &[("TERMINATION_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/main.fifo")],
            &[("E_CONFLICT", &["QUEUE_URL", "TERMINATION_QUEUE_URL"])],
        ),
        (
            &[("POOL_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/main.fifo")],
            &[("W_DEPRECATED", &["POOL_QUEUE_URL"]), ("W_UNSAFE", &["QUEUE_URL", "POOL_QUEUE_URL"])],
        ),
        (
            &[("EVENTS_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/123456789012/events")],
            &[("W_FORMAT", &["EVENTS_QUEUE_URL", "AWS_REGION"])],
        ),
        (
            &[("QUEUE_DLQ_URL", "http://localhost:9324/000000000000/main-dlq")],
            &[("W_FORMAT", &["QUEUE_DLQ_URL", "QUEUE_URL"])],
        ),
        (&[("HYBRID_ENABLED", "true")], &[("E_REQUIRED", &["KUBE_NAMESPACE"]), ("E_REQUIRED", &["KUBE_RUNNER_IMAGE"])]),
        (&[("MAX_RUNTIME_MINUTES", "1440")], &[]),
        (
            &[("CACHE_TOKEN_TTL_SECONDS", "3600")],
            &[("E_CONFLICT", &["CACHE_TOKEN_TTL_SECONDS", "MAX_RUNTIME_MINUTES"])],
        ),
        (
            &[("CACHE_BACKEND", "fs"), ("CACHE_SECRET", "0123456789abcdef"), ("CACHE_URL", "http://cache")],
            &[("E_REQUIRED", &["CACHE_DIR", "CACHE_BACKEND"])],
        ),
        (
            &[("CACHE_BUCKET", "b"), ("CACHE_ALLOW_ANONYMOUS", "true"), ("CACHE_URL", "http://cache")],
            &[("W_UNSAFE", &["CACHE_ALLOW_ANONYMOUS"])],
        ),
        (&[("CACHE_BUCKET", "b")], &[("W_PARTIAL", &["CACHE_SECRET"]), ("W_PARTIAL", &["CACHE_URL", "BASE_URL"])]),
        (&[("TERMINATION_REQUIRE_TOKEN", "true")], &[("E_REQUIRED", &["CACHE_SECRET", "TERMINATION_REQUIRE_TOKEN"])]),
        (&[("COORDINATOR_ENABLED", "ture")], &[("E_INVALID", &["COORDINATOR_ENABLED"])]),
        (&[("VALKEY_PORT", "tcp://10.0.0.1:6379")], &[]),
        (&[("VALKEY_SERVICE_HOST", "10.0.0.1"), ("VALKEY_SERVICE_PORT_REDIS", "6379")], &[]),
        (&[("VALKEY_PORT_6379_TCP_PROTO", "tcp"), ("VALKEY_PORT_6379_TCP_ADDR", "10.0.0.1")], &[]),
        (
            &[("PUBLIC_SUBNET_IDS", "subnet-p")],
            &[("W_COST", &["PUBLIC_SUBNET_IDS"]), ("W_CONFLICT", &["SUBNET_IDS", "PUBLIC_SUBNET_IDS"])],
        ),
        (
            &[("METRICS_PORT", "garbage"), ("ADMIN_SECRET", "some old secret")],
            &[("W_DEPRECATED", &["ADMIN_SECRET"]), ("W_DEPRECATED", &["METRICS_PORT"])],
        ),
        (&[("STORE", "dynamodb"), ("JOBS_TABLE", "")], &[("E_REQUIRED", &["JOBS_TABLE", "STORE"])]),
        (&[("STORE", "valkey")], &[("E_CONFLICT", &["STORE", "MODE"])]),
        (&[("JOBS_TABLE", "")], &[("W_UNSAFE", &["JOBS_TABLE", "STORE"])]),
        (
            &[("TRACING_ENABLED", "true")],
            &[("W_PARTIAL", &["TRACING_ENABLED", "OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])],
        ),
        (&[("ADMIN_ALLOW_ANONYMOUS", "true")], &[("W_UNSAFE", &["ADMIN_ALLOW_ANONYMOUS"])]),
        (&[("TEST_TIME_DIVISOR", "20")], &[("W_UNSAFE", &["TEST_TIME_DIVISOR"])]),
        (&[("RUN_ID", "1"), ("JIT_TOKEN", "an agent's variable"), ("POOL", "x")], &[]),
        (&[("LOG_GROUP", "g")], &[("W_DEPRECATED", &["LOG_GROUP"])]),
        (&[("CACHE_SECRET", "aws-ssm://path")], &[("E_INVALID", &["CACHE_SECRET"])]),
        (
            &[("AWS_REGION", "")],
            &[
                ("W_DEFAULTED", &["AWS_REGION"]),
                ("W_FORMAT", &["EVENTS_QUEUE_URL", "AWS_REGION"]),
                ("W_FORMAT", &["QUEUE_DLQ_URL", "AWS_REGION"]),
                ("W_FORMAT", &["QUEUE_URL", "AWS_REGION"]),
                ("W_FORMAT", &["TERMINATION_QUEUE_URL", "AWS_REGION"]),
            ],
        ),
        (&[("AWS_REGION", ""), ("AWS_DEFAULT_REGION", "eu-west-1")], &[]),
    ];
    for (added, expected) in rows {
        let loaded = load(&ec2(added));
        let mut found = problems(&loaded);
        let mut expected: Vec<_> = expected.iter().map(|(code, variables)| (*code, variables.to_vec())).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{added:?}\n{}", render_text(&loaded, false));
        let fatal = expected.iter().any(|(code, _)| code.starts_with("E_"));
        assert_eq!(loaded.config.is_none(), fatal, "{added:?}");
        assert_eq!(loaded.ok(false), !fatal);
        assert_eq!(loaded.ok(true), expected.is_empty());
    }
}

#[test]
fn kubernetes_mode_looks_at_its_own_variables_only() {
    let rows: &[Row<'_>] = &[
        (&[("TAGS", "broken"), ("QUEUE_URL", "broken"), ("SPOT_ENABLED", "no")], &[]),
        (&[("KUBE_NAMESPACE", "")], &[("E_REQUIRED", &["KUBE_NAMESPACE"])]),
        (&[("KUBE_TOLERATIONS", "broken")], &[("E_INVALID", &["KUBE_TOLERATIONS"])]),
        (&[("VALKEY_RUNNER_USERNAME", "u")], &[("E_REQUIRED", &["VALKEY_RUNNER_PASSWORD", "VALKEY_RUNNER_USERNAME"])]),
        (&[("VALKEY_KEY_PREFIX", " ")], &[]),
    ];
    for (added, expected) in rows {
        let expected: Vec<_> = expected.iter().map(|(code, variables)| (*code, variables.to_vec())).collect();
        assert_eq!(problems(&load(&k8s(added))), expected, "{added:?}");
    }
    let loaded = load(&k8s(&[("KUBE_RUNNER_IMAGE", "")]));
    assert!(loaded.problems[0].message.contains("required because RUNS_FLEET_MODE=k8s"));
    assert_eq!(config(&k8s(&[])).store.kind, StoreKind::Valkey);
    assert_eq!(config(&k8s(&[("JOBS_TABLE", "jobs")])).store.kind, StoreKind::DynamoDb);
    assert!(config(&k8s(&[])).fleet.is_none());
}

#[test]
fn problems_are_sorted_named_and_say_what_was_meant() {
    let loaded = load(&ec2(&[("SPOT_ENABLE", "false"), ("ZZZ_UNKNOWN_ENTIRELY", "1"), ("CONFIRM_MINUTES", "2")]));
    assert_eq!(
        problems(&loaded),
        [
            ("E_RANGE", vec!["CONFIRM_MINUTES"]),
            ("W_UNKNOWN", vec!["SPOT_ENABLE"]),
            ("W_UNKNOWN", vec!["ZZZ_UNKNOWN_ENTIRELY"])
        ]
    );
    assert!(loaded.problems[0].message.contains("between 3 and 60") && loaded.problems[0].message.contains("\"2\""));
    assert!(loaded.problems[1].message.contains("RUNS_FLEET_SPOT_ENABLED"));
    assert!(!loaded.problems[2].message.contains("RUNS_FLEET_"));
    assert_eq!(loaded.warnings(), BTreeMap::from([(Code::WarnUnknown, 2)]));
}

#[test]
fn secrets_come_from_files_too() {
    let with = |content: &[u8], world: bool, path: &str| {
        let mut env = ec2(&[("CACHE_SECRET_FILE", path)]);
        env.remove("RUNS_FLEET_CACHE_SECRET");
        let files = Memory {
            files: BTreeMap::from([
                ("/x/secret".into(), (content.to_vec(), world)),
                ("/run/secrets/s".into(), (content.to_vec(), world)),
            ]),
            ..Memory::default()
        };
        Config::load(&env, &files)
    };
    let secret = "from a file 0123456789";
    let loaded = with(format!("{secret}\r\n\n").as_bytes(), false, "/x/secret");
    assert_eq!(problems(&loaded), []);
    use secrecy::ExposeSecret as _;
    assert_eq!(loaded.config.unwrap().cache.secret.unwrap().expose_secret(), secret);
    assert!(loaded.secrets.iter().any(|s| s.expose_secret() == secret), "for the redactor");

    assert_eq!(problems(&with(secret.as_bytes(), true, "/x/secret")), [("W_UNSAFE", vec!["CACHE_SECRET_FILE"])]);
    assert_eq!(problems(&with(secret.as_bytes(), true, "/run/secrets/s")), []);
    for (content, path, reason) in
        [(&b"\xff\xfe"[..], "/x/secret", "UTF-8"), (b" \n", "/x/secret", "blank"), (b"", "/x/none", "not found")]
    {
        let loaded = with(content, false, path);
        assert_eq!(problems(&loaded), [("E_SECRET_SOURCE", vec!["CACHE_SECRET_FILE"])]);
        assert!(loaded.problems[0].message.contains(reason), "{}", loaded.problems[0].message);
    }
}

#[test]
fn the_system_reads_regular_files_of_bounded_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("ok"), b"content").unwrap();
    std::fs::write(path("large"), vec![b'x'; 64 * 1024 + 1]).unwrap();
    std::fs::write(path("largest"), vec![b'x'; 64 * 1024]).unwrap();
    std::os::unix::fs::symlink(path("ok"), path("link")).unwrap();
    assert_eq!(SystemFiles.read(&path("ok")).unwrap().bytes, b"content");
    assert_eq!(SystemFiles.read(&path("link")).unwrap().bytes, b"content");
    assert!(SystemFiles.read(&path("largest")).is_ok());
    assert!(matches!(SystemFiles.read(&path("large")), Err(FileError::TooLarge)));
    assert!(matches!(SystemFiles.read(dir.path()), Err(FileError::NotRegular)));
    assert!(matches!(SystemFiles.read(&path("none")), Err(FileError::Io(std::io::ErrorKind::NotFound))));
}

#[test]
fn a_reference_is_resolved_outside_and_loaded_again() {
    let mut env = ec2(&[("GITHUB_APP_PRIVATE_KEY", "vault://secret/app#key")]);
    let loaded = load(&env);
    assert_eq!(problems(&loaded), [("E_REQUIRED", vec!["VAULT_ADDR"])], "a reference to Vault needs Vault");
    env.insert("VAULT_ADDR".into(), "https://vault".into());
    let loaded = load(&env);
    assert!(loaded.ok(true), "offline there is nothing wrong with it");
    assert!(loaded.config.is_none(), "but one cannot start");
    let [(variable, Reference::Vault { path, field })] = &loaded.references[..] else { panic!() };
    assert_eq!((*variable, path.as_str(), field.as_str()), ("RUNS_FLEET_GITHUB_APP_PRIVATE_KEY", "secret/app", "key"));

    let mut broken = env.clone();
    substitute(&mut broken, variable, &"not a key at all".into());
    assert_eq!(problems(&load(&broken)), [("E_INVALID", vec!["GITHUB_APP_PRIVATE_KEY"])]);
    substitute(&mut env, variable, &KEY.into());
    assert!(load(&env).config.is_some());
}

#[test]
fn defaults_follow_from_other_values() {
    let c = config(&ec2(&[("MAX_RUNTIME_MINUTES", "1440"), ("CACHE_BUCKET", "cache")]));
    assert_eq!(c.cache.token_ttl, Duration::from_secs(90_000));
    assert_eq!(c.store.archive_bucket.as_deref(), Some("cache"));
    assert_eq!(c.core.replica_id, "replica-7");
    let c = config(&ec2(&[("COST_REPORT_BUCKET", "cost"), ("CACHE_BUCKET", "cache"), ("INSTANCE_ID", "named")]));
    assert_eq!(c.cache.token_ttl, Duration::from_secs(86_400));
    assert_eq!(c.store.archive_bucket.as_deref(), Some("cost"));
    assert_eq!(c.core.replica_id, "named");
    for (api, server) in [
        ("https://api.github.com/", "https://github.com"),
        ("https://ghes.example.com/api/v3", "https://ghes.example.com"),
        ("https://api.acme.ghe.com", "https://acme.ghe.com"),
        ("http://127.0.0.1:4010", "http://127.0.0.1:4010"),
    ] {
        assert_eq!(config(&ec2(&[("GITHUB_API_URL", api)])).github.server_url, server);
    }
    let zone = |more: &[(&str, &str)]| config(&ec2(more)).tuning.schedule_timezone.iana_name().map(str::to_owned);
    assert_eq!(zone(&[]).as_deref(), Some("UTC"));
    assert_eq!(zone(&[("REPORT_TIMEZONE", "Europe/Berlin")]).as_deref(), Some("Europe/Berlin"));
    assert_eq!(
        zone(&[("REPORT_TIMEZONE", "Europe/Berlin"), ("SCHEDULE_TIMEZONE", "Asia/Tokyo")]).as_deref(),
        Some("Asia/Tokyo")
    );
    assert_eq!(config(&ec2(&[])).cost.report_timezone.iana_name(), Some("Asia/Seoul"));

    assert_eq!(config(&ec2(&[("COORDINATOR_ENABLED", "t")])).core.locks_table.as_deref(), Some("runs-fleet-locks"));
    assert_eq!(config(&ec2(&[("LOCKS_TABLE", "!")])).core.locks_table, None);
    let legacy = |more: &[(&str, &str)]| {
        let m = config(&ec2(more)).metrics;
        (m.legacy_names, m.legacy_names_cloudwatch)
    };
    assert_eq!(legacy(&[]), (true, false));
    assert_eq!(legacy(&[("METRICS_LEGACY_NAMES", "1")]), (true, true));
    assert_eq!(legacy(&[("METRICS_LEGACY_NAMES", "0")]), (false, false));
}

#[test]
fn subnets_are_chosen_per_kind_of_job() {
    for (shared, public, private, default_subnets, private_subnets) in [
        ("subnet-s", "", "", "subnet-s", "subnet-s"),
        ("", "subnet-u", "subnet-r", "subnet-u", "subnet-r"),
        ("", "", "subnet-r", "subnet-r", "subnet-r"),
        ("subnet-s", "subnet-u", "", "subnet-u", "subnet-u"),
    ] {
        let fleet =
            config(&ec2(&[("SUBNET_IDS", shared), ("PUBLIC_SUBNET_IDS", public), ("PRIVATE_SUBNET_IDS", private)]));
        let fleet = fleet.fleet.unwrap();
        assert_eq!(
            (fleet.default_subnets[0].as_str(), fleet.private_subnets[0].as_str()),
            (default_subnets, private_subnets)
        );
    }
}

#[test]
fn custom_tags_replace_ours_of_the_same_key() {
    let fleet = config(&ec2(&[("TAGS", "{\"Service\":\"mine\",\"Team\":\"ci\"}")])).fleet.unwrap();
    assert_eq!(fleet.attribution_tags, BTreeMap::from([("Application".into(), "runs-fleet".into())]));
    assert_eq!(fleet.tags.len(), 2);
}

#[test]
fn allowed_repositories_match_whole_or_by_owner() {
    let github = config(&ec2(&[("ALLOWED_REPOS", "acme/api,tools/*")])).github;
    for (repo, served) in
        [("acme/api", true), ("Acme/API", true), ("acme/web", false), ("tools/x", true), ("tool/x", false)]
    {
        assert_eq!(github.serves(&repo.parse().unwrap()), served, "{repo}");
    }
    assert!(config(&ec2(&[])).github.serves(&"any/thing".parse().unwrap()));
}

#[test]
fn local_mode_needs_nothing_and_still_refuses_what_is_wrong() {
    let local = |env: &Env| Config::local(env, &Memory::default());
    let loaded = local(&Env::new());
    assert_eq!(problems(&loaded), []);
    assert_eq!(loaded.mode, "local");
    let c = loaded.config.unwrap();
    assert!(c.local && c.fleet.is_none() && c.kubernetes.is_none() && c.github.app.is_none() && c.admin.anonymous);
    assert_eq!((c.store.kind, c.secrets.hand_over), (StoreKind::Embedded, HandOverStore::Files));
    assert_eq!(c.core.listen_addr, "127.0.0.1:8080");
    assert!(c.queues.main.is_none());

    let app = env(&GITHUB, &[("TEST_TIME_DIVISOR", "20"), ("LISTEN_ADDR", "[::1]:9000")]);
    let c = local(&app).config.unwrap();
    assert_eq!((c.github.app.unwrap().id, c.tuning.time_divisor), (12345, 20));

    for (set, expected) in [
        (("MAX_RUNTIME_MINUTES", "60m"), ("E_INVALID", vec!["MAX_RUNTIME_MINUTES"])),
        (("TAGS", "[]"), ("E_INVALID", vec!["TAGS"])),
        (("GITHUB_APP_ID", "1"), ("E_REQUIRED", vec!["GITHUB_APP_PRIVATE_KEY", "GITHUB_APP_ID"])),
        (("LISTEN_ADDR", "0.0.0.0:80"), ("E_CONFLICT", vec!["LISTEN_ADDR"])),
        (("LISTEN_ADDR", ":80"), ("E_CONFLICT", vec!["LISTEN_ADDR"])),
        (("STORE", "dynamodb"), ("E_CONFLICT", vec!["STORE"])),
    ] {
        let loaded = local(&env(&[set], &[]));
        assert_eq!(problems(&loaded), [expected]);
        assert!(loaded.config.is_none());
    }
    assert_eq!(problems(&local(&env(&[("JOBS_TABLE", "jobs")], &[]))), [], "left over from a shell, and harmless");
}

#[test]
fn the_json_has_every_value_of_the_mode_and_what_follows() {
    let env = ec2(&[
        ("MAX_RUNTIME_MINUTES", "90"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:pw@collector:4317"),
        ("ENV", "prod"),
    ]);
    let json = render_json(&load(&env), false);
    assert_eq!(json["ok"], true);
    assert_eq!(json["mode"], "ec2");
    assert_eq!((&json["errors"], &json["warnings"]), (&json!([]), &json!([])));
    let values = &json["values"];
    for (variable, value) in [
        ("RUNS_FLEET_MAX_RUNTIME_MINUTES", json!(90)),
        ("RUNS_FLEET_SUBNET_IDS", json!(["subnet-a"])),
        ("RUNS_FLEET_PUBLIC_SUBNET_IDS", Json::Null),
        ("RUNS_FLEET_TAGS", json!({})),
        ("RUNS_FLEET_GITHUB_APP_PRIVATE_KEY", json!("<redacted>")),
        ("RUNS_FLEET_CACHE_SECRET", Json::Null),
        ("RUNS_FLEET_GITHUB_APP_ID", json!(12345)),
        ("RUNS_FLEET_KEY_NAME", Json::Null),
        ("RUNS_FLEET_TRACING_ENABLED", json!(true)),
        ("RUNS_FLEET_METRICS_LEGACY_NAMES", json!(true)),
        ("RUNS_FLEET_COST_ANOMALY_FACTOR", json!(2.0)),
        ("AWS_REGION", json!("eu-west-1")),
        ("VAULT_KV_MOUNT", json!("secret")),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", json!("http://<redacted>@collector:4317")),
    ] {
        assert_eq!(values[variable], value, "{variable}");
        assert!(values.as_object().unwrap().contains_key(variable), "{variable}");
    }
    assert!(!values.as_object().unwrap().contains_key("RUNS_FLEET_KUBE_NAMESPACE"), "not of this mode");
    assert_eq!(
        json["effective"],
        json!({
            "default_subnets": ["subnet-a"], "private_subnets": ["subnet-a"], "cache_url": null, "store": "dynamodb",
            "admin_api": "disabled", "cache_api": "disabled", "tracing": true,
            "tracing_endpoint": "http://<redacted>@collector:4317", "environment": "prod",
            "oidc_redirect_url": null, "replica_id": "replica-7"
        })
    );

    let bad = load(&ec2(&[("SPOT_ENABLED", "no"), ("SPOT_ENABLE", "1")]));
    let json = render_json(&bad, false);
    assert_eq!(json["ok"], false);
    assert!(json.get("values").is_none() && json.get("effective").is_none());
    assert_eq!(json["errors"][0]["code"], "E_INVALID");
    assert_eq!(json["errors"][0]["variables"], json!(["RUNS_FLEET_SPOT_ENABLED"]));
    assert_eq!(json["warnings"][0]["code"], "W_UNKNOWN");
    let strict = render_json(&load(&ec2(&[("SPOT_ENABLE", "1")])), true);
    assert_eq!(
        (&strict["ok"], &strict["warnings"], strict["errors"].as_array().unwrap().len()),
        (&json!(false), &json!([]), 1)
    );
    assert!(render_text(&bad, false).contains("error: RUNS_FLEET_SPOT_ENABLED: must be true or false"));
}

#[test]
fn apis_are_open_only_when_somebody_said_so() {
    let effective = |more: &[(&str, &str)]| load(&ec2(more)).effective;
    assert_eq!(effective(&[("ADMIN_ALLOW_ANONYMOUS", "1")]).admin_api, "anonymous");
    let oidc = [
        ("ADMIN_OIDC_ISSUER_URL", "https://id.example.com"),
        ("ADMIN_OIDC_CLIENT_ID", "client"),
        ("ADMIN_OIDC_CLIENT_SECRET", "a client secret"),
        ("ADMIN_SESSION_SECRET", "0123456789abcdef0123456789abcdef"),
        ("BASE_URL", "https://runs.example.com/"),
        ("ADMIN_ALLOW_ANONYMOUS", "1"),
    ];
    assert_eq!(effective(&oidc).admin_api, "oidc");
    assert_eq!(effective(&oidc).oidc_redirect_url.as_deref(), Some("https://runs.example.com/api/auth/callback"));
    assert_eq!(config(&ec2(&oidc)).admin.oidc.unwrap().session_ttl, Duration::from_secs(480 * 60));
    let cache = |more: &[(&str, &str)]| effective(&[&[("CACHE_BUCKET", "b")], more].concat()).cache_api;
    assert_eq!(cache(&[]), "disabled");
    assert_eq!(cache(&[("CACHE_ALLOW_ANONYMOUS", "1")]), "anonymous");
    assert_eq!(cache(&[("CACHE_SECRET", "0123456789abcdef")]), "authenticated");
    assert_eq!(effective(&[("CACHE_SECRET", "0123456789abcdef")]).cache_api, "disabled");
}

#[test]
fn problems_of_other_crates_join_the_list() {
    let mut loaded = load(&ec2(&[]));
    loaded.add([Problem::new(Code::Invalid, &["RUNS_FLEET_LABEL_ALIASES"], format!("rule 0: quotes {WEBHOOK}"))]);
    assert!(!loaded.ok(false) && loaded.config.is_none());
    assert_eq!(loaded.problems[0].message, "rule 0: quotes <redacted>");
}

#[test]
fn the_registry_is_consistent() {
    let mut seen = std::collections::BTreeSet::new();
    let builder = concat!(include_str!("model/build.rs"), include_str!("load/derive.rs"), include_str!("load/mod.rs"));
    for v in registry::variables() {
        assert!(seen.insert(v.name), "{} is listed twice", v.name);
        assert!(!v.meaning.is_empty(), "{} has a meaning", v.name);
        assert!(!registry::HISTORIC.contains(&v.name) && !registry::AGENT.contains(&v.name), "{}", v.name);
        assert!(builder.contains(v.name), "{} is read by nobody", v.name);
        assert!(!v.required || v.default.is_none(), "{} is required and has a default", v.name);
        if let Some(default) = v.default {
            let (value, findings) = parse::parse(v, default);
            assert!(value.is_some(), "{}: the default is not valid: {findings:?}", v.name);
        }
        assert!(!v.lenient || v.default.is_some(), "{} has nothing to fall back to", v.name);
    }
    assert!(registry::AGENT.is_sorted() && registry::HISTORIC.is_sorted());
}

#[test]
fn the_reference_lists_every_variable_once() {
    let text = reference_markdown();
    for v in registry::variables() {
        assert_eq!(text.matches(&format!("\n| `{}` |", v.name)).count(), 1, "{}", v.name);
    }
    let columns = |line: &str| line.replace("\\|", "").matches('|').count();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        assert_eq!(columns(line), 8, "{line}");
    }
}

#[test]
fn env_files_are_read_like_a_shell_would_without_expanding() {
    let text = "# comment\n\nA=1\nexport B = x\n";
    assert_eq!(
        parse_env_file(text),
        Err(EnvFileError { line: 4, reason: "the name before '=' is not a variable's name" })
    );
    let text =
        "A=1\r\n  export B=two words # comment\nC='sin#gle $X'\nD=\"dou\\nble\" # c\nE=\nF=a#b\nA=2\n#G=1\nH=#x\n";
    let env = parse_env_file(text).unwrap();
    let got: Vec<_> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        got,
        [("A", "2"), ("B", "two words"), ("C", "sin#gle $X"), ("D", "dou\\nble"), ("E", ""), ("F", "a#b"), ("H", "")]
    );
    for text in ["novalue", "A='open", "A=\"x\" y", "1A=x", "=x"] {
        assert!(parse_env_file(text).is_err(), "{text}");
    }
}

#[test]
fn a_debug_print_of_the_configuration_shows_no_secret() {
    let secrets = registry::variables().filter(|v| matches!(v.kind, registry::Kind::Secret));
    let secrets: Vec<_> = secrets.enumerate().map(|(n, v)| (v.name, format!("the-secret-number-{n:032}"))).collect();
    for method in ["approle", "token"] {
        let mut env = ec2(&[
            ("HYBRID_ENABLED", "1"),
            ("KUBE_NAMESPACE", "ci"),
            ("KUBE_RUNNER_IMAGE", "runner"),
            ("SECRETS_BACKEND", "vault"),
            ("VAULT_ADDR", "https://vault"),
            ("VAULT_AUTH_METHOD", method),
            ("VAULT_APP_ROLE_ID", "role"),
            ("VALKEY_RUNNER_USERNAME", "runner"),
            ("ADMIN_OIDC_ISSUER_URL", "https://id.example.com"),
            ("ADMIN_OIDC_CLIENT_ID", "client"),
            ("BASE_URL", "https://runs.example.com"),
        ]);
        env.extend(secrets.iter().map(|(name, secret)| ((*name).to_owned(), secret.clone())));
        let config = config(&env);
        assert!(config.secrets.vault.is_some() && config.kubernetes.is_some() && config.admin.oidc.is_some());
        let printed = format!("{config:?}");
        assert!(!printed.contains("the-secret-number") && !printed.contains("PRIVATE KEY-"), "{printed}");
    }
}

fn variable_names() -> Vec<String> {
    let mut names: Vec<String> = registry::variables().map(|v| v.name.to_owned()).collect();
    names.extend(registry::variables().filter(|v| v.kind.is_secret()).map(|v| format!("{}_FILE", v.name)));
    names.extend(
        registry::AGENT.iter().chain(registry::AGENT_SECRETS).chain(registry::HISTORIC).map(|n| (*n).to_owned()),
    );
    names.extend(
        ["AWS_ENDPOINT_URL_SQS", "AWS_DEFAULT_REGION", "HOSTNAME", "RUNS_FLEET_SPOT_ENABLE"].map(str::to_owned),
    );
    names
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever the environment, no secret of eight characters or more is in anything that is printed, not even when it
    /// is also part of a variable that is no secret.
    #[test]
    fn no_secret_is_ever_printed(
        secrets in proptest::collection::vec("[a-zA-Z0-9%\"'\\\\/@: ]{0,3}zQ[0-9]{7}[ -~\u{e9}]{0,12}xK", 3),
        picks in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..9, any::<prop::sample::Index>()), 0..40),
        complete in any::<bool>(),
        local in any::<bool>(),
        strict in any::<bool>(),
    ) {
        let names = variable_names();
        let mut env = if complete { ec2(&[]) } else { Env::new() };
        for (n, form, s) in &picks {
            let secret = &secrets[s.index(secrets.len())];
            let value = match form {
                0 | 1 => secret.clone(),
                2 => format!("https://user:{secret}@host/{secret}"),
                3 => format!("{{\"a\":\"{secret}\"}}"),
                4 => format!("/path/{secret}"),
                5 => format!("vault://mount/{secret}#x"),
                6 => "true".into(),
                7 => "vault".into(),
                _ => format!("a,{secret},b"),
            };
            env.insert(n.get(&names).clone(), value);
        }
        // The three are always somebody's secret, in one way or another.
        env.insert("RUNS_FLEET_CACHE_SECRET".into(), secrets[0].clone());
        env.insert("AWS_SECRET_ACCESS_KEY".into(), secrets[1].clone());
        env.remove("RUNS_FLEET_GITHUB_WEBHOOK_SECRET");
        env.insert("RUNS_FLEET_GITHUB_WEBHOOK_SECRET_FILE".into(), "/run/secrets/webhook".into());
        let content = (format!("{}\n", secrets[2]).into_bytes(), true);
        let files = Memory { files: BTreeMap::from([("/run/secrets/webhook".into(), content)]), ..Memory::default() };

        let loaded = if local { Config::local(&env, &files) } else { Config::load(&env, &files) };
        let printed = [
            render_text(&loaded, strict),
            render_json(&loaded, strict).to_string(),
            format!("{loaded:?}"),
            json!(loaded.values).to_string(),
            json!(loaded.effective).to_string(),
            format!("{:?}", loaded.endpoint_overrides),
        ];
        for secret in &secrets {
            let secret = secret.trim();
            let json = Json::from(secret).to_string();
            for (n, text) in printed.iter().enumerate() {
                prop_assert!(!text.contains(secret), "{n}: {secret:?} in {text}");
                prop_assert!(!text.contains(&json[1..json.len() - 1]), "{n}: {json} in {text}");
            }
        }
    }
}
