//! The agent's death at every phase, by SIGKILL or with its machine. Its unit starts it again.

use std::fs;
use std::time::Duration;

use domain::handover::Credential;

use crate::cloud::Instance;
use crate::cloud::weather::Fault::Late;
use crate::machine::program;
use crate::{HANG, REGISTRATION, Row, SERVE, row};

const LONG: Duration = Duration::from_secs(2);

/// Killed once the agent has logged this.
fn killed_at(name: &'static str, script: &str, word: &'static str) -> Row {
    row(name, script).act(move |instance, agent| {
        instance.logged(word);
        Instance::kill(agent);
    })
}

/// The job succeeds, and the agent is killed when it has called `service` `calls` times and has no answer.
fn killed_in(name: &'static str, service: &'static str, calls: usize) -> Row {
    row(name, &format!("mkdir -p _diag; echo w > _diag/Worker_1.log; {SERVE}"))
        .given(move |instance| {
            instance.make_bucket(&instance.id);
            let mut document = instance.document();
            document.runner_logs_bucket.clone_from(&instance.id);
            instance.hand_over(&document);
            instance.weather.always(service, Late(LONG));
        })
        .act(move |instance, agent| {
            instance.called(service, calls);
            // Time for the call to have its effect.
            std::thread::sleep(Duration::from_millis(300));
            Instance::kill(agent);
            instance.weather.clear();
        })
}

/// A machine with this state file, and a hand-over.
fn found(name: &'static str, state: &'static str) -> Row {
    row(name, SERVE)
        .set("RUNS_FLEET_PROC_ROOT", "$ROOT/proc")
        .given(move |instance| {
            let proc = instance.machine.path("proc");
            fs::create_dir_all(proc.join("sys/kernel/random")).unwrap();
            fs::write(proc.join("sys/kernel/random/boot_id"), "this-boot\n").unwrap();
            fs::write(proc.join("uptime"), "100.00 1.00\n").unwrap();
            let ago = |seconds| domain::clock::Timestamp::now() - domain::clock::SignedDuration::from_secs(seconds);
            let state = state
                .replace("$QUEUE", &instance.queue_url)
                .replace("$RECENT", &ago(130).to_string())
                .replace("$LONG_AGO", &ago(4_000).to_string());
            fs::write(instance.machine.path("machine/state.json"), state).unwrap();
        })
        .told(&["failure"])
        .runner_code(-1)
}

pub(crate) fn rows() -> Vec<Row> {
    let restarted = |row: Row| row.told(&["failure"]).runner_code(-1).error("agent_restarted: ");
    vec![
        row("killed before anything", SERVE).act(|_, agent| Instance::kill(agent)),
        killed_at("killed while waiting", SERVE, "agent_start"),
        row("killed while nobody came", SERVE).given(|_| {}).act(|instance, agent| {
            instance.called("ssm", 1);
            Instance::kill(agent);
            instance.hand_over(&instance.document());
        }),
        restarted(row("killed while registering", SERVE).given(|instance| {
            program(&instance.machine.path("machine/runner/config.sh"), "echo $$ > $FAKE_DIR/up; exec sleep 1000");
            let mut document = instance.document();
            document.jit_config = Credential::default();
            document.jit_token = Credential::new(REGISTRATION);
            instance.hand_over(&document);
        }))
        .act(|instance, agent| {
            instance.machine.seen("up");
            Instance::kill(agent);
        }),
        restarted(killed_at("killed at the spawn", "echo $$ > $FAKE_DIR/up; exec sleep 1000", "config_found")),
        row("killed while running", HANG)
            .act(|instance, agent| {
                instance.machine.seen("up");
                instance.logged("telemetry_sent");
                Instance::kill(agent);
            })
            .told(&["started", "failure"])
            .error("agent_restarted: "),
        row("killed while stopping", &format!("trap '' TERM; {HANG}"))
            .act(|instance, agent| {
                instance.machine.seen("up");
                instance.logged("telemetry_sent");
                crate::machine::signal(agent, rustix::process::Signal::TERM);
                instance.logged("stop_requested");
                Instance::kill(agent);
            })
            .told(&["started", "failure"])
            .error("agent_restarted: "),
        row("killed by its job", "echo 'Listening for Jobs'; sleep 0.2; kill -9 $PPID; echo $$ > $FAKE_DIR/up; exec sleep 1000")
            .told(&["started", "failure"])
            .error("agent_restarted: "),
        killed_in("killed while keeping logs", "s3", 1),
        killed_in("killed while reporting the start", "sqs", 1),
        killed_in("killed while reporting the end", "sqs", 2),
        killed_in("killed while ending the machine", "ec2", 1),
        row("killed twice", HANG)
            .act(|instance, agent| {
                instance.machine.seen("up");
                instance.logged("telemetry_sent");
                instance.weather.next("sqs", &[Late(LONG)]);
                Instance::kill(agent);
                let mut second = instance.machine.start();
                instance.called("sqs", 2);
                std::thread::sleep(Duration::from_millis(300));
                Instance::kill(&mut second);
            })
            .told(&["started", "failure"])
            .error("agent_restarted: "),
        found(
            "the job restarted its machine",
            r#"{"phase":"running","boot_id":"another","job_id":"7","run_id":"70","queue_url":"$QUEUE","heartbeat_at":"$RECENT"}"#,
        )
        .error("instance_rebooted: "),
        found(
            "the machine was stopped during a job, and is wanted again",
            r#"{"phase":"running","boot_id":"another","job_id":"6","queue_url":"$QUEUE","heartbeat_at":"$LONG_AGO"}"#,
        )
        .act(|instance, _| instance.hand_over(&instance.document()))
        .error("instance_tainted: ")
        .check(|_, reports, _| assert_eq!(reports[0].job_id.map(|id| id.get()), Some(7), "not the old job")),
        found(
            "the machine was stopped during a job, and nobody wants it",
            r#"{"phase":"running","boot_id":"another","job_id":"6","queue_url":"$QUEUE","heartbeat_at":"$LONG_AGO"}"#,
        )
        .set("RUNS_FLEET_STANDBY_DEADLINE_SECONDS", "1")
        .told(&[]),
        found(
            "the machine was stopped before the job",
            r#"{"phase":"claimed","boot_id":"another","job_id":"6","queue_url":"$QUEUE","heartbeat_at":"$LONG_AGO"}"#,
        )
        .act(|instance, _| instance.hand_over(&instance.document()))
        .told(&["started", "success"])
        .runner_code(0),
        found("everything was done", r#"{"phase":"finished","boot_id":"another","job_id":"6"}"#).told(&[]),
        found("a broken state file", "{\"phase\":")
            .act(|instance, _| instance.hand_over(&instance.document()))
            .error("instance_tainted: "),
        found(
            "a report that was decided",
            r#"{"phase":"finishing","boot_id":"this-boot","job_id":"7","queue_url":"$QUEUE",
                "completion":"{\"instance_id\":\"i-x\",\"job_id\":\"7\",\"status\":\"success\",\"exit_code\":0}"}"#,
        )
        .told(&["success"])
        .runner_code(0),
        row("no room for the state", SERVE).set("RUNS_FLEET_STATE_DIR", "/proc/nowhere"),
    ]
}
