//! A job as an account of its own, in a network of its own with a metadata service at the real address: what it can and
//! cannot reach. Needs root, or a `sudo` that does not ask, and a kernel that makes network namespaces.
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

use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use cloud::Instance;
use cloud::metadata::{Metadata, ROLE_SECRET, ROLE_TOKEN};
use cloud::weather::Weather;
use machine::{JIT, TOKEN, files, runs};

/// An account that every Debian has, and that owns nothing.
const ACCOUNT: &str = "games";
const IMDS: &str = "169.254.169.254";

/// Asks for a session token as anybody would.
const ASK: &str = "python3 -c \"
import urllib.request as u
r = u.Request('http://169.254.169.254/latest/api/token', method='PUT', headers={'X-aws-ec2-metadata-token-ttl-seconds': '60'})
print('reached', u.urlopen(r, timeout=5).read())\" 2>&1 | tail -n 1";

fn quietly(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// Runs this test as root; whether the caller has to return, for it is not root or there is no program it needs.
fn as_root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return !["iptables", "ip", "nsenter"].into_iter().all(machine::has);
    }
    if quietly("sudo", &["-n", "true"]) {
        let program = std::env::current_exe().unwrap();
        let status =
            Command::new("sudo").args(["-n", "-E"]).arg(program).args(["--exact", test, "--nocapture"]).status();
        assert!(status.unwrap().success(), "it failed as root");
    } else {
        eprintln!("SKIPPED {test}: it needs root");
    }
    true
}

/// A network with nothing in it but the metadata service and a way to the emulator. It goes with its value.
struct Network {
    name: String,
    metadata: TcpListener,
    aws: TcpListener,
}

impl Network {
    /// `None`, loudly, when the kernel refuses.
    fn make(name: &str) -> Option<Self> {
        let name = format!("runs-fleet-{name}-{}", std::process::id());
        if !quietly("ip", &["netns", "add", &name]) {
            eprintln!("SKIPPED: this kernel makes no network namespace");
            return None;
        }
        for args in [&["link", "set", "lo", "up"][..], &["addr", "add", "169.254.169.254/32", "dev", "lo"]] {
            assert!(quietly("ip", &[&["-n", &name], args].concat()), "{args:?}");
        }
        // A socket stays in the network of the thread that made it; whoever uses it does not matter.
        let path = format!("/run/netns/{name}");
        let inside = std::thread::spawn(move || {
            let network = File::open(path).unwrap();
            rustix::thread::move_into_link_name_space(network.as_fd(), None).unwrap();
            (TcpListener::bind((IMDS, 80)).unwrap(), TcpListener::bind("127.0.0.1:0").unwrap())
        });
        let (metadata, aws) = inside.join().unwrap();
        Some(Self { name, metadata, aws })
    }

    fn rules(&self) -> String {
        let list = |table| {
            let output = Command::new("nsenter")
                .args([&format!("--net=/run/netns/{}", self.name), "iptables", "-t", table, "-S"])
                .output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        };
        list("filter") + &list("mangle")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        quietly("ip", &["netns", "delete", &self.name]);
    }
}

/// An instance in `network` whose runner is `script` and belongs to the job's account.
fn instance(network: &Network, script: &str) -> Instance {
    let mut instance = Instance::start(emulator::shared(), script);
    instance.metadata = Metadata::serve(&instance.id, network.metadata.try_clone().unwrap());
    instance.weather = Weather::serve(emulator::shared().endpoint(), network.aws.try_clone().unwrap());
    let state = instance.machine.path("state");
    let address = instance.weather.address();
    let instance = instance
        .set("RUNS_FLEET_RUNNER_USER", ACCOUNT)
        .set("AWS_ENDPOINT_URL", &address)
        // The real address.
        .set("AWS_EC2_METADATA_SERVICE_ENDPOINT", "")
        .set("SECRET_OF_THE_AGENT", "hidden-in-the-agents-environment")
        .set("RUNS_FLEET_STATE_DIR", state.to_str().unwrap());
    instance.machine.within(&["nsenter", &format!("--net=/run/netns/{}", network.name)]);
    for open in ["", "machine"] {
        fs::set_permissions(instance.machine.path(open), Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(instance.machine.path("seen"), Permissions::from_mode(0o777)).unwrap();
    let runner = instance.machine.path("machine/runner");
    assert!(quietly("chown", &["-R", ACCOUNT, runner.to_str().unwrap()]));
    instance.hand_over(&instance.document());
    instance
}

#[test]
fn a_job_reaches_neither_its_agent_nor_the_role() {
    if as_root("a_job_reaches_neither_its_agent_nor_the_role") {
        return;
    }
    let Some(network) = Network::make("denied") else { return };
    let quoted = format!("'PATH=/usr/bin:/bin; {}'", ASK.replace('\'', "'\\''"));
    let script = format!(
        "exec > $FAKE_DIR/probe 2>&1
         id; echo umask $(umask) home $HOME user $USER oom $(cat /proc/self/oom_score_adj)
         echo group $(cat /proc/self/cgroup | grep ^0::)
         echo state; ls $FAKE_DIR/../state; cat $FAKE_DIR/../state/state.json
         echo environment; cat /proc/$PPID/environ | tr '\\0' '\\n'
         echo memory; head -c 1 /proc/$PPID/mem
         echo signal; kill -9 $PPID && echo killed
         echo metadata; {ASK}
         echo escaped; env -i setsid sh -c {quoted}
         env > $FAKE_DIR/env; for p in $$ $PPID; do tr '\\0' ' ' < /proc/$p/cmdline; done > $FAKE_DIR/argv
         setsid env -i sh -c 'echo $$ > '$FAKE_DIR'/up; exec sleep 1000' < /dev/null > /dev/null 2>&1 &
         while [ ! -s $FAKE_DIR/up ]; do sleep 0.01; done
         ls -l .env; echo $ACTIONS_RUNNER_INPUT_JITCONFIG > .credentials"
    );
    let instance = instance(&network, &script);
    let after = instance.machine.run();
    assert!(after.status.success(), "{}", after.log);
    let told: Vec<_> = instance.reports().iter().map(|report| report.status.as_str()).collect();
    let probe = fs::read_to_string(instance.machine.path("seen/probe")).unwrap();
    assert_eq!(told, ["started", "success"], "{probe}\n{}", after.log);

    assert!(probe.contains(&format!("({ACCOUNT})")) && !probe.contains("(root)"), "{probe}");
    assert!(probe.contains("umask 0022 home /usr/games user games oom 0"), "{probe}");
    for denied in
        ["state/state.json: Permission denied", "/environ: Permission denied", "/mem' for reading: Permission denied"]
    {
        assert!(probe.contains(denied), "{denied}: {probe}");
    }
    assert!(probe.contains("state': Permission denied") && probe.contains("-rw------- 1 games"), "{probe}");
    assert!(!probe.contains("killed") && !probe.contains("reached"), "{probe}");
    assert_eq!(probe.matches("Connection refused").count(), 2, "{probe}");
    let group = probe.lines().find_map(|line| line.strip_prefix("group ")).unwrap_or_default();
    if !after.log.contains("cgroup_unavailable") && !group.is_empty() {
        assert!(group.ends_with(&format!("/job-{}", instance.id)), "{group}");
    }
    let escaped = instance.machine.seen("up");
    assert!(!runs(&escaped), "it cleared its environment and left its session");

    let seen = |name: &str| fs::read_to_string(instance.machine.path("seen").join(name)).unwrap();
    for secret in [JIT, TOKEN, ROLE_SECRET, ROLE_TOKEN, "hidden-in-the-agents-environment"] {
        let job_may_know = secret == JIT || secret.starts_with("hidden");
        assert!(!after.log.contains(secret), "{}", after.log);
        assert!(!seen("argv").contains(secret) && (job_may_know || !seen("env").contains(secret)));
        for place in ["machine", "state"] {
            for (path, content) in files(&instance.machine.path(place)) {
                assert!(!content.contains(secret), "{} holds {secret}", path.display());
            }
        }
    }

    let rules = network.rules();
    let again = instance.machine.run();
    assert!(again.status.success());
    assert_eq!(network.rules(), rules, "the rules are the same when they are made again");
    for expected in ["-A OUTPUT -j RUNS-FLEET-JOB", "-A FORWARD -j RUNS-FLEET-FORWARD"] {
        assert_eq!(rules.matches(expected).count(), 1, "{rules}");
    }
}

#[test]
fn a_job_that_may_reach_the_metadata_does() {
    if as_root("a_job_that_may_reach_the_metadata_does") {
        return;
    }
    let Some(network) = Network::make("allowed") else { return };
    let instance =
        instance(&network, &format!("{{ {ASK}; }} > $FAKE_DIR/probe")).set("RUNS_FLEET_JOB_IMDS_ACCESS", "allow");
    let after = instance.machine.run();
    let probe = fs::read_to_string(instance.machine.path("seen/probe")).unwrap_or_default();
    assert!(probe.contains("reached"), "{probe}\n{}", after.log);
}

#[test]
fn an_agent_that_is_root_runs_no_job_as_itself() {
    if as_root("an_agent_that_is_root_runs_no_job_as_itself") {
        return;
    }
    let instance = Instance::start(emulator::shared(), "echo ran > $FAKE_DIR/probe")
        .set("RUNS_FLEET_RUNNER_USER", "nobody-of-this-name");
    instance.hand_over(&instance.document());
    let after = instance.machine.run();
    assert!(after.status.success(), "{}", after.log);
    let reports = instance.reports();
    let error = reports[0].error.as_deref().unwrap_or_default();
    assert!(error.starts_with("execution_failed: there is no account nobody-of-this-name"), "{error}");
    assert!(!instance.machine.path("seen/probe").exists());
}
