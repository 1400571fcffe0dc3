//! The real [`Exchange`]: octocrab's client over hyper and rustls.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use octocrab::{AuthState, Octocrab, OctocrabBuilder};
use url::Url;

use super::exchange::{BODY_LIMIT, Exchange, ExchangeError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_REDIRECTS: usize = 5;

/// HTTP/1.1 over TLS (rustls with ring), trusting the system's certificate store; `SSL_CERT_FILE` and `SSL_CERT_DIR`
/// take its place when set.
///
/// octocrab's own default connector is not used because it names itself in `User-Agent` behind our value and cannot
/// bound connecting.
pub struct OctocrabExchange {
    octocrab: Octocrab,
}

impl OctocrabExchange {
    /// Builds the connection pool. Must be called inside a Tokio runtime: octocrab's request buffer is a task there,
    /// which ends with this value.
    ///
    /// A machine without any certificate still gets a client, because plain http to the loopback interface needs none;
    /// https then fails with an unknown issuer.
    ///
    /// # Errors
    /// The TLS library refuses its own default protocol versions.
    pub fn new() -> Result<Self, rustls::Error> {
        let tls = || {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
        };
        let tls = match tls()?.with_native_roots() {
            Ok(config) => config.with_no_client_auth(),
            Err(error) => {
                tracing::warn!(%error, "no certificate authorities found: https requests to GitHub will fail");
                tls()?.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
            }
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let hyper = Hyper::builder(TokioExecutor::new()).build(https.wrap_connector(tcp));
        let octocrab = match OctocrabBuilder::new_empty().with_service(hyper).with_auth(AuthState::None).build() {
            Ok(octocrab) => octocrab,
            Err(never) => match never {},
        };
        Ok(Self { octocrab })
    }

    async fn once(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ExchangeError> {
        let response = self.octocrab.execute(request).await.map_err(|e| transport(&e))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, BODY_LIMIT)
            .collect()
            .await
            .map_err(|e| if e.is::<LengthLimitError>() { ExchangeError::TooLarge } else { transport(e.as_ref()) })?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    }
}

#[async_trait]
impl Exchange for OctocrabExchange {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ExchangeError> {
        if request.method() != Method::GET {
            return self.once(request).await;
        }
        let mut request = request;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.once(request.clone()).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            redirect(&mut request, response.headers().get(LOCATION)).ok_or(ExchangeError::Redirect)?;
        }
        Err(ExchangeError::Redirect)
    }
}

/// Points `request` at the redirect's target. Credentials go only where they were meant to go: to the same origin.
fn redirect(request: &mut Request<Bytes>, location: Option<&http::HeaderValue>) -> Option<()> {
    let from = Url::parse(&request.uri().to_string()).ok()?;
    let to = from.join(location?.to_str().ok()?).ok()?;
    if from.scheme() == "https" && to.scheme() != "https" {
        return None;
    }
    if from.origin() != to.origin() {
        request.headers_mut().remove(AUTHORIZATION);
    }
    *request.uri_mut() = to.as_str().parse().ok()?;
    Some(())
}

/// The causes of an error, outermost first. hyper and rustls name addresses and failures, never headers.
fn transport(error: &(dyn std::error::Error + 'static)) -> ExchangeError {
    let mut causes: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if causes.last() != Some(&text) {
            causes.push(text);
        }
        next = error.source();
    }
    ExchangeError::Transport(causes.join(": "))
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
