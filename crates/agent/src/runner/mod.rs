//! Making the Actions runner ready: finding or fetching it, and leaving nothing of a predecessor in it.

mod dotenv;
mod fetch;
mod register;
mod release;
mod unpack;
pub mod warm;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::handover::HandOver;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::environment::Environment;
use crate::job::{DIAG, Launcher};
use crate::log::Log;

/// Registration of a runner; a leftover would be somebody else's.
const REGISTRATION: [&str; 6] =
    [".credentials", ".credentials_migrated", ".credentials_rsaparams", ".runner", ".runner_migrated", ".service"];
/// The runner's environment file.
const DOTENV: &str = ".env";
/// Where jobs work.
const WORK: &str = "_work";

/// Why there is no runner.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None was found and none can be fetched.
    #[error("download_failed: {0}")]
    Download(String),
    /// It cannot be registered.
    #[error("registration_failed: {0}")]
    Registration(String),
}

/// A runner that can be spawned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Whether this agent unpacked it, and so removes it.
    pub unpacked: bool,
    /// Its version, if known.
    pub version: Option<String>,
    /// Finding or fetching it took this long.
    pub runner: Duration,
    /// The rest took this long.
    pub register: Duration,
}

/// The directory of the runner: the first that holds one, else the one it is fetched into.
pub fn choose(environment: &Environment) -> PathBuf {
    let first = std::iter::once(&environment.runner_dir);
    let baked = first.chain(&environment.other_runner_dirs).find(|dir| is_runner(dir));
    baked.unwrap_or(&environment.runner_dir).clone()
}

/// Makes the runner in `environment.runner_dir` ready for `document`. Stops between steps once `cancel` is.
pub async fn prepare(
    environment: &Environment,
    document: &HandOver,
    launcher: &Launcher,
    cancel: CancellationToken,
    log: &Log,
) -> Result<Ready, Error> {
    let begun = Instant::now();
    let dir = &environment.runner_dir;
    let with_token = document.jit_config.is_empty();
    let unpacked = !is_runner(dir) || (with_token && !can_register(dir) && environment.runner_url.is_some());
    let mut version = environment.runner_version.clone();
    if unpacked {
        let fetched = fetch::into(dir, environment, cancel, log).await?;
        version = version.or(fetched);
        own(launcher, dir).await.map_err(|error| Error::Download(error.to_string()))?;
    }
    log.info("runner_found", &[("dir", Value::from(dir.to_string_lossy())), ("unpacked", unpacked.into())]);
    let found = Instant::now();
    forget(dir, log);
    let cache_url = Some(document.cache_url.as_str()).filter(|url| !url.is_empty());
    let cache_url = cache_url.or(environment.cache_url.as_deref());
    warn(log, DOTENV, dotenv::write(&dir.join(DOTENV), cache_url, &environment.tool_cache));
    if let Some(account) = &launcher.account {
        warn(log, DOTENV, account.own(&dir.join(DOTENV)));
    }
    if with_token {
        register::run(environment, document, launcher, log).await?;
    }
    Ok(Ready {
        unpacked,
        version: version.or_else(|| baked_version(dir)),
        runner: found - begun,
        register: found.elapsed(),
    })
}

async fn own(launcher: &Launcher, dir: &Path) -> io::Result<()> {
    let Some(account) = launcher.account.clone() else { return Ok(()) };
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || account.own(&dir)).await.map_err(io::Error::other)?
}

/// The version that the runner's own list of dependencies names first: `Runner.Listener/<version>`.
fn baked_version(dir: &Path) -> Option<String> {
    let list = fs::read(dir.join("bin/Runner.Listener.deps.json")).ok()?;
    let list: Value = serde_json::from_slice(&list).ok()?;
    list["libraries"].as_object()?.keys().find_map(|name| name.strip_prefix("Runner.Listener/").map(str::to_owned))
}

fn can_register(dir: &Path) -> bool {
    dir.join("config.sh").is_file()
}

/// Removes what a predecessor registered: a configured directory cannot be configured.
fn forget(dir: &Path, log: &Log) {
    for name in REGISTRATION {
        warn(log, name, remove_file(&dir.join(name)));
    }
}

/// Whether `dir` holds a complete runner.
pub fn is_runner(dir: &Path) -> bool {
    let listener = fs::metadata(dir.join("bin/Runner.Listener"));
    listener.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o100 != 0) && dir.join("run.sh").is_file()
}

/// Removes every credential from the runner's directory.
pub fn wipe(dir: &Path, log: &Log) {
    for name in REGISTRATION.into_iter().chain([DOTENV]) {
        warn(log, name, remove_file(&dir.join(name)));
    }
    warn(log, "staging", remove_dir(&staging(dir)));
    warn(log, "download", remove_file(&download(dir)));
}

/// Removes what the job left, and the runner itself when `whole`. Blocking, as long as the disk takes.
pub fn clean(dir: &Path, whole: bool, log: &Log) {
    let dirs = if whole { vec![dir.to_owned()] } else { vec![dir.join(WORK), dir.join(DIAG)] };
    for dir in dirs {
        warn(log, &dir.to_string_lossy(), remove_dir(&dir));
    }
}

fn warn(log: &Log, what: &str, done: io::Result<()>) {
    if let Err(error) = done {
        log.warn("cleanup_failed", &[("what", what.into()), ("error", Value::from(error.to_string()))]);
    }
}

/// Where a tarball is unpacked before it is whole: beside the directory, so that it can be renamed into place.
fn staging(dir: &Path) -> PathBuf {
    beside(dir, "staging")
}

/// Where a tarball is downloaded to.
fn download(dir: &Path) -> PathBuf {
    beside(dir, "tar.gz")
}

fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{name}.{suffix}"))
}

fn remove_file(path: &Path) -> io::Result<()> {
    provider::files::remove(path)
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
