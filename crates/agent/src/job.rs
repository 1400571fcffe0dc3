//! The runner's process: spawning `run.sh`, reading it, ending everything it started.
//!
//! `run.sh` gets a session of its own, a control group, and the account of jobs. Because that takes steps between fork
//! and exec, the agent starts itself again in a hidden mode ([`exec`]) that takes the steps and becomes `run.sh`.
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
use rustix::process::{Gid, Pid, Signal, Uid};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::account::Account;
use crate::cgroup::Cgroup;
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

/// Nothing, among the hidden mode's arguments.
const NONE: &str = "-";

/// The hidden mode: `<account> <control group> <program> [argument…]`. Enters the group, starts a session, becomes the
/// account and then the program. Returns only on failure; a step that fails keeps the program from running with more
/// rights than it should have.
pub fn exec(args: &[OsString]) -> ExitCode {
    let failed = match become_program(args) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    let _ = writeln!(std::io::stderr(), "the runner cannot be executed: {failed}");
    ExitCode::from(127)
}

fn become_program(args: &[OsString]) -> std::io::Result<std::convert::Infallible> {
    let [account, cgroup, program, args @ ..] = args else {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "arguments are missing"));
    };
    if cgroup != NONE {
        Cgroup::enter(Path::new(cgroup))?;
    }
    // An agent that must not be the kernel's first victim starts a job that may be.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    // Fails only for a process that leads its group already, which a fresh child does not.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if account != NONE {
        let ids: Option<Vec<u32>> = account.to_str().and_then(|ids| ids.split(':').map(|id| id.parse().ok()).collect());
        let Some([uid, groups @ ..]) = ids.as_deref().filter(|ids| ids.len() > 1) else {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "no account"));
        };
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        // There is one thread, so that its rights are those of the process.
        rustix::thread::set_thread_groups(&groups)?;
        rustix::thread::set_thread_res_gid(groups[0], groups[0], groups[0])?;
        let uid = Uid::from_raw(*uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    }
    Err(std::process::Command::new(program).args(args).exec())
}

/// How programs of the runner are started: through the hidden mode.
#[derive(Debug, Clone, Default)]
pub struct Launcher {
    /// Arguments that lead from the executable to the agent.
    pub prefix: Vec<OsString>,
    /// Whom they run as, when it is somebody else.
    pub account: Option<Account>,
    /// The group they run in.
    pub cgroup: Option<Cgroup>,
    /// The machine's marker.
    pub machine: Option<String>,
    /// Variables that reach them although they look like ours.
    pub passthrough: Vec<String>,
}

impl Launcher {
    /// A command for the program `name` in the runner's directory `dir`, with the job's environment. `secret` is one
    /// more variable, of this process alone.
    pub fn command(&self, dir: &Path, name: &str, secret: Option<(&str, &str)>) -> tokio::process::Command {
        let account = self.account.as_ref().map_or_else(
            || NONE.to_owned(),
            |account| {
                let ids = std::iter::once(account.uid).chain(account.groups.iter().copied());
                ids.map(|id| id.to_string()).collect::<Vec<_>>().join(":")
            },
        );
        let cgroup = self.cgroup.as_ref().map_or(OsStr::new(NONE), |cgroup| cgroup.dir().as_os_str());
        let env = environment(std::env::vars_os(), &self.passthrough, self.machine.as_deref(), self.account.as_ref());
        let mut command = tokio::process::Command::new("/proc/self/exe");
        command
            .arg0("runs-fleet-agent")
            .args(&self.prefix)
            .arg(EXEC_MODE)
            .arg(account)
            .arg(cgroup)
            .arg(dir.join(name))
            .current_dir(dir)
            .env_clear()
            .envs(env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some((name, value)) = secret.filter(|(_, value)| !value.is_empty()) {
            command.env(name, value);
        }
        command
    }
}

/// A spawned `run.sh` with everything it starts.
#[derive(Debug)]
pub struct Job {
    /// The leader of its session.
    pub process: ProcessId,
    dir: PathBuf,
    spawned_at: SystemTime,
    /// Set when the agent asked it to stop.
    stopping: Arc<AtomicBool>,
}

impl Job {
    /// Spawns `run.sh` in `dir`. `spawned_at` is the wall time, compared with those of files it writes. `jit_config` is
    /// absent from its environment when empty.
    pub fn spawn(
        launcher: &Launcher,
        dir: &Path,
        jit_config: &str,
        spawned_at: SystemTime,
    ) -> std::io::Result<(Self, Child)> {
        let secret = Some(("ACTIONS_RUNNER_INPUT_JITCONFIG", jit_config));
        let child = launcher.command(dir, "run.sh", secret).spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let process = pid.and_then(ProcessId::of).ok_or_else(|| std::io::Error::other("it vanished at once"))?;
        Ok((Self { process, dir: dir.to_owned(), spawned_at, stopping: Arc::default() }, child))
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

/// Kills all of `cgroup` and `members`; says so when some stay.
pub async fn end(cgroup: Option<&Cgroup>, members: &Members, log: &Log) {
    if let Some(cgroup) = cgroup
        && !cgroup.end(KILL_WITHIN).await
    {
        log.error("processes_survive", &[("cgroup", Value::from(cgroup.dir().to_string_lossy()))]);
    }
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

/// The environment of the job: everything of `inherited` that is not the agent's own business, what the runner needs,
/// and who it is.
fn environment(
    inherited: impl Iterator<Item = (OsString, OsString)>,
    passthrough: &[String],
    machine: Option<&str>,
    account: Option<&Account>,
) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = inherited
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            passthrough.iter().any(|exempt| *exempt == name) || !denied(&name)
        })
        .collect();
    let mut add = |name: &str, value: &OsStr| {
        env.retain(|(present, _)| present != name);
        env.push((name.into(), value.into()));
    };
    let one = OsStr::new("1");
    add("RUNNER_ALLOW_RUNASROOT", one);
    // Lets the script forward a signal and wait, instead of leaving its listener behind.
    add("RUNNER_MANUALLY_TRAP_SIG", one);
    add("ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE", one);
    if let Some(machine) = machine {
        add(MARKER, OsStr::new(machine));
    }
    if let Some(account) = account {
        let name = OsStr::new(&account.name);
        add("HOME", account.home.as_os_str());
        add("USER", name);
        add("LOGNAME", name);
        add("SHELL", account.shell.as_os_str());
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
