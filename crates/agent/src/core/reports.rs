//! What is told to the orchestrator, and when it is left out: what was not measured is absent.

use std::time::Duration;

use domain::report::{AgentReport, AgentStatus};

use super::run::{Claim, Run};
use super::verdict::Verdict;
use super::{Agent, Moment};

impl Agent {
    /// A report with the identity of this machine and nothing else.
    pub(super) fn blank(&self, status: AgentStatus) -> AgentReport {
        let mut report = AgentReport::new(self.key.clone(), status);
        report.agent_version = Some(env!("CARGO_PKG_VERSION").to_owned());
        report
    }

    fn report(&self, status: AgentStatus, claim: &Claim, run: Option<&Run>) -> AgentReport {
        let mut report = self.blank(status);
        let after_claim = |at: Duration| at.saturating_sub(claim.at.elapsed).as_secs_f64();
        report.job_id = claim.assignment.job;
        report.run_id = Some(claim.assignment.run.clone()).filter(|run| !run.is_empty());
        report.dispatch_id = claim.assignment.dispatch.clone();
        report.runner_version = claim.version.clone();
        report.token = Some(claim.assignment.token.clone()).filter(|token| !token.is_empty());
        report.runner_listening_seconds = run.and_then(|run| run.listening).map(after_claim);
        report.job_pickup_seconds = run.and_then(|run| run.received).map(after_claim);
        report
    }

    pub(super) fn started(&self, now: Moment, claim: &Claim, run: &Run) -> AgentReport {
        let mut report = self.report(AgentStatus::Started, claim, Some(run));
        report.started_at = Some(now.wall);
        report.job_pickup_seconds = None;
        report.bootstrap = claim.bootstrap;
        report
    }

    pub(super) fn completion(&self, now: Moment, claim: &Claim, run: Option<&Run>, verdict: Verdict) -> AgentReport {
        let mut report = self.report(verdict.status, claim, run);
        report.exit_code = verdict.exit_code.into();
        report.error = verdict.error.map(|error| line(&error));
        report.interrupted_by = verdict.interrupted_by.map(str::to_owned);
        report.started_at = Some(run.map_or(claim.at.wall, |run| run.spawned.wall));
        report.completed_at = Some(now.wall);
        report.spot_notice_at = self.spot.map(|spot| spot.seen);
        report.resource_warnings = self.low.iter().map(|resource| resource.as_str().to_owned()).collect();
        if let Some(run) = run {
            report.duration_seconds = now.elapsed.saturating_sub(run.spawned.elapsed).as_secs();
            // A listener that came up and got nothing is known to be idle; a silent one is not known to be anything.
            report.job_received = match (run.received, run.listening) {
                (Some(_), _) => Some(true),
                (None, Some(_)) => Some(false),
                (None, None) => None,
            };
        }
        report
    }
}

/// One printable line of at most 1,024 bytes.
pub(super) fn line(text: &str) -> String {
    let mut line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.floor_char_boundary(1024));
    line
}
