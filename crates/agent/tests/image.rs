//! The files that make a machine image out of the agent: their scripts run in a scratch root with the real program, the
//! unit is verified, the templates are validated. What a computer lacks for that is installed where this is root, and
//! skipped loudly where it is not.
#![cfg(feature = "aws")]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "these tests wait for real processes and say what they skip; what fails here fails the test"
)]

#[allow(dead_code, reason = "shared with tests that need other parts of it")]
mod cloud;
#[allow(dead_code, reason = "shared with tests that need other parts of it")]
mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cloud::Instance;
use machine::{has, program};
use tempfile::TempDir;

/// What goes wrong with an image.
type Damage = fn(&Path);

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/runner").canonicalize().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A root with the agent as `install.sh` leaves it, and a runner.
fn installed() -> TempDir {
    let scratch = TempDir::new().unwrap();
    let from = scratch.path().join("from");
    fs::create_dir(&from).unwrap();
    for file in ["runs-fleet-agent.service", "runs-fleet-bootstrap.sh"] {
        fs::copy(deploy().join(file), from.join(file)).unwrap();
    }
    fs::copy(env!("CARGO_BIN_EXE_runs-fleet-agent"), from.join("runs-fleet-agent")).unwrap();
    let root = scratch.path().join("root");
    let install =
        Command::new(deploy().join("packer/scripts/install.sh")).env("ROOT", &root).env("FROM", &from).output();
    let install = install.unwrap();
    assert!(install.status.success(), "{}", said(&install));
    machine::runner_tree(&root.join("opt/actions-runner"), "");
    program(&root.join("opt/actions-runner/config.sh"), "");
    scratch
}

fn check(scratch: &TempDir) -> Output {
    let script = deploy().join("packer/scripts/check.sh");
    Command::new(script).env("ROOT", scratch.path().join("root")).output().unwrap()
}

#[test]
fn an_image_that_could_not_run_a_job_is_refused() {
    let fit = check(&installed());
    assert!(fit.status.success(), "{}", said(&fit));
    let rows: [(&str, Damage); 6] = [
        ("another architecture", |root| {
            let agent = root.join("opt/runs-fleet/runs-fleet-agent");
            let mut bytes = fs::read(&agent).unwrap();
            bytes[18] ^= 0x80;
            fs::write(agent, bytes).unwrap();
        }),
        ("guard does not parse", |root| {
            fs::write(root.join("var/lib/cloud/scripts/per-boot/runs-fleet-bootstrap.sh"), "if\n").unwrap();
        }),
        ("the unit lacks StartLimitAction=poweroff", |root| {
            let unit = root.join("etc/systemd/system/runs-fleet-agent.service");
            let text = fs::read_to_string(&unit).unwrap().replace("StartLimitAction=poweroff", "");
            fs::write(unit, text).unwrap();
        }),
        ("not enabled", |root| {
            fs::remove_dir_all(root.join("etc/systemd/system/multi-user.target.wants")).unwrap();
        }),
        ("the runner lacks config.sh", |root| fs::remove_file(root.join("opt/actions-runner/config.sh")).unwrap()),
        ("readable by others", |root| {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(root.join("var/lib/runs-fleet"), fs::Permissions::from_mode(0o755)).unwrap();
        }),
    ];
    for (reason, damage) in rows {
        let scratch = installed();
        damage(&scratch.path().join("root"));
        let refused = check(&scratch);
        assert!(!refused.status.success() && said(&refused).contains(reason), "{reason}: {}", said(&refused));
    }
}

/// Runs the guard with a service manager that says this, and an agent that records its arguments.
fn guard(running: &str, state: &str, result: &str, exited: &str) -> Option<String> {
    let scratch = TempDir::new().unwrap();
    let path = |name: &str| scratch.path().join(name);
    for dir in ["bin", "root/opt/runs-fleet"] {
        fs::create_dir_all(path(dir)).unwrap();
    }
    program(
        &path("bin/systemctl"),
        &format!(
            "case \"$*\" in
                is-system-running) echo {running}; exit 1 ;;
                *ActiveState*) echo {state} ;;
                *Result*) echo {result} ;;
                *ExecMainExitTimestampMonotonic*) echo {exited} ;;
             esac"
        ),
    );
    program(&path("bin/journalctl"), "echo 'the last words'");
    program(&path("root/opt/runs-fleet/runs-fleet-agent"), &format!("echo \"$@\" > {}", path("told").display()));
    let with_stubs = format!("{}:{}", path("bin").display(), std::env::var("PATH").unwrap());
    let guard = Command::new("sh")
        .arg(deploy().join("runs-fleet-bootstrap.sh"))
        .arg(path("root"))
        .arg("1")
        .env("PATH", with_stubs)
        .output()
        .unwrap();
    assert!(guard.status.success(), "{}", said(&guard));
    fs::read_to_string(path("told")).ok()
}

#[test]
fn the_guard_gives_up_only_a_machine_whose_agent_never_was() {
    assert_eq!(guard("running", "active", "success", "0"), None, "it works");
    assert_eq!(guard("running", "inactive", "success", "123"), None, "it has ended well");
    assert_eq!(guard("stopping", "failed", "exit-code", "123"), None, "a spare is being stopped");
    for (state, result, exited) in
        [("failed", "exit-code", "123"), ("inactive", "success", "0"), ("activating", "x", "")]
    {
        let told = guard("degraded", state, result, exited).unwrap();
        assert_eq!(told.trim(), format!("give-up runs-fleet-agent.service is {state}: the last words"));
    }
}

#[test]
fn a_machine_learns_who_it_is_and_writes_it_down() {
    let instance = Instance::start(emulator::shared(), "");
    instance.metadata.tag("runs-fleet:termination-queue-url", &instance.queue_url);
    instance.metadata.tag("runs-fleet:managed", "true");
    let file = instance.machine.path("env");
    let bootstrap = |instance: &Instance| instance.machine.command(&["bootstrap", file.to_str().unwrap()]);
    let done = bootstrap(&instance);
    assert!(done.status.success(), "{}", said(&done));
    let written = fs::read_to_string(&file).unwrap();
    let expected = format!(
        "RUNS_FLEET_INSTANCE_ID={}\nAWS_REGION=us-east-1\nRUNS_FLEET_POOL=\n\
         RUNS_FLEET_TERMINATION_QUEUE_URL={}\nRUNS_FLEET_SECRETS_BACKEND=\n",
        instance.id, instance.queue_url
    );
    assert_eq!(written, expected);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    // Where Vault is, when the hand-over is in it; what has no tag has a default.
    instance.metadata.tag("runs-fleet:secrets-backend", "vault");
    instance.metadata.tag("runs-fleet:vault-addr", "https://vault.example:8200");
    instance.metadata.tag("runs-fleet:vault-base-path", "runs-fleet/runners");
    let done = bootstrap(&instance);
    assert!(done.status.success(), "{}", said(&done));
    let (plain, of_vault) = (expected.trim_end(), "VAULT_ADDR=https://vault.example:8200\n");
    let expected = format!("{plain}vault\n{of_vault}VAULT_BASE_PATH=runs-fleet/runners\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);

    // A value that would be two lines of the file.
    instance.metadata.tag("runs-fleet:pool", "p\nPATH=/evil");
    let refused = bootstrap(&instance);
    assert!(!refused.status.success(), "{}", said(&refused));
    assert_eq!(fs::read_to_string(&file).unwrap(), expected, "what was there stays");
    assert_eq!(instance.state(), "terminated");
    let reports = instance.reports();
    assert_eq!(reports[0].status.as_str(), "bootstrap_failed");
    assert!(reports[0].error.as_deref().unwrap_or_default().contains("RUNS_FLEET_POOL"), "{reports:?}");
}

#[test]
fn a_machine_that_is_given_up_says_why_and_ends() {
    let instance = Instance::start(emulator::shared(), "");
    instance.metadata.tag("runs-fleet:termination-queue-url", &instance.queue_url);
    let given_up = instance.machine.command(&["give-up", &format!("{}\nthe end", "x".repeat(5_000))]);
    assert!(given_up.status.success(), "{}", said(&given_up));
    assert_eq!(instance.state(), "terminated");
    let reports = instance.reports();
    assert_eq!((reports.len(), reports[0].status.as_str()), (1, "bootstrap_failed"));
    let error = reports[0].error.as_deref().unwrap_or_default();
    assert!(error.len() <= 800 && error.ends_with("the end"), "{error}");
}

#[test]
fn the_unit_is_understood() {
    if !has("systemd-analyze") {
        return;
    }
    let scratch = installed();
    let root = scratch.path().join("root");
    let units = root.join("usr/lib/systemd");
    fs::create_dir_all(&units).unwrap();
    let copied = Command::new("cp").args(["-r", "/lib/systemd/system"]).arg(&units).status().unwrap();
    assert!(copied.success());
    let verify = Command::new("systemd-analyze")
        .arg("verify")
        .arg(format!("--root={}", root.display()))
        .args(["--man=no", "runs-fleet-agent.service"])
        .output()
        .unwrap();
    let complaints = said(&verify);
    assert!(!complaints.contains("runs-fleet-agent"), "{complaints}");
}

#[test]
fn the_scripts_are_clean() {
    if has("shellcheck") {
        let scripts = ["base", "check", "install"].map(|name| deploy().join(format!("packer/scripts/{name}.sh")));
        let clean = Command::new("shellcheck").arg(deploy().join("runs-fleet-bootstrap.sh")).args(scripts).output();
        let clean = clean.unwrap();
        assert!(clean.status.success(), "{}", said(&clean));
    }
}

#[test]
fn the_templates_are_valid() {
    if !has("packer") {
        return;
    }
    let scratch = installed();
    let layers = [
        ("base", vec!["runner_version=2.330.0".to_owned(), format!("runner_sha256={}", "0".repeat(64))]),
        ("runner", vec![format!("agent_binary={}", scratch.path().join("from/runs-fleet-agent").display())]),
    ];
    for (layer, variables) in layers {
        for architecture in ["amd64", "arm64"] {
            let mut validate = Command::new("packer");
            validate.current_dir(deploy().join("packer").join(layer)).env("CHECKPOINT_DISABLE", "1");
            validate.args(["validate", &format!("-only=amazon-ebs.{architecture}"), "-var", "vpc_id=vpc-1"]);
            for variable in &variables {
                validate.args(["-var", variable]);
            }
            let valid = validate.arg(".").output().unwrap();
            // Packers since 1.7 come without the builder and would have to download it.
            if said(&valid).contains("plugin") {
                eprintln!("SKIPPED: this Packer has no amazon-ebs builder");
                return;
            }
            assert!(valid.status.success(), "{layer} {architecture}: {}", said(&valid));
        }
    }
}
