//! The tasks. Each selects with a pure function and acts in a loop that asks the run before every step.

mod archive;
mod bookkeeping;
mod images;
mod orphaned_instances;
mod orphaned_runners;
mod pools;
mod secrets;
mod sweeps;

use crate::context::{Error, Housekeeping};
use crate::run::Run;
use crate::task::Task;

impl Housekeeping {
    /// What a task does. An error ends the run; failures of single things are the run's to collect.
    pub(crate) async fn perform(&self, run: &Run<'_>) -> Result<(), Error> {
        match run.task {
            Task::OrphanedInstances => self.orphaned_instances(run).await,
            Task::OrphanedPackerInstances => self.orphaned_builders(run).await,
            Task::OrphanedSpotRequests => self.orphaned_spot_requests(run).await,
            Task::StaleAmiInstances => self.stale_images(run).await,
            Task::EphemeralPoolCleanup => self.ephemeral_pools(run).await,
            Task::PoolHotTuner => self.tune_pools(run).await,
            Task::ExpiredInstanceClaims => self.expired_claims(run).await,
            Task::StaleSecrets => self.stale_secrets(run).await,
            Task::OldJobs => self.old_jobs(run).await,
            Task::OrphanedRunners => self.orphaned_runners(run).await,
            Task::UnconfirmedRunners
            | Task::StaleJobs
            | Task::OrphanedJobs
            | Task::BindingRefresh
            | Task::WebhookRedelivery
            | Task::QueuedScan
            | Task::DlqRedrive => self.sweep(run).await,
        }
    }
}
