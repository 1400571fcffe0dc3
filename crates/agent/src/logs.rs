//! Keeping the runner's diagnostics, and the agent's own log when something went wrong.
//!
//! Properties: never an error of the job, never longer than its limit; the job's account wrote what is read here, so
//! neither a link nor anything else but a plain file of its own is opened, and the memory used does not depend on their
//! size. The keys are public: readers derive them from the URL of a job.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::handover::HandOver;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use rustix::fs::{Mode, OFlags};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::job::DIAG;
use crate::log::Log;

/// Larger files are left out.
const LARGEST: u64 = 128 * 1024 * 1024;
/// More files than this are not the runner's doing.
const MOST: usize = 64;
const AT_ONCE: usize = 2;
/// Where keys begin, unless the hand-over says.
const PREFIX: &str = "runner-logs/";

/// Something to keep, compressed.
#[derive(Debug)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// What is in it, from the start of the file.
    pub content: File,
    /// Bytes of it.
    pub length: u64,
    /// SHA-256 of it, hex.
    pub sha256: String,
    /// Header and value; empty values are left out.
    pub metadata: Vec<(&'static str, String)>,
}

/// Where logs are kept.
#[async_trait]
pub trait Bucket: Send + Sync + 'static {
    /// Writes it once.
    async fn put(&self, bucket: &str, object: Object) -> Result<(), String>;
}

/// What came of it, for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody asked for logs.
    Disabled,
    /// There were none.
    Skipped,
    /// All are kept.
    Uploaded,
    /// Some are kept.
    Partial,
    /// None is kept.
    Failed,
}

impl Outcome {
    /// The word for reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Skipped => "skipped",
            Self::Uploaded => "uploaded",
            Self::Partial => "partial",
            Self::Failed => "failed",
        }
    }

    /// Of `found` files, so many are kept.
    const fn of(found: usize, kept: usize) -> Self {
        match (found, kept) {
            (0, _) => Self::Skipped,
            (_, 0) => Self::Failed,
            _ if kept < found => Self::Partial,
            _ => Self::Uploaded,
        }
    }
}

/// What is kept, and where.
pub struct Upload<'a> {
    /// Where to.
    pub bucket: Arc<dyn Bucket>,
    /// Says which bucket, and whose logs these are.
    pub document: &'a HandOver,
    /// The machine.
    pub key: &'a str,
    /// The runner's directory.
    pub dir: &'a Path,
    /// Uid that the runner's files have, when it is not ours.
    pub owner: Option<u32>,
    /// A directory for what is on its way, of our own.
    pub scratch: &'a Path,
    /// Whether the agent's own log is kept as well.
    pub ours: bool,
}

impl Upload<'_> {
    /// Uploads, for at most `within`.
    pub async fn run(self, within: Duration, log: &Log) -> Outcome {
        if self.document.runner_logs_bucket.is_empty() {
            return Outcome::Disabled;
        }
        let found = collect(&self.dir.join(DIAG), self.owner);
        let (total, mut kept) = (found.len(), 0);
        let own = self.ours.then(|| ("Agent.log".to_owned(), Source::Text(log.recent())));
        let sources = found.into_iter().map(|(name, file)| (name, Source::File(file))).chain(own);
        let mut uploads = futures::stream::iter(sources.enumerate().map(|(number, (name, source))| {
            let counted = matches!(source, Source::File(_));
            let sent = self.one(number, name.clone(), source);
            async move { (name, counted, sent.await) }
        }))
        .buffer_unordered(AT_ONCE);
        let all = async {
            while let Some((name, counted, sent)) = uploads.next().await {
                match sent {
                    Ok(()) => kept += usize::from(counted),
                    Err(error) => {
                        let fields = [("file", Value::from(name)), ("error", Value::from(error))];
                        log.warn("log_upload_failed", &fields);
                    }
                }
            }
        };
        let in_time = tokio::time::timeout(within, all).await.is_ok();
        let outcome = Outcome::of(total, kept);
        log.info("log_upload", &[("outcome", outcome.as_str().into()), ("in_time", in_time.into())]);
        outcome
    }

    async fn one(&self, number: usize, name: String, source: Source) -> Result<(), String> {
        let scratch = self.scratch.join(format!(".upload-{}-{number}", std::process::id()));
        let packed = tokio::task::spawn_blocking(move || compressed(source, &scratch)).await;
        let (content, length, sha256) =
            packed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let document = self.document;
        let metadata = vec![
            ("x-amz-meta-repo", document.repo.clone()),
            ("x-amz-meta-job-id", document.job_id.clone()),
            ("x-amz-meta-run-id", document.run_id.clone()),
        ];
        let object = Object { key: key(document, self.key, &name), content, length, sha256, metadata };
        self.bucket.put(&document.runner_logs_bucket, object).await
    }
}

enum Source {
    File(File),
    Text(String),
}

/// `<prefix><run>/<job>/<machine>/<file>.gz`.
fn key(document: &HandOver, machine: &str, file: &str) -> String {
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let prefix = or(&document.runner_logs_prefix, PREFIX);
    format!(
        "{prefix}{}/{}/{machine}/{file}.gz",
        or(&document.run_id, "unknown-run"),
        or(&document.job_id, "unknown-job")
    )
}

/// The runner's logs in `diag` that belong to `owner`, opened.
fn collect(diag: &Path, owner: Option<u32>) -> Vec<(String, File)> {
    let owner = owner.unwrap_or_else(|| rustix::process::geteuid().as_raw());
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::open(diag, flags | OFlags::DIRECTORY, Mode::empty()) else { return Vec::new() };
    let Ok(entries) = rustix::fs::Dir::read_from(&dir) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
        .filter(|name| (name.starts_with("Worker_") || name.starts_with("Runner_")) && name.ends_with(".log"))
        .collect();
    names.sort();
    names.truncate(MOST);
    let open = |name: String| {
        // A pipe would never answer.
        let file = rustix::fs::openat(&dir, &name, flags | OFlags::NONBLOCK, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        let plain = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
        (plain && stat.st_uid == owner && stat.st_nlink == 1).then(|| (name, File::from(file)))
    };
    names.into_iter().filter_map(open).collect()
}

/// `source`, compressed into a file that no longer has a name. Blocking.
fn compressed(source: Source, scratch: &PathBuf) -> io::Result<(File, u64, String)> {
    let file = File::options().read(true).write(true).create_new(true).open(scratch)?;
    std::fs::remove_file(scratch)?;
    let mut packer = GzEncoder::new(file, Compression::fast());
    match source {
        Source::Text(text) => packer.write_all(text.as_bytes())?,
        Source::File(file) => {
            if io::copy(&mut file.take(LARGEST + 1), &mut packer)? > LARGEST {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large"));
            }
        }
    }
    let mut file = packer.finish()?;
    let length = file.stream_position()?;
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    file.rewind()?;
    Ok((file, length, hex::encode(hash.finalize())))
}

#[cfg(test)]
mod tests;
