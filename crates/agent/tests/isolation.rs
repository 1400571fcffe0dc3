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
#[allow(dead_code, reason = "shared with tests that need other parts of it")]
mod network;

use std::fs;

use cloud::Instance;
use cloud::metadata::{ROLE_SECRET, ROLE_TOKEN};
use machine::{JIT, TOKEN, files, runs};
use network::{ACCOUNT, Network, as_root, instance};

/// Asks for a session token as anybody would.
const ASK: &str = "python3 -c \"
import urllib.request as u
r = u.Request('http://169.254.169.254/latest/api/token', method='PUT', headers={'X-aws-ec2-metadata-token-ttl-seconds': '60'})
print('reached', u.urlopen(r, timeout=5).read())\" 2>&1 | tail -n 1";

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
