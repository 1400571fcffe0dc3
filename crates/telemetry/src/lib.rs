//! What the process says about itself: metrics, logs, and the redaction both lean on.
//!
//! * [`metrics`] — every metric there is, declared once, with one typed method each. A metric that is not declared
//!   there cannot be emitted.
//! * [`logging`] — one JSON object per line on standard output, with the identity of the task on every line inside it.
//! * [`redact`](mod@redact) — nothing secret leaves the process: known values and tell-tale patterns are replaced.
//! * `aws` (feature `aws`) — every call of an AWS client, counted and timed.
//!
//! Recording never fails and never waits on the network: a metric is a memory operation, a log line goes to a bounded
//! queue drained by a thread of its own.

#[cfg(feature = "aws")]
pub mod aws;
pub mod logging;
pub mod metrics;
pub mod redact;

pub use metrics::Metrics;
pub use redact::{Redactor, redact};
