//! Registering a runner with a token, by the runner's own `config.sh`. The fallback: a just-in-time configuration needs
//! none of this.
//!
//! The token travels in the environment of that one process, which the script takes for an argument and masks.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use domain::handover::HandOver;
use serde_json::Value;

use super::{Error, can_register, forget};
use crate::environment::Environment;
use crate::job::Launcher;
use crate::log::Log;

const SCRIPT: &str = "config.sh";
/// Limit of one try.
const ATTEMPT: Duration = Duration::from_secs(120);
/// Pauses before the tries, in units of the retry pause.
const PAUSES: [u32; 3] = [0, 5, 15];
/// What GitHub says when it will say the same again.
const FINAL: [&str; 5] = ["404", "401", "403", "Invalid configuration", "expired"];
/// GitHub's limit of a runner's name.
const LONGEST_NAME: usize = 64;

/// Registers the runner of `environment.runner_dir` with the repository of `document`.
pub(super) async fn run(
    environment: &Environment,
    document: &HandOver,
    launcher: &Launcher,
    log: &Log,
) -> Result<(), Error> {
    let dir = &environment.runner_dir;
    if !can_register(dir) {
        return Err(Error::Registration(format!("{SCRIPT} not found")));
    }
    if document.labels.is_empty() {
        log.warn("register_without_labels", &[]);
    }
    let arguments = arguments(environment, document);
    let mut last = String::new();
    for pause in PAUSES {
        tokio::time::sleep(environment.retry_base * pause).await;
        forget(dir, log);
        match attempt(dir, &arguments, document, launcher, log).await {
            Ok(()) => return Ok(()),
            Err(output) => {
                last = output.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("").to_owned();
                log.warn("register_failed", &[("error", last.as_str().into())]);
                if FINAL.iter().any(|word| output.contains(word)) {
                    break;
                }
            }
        }
    }
    Err(Error::Registration(log.redacted(&last)))
}

/// Exactly the job's labels, so that the runner takes no other job.
fn arguments(environment: &Environment, document: &HandOver) -> Vec<String> {
    let server = if document.server_url.is_empty() { &environment.github_url } else { &document.server_url };
    let url = format!("{}/{}", server.trim_end_matches('/'), document.repo);
    let mut name = match document.runner_name.as_str() {
        "" => format!("runs-fleet-{}", environment.key),
        name => name.to_owned(),
    };
    name.truncate(name.floor_char_boundary(LONGEST_NAME));
    let (labels, group) = (document.labels.join(","), document.runner_group.as_str());
    let mut arguments = vec!["--unattended", "--ephemeral", "--url", &url, "--no-default-labels"];
    for (option, value) in [("--labels", labels.as_str()), ("--runnergroup", group), ("--name", &name)] {
        if !value.is_empty() {
            arguments.extend([option, value]);
        }
    }
    arguments.push("--replace");
    if let Some(work) = &environment.work_dir {
        arguments.extend(["--work", work]);
    }
    arguments.into_iter().map(str::to_owned).collect()
}

/// One try; its output when it failed.
async fn attempt(
    dir: &Path,
    arguments: &[String],
    document: &HandOver,
    launcher: &Launcher,
    log: &Log,
) -> Result<(), String> {
    let secret = Some(("ACTIONS_RUNNER_INPUT_TOKEN", document.jit_token.expose()));
    let mut command = launcher.command(dir, SCRIPT, secret);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(ATTEMPT, command.output()).await {
        Ok(output) => output.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("no end within {} s", ATTEMPT.as_secs())),
    };
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    for line in text.lines() {
        log.info("register_output", &[("line", Value::from(line))]);
    }
    if output.status.success() {
        return Ok(());
    }
    Err(if text.trim().is_empty() { format!("{SCRIPT}: {}", output.status) } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(document: &HandOver) -> String {
        let get = |name: &str| match name {
            "RUNS_FLEET_INSTANCE_ID" => Some("i-1".to_owned()),
            "RUNS_FLEET_BACKEND" => Some("local".to_owned()),
            "RUNS_FLEET_SECRETS_BACKEND" => Some("file".to_owned()),
            "RUNS_FLEET_HANDOVER_DIR" => Some("/h".to_owned()),
            _ => None,
        };
        arguments(&Environment::read(get).unwrap().0, document).join(" ")
    }

    #[test]
    fn a_runner_has_exactly_the_labels_of_its_job() {
        let bare = HandOver { repo: "o/r".to_owned(), ..HandOver::default() };
        let expected = "--unattended --ephemeral --url https://github.com/o/r --no-default-labels \
                        --name runs-fleet-i-1 --replace";
        assert_eq!(given(&bare), expected);
        let full = HandOver {
            labels: vec!["a".to_owned(), "b=1".to_owned()],
            runner_group: "g".to_owned(),
            runner_name: "n".repeat(70),
            server_url: "https://ghe.example/".to_owned(),
            ..bare
        };
        let name = "n".repeat(64);
        let expected = format!(
            "--unattended --ephemeral --url https://ghe.example/o/r --no-default-labels --labels a,b=1 \
             --runnergroup g --name {name} --replace"
        );
        assert_eq!(given(&full), expected);
    }
}
