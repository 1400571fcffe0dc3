//! What the consumers do, as metrics.

use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, since};
use queue::{Delivery, Error, Observer, Outcome, Queue};
use telemetry::Metrics;
use telemetry::metrics::{Processed, QueueName, ReceiveResult};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Between two looks at how full the queues are.
const DEPTHS: Duration = Duration::from_secs(60);

/// Counts for operators.
pub(crate) struct Observed {
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Observed {
    fn with(&self, queue: &str, f: impl FnOnce(&Metrics, QueueName)) {
        if let Some(name) = QueueName::parse(queue) {
            f(&self.metrics, name);
        }
    }
}

impl Observer for Observed {
    fn received(&self, queue: &str, deliveries: &[Delivery]) {
        let now = self.clock.now();
        self.with(queue, |m, name| {
            m.queue_receive(name, ReceiveResult::Messages);
            for sent in deliveries.iter().filter_map(|d| d.sent_at) {
                m.message_age(name, since(now, sent));
            }
        });
    }
    fn empty(&self, queue: &str) {
        self.with(queue, |m, name| {
            if name == QueueName::Main {
                m.queue_receive(name, ReceiveResult::Empty);
            }
        });
    }
    fn receive_error(&self, queue: &str, _error: &Error) {
        self.with(queue, |m, name| m.queue_receive(name, ReceiveResult::Error));
    }
    fn processed(&self, queue: &str, outcome: Outcome, took: Duration) {
        let result = if outcome.is_ok() { Processed::Ok } else { Processed::Error };
        self.with(queue, |m, name| m.message_processing(name, result, took));
    }
    fn poison(&self, queue: &str, reason: &'static str) {
        self.with(queue, |m, name| m.poison_messages(name, reason));
    }
    fn visibility_lost(&self, queue: &str) {
        self.with(queue, Metrics::visibility_lost);
    }
    fn ack_failed(&self, queue: &str) {
        self.with(queue, Metrics::message_deletion_failures);
    }
    fn inflight(&self, queue: &str, tasks: usize) {
        self.with(queue, |m, name| m.worker_inflight(name, Some(tasks as f64)));
    }
}

/// Sets the depth gauges until told to stop; then there are none: one replica speaks for all. A queue that does not
/// answer has no value, rather than an old one.
pub(crate) async fn depths(queues: Vec<Arc<dyn Queue>>, metrics: Metrics, stop: CancellationToken) {
    let names = || queues.iter().filter_map(|queue| Some((queue, QueueName::parse(queue.name())?)));
    loop {
        for (queue, name) in names() {
            let depth = queue.depth().await.unwrap_or_else(|error| {
                debug!(queue = queue.name(), %error, "the depth of a queue is unknown");
                queue::Depth::default()
            });
            metrics.queue_depth(name, depth.visible.map(|n| n as f64));
            metrics.queue_inflight(name, depth.in_flight.map(|n| n as f64));
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep(DEPTHS) => {}
        }
    }
    for (_, name) in names() {
        metrics.queue_depth(name, None);
        metrics.queue_inflight(name, None);
    }
}
