//! What pools need done once in a while.

use ::pools::{Removal, Removed, target, tuner};
use domain::clock::{SignedDuration, Timestamp, since};
use telemetry::metrics::HousekeepingAction;

use crate::context::{Error, Housekeeping};
use crate::run::Run;

const UNUSED: &str = "no job used it for hours";

impl Housekeeping {
    /// Removes pools that a job's label made and that no job used for hours, with their spares.
    pub(super) async fn ephemeral_pools(&self, run: &Run<'_>) -> Result<(), Error> {
        let Some(warm) = &self.dispatch().pools else {
            run.note("there are no warm pools here");
            return Ok(());
        };
        let mut left = run.budget(usize::MAX);
        for pool in self.ports.pools.list().await? {
            if !pool.ephemeral || run.ask.pool.as_ref().is_some_and(|only| *only != pool.name) {
                continue;
            }
            if !run.goes_on() {
                break;
            }
            if left == 0 {
                run.deferred(1);
                break;
            }
            if run.ask.dry_run {
                let unused = pool.last_job_time.is_some_and(|at| since(self.now(), at) > target::UNUSED);
                if unused {
                    run.acted(None, pool.name.as_str(), UNUSED);
                } else {
                    run.kept();
                }
                continue;
            }
            // It takes machines away, which only a leader does.
            let Some(leadership) = run.leadership() else {
                run.note("pools are removed by the leader only; its next run does it");
                break;
            };
            match warm.remove(&pool.name, Removal::Unused(leadership)).await {
                Ok(Removed::Gone) => {
                    left -= 1;
                    run.acted(Some(HousekeepingAction::EphemeralPools), pool.name.as_str(), UNUSED);
                }
                Ok(Removed::NotFound | Removed::Kept(_)) => run.kept(),
                Err(error) => run.failed(pool.name.as_str(), &error.into()),
            }
        }
        Ok(())
    }

    /// Reads from every pool's history how its spares should linger.
    pub(super) async fn tune_pools(&self, run: &Run<'_>) -> Result<(), Error> {
        let caps = self.settings.hot_pools.as_ref();
        if !run.ask.dry_run {
            self.metrics().housekeeping_disabled(run.task.name(), "off", caps.is_none().then_some(1.0));
        }
        let Some(caps) = caps else {
            run.note("hot pools are off: RUNS_FLEET_HOT_POOLS_ENABLED");
            return Ok(());
        };
        let window = SignedDuration::from_hours(24 * i64::from(caps.lookback_days));
        for pool in self.ports.pools.list().await? {
            if run.ask.pool.as_ref().is_some_and(|only| *only != pool.name) {
                continue;
            }
            if !run.goes_on() {
                break;
            }
            let now = self.now();
            let tuned = async {
                let since = now.checked_sub(window).unwrap_or(Timestamp::MIN);
                let jobs = self.dispatch().jobs.pool_history(&pool.name, since).await?;
                let tuning = tuner::recommend(&jobs, caps, now);
                let written = match run.ask.dry_run {
                    true => true,
                    false => self.ports.pools.tune(&pool.name, &tuning, run.fence()).await?.is_applied(),
                };
                Ok(written)
            };
            match tuned.await {
                Ok(true) => run.acted(None, pool.name.as_str(), "its history was read"),
                Ok(false) => run.kept(),
                Err(error) => run.failed(pool.name.as_str(), &error),
            }
        }
        Ok(())
    }
}
