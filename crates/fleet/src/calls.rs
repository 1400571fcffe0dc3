//! The one loop that tries a call again, under the budget of calls.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::Rng;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use crate::ec2::{ApiError, Ec2};
use crate::error::{self, Class, Failure};
use crate::pace::{Bucket, Pace, Priority};

/// How long a call may go on, tries and pauses included.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one try may take.
const CALL: Duration = Duration::from_secs(15);
/// The same of `CreateFleet`: to give up on it is to not know what one has.
const CREATE_FLEET: Duration = Duration::from_secs(30);
/// What must be left before the deadline for a try of `CreateFleet` to begin.
pub(crate) const LAUNCH_MARGIN: Duration = Duration::from_secs(35);

/// The client, the budget and chance.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) ec2: Arc<dyn Ec2>,
    pub(crate) pace: Arc<Pace>,
    pub(crate) rng: Arc<dyn Rng>,
}

/// A call that failed for good.
#[derive(Debug)]
pub(crate) struct Failed {
    /// The last failure.
    pub(crate) failure: Failure,
    /// Whether any of the tries may have been carried out.
    pub(crate) unsure: bool,
}

impl Caller {
    /// Any call but `CreateFleet`.
    pub(crate) async fn call<T, F: Future<Output = Result<T, ApiError>>>(
        &self,
        bucket: Bucket,
        priority: Priority,
        attempt: impl Fn() -> F,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + PATIENCE;
        self.tries(bucket, priority, deadline, CALL, attempt).await.map_err(|failed| failed.failure)
    }

    /// `CreateFleet`. `until` is when the whole launch must be over.
    pub(crate) async fn create_fleet<T, F: Future<Output = Result<T, ApiError>>>(
        &self,
        until: Instant,
        attempt: impl Fn() -> F,
    ) -> Result<T, Failed> {
        // Nobody's clock goes back that far; should it, nothing is started.
        let deadline = until.checked_sub(LAUNCH_MARGIN).unwrap_or_else(Instant::now);
        self.tries(Bucket::Launch, Priority::Launch, deadline, CREATE_FLEET, attempt).await
    }

    /// No try begins after `latest`.
    async fn tries<T, F: Future<Output = Result<T, ApiError>>>(
        &self,
        bucket: Bucket,
        priority: Priority,
        latest: Instant,
        limit: Duration,
        attempt: impl Fn() -> F,
    ) -> Result<T, Failed> {
        let mut unsure = false;
        let mut last: Option<Failure> = None;
        for tried in 1.. {
            let token = match bucket {
                Bucket::Launch => self.pace.launch(latest).await,
                _ => self.pace.wait(bucket, priority, latest).await,
            };
            if !token || Instant::now() > latest {
                let failure = last.unwrap_or_else(|| Failure::ours(Class::Throttled, "throttled by our own budget"));
                return Err(Failed { failure, unsure });
            }
            let lost = || Err(ApiError::NoAnswer("no answer in time".to_owned()));
            let failure = match timeout_at(Instant::now() + limit, attempt()).await.unwrap_or_else(|_| lost()) {
                Ok(answer) => return Ok(answer),
                Err(error) => Failure::from(error),
            };
            unsure |= failure.ambiguous;
            if failure.class == Class::Throttled {
                self.pace.slow_down(bucket);
            }
            let pause = error::pause(failure.class, tried, &*self.rng);
            if tried >= error::tries(failure.class) || Instant::now() + pause > latest {
                return Err(Failed { failure, unsure });
            }
            debug!(code = failure.code, message = failure.message, tried, "an EC2 call is tried again");
            last = Some(failure);
            sleep(pause).await;
        }
        Err(Failed { failure: Failure::ours(Class::Transient, "too many tries"), unsure })
    }
}
