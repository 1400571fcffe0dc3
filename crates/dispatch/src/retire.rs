//! Ending a runner that may have registered, without killing a job.
//!
//! GitHub's `busy` and `status` are advisory: a busy runner may read idle for a minute. So a machine is terminated only
//! when it cannot hold a job: its hand-over was never finished, it is gone already, or its registration is absent or
//! has not been online for as long as a runner takes to come up. Any other is *deregistered*: an idle listener notices
//! and exits, a job that slipped in finishes. Where GitHub does not answer, nothing happens.
//!
//! The spare of a pool is not ended as long as it is off: it can do no harm, and goes back to its pool.

use std::time::Duration;

use domain::clock;
use domain::ids::RunnerKey;
use domain::runner::{Runner, RunnerState};
use github::client::Deleted;
use provider::compute::{Machine, MachineState};
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

/// What was learnt about a runner that is to end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Disarmed {
    /// It holds no job and can get none: its machine, if it is still there, is free to end.
    Harmless(Box<Runner>, Option<Machine>),
    /// Its machine is not to be touched.
    Settled(Retired),
}

impl Dispatch {
    /// Ends the runner on a machine, if that is safe.
    pub async fn retire(&self, key: &RunnerKey) -> Result<Retired, Error> {
        let (row, machine) = match self.disarm(key).await? {
            Disarmed::Harmless(row, machine) => (row, machine),
            Disarmed::Settled(retired) => return Ok(retired),
        };
        if machine.is_some_and(|machine| is_unused_spare(&machine, &row)) {
            let ended = self.end_runner(key, RunnerState::Gone).await?;
            self.clear_machine(key, ended.as_ref()).await;
        } else {
            self.terminate_runner(&row).await?;
        }
        Ok(Retired::Ended)
    }

    /// Sees to it that a runner gets no job any more, if that is possible; its machine is left as it is.
    pub(crate) async fn disarm(&self, key: &RunnerKey) -> Result<Disarmed, Error> {
        let settled = |retired| Ok(Disarmed::Settled(retired));
        let machine = self.ports.compute.describe(key).await?;
        let Some(row) = self.ports.runners.get(key).await? else {
            // Without a row nothing was ever handed over by us; a machine of the Go implementation is only known dead.
            return settled(if machine.is_none_or(|m| m.state.is_gone()) { Retired::Ended } else { Retired::Unknown });
        };
        let harmless = |row, machine| Ok(Disarmed::Harmless(Box::new(row), machine));
        let gone = machine.as_ref().is_none_or(|m| m.state.is_gone()) || !row.state.is_live();
        if row.state == RunnerState::Retiring && !gone {
            // Deregistered before: a job may have slipped in, so its absence at GitHub says nothing now.
            return settled(Retired::Ended);
        }
        let document = match row.state {
            RunnerState::Minting if !gone => self.ports.hand_over.get(key).await?,
            _ => None,
        };
        if gone || (row.state == RunnerState::Minting && document.is_none()) {
            return harmless(row, machine);
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
                return settled(Retired::Unknown);
            }
        };
        let Some(view) = registered else { return harmless(row, machine) };
        let off = machine.as_ref().is_some_and(is_off);
        let age = clock::since(self.now(), row.minted_at);
        let may_be_up = may_be_up(view.online || view.busy, off, age, self.settings.timings.confirm);
        if may_be_up {
            // Before the call: should its answer be lost, nobody may take the missing registration for a dead runner.
            let until = clock::after(clock::whole_seconds(self.now()), self.settings.timings.retire);
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
                settled(Retired::HasJob)
            }
            Ok(Deleted::Gone) => {
                self.ports.metrics.registrations_deleted();
                if may_be_up {
                    info!(instance_id = key.as_str(), "the runner was deregistered and ends by itself");
                    return settled(Retired::Ended);
                }
                harmless(row, machine)
            }
            Err(error) => {
                debug!(instance_id = key.as_str(), %error, "GitHub did not deregister the runner");
                settled(Retired::Unknown)
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

/// Whether a runner may be up when its registration is deleted. `seen`: GitHub showed it so a moment before. One that was
/// bound less than `confirm` ago may come up, and get a job, between that look and the deletion.
fn may_be_up(seen: bool, off: bool, age: Duration, confirm: Duration) -> bool {
    seen || (!off && age < confirm)
}

/// Off, or on its way there.
fn is_off(machine: &Machine) -> bool {
    matches!(machine.state, MachineState::Stopping | MachineState::Stopped)
}

/// A spare of a pool that is off, and whose runner never was up.
fn is_unused_spare(machine: &Machine, row: &Runner) -> bool {
    is_off(machine) && machine.pool().is_some() && machine.launch_id.is_none() && row.state <= RunnerState::Minted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_may_be_up_when_it_was_seen_or_may_be_coming() {
        let (young, confirm) = (Duration::from_secs(299), Duration::from_secs(300));
        for (what, seen, off, age, expected) in [
            ("GitHub shows it", true, false, confirm, true),
            ("whatever the provider says", true, true, confirm, true),
            ("it was bound a moment ago", false, false, young, true),
            ("it had the time to come up", false, false, confirm, false),
            ("its machine is off", false, true, young, false),
        ] {
            assert_eq!(may_be_up(seen, off, age, confirm), expected, "{what}");
        }
    }
}
