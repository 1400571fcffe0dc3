//! What operators see of pools. Series carry the names of pools that exist, never what a label said.

use db::pools::{Health, Observed};
use domain::clock::{Timestamp, since};
use domain::ids::PoolName;
use provider::{Machine, MachineState};
use telemetry::Metrics;
use telemetry::metrics::{Capacity, InstanceState, PoolState, SpareKind};

use crate::pass::Passed;
use crate::plan::{Class, Plan};
use crate::target::Target;

const STATES: [(MachineState, InstanceState); 4] = [
    (MachineState::Pending, InstanceState::Pending),
    (MachineState::Running, InstanceState::Running),
    (MachineState::Stopping, InstanceState::Stopping),
    (MachineState::Stopped, InstanceState::Stopped),
];

const CLASSES: [(Class, PoolState); 8] = [
    (Class::Ready, PoolState::Ready),
    (Class::Busy, PoolState::Busy),
    (Class::Assigned, PoolState::AssignedIdle),
    (Class::Claimed, PoolState::Claimed),
    (Class::Overflow, PoolState::Overflow),
    (Class::Expired, PoolState::Expired),
    (Class::Pending, PoolState::Pending),
    (Class::Reserved, PoolState::Reserved),
];

fn machines(plan: &Plan, which: impl Fn(&Machine) -> bool) -> usize {
    plan.members().iter().filter(|member| which(&member.machine)).count()
}

/// What the pass saw and aimed at, for the pool's row.
pub(crate) fn observed(plan: &Plan, target: Target) -> Observed {
    let count = |state| u32::try_from(machines(plan, |machine| machine.state == state)).unwrap_or(u32::MAX);
    Observed {
        running: count(MachineState::Running),
        stopped: count(MachineState::Stopped),
        effective_running: Some(target.running),
        effective_stopped: Some(target.stopped),
    }
}

/// The same in metrics, zeros included.
#[allow(clippy::cast_precision_loss, reason = "machines of a pool are few")]
pub(crate) fn gauges(metrics: &Metrics, pool: &PoolName, plan: &Plan, target: Target, health: Health) {
    let pool = Some(pool);
    let seen = observed(plan, target);
    metrics.pool_instances(pool, PoolState::Running, Some(seen.running.into()));
    metrics.pool_instances(pool, PoolState::Stopped, Some(seen.stopped.into()));
    for (class, state) in CLASSES {
        metrics.pool_instances(pool, state, Some(plan.count(class) as f64));
    }
    for (state, shown) in STATES {
        for (spot, capacity) in [(false, Capacity::OnDemand), (true, Capacity::Spot)] {
            let count = machines(plan, |machine| machine.state == state && machine.spot == spot);
            metrics.instances(shown, capacity, pool, Some(count as f64));
        }
    }
    metrics.pool_desired(pool, SpareKind::Running, Some(target.running.into()));
    metrics.pool_desired(pool, SpareKind::Stopped, Some(target.stopped.into()));
    metrics.pool_health(pool, Some(if health.retry_at.is_some() { 0.0 } else { 1.0 }));
}

/// How long ago a pass last worked; `last` is the one before this.
pub(crate) fn age(metrics: &Metrics, pool: &PoolName, passed: &Passed, last: Option<Timestamp>, now: Timestamp) {
    let age = match passed {
        Passed::Done => Some(0.0),
        _ => last.map(|at| since(now, at).as_secs_f64()),
    };
    metrics.pool_reconcile_age(Some(pool), age);
}

/// Nobody counts this pool any more.
pub(crate) fn forget(metrics: &Metrics, pool: &PoolName) {
    let pool = Some(pool);
    for state in PoolState::ALL {
        metrics.pool_instances(pool, *state, None);
    }
    for (_, state) in STATES {
        for capacity in Capacity::ALL {
            metrics.instances(state, *capacity, pool, None);
        }
    }
    for kind in SpareKind::ALL {
        metrics.pool_desired(pool, *kind, None);
    }
    metrics.pool_health(pool, None);
    metrics.pool_reconcile_age(pool, None);
}
