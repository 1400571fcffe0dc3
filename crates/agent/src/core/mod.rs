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
//! deadline.

mod verdict;

use std::time::Duration;

use domain::clock::Timestamp;
use domain::handover::Credential;
use domain::ids::{DispatchId, JobId, RunnerKey};
use domain::report::{AgentReport, AgentStatus, Bootstrap};

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

/// When something happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Since the agent's start, on a clock that never steps.
    pub elapsed: Duration,
    /// Wall time, for reports.
    pub wall: Timestamp,
}

/// The limits of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// SIGTERM to SIGKILL.
    pub grace: Duration,
    /// Claim to stop.
    pub max_runtime: Duration,
    /// Listening without a job to stop; zero switches it off.
    pub pickup: Duration,
}

/// What of a hand-over matters here.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// The job it was minted for.
    pub job: Option<JobId>,
    /// Its workflow run.
    pub run: String,
    /// The assignment.
    pub dispatch: Option<DispatchId>,
    /// Proof that the hand-over was read here.
    pub token: Credential,
    /// Wins over [`Limits::max_runtime`].
    pub max_runtime: Option<Duration>,
    /// Wins over [`Limits::pickup`].
    pub idle_exit: Option<Duration>,
}

/// What the runner's output and diagnostics say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// The listener is connected.
    Listening,
    /// The runner got a job.
    JobReceived,
    /// The runner finished its job.
    JobCompleted,
    /// The listener gave up with this code.
    ListenerFailed(i32),
    /// The listener is being restarted.
    Retrying,
}

/// A signal that asks the agent to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A fresh hand-over was found.
    Found(Box<Assignment>),
    /// What was found can never be used; with the assignment if it could be read that far.
    Unusable(Option<Box<Assignment>>, String),
    /// No hand-over came before the standby deadline.
    NobodyCame,
    /// A previous agent on this machine claimed this assignment at that time and died.
    Recovered(Box<Assignment>, Timestamp, String),
    /// The runner is ready to be spawned.
    Prepared {
        /// Version of the runner, if known.
        version: Option<String>,
        /// Discovery or download took this long.
        runner: Duration,
        /// Registration files and environment took this long.
        register: Duration,
    },
    /// The runner cannot be made ready: `<kind>: <text>`.
    PrepareFailed(String),
    /// `run.sh` was spawned.
    Spawned,
    /// It could not be spawned.
    SpawnFailed(String),
    /// Something was learnt about the runner.
    Seen(Evidence),
    /// Nothing contradicts that the runner is idle; the answer to [`Action::LookForWorker`].
    Idle,
    /// `run.sh` ended and its output is read; during a stop, its listener and workers ended as well.
    Exited(Exit),
    /// The agent was signalled.
    Signal(Signal),
    /// A part of the agent panicked.
    Panicked(String),
    /// A deadline may have passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Record the claim durably, then make the runner ready.
    Prepare,
    /// Spawn `run.sh`.
    Spawn,
    /// Send this report in the background.
    Report(Box<AgentReport>),
    /// Look for a worker process or log: answer [`Evidence::JobReceived`] or [`Input::Idle`].
    LookForWorker,
    /// SIGTERM to the process group of `run.sh`.
    Terminate,
    /// SIGKILL to everything the runner started.
    Kill,
    /// End: leave no process and no credential, send the report, clean up, exit with the code. The last action.
    Finish {
        /// The completion.
        report: Option<Box<AgentReport>>,
        /// Exit code of the agent.
        code: u8,
    },
}

/// Where the agent stands, in a word for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for a hand-over.
    Standby,
    /// Making the runner ready.
    Preparing,
    /// `run.sh` runs.
    Running,
    /// It was asked to stop.
    Stopping,
    /// Nothing further will be decided.
    Over,
}

impl Phase {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Over => "over",
        }
    }
}

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

#[derive(Debug, Clone)]
struct Claim {
    assignment: Assignment,
    at: Moment,
    bootstrap: Bootstrap,
    version: Option<String>,
}

/// What is known of a runner that was spawned.
#[derive(Debug, Clone)]
struct Run {
    spawned: Moment,
    started_reported: bool,
    listening: Option<Duration>,
    received: Option<Duration>,
    completed: bool,
    retrying: bool,
    listener_failure: Option<i32>,
    asked_for_worker: bool,
    stop: Option<Stop>,
}

#[derive(Debug, Clone)]
struct Stop {
    cause: Cause,
    kill_at: Duration,
    killed: bool,
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
            Input::NobodyCame | Input::Signal(_) => finish(None, 0),
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

    /// A report with the identity of this machine and nothing else.
    fn blank(&self, status: AgentStatus) -> AgentReport {
        let mut report = AgentReport::new(self.key.clone(), status);
        report.agent_version = Some(env!("CARGO_PKG_VERSION").to_owned());
        report
    }

    fn report(&self, status: AgentStatus, claim: &Claim, run: Option<&Run>) -> AgentReport {
        let mut report = self.blank(status);
        let after_claim = |at: Duration| at.saturating_sub(claim.at.elapsed).as_secs_f64();
        report.job_id = claim.assignment.job;
        report.run_id = Some(claim.assignment.run.clone()).filter(|run| !run.is_empty());
        report.dispatch_id = claim.assignment.dispatch.clone();
        report.runner_version = claim.version.clone();
        report.token = Some(claim.assignment.token.clone()).filter(|token| !token.is_empty());
        report.runner_listening_seconds = run.and_then(|run| run.listening).map(after_claim);
        report.job_pickup_seconds = run.and_then(|run| run.received).map(after_claim);
        report
    }

    fn started(&self, now: Moment, claim: &Claim, run: &Run) -> AgentReport {
        let mut report = self.report(AgentStatus::Started, claim, Some(run));
        report.started_at = Some(now.wall);
        report.job_pickup_seconds = None;
        report.bootstrap = claim.bootstrap;
        report
    }

    fn completion(&self, now: Moment, claim: &Claim, run: Option<&Run>, verdict: Verdict) -> AgentReport {
        let mut report = self.report(verdict.status, claim, run);
        report.exit_code = verdict.exit_code.into();
        report.error = verdict.error.as_deref().map(line);
        report.interrupted_by = verdict.interrupted_by.map(str::to_owned);
        report.started_at = Some(run.map_or(claim.at.wall, |run| run.spawned.wall));
        report.completed_at = Some(now.wall);
        if let Some(run) = run {
            report.duration_seconds = now.elapsed.saturating_sub(run.spawned.elapsed).as_secs();
            // A listener that came up and got nothing is known to be idle; a silent one is not known to be anything.
            report.job_received = match (run.received, run.listening) {
                (Some(_), _) => Some(true),
                (None, Some(_)) => Some(false),
                (None, None) => None,
            };
        }
        report
    }
}

impl Claim {
    fn new(assignment: Assignment, at: Moment) -> Self {
        let config = (at.elapsed <= COLD_START_WITHIN).then_some(at.elapsed.as_secs_f64());
        Self { assignment, at, bootstrap: Bootstrap { config, ..Bootstrap::default() }, version: None }
    }
}

impl Run {
    fn new(spawned: Moment) -> Self {
        Self {
            spawned,
            started_reported: false,
            listening: None,
            received: None,
            completed: false,
            retrying: false,
            listener_failure: None,
            asked_for_worker: false,
            stop: None,
        }
    }

    fn learn(&mut self, evidence: Evidence, at: Duration) {
        match evidence {
            Evidence::Listening => self.listening = self.listening.or(Some(at)),
            Evidence::JobReceived => self.received = self.received.or(Some(at)),
            Evidence::JobCompleted => {
                self.received = self.received.or(Some(at));
                self.completed = true;
            }
            Evidence::ListenerFailed(code) => self.listener_failure = Some(code),
            Evidence::Retrying => self.retrying = true,
        }
    }

    fn stop(&mut self, now: Moment, cause: Cause, grace: Duration, actions: &mut Vec<Action>) {
        self.stop = Some(Stop { cause, kill_at: now.elapsed.saturating_add(grace), killed: false });
        actions.push(Action::Terminate);
    }

    fn facts(&self) -> verdict::Facts {
        verdict::Facts {
            received: self.received.is_some(),
            completed: self.completed,
            listener_failure: self.listener_failure,
            stop: self.stop.as_ref().map(|stop| (stop.cause, stop.killed)),
        }
    }
}

impl Stop {
    fn kill(&mut self, actions: &mut Vec<Action>) {
        if !self.killed {
            self.killed = true;
            actions.push(Action::Kill);
        }
    }
}

fn finish(report: Option<AgentReport>, code: u8) -> Vec<Action> {
    vec![Action::Finish { report: report.map(Box::new), code }]
}

/// One printable line of at most 1,024 bytes.
fn line(text: &str) -> String {
    let mut line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.floor_char_boundary(1024));
    line
}

#[cfg(test)]
mod tests;
