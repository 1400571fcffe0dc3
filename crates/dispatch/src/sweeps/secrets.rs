//! Hand-overs whose machine is gone: credentials that nobody should be able to read any more.
//!
//! Whoever ends a machine deletes its hand-over, as well as it can; this is for what it could not. A machine that is
//! not listed may be one that is not listed yet, so that it is asked after, and a young hand-over is left alone.

use domain::clock;
use domain::ids::RunnerKey;
use provider::compute::Filter;
use provider::handover;
use tracing::info;

use super::Swept;
use crate::context::{Dispatch, Error};

/// Hand-overs one run looks at closely.
const LOOKS: usize = 500;

impl Dispatch {
    /// Deletes hand-overs of machines that are gone.
    pub(super) async fn stale_secrets(&self) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        let keys = self.ports.hand_over.list().await?;
        if keys.is_empty() {
            return Ok(swept);
        }
        let listed = self.ports.compute.list(&Filter::default()).await?;
        let mut live: Vec<RunnerKey> = listed.into_iter().filter(|m| !m.state.is_gone()).map(|m| m.key).collect();
        live.sort_unstable();
        for key in keys.iter().filter(|key| live.binary_search(key).is_err()).take(LOOKS) {
            swept.count(&self.stale_secret(key).await);
        }
        Ok(swept)
    }

    async fn stale_secret(&self, key: &RunnerKey) -> Result<bool, Error> {
        let document = match self.ports.hand_over.get(key).await {
            Ok(Some(document)) => Some(document),
            Ok(None) => return Ok(false),
            // Half of one, or nothing anybody can read.
            Err(handover::Error::Invalid(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let written = document.and_then(|document| document.created_at);
        if written.is_some_and(|at| clock::since(self.now(), at) < self.settings.timings.retire) {
            return Ok(false);
        }
        if self.ports.compute.describe(key).await?.is_some_and(|machine| !machine.state.is_gone()) {
            return Ok(false);
        }
        self.ports.hand_over.delete(key).await?;
        info!(instance_id = key.as_str(), "the hand-over of a machine that is gone was deleted");
        Ok(true)
    }
}
