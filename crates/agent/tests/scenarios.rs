//! The real agent on instances of an emulated EC2: what its runner may do, what may be done to it, what AWS may answer,
//! and its death at any moment. Every row says what is reported and how the machine ends; that nothing secret and
//! nothing of the job is left, and that no process survives, holds for every row and is said once, here.
#![cfg(feature = "aws")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these tests wait for real processes; what fails here fails the test"
)]

#[allow(dead_code, reason = "shared with tests that need other parts of it")]
mod cloud;
#[allow(dead_code, reason = "shared with tests that need other parts of it")]
mod machine;
mod table;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::Mutex;
use std::time::Duration;

use cloud::Instance;
use cloud::metadata::{ROLE_SECRET, ROLE_TOKEN};
use domain::handover::HandOver;
use domain::report::{AgentReport, AgentStatus};
use machine::{JIT, TOKEN, files, runs};

/// Output of a runner that serves one job.
const SERVE: &str = "echo 'now: Listening for Jobs'; echo 'now: Running job: build'
                     echo 'now: Job build completed with result: Succeeded'";
/// A runner that has a job and works for ever.
const HANG: &str =
    "echo 'Listening for Jobs'; echo 'Running job: x'; echo $$ > $FAKE_DIR/up; while :; do sleep 0.05; done";
/// A registration token.
const REGISTRATION: &str = "REGISTRATION-TOKEN-OF-THE-TEST";
/// What must be nowhere.
const SECRETS: [&str; 5] = [JIT, TOKEN, REGISTRATION, ROLE_SECRET, ROLE_TOKEN];
/// A unit that fails this often is not started again, and its machine is powered off.
const STARTS: usize = 3;

/// So many instances live at a time.
const AT_ONCE: usize = 8;

/// How a machine ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ends {
    /// EC2 ended it.
    Terminated,
    /// It was switched off.
    PoweredOff,
    /// Its unit failed too often, which switches it off.
    GivenUp,
    /// It is left to whoever stops it.
    Spared,
}

type Given = Box<dyn Fn(&Instance) + Send + Sync>;
type Act = Box<dyn Fn(&Instance, &mut Child) + Send + Sync>;
type Check = Box<dyn Fn(&Instance, &[AgentReport], &str) + Send + Sync>;

/// One scenario.
struct Row {
    name: &'static str,
    script: String,
    env: Vec<(&'static str, String)>,
    given: Given,
    act: Act,
    check: Check,
    told: Vec<&'static str>,
    runner_code: Option<i64>,
    error: Option<&'static str>,
    by: Option<&'static str>,
    ends: Ends,
}

/// A runner that does this, with a hand-over, in peace; it is served.
fn row(name: &'static str, script: &str) -> Row {
    Row {
        name,
        script: format!(
            "env > $FAKE_DIR/env; for p in $$ $PPID; do tr '\\0' ' ' < /proc/$p/cmdline; done > $FAKE_DIR/argv
             {script}"
        ),
        env: Vec::new(),
        given: Box::new(|instance| instance.hand_over(&instance.document())),
        act: Box::new(|_, _| {}),
        check: Box::new(|_, _, _| {}),
        told: vec!["started", "success"],
        runner_code: None,
        error: None,
        by: None,
        ends: Ends::Terminated,
    }
}

impl Row {
    fn set(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.to_owned()));
        self
    }
    /// Instead of handing over.
    fn given(mut self, given: impl Fn(&Instance) + Send + Sync + 'static) -> Self {
        self.given = Box::new(given);
        self
    }
    /// Handed over, changed.
    fn document(self, change: impl Fn(&mut HandOver) + Send + Sync + 'static) -> Self {
        self.given(move |instance| {
            let mut document = instance.document();
            change(&mut document);
            instance.hand_over(&document);
        })
    }
    /// While the agent lives.
    fn act(mut self, act: impl Fn(&Instance, &mut Child) + Send + Sync + 'static) -> Self {
        self.act = Box::new(act);
        self
    }
    /// In the end, with the reports and the log.
    fn check(mut self, check: impl Fn(&Instance, &[AgentReport], &str) + Send + Sync + 'static) -> Self {
        self.check = Box::new(check);
        self
    }
    fn told(mut self, told: &[&'static str]) -> Self {
        self.told = told.to_vec();
        self
    }
    fn runner_code(mut self, code: i64) -> Self {
        self.runner_code = Some(code);
        self
    }
    fn error(mut self, error: &'static str) -> Self {
        self.error = Some(error);
        self
    }
    fn by(mut self, by: &'static str) -> Self {
        self.by = Some(by);
        self
    }
    fn ends(mut self, ends: Ends) -> Self {
        self.ends = ends;
        self
    }
}

/// Lives through a row; panics where it is not as it says.
fn live(row: &Row) {
    let mut instance = Instance::start(emulator::shared(), &row.script);
    let off = instance.machine.path("off");
    instance = instance.set("RUNS_FLEET_SHUTDOWN_COMMAND", &format!("touch {}", off.display()));
    for (name, value) in &row.env {
        let root = instance.machine.path("").to_str().unwrap().trim_end_matches('/').to_owned();
        instance = instance.set(name, &value.replace("$ROOT", &root));
    }
    (row.given)(&instance);

    let (status, starts) = unit(&instance, |agent| (row.act)(&instance, agent));
    let log = fs::read_to_string(instance.machine.path("agent.log")).unwrap();
    let context = |what: &str| format!("{}: {what}\n{log}", row.name);

    let reports = instance.reports();
    let told: Vec<&str> = reports.iter().map(|report| report.status.as_str()).collect();
    assert_eq!(told, row.told, "{}", context("reports"));
    let completions = reports.iter().filter(|report| report.status != AgentStatus::Started).count();
    assert!(completions <= 1, "{}", context("more than one completion"));
    if let Some(last) = reports.last() {
        let code = row.runner_code.unwrap_or(last.exit_code);
        assert_eq!(last.exit_code, code, "{}", context("runner's exit code"));
        let error = last.error.as_deref().unwrap_or_default();
        match row.error {
            Some(expected) => assert!(error.starts_with(expected), "{}", context(error)),
            None => assert_eq!(error, "", "{}", context("error")),
        }
        assert_eq!(last.interrupted_by.as_deref(), row.by, "{}", context("interrupted by"));
    }

    let terminated = ["shutting-down", "terminated"].contains(&instance.state().as_str());
    let found = match (terminated, off.exists(), status) {
        (true, false, Some(0)) => Ends::Terminated,
        (false, true, Some(0)) => Ends::PoweredOff,
        (false, false, Some(0)) => Ends::Spared,
        (_, _, _) if starts == STARTS => Ends::GivenUp,
        other => panic!("{}", context(&format!("the machine runs on: {other:?} after {starts} starts"))),
    };
    assert_eq!(found, row.ends, "{}", context("the end"));

    assert_nothing_is_left(&instance, &log, row.name);
    (row.check)(&instance, &reports, &log);
}

/// Does what the agent's unit does: starts it again until it ends well, or too often. The last exit code, and how often
/// it was started.
fn unit(instance: &Instance, act: impl Fn(&mut Child)) -> (Option<i32>, usize) {
    let mut agent = instance.machine.start();
    act(&mut agent);
    for starts in 1.. {
        let status = instance.machine.wait_only(&mut agent);
        if status.success() || starts == STARTS {
            return (status.code(), starts);
        }
        assert!(status.code().is_some() || status.signal() == Some(9), "{status}");
        agent = instance.machine.start();
    }
    unreachable!()
}

/// No secret, no file of the job, no process, wherever one looks.
fn assert_nothing_is_left(instance: &Instance, log: &str, name: &str) {
    let seen = |file: &str| fs::read_to_string(instance.machine.path("seen").join(file)).unwrap_or_default();
    for secret in SECRETS {
        assert!(!log.contains(secret), "{name}: {secret} is in the log\n{log}");
        for (path, content) in files(&instance.machine.path("machine")) {
            assert!(!content.contains(secret), "{name}: {} holds {secret}", path.display());
        }
        assert!(!seen("argv").contains(secret), "{name}: {secret} is an argument");
        assert!(secret == JIT || !seen("env").contains(secret), "{name}: {secret} reached the job");
    }
    for hidden in ["RUNS_FLEET_STATE", "AWS_ENDPOINT", "AWS_EC2", "RUNS_FLEET_SHUTDOWN"] {
        assert!(!seen("env").contains(hidden), "{name}: {hidden} reached the job");
    }
    let used = log.contains("\"event\":\"config_found\"");
    for gone in [".env", ".credentials", ".runner", "_work", "_diag"] {
        let path = instance.machine.path("machine/runner").join(gone);
        assert!(!used || fs::symlink_metadata(&path).is_err(), "{name}: {gone} is left\n{log}");
    }
    for entry in fs::read_dir(instance.machine.path("machine")).unwrap() {
        let entry = entry.unwrap().file_name();
        assert!(["runner", "state.json"].contains(&entry.to_str().unwrap()), "{name}: {entry:?} is left");
    }
    for entry in fs::read_dir(instance.machine.path("seen")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().contains("up") {
            let pid = fs::read_to_string(&path).unwrap();
            assert!(!runs(&pid), "{name}: {} runs on", path.display());
        }
    }
}

/// Lives through all rows, a few at a time; all that fail are told.
fn live_through(rows: &[Row]) {
    emulator::shared();
    // The name of one scenario runs it alone.
    let only = std::env::var("SCENARIO").ok();
    let rows = rows.iter().filter(|row| only.as_ref().is_none_or(|only| row.name == only)).collect::<Vec<_>>();
    let (next, failed) = (Mutex::new(rows.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(row) = next.lock().unwrap().next() else { return };
                    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| live(row))).is_err() {
                        failed.lock().unwrap().push(row.name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} scenarios failed: {failed:#?}", failed.len(), rows.len());
}

#[test]
fn whatever_the_runner_does() {
    live_through(&table::runner::rows());
}

#[test]
fn whatever_is_done_to_the_agent() {
    live_through(&table::signals::rows());
}

#[test]
fn whatever_aws_answers() {
    live_through(&table::cloud::rows());
}

#[test]
fn whenever_the_agent_dies() {
    live_through(&table::deaths::rows());
}

/// Not only at the phases that have a row: killed after any time, the agent's successor ends what was begun, once.
#[test]
fn whenever_exactly_the_agent_dies() {
    const MOMENTS: u64 = 40;
    const APART: Duration = Duration::from_millis(40);
    emulator::shared();
    let script = format!("mkdir -p _diag; echo w > _diag/Worker_1.log; sleep 0.2; {SERVE}; sleep 0.2");
    let (next, failed) = (Mutex::new(0..MOMENTS), Mutex::new(Vec::new()));
    let one = |moment: u32| {
        let instance = Instance::start(emulator::shared(), &script);
        instance.make_bucket(&instance.id);
        let mut document = instance.document();
        document.runner_logs_bucket.clone_from(&instance.id);
        instance.hand_over(&document);
        unit(&instance, |agent| {
            std::thread::sleep(APART * moment);
            Instance::kill(agent);
        });
        let log = fs::read_to_string(instance.machine.path("agent.log")).unwrap();
        let reports = instance.reports();
        let ended = reports.iter().filter(|report| report.status != AgentStatus::Started).count();
        assert_eq!((ended, instance.state().as_str()), (1, "terminated"), "{moment}: {reports:?}\n{log}");
        assert!(reports.len() <= 2, "{moment}: {reports:?}");
        assert_nothing_is_left(&instance, &log, "killed");
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(moment) = next.lock().unwrap().next() else { return };
                    let moment = u32::try_from(moment).unwrap();
                    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one(moment))).is_err() {
                        failed.lock().unwrap().push(moment);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "killed after so many times {APART:?}: {failed:?}");
}
