//! What a runner may do.

use std::fs;

use domain::handover::Credential;

use crate::cloud::http;
use crate::machine::{runner_tree, tarball};
use crate::{HANG, REGISTRATION, Row, SERVE, row};

/// A runner that registers by `config` and then serves.
fn registering(name: &'static str, config: &'static str) -> Row {
    row(name, SERVE).given(move |instance| {
        let runner = instance.machine.path("machine/runner");
        if !config.is_empty() {
            crate::machine::program(&runner.join("config.sh"), config);
        }
        let mut document = instance.document();
        document.jit_config = Credential::default();
        document.jit_token = Credential::new(REGISTRATION);
        document.labels = vec!["self-hosted".to_owned(), "runs-fleet=7".to_owned()];
        instance.hand_over(&document);
    })
}

/// A server that describes a release, and has its tarball.
fn releases(instance: &crate::cloud::Instance, digest: Option<&str>) -> String {
    let (packed, sha256) = tarball(&instance.machine, SERVE);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let digest = digest.map_or(format!("sha256:{sha256}"), str::to_owned);
    let release = serde_json::json!({"tag_name": "v2.999.0", "assets": [{
        "name": format!("actions-runner-linux-{architecture}-2.999.0.tar.gz"),
        "browser_download_url": format!("{base}/runner.tar.gz"), "digest": digest,
    }]});
    http::serve(listener, move |mut stream| {
        use std::io::Write;
        let Some(request) = http::read(&mut stream) else { return };
        if request.path() == "/latest" {
            return http::answer(&mut stream, 200, &release.to_string());
        }
        let head = format!("HTTP/1.1 200 X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", packed.len());
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(&packed);
    });
    format!("{base}/latest")
}

/// A machine whose image has no runner, and a hand-over.
fn bare(name: &'static str, digest: Option<&'static str>) -> Row {
    row(name, SERVE).given(move |instance| {
        fs::remove_dir_all(instance.machine.path("machine/runner")).unwrap();
        let url = releases(instance, digest);
        instance.machine.set_later("RUNS_FLEET_RUNNER_RELEASES_URL", &url);
        instance.hand_over(&instance.document());
    })
}

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row("a job is served", SERVE).runner_code(0).check(|_, reports, _| {
            assert_eq!(reports[1].job_received, Some(true));
            assert_eq!(reports[1].log_upload.as_deref(), Some("disabled"));
            let bootstrap = reports[0].bootstrap;
            assert!(bootstrap.boot.is_some() && bootstrap.config.is_some() && bootstrap.total.is_some());
        }),
        row("a runner that says nothing", "exit 0").runner_code(0),
        row("a red workflow", "echo 'Listening for Jobs'; echo 'Job x completed with result: Failed'"),
        row("an early exit", "exit 42").told(&["failure"]).runner_code(42),
        row("a deprecated runner", "exit 7").told(&["failure"]).runner_code(7).error("runner_version_deprecated"),
        row("killed", "kill -9 $$").told(&["failure"]).runner_code(-1).error("runner killed by signal 9"),
        row("crashed", "kill -SEGV $$").told(&["failure"]).runner_code(-1).error("runner killed by signal 11"),
        row("a session conflict", "echo 'Runner listener exit with Session Conflict error, stop'")
            .told(&["failure"])
            .runner_code(5)
            .error("listener_error: session_conflict"),
        row("a terminated listener", "echo 'Runner listener exit with terminated error, stop'")
            .told(&["failure"])
            .runner_code(1)
            .error("listener_error: terminated"),
        row("an unknown listener error", "echo 'Exiting with unknown error code: 3'")
            .told(&["failure"])
            .runner_code(3)
            .error("listener_error: code 3"),
        row("an error behind the job", &format!("{SERVE}; echo 'Exiting with unknown error code: 3'")),
        row("a line of 10 MB", &format!("head -c 10000000 /dev/zero | tr '\\0' x; echo; {SERVE}")),
        row("many lines", &format!("yes 'a line of output' | head -n 20000; {SERVE}")),
        row("no text", &format!("head -c 100000 /dev/urandom; echo; {SERVE}")),
        row("secrets on its output", &format!("echo $ACTIONS_RUNNER_INPUT_JITCONFIG; env >&2; {SERVE}")),
        row("an orphan that holds the output", &format!("sleep 1000 & echo $! > $FAKE_DIR/up; {SERVE}")),
        row(
            "an orphan of another session",
            &format!("setsid sh -c 'echo $$ > $FAKE_DIR/up; exec sleep 1000' < /dev/null > /dev/null 2>&1 & sleep 0.1; {SERVE}"),
        ),
        row(
            "forks without end",
            &format!("for i in 1 2 3 4 5 6 7 8; do (while :; do sleep 0.01; done) > /dev/null 2>&1 & echo $! > $FAKE_DIR/up$i; done; {SERVE}"),
        ),
        row("credentials and links on the disk", &format!(
            "echo $ACTIONS_RUNNER_INPUT_JITCONFIG > .credentials; echo x > .runner; mkdir -p _diag; ln -s / _work; {SERVE}"
        ))
        .check(|_, _, _| assert!(fs::read_dir("/").unwrap().count() > 5)),
        row("no script", SERVE)
            .set("RUNS_FLEET_RUNNER_RELEASES_URL", "http://127.0.0.1:9")
            .given(|instance| {
                fs::remove_file(instance.machine.path("machine/runner/run.sh")).unwrap();
                instance.hand_over(&instance.document());
            })
            .told(&["failure"])
            .runner_code(-1)
            .error("download_failed: "),
        row("a script that cannot run", SERVE)
            .given(|instance| {
                fs::write(instance.machine.path("machine/runner/run.sh"), "#!/nowhere/sh\n").unwrap();
                instance.hand_over(&instance.document());
            })
            .told(&["failure"])
            .runner_code(127),
        row("idle", "echo 'Listening for Jobs'; echo $$ > $FAKE_DIR/up; exec sleep 1000")
            .set("RUNS_FLEET_JOB_PICKUP_TIMEOUT_SECONDS", "1")
            .told(&["started", "failure"])
            .runner_code(-1)
            .error("no_job_received: "),
        row("in a retry loop", "echo 'Restarting runner...'; echo $$ > $FAKE_DIR/up; exec sleep 1000")
            .document(|document| document.idle_exit_seconds = Some(1))
            .told(&["failure"])
            .runner_code(-1)
            .error("no_job_received: "),
        row("too long", HANG)
            .set("RUNS_FLEET_MAX_RUNTIME_SECONDS", "1")
            .told(&["started", "timeout"])
            .runner_code(-1)
            .error("max runtime 1s exceeded"),
        row("too long, and deaf", &format!("trap '' TERM; {HANG}"))
            .set("RUNS_FLEET_MAX_RUNTIME_SECONDS", "1")
            .set("RUNS_FLEET_GRACEFUL_SHUTDOWN_SECONDS", "1")
            .told(&["started", "timeout"])
            .runner_code(-1)
            .error("max runtime 1s exceeded"),
        row("a tool that the image lacked", &format!(
            "mkdir -p $AGENT_TOOLSDIRECTORY/Go/1.26.0; : > $AGENT_TOOLSDIRECTORY/Go/1.26.0/x64.complete; {SERVE}"
        ))
        .set("AGENT_TOOLSDIRECTORY", "$ROOT/seen")
        .check(|_, reports, _| assert_eq!(reports[1].tool_cache_misses, ["Go/1.26.0/x64"])),
        registering(
            "config.sh",
            "echo \"$@\" > $FAKE_DIR/config; tr '\\0' ' ' < /proc/$$/cmdline > $FAKE_DIR/config.argv
             [ -n \"$ACTIONS_RUNNER_INPUT_TOKEN\" ] || exit 9; echo \"got $ACTIONS_RUNNER_INPUT_TOKEN\"; echo x > .runner",
        )
        .check(|instance, _, _| {
            let given = instance.machine.seen("config");
            assert_eq!(
                given.trim(),
                "--unattended --ephemeral --url https://github.com/o/r --no-default-labels \
                 --labels self-hosted,runs-fleet=7 --name r --replace"
            );
            assert!(!instance.machine.seen("config.argv").contains(REGISTRATION));
            assert!(!instance.machine.seen("env").contains("ACTIONS_RUNNER_INPUT"), "only one process had it");
        }),
        registering("config.sh fails once", "[ -e .tried ] || { : > .tried; echo 'network error'; exit 1; }"),
        registering("config.sh is refused", "echo x >> $FAKE_DIR/tries; echo 'Http response code: 404'; exit 1")
            .told(&["failure"])
            .runner_code(-1)
            .error("registration_failed: Http response code: 404")
            .check(|instance, _, _| assert_eq!(instance.machine.seen("tries").lines().count(), 1)),
        registering("config.sh never works", "echo x >> $FAKE_DIR/tries; echo 'no route'; exit 1")
            .told(&["failure"])
            .error("registration_failed: no route")
            .check(|instance, _, _| assert_eq!(instance.machine.seen("tries").lines().count(), 3)),
        registering("config.sh is missing", "").told(&["failure"]).error("registration_failed: config.sh not found"),
        row("both credentials", SERVE)
            .given(|instance| {
                let config = instance.machine.path("machine/runner/config.sh");
                crate::machine::program(&config, "echo ran > $FAKE_DIR/config");
                let mut document = instance.document();
                document.jit_token = Credential::new(REGISTRATION);
                instance.hand_over(&document);
            })
            .check(|instance, _, _| assert!(!instance.machine.path("seen/config").exists())),
        bare("the latest release", None).check(|_, reports, _| {
            assert_eq!(reports[1].runner_version.as_deref(), Some("2.999.0"));
        }),
        bare("a release without a checksum", Some("")).told(&["failure"]).error("download_failed: checksum unavailable"),
        bare("a release that was tampered with", Some(concat!("sha256:", "0000000000000000000000000000000000000000000000000000000000000000")))
            .told(&["failure"])
            .error("download_failed: checksum mismatch"),
        row("leftovers of another runner", &format!("ls -a > $FAKE_DIR/ls; {SERVE}"))
            .given(|instance| {
                let runner = instance.machine.path("machine/runner");
                runner_tree(&runner.join("_work/x"), "");
                fs::write(runner.join(".credentials"), "old").unwrap();
                instance.hand_over(&instance.document());
            })
            .check(|instance, _, _| assert!(!instance.machine.seen("ls").contains(".credentials"))),
    ]
}
