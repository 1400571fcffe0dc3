//! Credentials of the instance's role, from its metadata.
//!
//! They change while the agent runs, so each call asks; what is still good for a while is used again. When the service
//! does not answer, what is not yet expired is better than nothing.

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_smithy_runtime_api::client::identity::Identity;
use domain::clock::{Clock, Timestamp, since};
use domain::handover::Credential;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::Error;
use super::imds::Imds;
use crate::log::Log;

const PATH: &str = "meta-data/iam/security-credentials/";
/// Credentials are renewed this long before they expire.
const RENEW_BEFORE: Duration = Duration::from_mins(5);

/// What the metadata service says about a role ("IAM roles for Amazon EC2").
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    access_key_id: String,
    secret_access_key: Credential,
    token: Credential,
    expiration: Timestamp,
}

/// The role of this instance.
pub(super) struct Role {
    imds: Arc<Imds>,
    clock: Arc<dyn Clock>,
    /// Learns what must never be shown.
    log: Log,
    held: Mutex<Option<(Identity, Timestamp)>>,
}

impl Role {
    pub(super) fn new(imds: Arc<Imds>, clock: Arc<dyn Clock>, log: Log) -> Self {
        Self { imds, clock, log, held: Mutex::default() }
    }

    pub(super) async fn identity(&self) -> Result<Identity, Error> {
        let mut held = self.held.lock().await;
        let lasts = |expires: Timestamp| since(expires, self.clock.now());
        if let Some((identity, _)) = held.as_ref().filter(|(_, expires)| lasts(*expires) > RENEW_BEFORE) {
            return Ok(identity.clone());
        }
        match self.ask().await {
            Ok((identity, expires)) => {
                *held = Some((identity.clone(), expires));
                Ok(identity)
            }
            Err(error) => match held.as_ref().filter(|(_, expires)| !lasts(*expires).is_zero()) {
                Some((identity, _)) => Ok(identity.clone()),
                None => Err(error),
            },
        }
    }

    async fn ask(&self) -> Result<(Identity, Timestamp), Error> {
        let missing = || Error::Denied("the instance has no role".to_owned());
        let roles = self.imds.get(PATH).await?.ok_or_else(missing)?;
        let role = roles.lines().next().ok_or_else(missing)?;
        let text = self.imds.get(&format!("{PATH}{role}")).await?.ok_or_else(missing)?;
        let document: Document = serde_json::from_str(&text)
            .map_err(|_| Error::NoAnswer("the metadata holds no credentials of the role".to_owned()))?;
        self.log.hide(document.secret_access_key.expose());
        self.log.hide(document.token.expose());
        let token = Some(document.token.expose().to_owned());
        let credentials =
            Credentials::new(document.access_key_id, document.secret_access_key.expose(), token, None, "instance role");
        Ok((credentials.into(), document.expiration))
    }
}
