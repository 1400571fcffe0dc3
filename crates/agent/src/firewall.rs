//! Keeping jobs from the instance's metadata, and so from the credentials of its role.
//!
//! Traffic of the job's account is rejected where it leaves; forwarded traffic, which is that of containers, is dropped
//! before the container engine's own rules can let it pass. A job that becomes root can undo this, so the role must be
//! harmless by itself; this stops the casual theft.
//!
//! Repeatable: our chains are replaced whole, and the jumps to them are added once.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Limit of one command, the wait for the firewall's lock included.
const COMMAND: Duration = Duration::from_secs(5);

/// The programs of one address family.
struct Family {
    program: &'static str,
    restore: &'static str,
    address: &'static str,
}

/// Where the metadata service is ("Instance metadata and user data").
const FAMILIES: [Family; 2] = [
    Family { program: "iptables", restore: "iptables-restore", address: "169.254.169.254/32" },
    Family { program: "ip6tables", restore: "ip6tables-restore", address: "fd00:ec2::254/128" },
];

/// What leaves this machine, and what passes through it: table, chain, our chain.
const JUMPS: [(&str, &str, &str); 2] =
    [("filter", "OUTPUT", "RUNS-FLEET-JOB"), ("mangle", "FORWARD", "RUNS-FLEET-FORWARD")];

/// Shuts the account with this user id out of the metadata. All that can be done is done before the first error is
/// returned.
///
/// # Errors
/// A sentence; the job may then read the metadata.
pub async fn deny_metadata(uid: u32) -> Result<(), String> {
    let [four, six] = FAMILIES.each_ref().map(|family| deny(family, uid));
    let (four, six) = tokio::join!(four, six);
    four.and(six)
}

async fn deny(family: &Family, uid: u32) -> Result<(), String> {
    run(family.restore, &["--wait", "3", "--noflush"], &chains(family.address, uid)).await?;
    for (table, from, to) in JUMPS {
        let jump = |how: &'static str| ["--wait", "3", "-t", table, how, from, "-j", to];
        if run(family.program, &jump("-C"), "").await.is_err() {
            run(family.program, &jump("-I"), "").await?;
        }
    }
    Ok(())
}

/// Our chains in the format of iptables-restore(8).
fn chains(address: &str, uid: u32) -> String {
    let [(_, _, job), (_, _, forward)] = JUMPS;
    format!(
        "*filter\n:{job} - [0:0]\n-A {job} -d {address} -m owner --uid-owner {uid} -j REJECT\nCOMMIT\n\
         *mangle\n:{forward} - [0:0]\n-A {forward} -d {address} -j DROP\nCOMMIT\n"
    )
}

async fn run(program: &str, args: &[&str], input: &str) -> Result<(), String> {
    let work = async {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    match tokio::time::timeout(COMMAND, work).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program}: {}", said.lines().next().unwrap_or("it failed")))
        }
        Ok(Err(error)) => Err(format!("{program}: {error}")),
        Err(_) => Err(format!("{program}: no end in time")),
    }
}
