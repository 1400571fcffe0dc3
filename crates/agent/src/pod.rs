//! An agent in a Kubernetes pod: its hand-over is mounted before it starts, its end is its exit, its word is the exit
//! code and the termination message. It asks neither Kubernetes nor a cloud.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use domain::handover::{Credential, HandOver as Document};
use domain::ids::RunnerKey;
use domain::report::{AgentReport, AgentStatus};
use provider::handover::{Error, HandOver};

use crate::report::{Channel, Letter, Undelivered};

/// Told once the runner listens or has a job; a probe of the pod looks for it.
pub const LISTENING: &str = "/tmp/runs-fleet-listening";
/// Kubernetes keeps this much of a termination message.
const LONGEST: usize = 4096;

/// The hand-over is missing or cannot be used.
const NO_HAND_OVER: u8 = 64;
/// There is no runner, or GitHub does not take it.
const NO_RUNNER: u8 = 65;
/// A part of the agent panicked.
const PANIC: u8 = 70;
/// Somebody wanted the pod's end.
const INTERRUPTED: u8 = 75;
/// The job ran as long as it may.
const CEILING: u8 = 124;

/// The exit code that says what the report says; `None` when there was nothing to report.
pub fn exit_code(report: Option<&AgentReport>) -> u8 {
    let Some(report) = report else { return NO_HAND_OVER };
    let error = report.error.as_deref().unwrap_or_default();
    let is = |kinds: &[&str]| kinds.iter().any(|kind| error.starts_with(kind));
    match report.status {
        AgentStatus::Started | AgentStatus::Success => 0,
        AgentStatus::Interrupted => INTERRUPTED,
        AgentStatus::Timeout => CEILING,
        AgentStatus::BootstrapFailed => NO_HAND_OVER,
        AgentStatus::Failure if is(&["config_invalid"]) => NO_HAND_OVER,
        AgentStatus::Failure if is(&["download_failed", "registration_failed", "execution_failed"]) => NO_RUNNER,
        AgentStatus::Failure if is(&["agent panic"]) => PANIC,
        // The runner's own, where it has one.
        AgentStatus::Failure => u8::try_from(report.exit_code).ok().filter(|code| *code != 0).unwrap_or(1),
    }
}

/// The hand-over as files, one field each, in the directories of a ConfigMap and a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Of the ConfigMap.
    pub config: PathBuf,
    /// Of the Secret.
    pub secrets: PathBuf,
}

impl Mounted {
    /// Reads it.
    ///
    /// # Errors
    /// A sentence.
    pub fn read(&self) -> Result<Document, String> {
        let config = |key: &str| field(&self.config, key);
        let secret = |key: &str| field(&self.secrets, key).map(Credential::new);
        let document = Document {
            org: config("org")?,
            repo: config("repo")?,
            run_id: config("run_id")?,
            job_id: config("job_id")?,
            runner_name: config("runner_name")?,
            runner_group: config("runner_group")?,
            dispatch_id: config("dispatch_id")?,
            cache_url: config("cache_url")?,
            server_url: config("server_url")?,
            created_at: config("created_at")?.parse().ok(),
            idle_exit_seconds: config("idle_exit_seconds")?.parse().ok(),
            max_runtime_minutes: config("max_runtime_minutes")?.parse().ok(),
            labels: labels(&config("labels")?),
            jit_config: secret("jit_config")?,
            jit_token: secret("jit_token")?,
            cache_token: secret("cache_token")?,
            telemetry_token: secret("telemetry_token")?,
            ..Document::default()
        };
        match document.jit_config.is_empty() && document.jit_token.is_empty() {
            true => Err("no runner credential".to_owned()),
            false => Ok(document),
        }
    }
}

/// The content of a file without its blanks; empty when there is none.
fn field(dir: &Path, key: &str) -> Result<String, String> {
    match fs::read_to_string(dir.join(key)) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(format!("{key}: {error}")),
    }
}

/// A JSON array of strings, or names between commas.
fn labels(text: &str) -> Vec<String> {
    let split = || text.split(',').map(str::trim).filter(|label| !label.is_empty()).map(str::to_owned).collect();
    serde_json::from_str(text).unwrap_or_else(|_| split())
}

const READS_ONLY: &str = "the agent only reads its own hand-over";

/// A hand-over that is there from the start.
pub struct Ready<F>(pub F);

#[async_trait]
impl<F: Fn() -> Result<Document, String> + Send + Sync + 'static> HandOver for Ready<F> {
    async fn get(&self, _: &RunnerKey) -> Result<Option<Document>, Error> {
        (self.0)().map(Some).map_err(Error::Invalid)
    }
    async fn put(&self, _: &RunnerKey, _: &Document) -> Result<(), Error> {
        Err(Error::Deployment(READS_ONLY.to_owned()))
    }
    async fn delete(&self, _: &RunnerKey) -> Result<(), Error> {
        Err(Error::Deployment(READS_ONLY.to_owned()))
    }
    async fn list(&self) -> Result<Vec<RunnerKey>, Error> {
        Err(Error::Deployment(READS_ONLY.to_owned()))
    }
}

/// The file that Kubernetes shows as the container's last word. Whoever may look at the pod reads it, so the proof of the
/// report stays out.
#[derive(Debug, Clone)]
pub struct LastWord(pub PathBuf);

#[async_trait]
impl Channel for LastWord {
    async fn deliver(&self, letter: &Letter) -> Result<(), Undelivered> {
        if letter.report.status == AgentStatus::Started {
            return Ok(());
        }
        let mut report = AgentReport { token: None, ..letter.report.clone() };
        let mut text = report.encode();
        if text.len() > LONGEST {
            report.tool_cache_misses = Vec::new();
            text = report.encode();
        }
        fs::write(&self.0, text).map_err(|error| Undelivered::Again(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_what_the_report_says() {
        use AgentStatus::{BootstrapFailed, Failure, Interrupted, Success, Timeout};
        let rows = [
            (Success, 0, "", 0),
            (Interrupted, -1, "killed after timeout", 75),
            (Timeout, -1, "max runtime 1m exceeded", 124),
            (BootstrapFailed, 0, "config_invalid: no runner credential", 64),
            (Failure, -1, "config_invalid: repo must be owner/name", 64),
            (Failure, -1, "download_failed: x", 65),
            (Failure, -1, "registration_failed: x", 65),
            (Failure, -1, "execution_failed: run.sh not found", 65),
            (Failure, -1, "agent panic: x", 70),
            (Failure, 7, "runner_version_deprecated", 7),
            (Failure, 42, "", 42),
            (Failure, -1, "runner killed by signal 9", 1),
        ];
        for (status, code, error, expected) in rows {
            let mut report = AgentReport::new("p".into(), status);
            (report.exit_code, report.error) = (code, Some(error.to_owned()));
            assert_eq!(exit_code(Some(&report)), expected, "{status:?} {error}");
        }
        assert_eq!(exit_code(None), 64);
    }

    #[test]
    fn a_hand_over_is_read_from_its_files() {
        let root = tempfile::tempdir().unwrap();
        let mounted = Mounted { config: root.path().join("config"), secrets: root.path().join("secrets") };
        fs::create_dir(&mounted.config).unwrap();
        fs::create_dir(&mounted.secrets).unwrap();
        let write = |dir: &Path, key: &str, text: &str| fs::write(dir.join(key), text).unwrap();
        write(&mounted.config, "repo", "o/r\n");
        write(&mounted.config, "idle_exit_seconds", "300");
        assert_eq!(mounted.read().unwrap_err(), "no runner credential");
        write(&mounted.secrets, "jit_config", " jit \n");
        for (text, expected) in [("[\"a\",\"b,c\"]", vec!["a", "b,c"]), (" a ,\t, b", vec!["a", "b"]), ("[]", vec![])] {
            write(&mounted.config, "labels", text);
            assert_eq!(mounted.read().unwrap().labels, expected);
        }
        let document = mounted.read().unwrap();
        assert_eq!((document.repo.as_str(), document.jit_config.expose()), ("o/r", "jit"));
        assert_eq!((document.idle_exit_seconds, document.max_runtime_minutes), (Some(300), None));
    }

    #[tokio::test]
    async fn the_last_word_is_short_and_without_proof() {
        let root = tempfile::tempdir().unwrap();
        let word = LastWord(root.path().join("termination-log"));
        let mut report = AgentReport::new("p".into(), AgentStatus::Success);
        report.token = Some(Credential::new("proof"));
        report.tool_cache_misses = vec!["x".repeat(200); 50];
        let deliver = async |report: &AgentReport| {
            word.deliver(&Letter { report: report.clone(), queue_url: None }).await.unwrap();
            fs::read_to_string(&word.0).unwrap_or_default()
        };
        let started = AgentReport { status: AgentStatus::Started, ..report.clone() };
        assert_eq!(deliver(&started).await, "");
        let text = deliver(&report).await;
        assert!(text.len() <= LONGEST && text.contains("success") && !text.contains("proof"), "{text}");
    }
}
