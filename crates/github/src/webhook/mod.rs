//! Is this delivery GitHub's, and what does it say? Pure: the HTTP and queue shells around it gather and perform.
//!
//! A delivery arrives over HTTP or, behind an API gateway, as a queue message ([`Delivery`]). Either way: size, then
//! [`verify`], then [`WorkflowJobEvent::decode`], then [`route`] — nothing is parsed before its signature is known to
//! be good, and the body is never logged. What a route leads to is durable before GitHub gets its 200, because GitHub
//! does not deliver again by itself.
//!
//! Races it must survive, all by leaving correctness to the records:
//!
//! * *Deliveries come twice, late and out of order.* Nothing here remembers anything; accepting and binding a job are
//!   no-ops when repeated. Deduplication ids only save work.
//! * *A secret is rotated.* A body signed with the previous one is good as long as that one is configured.
//! * *A secret is mis-set.* A well-formed but wrong signature ([`SignatureError::Mismatch`]) is not poison: on a queue
//!   it is left for a later, better configured receiver.
//! * *A cancellation overtakes its launch.* Events about started and finished jobs travel in a FIFO group of their own
//!   ([`QueuedEvent`]), so they never wait behind the launch they concern.

mod delivery;
mod event;
mod queued;
mod route;
mod signature;

#[cfg(test)]
mod tests;

pub use delivery::{Delivery, Kind, MAX_BODY};
pub use event::{Action, DecodeError, RUNNER_PREFIX, WorkflowJobEvent, event_label};
pub use queued::QueuedEvent;
pub use route::{Route, job_message, route};
pub use signature::{Secrets, SignatureError, sign, verify};
