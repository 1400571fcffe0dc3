//! What a failed call means for its caller. Pure.

use serde_json::Value;

/// Why a call failed, by what to do. The texts are codes of the service or words of the HTTP client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too many calls: again, later and later.
    #[error("throttled ({0})")]
    Throttled(String),
    /// Nothing useful came back, and the call may have had its effect: again.
    #[error("no answer ({0})")]
    NoAnswer(String),
    /// These credentials may not: somebody has to allow it, which may be happening.
    #[error("denied ({0})")]
    Denied(String),
    /// What the call is about does not exist.
    #[error("not found ({0})")]
    NotFound(String),
    /// The same call will be refused again.
    #[error("refused ({0})")]
    Refused(String),
}

const THROTTLED: [&str; 10] = [
    "EC2ThrottledException",
    "KmsThrottled",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "TooManyRequestsException",
];

const DENIED: [&str; 14] = [
    "AccessDenied",
    "AccessDeniedException",
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "KmsAccessDenied",
    "MissingAuthenticationToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnauthorizedOperation",
    "UnrecognizedClientException",
];

const NOT_FOUND: [&str; 4] =
    ["AWS.SimpleQueueService.NonExistentQueue", "InvalidInstanceID.NotFound", "ParameterNotFound", "QueueDoesNotExist"];

const NO_ANSWER: [&str; 5] =
    ["InternalError", "InternalFailure", "InternalServerError", "ServiceUnavailable", "Unavailable"];

/// The error that an answer with this status and body is. Codes before statuses: EC2 throttles with 503, and the JSON
/// protocols answer most things with 400.
pub(super) fn of(status: u16, body: &[u8]) -> Error {
    let Some(code) = code(body) else {
        let text = format!("status {status}");
        return match status {
            401 | 403 => Error::Denied(text),
            429 => Error::Throttled(text),
            500.. => Error::NoAnswer(text),
            _ => Error::Refused(text),
        };
    };
    let is = |codes: &[&str]| codes.contains(&code.as_str());
    if is(&THROTTLED) || status == 429 {
        Error::Throttled(code)
    } else if is(&DENIED) {
        Error::Denied(code)
    } else if is(&NOT_FOUND) {
        Error::NotFound(code)
    } else if is(&NO_ANSWER) || status >= 500 {
        Error::NoAnswer(code)
    } else {
        Error::Refused(code)
    }
}

/// The error code: `__type` without its namespace in JSON, the first `Code` in XML. Only what looks like a code counts,
/// so that nothing else of a body gets into an error.
fn code(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let code = match serde_json::from_str::<Value>(text) {
        Ok(json) => {
            let named = json.get("__type").or_else(|| json.get("code"))?.as_str()?;
            named.rsplit('#').next()?.split(':').next()?.to_owned()
        }
        Err(_) => text.split_once("<Code>")?.1.split_once("</Code>")?.0.trim().to_owned(),
    };
    let plausible = (1..=100).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
    plausible.then_some(code)
}
