//! Amazon SQS.
//!
//! Properties:
//!
//! * the port's rules hold as far as SQS keeps them: one message of a group at a time, an id sent once in five minutes,
//!   a body of at most [`MAX_BODY`] bytes;
//! * whether a queue is FIFO is read from its URL, and only a FIFO queue is told groups and ids;
//! * every call ends: connecting within 3 s, a long poll within 25 s, a probe within 2 s, all else within 15 s;
//! * nothing is tried again here but a receive whose answer was lost: consumers and producers repeat what they need.
//!
//! Races it survives:
//!
//! * *An answer to a receive is lost.* Its messages are invisible to everybody. On a FIFO queue the same request under
//!   the same attempt id brings them again; on a standard queue they come back when their visibility ends.
//! * *SQS delivers several messages of one group in one batch.* All but the first are given back at once; SQS holds
//!   them until the first is done.
//! * *A delivery ends while its owner works.* FIFO queues refuse the old handle. Standard queues may accept it; the
//!   record, not the message, decides.
//!
//! Sources: the API reference of SQS (`ReceiveMessage`, `ChangeMessageVisibility`, `DeleteMessageBatch`) and its
//! developer guide, "Using the receive request attempt ID".

mod acks;
mod check;
mod fault;
mod setup;
mod wire;

use std::collections::HashMap;
use std::error::Error as StdError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Builder;
use aws_sdk_sqs::error::SdkError;
use aws_sdk_sqs::operation::receive_message::{ReceiveMessageError, ReceiveMessageOutput};
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, MessageSystemAttributeName,
    QueueAttributeName,
};
use aws_smithy_runtime_api::client::interceptors::SharedInterceptor;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use domain::clock::{Rng, SystemRng};
use tokio::time::Instant;

use self::acks::Acks;
pub use self::check::check;
use self::fault::{answer_lost, fault};
pub use self::setup::{QueueSpec, Redrive, create, wanted};
use crate::poison;
use crate::{Capabilities, Delivery, Depth, Error, Handle, MAX_BODY, MAX_VISIBILITY, Message, Queue};

/// Longest long poll.
const MAX_WAIT: Duration = Duration::from_secs(20);
/// How long a good probe holds.
const PROBE_HOLDS: Duration = Duration::from_secs(5);

/// How long calls may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    connect: Duration,
    /// Until an answer begins.
    read: Duration,
    /// A whole call, but for those below.
    call: Duration,
    /// A long poll: its answer begins when it ends.
    receive: Duration,
    probe: Duration,
}

impl Limits {
    const PRODUCTION: Self = Self {
        connect: Duration::from_secs(3),
        read: Duration::from_secs(10),
        call: Duration::from_secs(15),
        receive: Duration::from_secs(25),
        probe: Duration::from_secs(2),
    };

    fn calls(&self) -> TimeoutConfig {
        self.config(self.read, self.call)
    }

    fn config(&self, read: Duration, whole: Duration) -> TimeoutConfig {
        TimeoutConfig::builder().connect_timeout(self.connect).read_timeout(read).operation_timeout(whole).build()
    }

    /// For one call that may take another time as a whole.
    fn within(&self, whole: Duration) -> Builder {
        Builder::new().timeout_config(self.config(whole, whole))
    }
}

/// A client without retries: the SDK's would not be seen.
fn client(sdk: &SdkConfig, interceptor: SharedInterceptor, limits: &Limits) -> Client {
    let mut config = Builder::from(sdk).retry_config(RetryConfig::disabled()).timeout_config(limits.calls());
    config.push_interceptor(interceptor);
    Client::from_conf(config.build())
}

fn is_fifo(url: &str) -> bool {
    url.ends_with(".fifo")
}

/// One queue of SQS.
pub struct SqsQueue {
    name: String,
    url: String,
    fifo: bool,
    dead_letters: Option<String>,
    client: Client,
    limits: Limits,
    rng: Arc<dyn Rng>,
    acks: Acks,
    /// When the last good probe ended.
    probed: Mutex<Option<Instant>>,
}

/// One receive, as it is repeated.
struct Poll {
    max: i32,
    wait: i32,
    visibility: i32,
    attempt: Option<String>,
}

impl SqsQueue {
    /// The queue at `url`, called `name` in logs and metrics. `interceptor` sees every call.
    pub fn new(sdk: &SdkConfig, interceptor: SharedInterceptor, name: &str, url: &str) -> Self {
        Self::limited(sdk, interceptor, name, url, Limits::PRODUCTION)
    }

    fn limited(sdk: &SdkConfig, interceptor: SharedInterceptor, name: &str, url: &str, limits: Limits) -> Self {
        Self {
            name: name.into(),
            url: url.into(),
            fifo: is_fifo(url),
            dead_letters: None,
            client: client(sdk, interceptor, &limits),
            limits,
            rng: Arc::new(SystemRng),
            acks: Acks::default(),
            probed: Mutex::default(),
        }
    }

    /// Where [`Queue::reject`] puts messages: the URL of a queue that is FIFO when this one is.
    #[must_use]
    pub fn with_dead_letters(self, url: &str) -> Self {
        Self { dead_letters: Some(url.into()), ..self }
    }

    /// Where attempt ids come from, instead of the operating system.
    #[must_use]
    pub fn with_rng(self, rng: Arc<dyn Rng>) -> Self {
        Self { rng, ..self }
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    async fn send_to(&self, url: &str, message: Message) -> Result<String, Error> {
        if message.body.len() > MAX_BODY {
            return Err(Error::TooLarge(message.body.len()));
        }
        let attributes = wire::attributes(&message.attributes).map_err(unbuilt)?;
        let mut call = self.client.send_message().queue_url(url).set_message_attributes(Some(attributes));
        if is_fifo(url) {
            if message.group.is_empty() {
                return Err(Error::Invalid("a message on a FIFO queue needs a group".into()));
            }
            // As a queue with content-based deduplication does, whether this one has it or not.
            let dedup = Some(message.dedup).filter(|id| !id.is_empty());
            let dedup = dedup.unwrap_or_else(|| poison::digest(&message.body));
            call = call.message_group_id(message.group).message_deduplication_id(dedup);
        }
        let sent = call.message_body(message.body).send().await.map_err(|error| fault(&error))?;
        Ok(sent.message_id.unwrap_or_default())
    }

    async fn poll(&self, poll: &Poll) -> Result<ReceiveMessageOutput, SdkError<ReceiveMessageError, HttpResponse>> {
        let call = self.client.receive_message().queue_url(&self.url);
        call.max_number_of_messages(poll.max)
            .wait_time_seconds(poll.wait)
            .visibility_timeout(poll.visibility)
            .set_receive_request_attempt_id(poll.attempt.clone())
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::MessageGroupId)
            .message_system_attribute_names(MessageSystemAttributeName::MessageDeduplicationId)
            .message_attribute_names("All")
            .customize()
            .config_override(self.limits.within(self.limits.receive))
            .send()
            .await
    }

    /// Makes what stands behind the head of its group visible again. Fails to a delay: they come back later.
    async fn give_back(&self, followers: &[Delivery]) {
        let entries: Result<Vec<_>, _> = followers
            .iter()
            .enumerate()
            .map(|(id, delivery)| {
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(id.to_string())
                    .receipt_handle(&delivery.handle.0)
                    .visibility_timeout(0)
                    .build()
            })
            .collect();
        let Ok(entries) = entries else { return };
        let call = self.client.change_message_visibility_batch().queue_url(&self.url).set_entries(Some(entries));
        let given = call.customize().config_override(self.limits.within(self.limits.probe)).send().await;
        if let Err(error) = given {
            let (queue, error) = (&self.name, fault(&error));
            tracing::warn!(queue, messages = followers.len(), %error, "followers of a group not given back");
        }
    }

    async fn delete(&self, handles: Vec<Handle>) -> Vec<Result<(), Error>> {
        let count = handles.len();
        let entries = handles.into_iter().enumerate().map(|(id, handle)| {
            DeleteMessageBatchRequestEntry::builder().id(id.to_string()).receipt_handle(handle.0).build()
        });
        let entries = match entries.collect::<Result<Vec<_>, _>>() {
            Ok(entries) => entries,
            Err(error) => return (0..count).map(|_| Err(Error::Invalid(error.to_string()))).collect(),
        };
        let call = self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries));
        match call.send().await {
            Ok(output) => wire::answers(count, &output),
            Err(error) => (0..count).map(|_| Err(fault(&error))).collect(),
        }
    }

    async fn attributes(
        &self,
        names: Vec<QueueAttributeName>,
        within: Duration,
    ) -> Result<HashMap<QueueAttributeName, String>, Error> {
        let call = self.client.get_queue_attributes().queue_url(&self.url).set_attribute_names(Some(names));
        let answer = call.customize().config_override(self.limits.within(within)).send().await;
        Ok(answer.map_err(|error| fault(&error))?.attributes.unwrap_or_default())
    }
}

/// A request that lacks something; the builders check what the types do not.
fn unbuilt(error: impl StdError) -> Error {
    Error::Invalid(error.to_string())
}

#[async_trait]
impl Queue for SqsQueue {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { fifo: self.fifo, max_visibility: MAX_VISIBILITY }
    }

    async fn send(&self, message: Message) -> Result<String, Error> {
        self.send_to(&self.url, message).await
    }

    async fn receive(&self, max: usize, wait: Duration, visibility: Duration) -> Result<Vec<Delivery>, Error> {
        let visibility = wire::seconds(visibility.min(MAX_VISIBILITY));
        let poll = Poll {
            max: i32::try_from(max.clamp(1, 10)).unwrap_or(10),
            wait: wire::seconds(wait.min(MAX_WAIT)),
            visibility,
            attempt: self.fifo.then(|| self.rng.token()),
        };
        let mut start = Instant::now();
        let mut polled = self.poll(&poll).await;
        if let Err(error) = &polled
            && poll.attempt.is_some()
            && answer_lost(error)
        {
            tracing::debug!(queue = self.name, error = %fault(error), "answer to a receive lost; asking again");
            // The repeat starts the invisibility of what it brings anew.
            start = Instant::now();
            polled = self.poll(&poll).await;
        }
        let messages = polled.map_err(|error| fault(&error))?.messages.unwrap_or_default();
        let deadline = start + Duration::from_secs(visibility.unsigned_abs().into());
        let mut deliveries = Vec::with_capacity(messages.len());
        for message in messages {
            let message_id = message.message_id.clone();
            match wire::delivery(message, deadline) {
                Some(delivery) => deliveries.push(delivery),
                None => tracing::warn!(queue = self.name, message_id, "message without a receipt handle skipped"),
            }
        }
        if !self.fifo {
            return Ok(deliveries);
        }
        let (heads, followers) = wire::heads(deliveries);
        if !followers.is_empty() {
            self.give_back(&followers).await;
        }
        Ok(heads)
    }

    async fn ack(&self, handle: &Handle) -> Result<(), Error> {
        self.acks.ack(handle, |handles| self.delete(handles)).await
    }

    async fn extend(&self, handle: &Handle, visibility: Duration) -> Result<(), Error> {
        let call = self.client.change_message_visibility().queue_url(&self.url).receipt_handle(&handle.0);
        let changed = call.visibility_timeout(wire::seconds(visibility.min(MAX_VISIBILITY))).send().await;
        changed.map(|_| ()).map_err(|error| fault(&error))
    }

    async fn reject(&self, delivery: &Delivery, reason: &str) -> Result<(), Error> {
        match &self.dead_letters {
            Some(url) => {
                let mut message = poison::copy(delivery, reason);
                let gone = wire::fit(&mut message.attributes);
                if !gone.is_empty() {
                    tracing::warn!(queue = self.name, message_id = delivery.id, ?gone, "attributes left out");
                }
                self.send_to(url, message).await?;
            }
            None => poison::log_removed(&self.name, delivery, reason),
        }
        self.ack(&delivery.handle).await
    }

    async fn ping(&self) -> Result<(), Error> {
        let last = *self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|at| at.elapsed() < PROBE_HOLDS) {
            return Ok(());
        }
        self.attributes(vec![QueueAttributeName::QueueArn], self.limits.probe).await?;
        *self.probed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }

    async fn depth(&self) -> Result<Depth, Error> {
        let names = vec![
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        Ok(wire::depth(&self.attributes(names, self.limits.call).await?))
    }
}

#[cfg(test)]
mod double;
#[cfg(test)]
mod tests;
