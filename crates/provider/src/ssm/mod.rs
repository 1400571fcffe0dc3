//! Hand-overs in SSM parameters, laid out by [`crate::ssm_layout`].
//!
//! Desired: a machine finds a whole hand-over or none; nobody but the machine can read it; nothing outlives a delete that
//! succeeded.
//!
//! Races survived:
//!
//! * *A reader between two writes.* The credential is written first and the document last, and deleted in the opposite
//!   order: whoever finds a document finds its credential. What is older does not match it (`dispatch_id`).
//! * *A machine that is used again.* Its parameters exist. The first write never overwrites, because only such a write
//!   can carry tags, and without tags nobody may read; the second overwrites and leaves the tags as they are.
//! * *An answer that is lost.* The repeated write finds what the first one wrote and overwrites it with the same.
//!
//! Every call is tried at most three times, and only after what may pass by itself.

mod fault;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::{ParameterTier, ParameterType, ResourceTypeForTagging, Tag};
use aws_smithy_runtime_api::client::interceptors::SharedInterceptor;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use domain::handover::HandOver as Document;
use domain::ids::RunnerKey;
use tokio::time::Instant;

use crate::handover::{Error, HandOver};
use crate::ssm_layout::{self, Names, STANDARD_TIER};
use fault::{Fault, attempts};

#[cfg(test)]
mod tests;

/// How often we say that a hand-over is too large for a standard parameter.
const WARNING: Duration = Duration::from_secs(3600);

/// Where instances are: what their ARN says besides their id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstancePlace {
    /// `aws`, `aws-cn` or `aws-us-gov`.
    pub partition: String,
    /// Region.
    pub region: String,
    /// Account id, twelve digits.
    pub account: String,
}

impl InstancePlace {
    fn arn(&self, key: &RunnerKey) -> String {
        format!("arn:{}:ec2:{}:{}:instance/{key}", self.partition, self.region, self.account)
    }
}

/// The SSM back end of the hand-over port.
#[derive(Debug)]
pub struct SsmHandOver {
    client: Client,
    prefix: String,
    place: Option<InstancePlace>,
    warned: Mutex<Option<Instant>>,
}

impl SsmHandOver {
    /// A store below `prefix` (`/runs-fleet/runners`). `interceptor` sees every call. With `place`, parameters carry the
    /// ARN of their instance, so that IAM can limit an instance to its own.
    ///
    /// The client connects within 3 s and waits 10 s for an answer; a call ends within 15 s and is made three times at
    /// most.
    pub fn new(
        config: &SdkConfig,
        interceptor: SharedInterceptor,
        prefix: impl Into<String>,
        place: Option<InstancePlace>,
    ) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .read_timeout(Duration::from_secs(10))
            .operation_timeout(Duration::from_secs(15))
            .build();
        let mut config =
            aws_sdk_ssm::config::Builder::from(config).retry_config(RetryConfig::disabled()).timeout_config(timeouts);
        config.push_interceptor(interceptor);
        let prefix = prefix.into().trim_end_matches('/').to_owned();
        Self { client: Client::from_conf(config.build()), prefix, place, warned: Mutex::default() }
    }

    /// The machine's parameters. Only keys that are plain names have some, so that none can address another's.
    fn names(&self, key: &RunnerKey) -> Result<Names, Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if key.as_str().is_empty() || !key.as_str().bytes().all(plain) {
            return Err(Error::Invalid("the machine's key is not a plain name".to_owned()));
        }
        Ok(ssm_layout::names(&self.prefix, key))
    }

    async fn write(&self, name: &str, value: &str, tags: &[Tag]) -> Result<(), Error> {
        let oversize = value.len() > STANDARD_TIER;
        if oversize {
            self.warn(name, value.len());
        }
        let request = self.client.put_parameter().name(name).value(value).r#type(ParameterType::SecureString);
        let tier = if oversize { ParameterTier::Advanced } else { ParameterTier::Standard };
        let first = request.clone().tier(tier).set_tags(Some(tags.to_vec())).overwrite(false);
        match attempts(|| first.clone().send()).await {
            Ok(_) => return Ok(()),
            Err(Fault::Exists) => {}
            Err(fault) => return Err(fault.into()),
        }
        // A parameter that was large once stays advanced; SSM refuses to make it a standard one again.
        let tier = if oversize { ParameterTier::Advanced } else { ParameterTier::IntelligentTiering };
        let again = request.tier(tier).overwrite(true);
        attempts(|| again.clone().send()).await?;
        let tagging = self.client.add_tags_to_resource().resource_type(ResourceTypeForTagging::Parameter);
        let tagging = tagging.resource_id(name).set_tags(Some(tags.to_vec()));
        if let Err(fault) = attempts(|| tagging.clone().send()).await {
            let error = Error::from(fault);
            tracing::warn!(parameter = name, %error, "an overwritten parameter keeps its old tags");
        }
        Ok(())
    }

    async fn read(&self, name: &str) -> Result<Option<String>, Error> {
        let request = self.client.get_parameter().name(name).with_decryption(true);
        match attempts(|| request.clone().send()).await {
            Ok(answer) => Ok(answer.parameter.and_then(|parameter| parameter.value)),
            Err(Fault::Missing) => Ok(None),
            Err(fault) => Err(fault.into()),
        }
    }

    async fn remove(&self, name: &str) -> Result<(), Error> {
        let request = self.client.delete_parameter().name(name);
        match attempts(|| request.clone().send()).await {
            Ok(_) | Err(Fault::Missing) => Ok(()),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Says that a parameter is billed, at most once an hour.
    fn warn(&self, name: &str, bytes: usize) {
        let now = Instant::now();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| now.duration_since(at) >= WARNING) {
            *warned = Some(now);
            tracing::warn!(parameter = name, bytes, "a hand-over is too large for a standard parameter; it is billed");
        }
    }
}

#[async_trait]
impl HandOver for SsmHandOver {
    async fn put(&self, key: &RunnerKey, document: &Document) -> Result<(), Error> {
        let names = self.names(key)?;
        let packed = ssm_layout::pack(document);
        let arn = self.place.as_ref().map(|place| place.arn(key));
        let tags = ssm_layout::tags(document, arn.as_deref()).into_iter();
        let tags = tags.map(|(key, value)| Tag::builder().key(key).value(value).build());
        let tags = tags.collect::<Result<Vec<_>, _>>().map_err(|error| Error::Invalid(error.to_string()))?;
        if let Some(credential) = &packed.credential {
            self.write(&names.credential, credential, &tags).await?;
        }
        self.write(&names.config, &packed.config, &tags).await?;
        if packed.credential.is_none() {
            // One of an earlier assignment would supersede what the document says.
            self.remove(&names.credential).await?;
        }
        Ok(())
    }

    async fn get(&self, key: &RunnerKey) -> Result<Option<Document>, Error> {
        let names = self.names(key)?;
        let Some(config) = self.read(&names.config).await? else { return Ok(None) };
        let credential = self.read(&names.credential).await?;
        ssm_layout::unpack(&config, credential.as_deref()).map_err(|error| Error::Invalid(error.to_string()))
    }

    async fn delete(&self, key: &RunnerKey) -> Result<(), Error> {
        let names = self.names(key)?;
        let config = self.remove(&names.config).await;
        let credential = self.remove(&names.credential).await;
        config.and(credential)
    }

    async fn list(&self) -> Result<Vec<RunnerKey>, Error> {
        let request = self.client.get_parameters_by_path().path(format!("{}/", self.prefix)).recursive(true);
        let request = request.with_decryption(false).max_results(10);
        let mut keys = BTreeSet::new();
        let mut token: Option<String> = None;
        loop {
            let page = attempts(|| request.clone().set_next_token(token.clone()).send()).await?;
            let names = page.parameters.unwrap_or_default().into_iter().filter_map(|parameter| parameter.name);
            keys.extend(names.filter_map(|name| ssm_layout::key_of(&self.prefix, &name)));
            let next = page.next_token.filter(|next| !next.is_empty());
            if next.is_some() && next == token {
                return Err(Error::Transient("a page of the list points to itself".to_owned()));
            }
            match next {
                Some(next) => token = Some(next),
                None => return Ok(keys.into_iter().collect()),
            }
        }
    }
}
