//! Machines nobody owns: the last resort against bills for nothing.
//!
//! What a machine says of itself makes it a suspect, for one reason or several ([`suspicion`]); what is known of it
//! elsewhere decides ([`verdict`]). The age limit is hard, and asks nobody: the agent's own limit is ten minutes earlier.
//!
//! Races survived: a machine that was stopped and started again meanwhile is another machine (its launch time moved); a
//! member of a pool is ended under a claim, so that no job can be given it between the look and the act.

mod select;

use std::collections::BTreeSet;

use provider::Machine;
use provider::compute::{Filter, Which};
use telemetry::metrics::HousekeepingAction;
use tracing::warn;

use self::select::{Limits, Reason, suspicion, verdict};
use crate::context::{Error, Housekeeping};
use crate::evidence::{Evidence, Verdict};
use crate::run::Run;

#[cfg(test)]
mod tests;

/// Machines one run ends.
const MOST: usize = 100;

impl Housekeeping {
    pub(super) async fn orphaned_instances(&self, run: &Run<'_>) -> Result<(), Error> {
        let limits = Limits::of(&self.settings);
        // A listing that fails leaves its reasons out, and fails the run; the other reasons still count.
        let pools = match self.ports.pools.list().await {
            Ok(pools) => Some(pools.into_iter().map(|pool| pool.name.to_string()).collect::<BTreeSet<_>>()),
            Err(error) => {
                run.failed("pools", &error.into());
                None
            }
        };
        let now = self.now();
        let mut suspects: Vec<(Machine, Vec<Reason>)> = Vec::new();
        for which in [Which::Ours, Which::Unmarked] {
            match self.compute().list(&Filter { which, ..Filter::default() }).await {
                Ok(machines) => suspects.extend(machines.into_iter().filter_map(|machine| {
                    let reasons = suspicion(&machine, which, pools.as_ref(), now, &limits);
                    if reasons.is_empty() {
                        run.kept();
                    }
                    (!reasons.is_empty()).then_some((machine, reasons))
                })),
                Err(error) => {
                    run.failed(if which == Which::Ours { "machines" } else { "unmarked machines" }, &error.into());
                }
            }
        }
        suspects.sort_by(|(a, _), (b, _)| (a.launched_at, &a.key).cmp(&(b.launched_at, &b.key)));
        let mut left = run.budget(MOST);
        for (at, (machine, reasons)) in suspects.iter().enumerate() {
            if !run.goes_on() {
                break;
            }
            if left == 0 {
                run.deferred(suspects.len() - at);
                break;
            }
            match self.orphaned_instance(run, machine, reasons, &limits).await {
                Ok((Verdict::Act, reason)) => {
                    left -= 1;
                    let action = match reason {
                        Reason::Unowned => HousekeepingAction::UnownedMembers,
                        _ => HousekeepingAction::OrphanedInstances,
                    };
                    run.acted(Some(action), machine.key.as_str(), reason.as_str());
                }
                Ok((Verdict::Keep, _)) => run.kept(),
                Ok((Verdict::Unknown, _)) => run.unknown(machine.key.as_str()),
                Err(error) => run.failed(machine.key.as_str(), &error),
            }
        }
        Ok(())
    }

    async fn orphaned_instance(
        &self,
        run: &Run<'_>,
        machine: &Machine,
        reasons: &[Reason],
        limits: &Limits,
    ) -> Result<(Verdict, Reason), Error> {
        let mut answer = (Verdict::Keep, Reason::Age);
        let mut evidence = None;
        for &reason in reasons {
            if reason.needs_evidence() && evidence.is_none() {
                // A machine at work has a job that says so: most are asked about no further.
                let keeps = |seen: &Evidence| {
                    let judge = |r: &Reason| verdict(*r, machine, Some(seen), self.now(), limits);
                    reasons.iter().filter(|r| r.needs_evidence()).all(|r| judge(r) == Verdict::Keep)
                };
                evidence = Some(self.evidence(run, &machine.key, keeps).await);
            }
            match verdict(reason, machine, evidence.as_ref(), self.now(), limits) {
                Verdict::Act => {
                    answer = (Verdict::Act, reason);
                    break;
                }
                Verdict::Unknown => answer = (Verdict::Unknown, reason),
                Verdict::Keep => {}
            }
        }
        let (Verdict::Act, reason) = answer else { return Ok(answer) };
        if run.ask.dry_run {
            return Ok(answer);
        }
        let key = &machine.key;
        let Some(current) = self.compute().describe(key).await? else { return Ok((Verdict::Keep, reason)) };
        let unchanged = current.state == machine.state
            && current.launched_at == machine.launched_at
            && current.pool() == machine.pool()
            && current.is_assigned() == machine.is_assigned();
        if !unchanged {
            return Ok((Verdict::Keep, reason));
        }
        warn!(
            event = "instance_terminated",
            instance_id = key.as_str(),
            reason = reason.as_str(),
            launched_at = %current.launched_at,
            "ending a machine that nobody owns"
        );
        let end = async {
            if reason.needs_evidence() && current.state.is_up() {
                self.end_runner(key).await
            } else {
                self.end(key).await.map(|()| Verdict::Act)
            }
        };
        let done =
            if current.pool().is_some() { self.claimed(key, end).await?.unwrap_or(Verdict::Keep) } else { end.await? };
        Ok((done, reason))
    }
}
