//! The instance metadata service, version 2 only ("Use the Instance Metadata Service to access instance metadata").
//!
//! Properties: every request is bounded; a session token that the service no longer knows is replaced once; what does
//! not exist is `None`, not an error; the service is never asked without a token.

use std::time::Duration;

use reqwest::StatusCode;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Error, no_answer};

const CONNECT: Duration = Duration::from_secs(1);
const REQUEST: Duration = Duration::from_secs(5);
/// Between tries of [`Imds::get_by`]: the service is not up in the first seconds of a boot.
const PAUSE: Duration = Duration::from_secs(1);
/// Answers are ids, tags and small documents.
const LONGEST: usize = 64 * 1024;
/// How long a session token lasts, seconds; the longest that is allowed.
const TOKEN_LASTS: &str = "21600";

/// A client.
pub struct Imds {
    http: reqwest::Client,
    base: String,
    token: Mutex<Option<String>>,
}

impl Imds {
    /// The service at `base`.
    ///
    /// # Errors
    /// When the TLS library finds no usable root certificates.
    pub fn new(base: &str) -> Result<Self, reqwest::Error> {
        // A second installation is refused and changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(REQUEST)
            .build()?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), token: Mutex::default() })
    }

    /// What is at `/latest/<path>`, if anything.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] when the service does not say, [`Error::Denied`] when it accepts no token.
    pub async fn get(&self, path: &str) -> Result<Option<String>, Error> {
        let token = self.token(None).await?;
        let (status, body) = self.read(path, &token).await?;
        let (status, body) = match status {
            StatusCode::UNAUTHORIZED => self.read(path, &self.token(Some(token)).await?).await?,
            _ => (status, body),
        };
        match status {
            StatusCode::OK => Ok(Some(body)),
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Error::Denied(format!("status {}", status.as_u16())))
            }
            _ => Err(Error::NoAnswer(format!("status {}", status.as_u16()))),
        }
    }

    /// The same, asked again and again until `deadline`.
    ///
    /// # Errors
    /// The last one.
    pub async fn get_by(&self, path: &str, deadline: Instant) -> Result<Option<String>, Error> {
        loop {
            match self.get(path).await {
                Err(_) if Instant::now() + PAUSE < deadline => tokio::time::sleep(PAUSE).await,
                last => return last,
            }
        }
    }

    async fn read(&self, path: &str, token: &str) -> Result<(StatusCode, String), Error> {
        let request = self.http.get(format!("{}/latest/{path}", self.base));
        text(request.header("x-aws-ec2-metadata-token", token)).await
    }

    /// The session token, a new one when there is none or only the one that was `refused`.
    async fn token(&self, refused: Option<String>) -> Result<String, Error> {
        let mut held = self.token.lock().await;
        if let Some(token) = held.as_ref().filter(|token| Some(*token) != refused.as_ref()) {
            return Ok(token.clone());
        }
        let request = self.http.put(format!("{}/latest/api/token", self.base));
        let (status, token) = text(request.header("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_LASTS)).await?;
        if status != StatusCode::OK {
            return Err(Error::NoAnswer(format!("status {} instead of a token", status.as_u16())));
        }
        *held = Some(token.clone());
        Ok(token)
    }
}

#[async_trait::async_trait]
impl crate::watch::Metadata for Imds {
    async fn look(&self, path: &str) -> Option<String> {
        self.get(path).await.ok().flatten()
    }
}

async fn text(request: reqwest::RequestBuilder) -> Result<(StatusCode, String), Error> {
    let mut response = request.send().await.map_err(no_answer)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
        if body.len() + chunk.len() > LONGEST {
            return Err(Error::NoAnswer("the answer does not end".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    let body = String::from_utf8(body).map_err(|_| Error::NoAnswer("the answer is not text".to_owned()))?;
    Ok((response.status(), body.trim().to_owned()))
}

#[cfg(test)]
mod tests;
