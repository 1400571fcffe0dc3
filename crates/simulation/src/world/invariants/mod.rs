//! What must hold in every world, whatever goes wrong in it.
//!
//! Each invariant is one function of [`rules`], named in [`TABLE`]. Rules of safety are looked at with every change;
//! rules of liveness when their time has come, which is counted from the moment the world is healthy. The work for a
//! change does not grow with the world, and what is over is forgotten.
//!
//! Shown elsewhere, because no single history can: that the number of deliveries does not matter (I12), that job
//! messages may be lost (I13), that draining loses nothing (I19) are comparisons and scenarios of the tests of this crate;
//! that the transition function is total and the store admits its moves only (I20) is the full product in `domain`.

mod pools;
mod rules;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use db::schema::{JOBS, POOLS, RUNNERS};
use domain::clock::{Timestamp, after};
use domain::gh::Conclusion;
use domain::ids::{JobId, RunnerKey};
use domain::report::AgentStatus;

use super::happening::{Happening, Witness};
use super::replica::lock;
use view::{JobRow, RunnerRow, View};

/// The invariants, and what they say.
pub const TABLE: [(&str, &str); 22] = [
    ("I1 recorded", "a job whose webhook was answered with 200 has a record, until that has been settled for long"),
    ("I2 launched", "a job that waits at GitHub gets a machine, or an end"),
    ("I3 served", "a job of ours begins, unless machine after machine failed it while the world was in trouble"),
    ("I4 one to one", "a machine is bound to one unsettled job"),
    ("I5 no surplus", "a machine that was never bound ends within minutes"),
    ("I6 no leak", "a machine without work ends"),
    ("I7 fenced", "a row changes only by who has read its last version, and a claim only after the lease before it"),
    ("I8 final", "a settled record stays as it is"),
    ("I9 monotone", "counters do not fall, on-demand stays forced, the first acceptance is not forgotten"),
    ("I10 placed", "a bound record names its machine, a pending one none"),
    ("I11 acknowledged", "a message is acknowledged only when nothing in it is needed any more"),
    ("I15 bounded", "a job is not given machines without end"),
    ("I16 no secret", "an ended machine's hand-over is deleted"),
    ("I17 not in vain", "a job that has ended at GitHub is given no machine"),
    ("I18 as asked", "a launch brings no more machines than jobs asked for"),
    ("B1 true binding", "a record names the machine that GitHub named"),
    ("B2 no killing", "a machine whose runner has a job is not terminated"),
    ("P1 converging", "a pool comes to have the spares it should have"),
    ("P2 no disturbing", "a machine that was given to a job is not stopped, nor one that somebody holds taken away"),
    ("P3 not twice", "what somebody holds is taken by nobody else: a pool, a task, a machine"),
    ("P4 fences hold", "no later leader's row is written by an earlier leader"),
    ("P5 one leader", "at most one replica believes that it leads"),
];

/// How long things may take in a healthy world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// From an accepted webhook to a record: of what was accepted as a message only. Nobody has to ask GitHub for it.
    pub recorded: Duration,
    /// From waiting at GitHub to a machine.
    pub launched: Duration,
    /// From waiting at GitHub to a runner that has it.
    pub begun: Duration,
    /// From a launch to a binding.
    pub surplus: Duration,
    /// From the last work to the end of a machine.
    pub idle: Duration,
    /// From the end of a machine to the end of its hand-over.
    pub secret: Duration,
    /// From GitHub's word to the record that says the same.
    pub bound: Duration,
    /// How long a settled record is kept at least.
    pub row_kept: Duration,
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            recorded: minutes(2),
            launched: minutes(25),
            begun: minutes(60),
            surplus: minutes(8),
            idle: minutes(36),
            secret: minutes(30),
            bound: minutes(10),
            row_kept: minutes(7 * 24 * 60),
        }
    }
}

/// What must never happen, and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When it was seen.
    pub at: Timestamp,
    /// Which invariant.
    pub invariant: &'static str,
    /// Whose job.
    pub job: Option<JobId>,
    /// On which machine.
    pub machine: Option<RunnerKey>,
    /// What is wrong.
    pub text: String,
}

/// Something to look at later.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Check {
    Recorded(JobId),
    Launched(JobId),
    Begun(JobId),
    Surplus(RunnerKey),
    Idle(RunnerKey, Timestamp),
    Secret(RunnerKey),
    Bound(JobId, RunnerKey),
}

#[derive(Default)]
struct State {
    view: View,
    bounds: Bounds,
    agenda: BTreeMap<(Timestamp, u64), Check>,
    scheduled: u64,
    suspended: Vec<Check>,
    /// Machines that were bound by the transaction under way.
    touched: Vec<RunnerKey>,
    violations: Vec<Violation>,
}

/// Violations kept.
const MOST: usize = 100;

/// See the module.
pub struct Invariants(Mutex<State>);

impl Invariants {
    /// Nothing has happened yet.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { bounds, ..State::default() })))
    }

    /// What must never happen, and did: the first hundred.
    pub fn violations(&self) -> Vec<Violation> {
        lock(&self.0).violations.clone()
    }

    /// Whether any invariant was broken.
    pub fn is_broken(&self) -> bool {
        !lock(&self.0).violations.is_empty()
    }

    /// Time passes.
    pub fn tick(&self, now: Timestamp) {
        lock(&self.0).look(now);
    }

    /// Whether nothing is left to be done: no job open, no record unsettled, no machine, no hand-over.
    /// With `spares`, those of pools are no work.
    pub fn is_quiet(&self, spares: bool) -> bool {
        lock(&self.0).view.is_quiet(spares)
    }

    /// The end of a run: whatever is left is left for good.
    pub fn quiesce(&self, now: Timestamp) {
        let mut state = lock(&self.0);
        state.look(now);
        for found in rules::at_rest(&state.view) {
            state.accuse(now, found);
        }
    }
}

/// A rule's finding: which invariant, whose job, which machine, what.
type Finding = (&'static str, Option<JobId>, Option<RunnerKey>, String);

impl State {
    fn accuse(&mut self, at: Timestamp, (invariant, job, machine, text): Finding) {
        if self.violations.len() < MOST {
            self.violations.push(Violation { at, invariant, job, machine, text });
        }
    }

    fn bound_of(&self, check: &Check) -> Duration {
        match check {
            Check::Recorded(_) => self.bounds.recorded,
            Check::Launched(_) => self.bounds.launched,
            Check::Begun(_) => self.bounds.begun,
            Check::Surplus(_) => self.bounds.surplus,
            Check::Idle(..) => self.bounds.idle,
            Check::Secret(_) => self.bounds.secret,
            Check::Bound(..) => self.bounds.bound,
        }
    }

    fn later(&mut self, from: Timestamp, check: Check) {
        self.scheduled += 1;
        let at = after(from, self.bound_of(&check));
        self.agenda.insert((at, self.scheduled), check);
    }

    fn look(&mut self, now: Timestamp) {
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let check = entry.remove();
            match self.view.healthy {
                None => self.suspended.push(check),
                Some(healthy) if after(healthy, self.bound_of(&check)) > now => self.later(healthy, check),
                Some(_) => self.judge(now, &check),
            }
        }
    }

    fn judge(&mut self, now: Timestamp, check: &Check) {
        let found = match check {
            Check::Recorded(job) => rules::i1_recorded(&self.view, *job),
            Check::Launched(job) => rules::i2_launched(&self.view, *job),
            Check::Begun(job) => rules::i3_served(&self.view, *job),
            Check::Surplus(machine) => rules::i5_no_surplus(&self.view, machine),
            Check::Idle(machine, since) => rules::i6_no_leak(&self.view, machine, *since),
            Check::Secret(machine) => rules::i16_no_secret(&self.view, machine),
            Check::Bound(job, machine) => rules::b1_true_binding(&self.view, *job, machine),
        };
        if let Check::Secret(machine) = check {
            self.view.forget_machine(machine);
        }
        if let Some(found) = found {
            self.accuse(now, found);
        }
    }

    /// A machine has lost its work, or never had any.
    fn idles(&mut self, now: Timestamp, machine: &RunnerKey) {
        if let Some(since) = self.view.idle_since(machine, now) {
            self.later(now, Check::Idle(machine.clone(), since));
        }
    }

    fn job_wrote(&mut self, now: Timestamp, before: Option<JobRow>, after: Option<JobRow>) {
        let mut found = Vec::new();
        if let (Some(before), Some(after)) = (&before, &after) {
            found.extend(rules::i7_fenced(before, after, now));
            found.extend(rules::i8_final(before, after));
            found.extend(rules::i9_monotone(before, after));
        }
        if let (Some(before), None) = (&before, &after) {
            found.extend(rules::i1_kept(before, now, self.bounds.row_kept));
        }
        if let Some(after) = &after {
            found.extend(rules::i10_placed(after));
            let newly = after.machine.is_some() && before.as_ref().is_none_or(|before| before.machine != after.machine);
            if newly && &*after.status == "launched" {
                found.extend(rules::i17_not_in_vain(&self.view, after));
            }
        }
        for found in found {
            self.accuse(now, found);
        }
        let after_machine = after.as_ref().and_then(|after| after.machine.clone());
        let lost = before.as_ref().and_then(|before| before.machine.clone()).filter(|_| {
            before.as_ref().is_some_and(JobRow::is_open) && !after.as_ref().is_some_and(|after| after.is_open())
                || before.as_ref().map(|b| &b.machine) != after.as_ref().map(|a| &a.machine)
        });
        if let Some(row) = after.clone().or(before) {
            let counted = self.view.job_wrote(row.id, after, now);
            if let Some(found) = counted.and_then(|launches| rules::i15_bounded(row.id, launches)) {
                self.accuse(now, found);
            }
        }
        self.touched.extend(after_machine);
        if let Some(machine) = lost {
            self.idles(now, &machine);
        }
    }
}

impl Witness for Invariants {
    fn saw(&self, now: Timestamp, what: &Happening<'_>) {
        let mut state = lock(&self.0);
        state.look(now);
        if !matches!(what, Happening::Wrote { .. }) {
            for machine in std::mem::take(&mut state.touched) {
                if let Some(found) = rules::i4_one_to_one(&state.view, &machine) {
                    state.accuse(now, found);
                }
            }
        }
        match what {
            Happening::JobQueued { job, run, attempt, labels, .. } if super::is_ours(labels) => {
                state.view.queued(*job, *run, *attempt, now);
                state.later(now, Check::Launched(*job));
                state.later(now, Check::Begun(*job));
            }
            Happening::JobBegan { job, machine, .. } => {
                state.view.began(*job, machine.as_ref(), now);
                if let Some(machine) = machine {
                    state.later(now, Check::Bound(*job, machine.clone()));
                }
            }
            Happening::JobConcluded { job, conclusion, runner_lost } => {
                let machine = state.view.concluded(*job, *conclusion == Conclusion::Cancelled, *runner_lost, now);
                if let Some(machine) = machine {
                    state.idles(now, &machine);
                }
            }
            Happening::WebhookAccepted { job, action: "queued" } if state.view.accepted(*job) => {
                state.later(now, Check::Recorded(*job));
            }
            Happening::Launched { machine, launch, pool, .. } => {
                let found = state.view.launched(machine, *launch, pool.is_some());
                if let Some(found) = found.and_then(|(made, asked)| rules::i18_as_asked(machine, *launch, made, asked))
                {
                    state.accuse(now, found);
                }
                state.later(now, Check::Surplus((*machine).clone()));
                state.idles(now, machine);
            }
            Happening::Warned { machine, .. } => state.view.warned(machine),
            Happening::Booted { machine } => state.view.booted(machine),
            Happening::Stopped { machine } => {
                if let Some(found) = pools::p2_no_disturbing(&state.view, machine) {
                    state.accuse(now, found);
                }
                state.view.stopped(machine);
            }
            Happening::PoolMissed { what } => state.accuse(now, pools::p1_converging(what)),
            Happening::Led { replica, others, .. } => {
                if let Some(found) = pools::p5_one_leader(*replica, *others) {
                    state.accuse(now, found);
                }
            }
            Happening::Wrote { table, before: Some(before), after } if table.name == POOLS.name => {
                for found in pools::rows(before, *after, now) {
                    state.accuse(now, found);
                }
            }
            Happening::Ended { machine, why } => {
                if let Some(found) = rules::b2_no_killing(&state.view, machine, why) {
                    state.accuse(now, found);
                }
                state.view.ended(machine, why);
                state.later(now, Check::Secret((*machine).clone()));
            }
            Happening::Reported { report, .. } if report.status != AgentStatus::Started => {
                state.view.reported(&report.instance_id);
            }
            Happening::HandedOver { machine, .. } => {
                state.view.handed_over(machine, true);
                if state.view.has_ended(machine) {
                    state.later(now, Check::Secret((*machine).clone()));
                }
            }
            Happening::HandOverDeleted { machine } => state.view.handed_over(machine, false),
            Happening::Wrote { table, before, after } if table.name == JOBS.name => {
                let row = after.or(*before).and_then(JobRow::read);
                if let Some(row) = row {
                    // What was there is what was seen to be written.
                    let before = before.and_then(|_| state.view.row(row.id));
                    state.job_wrote(now, before, after.map(|_| row));
                }
            }
            Happening::Wrote { table, before: Some(before), after: Some(after) } if table.name == RUNNERS.name => {
                if let (Some(before), Some(after)) = (RunnerRow::read(before), RunnerRow::read(after))
                    && let Some(found) = rules::i7_runner_fenced(&before, &after)
                {
                    state.accuse(now, found);
                }
            }
            Happening::Acked { queue: "main", delivery, rejected: false } => {
                if let Some(found) = rules::i11_acknowledged(&state.view, delivery, now) {
                    state.accuse(now, found);
                }
            }
            Happening::Mishap { call, .. } if call.starts_with("github") => state.view.github_failed = Some(now),
            Happening::Healthy => {
                state.view.healthy = Some(now);
                for check in std::mem::take(&mut state.suspended) {
                    state.later(now, check);
                }
            }
            _ => {}
        }
    }
}
