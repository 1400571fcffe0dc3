//! What an operator should know about a queue before it is used. Nothing here stops a start.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;

use super::SqsQueue;
use crate::{Error, Queue};

/// A job may wait this long.
const RETENTION: Duration = Duration::from_secs(86_400);

/// Reads the attributes of the queue that jobs go through, once, and returns warnings, one line each.
pub async fn check(queue: &SqsQueue) -> Vec<String> {
    let read = queue.attributes(vec![QueueAttributeName::All], queue.limits.call).await;
    let found = match read {
        Ok(attributes) => warnings(queue.fifo, &attributes),
        Err(Error::Unauthorized(why)) => {
            vec![format!("its attributes may not be read (sqs:GetQueueAttributes): {why}")]
        }
        Err(error) => vec![format!("its attributes could not be read: {error}")],
    };
    found.into_iter().map(|warning| format!("queue {}: {warning}", queue.name())).collect()
}

/// What is wrong with a queue whose URL says `fifo`.
pub(super) fn warnings(fifo: bool, attributes: &HashMap<QueueAttributeName, String>) -> Vec<String> {
    let mut warnings = Vec::new();
    let retention = attributes.get(&QueueAttributeName::MessageRetentionPeriod);
    if let Some(seconds) = retention.and_then(|text| text.parse::<u64>().ok())
        && seconds < RETENTION.as_secs()
    {
        let wanted = RETENTION.as_secs();
        warnings.push(format!(
            "messages are kept for {seconds} s, less than the {wanted} s a job may wait; SQS deletes older ones silently"
        ));
    }
    if attributes.get(&QueueAttributeName::RedrivePolicy).is_none_or(String::is_empty) {
        warnings.push("it has no redrive policy: messages that keep failing circle until they expire".into());
    }
    if !fifo {
        warnings.push("its URL does not end in .fifo: messages of one job may be delivered together".into());
    }
    // SQS leaves the attribute out where it is false.
    let really = attributes.get(&QueueAttributeName::FifoQueue).is_some_and(|flag| flag == "true");
    if really != fifo {
        let kind = |fifo| if fifo { "FIFO" } else { "standard" };
        warnings.push(format!("its URL says {}, its attributes say {}", kind(fifo), kind(really)));
    }
    warnings
}
