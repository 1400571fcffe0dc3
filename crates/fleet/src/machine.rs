//! Instances as the port shows them, and which of them to ask EC2 for. Pure.

use domain::clock::Timestamp;
use domain::ids::{LaunchId, RunnerKey};
use domain::launch::Arch;
use provider::compute::{Filter, Machine, MachineState, Which};
use provider::tags;
use tracing::warn;

use crate::ec2::Instance;

#[cfg(test)]
mod tests;

/// A filter of EC2: its name, and values of which one must fit.
pub(crate) type Criterion = (String, Vec<String>);

/// The instance as the port shows it. An unknown state is neither up for sure nor gone: as if it were still booting.
/// An instance without a launch time was launched just now, so that nobody takes it for old.
pub(crate) fn machine(instance: Instance, now: Timestamp) -> Machine {
    let states = [
        MachineState::Pending,
        MachineState::Running,
        MachineState::Stopping,
        MachineState::Stopped,
        MachineState::ShuttingDown,
        MachineState::Terminated,
    ];
    let state = states.into_iter().find(|state| state.as_str() == instance.state).unwrap_or_else(|| {
        warn!(instance_id = instance.id, state = instance.state, "an unknown instance state");
        MachineState::Pending
    });
    Machine {
        key: RunnerKey::new(instance.id),
        state,
        instance_type: instance.instance_type,
        zone: instance.zone,
        spot: instance.spot,
        arch: instance.arch.as_deref().and_then(Arch::parse),
        image: instance.image,
        launched_at: instance.launched_at.unwrap_or(now),
        ended_at: instance.transition.as_deref().filter(|_| state.is_gone()).and_then(time_of),
        launch_id: instance.tags.get(tags::LAUNCH_ID).map(|id| LaunchId::new(id.clone())),
        tags: instance.tags,
    }
}

/// The time in a state transition reason, such as `User initiated (2026-01-31 10:23:34 GMT)`. EC2 API reference,
/// `Instance`.
fn time_of(reason: &str) -> Option<Timestamp> {
    let (_, rest) = reason.rsplit_once('(')?;
    let (time, _) = rest.split_once(" GMT)")?;
    format!("{}Z", time.replace(' ', "T")).parse().ok()
}

/// What to ask EC2 for. `None` when nothing can match.
pub(crate) fn criteria(filter: &Filter, profile: Option<&str>) -> Option<Vec<Criterion>> {
    let mut criteria = vec![match filter.which {
        Which::Ours => ours(),
        Which::Builders => tagged(tags::CREATED_BY, tags::IMAGE_BUILDER),
        Which::Unmarked => ("iam-instance-profile.arn".to_owned(), vec![profile?.to_owned()]),
    }];
    criteria.push(match filter.include_gone {
        true => in_state(&["pending", "running", "stopping", "stopped", "shutting-down", "terminated"]),
        false => in_state(&["pending", "running", "stopping", "stopped"]),
    });
    criteria.extend(filter.launch_id.as_ref().map(|launch| tagged(tags::LAUNCH_ID, launch.as_str())));
    criteria.extend(filter.pool.as_ref().map(|pool| tagged(tags::POOL, pool.as_str())));
    Some(criteria)
}

/// Instances we launched.
pub(crate) fn ours() -> Criterion {
    tagged(tags::MANAGED, "true")
}

/// Instances with this tag.
pub(crate) fn tagged(name: &str, value: &str) -> Criterion {
    (format!("tag:{name}"), vec![value.to_owned()])
}

/// Instances in one of these states.
pub(crate) fn in_state(states: &[&str]) -> Criterion {
    ("instance-state-name".to_owned(), states.iter().map(|state| (*state).to_owned()).collect())
}
