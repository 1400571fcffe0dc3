//! The shell around the state machine: gathers what happens, performs what is decided.
//!
//! One loop owns everything: signals, tasks, the state file. Tasks report back through one bounded channel. A panic
//! anywhere becomes an input, so that the job's outcome is still reported and nothing is left running.
//!
//! `ready` — what it does without work. `recover` — a predecessor's work. `end` — the way out.

mod end;
mod ready;
mod recover;

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use domain::clock::{Clock, Rng};
use domain::handover::HandOver as Document;
use futures::FutureExt;
use provider::handover::HandOver;
use serde_json::Value;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, Interval};
use tokio_util::sync::CancellationToken;

use crate::claim;
use crate::core::{Action, Agent, Evidence, Input, Moment, Signal};
use crate::environment::{Backend, Environment};
use crate::intercept::Interception;
use crate::job::{Job, Launcher};
use crate::log::Log;
use crate::logs::Bucket;
use crate::machine::Machine;
use crate::pod;
use crate::report::{Channel, Letter, Sender};
use crate::runner::{self, Ready, Supply};
use crate::standby::Outcome;
use crate::state::{self, Phase, Recovery, State, StateFile};
use crate::tools;
use crate::watch::Metadata;

use ready::{docker, launcher, led};

/// Limit of an end after a panic.
const PANIC_WITHIN: Duration = Duration::from_secs(60);
/// How long the wait for the hand-over may outlive its deadline: the last look at the store.
const LAST_LOOK: Duration = Duration::from_secs(30);

/// How long a machine that served a job in another life waits for somebody who counts on it.
const TAINTED_WAIT: Duration = Duration::from_secs(90);
/// How long a job waits for its account to be kept from the metadata.
const GUARD_WITHIN: Duration = Duration::from_secs(15);
/// With this much time left a job's owner may read a warning.
const LITTLE_TIME: [Duration; 2] = [Duration::from_mins(10), Duration::from_mins(1)];

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
    /// Where logs are kept, if anywhere.
    pub bucket: Option<Arc<dyn Bucket>>,
    /// What the machine knows about itself, if it does.
    pub metadata: Option<Arc<dyn Metadata>>,
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
    /// How the runner's programs are started, or why they are not.
    launcher: Result<Launcher, String>,
    /// The runner, where it has to be fetched.
    supply: Supply,
    /// Cancelled once the job's account is kept from the metadata, as far as that is possible.
    guarded: CancellationToken,
    /// Cancelled when a hand-over is claimed: what was only done to pass the time stops.
    claimed: CancellationToken,
    /// What stands behind everything else until the end.
    watches: JoinSet<()>,
    beat: Interval,
    /// The tools before the job.
    tools: Option<BTreeSet<String>>,
    /// What leads the job to our cache, if that is what was meant and if it could be done.
    interception: Option<Result<Interception, ()>>,
    /// A job ran here in another life of the machine.
    tainted: bool,
    /// The last warning about the time that is left.
    warned_at: Option<Duration>,
    job: Option<Job>,
    unpacked: bool,
    /// Somebody else wants the machine.
    spare_machine: bool,
    /// What a pod's exit says.
    exit_code: Option<u8>,
    /// Whether the machine's end is arranged, once it was asked for.
    ended: Option<bool>,
}

/// What a task of the shell ends with.
enum Done {
    Standby(Outcome),
    Prepared(Result<Box<Prepared>, String>),
    /// It has told everything itself.
    Watched,
}

struct Prepared {
    ready: Ready,
    tools: Option<BTreeSet<String>>,
    interception: Option<Result<Interception, ()>>,
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
    let code = shell.exit_code.unwrap_or(if arranged { code } else { 1 });
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
        // A pod has one life.
        let file = (environment.backend != Backend::Pod).then(|| StateFile::open(&environment.state_dir)).transpose();
        let file = file.inspect_err(|error| {
            parts.log.warn("state_unavailable", &[("error", Value::from(error.to_string()))]);
        });
        let beat = tokio::time::interval(environment.safety_every);
        let uptime = state::uptime(&environment.proc_root);
        Ok(Self {
            core: Agent::new(environment.key.clone(), environment.limits).booted(uptime),
            launcher: launcher(environment, &parts.prefix, &parts.log),
            supply: Supply::default(),
            guarded: CancellationToken::new(),
            claimed: CancellationToken::new(),
            watches: JoinSet::new(),
            beat,
            tools: None,
            interception: None,
            tainted: false,
            warned_at: None,
            inputs,
            happened,
            tasks: JoinSet::new(),
            cancel: CancellationToken::new(),
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            reports,
            sending,
            file: file.ok().flatten(),
            state: State::default(),
            document: None,
            job: None,
            unpacked: false,
            spare_machine: false,
            exit_code: None,
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
                let booted = state::boot_time(&self.parts.environment.proc_root, self.parts.clock.now());
                state::recovery(&self.state, &boot_id, booted)
            }
            Err(_) => Recovery::Tainted,
        };
        self.state.boot_id = boot_id;
        let mut input = match found {
            Recovery::None => {
                self.state = State {
                    boot_id: std::mem::take(&mut self.state.boot_id),
                    consumed: std::mem::take(&mut self.state.consumed),
                    ..State::default()
                };
                self.get_ready();
                self.wait_for_hand_over(self.parts.environment.standby.deadline);
                None
            }
            Recovery::Tainted => {
                self.parts.log.warn("instance_tainted", &[]);
                self.tainted = true;
                self.state.phase = None;
                self.wait_for_hand_over(self.parts.environment.standby.deadline.min(TAINTED_WAIT));
                None
            }
            Recovery::Unreported(completion) => {
                self.resume(&completion).await;
                return 0;
            }
            Recovery::Done => {
                self.finish(None, Duration::ZERO).await;
                return 0;
            }
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
                _ = self.beat.tick() => self.live_on(),
                () = sleep_until(wake) => return Input::Tick,
            }
        }
    }

    /// Hands `input` to the state machine and performs its answer; the exit code when that was the end.
    async fn perform_all(&mut self, input: Input) -> Option<u8> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.log_input(&input);
            if self.parts.environment.backend == Backend::Pod
                && matches!(input, Input::Seen(Evidence::Listening | Evidence::JobReceived))
            {
                let _ = std::fs::write(pod::LISTENING, "");
            }
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
                    Action::Finish { report, code, logs_within, spare_machine } => {
                        self.spare_machine = spare_machine;
                        self.finish(report.map(|report| *report), logs_within).await;
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
            Ok(Done::Prepared(Ok(prepared))) => {
                let Prepared { ready, tools, interception } = *prepared;
                self.unpacked = ready.unpacked;
                self.tools = tools;
                self.interception = interception;
                Some(Input::Prepared { version: ready.version, runner: ready.runner, register: ready.register })
            }
            Ok(Done::Prepared(Err(error))) => Some(Input::PrepareFailed(error)),
            Err(error) if error.is_panic() => Some(Input::Panicked(text_of(&*error.into_panic()))),
            Err(_) => None,
        }
    }

    /// Says on disk that the agent lives, and in the log that the job has little time left.
    fn live_on(&mut self) {
        if self.state.phase == Some(Phase::Running) {
            self.save();
        }
        let left = self.core.time_left(self.parts.started.elapsed());
        for limit in LITTLE_TIME {
            if left.is_some_and(|left| left <= limit) && self.warned_at.is_none_or(|warned| warned > limit) {
                self.warned_at = Some(limit);
                self.parts.log.warn("runtime_warning", &[("minutes_left", (limit.as_secs() / 60).into())]);
            }
        }
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
        self.claim(&document);
        if self.tainted {
            let reason = "instance_tainted: an earlier job ran on this machine".to_owned();
            return Input::Recovered(assignment, self.parts.clock.now(), reason);
        }
        match claim::unusable(&document) {
            Some(reason) => Input::Unusable(assignment.job.map(|_| assignment), reason),
            None => {
                self.document = Some(document);
                Input::Found(assignment)
            }
        }
    }

    /// Writes the claim. From here on the hand-over is this machine's.
    fn claim(&mut self, document: &Document) {
        self.claimed.cancel();
        self.state.job_id.clone_from(&document.job_id);
        self.state.run_id.clone_from(&document.run_id);
        self.state.dispatch_id.clone_from(&document.dispatch_id);
        self.state.instance_id = self.parts.environment.key.to_string();
        self.state.claimed_at = Some(self.parts.clock.now());
        self.reach(Phase::Claimed);
    }

    /// Makes the runner ready, and waits for what has to be ready with it.
    fn prepare(&mut self) {
        let Some(document) = self.document.clone() else { return };
        let (environment, cancel, log) = (self.parts.environment.clone(), self.cancel.clone(), self.parts.log.clone());
        let (launcher, supply, guarded) = (self.launcher.clone(), self.supply.clone(), self.guarded.clone());
        let (prefix, now, rng) = (self.parts.prefix.clone(), self.parts.clock.now(), Arc::clone(&self.parts.rng));
        self.tasks.spawn(async move {
            let launcher = match launcher {
                Ok(launcher) => launcher,
                Err(reason) => return Done::Prepared(Err(format!("execution_failed: {reason}"))),
            };
            let root = environment.tool_cache.clone();
            let tools = tokio::task::spawn_blocking(move || tools::snapshot(&root));
            let (ready, tools, _, (), interception) = tokio::join!(
                runner::prepare(&environment, &document, &launcher, supply, cancel, &log),
                tools,
                tokio::time::timeout(GUARD_WITHIN, guarded.cancelled()),
                docker(environment.docker_wait, &log),
                Interception::begin(&environment, &document, &prefix, now, rng, &log),
            );
            let ready = match ready {
                Ok(ready) => ready,
                Err(error) => return Done::Prepared(Err(error.to_string())),
            };
            let interception = match interception {
                Some(begun) => Some(led(begun, &environment.runner_dir, &launcher, &log).await),
                None => None,
            };
            Done::Prepared(Ok(Box::new(Prepared { ready, tools: tools.ok().flatten(), interception })))
        });
    }

    fn spawn(&mut self) -> Result<(), String> {
        let environment = &self.parts.environment;
        if !environment.runner_dir.join("run.sh").is_file() {
            return Err("run.sh not found".to_owned());
        }
        self.state.phase = Some(Phase::Running);
        self.save();
        let launcher = self.launcher.as_ref().map_err(Clone::clone)?;
        let jit_config = self.document.as_ref().map_or("", |document| document.jit_config.expose());
        let now = self.parts.clock.now();
        let spawned_at = UNIX_EPOCH + Duration::from_millis(u64::try_from(now.as_millisecond()).unwrap_or(0));
        let spawned = Job::spawn(launcher, &self.parts.environment.runner_dir, jit_config, spawned_at);
        let (job, child) = spawned.map_err(|error| error.to_string())?;
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

    fn reach(&mut self, phase: Phase) {
        self.state.phase = Some(phase);
        self.save();
    }

    fn save(&mut self) {
        self.state.heartbeat_at = Some(self.parts.clock.now());
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
            Input::SpotNotice(_) | Input::Low(_) => {}
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
