//! What SQS and the way to it say when a call fails, in the words of the port. Pure.

use std::error::Error as StdError;

use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::BatchResultErrorEntry;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::Error;

/// A failed call.
pub(super) fn fault<E>(error: &SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    match error {
        SdkError::TimeoutError(_) => Error::Timeout,
        SdkError::DispatchFailure(failure) if failure.is_timeout() => Error::Timeout,
        SdkError::ServiceError(answer) => {
            let (code, message) = (answer.err().code(), answer.err().message());
            refused(code.unwrap_or_default(), message.unwrap_or_default(), answer.raw().status().as_u16())
        }
        SdkError::ConstructionFailure(_) => Error::Invalid(causes(error)),
        _ => Error::Unavailable(causes(error)),
    }
}

/// One entry of a batch.
pub(super) fn entry_fault(entry: &BatchResultErrorEntry) -> Error {
    refused(entry.code(), entry.message().unwrap_or_default(), if entry.sender_fault() { 400 } else { 500 })
}

/// Whether SQS may have done what was asked although nobody heard of it.
pub(super) fn answer_lost<E>(error: &SdkError<E, HttpResponse>) -> bool {
    matches!(error, SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_))
}

/// A refusal by its code, else by its HTTP status. Codes come with and without the prefixes of older protocols.
pub(super) fn refused(code: &str, message: &str, status: u16) -> Error {
    let text = || format!("{code}: {message}");
    match code.rsplit(['.', '#']).next().unwrap_or_default() {
        "RequestThrottled"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottledException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException"
        | "BandwidthLimitExceeded"
        | "SlowDown"
        | "KmsThrottled"
        // Too many messages in flight: there is room again when some of them are done.
        | "OverLimit" => Error::Throttled,
        "NonExistentQueue" | "QueueDoesNotExist" => Error::NotFound(message.into()),
        "ReceiptHandleIsInvalid" | "MessageNotInflight" => Error::HandleExpired,
        // FIFO queues have no code of their own for this.
        "InvalidParameterValue" if message.to_ascii_lowercase().contains("receipt handle has expired") => {
            Error::HandleExpired
        }
        "AccessDenied"
        | "AccessDeniedException"
        | "AuthFailure"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "InvalidSecurity"
        | "InvalidSignatureException"
        | "MissingAuthenticationToken"
        | "OptInRequired"
        | "RequestExpired"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException" => Error::Unauthorized(text()),
        "InternalError" | "InternalFailure" | "ServiceUnavailable" | "RequestTimeout" | "QueueDeletedRecently" => {
            Error::Unavailable(text())
        }
        // The key that encrypts the queue: gone, disabled or not ours.
        _ if code.starts_with("KMS.") || code.starts_with("Kms") => Error::Unauthorized(text()),
        _ => match status {
            429 => Error::Throttled,
            401 | 403 => Error::Unauthorized(text()),
            500.. => Error::Unavailable(format!("HTTP status {status} {code}")),
            _ => Error::Invalid(text()),
        },
    }
}

/// An error and what caused it, in one line.
fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
