//! The port: one HTTP exchange with GitHub.

use async_trait::async_trait;
use bytes::Bytes;

/// Largest response body an [`Exchange`] may return, in bytes.
pub const BODY_LIMIT: usize = 4 * 1024 * 1024;

/// Why no response came back. Whether GitHub acted on the request is unknown in every case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// Connecting, sending or receiving failed. The text names the cause and holds no header and no body.
    #[error("{0}")]
    Transport(String),
    /// The response was larger than [`BODY_LIMIT`].
    #[error("the response is larger than 4 MiB")]
    TooLarge,
    /// A redirect that may not be followed: too many, malformed, or from https to http.
    #[error("the redirect cannot be followed")]
    Redirect,
}

/// Sends one request and reads the whole response.
///
/// No retries, no authentication, no caching: those sit above, in [`Client`](super::Client), so that a simulation
/// which implements this trait in memory exercises them. The caller bounds the total time by dropping the future; an
/// implementation bounds connecting (5 s) and the body ([`BODY_LIMIT`]), and follows redirects for GET only.
#[async_trait]
pub trait Exchange: Send + Sync + 'static {
    /// Every status is an `Ok`; an error means that no complete response was read.
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, ExchangeError>;
}
