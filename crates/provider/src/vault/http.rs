//! Requests to Vault: how they are sent, and how often.

use std::sync::Arc;
use std::time::Duration;

use domain::clock::Rng;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Url};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{sleep, timeout};

use crate::handover::Error;

/// Limit of establishing a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Limit of one request, connecting and the whole answer included.
const REQUEST: Duration = Duration::from_secs(30);
/// Limit of all attempts.
const CALL: Duration = Duration::from_secs(60);
/// How long to wait before the second, third and fourth attempt, ±20 %.
const PAUSES: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];
/// Answers end here; the longest that is expected is a list.
const LONGEST: usize = 8 * 1024 * 1024;

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Shows proxies of Vault that the request is meant for it.
const MEANT: HeaderName = HeaderName::from_static("x-vault-request");

/// One request.
#[derive(Clone)]
pub(super) struct Request {
    method: Method,
    /// Below `/v1/`.
    path: Vec<String>,
    list: bool,
    body: Option<Vec<u8>>,
}

impl Request {
    /// At the path of these pieces, each of which may have several segments.
    pub(super) fn new<'a>(method: Method, pieces: impl IntoIterator<Item = &'a str>) -> Self {
        let segments = pieces.into_iter().flat_map(|piece| piece.split('/')).filter(|segment| !segment.is_empty());
        Self { method, path: segments.map(str::to_owned).collect(), list: false, body: None }
    }

    /// A list, in the form of it that every proxy lets through.
    pub(super) fn list<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Self {
        Self { list: true, ..Self::new(Method::GET, pieces) }
    }

    pub(super) fn with_body(self, body: Vec<u8>) -> Self {
        Self { body: Some(body), ..self }
    }
}

/// An answer that is worth reading. It may hold secrets.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// A Vault server.
pub(super) struct Http {
    client: Client,
    address: Url,
    rng: Arc<dyn Rng>,
}

impl Http {
    pub(super) fn new(address: &str, namespace: Option<&str>, rng: Arc<dyn Rng>) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Deployment(format!("{what} of Vault cannot be used"));
        let address = Url::parse(address).ok().filter(|url| url.has_host() && !url.cannot_be_a_base());
        let address = address.ok_or_else(|| wrong("the address"))?;
        let mut headers = HeaderMap::from_iter([(MEANT, HeaderValue::from_static("true"))]);
        if let Some(namespace) = namespace {
            headers.insert(NAMESPACE, HeaderValue::from_str(namespace).map_err(|_| wrong("the namespace"))?);
        }
        // A second installation is refused and changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            // The token would go wherever an answer points to.
            .redirect(reqwest::redirect::Policy::none())
            .default_headers(headers)
            .connect_timeout(CONNECT)
            .timeout(REQUEST)
            .build()
            .map_err(|error| Error::Deployment(words(&error)))?;
        Ok(Self { client, address, rng })
    }

    /// Sends, and sends again while the failure may pass. Every other status is an answer.
    ///
    /// # Errors
    /// [`Error::Transient`].
    pub(super) async fn ask(&self, request: &Request, token: Option<&SecretString>) -> Result<Answer, Error> {
        let asked = timeout(CALL, self.attempts(request, token)).await;
        asked.unwrap_or_else(|_| Err(Error::Transient("Vault takes too long".to_owned())))
    }

    async fn attempts(&self, request: &Request, token: Option<&SecretString>) -> Result<Answer, Error> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let fault = match self.send(request, token).await {
                Ok(answer) if answer.status < 500 && answer.status != 429 => return Ok(answer),
                Ok(answer) => format!("Vault answers with status {}", answer.status),
                // Whoever waited that long has waited long enough.
                Err(error) if error.is_timeout() => return Err(Error::Transient(words(&error))),
                Err(error) => words(&error),
            };
            let Some(pause) = pauses.next() else { return Err(Error::Transient(fault)) };
            sleep(self.rng.jitter(pause, 0.2)).await;
        }
    }

    async fn send(&self, request: &Request, token: Option<&SecretString>) -> Result<Answer, reqwest::Error> {
        let mut sent = self.client.request(request.method.clone(), self.url(request));
        // A token that fits into no header is none; Vault will say so.
        if let Some(mut token) = token.and_then(|token| HeaderValue::from_str(token.expose_secret()).ok()) {
            token.set_sensitive(true);
            sent = sent.header(TOKEN, token);
        }
        if let Some(body) = &request.body {
            sent = sent.header(reqwest::header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        let mut response = sent.send().await?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            // What is longer is nothing that we know how to read; its beginning will not be either.
            if body.len() + chunk.len() > LONGEST {
                break;
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, body })
    }

    fn url(&self, request: &Request) -> Url {
        let mut url = self.address.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(&request.path);
        }
        url.set_query(request.list.then_some("list=true"));
        url
    }
}

/// The whole chain, without the address: the outer error only says that something was sent.
fn words(error: &reqwest::Error) -> String {
    let kind = if error.is_timeout() { "Vault does not answer" } else { "Vault cannot be reached" };
    let mut text = kind.to_owned();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
