use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{Environment, Fatal};

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
fn what_makes_the_agent_somebody_else_is_fatal() {
    assert_eq!(read(&[("RUNS_FLEET_INSTANCE_ID", " ")]).unwrap_err(), Fatal::Missing("RUNS_FLEET_INSTANCE_ID"));
    assert_eq!(read(&[("RUNS_FLEET_HANDOVER_DIR", "")]).unwrap_err(), Fatal::Missing("RUNS_FLEET_HANDOVER_DIR"));
    assert!(matches!(read(&[("RUNS_FLEET_SECRETS_BACKEND", "vault")]), Err(Fatal::Unsupported { .. })));
    for backend in ["k8s", "EC2"] {
        assert!(matches!(read(&[("RUNS_FLEET_BACKEND", backend)]), Err(Fatal::Unsupported { .. })));
    }
    let pod = [("RUNS_FLEET_BACKEND", ""), ("KUBERNETES_SERVICE_HOST", "10.0.0.1")];
    assert!(matches!(read(&pod), Err(Fatal::Unsupported { .. })), "a pod is no instance");
}

#[cfg(feature = "aws")]
mod aws {
    use super::super::{Backend, Secrets};
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
        assert!(cloud.keys.session_token.is_empty());
        assert!(!format!("{cloud:?}").contains("hunter2"));
    }

    #[test]
    fn a_local_machine_needs_nothing_of_aws() {
        assert_eq!(read(&[]).unwrap().0.cloud, None);
    }

    #[test]
    fn an_instance_without_credentials_does_not_run() {
        let missing = |name| instance(&[(name, "")]).unwrap_err();
        assert_eq!(missing("AWS_ACCESS_KEY_ID"), Fatal::Missing("AWS_ACCESS_KEY_ID"));
        assert_eq!(missing("AWS_SECRET_ACCESS_KEY"), Fatal::Missing("AWS_SECRET_ACCESS_KEY"));
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

#[test]
fn lists_drop_blanks() {
    let (environment, _) = read(&[("RUNS_FLEET_JOB_ENV_PASSTHROUGH", " A, ,B ,")]).unwrap();
    assert_eq!(environment.passthrough, ["A", "B"]);
}
