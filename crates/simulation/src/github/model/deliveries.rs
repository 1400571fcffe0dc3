//! Webhooks and the log of their deliveries.
//!
//! GitHub tries once. What it tried, and what came back, can be read for some days, and a delivery can be asked for
//! again: the same body under the same GUID, a new entry in the log.

use domain::clock::Timestamp;
use domain::ids::JobId;
use serde_json::json;

use super::{Model, Refusal};

/// Deliveries kept.
const LOG: usize = 10_000;

/// A webhook to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// `X-GitHub-Delivery`; the same for every attempt.
    pub guid: String,
    /// `X-GitHub-Event`.
    pub event: String,
    /// The payload's `action`, if it has one.
    pub action: Option<String>,
    /// The job it is about.
    pub job: Option<JobId>,
    /// The JSON text, as it was when the event happened.
    pub body: String,
    /// Whether somebody asked for this attempt.
    pub redelivery: bool,
}

/// What came of sending a webhook once.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// The receiver's status; 502 when it could not be reached, 504 when it did not answer in time.
    pub status_code: u16,
    /// GitHub's words: `OK`, `Invalid HTTP Response: 500`, `timed out`, `failed to connect to host`.
    pub status: String,
    /// Seconds it took.
    pub duration: f64,
}

/// An entry of the delivery log.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Grows with time.
    pub id: u64,
    /// What was sent.
    pub webhook: Webhook,
    /// What came back.
    pub attempt: Attempt,
    /// When.
    pub delivered_at: Timestamp,
}

impl Model {
    /// Sends the `ping` event, as GitHub does when a webhook is set up.
    pub fn ping(&mut self) {
        let body = json!({
            "zen": "Keep it logically awesome.",
            "hook_id": 1,
            "hook": {
                "type": "App", "id": 1, "name": "web", "active": true, "events": ["workflow_job"],
                "config": {"content_type": "json", "insecure_ssl": "0"},
            },
        });
        self.emit("ping", None, None, body.to_string());
    }

    /// Writes the outcome of an attempt into the log; answers its id there.
    pub fn record_attempt(&mut self, webhook: Webhook, attempt: Attempt, now: Timestamp) -> u64 {
        let id = self.next_id();
        self.counters.delivered(attempt.status_code);
        self.log.push_back(Delivery { id, webhook, attempt, delivered_at: now });
        while self.log.len() > LOG {
            self.log.pop_front();
        }
        self.changed();
        id
    }

    /// The log, newest first, beginning below `before`.
    pub fn deliveries(&self, before: Option<u64>) -> impl Iterator<Item = &Delivery> {
        let end = before.map_or(self.log.len(), |before| self.log.partition_point(|d| d.id < before));
        self.log.iter().take(end).rev()
    }

    /// One entry.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn delivery(&self, id: u64) -> Result<&Delivery, Refusal> {
        let place = self.log.binary_search_by_key(&id, |d| d.id).map_err(|_| Refusal::NotFound)?;
        self.log.get(place).ok_or(Refusal::NotFound)
    }

    /// `POST /app/hook/deliveries/{id}/attempts`: the same webhook once more.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn redeliver(&mut self, id: u64) -> Result<(), Refusal> {
        let webhook = Webhook { redelivery: true, ..self.delivery(id)?.webhook.clone() };
        self.counters.redeliveries += 1;
        self.outbox.push(webhook);
        self.changed();
        Ok(())
    }

    pub(super) fn emit_job(&mut self, id: JobId) {
        if let Some((action, body)) = self.job_event(id) {
            self.emit("workflow_job", Some(action.to_owned()), Some(id), body);
        }
    }

    fn emit(&mut self, event: &str, action: Option<String>, job: Option<JobId>, body: String) {
        let token = self.rng.token();
        let (a, b, c, d, e) = (&token[..8], &token[8..12], &token[12..16], &token[16..20], &token[20..]);
        let guid = format!("{a}-{b}-{c}-{d}-{e}");
        self.outbox.push(Webhook { guid, event: event.to_owned(), action, job, body, redelivery: false });
        self.changed();
    }
}
