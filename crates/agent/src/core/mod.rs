//! The agent's decisions: a state machine without clock, I/O or logging.
//!
//! The shell tells it what happened ([`Input`]) and when ([`Moment`]), and performs what it answers ([`Action`]), in
//! order. Between inputs it sleeps until [`Agent::next_wake`] and then says [`Input::Tick`].
//!
//! ```text
//! standby ── hand-over ──> preparing ── ready ──> running ── run.sh ended ──> over
//!    │                         │                     │ signal, ceiling, no job
//!    │ signal: exit            │ signal, ceiling,    └──> stopping ── ended, or killed ──> over
//!    │ nobody came: over       └ failure: over
//! ```
//!
//! Properties: exactly one completion report per claimed hand-over; the first cause of an end decides, later ones
//! change nothing; at most one `started`, and never one for a runner that died before it was up; every wait has a
//! deadline; a machine is only left standing when an agent without work was told to go.

mod reports;
mod run;
mod terms;
mod verdict;

use std::time::Duration;

use domain::ids::RunnerKey;
use domain::report::{AgentReport, AgentStatus};

use reports::line;
use run::{Claim, Run};
pub use terms::{Action, Assignment, Evidence, Input, Limits, Moment, Phase, Signal};
pub use verdict::Exit;
use verdict::{Cause, Verdict, verdict};

/// `run.sh` counts as started after this long, whatever it prints.
pub const ALIVE_AFTER: Duration = Duration::from_secs(10);
/// Grace after the runtime ceiling, unless the configured one is shorter.
const CEILING_GRACE: Duration = Duration::from_secs(30);
/// Grace of a runner that got no job, unless the configured one is shorter.
const IDLE_GRACE: Duration = Duration::from_secs(20);
/// Beyond this wait the machine was a spare, and its boot says nothing about this job.
const COLD_START_WITHIN: Duration = Duration::from_secs(60);

/// The state machine.
#[derive(Debug, Clone)]
pub struct Agent {
    key: RunnerKey,
    limits: Limits,
    state: State,
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
        Self { key, limits, state: State::Standby }
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
            State::Preparing(claim) => Some(self.ceiling(claim)),
            State::Running(_, Run { stop: Some(stop), .. }) => (!stop.killed).then_some(stop.kill_at),
            State::Running(claim, run) => {
                let alive = (!run.started_reported).then_some(run.spawned.elapsed.saturating_add(ALIVE_AFTER));
                let pickup = self.pickup_due(claim, run).filter(|_| !run.asked_for_worker);
                [Some(self.ceiling(claim)), alive, pickup].into_iter().flatten().min()
            }
        }
    }

    /// Takes in what happened and answers what to do, in order.
    pub fn handle(&mut self, now: Moment, input: Input) -> Vec<Action> {
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
                self.state = State::Preparing(Claim::new(*assignment, now));
                vec![Action::Prepare]
            }
            Input::Unusable(Some(assignment), reason) => {
                self.failed(now, &Claim::new(*assignment, now), format!("config_invalid: {reason}"))
            }
            Input::Unusable(None, reason) => {
                let mut report = self.blank(AgentStatus::BootstrapFailed);
                report.error = Some(line(&format!("config_invalid: {reason}")));
                finish(Some(report), 0)
            }
            Input::Recovered(assignment, claimed_at, reason) => {
                let claim = Claim::new(*assignment, Moment { wall: claimed_at, ..now });
                self.failed(now, &claim, reason)
            }
            Input::NobodyCame => finish(None, 0),
            // A spare that is being stopped: ending its machine would destroy what the pool wants to keep.
            Input::Signal(_) => vec![Action::Finish { report: None, code: 0, spare_machine: true }],
            Input::Panicked(_) => finish(None, 1),
            _ => {
                self.state = State::Standby;
                Vec::new()
            }
        }
    }

    fn preparing(&mut self, now: Moment, mut claim: Claim, input: Input) -> Vec<Action> {
        match input {
            Input::Prepared { version, runner, register } => {
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
                return finish(Some(self.completion(now, &claim, Some(&run), verdict)), 0);
            }
            Input::Seen(evidence) => run.learn(evidence, now.elapsed),
            Input::Idle if run.stop.is_none() && run.received.is_none() => {
                let waited = self.pickup(&claim);
                run.stop(now, Cause::NoJob(waited), self.limits.grace.min(IDLE_GRACE), &mut actions);
            }
            Input::Signal(signal) => match &mut run.stop {
                None => run.stop(now, Cause::Signal(signal), self.limits.grace, &mut actions),
                Some(stop) => stop.kill(&mut actions),
            },
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
            None if now.elapsed >= self.ceiling(&claim) => {
                let cause = Cause::Ceiling(self.max_runtime(&claim));
                run.stop(now, cause, self.limits.grace.min(CEILING_GRACE), &mut actions);
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
        actions.extend(finish(Some(self.completion(now, claim, Some(run), verdict)), 0));
        actions
    }

    fn failed(&self, now: Moment, claim: &Claim, reason: String) -> Vec<Action> {
        finish(Some(self.completion(now, claim, None, Verdict::failure(reason))), 0)
    }

    fn ended_before_spawn(&self, now: Moment, claim: &Claim, cause: Cause) -> Vec<Action> {
        let verdict = verdict::before_spawn(cause);
        finish(Some(self.completion(now, claim, None, verdict)), 0)
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

fn finish(report: Option<AgentReport>, code: u8) -> Vec<Action> {
    vec![Action::Finish { report: report.map(Box::new), code, spare_machine: false }]
}

#[cfg(test)]
mod tests;
