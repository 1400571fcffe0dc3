//! What an agent does about the work of a predecessor that died.

use std::time::Duration;

use domain::handover::HandOver as Document;
use domain::report::AgentReport;

use super::{LAST_LOOK, Shell, hide_secrets};
use crate::claim;
use crate::core::Input;

impl Shell {
    /// Ends what a dead predecessor left running and finds out whose job it was.
    pub(super) async fn recover(&mut self, reason: &str) -> Option<Input> {
        self.parts.log.warn("recover", &[("reason", reason.into())]);
        self.kill().await;
        let document = self.parts.store.get(&self.parts.environment.key).await.ok().flatten();
        let mut known = match document {
            // The token is in no state file; without it the report may still be believed.
            Some(document) => {
                hide_secrets(&document, &self.parts.log);
                if self.state.queue_url.is_empty() {
                    self.state.queue_url.clone_from(&document.termination_queue_url);
                }
                claim::assignment(&document)
            }
            None => claim::assignment(&Document::default()),
        };
        if !self.state.job_id.is_empty() {
            known.job = self.state.job_id.parse().ok();
            known.run.clone_from(&self.state.run_id);
            known.dispatch = Some(self.state.dispatch_id.as_str()).filter(|id| !id.is_empty()).map(Into::into);
        }
        known.job?;
        let claimed_at = self.state.claimed_at.unwrap_or_else(|| self.parts.clock.now());
        Some(Input::Recovered(Box::new(known), claimed_at, reason.to_owned()))
    }

    /// Sends the report that a predecessor decided, and ends what it began to end.
    pub(super) async fn resume(&mut self, completion: &str) {
        self.parts.log.warn("resume", &[]);
        self.kill().await;
        let mut report = AgentReport::decode(completion).ok().map(|(report, _)| report);
        let stored = tokio::time::timeout(LAST_LOOK, self.parts.store.get(&self.parts.environment.key)).await;
        if let (Some(report), Ok(Ok(Some(document)))) = (&mut report, stored) {
            hide_secrets(&document, &self.parts.log);
            // The proof is in no state file; without it the report may still be believed.
            report.token = Some(document.telemetry_token).filter(|token| !token.is_empty());
        }
        self.finish(report, Duration::ZERO).await;
    }
}
