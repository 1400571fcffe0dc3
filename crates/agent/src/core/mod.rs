//! The agent's decisions: a state machine without clock, I/O or logging.
//!
//! The shell tells it what happened ([`Input`]) and when ([`Moment`]), and performs what it answers ([`Action`]), in
//! order. Between inputs it sleeps until [`Agent::next_wake`] and then says [`Input::Tick`].
//!
//! ```text
//! standby ── hand-over ──> preparing ── ready ──> running ── run.sh ended ──> over
//!    │                         │                     │ signal, spot notice, ceiling, no job
//!    │ signal: exit            │ signal, ceiling,    └──> stopping ── ended, or killed ──> over
//!    │ nobody came: over       └ failure, notice: over
//! ```
//!
//! Properties: exactly one completion report per claimed hand-over; the first cause of an end decides, later ones
//! change nothing; at most one `started`, and never one for a runner that died before it was up; every wait has a
//! deadline; a machine is only left standing when an agent without work was told to go.

mod reports;
mod run;
mod terms;
mod verdict;

use std::collections::BTreeSet;
use std::time::Duration;

use domain::clock::{Timestamp, since};
use domain::ids::RunnerKey;
use domain::report::{AgentReport, AgentStatus};

use reports::line;
use run::{Claim, Run};
pub use terms::{Action, Assignment, Evidence, Input, Limits, Moment, Phase, Resource, Signal};
pub use verdict::Exit;
use verdict::{Cause, Verdict, verdict};

/// `run.sh` counts as started after this long, whatever it prints.
pub const ALIVE_AFTER: Duration = Duration::from_secs(10);
/// Grace after the runtime ceiling, unless the configured one is shorter.
const CEILING_GRACE: Duration = Duration::from_secs(30);
/// Grace of a runner that got no job, unless the configured one is shorter.
const IDLE_GRACE: Duration = Duration::from_secs(20);
/// A reclaimed machine's runner is stopped this long before the end, with at most this grace,
const SPOT_STOP_BEFORE: Duration = Duration::from_secs(60);
/// and killed this long before it, whatever its grace: logs and the report need the rest.
const SPOT_KILL_BEFORE: Duration = Duration::from_secs(25);
/// Grace of a runner on a reclaimed machine, unless the configured one is shorter.
const SPOT_GRACE: Duration = Duration::from_secs(30);
/// With less than this left no job is started: another machine serves it better.
const SPOT_NO_START: Duration = Duration::from_secs(120);
/// How long keeping the logs may delay the report,
const LOGS_WITHIN: Duration = Duration::from_secs(60);
/// and when somebody is waiting for the machine.
const HURRIED_LOGS: Duration = Duration::from_secs(10);
/// Beyond this wait the machine was a spare, and its boot says nothing about this job.
const COLD_START_WITHIN: Duration = Duration::from_secs(60);

/// The state machine.
#[derive(Debug, Clone)]
pub struct Agent {
    key: RunnerKey,
    limits: Limits,
    boot: Option<Duration>,
    spot: Option<Notice>,
    low: BTreeSet<Resource>,
    state: State,
}

/// EC2's word that it takes the machine back.
#[derive(Debug, Clone, Copy)]
struct Notice {
    seen: Timestamp,
    /// When, since the agent's start.
    deadline: Duration,
}

#[derive(Debug, Clone)]
enum State {
    Standby,
    Preparing(Claim),
    Running(Claim, Run),
    Over,
}

impl Agent {
    /// An agent that has just started.
    pub fn new(key: RunnerKey, limits: Limits) -> Self {
        Self { key, limits, boot: None, spot: None, low: BTreeSet::new(), state: State::Standby }
    }

    /// The same, on a machine whose kernel had run this long before.
    pub fn booted(self, boot: Option<Duration>) -> Self {
        Self { boot, ..self }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Standby => Phase::Standby,
            State::Preparing(_) => Phase::Preparing,
            State::Running(_, Run { stop: None, .. }) => Phase::Running,
            State::Running(_, Run { stop: Some(_), .. }) => Phase::Stopping,
            State::Over => Phase::Over,
        }
    }

    /// When it wants to be asked again at the latest, as time since the agent's start.
    pub fn next_wake(&self) -> Option<Duration> {
        match &self.state {
            State::Standby | State::Over => None,
            State::Preparing(claim) => {
                [Some(self.ceiling(claim)), self.spot_due(SPOT_NO_START)].into_iter().flatten().min()
            }
            State::Running(_, Run { stop: Some(stop), .. }) => (!stop.killed).then_some(stop.kill_at),
            State::Running(claim, run) => {
                let alive = (!run.started_reported).then_some(run.spawned.elapsed.saturating_add(ALIVE_AFTER));
                let pickup = self.pickup_due(claim, run).filter(|_| !run.asked_for_worker);
                [Some(self.ceiling(claim)), self.spot_due(SPOT_STOP_BEFORE), alive, pickup].into_iter().flatten().min()
            }
        }
    }

    /// What is left of the runtime of a job that runs.
    pub fn time_left(&self, elapsed: Duration) -> Option<Duration> {
        match &self.state {
            State::Running(claim, Run { stop: None, .. }) => Some(self.ceiling(claim).saturating_sub(elapsed)),
            _ => None,
        }
    }

    /// Takes in what happened and answers what to do, in order.
    pub fn handle(&mut self, now: Moment, input: Input) -> Vec<Action> {
        match input {
            Input::SpotNotice(at) => {
                let left = since(at, now.wall);
                let seen = self.spot.map_or(now.wall, |spot| spot.seen);
                self.spot = Some(Notice { seen, deadline: now.elapsed.saturating_add(left) });
            }
            Input::Low(resource) => drop(self.low.insert(resource)),
            _ => {}
        }
        match std::mem::replace(&mut self.state, State::Over) {
            State::Standby => self.standing_by(now, input),
            State::Preparing(claim) => self.preparing(now, claim, input),
            State::Running(claim, run) => self.running(now, claim, run, input),
            State::Over => Vec::new(),
        }
    }

    fn standing_by(&mut self, now: Moment, input: Input) -> Vec<Action> {
        match input {
            Input::Found(assignment) => {
                let claim = Claim::new(*assignment, now, self.boot);
                if self.spot_too_close(now) {
                    return self.ended_before_spawn(now, &claim, Cause::Spot);
                }
                self.state = State::Preparing(claim);
                vec![Action::Prepare]
            }
            Input::Unusable(Some(assignment), reason) => {
                self.failed(now, &Claim::new(*assignment, now, self.boot), format!("config_invalid: {reason}"))
            }
            Input::Unusable(None, reason) => {
                let mut report = self.blank(AgentStatus::BootstrapFailed);
                report.error = Some(line(&format!("config_invalid: {reason}")));
                finish(Some(report), 0, Duration::ZERO)
            }
            Input::Recovered(assignment, claimed_at, reason) => {
                let claim = Claim::new(*assignment, Moment { wall: claimed_at, ..now }, None);
                self.failed(now, &claim, reason)
            }
            Input::NobodyCame => finish(None, 0, Duration::ZERO),
            // A spare that is being stopped: ending its machine would destroy what the pool wants to keep.
            Input::Signal(_) => {
                vec![Action::Finish { report: None, code: 0, logs_within: Duration::ZERO, spare_machine: true }]
            }
            Input::Panicked(_) => finish(None, 1, Duration::ZERO),
            _ => {
                self.state = State::Standby;
                Vec::new()
            }
        }
    }

    fn preparing(&mut self, now: Moment, mut claim: Claim, input: Input) -> Vec<Action> {
        match input {
            Input::Prepared { version, runner, register } if !self.spot_too_close(now) => {
                claim.version = version;
                claim.bootstrap.runner = Some(runner.as_secs_f64());
                claim.bootstrap.register = Some(register.as_secs_f64());
                // Spawning is the shell's next step; until it is confirmed nothing runs.
                self.state = State::Preparing(claim);
                vec![Action::Spawn]
            }
            Input::Spawned => {
                let total = now.elapsed.saturating_sub(claim.at.elapsed);
                claim.bootstrap.total = Some(total.as_secs_f64());
                self.state = State::Running(claim, Run::new(now));
                Vec::new()
            }
            Input::PrepareFailed(reason) => self.failed(now, &claim, reason),
            Input::SpawnFailed(reason) => self.failed(now, &claim, format!("execution_failed: {reason}")),
            Input::Panicked(text) => self.failed(now, &claim, format!("agent panic: {text}")),
            Input::Signal(signal) => self.ended_before_spawn(now, &claim, Cause::Signal(signal)),
            _ if self.spot_too_close(now) => self.ended_before_spawn(now, &claim, Cause::Spot),
            _ if now.elapsed >= self.ceiling(&claim) => {
                let cause = Cause::Ceiling(self.max_runtime(&claim));
                self.ended_before_spawn(now, &claim, cause)
            }
            _ => {
                self.state = State::Preparing(claim);
                Vec::new()
            }
        }
    }

    fn running(&mut self, now: Moment, claim: Claim, mut run: Run, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Exited(exit) => return self.exited(now, &claim, &run, &exit),
            Input::Panicked(text) => {
                let verdict = Verdict::failure(format!("agent panic: {text}"));
                return finish(Some(self.completion(now, &claim, Some(&run), verdict)), 0, HURRIED_LOGS);
            }
            Input::Seen(evidence) => run.learn(evidence, now.elapsed),
            Input::Idle if run.stop.is_none() && run.received.is_none() => {
                let waited = self.pickup(&claim);
                run.stop(now, Cause::NoJob(waited), self.grace(now, IDLE_GRACE), &mut actions);
            }
            Input::Signal(signal) => match &mut run.stop {
                None => run.stop(now, Cause::Signal(signal), self.grace(now, Duration::MAX), &mut actions),
                Some(stop) => stop.kill(&mut actions),
            },
            Input::SpotNotice(_) => {
                if let (Some(stop), Some(latest)) = (&mut run.stop, self.spot_due(SPOT_KILL_BEFORE)) {
                    stop.kill_at = stop.kill_at.min(latest);
                }
            }
            _ => {}
        }
        let alive = run.stop.is_none() && now.elapsed >= run.spawned.elapsed.saturating_add(ALIVE_AFTER);
        if !run.started_reported && (alive || run.listening.is_some() || run.received.is_some()) {
            run.started_reported = true;
            actions.push(Action::Report(Box::new(self.started(now, &claim, &run))));
        }
        match &mut run.stop {
            Some(stop) if now.elapsed >= stop.kill_at => stop.kill(&mut actions),
            Some(_) => {}
            None if self.spot_due(SPOT_STOP_BEFORE).is_some_and(|due| now.elapsed >= due) => {
                run.stop(now, Cause::Spot, self.grace(now, SPOT_GRACE), &mut actions);
            }
            None if now.elapsed >= self.ceiling(&claim) => {
                let cause = Cause::Ceiling(self.max_runtime(&claim));
                run.stop(now, cause, self.grace(now, CEILING_GRACE), &mut actions);
            }
            None => {
                let due = self.pickup_due(&claim, &run).is_some_and(|due| now.elapsed >= due);
                if due && !run.asked_for_worker {
                    run.asked_for_worker = true;
                    actions.push(Action::LookForWorker);
                }
            }
        }
        self.state = State::Running(claim, run);
        actions
    }

    fn exited(&self, now: Moment, claim: &Claim, run: &Run, exit: &Exit) -> Vec<Action> {
        let verdict = verdict(exit, run.facts());
        let mut actions = Vec::new();
        if !run.started_reported && verdict.status == AgentStatus::Success {
            actions.push(Action::Report(Box::new(self.started(now, claim, run))));
        }
        let logs_within = run.stop.as_ref().map_or(LOGS_WITHIN, |stop| stop.cause.logs_within());
        let logs_within = if self.spot.is_some() { logs_within.min(HURRIED_LOGS) } else { logs_within };
        actions.extend(finish(Some(self.completion(now, claim, Some(run), verdict)), 0, logs_within));
        actions
    }

    fn failed(&self, now: Moment, claim: &Claim, reason: String) -> Vec<Action> {
        finish(Some(self.completion(now, claim, None, Verdict::failure(reason))), 0, HURRIED_LOGS)
    }

    fn ended_before_spawn(&self, now: Moment, claim: &Claim, cause: Cause) -> Vec<Action> {
        let verdict = verdict::before_spawn(cause);
        finish(Some(self.completion(now, claim, None, verdict)), 0, HURRIED_LOGS)
    }

    /// Whether the machine is taken back before a job could do anything useful.
    fn spot_too_close(&self, now: Moment) -> bool {
        self.spot.is_some_and(|spot| spot.deadline <= now.elapsed.saturating_add(SPOT_NO_START))
    }

    /// This long before the machine is taken back.
    fn spot_due(&self, before: Duration) -> Option<Duration> {
        self.spot.map(|spot| spot.deadline.saturating_sub(before))
    }

    /// Time between SIGTERM and SIGKILL: the configured one, at most `most`, and what a reclaim leaves.
    fn grace(&self, now: Moment, most: Duration) -> Duration {
        let left = self.spot_due(SPOT_KILL_BEFORE).map_or(Duration::MAX, |latest| latest.saturating_sub(now.elapsed));
        self.limits.grace.min(most).min(left)
    }

    fn max_runtime(&self, claim: &Claim) -> Duration {
        claim.assignment.max_runtime.unwrap_or(self.limits.max_runtime)
    }

    fn ceiling(&self, claim: &Claim) -> Duration {
        claim.at.elapsed.saturating_add(self.max_runtime(claim))
    }

    fn pickup(&self, claim: &Claim) -> Duration {
        claim.assignment.idle_exit.unwrap_or(self.limits.pickup)
    }

    /// When an idle runner has waited long enough. Only evidence of idleness starts this clock.
    fn pickup_due(&self, claim: &Claim, run: &Run) -> Option<Duration> {
        let pickup = self.pickup(claim);
        let since = run.listening.or(run.retrying.then_some(run.spawned.elapsed))?;
        (!pickup.is_zero() && run.received.is_none()).then_some(since.saturating_add(pickup))
    }
}

fn finish(report: Option<AgentReport>, code: u8, logs_within: Duration) -> Vec<Action> {
    vec![Action::Finish { report: report.map(Box::new), code, logs_within, spare_machine: false }]
}

#[cfg(test)]
mod tests;
