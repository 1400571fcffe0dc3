//! One call and its pages.

use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

use crate::ec2::ApiError;

/// Sends a request and reads its error: `call!(request)`, `call!(request, config)` with settings of its own.
macro_rules! call {
    ($request:expr) => {
        call!($request, aws_sdk_ec2::config::Builder::new())
    };
    ($request:expr, $config:expr) => {{
        let signed = $crate::aws::call::Signed::default();
        let sent = $request.customize().config_override($config).interceptor(signed.clone()).send();
        // The future is large, and a caller awaits several of them.
        Box::pin(sent).await.map_err(|error| $crate::aws::call::failure(&error, &signed))
    }};
}
pub(super) use call;

/// Watches a call. Whether its request was signed: without that nothing can have been sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Signed(Arc<AtomicBool>);

#[dyn_dispatch_hint]
impl Intercept for Signed {
    fn name(&self) -> &'static str {
        "Signed"
    }

    fn read_after_signing(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The client's reader takes an answer that is cut off for a short one: a fleet without instances, the last page.
    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let answer = context.response();
        if answer.status().is_success() && !answer.body().bytes().is_some_and(whole) {
            return Err("the answer is cut off".into());
        }
        Ok(())
    }
}

/// Whether the last thing in an answer is the end of its outermost element, `</…Response>`.
fn whole(body: &[u8]) -> bool {
    let body = body.trim_ascii_end();
    let last = body.iter().rposition(|byte| *byte == b'<').map_or(body, |at| &body[at..]);
    last.starts_with(b"</") && last.ends_with(b"Response>")
}

/// What the client's error means.
pub(super) fn failure<E>(error: &SdkError<E, HttpResponse>, signed: &Signed) -> ApiError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            match context.err().code() {
                Some(code) => ApiError::Refused {
                    code: code.to_owned(),
                    message: context.err().message().unwrap_or_default().to_owned(),
                    status,
                },
                // A proxy's page, or bytes that are not XML, under whatever status.
                None => ApiError::NoAnswer(format!("status {status}: {}", chain(context.err()))),
            }
        }
        SdkError::DispatchFailure(_) | SdkError::TimeoutError(_) if !signed.0.load(Ordering::Relaxed) => {
            ApiError::Credentials(chain(error))
        }
        _ => ApiError::NoAnswer(chain(error)),
    }
}

/// An error in the words of all its causes; its own are "dispatch failure" and the like.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// Where we are in a list of pages.
#[derive(Debug, Default)]
pub(super) struct Pages {
    token: Option<String>,
    ended: bool,
}

impl Pages {
    /// Whether there is a page to ask for.
    pub(super) fn more(&self) -> bool {
        !self.ended
    }

    /// What to ask for it with.
    pub(super) fn token(&self) -> Option<String> {
        self.token.clone()
    }

    /// Goes on to the page that the last one points to.
    pub(super) fn turn(&mut self, next: Option<String>) -> Result<(), ApiError> {
        let next = next.filter(|token| !token.is_empty());
        if next.is_some() && next == self.token {
            return Err(ApiError::NoAnswer("a page of the list points to itself".to_owned()));
        }
        self.ended = next.is_none();
        self.token = next;
        Ok(())
    }
}
