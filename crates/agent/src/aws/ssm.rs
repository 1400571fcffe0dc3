//! Hand-overs in SSM parameters, read only.

use std::sync::Arc;

use async_trait::async_trait;
use domain::handover::HandOver as Document;
use domain::ids::RunnerKey;
use provider::handover::{Error as StoreError, HandOver};
use provider::ssm_layout;
use serde_json::json;

use super::{Aws, Error, Json};

impl Aws {
    /// `GetParameters` with decryption: the values of those that exist, in the order of `names`.
    pub async fn parameters(&self, names: &[&str]) -> Result<Vec<Option<String>>, Error> {
        let call = Json {
            service: "ssm",
            endpoint: &self.endpoints.ssm,
            content_type: "application/x-amz-json-1.1",
            target: "AmazonSSM.GetParameters",
        };
        let answer = self.json(call, &json!({"Names": names, "WithDecryption": true})).await?;
        let Some(found) = answer["Parameters"].as_array() else {
            return Err(Error::NoAnswer("the answer has no parameters".to_owned()));
        };
        let value = |name: &&str| {
            let parameter = found.iter().find(|parameter| parameter["Name"] == **name)?;
            parameter["Value"].as_str().map(str::to_owned)
        };
        Ok(names.iter().map(value).collect())
    }
}

/// The store. Both halves are read by one call, so that they are as old as each other.
///
/// A parameter that its reader may only see by its tags is denied as long as it does not exist; [`StoreError::Deployment`]
/// therefore means "not there yet, or never".
pub struct Parameters {
    aws: Arc<Aws>,
    prefix: String,
    /// The parameter of the document, when it is not where the prefix and the key say.
    config: Option<String>,
}

impl Parameters {
    /// The hand-overs below `prefix`, or the one at `config`.
    pub fn new(aws: Arc<Aws>, prefix: String, config: Option<String>) -> Self {
        Self { aws, prefix, config }
    }

    fn names(&self, key: &RunnerKey) -> (String, Option<String>) {
        match &self.config {
            Some(config) => (config.clone(), ssm_layout::credential_name(config)),
            None => {
                let names = ssm_layout::names(&self.prefix, key);
                (names.config, Some(names.credential))
            }
        }
    }
}

const READS_ONLY: &str = "the agent only reads its own hand-over";

#[async_trait]
impl HandOver for Parameters {
    async fn get(&self, key: &RunnerKey) -> Result<Option<Document>, StoreError> {
        let (config, credential) = self.names(key);
        let names: Vec<&str> = [Some(config.as_str()), credential.as_deref()].into_iter().flatten().collect();
        let mut values = match self.aws.parameters(&names).await {
            Ok(values) => values.into_iter(),
            Err(Error::NotFound(_)) => return Ok(None),
            Err(error @ (Error::Denied(_) | Error::Refused(_))) => {
                return Err(StoreError::Deployment(error.to_string()));
            }
            Err(error) => return Err(StoreError::Transient(error.to_string())),
        };
        let (config, credential) = (values.next().flatten(), values.next().flatten());
        let Some(config) = config else { return Ok(None) };
        ssm_layout::unpack(&config, credential.as_deref()).map_err(|error| StoreError::Invalid(error.to_string()))
    }

    async fn put(&self, _: &RunnerKey, _: &Document) -> Result<(), StoreError> {
        Err(StoreError::Deployment(READS_ONLY.to_owned()))
    }

    async fn delete(&self, _: &RunnerKey) -> Result<(), StoreError> {
        Err(StoreError::Deployment(READS_ONLY.to_owned()))
    }

    async fn list(&self) -> Result<Vec<RunnerKey>, StoreError> {
        Err(StoreError::Deployment(READS_ONLY.to_owned()))
    }
}
