//! An event about a started or finished job, on the main queue.

use std::collections::BTreeMap;

use domain::clock::Timestamp;
use domain::wire::{self, Poison, Reason};
use serde::Serialize;
use serde_json::Value;

use super::WorkflowJobEvent;
use super::delivery::KIND;

const NAME: &str = "workflow_job_event";
const VERSION: u64 = 1;

/// The queued form of a `workflow_job` event: verified, decoded, and waiting to be bound or completed.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedEvent {
    /// The delivery's GUID, for logs; empty for an event we found out ourselves.
    pub delivery: String,
    /// When the webhook was read.
    pub received_at: Option<Timestamp>,
    /// The event.
    pub event: WorkflowJobEvent,
}

#[derive(Serialize)]
struct Envelope<'a> {
    v: u64,
    kind: &'static str,
    delivery: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_at: Option<Timestamp>,
    event: &'a WorkflowJobEvent,
}

impl QueuedEvent {
    /// The body.
    #[expect(clippy::expect_used, reason = "text, numbers and times always serialise")]
    pub fn encode(&self) -> String {
        let Self { delivery, received_at, event } = self;
        let envelope = Envelope { v: VERSION, kind: NAME, delivery, received_at: *received_at, event };
        serde_json::to_string(&envelope).expect("plain data")
    }

    /// Reads a body; the second value names the fields that could not be read and were left out.
    ///
    /// # Errors
    /// [`Poison`] when there is no event of a form we know in it.
    pub fn decode(body: &str) -> Result<(Self, Vec<&'static str>), Poison> {
        let mut fields = wire::parse(body)?;
        let mut warnings = Vec::new();
        if fields.remove("v").and_then(|v| v.as_u64()) != Some(VERSION) {
            return Err(Poison::at(Reason::BadValue, "v"));
        }
        let mut event = match fields.remove("event") {
            None | Some(Value::Null) => return Err(Poison::at(Reason::BadValue, "event")),
            Some(Value::Object(event)) => event,
            Some(_) => return Err(Poison::at(Reason::BadType, "event")),
        };
        event.retain(|_, value| !value.is_null());
        if event.get("job_id").is_none_or(|id| id.as_i64().is_some_and(|id| id < 1)) {
            return Err(Poison::at(Reason::BadValue, "job_id"));
        }
        let event = serde_json::from_value(event.into()).map_err(|_| Poison::at(Reason::BadType, "event"))?;
        let delivery = wire::take(&mut fields, "delivery", &mut warnings);
        let received_at = wire::take(&mut fields, "received_at", &mut warnings);
        Ok((Self { delivery, received_at, event }, warnings))
    }

    /// The FIFO group: apart from the job's own, so that a cancellation overtakes the launch it cancels.
    pub fn group(&self) -> String {
        format!("ev:{}", self.event.job_id)
    }

    /// The deduplication id: one per job, action and runner, however often GitHub delivers it.
    pub fn dedup_id(&self) -> String {
        let WorkflowJobEvent { job_id, action, runner_id, .. } = &self.event;
        let runner = runner_id.map_or(0, |id| id.get());
        wire::sha256_hex(&format!("wj:{job_id}:{}:{runner}", action.as_str()))
    }

    /// The message attributes that mark it.
    pub fn attributes() -> BTreeMap<String, String> {
        BTreeMap::from([(KIND.to_owned(), NAME.to_owned())])
    }

    /// Whether `kind` is ours.
    pub(super) fn is_kind(kind: &str) -> bool {
        kind == NAME
    }
}
