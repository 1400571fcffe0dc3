//! What each machine of a pool is, by all that is known of it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use domain::catalogue;
use domain::clock::{Timestamp, since};
use domain::ids::RunnerKey;
use provider::{Machine, MachineState};

use super::Snapshot;
use crate::times::Times;

/// What a machine is to its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Boots, and will be a spare.
    Pending,
    /// A running spare.
    Ready,
    /// Runs a job.
    Busy,
    /// Somebody is about to do something to it.
    Claimed,
    /// Given to a job that nobody knows of any more, or about to be taken back. Its agent waits for nothing: it is no spare.
    Assigned,
    /// Spot capacity, launched for a job when the pool had none. It cannot be stopped, so it is no spare.
    Overflow,
    /// A running spare whose agent is about to give up.
    Expired,
    /// On its way to a stopped spare.
    Stopping,
    /// A stopped spare.
    Stopped,
    /// Stopped, and somebody's.
    Reserved,
}

impl Class {
    /// The word for it in metrics and on the page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Claimed => "claimed",
            Self::Assigned => "assigned_idle",
            Self::Overflow => "overflow",
            Self::Expired => "expired",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Reserved => "reserved",
        }
    }
    /// Whether it runs and, as far as is known, does nothing: only such a machine is ever stopped.
    pub const fn is_idle(self) -> bool {
        matches!(self, Self::Ready | Self::Overflow | Self::Expired)
    }
}

/// A machine and its class.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Which.
    pub machine: Machine,
    /// `None`: of no concern to the pool.
    pub class: Option<Class>,
    /// Since when every look at it has found it idle.
    pub idle_since: Option<Timestamp>,
}

/// The class of one machine; the first rule that fits.
fn classify(machine: &Machine, busy: bool, taken: bool, times: &Times, now: Timestamp) -> Option<Class> {
    Some(match machine.state {
        MachineState::Pending if busy || taken || machine.spot || machine.is_assigned() => return None,
        MachineState::Pending => Class::Pending,
        MachineState::Running if busy => Class::Busy,
        MachineState::Running if taken => Class::Claimed,
        MachineState::Running if machine.is_assigned() => Class::Assigned,
        MachineState::Running if machine.spot => Class::Overflow,
        MachineState::Running if since(now, machine.launched_at) >= times.standby => Class::Expired,
        MachineState::Running => Class::Ready,
        MachineState::Stopping if machine.spot => return None,
        MachineState::Stopping => Class::Stopping,
        MachineState::Stopped if busy || taken => Class::Reserved,
        MachineState::Stopped => Class::Stopped,
        MachineState::ShuttingDown | MachineState::Terminated => return None,
    })
}

/// Every machine with its class, oldest first.
pub(super) fn members(snapshot: &Snapshot) -> Vec<Member> {
    let of = |set: &BTreeSet<RunnerKey>, machine: &Machine| set.contains(&machine.key);
    let mut members: Vec<_> = snapshot
        .machines
        .iter()
        .map(|machine| {
            let (busy, taken) = (of(&snapshot.busy, machine), of(&snapshot.taken, machine));
            let class = classify(machine, busy, taken, &snapshot.times, snapshot.now);
            let seen = snapshot.idle_since.get(&machine.key).copied();
            let idle_since = class.filter(|class| class.is_idle()).map(|_| seen.unwrap_or(snapshot.now));
            Member { machine: machine.clone(), class, idle_since }
        })
        .collect();
    members.sort_by(|a, b| age(&a.machine).cmp(&age(&b.machine)));
    members
}

/// Since when each idle machine has been so: what the next pass must know.
pub(super) fn idle_since(members: &[Member]) -> BTreeMap<RunnerKey, Timestamp> {
    members.iter().filter_map(|member| Some((member.machine.key.clone(), member.idle_since?))).collect()
}

/// Orders machines by age.
pub(crate) fn age(machine: &Machine) -> (Timestamp, &RunnerKey) {
    (machine.launched_at, &machine.key)
}

/// Orders machines by size, then age; those of an unknown type come first.
pub(crate) fn size(machine: &Machine) -> (u32, u32, Timestamp, &RunnerKey) {
    let (vcpu, ram) = catalogue::lookup(&machine.instance_type).map_or((0, 0), |known| (known.vcpu, known.ram_gib));
    (vcpu, ram, machine.launched_at, &machine.key)
}
