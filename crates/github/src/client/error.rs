//! What can go wrong at GitHub, by what the caller must do.

use std::fmt;

use domain::clock::Timestamp;

use super::operation::Operation;

/// Longest piece of GitHub's `message` that is repeated in an error, in characters.
const MESSAGE_LIMIT: usize = 200;

/// Where and how a call failed. Never holds a credential: messages of calls whose answer is one are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The call.
    pub operation: Operation,
    /// HTTP status; absent when no response came.
    pub status: Option<u16>,
    /// GitHub's `X-GitHub-Request-Id`, for its support.
    pub request_id: Option<String>,
    /// GitHub's `message`, cut, or ours.
    pub message: String,
}

impl Context {
    pub(super) fn ours(operation: Operation, message: impl Into<String>) -> Box<Self> {
        Box::new(Self { operation, status: None, request_id: None, message: message.into() })
    }

    pub(super) fn of(operation: Operation, status: u16, headers: &http::HeaderMap, body: &[u8]) -> Box<Self> {
        let request_id = headers.get("x-github-request-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let message = if operation.traits().secret { String::new() } else { message_in(body) };
        Box::new(Self { operation, status: Some(status), request_id, message })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.operation.method(), self.operation.template())?;
        if let Some(status) = self.status {
            write!(f, ": status {status}")?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " (request {id})")?;
        }
        Ok(())
    }
}

/// The JSON `message` of an error body, cut to [`MESSAGE_LIMIT`] characters.
pub(super) fn message_in(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        message: String,
    }
    serde_json::from_slice::<Body>(body).map(|b| b.message.chars().take(MESSAGE_LIMIT).collect()).unwrap_or_default()
}

/// A call that did not succeed, after the retries its kind allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No response, or an incomplete one. GitHub may have acted. Try later.
    #[error("GitHub could not be reached: {0}")]
    Network(Box<Context>),
    /// Success, but not in a form we understand. GitHub has acted. Try later.
    #[error("GitHub's answer is unreadable: {0}")]
    Decode(Box<Context>),
    /// 401, with a fresh token too: the App's key or id is wrong, or the App is suspended. For the operator.
    #[error("GitHub refused the App's credentials: {0}")]
    Unauthorized(Box<Context>),
    /// 403 that is not a rate limit: a permission is missing. For the operator.
    #[error("the App may not do this: {0}")]
    Forbidden(Box<Context>),
    /// 404 or 410: it does not exist, or the App is not installed there.
    #[error("GitHub does not know this: {0}")]
    NotFound(Box<Context>),
    /// 409: the name is taken, or the state forbids it.
    #[error("GitHub reports a conflict: {0}")]
    Conflict(Box<Context>),
    /// 422, or another status that blames the request. Repeating it does not help.
    #[error("GitHub refused the request: {0}")]
    Unprocessable(Box<Context>),
    /// Too many requests; the client has not waited. Try again at `until`, plus jitter.
    #[error("GitHub's rate limit holds until {until}: {context}")]
    RateLimited {
        /// When the limit ends, as GitHub or our own budget puts it.
        until: Timestamp,
        /// The call.
        context: Box<Context>,
    },
    /// 5xx. GitHub may have acted. Try later.
    #[error("GitHub failed: {0}")]
    Server(Box<Context>),
}

impl Error {
    /// Where and how it failed.
    pub fn context(&self) -> &Context {
        match self {
            Self::Network(c)
            | Self::Decode(c)
            | Self::Unauthorized(c)
            | Self::Forbidden(c)
            | Self::NotFound(c)
            | Self::Conflict(c)
            | Self::Unprocessable(c)
            | Self::Server(c)
            | Self::RateLimited { context: c, .. } => c,
        }
    }

    /// When to try again, if GitHub or the budget said so.
    pub fn retry_at(&self) -> Option<Timestamp> {
        match self {
            Self::RateLimited { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Whether repeating the call unchanged is pointless until somebody changes something.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Unauthorized(_) | Self::Forbidden(_) | Self::NotFound(_) | Self::Unprocessable(_))
    }

    /// Whether GitHub may have done what was asked although no usable answer came back.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Network(_) | Self::Decode(_) | Self::Server(_))
    }
}

/// What is wrong with a [`ClientConfig`](super::ClientConfig). Never shows the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not an RSA key in PEM form that can sign.
    #[error("the GitHub App private key is not a usable RSA key in PEM form: {0}")]
    PrivateKey(String),
    /// The REST base URL.
    #[error("the GitHub API URL {0}")]
    ApiUrl(&'static str),
    /// The version cannot be part of a `User-Agent` header.
    #[error("the version must be printable ASCII")]
    Version,
}
