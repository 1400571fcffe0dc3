//! Sending reports.
//!
//! One task sends them, in order, so that the job never waits for a report and a completion never overtakes its
//! `started`. An undeliverable report is given up: sweeps of the orchestrator notice the machine's end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::Clock;
use domain::report::AgentReport;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::log::Log;

/// Tries per report.
const ATTEMPTS: u32 = 3;
/// Limit of one try.
const ATTEMPT: Duration = Duration::from_secs(10);

/// What sending needs.
#[derive(Clone)]
pub struct Sender {
    /// The spool directory; without one nothing is sent.
    pub spool: Option<PathBuf>,
    /// Unit of the pauses between tries.
    pub retry_base: Duration,
    /// Stamps reports.
    pub clock: Arc<dyn Clock>,
    /// Knows the secrets.
    pub log: Log,
}

impl Sender {
    /// Sends what comes until the queue is closed. Answers whether the last report was accepted.
    pub async fn run(self, mut reports: mpsc::Receiver<AgentReport>) -> bool {
        let mut accepted = false;
        while let Some(report) = reports.recv().await {
            accepted = self.send(report).await;
        }
        accepted
    }

    async fn send(&self, mut report: AgentReport) -> bool {
        let status = report.status.as_str();
        let Some(spool) = &self.spool else {
            self.log.warn("telemetry_skipped", &[("status", status.into()), ("reason", "no queue is known".into())]);
            return true;
        };
        report.error = report.error.map(|error| self.log.redacted(&error));
        let hint = format!("{}-{status}", report.instance_id);
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(self.retry_base * 2_u32.pow(attempt)).await;
            }
            report.sent_at_ms = Some(self.clock.now().as_millisecond());
            match tokio::time::timeout(ATTEMPT, spooled(spool.clone(), report.encode(), hint.clone())).await {
                Ok(Ok(())) => {
                    self.log.info("telemetry_sent", &[("status", status.into())]);
                    return true;
                }
                Ok(Err(error)) => self.failed(status, &error.to_string()),
                Err(_) => self.failed(status, "no answer in time"),
            }
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
