//! The real agent against stand-in runners: what it reports, what it ends, what it leaves.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these tests wait for real processes; what fails here fails the test"
)]

#[cfg(feature = "vault")]
mod in_vault;
#[allow(dead_code, reason = "shared with tests that need other parts of it")]
mod machine;
#[cfg(feature = "aws")]
mod on_ec2;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use domain::handover::{Credential, HandOver};
use machine::{JIT, KEY, Machine, TOKEN, document, files, runner_tree, runs, signal, until};
use rustix::process::Signal;

/// Output of a runner that serves one job.
const SERVE: &str = "echo '√ Connected'; echo 'now: Listening for Jobs'; echo 'now: Running job: build'
                     echo 'now: Job build completed with result: Succeeded'";

#[test]
fn a_job_from_a_tarball_is_served_and_nothing_secret_is_left() {
    let script = format!(
        "env > $FAKE_DIR/env; cat /proc/self/stat > $FAKE_DIR/stat
         for p in $$ $PPID; do tr '\\0' ' ' < /proc/$p/cmdline; done > $FAKE_DIR/argv
         stat -c %a .env > $FAKE_DIR/mode; umask > $FAKE_DIR/umask; pwd > $FAKE_DIR/pwd
         mkdir -p _work _diag; echo x > _work/x
         echo \"the secret is $ACTIONS_RUNNER_INPUT_JITCONFIG\"; echo $ACTIONS_RUNNER_INPUT_JITCONFIG > .credentials
         {SERVE}"
    );
    let machine = Machine::with_tarball(&script).set("RUNS_FLEET_RUNNER_VERSION", "2.330.0");
    let after = machine.run();
    assert_eq!((after.status.code(), after.told()), (Some(0), vec!["started", "success"]), "{}", after.log);

    let report = after.last();
    assert_eq!(report.instance_id.as_str(), KEY);
    assert_eq!(report.job_id.map(|id| id.get()), Some(7));
    assert_eq!((report.run_id.as_deref(), report.runner_version.as_deref()), (Some("70"), Some("2.330.0")));
    assert_eq!(report.token, Some(Credential::new(TOKEN)));
    assert_eq!(report.job_received, Some(true));
    assert!(report.started_at <= report.completed_at && report.sent_at_ms.is_some());
    assert!(after.reports[0].bootstrap.total.is_some());

    let state: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(machine.path("machine/state.json")).unwrap()).unwrap();
    assert_eq!(state["phase"], "finished");
    let started = report.started_at.unwrap().as_millisecond();
    let spawned = state["run_started_at_ms"].as_i64().unwrap();
    assert!((0..1_000).contains(&(started - spawned)), "{started} {spawned}");

    let env = machine.seen("env");
    assert!(env.contains(&format!("ACTIONS_RUNNER_INPUT_JITCONFIG={JIT}\n")));
    assert!(env.contains("RUNNER_ALLOW_RUNASROOT=1\n") && env.contains("FAKE_DIR="));
    for hidden in ["AWS_SECRET", "RUNS_FLEET_HANDOVER_DIR", "RUNS_FLEET_INSTANCE_ID", TOKEN] {
        assert!(!env.contains(hidden), "{hidden} reached the job");
    }
    assert!(!machine.seen("argv").contains(JIT));
    assert_eq!(machine.seen("mode").trim(), "600");
    assert_eq!(machine.seen("umask").trim(), "0022");
    assert_eq!(machine.seen("pwd").trim(), machine.path("machine/runner").to_str().unwrap());

    assert!(after.log.contains("[stdout] the secret is <redacted"), "{}", after.log);
    for secret in [JIT, TOKEN] {
        assert!(!after.log.contains(secret), "{secret} is in the log");
        for (path, content) in files(&machine.path("machine")) {
            assert!(!content.contains(secret), "{} holds a secret", path.display());
        }
    }
    assert!(!machine.path("machine/runner").exists(), "what the agent unpacked it removes");
    assert_eq!(files(&machine.path("machine")).len(), 1, "no staging, no download is left");
}

#[test]
fn a_baked_runner_stays_without_the_previous_and_the_present_job() {
    let machine = Machine::with_runner(&format!("ls -a > $FAKE_DIR/ls; mkdir -p _work; echo x > .runner; {SERVE}"));
    let runner = machine.path("machine/runner");
    fs::write(runner.join(".credentials"), "old").unwrap();
    fs::write(runner.join(".env"), "BAKED=1\n").unwrap();
    let after = machine.run();
    assert_eq!(after.told(), ["started", "success"], "{}", after.log);
    assert!(!machine.seen("ls").contains(".credentials"), "a configured directory cannot be configured");
    assert!(runner.join("run.sh").exists());
    for gone in [".runner", ".env", "_work"] {
        assert!(!runner.join(gone).exists(), "{gone}");
    }
}

#[test]
fn the_exit_of_the_runner_is_not_the_exit_of_the_agent() {
    let after = Machine::with_runner("exit 42").run();
    assert_eq!(after.status.code(), Some(0));
    assert_eq!(after.told(), ["failure"], "a runner that never listened never started");
    assert_eq!((after.last().exit_code, after.error()), (42, ""));

    let conflict = "echo 'Listening for Jobs'; echo 'Runner listener exit with Session Conflict error, stop'";
    let after = Machine::with_runner(conflict).run();
    assert_eq!((after.last().exit_code, after.error()), (5, "listener_error: session_conflict"));

    let after = Machine::with_runner("kill -9 $$").run();
    assert_eq!((after.last().exit_code, after.error()), (-1, "runner killed by signal 9"));
}

#[test]
fn a_signal_reaches_the_runner_and_its_answer_counts() {
    let machine = Machine::with_runner(
        "trap 'echo got it; exit 3' TERM; echo 'Listening for Jobs'; echo $$ > $FAKE_DIR/up
         while :; do sleep 0.05; done",
    );
    let agent = machine.start();
    machine.seen("up");
    signal(&agent, Signal::TERM);
    let after = machine.wait(agent);
    assert_eq!(after.status.code(), Some(0));
    assert_eq!(after.told(), ["started", "interrupted"]);
    let report = after.last();
    assert_eq!((report.exit_code, report.interrupted_by.as_deref()), (3, Some("terminated")));
    assert!(after.log.contains("got it"));
}

#[test]
fn a_runner_that_ignores_the_signal_is_killed_after_grace() {
    let machine = Machine::with_runner("trap '' TERM; echo $$ > $FAKE_DIR/up; while :; do sleep 0.05; done")
        .set("RUNS_FLEET_GRACEFUL_SHUTDOWN_SECONDS", "1");
    let agent = machine.start();
    let pid = machine.seen("up");
    signal(&agent, Signal::INT);
    let after = machine.wait(agent);
    let report = after.last();
    assert_eq!((report.status.as_str(), report.exit_code), ("interrupted", -1));
    assert_eq!((after.error(), report.interrupted_by.as_deref()), ("killed after timeout", Some("interrupt")));
    assert!(!runs(&pid));
}

#[test]
fn a_second_signal_kills_at_once() {
    let machine = Machine::with_runner("trap '' TERM; echo $$ > $FAKE_DIR/up; while :; do sleep 0.05; done")
        .set("RUNS_FLEET_GRACEFUL_SHUTDOWN_SECONDS", "3600");
    let agent = machine.start();
    machine.seen("up");
    signal(&agent, Signal::TERM);
    until("the stop", || {
        fs::read_to_string(machine.path("agent.log")).unwrap().contains("stop_requested").then_some(())
    });
    signal(&agent, Signal::TERM);
    assert_eq!(machine.wait(agent).error(), "killed after timeout");
}

#[test]
fn a_listener_that_outlives_its_script_is_waited_for() {
    // The script dies of the signal at once; its listener takes no notice and needs a moment to cancel the job.
    let machine = Machine::with_runner(
        "cp /bin/sleep ./Runner.Listener
         (trap '' TERM; exec ./Runner.Listener 1) & echo $! > $FAKE_DIR/listener; wait",
    );
    let agent = machine.start();
    let listener = machine.seen("listener");
    let comm = format!("/proc/{}/comm", listener.trim());
    until("the listener", || fs::read_to_string(&comm).ok().filter(|comm| comm == "Runner.Listener\n"));
    signal(&agent, Signal::TERM);
    let after = machine.wait(agent);
    assert!(!runs(&listener));
    let report = after.last();
    assert_eq!((report.status.as_str(), report.exit_code, after.error()), ("interrupted", -1, ""), "{}", after.log);
    assert!(report.duration_seconds >= 1, "the listener had its time");
}

#[test]
fn nothing_the_job_started_outlives_it() {
    // One grandchild holds standard output, one has left the session, one has left the environment as well.
    let machine = Machine::with_runner(&format!(
        "sleep 1000 & echo $! > $FAKE_DIR/holder
         setsid sh -c 'echo $$ > $FAKE_DIR/daemon; exec sleep 1000' > /dev/null 2>&1 < /dev/null &
         env -i sleep 1000 > /dev/null 2>&1 & echo $! > $FAKE_DIR/bare
         while [ ! -s $FAKE_DIR/daemon ]; do sleep 0.01; done
         {SERVE}"
    ));
    let after = machine.run();
    assert_eq!(after.told(), ["started", "success"]);
    for name in ["holder", "daemon", "bare"] {
        assert!(!runs(&machine.seen(name)), "{name} is alive");
    }
}

#[test]
fn floods_do_not_block_the_job() {
    let after = Machine::with_runner(&format!("head -c 10000000 /dev/zero | tr '\\0' x; echo; {SERVE}")).run();
    assert_eq!(after.told(), ["started", "success"]);
    assert!(after.log.lines().filter(|line| line.contains("[stdout] xxxx")).count() > 100);
    let after = Machine::with_runner(&format!("yes '' | head -n 20000 >&2; {SERVE}")).run();
    assert_eq!(after.told(), ["started", "success"]);
    assert_eq!(after.log.lines().filter(|line| line.contains("[stderr] ")).count(), 20_000, "no line is lost");
}

#[test]
fn the_runtime_ceiling_ends_the_job() {
    let machine =
        Machine::with_runner("echo 'Running job: x'; exec sleep 1000").set("RUNS_FLEET_MAX_RUNTIME_SECONDS", "1");
    let after = machine.run();
    assert_eq!(after.told(), ["started", "timeout"]);
    assert_eq!((after.last().exit_code, after.error()), (-1, "max runtime 1s exceeded"));
}

#[test]
fn a_runner_that_gets_no_job_is_given_up() {
    let idle = || {
        Machine::with_runner(
            "if [ -e busy ]; then mkdir _diag; echo x > _diag/Worker_1.log; fi
             echo 'Listening for Jobs'; if [ -e busy ]; then exec sleep 3; else exec sleep 1000; fi",
        )
        .set("RUNS_FLEET_JOB_PICKUP_TIMEOUT_SECONDS", "1")
    };
    let after = idle().run();
    assert_eq!(after.told(), ["started", "failure"]);
    assert!(after.error().starts_with("no_job_received: "), "{}", after.error());

    let busy = idle();
    fs::write(busy.path("machine/runner/busy"), "").unwrap();
    let after = busy.run();
    assert_eq!(after.told(), ["started", "success"], "the worker's log says that it has a job: {}", after.log);
    assert_eq!(after.last().job_received, Some(true));
}

#[test]
fn a_runner_that_cannot_be_had_is_a_failure() {
    let rows: [(Machine, &str); 5] = [
        (
            Machine::with_tarball(SERVE).set("RUNS_FLEET_RUNNER_SHA256", &"0".repeat(64)),
            "download_failed: checksum mismatch",
        ),
        (Machine::with_tarball(SERVE).set("RUNS_FLEET_RUNNER_SHA256", "abc"), "download_failed: checksum unavailable"),
        (
            Machine::with_tarball(SERVE).set("RUNS_FLEET_RUNNER_URL", "/nowhere"),
            "download_failed: /nowhere: No such file",
        ),
        (no_script(), "download_failed: "),
        (not_executable(), "download_failed: "),
    ];
    for (machine, error) in rows {
        let after = machine.run();
        assert_eq!((after.status.code(), after.told()), (Some(0), vec!["failure"]), "{error}: {}", after.log);
        assert!(after.error().starts_with(error), "{} is not {error}", after.error());
        assert_eq!((after.last().exit_code, after.last().duration_seconds), (-1, 0));
        assert!(!machine.path("machine/.runner.staging").exists());
    }
}

fn no_script() -> Machine {
    let machine = Machine::with_runner(SERVE);
    fs::remove_file(machine.path("machine/runner/run.sh")).unwrap();
    machine
}

fn not_executable() -> Machine {
    let machine = Machine::with_runner(SERVE);
    let listener = machine.path("machine/runner/bin/Runner.Listener");
    fs::set_permissions(listener, fs::Permissions::from_mode(0o644)).unwrap();
    machine
}

#[test]
fn without_work_nothing_is_said() {
    let after = Machine::bare().set("RUNS_FLEET_STANDBY_DEADLINE_SECONDS", "1").run();
    assert_eq!((after.status.code(), after.told().len()), (Some(0), 0), "{}", after.log);

    let machine = Machine::bare();
    machine.hand_over(&HandOver { instance_id: "i-other".to_owned(), ..document() });
    let agent = machine.start();
    until("standby", || fs::read_to_string(machine.path("agent.log")).ok()?.contains("config_stale").then_some(()));
    signal(&agent, Signal::TERM);
    let after = machine.wait(agent);
    assert_eq!((after.status.code(), after.told().len()), (Some(0), 0), "{}", after.log);
}

#[test]
fn an_unusable_hand_over_is_reported() {
    let machine = Machine::bare();
    fs::create_dir(machine.path("handovers")).unwrap();
    fs::write(machine.path(&format!("handovers/{KEY}.json")), format!("{{\"jit_config\": {JIT}")).unwrap();
    let after = machine.run();
    assert_eq!(after.told(), ["bootstrap_failed"]);
    assert!(after.error().starts_with("config_invalid: "));
    assert!(!after.log.contains(JIT), "{}", after.log);

    let machine = Machine::with_runner(SERVE);
    machine.hand_over(&HandOver { repo: "nonsense".to_owned(), ..document() });
    let after = machine.run();
    assert_eq!((after.told(), after.error()), (vec!["failure"], "config_invalid: repo must be owner/name"));

    let machine = Machine::with_runner(SERVE);
    machine.hand_over(&HandOver {
        jit_config: Credential::default(),
        jit_token: Credential::new("a-registration-token"),
        ..document()
    });
    let after = machine.run();
    assert!(after.error().starts_with("registration_failed: "), "{}", after.error());
}

#[test]
fn an_agent_that_was_killed_is_succeeded_by_one_that_reports_it() {
    let machine = Machine::with_runner("echo $$ > $FAKE_DIR/up; exec sleep 1000");
    let mut agent = machine.start();
    let pid = machine.seen("up");
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(runs(&pid), "nobody has ended it yet");

    let after = machine.run();
    assert_eq!((after.status.code(), after.told()), (Some(0), vec!["failure"]), "{}", after.log);
    assert!(after.error().starts_with("agent_restarted: "), "{}", after.error());
    assert_eq!(after.last().token, Some(Credential::new(TOKEN)));
    assert!(!runs(&pid));

    let again = machine.run();
    assert_eq!((again.status.code(), again.told().len()), (Some(0), 1), "exactly one completion");
}

#[test]
fn an_unwritable_state_directory_costs_only_the_recovery() {
    let machine = Machine::with_runner(SERVE);
    fs::write(machine.path("file"), "").unwrap();
    let below = machine.path("file/state");
    let after = machine.set("RUNS_FLEET_STATE_DIR", below.to_str().unwrap()).run();
    assert_eq!(after.told(), ["started", "success"]);
    assert!(after.log.contains("state_unavailable"));
}

#[test]
fn a_job_runs_without_a_way_to_report_and_an_agent_without_identity_does_not_run() {
    let after = Machine::with_runner(SERVE).set("RUNS_FLEET_REPORT_SPOOL", "").run();
    assert_eq!((after.status.code(), after.told().len()), (Some(0), 0));
    assert!(after.log.contains("telemetry_skipped"));

    let after = Machine::with_runner(SERVE).set("RUNS_FLEET_INSTANCE_ID", "").run();
    assert_eq!(after.status.code(), Some(1));
    assert!(after.log.contains("RUNS_FLEET_INSTANCE_ID is not set"));
}

#[test]
fn an_interrupted_unpacking_leaves_nothing_half_done() {
    let machine = Machine::with_tarball(SERVE);
    // Something that is no runner lies where the runner belongs.
    runner_tree(&machine.path("machine/runner"), SERVE);
    fs::remove_file(machine.path("machine/runner/bin/Runner.Listener")).unwrap();
    fs::create_dir(machine.path("machine/.runner.staging")).unwrap();
    fs::write(machine.path("machine/.runner.staging/leftover"), "").unwrap();
    let after = machine.run();
    assert_eq!(after.told(), ["started", "success"], "{}", after.log);
    assert!(!machine.path("machine/.runner.staging").exists());
}

#[test]
fn a_pod_says_how_it_went_by_its_exit_and_its_last_word() {
    let pod = |script: &str, credential: bool| {
        let machine = Machine::bare();
        runner_tree(&machine.path("machine/runner"), script);
        for dir in ["config", "secrets"] {
            fs::create_dir(machine.path(dir)).unwrap();
        }
        fs::write(machine.path("config/repo"), "o/r\n").unwrap();
        fs::write(machine.path("config/job_id"), "7").unwrap();
        fs::write(machine.path("secrets/telemetry_token"), TOKEN).unwrap();
        if credential {
            fs::write(machine.path("secrets/jit_config"), JIT).unwrap();
        }
        let text = |name: &str| machine.path(name).to_str().unwrap().to_owned();
        let (config, secrets, word) = (text("config"), text("secrets"), text("last-word"));
        machine
            .set("RUNS_FLEET_BACKEND", "k8s")
            .set("RUNS_FLEET_K8S_CONFIG_DIR", &config)
            .set("RUNS_FLEET_K8S_SECRET_DIR", &secrets)
            .set("RUNS_FLEET_TERMINATION_LOG", &word)
    };
    let rows = [
        (SERVE, true, 0, "success"),
        ("exit 7", true, 7, "failure"),
        ("exit 42", true, 42, "failure"),
        ("kill -9 $$", true, 1, "failure"),
        ("kill -TERM $PPID; exec sleep 1000", true, 75, "interrupted"),
        (SERVE, false, 64, "bootstrap_failed"),
    ];
    for (script, credential, code, status) in rows {
        let machine = pod(script, credential);
        let after = machine.run();
        assert_eq!(after.status.code(), Some(code), "{script}: {}", after.log);
        let word = fs::read_to_string(machine.path("last-word")).unwrap();
        assert!(word.contains(&format!("\"status\":\"{status}\"")), "{script}: {word}");
        assert!(!word.contains(TOKEN) && !word.contains(JIT), "{word}");
        assert!(!machine.path("machine/state.json").exists());
        assert!(!machine.path("machine/runner/.env").exists());
    }
}
