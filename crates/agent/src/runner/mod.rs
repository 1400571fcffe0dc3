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
use std::sync::Arc;
use std::time::Duration;

use domain::handover::HandOver;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::environment::Environment;
use crate::intercept::Interception;
use crate::job::{DIAG, Launcher};
use crate::log::Log;

/// Registration of a runner; a leftover would be somebody else's.
const REGISTRATION: [&str; 6] =
    [".credentials", ".credentials_migrated", ".credentials_rsaparams", ".runner", ".runner_migrated", ".service"];
/// The certificate of the cache's listener, for programs that bring roots of their own.
const CACHE_CA: &str = "runs-fleet-cache-ca.pem";
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

/// How the runner came into its directory, where nobody had put one: it is fetched by one task at a time, ahead of the
/// job where there is time. Holds how the last fetch ended, with the version if that had to be looked up.
#[derive(Clone, Default)]
pub struct Supply(Arc<Mutex<Option<Fetched>>>);

type Fetched = Result<Option<String>, Error>;

impl Supply {
    /// Fetches the runner before anybody needs it. A job that comes meanwhile waits for it, and for nothing longer than a
    /// fetch of its own; one that comes after a failure tries again.
    pub async fn ahead(self, environment: Environment, launcher: Launcher, cancel: CancellationToken, log: Log) {
        let mut fetched = self.0.lock().await;
        if !is_runner(&environment.runner_dir) {
            *fetched = Some(fetch::runner(&environment, launcher.account, cancel, &log).await);
        }
    }

    /// Fetches it if `missing` says so. Whether this agent has unpacked it, and the version that was looked up.
    async fn have(
        &self,
        missing: impl Fn() -> bool,
        fetch: impl Future<Output = Fetched>,
    ) -> Result<(bool, Option<String>), Error> {
        let mut fetched = match self.0.try_lock() {
            Ok(fetched) => fetched,
            Err(_) => {
                let mut fetched = self.0.lock().await;
                if let Some(Err(error)) = fetched.take_if(|ended| ended.is_err()) {
                    return Err(error);
                }
                fetched
            }
        };
        if missing() {
            *fetched = Some(Ok(fetch.await?));
        }
        Ok(match &*fetched {
            Some(Ok(version)) => (true, version.clone()),
            _ => (false, None),
        })
    }
}

/// Makes the runner in `environment.runner_dir` ready for `document`. Stops between steps once `cancel` is.
pub async fn prepare(
    environment: &Environment,
    document: &HandOver,
    launcher: &Launcher,
    supply: Supply,
    cancel: CancellationToken,
    log: &Log,
) -> Result<Ready, Error> {
    let begun = Instant::now();
    let dir = &environment.runner_dir;
    let with_token = document.jit_config.is_empty();
    let missing = || !is_runner(dir) || (with_token && !can_register(dir) && environment.runner_url.is_some());
    let fetched = fetch::runner(environment, launcher.account.clone(), cancel, log);
    let (unpacked, looked_up) = supply.have(missing, fetched).await?;
    let version = environment.runner_version.clone().or(looked_up);
    log.info("runner_found", &[("dir", Value::from(dir.to_string_lossy())), ("unpacked", unpacked.into())]);
    let found = Instant::now();
    forget(dir, log);
    let cache_url = environment.cache_url(document);
    warn(log, DOTENV, dotenv::write(&dir.join(DOTENV), cache_url.as_deref(), &environment.tool_cache));
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

/// Lets the cache's host lead to `interception`, and the runner's programs trust it, last before the job.
///
/// # Errors
/// A sentence; the job uses GitHub's cache.
pub async fn lead(interception: &Interception, dir: &Path, launcher: &Launcher) -> Result<(), String> {
    let text = |error: io::Error| format!("{DOTENV}: {error}");
    let (file, dotenv) = (dir.join(CACHE_CA), dir.join(DOTENV));
    dotenv::add(&dotenv, "NODE_EXTRA_CA_CERTS", &file.to_string_lossy()).map_err(text)?;
    if let Some(account) = &launcher.account {
        account.own(&dotenv).map_err(text)?;
    }
    interception.engage(&file).await
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
    for name in REGISTRATION.into_iter().chain([DOTENV, CACHE_CA]) {
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
