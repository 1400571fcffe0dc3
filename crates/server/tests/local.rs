//! `local` from end to end: the real orchestrator and the real agent as processes, a GitHub that behaves like GitHub.

#![cfg(feature = "local")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::disallowed_methods, reason = "tests, against a real clock")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use support::{
    Process, children, connect, eventually, files, free_port, get, machine_processes, machines, program, request, run,
    signal, text, variable,
};
use tempfile::TempDir;

/// One run at a time: how many machines a run needs says something only while it has this one to itself.
static ALONE: Mutex<()> = Mutex::new(());

/// A run under way, in a directory that is removed with it.
struct Local {
    // Dropped in this order: the process still writes to the directory.
    process: Process,
    dir: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Drop for Local {
    /// What failed is kept: a run is not the same twice.
    #[allow(clippy::print_stderr, reason = "tests")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!("logs and stores are in {}", self.dir().display());
        }
    }
}

impl Local {
    fn start(arguments: &[&str]) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().expect("a directory");
        let process = Process::start(
            program()
                .arg("local")
                .args(["--json", "--port", &free_port().to_string(), "--dir"])
                .arg(dir.path())
                .args(arguments)
                .stdout(Stdio::piped())
                .stderr(Stdio::null()),
        );
        Self { process, dir, _alone: alone }
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The orchestrator: what this process started.
    fn orchestrator(&self) -> u32 {
        eventually("an orchestrator runs", Duration::from_secs(30), || children(self.process.pid()).pop())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir().join("orchestrator.log")).unwrap_or_default()
    }

    fn started_machines(&self) -> usize {
        let started = |machine: &&std::path::PathBuf| {
            let record = fs::read(machine.join("machine.json")).unwrap_or_default();
            serde_json::from_slice::<Value>(&record).is_ok_and(|record| record["process"].is_object())
        };
        machines(self.dir()).iter().filter(started).count()
    }

    /// Its exit code and the object it printed.
    fn finish(&mut self, limit: Duration) -> (Option<i32>, Value) {
        let status = self.process.wait(limit);
        let output = self.process.output();
        let mut lines = output.lines();
        let report = lines.next().and_then(|line| serde_json::from_str(line).ok());
        let report = report.unwrap_or_else(|| panic!("no JSON object: {status} {output:?}\n{}", self.log()));
        assert_eq!(lines.next(), None, "one object and nothing else");
        (status.code(), report)
    }

    /// Nothing of the run is left but its directory.
    fn assert_clean(&self) {
        assert_eq!(machine_processes(self.dir()), [""; 0], "processes of its machines still run");
        assert_eq!(files(&self.dir().join("hand-over")), [""; 0].map(std::path::PathBuf::from), "hand-overs are left");
        assert_eq!(files(&self.dir().join("reports")).iter().filter(|f| f.is_file()).count(), 0, "reports are left");
    }
}

fn number(report: &Value, key: &str) -> i64 {
    report[key].as_i64().unwrap_or_else(|| panic!("{key} is a whole number: {report}"))
}

#[test]
fn every_job_is_done_once_and_nothing_stays_behind() {
    let mut stolen = 0;
    for seed in ["1", "2"] {
        let mut local = Local::start(&["--jobs", "40", "--parallel", "8", "--exit-when-done", "--seed", seed]);
        let secrets = watch_secrets(&mut local);
        let (code, report) = local.finish(Duration::from_secs(60));
        assert_eq!(code, Some(0), "{report}");
        for (key, expected) in [
            ("jobs", 40),
            ("completed", 40),
            ("lost", 0),
            ("failed", 0),
            ("not_rerun", 0),
            ("launches", 40),
            ("duplicate_runners", 0),
            ("unsettled_records", 0),
        ] {
            assert_eq!(number(&report, key), expected, "{key}: {report}");
        }
        stolen += number(&report, "stolen");
        for (median, tail) in [("overhead_ms_p50", "overhead_ms_p99"), ("start_ms_p50", "start_ms_p99")] {
            assert!((0..=number(&report, tail)).contains(&number(&report, median)), "{median}: {report}");
        }
        local.assert_clean();
        assert_eq!(machines(local.dir()).len(), 40);
        assert_no_secret(&local, &secrets);
        assert_why_tells_the_story(&local);
    }
    assert!(stolen > 0, "in two runs some runner took a job it was not launched for");
}

/// Collects what must stay secret while the run is under way: afterwards most of it is gone.
fn watch_secrets(local: &mut Local) -> BTreeSet<String> {
    let orchestrator = local.orchestrator();
    let mut secrets = BTreeSet::new();
    let webhook = eventually("the orchestrator has its variables", Duration::from_secs(10), || {
        variable(orchestrator, "RUNS_FLEET_GITHUB_WEBHOOK_SECRET")
    });
    secrets.insert(webhook);
    // The body of the key, line by line.
    let key = variable(orchestrator, "RUNS_FLEET_GITHUB_APP_PRIVATE_KEY").expect("it has a key");
    secrets.extend(key.lines().filter(|line| !line.contains("-----")).map(str::to_owned));
    let mut seen = 0;
    while local.process.ended().is_none() {
        for file in files(&local.dir().join("hand-over")) {
            let Ok(document) = fs::read(file) else { continue };
            let Ok(document) = serde_json::from_slice::<Value>(&document) else { continue };
            if let Some(config) = document["jit_config"].as_str() {
                seen += 1;
                secrets.insert(config.to_owned());
            }
        }
        for line in support::command_lines() {
            assert!(!secrets.iter().any(|secret| line.contains(secret)), "a secret is on a command line");
        }
        sleep(Duration::from_millis(5));
    }
    assert!(seen > 0, "hand-overs were seen passing");
    secrets
}

/// Neither logs nor what is written about machines hold anything that opens a door.
fn assert_no_secret(local: &Local, secrets: &BTreeSet<String>) {
    let mut read = vec![local.dir().join("orchestrator.log")];
    read.extend(machines(local.dir()).iter().flat_map(|machine| files(machine)).filter(|file| file.is_file()));
    assert!(read.iter().filter(|file| file.ends_with("agent.log")).count() == 40, "{read:?}");
    for file in read {
        let content = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        assert!(!content.is_empty(), "{}", file.display());
        for secret in secrets {
            assert!(!content.contains(secret), "{} holds a secret", file.display());
        }
        for token in ["ghs_", "Bearer "] {
            assert!(!content.contains(token), "{} holds a token", file.display());
        }
    }
}

/// `why`, asked after the run about a job that a machine was launched for.
fn assert_why_tells_the_story(local: &Local) {
    let machine = fs::read(machines(local.dir())[0].join("machine.json")).unwrap();
    let job = serde_json::from_slice::<Value>(&machine).unwrap()["job"].to_string();
    let output = run(program().args(["why", &job, "--dir"]).arg(local.dir()));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let story = text(&output);
    assert!(story.lines().next().unwrap().starts_with("Over: "), "one sentence first: {story}");
    assert!(story.contains("webhook_received") && story.contains("job_started"), "then its timeline: {story}");
    let output = run(program().args(["why", &job, "--json", "--dir"]).arg(local.dir()));
    let story: Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!((story["job_id"].to_string(), story["status"].as_str()), (job, Some("success")), "{story}");
    let at: Vec<_> = story["timeline"].as_array().unwrap().iter().map(|m| m["at_ms"].as_i64().unwrap()).collect();
    assert!(at.len() >= 4, "its way can be followed: {story}");
    let names: BTreeSet<_> = story["timeline"].as_array().unwrap().iter().map(|m| m["name"].to_string()).collect();
    assert_eq!(names.len(), at.len(), "each milestone once: {story}");

    let output = run(program().args(["why", "1", "--dir"]).arg(local.dir()));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("unknown"), "{}", text(&output));
}

#[test]
fn a_killed_orchestrator_loses_nothing() {
    let mut local = Local::start(&["--jobs", "30", "--parallel", "6", "--exit-when-done"]);
    for kills in 1..=2 {
        let before = local.orchestrator();
        eventually("jobs are under way", Duration::from_secs(60), || {
            (local.started_machines() >= 8 * kills).then_some(())
        });
        signal(before, "KILL");
        let after = || Some(local.orchestrator()).filter(|after| *after != before);
        eventually("another orchestrator is started", Duration::from_secs(30), after);
    }
    let (code, report) = local.finish(Duration::from_secs(120));
    assert_eq!(code, Some(0), "{report}");
    for (key, expected) in [("completed", 30), ("lost", 0), ("not_rerun", 0), ("unsettled_records", 0)] {
        assert_eq!(number(&report, key), expected, "{key}: {report}");
    }
    local.assert_clean();
}

#[test]
fn chaos_ends_with_every_job_done_or_rerun() {
    let mut local = Local::start(&["--chaos", "--jobs", "30", "--parallel", "8", "--exit-when-done", "--seed", "3"]);
    let (code, report) = local.finish(Duration::from_secs(150));
    assert_eq!(code, Some(0), "{report}");
    for key in ["lost", "not_rerun", "unsettled_records"] {
        assert_eq!(number(&report, key), 0, "{key}: {report}");
    }
    assert_eq!(number(&report, "completed") + number(&report, "failed"), 30, "{report}");
    assert!(number(&report, "orchestrator_kills") + number(&report, "machine_kills") > 0, "it was chaos: {report}");
    local.assert_clean();
}

#[test]
fn a_signal_ends_everything_in_order() {
    // Ctrl-C, a service manager, a terminal that is closed.
    for name in ["INT", "TERM", "HUP"] {
        let mut local = Local::start(&["--parallel", "4"]);
        let orchestrator = local.orchestrator();
        eventually("jobs run", Duration::from_secs(30), || (local.started_machines() >= 3).then_some(()));
        assert!(!machine_processes(local.dir()).is_empty(), "agents carry the marker");
        signal(local.process.pid(), name);
        assert_eq!(local.process.wait(Duration::from_secs(30)).code(), Some(0), "{name}");
        assert_eq!(machine_processes(local.dir()), [""; 0], "machines end with the run");
        assert!(!Path::new(&format!("/proc/{orchestrator}")).exists(), "the orchestrator ends first");
        assert!(local.log().contains("server_stopped"), "in order: {}", local.log());
    }
}

#[test]
fn a_cache_is_there_only_when_it_is_asked_for() {
    for (arguments, status) in [(&["--parallel", "1"][..], 404), (&["--parallel", "1", "--cache"], 200)] {
        let local = Local::start(arguments);
        let address = eventually("the orchestrator serves", Duration::from_secs(30), || {
            let address = variable(local.orchestrator(), "RUNS_FLEET_LISTEN_ADDR")?.parse().ok()?;
            connect(address).is_ok().then_some(address)
        });
        let lookup = r#"{"key":"k","version":"v"}"#;
        let head = format!(
            "POST /twirp/github.actions.results.api.v1.CacheService/GetCacheEntryDownloadURL HTTP/1.1\r\n\
             Content-Length: {}",
            lookup.len()
        );
        let answer = request(address, &head, lookup.as_bytes()).expect("an answer");
        assert_eq!((answer.status, answer.body.contains(r#""ok":false"#)), (status, status == 200), "{}", answer.body);
        assert_eq!(get(address, "/api/cache/stats").status, status);
        assert_eq!(
            get(address, "/_apis/artifactcache/cache?keys=k&version=v").status,
            if status == 200 { 204 } else { 404 }
        );
        assert_eq!(get(address, "/api/status").status, 200);
        let store = local.dir().join("cache");
        assert_eq!(store.is_dir(), status == 200);
    }
}

#[test]
fn a_run_without_a_directory_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let port = free_port().to_string();
    let output = run(program()
        .args(["local", "--jobs", "3", "--parallel", "3", "--exit-when-done", "--port", &port])
        .env("TMPDIR", temporary.path()));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("3 jobs in "), "{}", text(&output));
    assert!(text(&output).contains(&format!("http://127.0.0.1:{port}/admin/")), "{}", text(&output));
    assert_eq!(files(temporary.path()), [""; 0].map(std::path::PathBuf::from));
}

#[test]
fn what_is_wrong_with_the_configuration_is_said_in_the_terminal() {
    let key = support::PRIVATE_KEY;
    for (key, missing) in [("-----BEGIN GARBAGE", "_GITHUB_APP_PRIVATE_KEY"), (key, "_GITHUB_WEBHOOK_SECRET")] {
        let dir = tempfile::tempdir().unwrap();
        let output = run(program()
            .args(["local", "--port", &free_port().to_string(), "--dir"])
            .arg(dir.path())
            .env("RUNS_FLEET_RUNNER_URL", "http://127.0.0.1:9/runner.tar.gz")
            .env("RUNS_FLEET_RUNNER_SHA256", "0".repeat(64))
            .env("RUNS_FLEET_GITHUB_APP_ID", "12")
            .env("RUNS_FLEET_GITHUB_APP_PRIVATE_KEY", key));
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(missing), "{missing}: {}", text(&output));
        assert!(!text(&output).contains("-----BEGIN"), "{}", text(&output));
    }
}

#[test]
fn half_a_hand_over_does_not_outlive_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join("hand-over").join(".new-1-2-i-00000000000000000.json");
    fs::create_dir(left.parent().unwrap()).unwrap();
    fs::write(&left, "half a credential").unwrap();
    let output = run(program()
        .args(["local", "--jobs", "1", "--exit-when-done", "--port", &free_port().to_string(), "--dir"])
        .arg(dir.path()));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(!left.exists());
}

#[test]
fn a_taken_port_is_said_at_once() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = tempfile::tempdir().unwrap();
    let output = run(program().args(["local", "--jobs", "1", "--port", &port, "--dir"]).arg(dir.path()));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains(&port) && text(&output).contains("--port"), "{}", text(&output));
}
