//! Messages as SQS has them. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use aws_sdk_sqs::operation::delete_message_batch::DeleteMessageBatchOutput;
use aws_sdk_sqs::types::{MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName};
use aws_smithy_types::error::operation::BuildError;
use domain::clock::Timestamp;
use tokio::time::Instant;

use super::fault::entry_fault;
use crate::{Delivery, Depth, Error, Handle};

/// Most attributes of one message.
const MAX_ATTRIBUTES: usize = 10;

/// SQS knows whole seconds; a part of one counts as one, so that nothing ends before its time.
pub(super) fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(i32::MAX)
}

/// String attributes. An empty value is not allowed and is left out.
pub(super) fn attributes(
    attributes: &BTreeMap<String, String>,
) -> Result<HashMap<String, MessageAttributeValue>, BuildError> {
    let value = |value: &str| MessageAttributeValue::builder().data_type("String").string_value(value).build();
    let kept = attributes.iter().filter(|(_, text)| !text.is_empty());
    kept.map(|(name, text)| Ok((name.clone(), value(text)?))).collect()
}

/// Makes room for our two attributes of a dead letter beside as many as a message can have. Returns what had to go.
pub(super) fn fit(attributes: &mut BTreeMap<String, String>) -> Vec<String> {
    let over = attributes.len().saturating_sub(MAX_ATTRIBUTES);
    let foreign = attributes.keys().filter(|name| !["PoisonReason", "SourceMessageId"].contains(&name.as_str()));
    let gone: Vec<String> = foreign.rev().take(over).cloned().collect();
    attributes.retain(|name, _| !gone.contains(name));
    gone
}

/// A received message; `None` without a receipt handle, for nothing can be done with it.
pub(super) fn delivery(message: aws_sdk_sqs::types::Message, deadline: Instant) -> Option<Delivery> {
    let handle = message.receipt_handle.filter(|handle| !handle.is_empty())?;
    let system = message.attributes.unwrap_or_default();
    let number = |name| system.get(&name).and_then(|text| text.parse::<i64>().ok());
    let attributes = message.message_attributes.unwrap_or_default();
    Some(Delivery {
        id: message.message_id.unwrap_or_default(),
        body: message.body.unwrap_or_default(),
        handle: Handle(handle),
        attributes: attributes.into_iter().filter_map(|(name, value)| Some((name, value.string_value?))).collect(),
        sent_at: number(MessageSystemAttributeName::SentTimestamp)
            .and_then(|millis| Timestamp::from_millisecond(millis).ok()),
        receive_count: number(MessageSystemAttributeName::ApproximateReceiveCount)
            .and_then(|count| u32::try_from(count).ok())
            .filter(|count| *count > 0),
        group: system.get(&MessageSystemAttributeName::MessageGroupId).cloned(),
        deadline,
    })
}

/// The first delivery of each group, and those behind them.
pub(super) fn heads(deliveries: Vec<Delivery>) -> (Vec<Delivery>, Vec<Delivery>) {
    let mut groups = HashSet::new();
    deliveries.into_iter().partition(|delivery| match &delivery.group {
        Some(group) => groups.insert(group.clone()),
        None => true,
    })
}

/// The answer to each of `count` entries of a batch, whose ids are their positions.
pub(super) fn answers(count: usize, output: &DeleteMessageBatchOutput) -> Vec<Result<(), Error>> {
    let answer = |position: usize| {
        let id = position.to_string();
        if output.successful().iter().any(|entry| entry.id() == id) {
            return Ok(());
        }
        let failed = output.failed().iter().find(|entry| entry.id() == id);
        Err(failed.map_or_else(|| Error::Unavailable("no answer to an entry of a batch".into()), entry_fault))
    };
    (0..count).map(answer).collect()
}

/// How full a queue is, by its attributes. Messages with a delay are neither delivered nor gone, so they count as
/// visible.
pub(super) fn depth(attributes: &HashMap<QueueAttributeName, String>) -> Depth {
    let number = |name| attributes.get(&name).and_then(|text| text.parse::<u64>().ok());
    let delayed = number(QueueAttributeName::ApproximateNumberOfMessagesDelayed).unwrap_or(0);
    Depth {
        visible: number(QueueAttributeName::ApproximateNumberOfMessages).map(|visible| visible + delayed),
        in_flight: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        oldest: None,
    }
}
