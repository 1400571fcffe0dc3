//! Why a step of warm pools could not be taken.

/// By what the caller must do: nothing is known, and trying again later is right. A job gets a machine of its own
/// meanwhile.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] db::Error),
    /// The provider did not answer.
    #[error(transparent)]
    Compute(#[from] provider::compute::Error),
    /// The hand-over store did not answer.
    #[error(transparent)]
    HandOver(#[from] provider::handover::Error),
    /// There is not enough time left, or no answer came in time.
    #[error("no answer in time")]
    Late,
}
