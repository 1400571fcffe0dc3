//! What an event leads to.

use domain::clock::Timestamp;
use domain::message::JobMessage;

use super::{Action, WorkflowJobEvent};
use crate::labels::{LabelError, LabelSpec};

/// What to do about an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Route<'a> {
    /// Accept the job: [`job_message`].
    Accept(&'a LabelSpec),
    /// The job is meant for us, but its labels cannot be served: tell the operator, launch nothing.
    Refuse(&'a LabelError),
    /// GitHub gave the job to a runner: queue the event, bind.
    Bind,
    /// GitHub concluded the job: queue the event, complete.
    Complete,
    /// Not ours, or nothing happened that matters.
    Ignore,
}

/// Decides, given what the event's own labels parsed to. A job concerns us when its labels are ours, even if they
/// cannot be served, or when a runner of ours has it: any runner whose labels cover a job may get it.
pub fn route<'a>(event: &WorkflowJobEvent, labels: &'a Result<LabelSpec, LabelError>) -> Route<'a> {
    let relevant = event.on_our_runner() || labels.as_ref().map_or_else(LabelError::is_ours, |_| true);
    match (event.action, labels) {
        (Action::Queued, Ok(spec)) => Route::Accept(spec),
        (Action::Queued, Err(error)) if error.is_ours() => Route::Refuse(error),
        (Action::InProgress, _) if relevant => Route::Bind,
        (Action::Completed, _) if relevant => Route::Complete,
        _ => Route::Ignore,
    }
}

/// The message a `queued` event becomes. `queued_at` is the moment we accept it; the caller adds the trace context.
pub fn job_message(event: &WorkflowJobEvent, spec: &LabelSpec, queued_at: Timestamp) -> JobMessage {
    JobMessage {
        job_id: event.job_id,
        run_id: event.run_id,
        repo: event.repo.clone(),
        spec: spec.launch_spec(),
        original_label: spec.original_label.clone(),
        labels: event.labels.clone(),
        retry_count: 0,
        force_on_demand: false,
        dispatch_seq: 0,
        displaced_count: 0,
        run_attempt: event.run_attempt,
        installation_id: event.installation_id,
        job_name: event.name.clone(),
        workflow_name: event.workflow_name.clone(),
        created_at: event.created_at,
        queued_at: Some(queued_at),
        traceparent: None,
        unknown: serde_json::Map::new(),
    }
}
