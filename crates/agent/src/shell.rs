//! The shell around the state machine: gathers what happens, performs what is decided.
//!
//! One loop owns everything: signals, tasks, the state file. Tasks report back through one bounded channel. A panic
//! anywhere becomes an input, so that the job's outcome is still reported and nothing is left running.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use domain::clock::{Clock, Rng};
use domain::handover::HandOver as Document;
use domain::report::AgentReport;
use futures::FutureExt;
use provider::handover::HandOver;
use provider::processes::Members;
use serde_json::Value;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::claim;
use crate::core::{Action, Agent, Evidence, Input, Moment, Signal};
use crate::environment::{Environment, Secrets};
use crate::job::{self, Job, Launch};
use crate::log::Log;
use crate::machine::Machine;
use crate::report::{Channel, Letter, Sender};
use crate::runner::{self, Ready};
use crate::standby::{self, Outcome};
use crate::state::{self, Phase, Recovery, State, StateFile};

/// A completion waits this much longer when its `started` is still on its way.
const STARTED_GRACE: Duration = Duration::from_secs(5);
/// Limit of the clean-up behind the report.
const CLEAN_WITHIN: Duration = Duration::from_secs(30);
/// Limit of an end after a panic.
const PANIC_WITHIN: Duration = Duration::from_secs(60);
/// How long the wait for the hand-over may outlive its deadline: the last look at the store.
const LAST_LOOK: Duration = Duration::from_secs(30);

/// What the agent is made of.
pub struct Parts {
    /// Settings.
    pub environment: Environment,
    /// Where hand-overs are.
    pub store: Arc<dyn HandOver>,
    /// Where reports go.
    pub channel: Arc<dyn Channel>,
    /// What ends with the agent.
    pub machine: Arc<dyn Machine>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: Arc<dyn Rng>,
    /// The log.
    pub log: Log,
    /// Arguments that lead from the executable to the agent, for starting itself again.
    pub prefix: Vec<OsString>,
    /// When the agent started.
    pub started: Instant,
}

struct Shell {
    parts: Parts,
    core: Agent,
    inputs: mpsc::Sender<Input>,
    happened: mpsc::Receiver<Input>,
    tasks: JoinSet<Done>,
    cancel: CancellationToken,
    term: Signals,
    int: Signals,
    reports: mpsc::Sender<Letter>,
    sending: JoinSet<bool>,
    file: Option<StateFile>,
    state: State,
    document: Option<Box<Document>>,
    job: Option<Job>,
    unpacked: bool,
    /// Somebody else wants the machine.
    spare_machine: bool,
    /// Whether the machine's end is arranged, once it was asked for.
    ended: Option<bool>,
}

/// What a task of the shell ends with.
enum Done {
    Standby(Outcome),
    Prepared(Result<Ready, runner::Error>),
    /// It has told everything itself.
    Watched,
}

/// Runs the agent to its end and answers its exit code. Unless somebody else wants it, the machine is ended by then,
/// whatever else went wrong; the code is 1 when it would not.
///
/// # Errors
/// When signals cannot be handled.
pub async fn run(parts: Parts) -> std::io::Result<u8> {
    let mut shell = Shell::new(parts)?;
    let code = match AssertUnwindSafe(shell.live()).catch_unwind().await {
        Ok(code) => code,
        Err(panic) => {
            let input = Input::Panicked(text_of(panic.as_ref()));
            let end = AssertUnwindSafe(shell.perform_all(input)).catch_unwind();
            match tokio::time::timeout(PANIC_WITHIN, end).await {
                Ok(Ok(Some(code))) => code,
                _ => 1,
            }
        }
    };
    let arranged = shell.spare_machine || shell.end_machine().await;
    let code = if arranged { code } else { 1 };
    shell.parts.log.info("agent_exit", &[("code", code.into())]);
    Ok(code)
}

impl Shell {
    fn new(parts: Parts) -> std::io::Result<Self> {
        let environment = &parts.environment;
        let (inputs, happened) = mpsc::channel(64);
        let (reports, to_send) = mpsc::channel(4);
        let sender = Sender {
            channel: Arc::clone(&parts.channel),
            retry_base: environment.retry_base,
            clock: Arc::clone(&parts.clock),
            log: parts.log.clone(),
        };
        let mut sending = JoinSet::new();
        sending.spawn(sender.run(to_send));
        let file = StateFile::open(&environment.state_dir);
        let file = file.inspect_err(|error| {
            parts.log.warn("state_unavailable", &[("error", Value::from(error.to_string()))]);
        });
        Ok(Self {
            core: Agent::new(environment.key.clone(), environment.limits),
            inputs,
            happened,
            tasks: JoinSet::new(),
            cancel: CancellationToken::new(),
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            reports,
            sending,
            file: file.ok(),
            state: State::default(),
            document: None,
            job: None,
            unpacked: false,
            spare_machine: false,
            ended: None,
            parts,
        })
    }

    async fn live(&mut self) -> u8 {
        self.parts.log.info("agent_start", &[("version", env!("CARGO_PKG_VERSION").into())]);
        let boot_id = state::boot_id(&self.parts.environment.proc_root);
        let read = self.file.as_ref().map(StateFile::read).transpose();
        let found = match read {
            Ok(state) => {
                self.state = state.unwrap_or_default();
                state::recovery(&self.state, &boot_id)
            }
            Err(_) => Recovery::Died("agent_restarted: the state file cannot be read"),
        };
        self.state.boot_id = boot_id;
        let mut input = match found {
            Recovery::None => {
                self.wait_for_hand_over();
                None
            }
            Recovery::Done => return 0,
            Recovery::Died(reason) => match self.recover(reason).await {
                Some(input) => Some(input),
                // Whose job it was cannot be told any more; the end of the machine tells the rest.
                None => return 0,
            },
        };
        loop {
            let next = match input.take() {
                Some(input) => input,
                None => self.next().await,
            };
            if let Some(code) = self.perform_all(next).await {
                return code;
            }
        }
    }

    /// The next thing that happens. Signals first: one that races a hand-over wins.
    async fn next(&mut self) -> Input {
        loop {
            let wake = self.core.next_wake().map(|at| self.parts.started + at);
            tokio::select! {
                biased;
                Some(()) = self.term.recv() => return Input::Signal(Signal::Terminate),
                Some(()) = self.int.recv() => return Input::Signal(Signal::Interrupt),
                Some(input) = self.happened.recv() => return input,
                Some(ended) = self.tasks.join_next() => if let Some(input) = self.ended(ended) {
                    return input;
                },
                () = sleep_until(wake) => return Input::Tick,
            }
        }
    }

    /// Hands `input` to the state machine and performs its answer; the exit code when that was the end.
    async fn perform_all(&mut self, input: Input) -> Option<u8> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.log_input(&input);
            let moment = Moment { elapsed: self.parts.started.elapsed(), wall: self.parts.clock.now() };
            let actions = self.core.handle(moment, input);
            self.parts.log.context("phase", self.core.phase().as_str());
            for action in actions {
                match action {
                    Action::Prepare => self.prepare(),
                    Action::Spawn => inputs.push_back(match self.spawn() {
                        Ok(()) => Input::Spawned,
                        Err(error) => Input::SpawnFailed(error),
                    }),
                    Action::Report(report) => drop(self.reports.try_send(self.letter(*report))),
                    Action::LookForWorker => {
                        let found = self.job.as_ref().is_some_and(Job::has_worker);
                        let evidence = Input::Seen(Evidence::JobReceived);
                        inputs.push_back(if found { evidence } else { Input::Idle });
                    }
                    Action::Terminate => {
                        self.parts.log.info("stop_requested", &[]);
                        if let Some(job) = &self.job {
                            job.terminate();
                        }
                    }
                    Action::Kill => self.kill().await,
                    Action::Finish { report, code, spare_machine } => {
                        self.spare_machine = spare_machine;
                        self.finish(report.map(|report| *report)).await;
                        return Some(code);
                    }
                }
            }
        }
        None
    }

    /// What the end of a task means.
    fn ended(&mut self, ended: Result<Done, JoinError>) -> Option<Input> {
        match ended {
            Ok(Done::Watched) => None,
            Ok(Done::Standby(outcome)) => Some(self.stood_by(outcome)),
            Ok(Done::Prepared(Ok(ready))) => {
                self.unpacked = ready.unpacked;
                let version = self.parts.environment.runner_version.clone();
                Some(Input::Prepared { version, runner: ready.runner, register: ready.register })
            }
            Ok(Done::Prepared(Err(error))) => Some(Input::PrepareFailed(error.to_string())),
            Err(error) if error.is_panic() => Some(Input::Panicked(text_of(&*error.into_panic()))),
            Err(_) => None,
        }
    }

    fn wait_for_hand_over(&mut self) {
        let (store, rng) = (Arc::clone(&self.parts.store), Arc::clone(&self.parts.rng));
        let (key, cadence) = (self.parts.environment.key.clone(), self.parts.environment.standby);
        let (consumed, log) = (self.state.consumed.clone(), self.parts.log.clone());
        let deadline = self.parts.started + cadence.deadline;
        let clock = Arc::clone(&self.parts.clock);
        // Files of a local machine end with it.
        let outlives = matches!(self.parts.environment.secrets, Secrets::Parameters { .. });
        let boot = state::boot_time(&self.parts.environment.proc_root, clock.now());
        self.tasks.spawn(async move {
            let stale = |document: &Document, fingerprint: &str| {
                let reason = claim::stale(document, fingerprint, &key, &consumed);
                reason.or_else(|| if outlives { claim::outdated(document, clock.now(), boot) } else { None })
            };
            let wait = standby::wait(&*store, &key, &stale, cadence, deadline, &*rng, &log);
            let outcome = tokio::time::timeout_at(deadline + LAST_LOOK, wait).await;
            Done::Standby(outcome.unwrap_or(Outcome::NobodyCame))
        });
    }

    fn stood_by(&mut self, outcome: Outcome) -> Input {
        let (document, fingerprint) = match outcome {
            Outcome::NobodyCame => return Input::NobodyCame,
            Outcome::Unreadable(reason) => return Input::Unusable(None, reason),
            // A report without a job: should there be one for this machine, it need not wait for the watchdog.
            Outcome::Denied(reason) => {
                return Input::Unusable(None, format!("it could not be read before the deadline: {reason}"));
            }
            Outcome::Found(document, fingerprint) => (document, fingerprint),
        };
        hide_secrets(&document, &self.parts.log);
        self.parts.log.context("job_id", document.job_id.as_str());
        self.parts.log.context("run_id", document.run_id.as_str());
        self.state.queue_url.clone_from(&document.termination_queue_url);
        let assignment = Box::new(claim::assignment(&document));
        self.state.consumed.push(fingerprint);
        match claim::unusable(&document) {
            Some(reason) => Input::Unusable(assignment.job.map(|_| assignment), reason),
            None => {
                self.document = Some(document);
                Input::Found(assignment)
            }
        }
    }

    /// Ends what a dead predecessor left running and finds out whose job it was.
    async fn recover(&mut self, reason: &str) -> Option<Input> {
        self.parts.log.warn("recover", &[("reason", reason.into())]);
        let machine = self.parts.environment.machine.clone();
        job::end(&Members { session: self.state.runner, marker: machine }, &self.parts.log).await;
        let document = self.parts.store.get(&self.parts.environment.key).await.ok().flatten();
        let mut known = match document {
            // The token is in no state file; without it the report may still be believed.
            Some(document) => {
                hide_secrets(&document, &self.parts.log);
                if self.state.queue_url.is_empty() {
                    self.state.queue_url.clone_from(&document.termination_queue_url);
                }
                claim::assignment(&document)
            }
            None => claim::assignment(&Document::default()),
        };
        if !self.state.job_id.is_empty() {
            known.job = self.state.job_id.parse().ok();
            known.run.clone_from(&self.state.run_id);
            known.dispatch = Some(self.state.dispatch_id.as_str()).filter(|id| !id.is_empty()).map(Into::into);
        }
        known.job?;
        let claimed_at = self.state.claimed_at.unwrap_or_else(|| self.parts.clock.now());
        Some(Input::Recovered(Box::new(known), claimed_at, reason.to_owned()))
    }

    /// Writes the claim, then makes the runner ready.
    fn prepare(&mut self) {
        let Some(document) = self.document.clone() else { return };
        self.state.job_id.clone_from(&document.job_id);
        self.state.run_id.clone_from(&document.run_id);
        self.state.dispatch_id.clone_from(&document.dispatch_id);
        self.state.instance_id = self.parts.environment.key.to_string();
        self.state.claimed_at = Some(self.parts.clock.now());
        self.reach(Phase::Claimed);
        let (environment, cancel, log) = (self.parts.environment.clone(), self.cancel.clone(), self.parts.log.clone());
        self.tasks.spawn(async move { Done::Prepared(runner::prepare(&environment, &document, cancel, &log).await) });
    }

    fn spawn(&mut self) -> Result<(), String> {
        let environment = &self.parts.environment;
        if !environment.runner_dir.join("run.sh").is_file() {
            return Err("run.sh not found".to_owned());
        }
        self.state.phase = Some(Phase::Running);
        self.save();
        let environment = &self.parts.environment;
        let jit_config = self.document.as_ref().map_or("", |document| document.jit_config.expose());
        let machine = environment.machine.clone();
        let env = job::environment(std::env::vars_os(), &environment.passthrough, machine.as_deref(), jit_config);
        let launch = Launch { prefix: &self.parts.prefix, dir: &environment.runner_dir, env, machine };
        let now = self.parts.clock.now();
        let since_epoch = Duration::from_millis(u64::try_from(now.as_millisecond()).unwrap_or(0));
        let (job, child) = Job::spawn(launch, UNIX_EPOCH + since_epoch).map_err(|error| error.to_string())?;
        let watch = job.watch(child, self.inputs.clone(), self.parts.log.clone());
        self.tasks.spawn(async move {
            watch.await;
            Done::Watched
        });
        self.state.runner = Some(job.process);
        self.state.run_started_at_ms = Some(now.as_millisecond());
        self.job = Some(job);
        self.save();
        Ok(())
    }

    async fn kill(&self) {
        if let Some(job) = &self.job {
            job::end(&job.members(), &self.parts.log).await;
        }
    }

    /// The hand-over knows best where reports go.
    fn letter(&self, report: AgentReport) -> Letter {
        let named = Some(&self.state.queue_url).filter(|url| !url.is_empty());
        Letter { report, queue_url: named.or(self.parts.environment.queue_url.as_ref()).cloned() }
    }

    /// Asks for the machine's end, once.
    async fn end_machine(&mut self) -> bool {
        if let Some(arranged) = self.ended {
            return arranged;
        }
        let arranged = self.parts.machine.end(&self.parts.log).await;
        self.ended = Some(arranged);
        arranged
    }

    /// Leaves no process and no credential, reports, ends the machine. What the job left on the disk goes while the
    /// operating system shuts down.
    async fn finish(&mut self, report: Option<AgentReport>) {
        self.cancel.cancel();
        self.tasks.shutdown().await;
        self.kill().await;
        let claimed = self.state.phase.is_some();
        let (dir, log) = (self.parts.environment.runner_dir.clone(), self.parts.log.clone());
        if claimed {
            self.reach(Phase::Finishing);
            runner::wipe(&dir, &log);
        }
        if self.send_last(report).await && claimed {
            self.reach(Phase::Finished);
        }
        if !self.spare_machine {
            self.end_machine().await;
        }
        if claimed {
            let whole = self.unpacked;
            let cleaning = tokio::task::spawn_blocking(move || runner::clean(&dir, whole, &log));
            let _ = tokio::time::timeout(CLEAN_WITHIN, cleaning).await;
        }
    }

    /// Sends the completion behind everything that is still to be sent; whether it was accepted.
    async fn send_last(&mut self, report: Option<AgentReport>) -> bool {
        let Some(report) = report else { return true };
        let letter = self.letter(report);
        let limit = self.parts.environment.report_timeout + STARTED_GRACE;
        let sent = tokio::time::timeout(limit, async {
            // The sender ends when the only way to it is gone.
            let (closed, _) = mpsc::channel(1);
            let reports = std::mem::replace(&mut self.reports, closed);
            let _ = reports.send(letter).await;
            drop(reports);
            self.sending.join_next().await
        });
        matches!(sent.await, Ok(Some(Ok(true))))
    }

    fn reach(&mut self, phase: Phase) {
        self.state.phase = Some(phase);
        self.save();
    }

    fn save(&self) {
        let Some(file) = &self.file else { return };
        if let Err(error) = file.write(&self.state) {
            self.parts.log.warn("state_unavailable", &[("error", Value::from(error.to_string()))]);
        }
    }

    fn log_input(&self, input: &Input) {
        let log = &self.parts.log;
        match input {
            Input::Found(_) => log.info("config_found", &[]),
            Input::Unusable(_, reason) => log.error("config_invalid", &[("error", reason.as_str().into())]),
            Input::NobodyCame => log.info("standby_over", &[]),
            Input::Recovered(_, _, reason) => log.warn("recovered", &[("error", reason.as_str().into())]),
            Input::PrepareFailed(error) => log.error("prepare_failed", &[("error", error.as_str().into())]),
            Input::Spawned => log.info("runner_spawned", &[]),
            Input::SpawnFailed(error) => log.error("spawn_failed", &[("error", error.as_str().into())]),
            Input::Seen(Evidence::Listening) => log.info("runner_listening", &[]),
            Input::Seen(Evidence::JobReceived) => log.info("job_received", &[]),
            Input::Exited(exit) => log.info("runner_exit", &[("exit", format!("{exit:?}").into())]),
            Input::Signal(signal) => log.info("signal", &[("signal", format!("{signal:?}").into())]),
            Input::Panicked(text) => log.error("panic", &[("error", text.as_str().into())]),
            Input::Prepared { .. } | Input::Seen(_) | Input::Idle | Input::Tick => {}
        }
    }
}

fn hide_secrets(document: &Document, log: &Log) {
    for secret in [&document.jit_config, &document.jit_token, &document.cache_token, &document.telemetry_token] {
        log.hide(secret.expose());
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests;
