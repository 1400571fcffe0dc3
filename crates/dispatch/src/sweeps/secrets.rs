//! Hand-overs whose machine is gone: credentials that nobody should be able to read any more.
//!
//! Whoever ends a machine deletes its hand-over, as well as it can; this is for what it could not, halves included: a
//! credential alone is still a secret. A machine that is not listed may be one that is not listed yet, so that it is
//! asked after, and a young hand-over is left alone, as is that of a machine that ended a moment ago.

use domain::clock;
use domain::ids::RunnerKey;
use provider::compute::Filter;
use provider::handover;
use tracing::info;

use super::{Scope, Swept};
use crate::context::{Dispatch, Error};

/// Hand-overs one run looks at closely.
const LOOKS: usize = 500;

impl Dispatch {
    /// Deletes hand-overs of machines that are gone.
    pub(super) async fn stale_secrets(&self, scope: &Scope<'_>) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        let keys = self.ports.hand_over.list().await?;
        if keys.is_empty() {
            return Ok(swept);
        }
        let listed = self.ports.compute.list(&Filter::default()).await?;
        let mut live: Vec<RunnerKey> = listed.into_iter().filter(|m| !m.state.is_gone()).map(|m| m.key).collect();
        live.sort_unstable();
        let unlisted: Vec<_> = keys.iter().filter(|key| live.binary_search(key).is_err()).collect();
        for (at, key) in unlisted.iter().enumerate() {
            if scope.dry_run {
                swept.would_look_into(*key);
                continue;
            }
            if at >= LOOKS || !scope.goes_on(&swept) {
                swept.deferred += unlisted.len() - at;
                break;
            }
            swept.count(&self.stale_secret(key).await);
        }
        Ok(swept)
    }

    async fn stale_secret(&self, key: &RunnerKey) -> Result<bool, Error> {
        let document = match self.ports.hand_over.get(key).await {
            Ok(document) => document,
            // Nothing anybody can read.
            Err(handover::Error::Invalid(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let young = |at| clock::since(self.now(), at) < self.settings.timings.retire;
        let written = match document.and_then(|document| document.created_at) {
            Some(at) => Some(at),
            // Half of one does not say when it was written; whoever writes the other half now was bound a moment ago.
            None => self.ports.runners.get(key).await?.map(|row| row.minted_at),
        };
        if written.is_some_and(young) {
            return Ok(false);
        }
        match self.ports.compute.describe(key).await? {
            Some(machine) if !machine.state.is_gone() || machine.ended_at.is_some_and(young) => return Ok(false),
            _ => {}
        }
        self.ports.hand_over.delete(key).await?;
        info!(instance_id = key.as_str(), "the hand-over of a machine that is gone was deleted");
        Ok(true)
    }
}
