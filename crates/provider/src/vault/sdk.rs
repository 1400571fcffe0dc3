//! The identity of a program that uses the SDK.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use aws_types::SdkConfig;
use domain::clock::Clock;

use super::{Identity, Unsigned};

/// Limit of finding the credentials.
const CREDENTIALS: Duration = Duration::from_secs(30);

/// Whoever the credentials of the SDK's configuration belong to. They are asked for at every signature, because they
/// change.
pub struct SdkIdentity {
    credentials: SharedCredentialsProvider,
    clock: Arc<dyn Clock>,
}

impl SdkIdentity {
    /// The identity behind `config`; `None` when it has no source of credentials.
    pub fn new(config: &SdkConfig, clock: Arc<dyn Clock>) -> Option<Self> {
        Some(Self { credentials: config.credentials_provider()?, clock })
    }
}

#[async_trait]
impl Identity for SdkIdentity {
    async fn sign(&self, request: &Unsigned) -> Result<Vec<(String, String)>, String> {
        let found = tokio::time::timeout(CREDENTIALS, self.credentials.provide_credentials()).await;
        let credentials = found.map_err(|_| "the credentials of AWS take too long".to_owned())?;
        let identity = credentials.map_err(|error| format!("no credentials of AWS: {error}"))?.into();
        let since_epoch = u64::try_from(self.clock.now().as_millisecond()).unwrap_or(0);
        let params = SigningParams::builder()
            .identity(&identity)
            .region(request.region)
            .name(request.service)
            .time(UNIX_EPOCH + Duration::from_millis(since_epoch))
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| error.to_string())?;
        let body = SignableBody::Bytes(request.body.as_bytes());
        let signable = SignableRequest::new("POST", request.url, request.headers.iter().copied(), body);
        let signed = sign(signable.map_err(|error| error.to_string())?, &params.into());
        let (headers, _) = signed.map_err(|error| error.to_string())?.into_parts().0.into_parts();
        Ok(headers.into_iter().map(|header| (header.name().to_owned(), header.value().to_owned())).collect())
    }
}
