//! Credentials that nobody will read, and machines whose agent died with its assignment.
//!
//! Hand-overs of machines that are gone are dispatch's own sweep. Here is the other half: a machine that exists, and whose
//! agent never finished what it was handed. The pool skips it, claims skip it, every other sweep skips it. Two clocks
//! must agree before a running machine ends: what the hand-over says of itself, and how long the machine is up.
//!
//! A spare that was never started for its job keeps what it was handed if whoever gave it back died before he deleted it.
//! Its runner is over then, which says enough.

use std::time::Duration;

use domain::clock::{Timestamp, since};
use provider::{Machine, MachineState};
use telemetry::metrics::HousekeepingAction;
use tokio::time::sleep;
use tracing::warn;

use crate::context::{Error, Housekeeping};
use crate::evidence::{Config, SURE};
use crate::run::Run;

#[cfg(test)]
mod tests;

/// Machines one run ends, and hand-overs it reads.
const MOST: usize = 100;
const READS: usize = 500;
/// Between two reads of a hand-over, which are two calls.
const PACE: Duration = Duration::from_millis(200);

/// What to do about the hand-over of a machine that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Leave,
    /// Delete it, unless somebody claimed the machine: the spare asks for its hand-over when it is started.
    Delete,
    /// End the machine, too.
    Terminate,
}

/// Whether the hand-over could be dead, by the machine alone: whether to read it at all.
fn may_be_dead(machine: &Machine, now: Timestamp, dead: Duration) -> bool {
    match machine.state {
        MachineState::Running => since(now, machine.launched_at) >= dead,
        MachineState::Pending | MachineState::Stopping | MachineState::Stopped => true,
        MachineState::ShuttingDown | MachineState::Terminated => false,
    }
}

/// `over`: the record of its runner says that it is.
fn fate(machine: &Machine, config: Config, over: bool, now: Timestamp, dead: Duration) -> Fate {
    // One without a date says nothing.
    let Config::Written(at) = config else { return Fate::Leave };
    let running = machine.state == MachineState::Running;
    let enough = if over && !running { SURE } else { dead };
    if since(now, at) < enough || !may_be_dead(machine, now, dead) {
        return Fate::Leave;
    }
    if running { Fate::Terminate } else { Fate::Delete }
}

impl Housekeeping {
    pub(super) async fn stale_secrets(&self, run: &Run<'_>) -> Result<(), Error> {
        self.sweep(run).await?;
        let keys = self.hand_over().list().await?;
        let (now, dead) = (self.now(), self.settings.dead_age());
        let mut machines = self.machines().await?;
        machines.retain(|machine| keys.contains(&machine.key) && may_be_dead(machine, now, dead));
        machines.sort_by_key(|machine| machine.launched_at);
        run.deferred(machines.len().saturating_sub(READS));
        let mut left = run.budget(MOST);
        for machine in machines.iter().take(READS) {
            if !run.goes_on() {
                break;
            }
            if left == 0 {
                run.deferred(1);
                break;
            }
            // A parameter store allows few calls, and jobs come first.
            sleep(self.short(PACE)).await;
            match self.dead_assignment(run, machine, dead).await {
                Ok(Fate::Leave) => run.kept(),
                Ok(Fate::Delete) => {
                    run.acted(Some(HousekeepingAction::SsmParams), machine.key.as_str(), "nobody will read it");
                }
                Ok(Fate::Terminate) => {
                    left -= 1;
                    run.acted(Some(HousekeepingAction::DeadAssignment), machine.key.as_str(), "its agent died");
                }
                Err(error) => run.failed(machine.key.as_str(), &error),
            }
        }
        Ok(())
    }

    async fn dead_assignment(&self, run: &Run<'_>, machine: &Machine, dead: Duration) -> Result<Fate, Error> {
        let key = &machine.key;
        let config = self.config(key).await?;
        // After the hand-over: of a new runner there would be a new one.
        let over = self.runner(key).await?.is_some_and(|row| !row.state.is_live());
        if fate(machine, config, over, self.now(), dead) == Fate::Leave {
            return Ok(Fate::Leave);
        }
        // Again, with what the machine is now.
        let Some(current) = self.compute().describe(key).await? else { return Ok(Fate::Leave) };
        let fate = fate(&current, config, over, self.now(), dead);
        if fate == Fate::Delete && self.ports.claims.is_claimed(key).await? {
            return Ok(Fate::Leave);
        }
        if run.ask.dry_run {
            return Ok(fate);
        }
        match fate {
            Fate::Leave => {}
            Fate::Delete => self.hand_over().delete(key).await?,
            Fate::Terminate => {
                warn!(event = "instance_terminated", instance_id = key.as_str(), "ending a machine whose agent died");
                self.end(key).await?;
            }
        }
        Ok(fate)
    }
}
