//! Which spares a job may get, the best first. Pure.

use std::collections::BTreeSet;

use db::pools::PoolConfig;
use domain::catalogue;
use domain::clock::{Timestamp, since};
use domain::ids::RunnerKey;
use domain::launch::LaunchSpec;
use provider::{Machine, MachineState};

use crate::plan::census::size;
use crate::times::Times;

#[cfg(test)]
mod tests;

/// What is known of a pool when a job looks for a spare.
#[derive(Debug, Clone, Copy)]
pub struct Spares<'a> {
    /// The pool.
    pub config: &'a PoolConfig,
    /// Its machines.
    pub machines: &'a [Machine],
    /// Those that jobs occupy; `None` when nobody could say. Then no running one is taken.
    pub busy: Option<&'a BTreeSet<RunnerKey>>,
    /// Whether running spares are for jobs at once.
    pub hot: bool,
}

/// The machines that would do, running ones first, then the smallest. It is a guess: what may really be taken is for the
/// machine's claim to say.
pub fn candidates<'a>(spares: &Spares<'a>, spec: &LaunchSpec, times: &Times, now: Timestamp) -> Vec<&'a Machine> {
    if !serves(spares.config, spec) {
        return Vec::new();
    }
    let is_busy = |machine: &Machine| spares.busy.is_some_and(|busy| busy.contains(&machine.key));
    let fitting = spares.machines.iter().filter(|machine| fits(machine, spec) && !is_busy(machine));
    let (mut running, mut stopped) = (Vec::new(), Vec::new());
    for machine in fitting {
        match machine.state {
            MachineState::Stopped => stopped.push(machine),
            MachineState::Running if spares.hot && spares.busy.is_some() => {
                let expired = since(now, machine.launched_at) >= times.standby;
                if !machine.spot && !machine.is_assigned() && !expired {
                    running.push(machine);
                }
            }
            _ => {}
        }
    }
    for group in [&mut running, &mut stopped] {
        group.sort_by(|a, b| size(a).cmp(&size(b)));
    }
    running.extend(stopped);
    running
}

/// Whether machines of the pool can be what the job asks for besides its size: they have the disk and the system of
/// their image, and stand where the pool's configuration says.
fn serves(config: &PoolConfig, spec: &LaunchSpec) -> bool {
    spec.storage_gib == 0 && spec.os != "windows" && (!spec.private || config.private)
}

/// Whether a machine is what the job asks for. Of an unknown type only the name can be compared.
fn fits(machine: &Machine, spec: &LaunchSpec) -> bool {
    let bounded = spec.cpu_min > 0 || spec.cpu_max > 0;
    if !bounded && spec.instance_types.is_empty() {
        return true;
    }
    if spec.instance_types.contains(&machine.instance_type) {
        return true;
    }
    let Some(known) = catalogue::lookup(&machine.instance_type).filter(|_| bounded) else { return false };
    let ram = f64::from(known.ram_gib);
    spec.arch.is_none_or(|arch| arch == known.arch)
        && (spec.gen_ == 0 || spec.gen_ == known.gen_)
        && spec.cpu_min <= known.vcpu
        && (spec.cpu_max == 0 || known.vcpu <= spec.cpu_max)
        && spec.ram_min <= ram
        && (spec.ram_max == 0.0 || ram <= spec.ram_max)
        && (spec.families.is_empty() || spec.families.iter().any(|family| family.eq_ignore_ascii_case(known.family)))
}
