//! Small rows nobody will ask for again.

use telemetry::metrics::HousekeepingAction;

use crate::context::{Error, Housekeeping};
use crate::run::Run;

impl Housekeeping {
    /// Claims whose holder died, or forgot them. One that was renewed meanwhile survives.
    pub(super) async fn expired_claims(&self, run: &Run<'_>) -> Result<(), Error> {
        if run.ask.dry_run {
            run.note("claims are looked at and deleted in one step; a dry run does neither");
            return Ok(());
        }
        let reaped = self.ports.claims.reap().await?;
        for _ in 0..reaped {
            run.acted(Some(HousekeepingAction::ExpiredClaims), "", "expired");
        }
        Ok(())
    }
}
