//! What an event of EventBridge says. Pure.
//!
//! The rule that feeds the queue matches every machine of the account: most events are about machines of others, and
//! are no errors. Only a notice that names no machine, although it must, can never be made use of.

use domain::clock::Timestamp;
use domain::ids::RunnerKey;
use domain::message::JobMessage;
use domain::wire::{self, Fields, Poison, Reason};
use serde_json::Value;

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Envelope {
    /// EventBridge's id: the same for every delivery.
    pub(crate) id: Option<String>,
    /// When it happened, where that can be read.
    pub(crate) at: Option<Timestamp>,
    /// What happened.
    pub(crate) what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What {
    /// A spot machine is taken back in about two minutes, however the notice calls it.
    Interruption {
        /// Which.
        key: RunnerKey,
        /// Where, when the notice says so.
        zone: Option<String>,
    },
    /// A spot machine is likely to be taken back.
    Rebalance {
        /// Which.
        key: RunnerKey,
    },
    /// A machine changed its state.
    StateChange {
        /// Which.
        key: RunnerKey,
        /// To what.
        state: Change,
    },
    /// A job message on the wrong queue.
    Job(Box<JobMessage>),
    /// Nothing that concerns machines.
    Other,
}

impl What {
    /// The name in metrics and logs.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Interruption { .. } => "spot_interruption",
            Self::Rebalance { .. } => "rebalance",
            Self::StateChange { .. } => "state_change",
            Self::Job(_) => "misrouted_job",
            Self::Other => "other",
        }
    }
}

/// The states worth telling apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Off, or gone: it runs nothing any more.
    Ended,
    /// On its way there, or up.
    Passing,
    /// A word nobody knows.
    Unknown,
}

/// Reads a body. `account` is ours, if known.
pub(crate) fn decode(body: &str, account: Option<&str>) -> Result<Envelope, Poison> {
    let fields = wire::parse(body)?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let what = match text("detail-type") {
        Some("EC2 Spot Instance Interruption Warning") => {
            What::Interruption { key: machine(&fields, account)?, zone: zone(&fields) }
        }
        Some("EC2 Instance Rebalance Recommendation") => What::Rebalance { key: machine(&fields, account)? },
        Some("EC2 Instance State-change Notification") => {
            let state = match fields.get("detail").and_then(|detail| detail.get("state")).and_then(Value::as_str) {
                Some("stopped" | "terminated") => Change::Ended,
                Some("pending" | "running" | "stopping" | "shutting-down") => Change::Passing,
                _ => Change::Unknown,
            };
            What::StateChange { key: machine(&fields, account)?, state }
        }
        None if ["job_id", "run_id"].iter().all(|name| fields.get(*name).is_some_and(Value::is_i64)) => {
            What::Job(Box::new(JobMessage::decode(body)?.message))
        }
        _ => What::Other,
    };
    Ok(Envelope {
        id: text("id").map(str::to_owned),
        at: text("time").and_then(|at| wire::instant(at).ok().flatten()),
        what,
    })
}

fn machine(fields: &Fields, account: Option<&str>) -> Result<RunnerKey, Poison> {
    let Some(Value::Object(detail)) = fields.get("detail") else {
        return Err(Poison::at(Reason::BadType, "detail"));
    };
    let key = detail.get("instance-id").and_then(Value::as_str).unwrap_or_default();
    if key.is_empty() {
        return Err(Poison::at(Reason::MissingInstanceId, "instance-id"));
    }
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if !key.strip_prefix("i-").is_some_and(|id| (8..=17).contains(&id.len()) && id.bytes().all(hex)) {
        return Err(Poison::at(Reason::BadValue, "instance-id"));
    }
    match (fields.get("account").and_then(Value::as_str), account) {
        (Some(theirs), Some(ours)) if theirs != ours => Err(Poison::at(Reason::BadValue, "account")),
        _ => Ok(RunnerKey::new(key)),
    }
}

/// Interruption warnings carry the zone where other ARNs have the region.
fn zone(fields: &Fields) -> Option<String> {
    let arn = fields.get("resources")?.get(0)?.as_str()?;
    arn.split(':').nth(3).filter(|part| is_zone(part)).map(str::to_owned)
}

/// `us-east-1a`, `us-gov-west-1b`: a region's words, then its number and the zone's letter.
fn is_zone(text: &str) -> bool {
    let words: Vec<&[u8]> = text.split('-').map(str::as_bytes).collect();
    let [first, middle @ .., last] = words.as_slice() else { return false };
    let lower = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_lowercase);
    first.len() == 2
        && lower(first)
        && !middle.is_empty()
        && middle.iter().all(|word| lower(word))
        && matches!(last, [number, letter] if number.is_ascii_digit() && letter.is_ascii_lowercase())
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
