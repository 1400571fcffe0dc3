//! The queues a new account needs, and making them. Every step can be repeated; what is as it should be is not touched.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use aws_smithy_runtime_api::client::interceptors::SharedInterceptor;
use aws_types::SdkConfig;
use serde_json::{Value, json};

use super::fault::fault;
use super::{Limits, client, is_fifo};
use crate::Error;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// A queue as it should be. Content-based deduplication is on where it is FIFO; at rest, messages are encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    /// Ends in `.fifo` exactly when the queue is FIFO.
    pub name: String,
    /// Invisibility of a delivery whose receive does not say; ours always do.
    pub visibility: Duration,
    /// How long a message is kept.
    pub retention: Duration,
    /// Where messages go that keep failing.
    pub redrive: Option<Redrive>,
}

/// The way out of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redrive {
    /// The name of a queue that is FIFO when this one is.
    pub queue: String,
    /// How often a message is delivered before it goes there.
    pub max_receive_count: u32,
}

impl QueueSpec {
    /// Whether it is FIFO.
    pub fn fifo(&self) -> bool {
        is_fifo(&self.name)
    }
}

/// The queues of an installation whose resources begin with `prefix`, dead letters first: `<prefix>-main.fifo`,
/// `<prefix>-webhook.fifo`, `<prefix>-events`, `<prefix>-termination`, `<prefix>-housekeeping`; all but the last with a
/// `<prefix>-…-dlq`.
pub fn wanted(prefix: &str) -> Vec<QueueSpec> {
    let work = [
        ("main", ".fifo", 300, DAY, true),
        ("webhook", ".fifo", 300, DAY, true),
        ("events", "", 300, DAY, true),
        ("termination", "", 60, 4 * DAY, true),
        // An order to clean up is given again when it is lost.
        ("housekeeping", "", 300, HOUR, false),
    ];
    let seconds = Duration::from_secs;
    let mut specs = Vec::new();
    for (role, suffix, visibility, retention, dead_letters) in work {
        let redrive = dead_letters
            .then(|| Redrive { queue: format!("{prefix}-{role}-dlq{suffix}"), max_receive_count: 5 })
            .inspect(|redrive| {
                let name = redrive.queue.clone();
                specs.push(QueueSpec { name, visibility: seconds(30), retention: seconds(14 * DAY), redrive: None });
            });
        let name = format!("{prefix}-{role}{suffix}");
        specs.push(QueueSpec { name, visibility: seconds(visibility), retention: seconds(retention), redrive });
    }
    specs
}

/// Makes the queues that do not exist, and gives each the attributes of its description. Returns URLs by name.
///
/// # Errors
/// Those of the port; [`Error::Invalid`] also when a redrive names a queue that is not in `specs`. What was made until
/// then stays, for the next try.
pub async fn create(
    sdk: &SdkConfig,
    interceptor: SharedInterceptor,
    specs: &[QueueSpec],
) -> Result<BTreeMap<String, String>, Error> {
    let client = client(sdk, interceptor, &Limits::PRODUCTION);
    let (mut urls, mut states) = (BTreeMap::new(), HashMap::new());
    for spec in specs {
        let url = existing_or_new(&client, spec).await?;
        let names = vec![QueueAttributeName::All];
        let read = client.get_queue_attributes().queue_url(&url).set_attribute_names(Some(names)).send().await;
        states.insert(&spec.name, read.map_err(|error| fault(&error))?.attributes.unwrap_or_default());
        urls.insert(spec.name.clone(), url);
    }
    for spec in specs {
        let arn = |name: &String| states.get(name).and_then(|state| state.get(&QueueAttributeName::QueueArn));
        let redrive = match &spec.redrive {
            None => None,
            Some(redrive) => {
                let arn = arn(&redrive.queue).ok_or_else(|| {
                    Error::Invalid(format!("{} dead-letters to {}, which is not described", spec.name, redrive.queue))
                })?;
                Some((arn.as_str(), redrive.max_receive_count))
            }
        };
        let changes = changes(spec, redrive, &states[&spec.name]);
        if !changes.is_empty() {
            let call = client.set_queue_attributes().queue_url(&urls[&spec.name]).set_attributes(Some(changes));
            call.send().await.map_err(|error| fault(&error))?;
        }
    }
    Ok(urls)
}

/// SQS refuses to make a queue that exists with other attributes, so only what can never change is said here.
async fn existing_or_new(client: &Client, spec: &QueueSpec) -> Result<String, Error> {
    let fifo = spec.fifo().then(|| HashMap::from([(QueueAttributeName::FifoQueue, "true".to_owned())]));
    let made = client.create_queue().queue_name(&spec.name).set_attributes(fifo).send().await;
    let url = made.map_err(|error| fault(&error))?.queue_url;
    url.ok_or_else(|| Error::Unavailable(format!("queue {} was made without a URL", spec.name)))
}

/// The attributes to set on a queue that has those of `state`. `redrive` is the ARN of its dead letters and the number
/// of deliveries before.
pub(super) fn changes(
    spec: &QueueSpec,
    redrive: Option<(&str, u32)>,
    state: &HashMap<QueueAttributeName, String>,
) -> HashMap<QueueAttributeName, String> {
    let mut wanted = HashMap::from([
        (QueueAttributeName::VisibilityTimeout, spec.visibility.as_secs().to_string()),
        (QueueAttributeName::MessageRetentionPeriod, spec.retention.as_secs().to_string()),
    ]);
    if spec.fifo() {
        wanted.insert(QueueAttributeName::ContentBasedDeduplication, "true".into());
    }
    // A key of the operator's own is encryption too, and the two exclude each other.
    if !state.contains_key(&QueueAttributeName::KmsMasterKeyId) {
        wanted.insert(QueueAttributeName::SqsManagedSseEnabled, "true".into());
    }
    wanted.retain(|name, value| state.get(name) != Some(value));
    if let Some((arn, count)) = redrive
        && !state.get(&QueueAttributeName::RedrivePolicy).is_some_and(|policy| is_redrive(policy, arn, count))
    {
        let policy = json!({ "deadLetterTargetArn": arn, "maxReceiveCount": count });
        wanted.insert(QueueAttributeName::RedrivePolicy, policy.to_string());
    }
    wanted
}

/// Whether a policy says this; SQS has answered with the number as a number and as text.
fn is_redrive(policy: &str, arn: &str, count: u32) -> bool {
    let Ok(policy) = serde_json::from_str::<Value>(policy) else { return false };
    let said = &policy["maxReceiveCount"];
    let said = said.as_u64().or_else(|| said.as_str()?.parse().ok());
    policy["deadLetterTargetArn"] == arn && said == Some(count.into())
}
