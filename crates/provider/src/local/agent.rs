//! The agent's process: how it is spawned, and found again.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;

use domain::ids::RunnerKey;

use super::disk::{blocking, failed};
use super::machines::Settings;
use crate::compute::Error;
use crate::processes::{self, MARKER, Members, ProcessId};

/// What an agent gets of the orchestrator's environment. Everything else there is none of a job's business.
const INHERITED: [&str; 19] = [
    "ALL_PROXY",
    "DOCKER_HOST",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANG",
    "LC_ALL",
    "LOGNAME",
    "NO_PROXY",
    "PATH",
    "SHELL",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_RUNTIME_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// A spare's own limit goes on while it is suspended. It is out of reach; that of its pool ends it when it is too old.
const STANDBY_DEADLINE: (&str, &str) = ("RUNS_FLEET_STANDBY_DEADLINE_SECONDS", "864000");

/// Spawns the agent. It starts a session of its own first thing, which is what lets it survive us.
pub(super) fn spawn(
    settings: &Settings,
    dir: &Path,
    key: &RunnerKey,
    spare: bool,
) -> Result<tokio::process::Child, Error> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join("agent.log"));
    let log = log.map_err(|error| failed(&error))?;
    let errors = log.try_clone().map_err(|error| failed(&error))?;
    let mut command = tokio::process::Command::new(&settings.program);
    command.args(&settings.args).env_clear();
    for name in INHERITED {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    if spare {
        command.env(STANDBY_DEADLINE.0, STANDBY_DEADLINE.1);
    }
    command
        .env("RUNS_FLEET_STATE_DIR", dir)
        .env("RUNS_FLEET_RUNNER_DIR", dir.join("runner"))
        .envs(&settings.env)
        .env("RUNS_FLEET_BACKEND", "local")
        .env("RUNS_FLEET_INSTANCE_ID", key.as_str())
        .env(MARKER, key.as_str())
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => {
            Error::Capacity(format!("no process for machine {key}: {error}"))
        }
        _ => Error::Deployment(format!("the agent cannot be started: {error}")),
    })
}

/// The agent of `key` that a previous orchestrator spawned without living to record it: the first process that got
/// the marker.
pub(super) async fn already_running(key: &RunnerKey) -> Result<Option<ProcessId>, Error> {
    let members = Members { session: None, marker: Some(key.to_string()) };
    blocking(move || Ok(processes::find(&members))).await.map(|found| {
        let first = found.into_iter().min_by_key(|found| (found.id.start_time, found.id.pid));
        first.map(|found| found.id)
    })
}
