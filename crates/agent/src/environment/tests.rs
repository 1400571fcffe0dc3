use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use domain::handover::HandOver;

use super::{Backend, Environment, Fatal, Secrets};

fn read(variables: &[(&str, &str)]) -> Result<(Environment, Vec<String>), Fatal> {
    let mut all = HashMap::from([
        ("RUNS_FLEET_INSTANCE_ID", "i-1"),
        ("RUNS_FLEET_BACKEND", "local"),
        ("RUNS_FLEET_SECRETS_BACKEND", "file"),
        ("RUNS_FLEET_HANDOVER_DIR", "/h"),
    ]);
    all.extend(variables.iter().copied());
    Environment::read(|name| all.get(name).map(|value| (*value).to_owned()))
}

#[test]
fn defaults() {
    let (environment, warnings) = read(&[]).unwrap();
    assert_eq!(warnings, [""; 0]);
    assert_eq!(environment.limits.grace, Duration::from_secs(90));
    assert_eq!(environment.limits.max_runtime, Duration::from_secs(360 * 60));
    assert_eq!(environment.limits.pickup, Duration::from_secs(600));
    assert_eq!(environment.standby.deadline, Duration::from_secs(15 * 60));
    assert_eq!(environment.standby.slow, Duration::from_secs(1), "files are looked at often");
    assert_eq!(environment.state_dir, PathBuf::from("/var/lib/runs-fleet"));
    assert!(environment.runner_dir.is_absolute());
    assert_eq!(environment.report_spool, None);
}

#[test]
fn a_bad_number_falls_through_to_the_next_source() {
    let ceiling = |seconds: &str, minutes: &str| {
        let (environment, warnings) =
            read(&[("RUNS_FLEET_MAX_RUNTIME_SECONDS", seconds), ("RUNS_FLEET_MAX_RUNTIME_MINUTES", minutes)]).unwrap();
        (environment.limits.max_runtime.as_secs(), warnings.len())
    };
    assert_eq!(ceiling(" 5 ", "2"), (5, 0), "seconds win");
    assert_eq!(ceiling("", "2"), (120, 0));
    assert_eq!(ceiling("0", "2"), (120, 1), "zero would be an instant timeout");
    assert_eq!(ceiling("123abc", "+2"), (21_600, 2));
    assert_eq!(ceiling("-1", "1441"), (21_600, 2));
}

#[test]
fn a_caches_address_ends_with_one_slash_and_the_hand_over_knows_it_best() {
    let (environment, warnings) =
        read(&[("RUNS_FLEET_CACHE_URL", "http://fallback"), ("RUNS_FLEET_CACHE_LISTEN_ADDR", "localhost")]).unwrap();
    assert_eq!((environment.cache_listen.to_string().as_str(), warnings.len()), ("127.0.0.1:443", 1));
    let url =
        |cache_url: &str| environment.cache_url(&HandOver { cache_url: cache_url.to_owned(), ..HandOver::default() });
    assert_eq!(url("").as_deref(), Some("http://fallback/"));
    assert_eq!(url("http://named//").as_deref(), Some("http://named/"));
    assert_eq!(read(&[]).unwrap().0.cache_url(&HandOver::default()), None);
}

#[test]
fn what_makes_the_agent_somebody_else_is_fatal() {
    assert_eq!(read(&[("RUNS_FLEET_INSTANCE_ID", " ")]).unwrap_err(), Fatal::Missing("RUNS_FLEET_INSTANCE_ID"));
    assert_eq!(read(&[("RUNS_FLEET_HANDOVER_DIR", "")]).unwrap_err(), Fatal::Missing("RUNS_FLEET_HANDOVER_DIR"));
    assert!(matches!(read(&[("RUNS_FLEET_SECRETS_BACKEND", "elsewhere")]), Err(Fatal::Unsupported { .. })));
    assert!(matches!(read(&[("RUNS_FLEET_BACKEND", "EC2")]), Err(Fatal::Unsupported { .. })));
}

#[test]
fn a_pod_is_no_instance() {
    let pod = [("RUNS_FLEET_BACKEND", ""), ("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("RUNS_FLEET_INSTANCE_ID", "")];
    let (environment, _) = read(&pod).unwrap();
    assert_eq!((environment.backend, environment.cloud), (Backend::Pod, None));
    assert!(!environment.key.as_str().is_empty(), "its host name");
    assert_eq!(environment.standby.deadline, Duration::ZERO);
    let Secrets::Mounted(mounted) = environment.secrets else { panic!("{:?}", environment.secrets) };
    assert_eq!(mounted.config, PathBuf::from("/etc/runs-fleet/config"));
}

/// A field of the hand-over that no variable names would be lost without a word.
#[test]
fn every_field_of_a_hand_over_has_a_variable() {
    let get = |name: &str| match name {
        "RUNS_FLEET_BACKEND" => Some("local".to_owned()),
        "RUNS_FLEET_SECRETS_BACKEND" => Some("env".to_owned()),
        "RUNS_FLEET_IS_ORG" => Some("1".to_owned()),
        name if name.starts_with("RUNS_FLEET_") => Some(name.to_lowercase()),
        _ => None,
    };
    let Secrets::Given(document) = Environment::read(get).unwrap().0.secrets else { panic!("not given") };
    let written = serde_json::to_value(&*document).unwrap();
    let known: Vec<&str> = written.as_object().unwrap().keys().map(String::as_str).collect();
    let elsewhere =
        ["created_at", "instance_id", "dispatch_id", "server_url", "max_runtime_minutes", "idle_exit_seconds"];
    // Fields are left out when they are empty, so a full document has them all.
    let full = include_str!("../../../domain/src/handover/mod.rs");
    let body = full.split("pub struct HandOver {").nth(1).unwrap().split("\n}").next().unwrap();
    for line in body.lines().filter_map(|line| line.trim().strip_prefix("pub ")) {
        let name = line.split(':').next().unwrap();
        assert!(known.contains(&name) || elsewhere.contains(&name), "{name} has no variable");
    }
}

#[cfg(feature = "aws")]
mod aws {
    use super::super::Identity;
    use super::*;

    const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2")];

    fn instance(variables: &[(&str, &str)]) -> Result<(Environment, Vec<String>), Fatal> {
        let none = [("RUNS_FLEET_BACKEND", ""), ("RUNS_FLEET_SECRETS_BACKEND", "")];
        read(&[&none, &KEYS, variables].concat())
    }

    #[test]
    fn an_instance_is_the_default() {
        let (environment, warnings) = instance(&[]).unwrap();
        assert_eq!(warnings, [""; 0]);
        assert_eq!(environment.backend, Backend::Ec2);
        assert_eq!(environment.secrets, Secrets::Parameters { prefix: "/runs-fleet/runners".to_owned(), config: None });
        assert_eq!(environment.runner_dir, PathBuf::from("/opt/actions-runner"));
        let cloud = environment.cloud.unwrap();
        assert_eq!(cloud.region, "ap-northeast-1");
        assert_eq!(cloud.endpoints.ssm, "https://ssm.ap-northeast-1.amazonaws.com");
        let Identity::Keys(keys) = &cloud.identity else { panic!("{cloud:?}") };
        assert!(keys.session_token.is_empty());
        assert!(!format!("{cloud:?}").contains("hunter2"));
    }

    #[test]
    fn a_local_machine_needs_nothing_of_aws() {
        assert_eq!(read(&[]).unwrap().0.cloud, None);
    }

    #[test]
    fn an_instance_has_keys_or_a_role_or_does_not_run() {
        let identity = |variables: &[(&str, &str)]| instance(variables).map(|read| read.0.cloud.unwrap().identity);
        let role = |metadata: &str| Ok(Identity::Role { metadata: metadata.to_owned() });
        let (none, elsewhere) = (("AWS_ACCESS_KEY_ID", ""), "http://127.0.0.1:1");
        assert_eq!(identity(&[none]), role("http://169.254.169.254"));
        assert_eq!(identity(&[none, ("AWS_EC2_METADATA_SERVICE_ENDPOINT", elsewhere)]), role(elsewhere));
        let off = ("AWS_EC2_METADATA_DISABLED", "true");
        assert_eq!(identity(&[none, off]), Err(Fatal::Missing("AWS_ACCESS_KEY_ID")));
        assert!(matches!(identity(&[off]), Ok(Identity::Keys(_))));
        assert_eq!(identity(&[("AWS_SECRET_ACCESS_KEY", "")]), Err(Fatal::Missing("AWS_SECRET_ACCESS_KEY")));
    }

    #[test]
    fn only_a_service_on_an_instance_switches_its_machine_off_by_itself() {
        let commands = |variables: &[(&str, &str)]| instance(variables).unwrap().0.power_off.commands;
        let service = ("INVOCATION_ID", "x");
        assert_eq!(commands(&[service]), ["systemctl poweroff", "shutdown -h now"]);
        assert_eq!(commands(&[]), [""; 0]);
        assert_eq!(commands(&[service, ("RUNS_FLEET_BACKEND", "local")]), [""; 0]);
        assert_eq!(commands(&[service, ("RUNS_FLEET_SHUTDOWN_COMMAND", " ")]), [""; 0], "an override stands alone");
        assert_eq!(commands(&[("RUNS_FLEET_SHUTDOWN_COMMAND", "/bin/true x")]), ["/bin/true x"]);
    }

    #[test]
    fn a_job_is_kept_from_the_metadata_unless_it_is_allowed() {
        let deny = |value| instance(&[("RUNS_FLEET_JOB_IMDS_ACCESS", value)]).unwrap().0.deny_metadata;
        assert!(deny("") && deny("deny") && deny("Allow") && !deny("allow"));
    }

    #[test]
    fn a_region_decides_the_endpoints() {
        let rows = [
            ("us-east-1", "https://ec2.us-east-1.amazonaws.com"),
            ("us-gov-west-1", "https://ec2.us-gov-west-1.amazonaws.com"),
            ("cn-north-1", "https://ec2.cn-north-1.amazonaws.com.cn"),
            ("us-isob-east-1", "https://ec2.us-isob-east-1.sc2s.sgov.gov"),
        ];
        for (region, endpoint) in rows {
            let (environment, _) = instance(&[("AWS_DEFAULT_REGION", region)]).unwrap();
            assert_eq!(environment.cloud.unwrap().endpoints.ec2, endpoint);
        }
        let (environment, warnings) =
            instance(&[("AWS_REGION", "evil.example/"), ("AWS_DEFAULT_REGION", "eu-west-1")]).unwrap();
        assert_eq!((environment.cloud.unwrap().region.as_str(), warnings.len()), ("eu-west-1", 1));
    }

    #[test]
    fn a_services_own_endpoint_wins() {
        let (environment, warnings) =
            instance(&[("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), ("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:2")])
                .unwrap();
        let endpoints = environment.cloud.unwrap().endpoints;
        assert_eq!((endpoints.ssm.as_str(), endpoints.sqs.as_str()), ("http://127.0.0.1:1", "http://127.0.0.1:2"));
        assert_eq!(warnings, [""; 0]);
        let (environment, warnings) = instance(&[("AWS_ENDPOINT_URL", "nonsense")]).unwrap();
        assert!(environment.cloud.unwrap().endpoints.sqs.starts_with("https://sqs."));
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn a_spare_waits_longer_than_a_machine_for_one_job() {
        let minutes = |variables: &[(&str, &str)]| instance(variables).unwrap().0.standby.deadline.as_secs() / 60;
        assert_eq!(minutes(&[]), 120, "it may be a spare");
        assert_eq!(minutes(&[("RUNS_FLEET_POOL", "p")]), 120);
        assert_eq!(minutes(&[("RUNS_FLEET_POOL", "")]), 15);
        assert_eq!(minutes(&[("RUNS_FLEET_POOL", ""), ("RUNS_FLEET_COLD_START_DEADLINE_MINUTES", "3")]), 3);
        assert_eq!(minutes(&[("RUNS_FLEET_POOL", ""), ("RUNS_FLEET_STANDBY_DEADLINE_MINUTES", "7")]), 7);
    }
}

#[cfg(feature = "vault")]
mod vault {
    use domain::handover::Credential;

    use super::super::{Vault, VaultLogin};
    use super::*;

    const HERE: [(&str, &str); 5] = [
        ("RUNS_FLEET_SECRETS_BACKEND", "vault"),
        ("VAULT_ADDR", "https://vault.example:8200/"),
        ("VAULT_TOKEN", "hunter2-hunter2"),
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2"),
    ];

    fn vault(variables: &[(&str, &str)]) -> Result<Vault, Fatal> {
        read(&[&HERE, variables].concat()).map(|(environment, _)| match environment.secrets {
            Secrets::Vault(vault) => *vault,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn an_address_is_enough() {
        let expected = Vault {
            address: "https://vault.example:8200".to_owned(),
            namespace: None,
            mount: "secret".to_owned(),
            version: None,
            base: "runs-fleet/runners".to_owned(),
            login: VaultLogin::Aws { role: "runs-fleet".to_owned() },
        };
        assert_eq!(vault(&[]), Ok(expected));
        let (environment, warnings) = read(&[&HERE[..], &[("VAULT_KV_VERSION", "3")]].concat()).unwrap();
        assert!(environment.secrets.outlive() && environment.cloud.is_some(), "its login needs who we are");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let given = read(&[&HERE[..], &[("VAULT_AUTH_METHOD", "token")]].concat()).unwrap().0;
        assert_eq!(given.cloud, None, "a local machine with a token needs nothing of AWS");
        assert!(!format!("{given:?}").contains("hunter2"));
    }

    #[test]
    fn every_setting_arrives() {
        let set = [
            ("VAULT_NAMESPACE", "team"),
            ("VAULT_KV_MOUNT", "/kv/"),
            ("VAULT_KV_VERSION", "2"),
            ("VAULT_BASE_PATH", "/a/b/"),
        ];
        let read = vault(&set).unwrap();
        let (namespace, version) = (read.namespace.as_deref(), read.version);
        assert_eq!((namespace, version), (Some("team"), Some(2)));
        assert_eq!((read.mount.as_str(), read.base.as_str()), ("kv", "a/b"));
        let login = |variables: &[(&str, &str)]| vault(variables).map(|vault| vault.login);
        let token = VaultLogin::Token(Credential::new("hunter2-hunter2"));
        assert_eq!(login(&[("VAULT_AUTH_METHOD", "token")]), Ok(token));
        let role = ("VAULT_AWS_ROLE", "runs-fleet-runner");
        assert_eq!(login(&[role]), Ok(VaultLogin::Aws { role: "runs-fleet-runner".to_owned() }));
        let app = [("VAULT_AUTH_METHOD", "approle"), ("VAULT_APP_ROLE_ID", "r"), ("VAULT_APP_SECRET_ID", "s")];
        let expected = VaultLogin::AppRole { role_id: "r".to_owned(), secret_id: Credential::new("s") };
        assert_eq!(login(&app), Ok(expected));
        for method in ["kubernetes", "k8s", "jwt"] {
            let expected = VaultLogin::Jwt {
                mount: "kubernetes".to_owned(),
                role: "r".to_owned(),
                path: PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount/token"),
            };
            assert_eq!(login(&[("VAULT_AUTH_METHOD", method), ("VAULT_K8S_ROLE", "r")]), Ok(expected));
        }
    }

    #[test]
    fn what_could_lead_elsewhere_is_fatal() {
        let jwt = ["VAULT_AUTH_METHOD", "VAULT_K8S_ROLE"].map(|name| (name, "jwt"));
        let path = |path| vault(&[&jwt[..], &[("VAULT_K8S_JWT_PATH", path)]].concat());
        assert!(path("/var/run/secrets/./a/../token").is_ok());
        for odd in ["/var/run/secrets/../../../etc/passwd", "/var/run/secrets", "token", "/var/run/secrets/a/.."] {
            assert!(matches!(path(odd), Err(Fatal::Unsupported { name: "VAULT_K8S_JWT_PATH", .. })), "{odd}");
        }
        let address = |address| vault(&[("VAULT_ADDR", address)]).is_ok();
        for good in
            ["https://vault", "https://10.0.0.1:8200", "http://127.0.0.1:8200", "http://[::1]:1", "http://localhost"]
        {
            assert!(address(good), "{good}");
        }
        for odd in ["http://vault:8200", "vault:8200", "https://", "https://a@vault", "https://vault?x", "file:///x"] {
            assert!(!address(odd), "{odd}");
        }
        for name in ["VAULT_KV_MOUNT", "VAULT_BASE_PATH"] {
            for odd in ["../x", "a b", "/", "a.b", "a%2f"] {
                assert!(matches!(vault(&[(name, odd)]), Err(Fatal::Unsupported { .. })), "{name} {odd}");
            }
        }
        assert!(matches!(vault(&[("VAULT_AUTH_METHOD", "AWS")]), Err(Fatal::Unsupported { .. })));
    }

    #[test]
    fn what_a_login_needs_is_missed() {
        let missing = |variables: &[(&str, &str)]| vault(variables).unwrap_err();
        let rows = [
            ("", "VAULT_ADDR", "VAULT_ADDR"),
            ("aws", "AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"),
            ("token", "VAULT_TOKEN", "VAULT_TOKEN"),
            ("k8s", "VAULT_K8S_ROLE", "VAULT_K8S_ROLE"),
            ("approle", "VAULT_APP_ROLE_ID", "VAULT_APP_ROLE_ID"),
        ];
        for (method, unset, expected) in rows {
            let off = ("AWS_EC2_METADATA_DISABLED", "true");
            assert_eq!(missing(&[("VAULT_AUTH_METHOD", method), (unset, ""), off]), Fatal::Missing(expected));
        }
        let half = [("VAULT_AUTH_METHOD", "approle"), ("VAULT_APP_ROLE_ID", "r")];
        assert_eq!(missing(&half), Fatal::Missing("VAULT_APP_SECRET_ID"));
    }
}

#[test]
fn lists_drop_blanks() {
    let (environment, _) = read(&[("RUNS_FLEET_JOB_ENV_PASSTHROUGH", " A, ,B ,")]).unwrap();
    assert_eq!(environment.passthrough, ["A", "B"]);
}
