//! Calls of AWS clients, counted and timed.
//!
//! One sample per call, whoever ends it: an answer, an error, a timeout of the client, or a caller that gave up. The last
//! two drop the call without a word, so the sample hangs on its end, not on an answer.
//!
//! Nothing of a request or an answer is looked at.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeSerializationInterceptorContextRef, FinalizerInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, SharedInterceptor};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};
use domain::clock::{Clock, Timestamp, since};
use tracing::warn;

use crate::Metrics;
use crate::metrics::{AwsName, CallFailure};

/// A call that takes longer is worth a line in the log.
const SLOW: Duration = Duration::from_secs(2);
/// Long on purpose: it waits for messages.
const LONG_POLL: &str = "ReceiveMessage";

/// What to give to every client.
pub fn calls(metrics: Metrics, clock: Arc<dyn Clock>) -> SharedInterceptor {
    SharedInterceptor::new(Calls { metrics, clock })
}

struct Calls {
    metrics: Metrics,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Calls")
    }
}

impl Intercept for Calls {
    fn name(&self) -> &'static str {
        "Calls"
    }

    // Not before_execution: a client's interceptors get that before the operation has said its name.
    fn read_before_serialization(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(what) = config.load::<Metadata>() {
            let call = Call {
                metrics: self.metrics.clone(),
                clock: Arc::clone(&self.clock),
                what: what.clone(),
                began: self.clock.now(),
                ended: AtomicBool::new(false),
            };
            config.interceptor_state().store_put(call);
        }
        Ok(())
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(call) = config.load::<Call>() {
            call.end(match context.output_or_error() {
                Some(Ok(_)) => None,
                Some(Err(error)) if error.is_timeout_error() => Some(CallFailure::Timeout),
                Some(Err(_)) | None => Some(CallFailure::Error),
            });
        }
        Ok(())
    }
}

/// A call under way; it travels with the call's own configuration and is dropped with it.
struct Call {
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    what: Metadata,
    began: Timestamp,
    ended: AtomicBool,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("what", &self.what).finish_non_exhaustive()
    }
}

impl Storable for Call {
    type Storer = StoreReplace<Self>;
}

impl Call {
    fn end(&self, failure: Option<CallFailure>) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let (service, operation) = (AwsName(self.what.service()), AwsName(self.what.name()));
        let took = since(self.clock.now(), self.began);
        self.metrics.aws_call_duration(service, operation, took);
        if let Some(failure) = failure {
            self.metrics.aws_call_failures(service, operation, failure);
        }
        if took > SLOW && operation.0 != LONG_POLL {
            warn!(service = service.0, operation = operation.0, seconds = took.as_secs_f64(), "a slow call of AWS");
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Some(CallFailure::Timeout));
    }
}
