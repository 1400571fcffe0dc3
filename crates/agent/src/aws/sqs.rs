//! Reports to an SQS queue.

use std::sync::Arc;

use async_trait::async_trait;
use domain::report::AgentReport;
use serde_json::{Value, json};

use super::{Aws, Error, Json};
use crate::report::{Channel, Letter, Undelivered};

impl Aws {
    /// `SendMessage`.
    async fn send_message(&self, message: &Value) -> Result<(), Error> {
        let call = Json {
            service: "sqs",
            endpoint: &self.endpoints.sqs,
            content_type: "application/x-amz-json-1.0",
            target: "AmazonSQS.SendMessage",
        };
        self.json(call, message).await.map(drop)
    }
}

/// What is sent. A FIFO queue refuses a message without a group, a standard one a message with a deduplication id.
fn message(queue_url: &str, report: &AgentReport) -> Value {
    let mut message = json!({"QueueUrl": queue_url, "MessageBody": report.encode()});
    if queue_url.ends_with(".fifo") {
        message["MessageGroupId"] = report.group().into();
        message["MessageDeduplicationId"] = report.dedup_id().into();
    }
    message
}

/// The queue that a letter names.
pub struct Queue {
    aws: Arc<Aws>,
}

impl Queue {
    /// Any queue of the account.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self { aws }
    }
}

#[async_trait]
impl Channel for Queue {
    async fn deliver(&self, letter: &Letter) -> Result<(), Undelivered> {
        let Some(url) = &letter.queue_url else { return Err(Undelivered::Nowhere) };
        self.aws.send_message(&message(url, &letter.report)).await.map_err(|error| match error {
            Error::NotFound(_) | Error::Refused(_) => Undelivered::Never(error.to_string()),
            Error::Throttled(_) | Error::NoAnswer(_) | Error::Denied(_) => Undelivered::Again(error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use domain::report::AgentStatus;

    use super::*;

    #[test]
    fn only_fifo_queues_get_a_group_and_a_deduplication_id() {
        let report = AgentReport::new("i-1".into(), AgentStatus::Started);
        let plain = message("https://sqs.eu-west-1.amazonaws.com/1/t", &report);
        assert_eq!(plain.as_object().map(serde_json::Map::len), Some(2));
        let fifo = message("https://sqs.eu-west-1.amazonaws.com/1/t.fifo", &report);
        assert_eq!(fifo["MessageGroupId"], "i-1");
        assert_eq!(fifo["MessageDeduplicationId"], report.dedup_id());
        assert_eq!(fifo["MessageBody"], report.encode());
    }
}
