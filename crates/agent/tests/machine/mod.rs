//! A machine for the real agent: directories, a hand-over, a stand-in runner, and what came of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use domain::handover::{Credential, HandOver};
use domain::report::AgentReport;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) const KEY: &str = "i-0123456789abcdef0";
pub(crate) const JIT: &str = "c2VjcmV0LWppdC1jb25maWctZm9yLXRoZS10ZXN0";
pub(crate) const TOKEN: &str = "0badc0de0badc0de0badc0de";
/// Bounds every wait; far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Programs that are not in the package of their own name.
const PACKAGES: [(&str, &str); 3] = [("ip", "iproute2"), ("nsenter", "util-linux"), ("systemd-analyze", "systemd")];

/// Whether there is a program of this name. Where this is root on a Debian, one that is missing is installed first.
#[allow(clippy::print_stderr, reason = "what is skipped has to be seen")]
pub(crate) fn has(program: &str) -> bool {
    /// One installation at a time, and one list of packages for all of them.
    static LISTED: Mutex<bool> = Mutex::new(false);
    let run = |command: &str, args: &[&str]| {
        let command = Command::new(command).args(args).env("DEBIAN_FRONTEND", "noninteractive").output();
        command.is_ok_and(|output| output.status.success())
    };
    let found = || run("sh", &["-c", "command -v \"$0\"", program]);
    let mut listed = LISTED.lock().unwrap();
    if !found() && rustix::process::geteuid().is_root() {
        *listed = *listed || run("apt-get", &["update", "-qq"]);
        let package = PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package);
        let locked = "DPkg::Lock::Timeout=60";
        run("apt-get", &["install", "-y", "-qq", "--no-install-recommends", "-o", locked, package]);
    }
    let found = found();
    if !found {
        eprintln!("SKIPPED: there is no {program}");
    }
    found
}

pub(crate) struct Machine {
    pub(crate) root: TempDir,
    env: Mutex<BTreeMap<String, String>>,
    /// A command that the agent is started through.
    through: Mutex<Vec<String>>,
}

/// What is left when the agent has ended.
pub(crate) struct After {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
    pub(crate) reports: Vec<AgentReport>,
}

impl After {
    /// The reports' statuses.
    pub(crate) fn told(&self) -> Vec<&'static str> {
        self.reports.iter().map(|report| report.status.as_str()).collect()
    }
    pub(crate) fn last(&self) -> &AgentReport {
        self.reports.last().unwrap_or_else(|| panic!("no report; log:\n{}", self.log))
    }
    pub(crate) fn error(&self) -> &str {
        self.last().error.as_deref().unwrap_or_default()
    }
}

impl Machine {
    /// A machine without runner and hand-over.
    pub(crate) fn bare() -> Self {
        let root = TempDir::new().unwrap();
        let text = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
        let env = [
            ("PATH", std::env::var("PATH").unwrap()),
            ("RUNS_FLEET_INSTANCE_ID", KEY.to_owned()),
            ("RUNS_FLEET_MACHINE", format!("{KEY}-{}", root.path().file_name().unwrap().to_string_lossy())),
            ("RUNS_FLEET_BACKEND", "local".to_owned()),
            ("RUNS_FLEET_SECRETS_BACKEND", "file".to_owned()),
            ("RUNS_FLEET_HANDOVER_DIR", text("handovers")),
            ("RUNS_FLEET_REPORT_SPOOL", text("spool")),
            ("RUNS_FLEET_RUNNER_DIR", text("machine/runner")),
            ("RUNS_FLEET_STATE_DIR", text("machine")),
            ("RUNS_FLEET_STANDBY_FAST_POLL_MS", "10".to_owned()),
            ("RUNS_FLEET_RETRY_BASE_MS", "1".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "not-for-jobs".to_owned()),
            // Tests run as root in containers: their machines have no other account, and must not be switched off.
            ("RUNS_FLEET_RUNNER_USER", "root".to_owned()),
            ("RUNS_FLEET_SHUTDOWN_COMMAND", String::new()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("FAKE_DIR", text("seen")),
        ];
        fs::create_dir(root.path().join("machine")).unwrap();
        fs::create_dir(root.path().join("seen")).unwrap();
        Self {
            env: Mutex::new(env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            through: Mutex::default(),
            root,
        }
    }

    /// A machine with a hand-over and a runner directory whose `run.sh` is `script`.
    pub(crate) fn with_runner(script: &str) -> Self {
        let machine = Self::bare();
        machine.hand_over(&document());
        runner_tree(&machine.path("machine/runner"), script);
        machine
    }

    /// A machine with a hand-over that fetches a tarball with such a runner from its disk.
    pub(crate) fn with_tarball(script: &str) -> Self {
        let machine = Self::bare();
        machine.hand_over(&document());
        let (packed, digest) = tarball(&machine, script);
        let path = machine.path("runner.tar.gz");
        fs::write(&path, packed).unwrap();
        machine.set("RUNS_FLEET_RUNNER_URL", path.to_str().unwrap()).set("RUNS_FLEET_RUNNER_SHA256", &digest)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn set(self, name: &str, value: &str) -> Self {
        self.set_later(name, value);
        self
    }

    /// The same for one that is there already.
    pub(crate) fn set_later(&self, name: &str, value: &str) {
        self.env.lock().unwrap().insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn hand_over(&self, document: &HandOver) {
        let dir = self.path("handovers");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("{KEY}.json")), serde_json::to_vec(document).unwrap()).unwrap();
    }

    /// From now on the agent is started through this command.
    pub(crate) fn within(&self, command: &[&str]) {
        *self.through.lock().unwrap() = command.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Starts the agent.
    pub(crate) fn start(&self) -> Child {
        let log = File::options().create(true).append(true).open(self.path("agent.log")).unwrap();
        let mut words = self.through.lock().unwrap().clone();
        words.push(env!("CARGO_BIN_EXE_runs-fleet-agent").to_owned());
        Command::new(&words[0])
            .args(&words[1..])
            .env_clear()
            .envs(&*self.env.lock().unwrap())
            .current_dir(self.path("machine"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Runs the agent's program in another mode.
    pub(crate) fn command(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_runs-fleet-agent"))
            .args(args)
            .env_clear()
            .envs(&*self.env.lock().unwrap())
            .output()
            .unwrap()
    }

    /// Waits for its end.
    pub(crate) fn wait_only(&self, agent: &mut Child) -> ExitStatus {
        let log = || fs::read_to_string(self.path("agent.log")).unwrap_or_default();
        until_or("the agent's end", log, || agent.try_wait().unwrap())
    }

    /// Waits for its end.
    pub(crate) fn wait(&self, mut agent: Child) -> After {
        let status = self.wait_only(&mut agent);
        let log = fs::read_to_string(self.path("agent.log")).unwrap();
        After { status, log, reports: self.reports() }
    }

    pub(crate) fn run(&self) -> After {
        self.wait(self.start())
    }

    pub(crate) fn reports(&self) -> Vec<AgentReport> {
        let Ok(entries) = fs::read_dir(self.path("spool")) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let read = |path: &PathBuf| AgentReport::decode(&fs::read_to_string(path).unwrap()).unwrap();
        paths
            .iter()
            .filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.'))
            .map(|path| {
                let (report, unreadable) = read(path);
                assert_eq!(unreadable, [""; 0]);
                report
            })
            .collect()
    }

    /// Waits until the runner has left a file of this name, and reads it.
    pub(crate) fn seen(&self, name: &str) -> String {
        let path = self.path("seen").join(name);
        until(name, || fs::read_to_string(&path).ok().filter(|text| !text.is_empty()))
    }
}

pub(crate) fn document() -> HandOver {
    HandOver {
        org: "o".to_owned(),
        repo: "o/r".to_owned(),
        run_id: "70".to_owned(),
        job_id: "7".to_owned(),
        jit_config: Credential::new(JIT),
        telemetry_token: Credential::new(TOKEN),
        instance_id: KEY.to_owned(),
        dispatch_id: "d-1".to_owned(),
        runner_name: "r".to_owned(),
        ..HandOver::default()
    }
}

/// A tree that passes for a runner.
pub(crate) fn runner_tree(dir: &Path, script: &str) {
    fs::create_dir_all(dir.join("bin")).unwrap();
    program(&dir.join("bin/Runner.Listener"), "");
    program(&dir.join("run.sh"), script);
}

/// An executable script.
pub(crate) fn program(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A tarball with a runner, and its SHA-256.
pub(crate) fn tarball(machine: &Machine, script: &str) -> (Vec<u8>, String) {
    let tree = machine.path("tree");
    runner_tree(&tree, script);
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    builder.append_dir_all(".", &tree).unwrap();
    let packed = builder.into_inner().unwrap().finish().unwrap();
    fs::remove_dir_all(tree).unwrap();
    let digest = hex::encode(Sha256::digest(&packed));
    (packed, digest)
}

/// Waits until `look` finds something.
pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_or(what, String::new, look)
}

/// The same; `excuse` is shown when it does not.
pub(crate) fn until_or<T>(what: &str, excuse: impl Fn() -> String, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}\n{}", excuse());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process of this pid runs (a zombie does not).
pub(crate) fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// Sends a signal.
pub(crate) fn signal(agent: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(agent.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Every regular file below `dir`, with its content.
pub(crate) fn files(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() {
            let content = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            found.push((path, content));
        }
    }
    found
}
