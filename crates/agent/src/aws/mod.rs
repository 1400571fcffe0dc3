//! The agent's few calls to AWS: one signed POST each, no SDK.
//!
//! [`Aws`] signs and sends; [`ssm`] reads hand-overs, [`sqs`] takes reports, [`ec2`] ends the machine.
//!
//! Properties: every call ends within [`CALL`]; none is repeated here, because whoever calls has the loop that knows
//! how often and how long; no credential and no content appears in an error, not even in words of the service, which
//! quotes signed headers when it rejects them.

pub mod ec2;
mod error;
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

use crate::environment::{Cloud, Endpoints, Keys};

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
}

impl Source {
    /// Asked for each call: credentials of a role change while the agent runs.
    fn identity(&self) -> &Identity {
        match self {
            Self::Given(identity) => identity,
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
    pub fn new(cloud: &Cloud, clock: Arc<dyn Clock>) -> Result<Self, reqwest::Error> {
        // A second installation is refused and changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(CALL)
            .build()?;
        let (region, endpoints) = (cloud.region.clone(), cloud.endpoints.clone());
        Ok(Self { http, region, endpoints, source: Source::Given(identity(&cloud.keys)), clock })
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
        let since_epoch = u64::try_from(self.clock.now().as_millisecond()).unwrap_or(0);
        let scope = sign::Scope {
            region: &self.region,
            service,
            time: UNIX_EPOCH + Duration::from_millis(since_epoch),
            identity: self.source.identity(),
        };
        let signature = sign::post(&scope, endpoint, headers, body.as_bytes()).map_err(Error::Refused)?;
        let mut request = self.http.post(endpoint);
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
        let mut response = request.body(body).send().await.map_err(no_answer)?;
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
