//! The agent's few calls to AWS: one signed POST each, no SDK.
//!
//! [`Aws`] signs and sends; [`ssm`] reads hand-overs, [`sqs`] takes reports, [`s3`] keeps logs, [`ec2`] ends the
//! machine. [`imds`] says who and where the machine is.
//!
//! Properties: every call ends within [`CALL`]; none is repeated here, because whoever calls has the loop that knows
//! how often and how long; no credential and no content appears in an error, not even in words of the service, which
//! quotes signed headers when it rejects them.

pub mod ec2;
mod error;
pub mod imds;
mod role;
pub mod s3;
mod sign;
pub mod sqs;
pub mod ssm;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_smithy_runtime_api::client::identity::Identity;
use domain::clock::Clock;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};

pub use error::Error;

use crate::environment::{Cloud, Endpoints, Identity as Given, Keys};
use crate::log::Log;

use imds::Imds;
use role::Role;

/// Limit of establishing a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Limit of one call, connecting and the whole answer included.
pub const CALL: Duration = Duration::from_secs(10);
/// Answers end here; the longest that is expected has two parameters of 8 KiB.
const LONGEST: usize = 256 * 1024;
/// The header that names the operation in the JSON protocols.
const TARGET: &str = "x-amz-target";

/// Where credentials come from.
enum Source {
    /// They were given at the start and last as long as the agent.
    Given(Identity),
    /// The instance has a role.
    Role(Role),
}

impl Source {
    async fn identity(&self) -> Result<Identity, Error> {
        match self {
            Self::Given(identity) => Ok(identity.clone()),
            Self::Role(role) => role.identity().await,
        }
    }
}

/// A client of the services the agent needs.
pub struct Aws {
    http: reqwest::Client,
    region: String,
    endpoints: Endpoints,
    source: Source,
    clock: Arc<dyn Clock>,
}

/// One operation of a service that speaks JSON.
struct Json<'a> {
    /// The service's name in signatures.
    service: &'static str,
    endpoint: &'a str,
    content_type: &'static str,
    /// `<prefix>.<operation>`.
    target: &'static str,
}

impl Aws {
    /// A client.
    ///
    /// # Errors
    /// When the TLS library finds no usable root certificates.
    pub fn new(cloud: &Cloud, clock: Arc<dyn Clock>, log: &Log) -> Result<Self, reqwest::Error> {
        // A second installation is refused and changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(CALL)
            .build()?;
        let (region, endpoints) = (cloud.region.clone(), cloud.endpoints.clone());
        let source = match &cloud.identity {
            Given::Keys(keys) => Source::Given(identity(keys)),
            Given::Role { metadata } => {
                Source::Role(Role::new(Arc::new(Imds::new(metadata)?), Arc::clone(&clock), log.clone()))
            }
        };
        Ok(Self { http, region, endpoints, source, clock })
    }

    async fn json(&self, call: Json<'_>, body: &serde_json::Value) -> Result<serde_json::Value, Error> {
        let headers = [(CONTENT_TYPE.as_str(), call.content_type), (TARGET, call.target)];
        let answer = self.post(call.service, call.endpoint, &headers, body.to_string()).await?;
        serde_json::from_slice(&answer).map_err(|_| Error::NoAnswer("the answer is not JSON".to_owned()))
    }

    async fn query(&self, service: &'static str, endpoint: &str, body: String) -> Result<(), Error> {
        let headers = [(CONTENT_TYPE.as_str(), "application/x-www-form-urlencoded; charset=utf-8")];
        self.post(service, endpoint, &headers, body).await.map(drop)
    }

    /// Signs and sends; the body of a good answer.
    async fn post(
        &self,
        service: &str,
        endpoint: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<Vec<u8>, Error> {
        let signature = self.signature(&self.region, service, endpoint, headers, &body).await?;
        let request = with_headers(self.http.post(endpoint), headers, signature)?;
        self.send(request.body(body)).await
    }

    /// The headers that sign a POST.
    pub(crate) async fn signature(
        &self,
        region: &str,
        service: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Vec<(&'static str, String)>, Error> {
        let identity = self.source.identity().await?;
        let scope = sign::Scope { region, ..self.scope(service, &identity) };
        sign::post(&scope, url, headers, body.as_bytes()).map_err(Error::Refused)
    }

    fn scope<'a>(&'a self, service: &'a str, identity: &'a Identity) -> sign::Scope<'a> {
        let since_epoch = u64::try_from(self.clock.now().as_millisecond()).unwrap_or(0);
        sign::Scope { region: &self.region, service, time: UNIX_EPOCH + Duration::from_millis(since_epoch), identity }
    }

    /// Sends; the body of a good answer.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Vec<u8>, Error> {
        let mut response = request.send().await.map_err(no_answer)?;
        let status = response.status();
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
            if answer.len() + chunk.len() > LONGEST {
                return Err(Error::NoAnswer("the answer does not end".to_owned()));
            }
            answer.extend_from_slice(&chunk);
        }
        if status.is_success() { Ok(answer) } else { Err(error::of(status.as_u16(), &answer)) }
    }
}

fn with_headers(
    mut request: reqwest::RequestBuilder,
    headers: &[(&str, &str)],
    signature: Vec<(&'static str, String)>,
) -> Result<reqwest::RequestBuilder, Error> {
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    for (name, value) in signature {
        let value = HeaderValue::from_str(&value).map(|mut value| {
            value.set_sensitive(true);
            value
        });
        let value = value.map_err(|_| Error::Refused("the credentials fit into no header".to_owned()))?;
        request = request.header(HeaderName::from_static(name), value);
    }
    Ok(request)
}

fn identity(keys: &Keys) -> Identity {
    let token = Some(keys.session_token.expose()).filter(|token| !token.is_empty()).map(str::to_owned);
    Credentials::new(&keys.id, keys.secret.expose(), token, None, "environment").into()
}

/// The whole chain: the outer error only says that something was sent.
fn no_answer(error: reqwest::Error) -> Error {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    Error::NoAnswer(text)
}

#[cfg(test)]
mod tests;
