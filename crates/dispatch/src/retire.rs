//! Ending a runner that may have registered, without killing a job.
//!
//! GitHub's `busy` and `status` are advisory: a busy runner may read idle for a minute. So a machine is terminated only
//! when it cannot hold a job: its hand-over was never finished, it is gone already, or its registration is absent or
//! has never been online. Any other is *deregistered*: an idle listener notices and exits, a job that slipped in
//! finishes. Where GitHub does not answer, nothing happens.

use domain::ids::RunnerKey;
use domain::runner::{Runner, RunnerState};
use github::client::Deleted;
use tracing::{debug, info};

use crate::context::{Dispatch, Error};

/// What became of the runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retired {
    /// It can take no job any more.
    Ended,
    /// It holds a job.
    HasJob,
    /// Nobody could tell; nothing was done.
    Unknown,
}

impl Dispatch {
    /// Ends the runner on a machine, if that is safe.
    pub async fn retire(&self, key: &RunnerKey) -> Result<Retired, Error> {
        let machine = self.ports.compute.describe(key).await?;
        let Some(row) = self.ports.runners.get(key).await? else {
            // Without a row nothing was ever handed over by us; a machine of the Go implementation is only known dead.
            return Ok(if machine.is_none_or(|m| m.state.is_gone()) { Retired::Ended } else { Retired::Unknown });
        };
        let gone = machine.is_none_or(|m| m.state.is_gone()) || !row.state.is_live();
        if row.state == RunnerState::Retiring && !gone {
            // Deregistered before: a job may have slipped in, so its absence at GitHub says nothing now.
            return Ok(Retired::Ended);
        }
        let document = match row.state {
            RunnerState::Minting if !gone => self.ports.hand_over.get(key).await?,
            _ => None,
        };
        if gone || (row.state == RunnerState::Minting && document.is_none()) {
            self.terminate_runner(&row).await?;
            return Ok(Retired::Ended);
        }
        // An attempt that died between the hand-over and its note of it left the name in the document only.
        let name = document.map_or_else(|| row.name.clone(), |document| document.runner_name);
        let registered = match row.id {
            Some(id) => self.ports.github.runner(&row.repo, id).await,
            None => self.ports.github.runner_by_name(&row.repo, &name).await,
        };
        let registered = match registered {
            Ok(registered) => registered,
            Err(error) => {
                debug!(instance_id = key.as_str(), %error, "GitHub could not be asked about the runner");
                return Ok(Retired::Unknown);
            }
        };
        let Some(view) = registered else {
            self.terminate_runner(&row).await?;
            return Ok(Retired::Ended);
        };
        let may_be_up = view.online || view.busy;
        if may_be_up {
            // Before the call: should its answer be lost, nobody may take the missing registration for a dead runner.
            let until = domain::clock::after(domain::clock::whole_seconds(self.now()), self.settings.timings.retire);
            self.change_runner(key, |row| {
                row.advance(RunnerState::Retiring);
                row.retire_at = Some(until);
            })
            .await?;
        }
        match self.ports.github.delete_runner(&row.repo, view.id).await {
            Ok(Deleted::Busy) => {
                self.change_runner(key, |row| {
                    row.advance(RunnerState::Busy);
                    row.retire_at = None;
                })
                .await?;
                Ok(Retired::HasJob)
            }
            Ok(Deleted::Gone) => {
                self.ports.metrics.registrations_deleted();
                if may_be_up {
                    info!(instance_id = key.as_str(), "the runner was deregistered and ends by itself");
                } else {
                    self.terminate_runner(&row).await?;
                }
                Ok(Retired::Ended)
            }
            Err(error) => {
                debug!(instance_id = key.as_str(), %error, "GitHub did not deregister the runner");
                Ok(Retired::Unknown)
            }
        }
    }

    /// Machine first: a row that says `gone` while the machine lives would hide it from the sweeps.
    pub(crate) async fn terminate_runner(&self, row: &Runner) -> Result<(), Error> {
        self.ports.compute.terminate(&row.key).await?;
        let ended = self.end_runner(&row.key, RunnerState::Gone).await?;
        self.clear_machine(&row.key, ended.as_ref()).await;
        Ok(())
    }
}
