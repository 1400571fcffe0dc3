//! What makes a name lead to this machine, and a certificate trusted on it; and undoing both.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

const HOSTS: &str = "/etc/hosts";
/// The end of every line of ours.
const TAG: &str = "# runs-fleet-cache";
/// Where machines look for additional authorities, and what makes them look; Amazon Linux's and Debian's.
const STORES: [(&str, &str); 2] = [
    ("/etc/pki/ca-trust/source/anchors", "update-ca-trust"),
    ("/usr/local/share/ca-certificates", "update-ca-certificates"),
];
const ANCHOR: &str = "runs-fleet-cache-ca.crt";
/// Limit of a program that rebuilds a trust store.
const UPDATE: Duration = Duration::from_secs(15);

/// Lets the name lead to `to`. Blocking.
///
/// # Errors
/// When the file cannot be replaced.
pub(super) fn pin(host: &str, to: IpAddr) -> io::Result<()> {
    change(|text| format!("{}{to} {host} {TAG}\n", unpinned(text)))
}

/// Makes the machine trust an authority.
///
/// # Errors
/// A sentence.
pub(super) async fn trust(certificate: &str) -> Result<(), String> {
    let store = STORES.iter().find(|(anchors, _)| Path::new(anchors).is_dir());
    let (anchors, update) = store.ok_or("the machine has no known trust store")?;
    let path = Path::new(anchors).join(ANCHOR);
    public(&path, certificate).map_err(|error| format!("{}: {error}", path.display()))?;
    run(update).await
}

/// Undoes [`pin`] and [`trust`], whoever did it. Does nothing where nothing was done.
///
/// # Errors
/// The first one; everything is tried.
pub async fn release() -> Result<(), String> {
    let freed = match fs::read_to_string(HOSTS) {
        Ok(text) if text.lines().any(|line| line.ends_with(TAG)) => change(unpinned),
        _ => Ok(()),
    };
    let mut result = freed.map_err(|error| format!("{HOSTS}: {error}"));
    for (anchors, update) in STORES {
        let path = Path::new(anchors).join(ANCHOR);
        if path.exists() {
            let removed = fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()));
            result = result.and(removed).and(run(update).await);
        }
    }
    result
}

fn unpinned(text: &str) -> String {
    text.lines().filter(|line| !line.ends_with(TAG)).map(|line| format!("{line}\n")).collect()
}

fn change(new: impl FnOnce(&str) -> String) -> io::Result<()> {
    let text = fs::read_to_string(HOSTS)?;
    public(Path::new(HOSTS), &new(&text))
}

/// Replaces a file that everybody may read.
pub(super) fn public(path: &Path, content: &str) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".runs-fleet");
    let unfinished = PathBuf::from(unfinished);
    fs::write(&unfinished, content)?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o644))?;
    fs::rename(&unfinished, path)
}

async fn run(program: &str) -> Result<(), String> {
    let mut command = Command::new(program);
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(UPDATE, quiet.status()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{program}: {status}")),
        Ok(Err(error)) => Err(format!("{program}: {error}")),
        Err(_) => Err(format!("{program}: no end in time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_ours_go() {
        let theirs = "127.0.0.1 localhost\n# runs-fleet-cache is ours\n10.0.0.1 host # runs-fleet-cache-too";
        let pinned = format!("{theirs}\n127.0.0.1 results.test {TAG}\n");
        assert_eq!(unpinned(&pinned), format!("{theirs}\n"));
        assert_eq!(unpinned(theirs), format!("{theirs}\n"));
    }
}
