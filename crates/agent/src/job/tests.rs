use std::collections::BTreeMap;
use std::ffi::OsString;

use super::environment;

fn job_env(inherited: &[(&str, &str)], passthrough: &[&str], jit: &str) -> BTreeMap<String, String> {
    let inherited = inherited.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let passthrough: Vec<String> = passthrough.iter().map(|name| (*name).to_owned()).collect();
    let env = environment(inherited, &passthrough, Some("i-1"), jit);
    env.into_iter().map(|(name, value)| (name.into_string().unwrap(), value.into_string().unwrap())).collect()
}

#[test]
fn the_job_sees_nothing_of_ours_and_everything_else() {
    let denied = [
        "RUNS_FLEET_HANDOVER_DIR",
        "VAULT_TOKEN",
        "ACTIONS_RUNNER_INPUT_TOKEN",
        "ACTIONS_RUNNER_RETURN_JOB_RESULT_FOR_HOSTED",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_PROFILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "NOTIFY_SOCKET",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "LISTEN_FDS",
        "CREDENTIALS_DIRECTORY",
        "WATCHDOG_USEC",
    ];
    let kept =
        ["PATH", "LANG", "AWS_REGION", "AGENT_TOOLSDIRECTORY", "DOCKER_HOST", "RUNNER_X", "https_proxy", "FAKE_X"];
    let all: Vec<(&str, &str)> = denied.iter().chain(&kept).map(|name| (*name, "v")).collect();
    let env = job_env(&all, &[], "anit");
    for name in denied {
        assert!(!env.contains_key(name), "{name}");
    }
    for name in kept {
        assert_eq!(env[name], "v");
    }
    assert_eq!(env["ACTIONS_RUNNER_INPUT_JITCONFIG"], "anit");
    assert_eq!(env["RUNNER_MANUALLY_TRAP_SIG"], "1");
    assert_eq!(env["RUNS_FLEET_MACHINE"], "i-1", "the marker must reach every process of the job");
}

#[test]
fn an_empty_jit_config_is_absent_and_exemptions_are_exact() {
    let env = job_env(&[("VAULT_ADDR", "a"), ("VAULT_TOKEN", "t")], &["VAULT_ADDR"], "");
    assert!(!env.contains_key("ACTIONS_RUNNER_INPUT_JITCONFIG"));
    assert_eq!(env["VAULT_ADDR"], "a");
    assert!(!env.contains_key("VAULT_TOKEN"));
}
