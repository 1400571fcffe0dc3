//! What an answer means and whether to ask again. Pure.

use std::time::Duration;

use domain::clock::{Timestamp, after};
use http::{HeaderMap, StatusCode};
use jiff::fmt::rfc2822;

use super::error::{Context, Error, message_in};
use super::operation::Operation;

/// Requests per call, the first included.
pub(super) const ATTEMPTS: u32 = 4;
/// The longest wait a caller is kept for; anything longer is handed back as [`Error::RateLimited`].
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long a rate limit lasts when GitHub does not say: its documentation asks for at least a minute.
const UNSTATED_LIMIT: Duration = Duration::from_secs(60);

/// One request that did not succeed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// How long the server asks us to wait.
    pub(super) hint: Option<Duration>,
    /// Whether the same request may be sent again within this call.
    pub(super) again: bool,
    /// The server's clock, if it complained about ours.
    pub(super) their_clock: Option<Timestamp>,
}

impl Failure {
    /// A failure without a response.
    pub(super) fn network(operation: Operation, message: String) -> Self {
        Self::repeatable(operation, Error::Network(Context::ours(operation, message)), None)
    }

    /// An answer that says success and cannot be read.
    pub(super) fn unreadable(operation: Operation, status: StatusCode, headers: &HeaderMap) -> Self {
        let context = Context::of(operation, status.as_u16(), headers, &[]);
        Self::repeatable(operation, Error::Decode(context), None)
    }

    /// Our own decision not to send now.
    pub(super) fn held(operation: Operation, until: Timestamp, why: &'static str) -> Self {
        Self::last(Error::RateLimited { until, context: Context::ours(operation, why) })
    }

    /// A failure that no repetition helps.
    pub(super) fn last(error: Error) -> Self {
        Self { error, hint: None, again: false, their_clock: None }
    }

    fn repeatable(operation: Operation, error: Error, hint: Option<Duration>) -> Self {
        Self { error, hint, again: operation.traits().repeatable, their_clock: None }
    }
}

/// Reads a response that is neither a success nor a 304.
pub(super) fn judge(
    operation: Operation,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Failure {
    let context = Context::of(operation, status.as_u16(), headers, body);
    let hint = hint(headers, now);
    match status.as_u16() {
        401 => {
            // "'Expiration time' claim ('exp') is too far in the future", "'Issued at' claim ('iat') must be …"
            let message = message_in(body);
            let about_time = message.contains("'exp'") || message.contains("'iat'");
            let their_clock = about_time.then(|| date(headers, "date")).flatten();
            Failure { their_clock, ..Failure::last(Error::Unauthorized(context)) }
        }
        // Refused before anything was done, so that repeating is safe even for calls that create something.
        429 => limited(context, hint, now),
        403 if hint.is_some() => limited(context, hint, now),
        403 if message_in(body).to_ascii_lowercase().contains("secondary rate limit") => {
            limited(context, Some(UNSTATED_LIMIT), now)
        }
        403 => Failure::last(Error::Forbidden(context)),
        404 | 410 => Failure::last(Error::NotFound(context)),
        409 => Failure::last(Error::Conflict(context)),
        500.. => Failure::repeatable(operation, Error::Server(context), hint),
        _ => Failure::last(Error::Unprocessable(context)),
    }
}

fn limited(context: Box<Context>, hint: Option<Duration>, now: Timestamp) -> Failure {
    let until = after(now, hint.unwrap_or(UNSTATED_LIMIT));
    Failure { error: Error::RateLimited { until, context }, hint, again: true, their_clock: None }
}

/// `Retry-After` in seconds or as a date; else the reset of an exhausted rate limit.
fn hint(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let wait = |until: Timestamp| domain::clock::since(until, now);
    if let Some(text) = text(headers, "retry-after") {
        let seconds = text.trim().parse().ok().map(Duration::from_secs);
        return seconds.or_else(|| date(headers, "retry-after").map(wait));
    }
    (number(headers, "x-ratelimit-remaining") == Some(0)).then(|| {
        let reset = number(headers, "x-ratelimit-reset").and_then(|s| Timestamp::from_second(s).ok());
        reset.map_or(UNSTATED_LIMIT, wait)
    })
}

/// Delay before repetition `n` (0 for the first): half to all of 500 ms · 2ⁿ, capped at 10 s. `unit` is in `[0, 1)`.
pub(super) fn backoff(n: u32, unit: f64) -> Duration {
    let full = Duration::from_millis(500).saturating_mul(2u32.saturating_pow(n)).min(Duration::from_secs(10));
    full.mul_f64(0.5 + unit / 2.0)
}

pub(super) fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

pub(super) fn number(headers: &HeaderMap, name: &str) -> Option<i64> {
    text(headers, name)?.trim().parse().ok()
}

fn date(headers: &HeaderMap, name: &str) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(text(headers, name)?.trim()).ok()
}
