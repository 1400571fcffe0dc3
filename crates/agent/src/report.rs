//! Sending reports.
//!
//! One task sends them, in order, so that the job never waits for a report and a completion never overtakes its
//! `started`. An undeliverable report is given up: sweeps of the orchestrator notice the machine's end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::Clock;
use domain::report::AgentReport;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::log::Log;

/// Tries per report.
const ATTEMPTS: u32 = 3;
/// Limit of one try.
const ATTEMPT: Duration = Duration::from_secs(10);

/// A report and where it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// The report.
    pub report: AgentReport,
    /// The queue, as far as one is known. Known before the report is written, or never.
    pub queue_url: Option<String>,
}

/// Why a letter is not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undelivered {
    /// Nobody said where reports go.
    Nowhere,
    /// It may go well the next time; it may even have arrived.
    Again(String),
    /// It will never go well.
    Never(String),
}

/// The way to the orchestrator.
#[async_trait]
pub trait Channel: Send + Sync + 'static {
    /// Delivers once; the letter is durable on return.
    async fn deliver(&self, letter: &Letter) -> Result<(), Undelivered>;
}

/// A directory of files; without one nothing is sent.
#[derive(Debug, Clone)]
pub struct Spool(pub Option<PathBuf>);

#[async_trait]
impl Channel for Spool {
    async fn deliver(&self, letter: &Letter) -> Result<(), Undelivered> {
        let Some(spool) = self.0.clone() else { return Err(Undelivered::Nowhere) };
        let hint = format!("{}-{}", letter.report.instance_id, letter.report.status.as_str());
        let spooled = spooled(spool, letter.report.encode(), hint).await;
        spooled.map_err(|error| Undelivered::Again(error.to_string()))
    }
}

/// What sending needs.
#[derive(Clone)]
pub struct Sender {
    /// The way.
    pub channel: Arc<dyn Channel>,
    /// Unit of the pauses between tries.
    pub retry_base: Duration,
    /// Stamps reports.
    pub clock: Arc<dyn Clock>,
    /// Knows the secrets.
    pub log: Log,
}

impl Sender {
    /// Sends what comes until the queue is closed. Answers whether the last report was accepted.
    pub async fn run(self, mut letters: mpsc::Receiver<Letter>) -> bool {
        let mut accepted = false;
        while let Some(letter) = letters.recv().await {
            accepted = self.send(letter).await;
        }
        accepted
    }

    async fn send(&self, mut letter: Letter) -> bool {
        let status = letter.report.status.as_str();
        letter.report.error = letter.report.error.map(|error| self.log.redacted(&error));
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(self.retry_base * 2_u32.pow(attempt)).await;
            }
            letter.report.sent_at_ms = Some(self.clock.now().as_millisecond());
            let error = match tokio::time::timeout(ATTEMPT, self.channel.deliver(&letter)).await {
                Ok(Ok(())) => {
                    self.log.info("telemetry_sent", &[("status", status.into())]);
                    return true;
                }
                Ok(Err(Undelivered::Nowhere)) => {
                    let fields = [("status", status.into()), ("reason", "no queue is known".into())];
                    self.log.warn("telemetry_skipped", &fields);
                    return true;
                }
                Ok(Err(Undelivered::Never(error))) => {
                    self.failed(status, &error);
                    return false;
                }
                Ok(Err(Undelivered::Again(error))) => error,
                Err(_) => "no answer in time".to_owned(),
            };
            self.failed(status, &error);
        }
        false
    }

    fn failed(&self, status: &str, error: &str) {
        self.log.warn("telemetry_failed", &[("status", status.into()), ("error", Value::from(error))]);
    }
}

#[cfg(feature = "local")]
async fn spooled(spool: PathBuf, body: String, hint: String) -> std::io::Result<()> {
    tokio::task::spawn_blocking(move || queue::spool::send(&spool, &body, &hint))
        .await
        .map_err(std::io::Error::other)?
}

#[cfg(not(feature = "local"))]
async fn spooled(_: PathBuf, _: String, _: String) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests;
