//! Objects in S3, write only.

use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Body;
use tokio_util::io::ReaderStream;

use super::{Aws, Error, sign, with_headers};
use crate::logs::{Bucket, Object};

/// What a key's path has to escape, its separators excepted.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

impl Aws {
    /// `PutObject`, streamed from a file.
    async fn put_object(&self, bucket: &str, object: Object) -> Result<(), Error> {
        let endpoint = self.endpoints.s3.trim_end_matches('/');
        let url = format!("{endpoint}/{bucket}/{}", utf8_percent_encode(&object.key, ESCAPED));
        let length = object.length.to_string();
        let mut headers = vec![
            ("content-encoding", "gzip"),
            ("content-length", length.as_str()),
            ("content-type", "text/plain"),
            ("x-amz-server-side-encryption", "AES256"),
        ];
        let named = object.metadata.iter().filter(|(_, value)| !value.is_empty());
        headers.extend(named.map(|(name, value)| (*name, value.as_str())));
        let identity = self.source.identity().await?;
        let signature = sign::put(&self.scope("s3", &identity), &url, &headers, &object.sha256);
        let request = with_headers(self.http.put(&url), &headers, signature.map_err(Error::Refused)?)?;
        let body = Body::wrap_stream(ReaderStream::new(tokio::fs::File::from_std(object.content)));
        // Whoever uploads has a limit for everything together.
        self.send(request.timeout(std::time::Duration::from_mins(2)).body(body)).await.map(drop)
    }
}

/// Buckets that the instance may write to.
pub struct Buckets {
    aws: Arc<Aws>,
}

impl Buckets {
    /// Those of the account.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self { aws }
    }
}

#[async_trait::async_trait]
impl Bucket for Buckets {
    async fn put(&self, bucket: &str, object: Object) -> Result<(), String> {
        self.aws.put_object(bucket, object).await.map_err(|error| error.to_string())
    }
}
