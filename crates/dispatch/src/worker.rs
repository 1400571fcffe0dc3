//! What a message on the main queue means.

use std::sync::Arc;

use async_trait::async_trait;
use domain::message::JobMessage;
use github::webhook::{self, Kind, QueuedEvent, Secrets, SignatureError, WorkflowJobEvent};
use queue::{Delivery, Disposition, Handler};
use telemetry::metrics::Ingress;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::context::Dispatch;

/// Handles deliveries of the main queue: jobs to dispatch, news of running and concluded ones, and webhooks as a
/// gateway received them.
pub struct Worker {
    /// What does the work.
    pub dispatch: Arc<Dispatch>,
    /// Proves raw webhooks.
    pub secrets: Secrets,
}

#[async_trait]
impl Handler for Worker {
    async fn handle(&self, delivery: &Delivery, _lost: CancellationToken) -> Disposition {
        match Kind::of(&delivery.attributes) {
            Kind::Job => self.job(delivery).await,
            Kind::QueuedEvent => self.news(delivery).await,
            Kind::RawWebhook => self.raw(delivery).await,
            // From a newer release: a newer replica, or the dead-letter queue, has it.
            Kind::Unknown => self.keep(2),
        }
    }
}

/// Handles deliveries of the queue that a gateway writes webhooks to, and nobody else writes anything to.
pub struct Webhooks(pub Arc<Worker>);

#[async_trait]
impl Handler for Webhooks {
    async fn handle(&self, delivery: &Delivery, _lost: CancellationToken) -> Disposition {
        match Kind::of(&delivery.attributes) {
            Kind::RawWebhook => self.0.raw(delivery).await,
            Kind::Job | Kind::QueuedEvent | Kind::Unknown => Disposition::Reject("bad_value"),
        }
    }
}

impl Worker {
    async fn job(&self, delivery: &Delivery) -> Disposition {
        let decoded = match JobMessage::decode(&delivery.body) {
            Ok(decoded) => decoded,
            Err(poison) => return Disposition::Reject(poison.reason.as_str()),
        };
        if !decoded.warnings.is_empty() {
            debug!(job_id = decoded.message.job_id.get(), warnings = ?decoded.warnings, "a message with odd fields");
        }
        // Losing the message does not matter here: every write of the attempt is fenced by the lease's own token.
        self.dispatch.attempt(&decoded.message, delivery.sent_at).await
    }

    async fn news(&self, delivery: &Delivery) -> Disposition {
        let queued = match QueuedEvent::decode(&delivery.body) {
            Ok((queued, _)) => queued,
            Err(poison) => return Disposition::Reject(poison.reason.as_str()),
        };
        match self.dispatch.take_news(&queued.event).await {
            Ok(()) => Disposition::Ack,
            Err(error) => {
                warn!(job_id = queued.event.job_id.get(), %error, "news could not be taken; it comes back");
                self.keep(1)
            }
        }
    }

    /// A webhook as a gateway received it: proven here, then the same way as over HTTP.
    async fn raw(&self, message: &Delivery) -> Disposition {
        let delivery = match webhook::Delivery::open(&message.attributes, &message.body) {
            Ok(delivery) => delivery,
            Err(poison) => return Disposition::Reject(poison.reason.as_str()),
        };
        match delivery.verify(&self.secrets) {
            Ok(()) => {}
            Err(SignatureError::Format) => {
                self.dispatch.ports.metrics.webhook_rejected(Ingress::Sqs, "signature_format");
                return Disposition::Reject("signature_format");
            }
            // Perhaps it is our secret that is wrong: left to the redrive policy, so that nothing is lost.
            Err(SignatureError::Mismatch) => {
                self.dispatch.ports.metrics.webhook_rejected(Ingress::Sqs, "signature_mismatch");
                error!(delivery = delivery.guid, "a queued webhook's signature does not match: is the secret right?");
                return Disposition::Keep { after: None };
            }
        }
        if delivery.event != "workflow_job" {
            return Disposition::Ack;
        }
        let event = match WorkflowJobEvent::decode(&delivery.body) {
            Ok(event) => event,
            Err(error) => {
                self.dispatch.ports.metrics.webhook_rejected(Ingress::Sqs, "payload");
                warn!(delivery = delivery.guid, %error, "a queued webhook makes no sense");
                return Disposition::Reject("payload");
            }
        };
        let received = message.sent_at.unwrap_or_else(|| self.dispatch.now());
        match self.dispatch.ingest(&event, delivery.guid, received).await {
            Ok(_) => Disposition::Ack,
            Err(error) => {
                warn!(job_id = event.job_id.get(), %error, "a queued webhook could not be taken; it comes back");
                self.keep(1)
            }
        }
    }

    fn keep(&self, heartbeats: u32) -> Disposition {
        Disposition::Keep { after: Some(self.dispatch.settings.timings.heartbeat * heartbeats) }
    }
}
