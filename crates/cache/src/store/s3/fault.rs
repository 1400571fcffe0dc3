//! Why calls of the bucket fail, and which are tried again.

use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use domain::clock::{Rng, SystemRng};

use crate::store::Error;

/// Waits before the second and the third try.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(600)];
/// Why a call failed.
pub(super) enum Fault {
    Missing,
    Condition,
    Passing(String),
    Lasting(String),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Missing => Self::Unavailable("there is no such object or bucket".to_owned()),
            Fault::Condition => Self::Unavailable("a condition was not met".to_owned()),
            Fault::Passing(why) | Fault::Lasting(why) => Self::Unavailable(why),
        }
    }
}

impl<E: ProvideErrorMetadata> From<SdkError<E, HttpResponse>> for Fault {
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        let SdkError::ServiceError(context) = &error else {
            // Its own words may quote an address; the kind is enough.
            return Self::Passing(match error {
                SdkError::TimeoutError(_) => "no answer in time".to_owned(),
                SdkError::DispatchFailure(_) => "no connection".to_owned(),
                _ => "an unreadable answer".to_owned(),
            });
        };
        let (status, code) = (context.raw().status().as_u16(), context.err().code().unwrap_or("no code"));
        match status {
            404 => Self::Missing,
            412 => Self::Condition,
            409 | 429 | 500.. => Self::Passing(format!("status {status}, {code}")),
            _ => Self::Lasting(format!("status {status}, {code}")),
        }
    }
}

/// Tries what may be tried again. Says whether an earlier try may have worked.
pub(super) async fn attempts<T, E, F>(mut send: impl FnMut() -> F) -> (Result<T, Fault>, bool)
where
    E: ProvideErrorMetadata,
    F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
{
    for (tries, pause) in PAUSES.into_iter().enumerate() {
        match Box::pin(send()).await.map_err(Fault::from) {
            Err(Fault::Passing(_)) => tokio::time::sleep(SystemRng.jitter(pause, 0.3)).await,
            done => return (done, tries > 0),
        }
    }
    (Box::pin(send()).await.map_err(Fault::from), true)
}

pub(super) fn found<T>(result: Result<T, Fault>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Fault::Missing) => Ok(None),
        Err(fault) => Err(fault.into()),
    }
}
