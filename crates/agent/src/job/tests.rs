use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::{EXEC_MODE, Launcher, environment};
use crate::account::Account;

fn job_env(inherited: &[(&str, &str)], passthrough: &[&str]) -> BTreeMap<String, String> {
    let inherited = inherited.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let passthrough: Vec<String> = passthrough.iter().map(|name| (*name).to_owned()).collect();
    let env = environment(inherited, &passthrough, Some("i-1"), None);
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
    let env = job_env(&all, &[]);
    for name in denied {
        assert!(!env.contains_key(name), "{name}");
    }
    for name in kept {
        assert_eq!(env[name], "v");
    }
    assert_eq!(env["RUNNER_MANUALLY_TRAP_SIG"], "1");
    assert_eq!(env["RUNS_FLEET_MACHINE"], "i-1", "the marker must reach every process of the job");
}

#[test]
fn exemptions_are_exact() {
    let env = job_env(&[("VAULT_ADDR", "a"), ("VAULT_TOKEN", "t")], &["VAULT_ADDR"]);
    assert_eq!(env["VAULT_ADDR"], "a");
    assert!(!env.contains_key("VAULT_TOKEN"));
}

#[test]
fn a_secret_is_a_variable_of_one_process_and_absent_when_empty() {
    let launcher = Launcher::default();
    let variables = |value: &str| {
        let command = launcher.command(Path::new("/r"), "run.sh", Some(("SECRET_OF_THE_TEST", value)));
        let args: Vec<_> = command.as_std().get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        assert_eq!(args, [EXEC_MODE, "-", "-", "/r/run.sh"]);
        command.as_std().get_envs().any(|(name, _)| name == "SECRET_OF_THE_TEST")
    };
    assert!(variables("hidden"));
    assert!(!variables(""));
}

#[test]
fn an_account_is_passed_with_all_its_groups() {
    let account = Account {
        name: "runner".to_owned(),
        uid: 1001,
        gid: 1002,
        groups: vec![1002, 998],
        home: "/home/runner".into(),
        shell: "/bin/sh".into(),
    };
    let launcher = Launcher { account: Some(account), ..Launcher::default() };
    let command = launcher.command(Path::new("/r"), "config.sh", None);
    let args: Vec<_> = command.as_std().get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    assert_eq!(args[1], "1001:1002:998");
    let home = command.as_std().get_envs().find(|(name, _)| *name == "HOME").and_then(|(_, value)| value);
    assert_eq!(home, Some(OsStr::new("/home/runner")));
}
