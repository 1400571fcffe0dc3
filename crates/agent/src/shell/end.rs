//! The end of an agent's work: nothing runs on, what was seen is told, the machine goes.
//!
//! The report is written down before anything else is done about it, so that a successor sends the same one.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use domain::report::{AgentReport, AgentStatus};
use futures::FutureExt;
use provider::processes::Members;
use tokio::sync::mpsc;

use super::Shell;
use super::ready::cgroup_of;
use crate::environment::Backend;
use crate::intercept::Status;
use crate::job;
use crate::logs::Upload;
use crate::pod;
use crate::report::Letter;
use crate::runner;
use crate::state::Phase;
use crate::tools;

/// A completion waits this much longer when its `started` is still on its way.
const STARTED_GRACE: Duration = Duration::from_secs(5);
/// Limit of the clean-up behind the report.
const CLEAN_WITHIN: Duration = Duration::from_secs(30);

impl Shell {
    /// Ends everything that was started for the job, here or by a predecessor.
    pub(super) async fn kill(&self) {
        let session = self.job.as_ref().map(|job| job.process).or(self.state.runner);
        let members = Members { session, marker: self.parts.environment.machine.clone() };
        let cgroup = cgroup_of(&self.parts.environment);
        job::end(cgroup.as_ref(), &members, &self.parts.log).await;
    }

    /// The hand-over knows best where reports go.
    pub(super) fn letter(&self, report: AgentReport) -> Letter {
        let named = Some(&self.state.queue_url).filter(|url| !url.is_empty());
        Letter { report, queue_url: named.or(self.parts.environment.queue_url.as_ref()).cloned() }
    }

    /// Asks for the machine's end, once.
    pub(super) async fn end_machine(&mut self) -> bool {
        if let Some(arranged) = self.ended {
            return arranged;
        }
        let arranged = self.parts.machine.end(&self.parts.log).await;
        self.ended = Some(arranged);
        arranged
    }

    /// Leaves no process and no credential, reports, ends the machine. What the job left on the disk goes while the
    /// operating system shuts down.
    pub(super) async fn finish(&mut self, mut report: Option<AgentReport>, logs_within: Duration) {
        self.cancel.cancel();
        self.tasks.shutdown().await;
        self.watches.shutdown().await;
        let claimed = self.state.phase.is_some();
        let undecided = claimed && self.state.phase != Some(Phase::Finished);
        let (dir, log) = (self.parts.environment.runner_dir.clone(), self.parts.log.clone());
        if undecided {
            self.decide(report.as_ref());
        }
        self.kill().await;
        if let Some(report) = report.as_mut().filter(|_| undecided && self.job.is_some()) {
            self.look_back(report, logs_within).await;
            self.decide(Some(report));
        }
        if claimed {
            runner::wipe(&dir, &log);
        }
        if self.parts.environment.backend == Backend::Pod {
            self.exit_code = Some(pod::exit_code(report.as_ref()));
        }
        if self.send_last(report).await && claimed {
            self.reach(Phase::Finished);
        }
        if !self.spare_machine {
            self.end_machine().await;
        }
        if let Some(Ok(interception)) = self.interception.take() {
            interception.end(&log).await;
        }
        // A pod's disk goes with it.
        if claimed && self.parts.environment.backend != Backend::Pod {
            let whole = self.unpacked;
            let cleaning = tokio::task::spawn_blocking(move || runner::clean(&dir, whole, &log));
            let _ = tokio::time::timeout(CLEAN_WITHIN, cleaning).await;
        }
    }

    /// Writes down what will be reported, so that a successor says the same.
    pub(super) fn decide(&mut self, report: Option<&AgentReport>) {
        let without_proof = report.map(|report| {
            let error = report.error.as_deref().map(|error| self.parts.log.redacted(error));
            AgentReport { token: None, error, ..report.clone() }
        });
        self.state.completion = without_proof.map(|report| report.encode());
        self.reach(Phase::Finishing);
    }

    /// Adds what a run left to its report, and keeps its logs.
    pub(super) async fn look_back(&self, report: &mut AgentReport, logs_within: Duration) {
        let (environment, log) = (&self.parts.environment, &self.parts.log);
        let interception = match &self.interception {
            None => Status::Disabled,
            Some(Ok(interception)) => interception.status(),
            Some(Err(())) => Status::Failed,
        };
        report.cache_interception = Some(interception.as_str().to_owned());
        report.build_cache_interception = Some("disabled".to_owned());
        let root = environment.tool_cache.clone();
        let after = tokio::task::spawn_blocking(move || tools::snapshot(&root)).await.ok().flatten();
        if let (Some(before), Some(after)) = (&self.tools, &after) {
            report.tool_cache_misses = tools::added(before, after);
        }
        let (Some(document), Some(bucket)) = (&self.document, &self.parts.bucket) else { return };
        let account = self.launcher.as_ref().ok().and_then(|launcher| launcher.account.as_ref());
        let upload = Upload {
            bucket: Arc::clone(bucket),
            document,
            key: environment.key.as_str(),
            dir: &environment.runner_dir,
            owner: account.map(|account| account.uid),
            scratch: &environment.state_dir,
            ours: report.status != AgentStatus::Success,
        };
        let outcome = AssertUnwindSafe(upload.run(logs_within.min(environment.logs_within), log)).catch_unwind().await;
        report.log_upload = Some(outcome.map_or("failed", |outcome| outcome.as_str()).to_owned());
    }

    /// Sends the completion behind everything that is still to be sent; whether it was accepted.
    pub(super) async fn send_last(&mut self, report: Option<AgentReport>) -> bool {
        let Some(report) = report else { return true };
        let letter = self.letter(report);
        let limit = self.parts.environment.report_timeout + STARTED_GRACE;
        let sent = tokio::time::timeout(limit, async {
            // The sender ends when the only way to it is gone.
            let (closed, _) = mpsc::channel(1);
            let reports = std::mem::replace(&mut self.reports, closed);
            let _ = reports.send(letter).await;
            drop(reports);
            self.sending.join_next().await
        });
        matches!(sent.await, Ok(Some(Ok(true))))
    }
}
