//! Fetching a runner's tarball: from the disk or over HTTP, verified before anything of it is unpacked.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Rng, SystemRng};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE, RETRY_AFTER};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::release::{self, Release};
use super::{Error, download, is_runner, remove_dir, remove_file, staging, unpack};
use crate::account::Account;
use crate::environment::Environment;
use crate::log::Log;

const REDIRECTS: usize = 10;
const CONNECT: Duration = Duration::from_secs(5);
/// This long without a byte is a stall.
const STALL: Duration = Duration::from_secs(15);
/// All tries together.
const OVERALL: Duration = Duration::from_secs(180);
const ATTEMPTS: u32 = 5;
/// The longest wait a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Where a runner is put, and whom it is given to.
struct Place {
    dir: PathBuf,
    owner: Option<Account>,
}

/// Puts a runner into the directory of the settings: the one they name, else the latest. Whatever dies when, what is there
/// is none, or a whole one that belongs to `owner`. Answers its version if it had to be looked up.
pub(super) async fn runner(
    environment: &Environment,
    owner: Option<Account>,
    cancel: CancellationToken,
    log: &Log,
) -> Result<Option<String>, Error> {
    let place = Place { dir: environment.runner_dir.clone(), owner };
    let (url, sha256, version) = match (&environment.runner_url, &environment.releases_url) {
        (Some(url), _) => (url.clone(), environment.runner_sha256.clone(), None),
        (None, Some(releases)) => {
            let found = look_up(releases, environment.retry_base, log).await?;
            let sha256 = environment.runner_sha256.clone().or(Some(found.sha256));
            (found.url, sha256, Some(found.version))
        }
        (None, None) => {
            let missing = format!("{} holds no runner and RUNS_FLEET_RUNNER_URL is not set", place.dir.display());
            return Err(Error::Download(missing));
        }
    };
    let Some(expected) = sha256.as_deref().and_then(checksum) else {
        return Err(Error::Download("checksum unavailable: RUNS_FLEET_RUNNER_SHA256 must be 64 hex digits".to_owned()));
    };
    fetch(&url, expected, Arc::new(place), environment.retry_base, cancel, log).await.map(|()| version)
}

/// The latest release, asked for a few times.
async fn look_up(releases: &str, retry_base: Duration, log: &Log) -> Result<Release, Error> {
    let client = client()?;
    let mut attempt = 0;
    loop {
        match release::latest(&client, releases).await {
            Ok(release) => return Ok(release),
            Err((reason, again)) if again && attempt + 1 < ATTEMPTS => {
                log.warn("download_retry", &[("error", Value::from(reason.as_str()))]);
                tokio::time::sleep(SystemRng.jitter(retry_base * 2_u32.pow(attempt), 0.2)).await;
                attempt += 1;
            }
            Err((reason, _)) => return Err(Error::Download(reason)),
        }
    }
}

async fn fetch(
    url: &str,
    expected: [u8; 32],
    place: Arc<Place>,
    retry_base: Duration,
    cancel: CancellationToken,
    log: &Log,
) -> Result<(), Error> {
    // The query of a presigned URL is a credential.
    let shown = url.split('?').next().unwrap_or_default();
    log.info("download_start", &[("url", Value::from(shown))]);
    if !url.starts_with("http://") && !url.starts_with("https://") {
        let tarball = PathBuf::from(url.strip_prefix("file://").unwrap_or(url));
        return install(tarball, place, expected, cancel).await;
    }
    let target = download(&place.dir);
    let mut result = download_and_install(url, &target, &place, expected, retry_base, &cancel, log).await;
    if matches!(&result, Err(Error::Download(reason)) if reason == MISMATCH) {
        // A cache on the way may have served something old or cut off: once more, from zero.
        log.warn("download_retry", &[("error", MISMATCH.into())]);
        result = download_and_install(url, &target, &place, expected, retry_base, &cancel, log).await;
    }
    let _ = remove_file(&target);
    result
}

async fn download_and_install(
    url: &str,
    target: &Path,
    place: &Arc<Place>,
    expected: [u8; 32],
    retry_base: Duration,
    cancel: &CancellationToken,
    log: &Log,
) -> Result<(), Error> {
    match tokio::time::timeout(OVERALL, over_http(url, target, retry_base, log)).await {
        Ok(downloaded) => downloaded?,
        Err(_) => return Err(Error::Download(format!("not complete after {} s", OVERALL.as_secs()))),
    }
    install(target.to_owned(), Arc::clone(place), expected, cancel.clone()).await
}

const MISMATCH: &str = "checksum mismatch";

/// A SHA-256 in hex.
fn checksum(hex: &str) -> Option<[u8; 32]> {
    hex::decode(hex).ok()?.try_into().ok()
}

/// Verifies the tarball and unpacks it into place. Leaves no staging directory behind.
async fn install(
    tarball: PathBuf,
    place: Arc<Place>,
    expected: [u8; 32],
    cancel: CancellationToken,
) -> Result<(), Error> {
    let work = move || {
        let staging = staging(&place.dir);
        let installed = (|| {
            let mut file = File::open(&tarball).map_err(|error| format!("{}: {error}", tarball.display()))?;
            if digest(&mut file).map_err(|error| error.to_string())? != expected {
                return Err(MISMATCH.to_owned());
            }
            unpack_into(&place, &file, &staging, &cancel).map_err(|error| error.to_string())
        })();
        let _ = remove_dir(&staging);
        installed
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(installed) => installed.map_err(Error::Download),
        Err(error) => Err(Error::Download(error.to_string())),
    }
}

fn digest(file: &mut File) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    file.rewind()?;
    Ok(hash.finalize().into())
}

fn unpack_into(place: &Place, tarball: &File, staging: &Path, cancel: &CancellationToken) -> io::Result<()> {
    remove_dir(staging)?;
    unpack::unpack(tarball, staging, cancel)?;
    if !is_runner(staging) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it holds no runner"));
    }
    // Before it is in place: an agent that is started again takes what is there for complete.
    if let Some(owner) = &place.owner {
        owner.own(staging)?;
    }
    // What is there is not a runner; something half unpacked must not stay in the way.
    remove_dir(&place.dir)?;
    fs::rename(staging, &place.dir)
}

fn client() -> Result<reqwest::Client, Error> {
    // A second installation is refused and changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
        .connect_timeout(CONNECT)
        .read_timeout(STALL)
        .build()
        .map_err(|error| Error::Download(error.to_string()))
}

/// What came of one request.
enum Attempt {
    Complete,
    /// Again, not before this wait.
    Again(String, Duration),
    Final(String),
}

/// Downloads `url` into `target`, going on from where a try broke off.
async fn over_http(url: &str, target: &Path, retry_base: Duration, log: &Log) -> Result<(), Error> {
    let client = client()?;
    let file = tokio::fs::File::create(target).await;
    let file = file.map_err(|error| Error::Download(format!("{}: {error}", target.display())))?;
    let mut partial = Partial { file, received: 0, etag: None };
    let mut last = String::new();
    for attempt in 0..ATTEMPTS {
        match partial.request(&client, url).await {
            Attempt::Complete => return Ok(()),
            Attempt::Final(reason) => return Err(Error::Download(reason)),
            Attempt::Again(reason, wait) => {
                log.warn("download_retry", &[("error", Value::from(reason.as_str()))]);
                last = reason;
                if attempt + 1 < ATTEMPTS {
                    let pause = SystemRng.jitter(retry_base * 2_u32.pow(attempt), 0.2);
                    tokio::time::sleep(pause.max(wait)).await;
                }
            }
        }
    }
    Err(Error::Download(last))
}

struct Partial {
    file: tokio::fs::File,
    received: u64,
    /// Names the content `received` bytes are of; without it a broken try starts from zero.
    etag: Option<String>,
}

impl Partial {
    async fn request(&mut self, client: &reqwest::Client, url: &str) -> Attempt {
        let mut request = client.get(url);
        if let Some(etag) = self.etag.as_ref().filter(|_| self.received > 0) {
            request = request.header(RANGE, format!("bytes={}-", self.received)).header(IF_RANGE, etag);
        }
        let mut response = match request.send().await {
            Ok(response) => response,
            // Without the URL: a presigned one is a credential.
            Err(error) => return Attempt::Again(error.without_url().to_string(), Duration::ZERO),
        };
        match response.status() {
            StatusCode::PARTIAL_CONTENT if self.continues(&response) => {}
            StatusCode::OK => {
                if let Err(error) = self.restart().await {
                    return Attempt::Final(error.to_string());
                }
                let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok());
                // A weak one does not promise the same bytes.
                self.etag = etag.filter(|etag| !etag.starts_with("W/")).map(str::to_owned);
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                self.etag = None;
                return Attempt::Again("the server cannot continue the download".to_owned(), Duration::ZERO);
            }
            _ => return refusal(&response),
        }
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    if let Err(error) = self.file.write_all(&chunk).await {
                        return Attempt::Final(error.to_string());
                    }
                    self.received += chunk.len() as u64;
                }
                Ok(None) => break,
                Err(error) => return Attempt::Again(error.without_url().to_string(), Duration::ZERO),
            }
        }
        match self.file.flush().await {
            Ok(()) => Attempt::Complete,
            Err(error) => Attempt::Final(error.to_string()),
        }
    }

    /// Whether a partial answer begins where we stopped.
    fn continues(&self, response: &reqwest::Response) -> bool {
        let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
        range.is_some_and(|range| range.starts_with(&format!("bytes {}-", self.received)))
    }

    async fn restart(&mut self) -> io::Result<()> {
        use tokio::io::AsyncSeekExt;
        self.received = 0;
        // Unfinished writes belong to the content that is being thrown away.
        self.file.flush().await?;
        self.file.set_len(0).await?;
        self.file.rewind().await?;
        Ok(())
    }
}

fn refusal(response: &reqwest::Response) -> Attempt {
    let status = response.status();
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let reason = format!("the server answered {}", status.as_u16());
    // An exhausted rate limit looks like a refusal.
    let limited = status == StatusCode::FORBIDDEN && header("x-ratelimit-remaining") == Some("0");
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() || limited {
        let seconds = header(RETRY_AFTER.as_str()).and_then(|value| value.parse().ok()).unwrap_or(0);
        Attempt::Again(reason, Duration::from_secs(seconds).min(LONGEST_WAIT))
    } else {
        Attempt::Final(reason)
    }
}

#[cfg(test)]
mod tests;
