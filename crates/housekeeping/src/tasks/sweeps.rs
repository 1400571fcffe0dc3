//! Tasks that are sweeps of dispatch: it knows which move of a record a finding causes.

use dispatch::sweeps::Scope;
use telemetry::metrics::HousekeepingAction;

use crate::context::{Error, Housekeeping};
use crate::run::Run;
use crate::task::Task;

/// What is counted for each thing acted upon.
const fn action(task: Task) -> Option<HousekeepingAction> {
    match task {
        Task::UnconfirmedRunners => Some(HousekeepingAction::UnconfirmedRunners),
        Task::StaleJobs => Some(HousekeepingAction::StaleJobs),
        Task::OrphanedJobs => Some(HousekeepingAction::OrphanedJobs),
        Task::DlqRedrive => Some(HousekeepingAction::DlqRedrive),
        Task::StaleSecrets => Some(HousekeepingAction::SsmParams),
        _ => None,
    }
}

impl Housekeeping {
    pub(super) async fn sweep(&self, run: &Run<'_>) -> Result<(), Error> {
        let Some(sweep) = run.task.sweep() else { return Ok(()) };
        let go_on = || run.goes_on();
        let scope = Scope { go_on: &go_on, max_items: run.ask.max_items, job: run.ask.job, dry_run: run.ask.dry_run };
        let swept = self.ports.dispatch.sweep_within(sweep, &scope).await?;
        run.swept(swept, action(run.task));
        Ok(())
    }
}
