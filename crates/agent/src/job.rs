//! The runner's process: spawning `run.sh`, reading it, ending everything it started.
//!
//! `run.sh` gets a session of its own. Because that takes a step between fork and exec, the agent starts itself again
//! in a hidden mode ([`exec`]) that takes the step and becomes `run.sh`.
//!
//! Properties: the output is read until its end, whatever it is, so that the job never blocks on a full pipe; a
//! grandchild that holds the pipe open delays the end by at most [`DRAIN`]; what the agent ends, it ends with all its
//! descendants. Credentials travel in the environment of that one process, never in an argument.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use provider::processes::{self, MARKER, Members, ProcessId};
use rustix::fs::Mode;
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::core::{Evidence, Exit, Input};
use crate::log::Log;
use crate::output::{Lines, News};

/// How long output is still read after `run.sh` ended.
const DRAIN: Duration = Duration::from_secs(5);
/// How often a stopping session is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long SIGKILL may take to leave nothing.
const KILL_WITHIN: Duration = Duration::from_secs(10);

/// The hidden mode's word.
pub const EXEC_MODE: &str = "exec-runner";
/// Where the runner keeps its diagnostics.
pub const DIAG: &str = "_diag";

/// The hidden mode: start a session and become `program`. Returns only on failure.
pub fn exec(program: &OsStr) -> ExitCode {
    // Fails only for a process that leads its group already, which a fresh child does not.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let error = std::process::Command::new(program).exec();
    let _ = writeln!(std::io::stderr(), "{} cannot be executed: {error}", Path::new(program).display());
    ExitCode::from(127)
}

/// What is needed to run the job.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Arguments that lead from the executable to the agent.
    pub prefix: &'a [OsString],
    /// The runner's directory.
    pub dir: &'a Path,
    /// The job's environment, complete.
    pub env: Vec<(OsString, OsString)>,
    /// The machine's marker.
    pub machine: Option<String>,
}

/// A spawned `run.sh` with everything it starts.
#[derive(Debug)]
pub struct Job {
    /// The leader of its session.
    pub process: ProcessId,
    dir: PathBuf,
    spawned_at: SystemTime,
    machine: Option<String>,
    /// Set when the agent asked it to stop.
    stopping: Arc<AtomicBool>,
}

impl Job {
    /// Spawns `run.sh`. `spawned_at` is the wall time, compared with those of files it writes.
    pub fn spawn(launch: Launch<'_>, spawned_at: SystemTime) -> std::io::Result<(Self, Child)> {
        let child = tokio::process::Command::new("/proc/self/exe")
            .arg0("runs-fleet-agent")
            .args(launch.prefix)
            .arg(EXEC_MODE)
            .arg(launch.dir.join("run.sh"))
            .current_dir(launch.dir)
            .env_clear()
            .envs(launch.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let process = pid.and_then(ProcessId::of).ok_or_else(|| std::io::Error::other("it vanished at once"))?;
        let job =
            Self { process, dir: launch.dir.to_owned(), spawned_at, machine: launch.machine, stopping: Arc::default() };
        Ok((job, child))
    }

    /// Asks it to stop: SIGTERM to its process group.
    pub fn terminate(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        if !self.process.is_alive() {
            return;
        }
        let Some(pid) = Pid::from_raw(self.process.pid) else { return };
        // In its first moments it has no group of its own yet.
        if rustix::process::kill_process_group(pid, Signal::TERM).is_err() {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
    }

    /// Everything it started: its session, and what escaped from it with the marker.
    pub fn members(&self) -> Members {
        Members { session: Some(self.process), marker: self.machine.clone() }
    }

    /// Whether the runner got a job, as far as its diagnostics and processes tell. Blocking.
    pub fn has_worker(&self) -> bool {
        worker_log(&self.dir.join(DIAG), self.spawned_at) || runs(self.process, &["Runner.Worker"])
    }

    /// Reads and awaits it, telling `inputs`; ends with [`Input::Exited`].
    pub fn watch(&self, mut child: Child, inputs: mpsc::Sender<Input>, log: Log) -> impl Future<Output = ()> + use<> {
        let (process, stopping) = (self.process, Arc::clone(&self.stopping));
        let (diag, spawned_at) = (self.dir.join(DIAG), self.spawned_at);
        async move {
            let mut readers = JoinSet::new();
            if let Some(stdout) = child.stdout.take() {
                readers.spawn(read(stdout, "stdout", Some(inputs.clone()), log.clone()));
            }
            if let Some(stderr) = child.stderr.take() {
                readers.spawn(read(stderr, "stderr", None, log));
            }
            let exit = match child.wait().await {
                Ok(status) => exit(status),
                Err(error) => Exit::Unknown(error.to_string()),
            };
            let _ = tokio::time::timeout(DRAIN, async { while readers.join_next().await.is_some() {} }).await;
            // Without its script's patience the listener may still be cancelling the job. Bounded by the grace, at
            // whose end the session is killed.
            while stopping.load(Ordering::Relaxed) && alive(process).await {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            if worker_log(&diag, spawned_at) {
                let _ = inputs.send(Input::Seen(Evidence::JobReceived)).await;
            }
            let _ = inputs.send(Input::Exited(exit)).await;
        }
    }
}

/// Kills all of `members`; says so when some stay.
pub async fn end(members: &Members, log: &Log) {
    if let Err(survivors) = processes::end(members, KILL_WITHIN).await {
        log.error("processes_survive", &[("error", Value::from(survivors.to_string()))]);
    }
}

async fn alive(leader: ProcessId) -> bool {
    tokio::task::spawn_blocking(move || runs(leader, &["Runner.Listener", "Runner.Worker"])).await.unwrap_or(false)
}

fn runs(leader: ProcessId, commands: &[&str]) -> bool {
    let session = Members { session: Some(leader), marker: None };
    processes::find(&session).iter().any(|found| commands.contains(&found.command.as_str()))
}

/// Whether a worker has written its log since then. File systems stamp by a clock that lags, some in whole seconds.
fn worker_log(diag: &Path, since: SystemTime) -> bool {
    let since = since.checked_sub(Duration::from_secs(1)).unwrap_or(since);
    let Ok(entries) = std::fs::read_dir(diag) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        name.starts_with("Worker_") && name.ends_with(".log") && modified.is_ok_and(|modified| modified >= since)
    })
}

fn exit(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Unknown(status.to_string()),
    }
}

async fn read(mut stream: impl AsyncRead + Unpin, name: &'static str, inputs: Option<mpsc::Sender<Input>>, log: Log) {
    let mut buffer = vec![0; crate::output::PIECE];
    let (mut lines, mut news) = (Lines::default(), News::default());
    loop {
        let count = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let mut learnt = Vec::new();
        lines.feed(&buffer[..count], |line| {
            learnt.extend(inputs.as_ref().and_then(|_| news.of(line)));
            log.info("runner_output", &[("line", Value::from(format!("[{name}] {line}")))]);
        });
        if let Some(inputs) = &inputs {
            for evidence in learnt {
                let _ = inputs.send(Input::Seen(evidence)).await;
            }
        }
    }
    lines.end(|line| log.info("runner_output", &[("line", Value::from(format!("[{name}] {line}")))]));
}

/// The environment of the job: everything of `inherited` that is not the agent's own business, and what the runner
/// needs. `jit_config` is absent from it when empty.
pub fn environment(
    inherited: impl Iterator<Item = (OsString, OsString)>,
    passthrough: &[String],
    machine: Option<&str>,
    jit_config: &str,
) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = inherited
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            passthrough.iter().any(|exempt| *exempt == name) || !denied(&name)
        })
        .collect();
    let mut add = |name: &str, value: &str| {
        env.retain(|(present, _)| present != name);
        env.push((name.into(), value.into()));
    };
    add("RUNNER_ALLOW_RUNASROOT", "1");
    // Lets the script forward a signal and wait, instead of leaving its listener behind.
    add("RUNNER_MANUALLY_TRAP_SIG", "1");
    add("ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE", "1");
    if let Some(machine) = machine {
        add(MARKER, machine);
    }
    if !jit_config.is_empty() {
        add("ACTIONS_RUNNER_INPUT_JITCONFIG", jit_config);
    }
    env
}

/// Variables that are ours, or would make a job someone it is not. Of what AWS clients read, a job only needs to know
/// where it runs; the rest says who the agent is and how it becomes that.
fn denied(name: &str) -> bool {
    const PREFIXES: [&str; 6] = ["RUNS_FLEET_", "VAULT_", "ACTIONS_RUNNER_INPUT_", "AWS_", "LISTEN_", "WATCHDOG_"];
    const NAMES: [&str; 5] = [
        "ACTIONS_RUNNER_RETURN_JOB_RESULT_FOR_HOSTED",
        "CREDENTIALS_DIRECTORY",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "NOTIFY_SOCKET",
    ];
    const KEPT: [&str; 2] = ["AWS_DEFAULT_REGION", "AWS_REGION"];
    !KEPT.contains(&name) && (PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name))
}

#[cfg(test)]
mod tests;
