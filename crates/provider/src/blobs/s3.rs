//! Objects in a bucket of S3.
//!
//! Every object is sent with its SHA-256, which S3 checks before it stores anything. It is encrypted by the bucket's own
//! setting, which every bucket has.
//!
//! Every call is tried at most three times, and only after what may pass by itself.

use std::error::Error as _;
use std::fmt::Write as _;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_runtime_api::client::interceptors::SharedInterceptor;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use domain::clock::{Rng as _, SystemRng, Timestamp};
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use super::{Blob, BlobStore, Created, Error, check};

#[cfg(test)]
mod tests;

/// How long to wait before the second and the third attempt, ±20 %.
const PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(1500)];

/// See the module.
#[derive(Debug, Clone)]
pub struct S3Blobs {
    client: Client,
    bucket: String,
    /// Objects on one page of a list.
    page: i32,
}

impl S3Blobs {
    /// The objects of `bucket`. `interceptor` sees every call.
    ///
    /// The client connects within 3 s; a call ends within 60 s and is made three times at most.
    pub fn new(config: &SdkConfig, interceptor: SharedInterceptor, bucket: impl Into<String>) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .read_timeout(Duration::from_secs(15))
            .operation_timeout(Duration::from_secs(60))
            .build();
        // An endpoint of one's own rarely has a name for every bucket.
        let paths = config.endpoint_url().is_some();
        let mut config = aws_sdk_s3::config::Builder::from(config)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .force_path_style(paths);
        config.push_interceptor(interceptor);
        Self { client: Client::from_conf(config.build()), bucket: bucket.into(), page: 1000 }
    }

    async fn write(&self, key: &str, content: Bytes, only_new: bool) -> Result<Created, Error> {
        check(key)?;
        let checksum = STANDARD.encode(Sha256::digest(&content));
        let put = || {
            let request = self.client.put_object().bucket(&self.bucket).key(key).checksum_sha256(&checksum);
            let request = request.set_if_none_match(only_new.then(|| "*".to_owned()));
            request.body(ByteStream::from(content.clone())).send()
        };
        let sent = attempts(put).await;
        match sent {
            Ok(answer) if answer.checksum_sha256().is_none_or(|stored| stored == checksum) => Ok(Created::New),
            Ok(_) => Err(Error::Transient("another object was stored than was sent".to_owned())),
            Err(Fault::Exists) if only_new => {
                let there = self.get(key).await?;
                Ok(if there.as_ref() == Some(&content) { Created::New } else { Created::Exists })
            }
            Err(fault) => Err(fault.into()),
        }
    }
}

#[async_trait]
impl BlobStore for S3Blobs {
    async fn put(&self, key: &str, content: Bytes) -> Result<(), Error> {
        self.write(key, content, false).await.map(|_| ())
    }

    async fn create(&self, key: &str, content: Bytes) -> Result<Created, Error> {
        self.write(key, content, true).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        check(key)?;
        let request = self.client.get_object().bucket(&self.bucket).key(key);
        let mut pauses = PAUSES.into_iter();
        loop {
            let answer = match attempts(|| request.clone().send()).await {
                Ok(answer) => answer,
                Err(Fault::Missing) => return Ok(None),
                Err(fault) => return Err(fault.into()),
            };
            // The content comes after the answer, and may be cut off by itself.
            match answer.body.collect().await {
                Ok(content) => return Ok(Some(content.into_bytes())),
                Err(error) => match pauses.next() {
                    Some(pause) => sleep(SystemRng.jitter(pause, 0.2)).await,
                    None => return Err(Error::Transient(error.to_string())),
                },
            }
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Blob>, Error> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix).max_keys(self.page);
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = attempts(|| request.clone().set_continuation_token(token.clone()).send()).await?;
            found.extend(page.contents().iter().filter_map(|object| {
                Some(Blob {
                    key: object.key()?.to_owned(),
                    size: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                    modified_at: object.last_modified().and_then(|at| Timestamp::from_second(at.secs()).ok()),
                })
            }));
            match page.next_continuation_token().filter(|_| page.is_truncated() == Some(true)) {
                Some(next) if token.as_deref() == Some(next) => {
                    return Err(Error::Transient("a page of the list points to itself".to_owned()));
                }
                Some(next) => token = Some(next.to_owned()),
                None => return Ok(found),
            }
        }
    }

    async fn delete(&self, key: &str) -> Result<(), Error> {
        check(key)?;
        let request = self.client.delete_object().bucket(&self.bucket).key(key);
        match attempts(|| request.clone().send()).await {
            Ok(_) | Err(Fault::Missing) => Ok(()),
            Err(fault) => Err(fault.into()),
        }
    }
}

/// Why a call failed. Never quotes what was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// There is no such object.
    Missing,
    /// There is one already.
    Exists,
    /// It may pass by itself: throttling, an error of S3's own, no answer.
    Passing(String),
    /// It stays until somebody acts.
    Lasting(String),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Missing => Self::Transient("the object went away meanwhile".to_owned()),
            Fault::Exists => Self::Transient("the object came up meanwhile".to_owned()),
            Fault::Passing(text) => Self::Transient(text),
            Fault::Lasting(text) => Self::Deployment(text),
        }
    }
}

/// Sends, and sends again while the fault may pass.
async fn attempts<T, E, F>(mut send: impl FnMut() -> F) -> Result<T, Fault>
where
    F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let mut pauses = PAUSES.into_iter();
    loop {
        // The client's futures are large.
        let fault = match Box::pin(send()).await {
            Ok(answer) => return Ok(answer),
            Err(SdkError::ServiceError(context)) => {
                let status = context.raw().status().as_u16();
                coded(status, context.err().code(), context.err().message())
            }
            Err(error) => Fault::Passing(chain(&error)),
        };
        let pause = pauses.next().filter(|_| matches!(fault, Fault::Passing(_)));
        let Some(pause) = pause else { return Err(fault) };
        sleep(SystemRng.jitter(pause, 0.2)).await;
    }
}

/// By S3's code ("Error responses"). Its words are kept only where they speak of permissions.
fn coded(status: u16, code: Option<&str>, message: Option<&str>) -> Fault {
    let Some(code) = code else { return Fault::Passing(format!("status {status}, unreadable")) };
    match code {
        "NoSuchKey" => Fault::Missing,
        "PreconditionFailed" => Fault::Exists,
        "SlowDown"
        | "Throttling"
        | "RequestTimeout"
        | "InternalError"
        | "ServiceUnavailable"
        | "OperationAborted"
        | "ConditionalRequestConflict"
        | "BadDigest"
        | "ExpiredToken" => Fault::Passing(code.to_owned()),
        "AccessDenied" => Fault::Lasting(format!("{code}: {}", message.unwrap_or_default())),
        _ if status >= 500 || status == 429 => Fault::Passing(code.to_owned()),
        _ => Fault::Lasting(code.to_owned()),
    }
}

/// An error in the words of all its causes; its own are "dispatch failure" and the like.
fn chain<E: std::error::Error + 'static>(error: &SdkError<E, HttpResponse>) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
