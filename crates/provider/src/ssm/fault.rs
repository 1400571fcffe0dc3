//! What an error of SSM means, and the one loop that tries again.

use std::error::Error as _;
use std::fmt::Write as _;
use std::time::Duration;

use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use domain::clock::{Rng as _, SystemRng};
use tokio::time::sleep;

use crate::handover::Error;

/// How long to wait before the second and the third attempt, ±20 %.
const PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(1500)];

/// Why a call failed. Never quotes what was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no such parameter.
    Missing,
    /// There is one already.
    Exists,
    /// It may pass by itself: throttling, an error of SSM's own, no answer.
    Passing(String),
    /// It stays until somebody acts.
    Lasting(String),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Missing => Self::Transient("the parameter went away meanwhile".to_owned()),
            Fault::Exists => Self::Transient("the parameter came up meanwhile".to_owned()),
            Fault::Passing(text) => Self::Transient(text),
            Fault::Lasting(text) => Self::Deployment(text),
        }
    }
}

/// Sends, and sends again while the fault may pass.
pub(super) async fn attempts<T, E, F>(mut send: impl FnMut() -> F) -> Result<T, Fault>
where
    F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let mut pauses = PAUSES.into_iter();
    loop {
        // The client's futures are large.
        let fault = match Box::pin(send()).await {
            Ok(answer) => return Ok(answer),
            Err(error) => of(&error),
        };
        let pause = pauses.next().filter(|_| matches!(fault, Fault::Passing(_)));
        let Some(pause) = pause else { return Err(fault) };
        sleep(SystemRng.jitter(pause, 0.2)).await;
    }
}

fn of<E>(error: &SdkError<E, HttpResponse>) -> Fault
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error {
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            coded(status, context.err().code(), context.err().message())
        }
        _ => Fault::Passing(chain(error)),
    }
}

/// By SSM's code ("Common errors" and the errors of each action). Its words are kept only where they speak of
/// permissions: a validation error may quote the value, which is secret.
pub(super) fn coded(status: u16, code: Option<&str>, message: Option<&str>) -> Fault {
    let Some(code) = code else { return Fault::Passing(format!("status {status}, unreadable")) };
    match code {
        "ParameterNotFound" => Fault::Missing,
        "ParameterAlreadyExists" => Fault::Exists,
        "ThrottlingException"
        | "Throttling"
        | "TooManyUpdates"
        | "RequestLimitExceeded"
        | "InternalServerError"
        | "InternalFailure"
        | "ServiceUnavailable"
        | "RequestTimeout"
        | "ExpiredTokenException" => Fault::Passing(code.to_owned()),
        "AccessDeniedException" => Fault::Lasting(format!("{code}: {}", message.unwrap_or_default())),
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
