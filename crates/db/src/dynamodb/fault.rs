//! What an answer of DynamoDB that is not success means, and the one retry loop.
//!
//! DynamoDB refuses for good (the request is wrong, the table is missing), refuses for now (throttled, a transaction
//! is in the way), or leaves it open (a timeout, a lost connection, an error of its own). The last two are tried
//! again, at most [`ATTEMPTS`] times within [`TOTAL`]; who comes after an open answer knows that an earlier attempt may
//! have been the one that wrote.

use std::time::Duration;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::{
    batch_get_item::BatchGetItemError, create_table::CreateTableError, delete_item::DeleteItemError,
    describe_table::DescribeTableError, describe_time_to_live::DescribeTimeToLiveError, get_item::GetItemError,
    put_item::PutItemError, query::QueryError, scan::ScanError, transact_write_items::TransactWriteItemsError,
    update_continuous_backups::UpdateContinuousBackupsError, update_item::UpdateItemError,
    update_table::UpdateTableError, update_time_to_live::UpdateTimeToLiveError,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use domain::clock::Rng;
use tokio::time::{Instant, sleep, timeout_at};

use super::value::{Row, from_row};
use crate::table::{Error, Item};

/// Attempts of one operation.
pub(super) const ATTEMPTS: u32 = 3;
/// Longest an operation takes, with its pauses.
pub(super) const TOTAL: Duration = Duration::from_secs(15);
/// First pause, on average; the next is four times as long.
const PAUSE: Duration = Duration::from_millis(100);

/// A failed attempt, by what follows from it.
#[derive(Debug)]
pub(super) enum Fault {
    /// A condition did not hold of this row.
    Lost(Option<Item>),
    /// A transaction was refused, for these reasons in the order of its writes.
    Canceled(Vec<Reason>),
    /// The index does not exist or is still being filled.
    NoIndex,
    /// Refused for now: nothing happened.
    Busy(String),
    /// It may have happened.
    Open(String),
    /// No further attempt helps.
    Final(Error),
}

/// Why one write of a transaction was not made.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reason {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) row: Option<Item>,
}

/// A failed operation.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    /// An earlier attempt may have happened.
    pub(super) unsure: bool,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure.fault {
            Fault::Final(error) => error,
            Fault::Busy(text) | Fault::Open(text) => Self::Unavailable(text),
            Fault::Lost(_) | Fault::Canceled(_) => Self::Unavailable("a condition failed that was not set".to_owned()),
            Fault::NoIndex => Self::Missing("the index does not exist".to_owned()),
        }
    }
}

/// What an operation's own error says beyond its code.
pub(super) trait Detail: ProvideErrorMetadata + std::error::Error + 'static {
    fn detail(&self) -> Option<Fault> {
        None
    }
}

macro_rules! conditional {
    ($($error:ident),*) => {$(
        impl Detail for $error {
            fn detail(&self) -> Option<Fault> {
                match self {
                    Self::ConditionalCheckFailedException(failed) => Some(Fault::Lost(failed.item.clone().map(from_row))),
                    _ => None,
                }
            }
        }
    )*};
}
conditional!(PutItemError, UpdateItemError, DeleteItemError);

impl Detail for TransactWriteItemsError {
    fn detail(&self) -> Option<Fault> {
        let Self::TransactionCanceledException(canceled) = self else { return None };
        let reason = |reason: &aws_sdk_dynamodb::types::CancellationReason| Reason {
            code: reason.code.clone().unwrap_or_default(),
            message: reason.message.clone().unwrap_or_default(),
            row: reason.item.clone().filter(|row: &Row| !row.is_empty()).map(from_row),
        };
        Some(canceled_for(canceled.cancellation_reasons().iter().map(reason).collect()))
    }
}

macro_rules! plain {
    ($($error:ident),*) => {$(impl Detail for $error {})*};
}
plain!(GetItemError, BatchGetItemError, QueryError, ScanError, DescribeTableError, DescribeTimeToLiveError);
plain!(CreateTableError, UpdateTableError, UpdateTimeToLiveError, UpdateContinuousBackupsError);

/// What a refused transaction means: wrong for good before lost, lost before "not now". A lost condition is final
/// whatever else was in the way: nothing was written, and it did not hold.
pub(super) fn canceled_for(reasons: Vec<Reason>) -> Fault {
    if let Some(reason) = reasons.iter().find(|reason| reason.code == "ValidationError") {
        return Fault::Final(Error::Invalid(reason.message.clone()));
    }
    if reasons.iter().any(|reason| reason.code == "ConditionalCheckFailed") {
        return Fault::Canceled(reasons);
    }
    let codes: Vec<_> = reasons.iter().map(|reason| reason.code.as_str()).filter(|code| *code != "None").collect();
    Fault::Busy(format!("transaction refused: {}", codes.join(", ")))
}

/// What an error code means. `status` is that of the HTTP answer.
pub(super) fn meaning(code: &str, message: &str, status: Option<u16>) -> Fault {
    let text = format!("{code}: {message}");
    match code {
        "ProvisionedThroughputExceededException"
        | "ThrottlingException"
        | "Throttling"
        | "RequestLimitExceeded"
        | "LimitExceededException"
        | "ResourceInUseException"
        | "TransactionConflictException"
        | "TransactionInProgressException"
        | "ReplicatedWriteConflictException" => Fault::Busy(text),
        "ConditionalCheckFailedException" => Fault::Lost(None),
        "ResourceNotFoundException" | "TableNotFoundException" => Fault::Final(Error::Missing(text)),
        "ValidationException"
            if message.contains("does not have the specified index") || message.contains("backfilling") =>
        {
            Fault::NoIndex
        }
        "ValidationException" | "IdempotentParameterMismatchException" | "SerializationException" => {
            Fault::Final(Error::Invalid(text))
        }
        _ if status.is_none_or(|status| status >= 500) => Fault::Open(text),
        // Credentials and permissions: not the request's fault, and not cured by asking again at once.
        _ => Fault::Final(Error::Unavailable(text)),
    }
}

fn fault<E: Detail>(error: &SdkError<E, HttpResponse>) -> Fault {
    match error {
        SdkError::ServiceError(context) => context.err().detail().unwrap_or_else(|| {
            let (code, message) = (context.err().code().unwrap_or("unknown"), context.err().message().unwrap_or(""));
            meaning(code, message, Some(context.raw().status().as_u16()))
        }),
        SdkError::ConstructionFailure(_) => Fault::Final(Error::Unavailable(chain(error))),
        _ => Fault::Open(chain(error)),
    }
}

/// An error with its sources, which alone say what happened.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Sends until there is an answer, or no attempt or time is left. What is not `repeatable` is sent again only when the
/// attempt before certainly did nothing. `what` names the tables, for a message about a missing one.
pub(super) async fn call<T, E: Detail, F>(
    rng: &dyn Rng,
    what: &str,
    repeatable: bool,
    send: impl Fn() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
{
    let deadline = Instant::now() + TOTAL;
    let mut unsure = false;
    let mut pause = PAUSE;
    for attempt in 1..=ATTEMPTS {
        let fault = match timeout_at(deadline, Box::pin(send())).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => fault(&error),
            Err(_) => Fault::Open(format!("no answer within {} s", TOTAL.as_secs())),
        };
        let again = match &fault {
            Fault::Busy(_) => true,
            Fault::Open(_) => repeatable,
            _ => false,
        };
        let wait = rng.jitter(pause, 0.5);
        if !again || attempt == ATTEMPTS || Instant::now() + wait >= deadline {
            return Err(Failure { fault: explained(fault, what), unsure });
        }
        unsure |= matches!(fault, Fault::Open(_));
        tracing::debug!(?fault, attempt, "DynamoDB is asked again");
        sleep(wait).await;
        pause *= 4;
    }
    // Every attempt returns or leads to the next, and the last returns.
    Err(Failure { fault: Fault::Busy("no attempt is left".to_owned()), unsure })
}

fn explained(fault: Fault, what: &str) -> Fault {
    match fault {
        Fault::Final(Error::Missing(text)) => Fault::Final(Error::Missing(format!(
            "DynamoDB table or index missing ({what}): {text}; `runs-fleet-server setup --create` makes what is missing, \
             `setup --print` shows it"
        ))),
        other => other,
    }
}
