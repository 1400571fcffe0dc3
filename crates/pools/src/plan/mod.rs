//! What a pass over a pool does, and in which order. Pure: this is the whole decision.
//!
//! A pass reads everything first and makes a [`Plan`] of it. Then it asks, again and again, for the [`Step`] that comes
//! next, given what the earlier ones brought, until there is none. So the plan itself never waits for anybody, and what
//! was learnt on the way (a hand-over that is there after all, a claim that somebody else won, a start that failed)
//! counts from the moment it is known.
//!
//! What is always so:
//!
//! * Nothing busy, claimed, assigned or with a hand-over waiting is stopped or ended.
//! * What is not known is taken for in use. A machine that has just booted, or that was not seen idle for long enough,
//!   is left alone.
//! * A spot machine is never stopped.
//! * A machine that could not be stopped is not ended for that, and does not count as stopped.
//! * At most [`MAX_CREATES`] machines are made.
//! * A second pass over the world that the first one made finds nothing to do but wait.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::clock::{Timestamp, since};
use domain::ids::RunnerKey;
use provider::Machine;

use crate::target::Target;
use crate::times::Times;

pub(crate) mod census;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use census::{Class, Member};

/// Most machines started by one pass.
pub const MAX_STARTS: usize = 50;
/// Most machines made by one pass.
pub const MAX_CREATES: usize = 20;

/// What a pass may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Whatever is right.
    Full,
    /// Start and make machines; it has not watched the pool, so it takes none away.
    Growth,
}

/// All that is known of a pool at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The moment.
    pub now: Timestamp,
    /// What may be done.
    pub scope: Scope,
    /// What is aimed at.
    pub target: Target,
    /// A ready machine more than needed is kept for so long.
    pub idle_timeout: Duration,
    /// The intervals.
    pub times: Times,
    /// The machines with the pool's tag.
    pub machines: Vec<Machine>,
    /// Machines that jobs of the pool occupy.
    pub busy: BTreeSet<RunnerKey>,
    /// Machines somebody holds a claim on, or that this process is giving to a job.
    pub taken: BTreeSet<RunnerKey>,
    /// Machines asked for a moment ago, which EC2 may not list yet.
    pub requested: BTreeSet<RunnerKey>,
    /// Since when earlier passes have found machines idle.
    pub idle_since: BTreeMap<RunnerKey, Timestamp>,
}

/// Why something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Too few running spares.
    ReadyDeficit,
    /// The same, because spares linger after a job.
    Linger,
    /// Too few stopped spares.
    StoppedReplenish,
    /// A running spare too many becomes a stopped one.
    ExcessReady,
    /// A running spare too many, and enough stopped ones.
    ExcessIdle,
    /// Its agent is about to give up.
    StandbyExpired,
    /// Idle spot capacity.
    OverflowIdle,
    /// A stopped spare too many.
    OverDesiredStopped,
}

impl Reason {
    /// The word for it in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadyDeficit => "ready_deficit",
            Self::Linger => "linger",
            Self::StoppedReplenish => "stopped_replenish",
            Self::ExcessReady => "excess_ready",
            Self::ExcessIdle => "excess_idle",
            Self::StandbyExpired => "standby_expired",
            Self::OverflowIdle => "overflow_idle",
            Self::OverDesiredStopped => "over_desired_stopped",
        }
    }
}

/// A machine to take away.
pub type Cut = (RunnerKey, Reason);

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Find out whether a hand-over waits for this machine: then it is a job's.
    Probe(RunnerKey),
    /// Start these stopped spares.
    Start(Vec<RunnerKey>, Reason),
    /// Make so many machines, to run (or to be stopped, for [`Reason::StoppedReplenish`]).
    Create(usize, Reason),
    /// Stop these.
    Stop(Vec<Cut>),
    /// End these.
    Terminate(Vec<Cut>),
}

/// What became of an action on one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acted {
    /// Done.
    Done,
    /// Somebody else holds the machine, or it is no longer what it was: it was left alone.
    Refused,
    /// It was tried, and nobody knows whether it worked.
    Failed,
}

/// Whether a hand-over waits for a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// None does.
    Free,
    /// One does: the machine is a job's, and was no spare to begin with.
    Handed,
    /// Nobody could say. It stays, but nothing is made in its place either.
    Unknown,
}

/// What the steps so far brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Probes.
    pub probed: BTreeMap<RunnerKey, Probed>,
    /// Starts.
    pub started: BTreeMap<RunnerKey, Acted>,
    /// Stops and ends.
    pub cut: BTreeMap<RunnerKey, Acted>,
    /// How many machines were asked for, to run.
    pub for_running: Option<usize>,
    /// How many to be stopped.
    pub for_stopped: Option<usize>,
}

impl Progress {
    /// Notes that a step worked in full. What a probe finds is for the caller to say.
    pub fn suppose(&mut self, step: &Step) {
        let all = |keys: &[Cut]| -> Vec<_> { keys.iter().map(|(key, _)| (key.clone(), Acted::Done)).collect() };
        match step {
            Step::Probe(_) => {}
            Step::Start(keys, _) => self.started.extend(keys.iter().map(|key| (key.clone(), Acted::Done))),
            Step::Create(count, Reason::StoppedReplenish) => self.for_stopped = Some(*count),
            Step::Create(count, _) => self.for_running = Some(*count),
            Step::Stop(cuts) | Step::Terminate(cuts) => self.cut.extend(all(cuts)),
        }
    }
}

/// What a pass is about to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    snapshot: Snapshot,
    members: Vec<Member>,
    /// Requested machines that are not listed yet.
    unlisted: usize,
    /// How many machines may be made.
    allowance: usize,
}

/// What is taken away, as far as the probes go.
#[derive(Default)]
struct Cuts {
    stop: Vec<Cut>,
    end: Vec<Cut>,
    /// Ready machines after those were left out that turned out to be a job's.
    ready: usize,
    /// How many of the ready ones go.
    ready_cut: usize,
    /// How many of the stopped ones go.
    stopped_cut: usize,
}

impl Plan {
    /// A plan for what was seen.
    pub fn new(snapshot: Snapshot) -> Self {
        let members = census::members(&snapshot);
        let listed: BTreeSet<_> = members.iter().map(|member| &member.machine.key).collect();
        let unlisted = snapshot.requested.iter().filter(|key| !listed.contains(key)).count();
        Self { snapshot, members, unlisted, allowance: MAX_CREATES }
    }

    /// The same, with at most so many machines made.
    #[must_use]
    pub fn allowing(self, allowance: usize) -> Self {
        Self { allowance: allowance.min(MAX_CREATES), ..self }
    }

    /// The same for a full pass by somebody who has seen every idle machine idle for as long as it takes.
    #[must_use]
    pub fn as_if_watched(self) -> Self {
        let mut snapshot = self.snapshot;
        snapshot.scope = Scope::Full;
        let keys = snapshot.machines.iter().map(|machine| machine.key.clone());
        snapshot.idle_since = keys.map(|key| (key, Timestamp::MIN)).collect();
        Self::new(snapshot)
    }

    /// The machines, oldest first, and what each of them is.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How many there are of a class.
    pub fn count(&self, class: Class) -> usize {
        let listed = self.members.iter().filter(|member| member.class == Some(class)).count();
        if class == Class::Pending { listed + self.unlisted } else { listed }
    }

    /// What the next pass must know: since when machines have been idle.
    pub fn idle_since(&self) -> BTreeMap<RunnerKey, Timestamp> {
        census::idle_since(&self.members)
    }

    /// What comes next; `None` when nothing is left to do.
    pub fn next(&self, done: &Progress) -> Option<Step> {
        // More running spares: first those that are stopped, then new ones.
        let need = self.running().saturating_sub(self.count(Class::Ready) + self.count(Class::Pending));
        let reason = if self.snapshot.target.lingering { Reason::Linger } else { Reason::ReadyDeficit };
        if let Some(step) = self.start(need, done) {
            return Some(Step::Start(step, reason));
        }
        let started = outcomes(&done.started, Acted::Done);
        let create = (need - started).min(self.allowance);
        if create > 0 && done.for_running.is_none() {
            return Some(Step::Create(create, reason));
        }

        // What is too much, or no longer of use.
        let cuts = match self.snapshot.scope {
            Scope::Full => match self.cuts(started, done) {
                Ok(cuts) => cuts,
                Err(unknown) => return Some(Step::Probe(unknown)),
            },
            Scope::Growth => Cuts { ready: self.count(Class::Ready), ..Cuts::default() },
        };
        let left = |cuts: &[Cut]| -> Vec<Cut> {
            cuts.iter().filter(|(key, _)| !done.cut.contains_key(key)).cloned().collect()
        };
        let (stop, end) = (left(&cuts.stop), left(&cuts.end));
        if !stop.is_empty() {
            return Some(Step::Stop(stop));
        }
        if !end.is_empty() {
            return Some(Step::Terminate(end));
        }

        // More stopped spares. Running ones too many will be stopped by and by, and are counted on.
        let surplus = (cuts.ready + self.count(Class::Pending)).saturating_sub(self.running());
        let incoming = surplus.saturating_sub(cuts.ready_cut);
        let banked = cuts.stop.iter().filter(|(key, _)| done.cut.get(key) == Some(&Acted::Done)).count();
        let stopped = self.count(Class::Stopped).saturating_sub(started + cuts.stopped_cut);
        let after = stopped + self.count(Class::Stopping) + banked + incoming;
        let create = self.stopped().saturating_sub(after).min(self.allowance - done.for_running.unwrap_or(0));
        (create > 0 && done.for_stopped.is_none()).then_some(Step::Create(create, Reason::StoppedReplenish))
    }

    /// Why a machine that does nothing is left alone for now. `None`: it is not, or it is no such machine.
    pub fn kept(&self, member: &Member) -> Option<&'static str> {
        let idle = member.idle_since.map(|at| since(self.snapshot.now, at))?;
        if self.may_boot(member) {
            return Some("it may still be booting");
        }
        if idle < self.snapshot.times.dwell {
            return Some("it has not been seen idle for long enough");
        }
        let waits = member.class == Some(Class::Ready) && !self.banks() && idle < self.snapshot.idle_timeout;
        waits.then_some("its idle timeout is not over")
    }

    /// Whether a machine was launched or started a moment ago.
    pub fn may_boot(&self, member: &Member) -> bool {
        since(self.snapshot.now, member.machine.launched_at) < self.snapshot.times.grace
    }

    /// Whether jobs of the pool run, on whatever machines.
    pub fn is_busy(&self) -> bool {
        !self.snapshot.busy.is_empty()
    }

    fn running(&self) -> usize {
        self.snapshot.target.running as usize
    }

    fn stopped(&self) -> usize {
        self.snapshot.target.stopped as usize
    }

    /// A pool whose spares are all stopped: a running one is on its way there and need not wait.
    fn banks(&self) -> bool {
        self.running() == 0 && self.stopped() > 0
    }

    fn of(&self, class: Class) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.class == Some(class))
    }

    /// The stopped spares to start next. One that is somebody else's is replaced by another; a failed start is not.
    fn start(&self, need: usize, done: &Progress) -> Option<Vec<RunnerKey>> {
        let refused = outcomes(&done.started, Acted::Refused);
        let missing = need.min(MAX_STARTS).saturating_sub(done.started.len() - refused);
        let mut stopped: Vec<_> = self.of(Class::Stopped).map(|member| &member.machine).collect();
        stopped.sort_by(|a, b| census::size(a).cmp(&census::size(b)));
        let untried = stopped.into_iter().map(|machine| &machine.key).filter(|key| !done.started.contains_key(key));
        let next: Vec<_> = untried.take(missing).cloned().collect();
        (!next.is_empty()).then_some(next)
    }

    /// What goes; or the machine that must be probed before that can be said.
    fn cuts(&self, started: usize, done: &Progress) -> Result<Cuts, RunnerKey> {
        let probed = |member: &Member| {
            let key = &member.machine.key;
            done.probed.get(key).copied().ok_or_else(|| key.clone())
        };
        let may_go = |member: &&Member| self.kept(member).is_none();
        let cut = |member: &Member, reason| (member.machine.key.clone(), reason);
        let mut cuts = Cuts { ready: self.count(Class::Ready), ..Cuts::default() };

        // Ready ones too many. One with a hand-over was no spare to begin with.
        let mut excess = cuts.ready.saturating_sub(self.running());
        let mut going = Vec::new();
        for member in self.of(Class::Ready).filter(may_go) {
            if going.len() >= excess {
                break;
            }
            match probed(member)? {
                Probed::Free => going.push(member),
                Probed::Handed => (cuts.ready, excess) = (cuts.ready - 1, excess - 1),
                Probed::Unknown => excess -= 1,
            }
        }
        cuts.ready_cut = going.len();
        let mut room = self.stopped().saturating_sub(self.count(Class::Stopped) + self.count(Class::Stopping));
        for member in going {
            if room > 0 {
                room -= 1;
                cuts.stop.push(cut(member, Reason::ExcessReady));
            } else {
                cuts.end.push(cut(member, Reason::ExcessIdle));
            }
        }

        // Those about to give up: not all at once, so that others take their place first.
        let mut most = cuts.ready.div_ceil(2).max(1);
        for member in self.of(Class::Expired).filter(may_go) {
            if most == 0 {
                break;
            }
            if probed(member)? == Probed::Free {
                most -= 1;
                let list = if room > 0 { &mut cuts.stop } else { &mut cuts.end };
                room = room.saturating_sub(1);
                list.push(cut(member, Reason::StandbyExpired));
            }
        }
        for member in self.of(Class::Overflow).filter(may_go) {
            if probed(member)? == Probed::Free {
                cuts.end.push(cut(member, Reason::OverflowIdle));
            }
        }

        // Stopped ones too many. No agent runs there, so there is nothing to probe.
        let over = self.count(Class::Stopped).saturating_sub(started + self.stopped());
        let untouched = self.of(Class::Stopped).filter(|member| !done.started.contains_key(&member.machine.key));
        let before = cuts.end.len();
        cuts.end.extend(untouched.take(over).map(|member| cut(member, Reason::OverDesiredStopped)));
        cuts.stopped_cut = cuts.end.len() - before;
        Ok(cuts)
    }
}

fn outcomes(acted: &BTreeMap<RunnerKey, Acted>, outcome: Acted) -> usize {
    acted.values().filter(|acted| **acted == outcome).count()
}
