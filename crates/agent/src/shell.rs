//! The shell around the state machine: gathers what happens, performs what is decided.
//!
//! One loop owns everything: signals, tasks, the state file. Tasks report back through one bounded channel. A panic
//! anywhere becomes an input, so that the job's outcome is still reported and nothing is left running.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use domain::clock::{Clock, Rng};
use domain::handover::HandOver as Document;
use domain::report::{AgentReport, AgentStatus};
use futures::FutureExt;
use provider::handover::HandOver;
use provider::processes::Members;
use serde_json::Value;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, Interval};
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::cgroup::Cgroup;
use crate::claim;
use crate::core::{Action, Agent, Evidence, Input, Moment, Signal};
use crate::environment::{Backend, Environment, Secrets};
use crate::firewall;
use crate::job::{self, Job, Launcher};
use crate::log::Log;
use crate::logs::{Bucket, Upload};
use crate::machine::Machine;
use crate::pod;
use crate::report::{Channel, Letter, Sender};
use crate::runner::{self, Ready};
use crate::standby::{self, Outcome, Until};
use crate::state::{self, Phase, Recovery, State, StateFile};
use crate::tools;
use crate::watch::{self, Metadata};

/// A completion waits this much longer when its `started` is still on its way.
const STARTED_GRACE: Duration = Duration::from_secs(5);
/// Limit of the clean-up behind the report.
const CLEAN_WITHIN: Duration = Duration::from_secs(30);
/// Limit of an end after a panic.
const PANIC_WITHIN: Duration = Duration::from_secs(60);
/// How long the wait for the hand-over may outlive its deadline: the last look at the store.
const LAST_LOOK: Duration = Duration::from_secs(30);

/// How long a machine that served a job in another life waits for somebody who counts on it.
const TAINTED_WAIT: Duration = Duration::from_secs(90);
/// How long a job waits for its account to be kept from the metadata.
const GUARD_WITHIN: Duration = Duration::from_secs(15);
/// How often the container engine's socket is looked for.
const DOCKER_LOOK: Duration = Duration::from_millis(50);
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
    /// Cancelled once the job's account is kept from the metadata, as far as that is possible.
    guarded: CancellationToken,
    /// Cancelled when a hand-over is claimed: what was only done to pass the time stops.
    claimed: CancellationToken,
    /// What stands behind everything else until the end.
    watches: JoinSet<()>,
    beat: Interval,
    /// The tools before the job.
    tools: Option<BTreeSet<String>>,
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
    Prepared(Result<(Ready, Option<BTreeSet<String>>), String>),
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
            guarded: CancellationToken::new(),
            claimed: CancellationToken::new(),
            watches: JoinSet::new(),
            beat,
            tools: None,
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
            Ok(Done::Prepared(Ok((ready, tools)))) => {
                self.unpacked = ready.unpacked;
                self.tools = tools;
                Some(Input::Prepared { version: ready.version, runner: ready.runner, register: ready.register })
            }
            Ok(Done::Prepared(Err(error))) => Some(Input::PrepareFailed(error)),
            Err(error) if error.is_panic() => Some(Input::Panicked(text_of(&*error.into_panic()))),
            Err(_) => None,
        }
    }

    /// What is done while there is nothing else to do: shutting the job's account out of the metadata, listening for
    /// reclaims, looking at space, loading the runner.
    fn get_ready(&mut self) {
        let environment = &self.parts.environment;
        let (log, clock) = (self.parts.log.clone(), Arc::clone(&self.parts.clock));
        let dirs = vec!["/".into(), environment.runner_dir.clone()];
        let meminfo = environment.proc_root.join("meminfo");
        let every = environment.safety_every;
        self.watches.spawn(watch::resources(dirs, meminfo, every, self.inputs.clone(), log.clone()));
        if let Some(metadata) = &self.parts.metadata {
            let every = environment.spot_every;
            self.watches.spawn(watch::spot(Arc::clone(metadata), every, clock, self.inputs.clone(), log.clone()));
        }
        let account = self.launcher.as_ref().ok().and_then(|launcher| launcher.account.as_ref());
        let (guarded, deny) = (self.guarded.clone(), environment.deny_metadata && self.parts.metadata.is_some());
        match account.map(|account| account.uid).filter(|uid| deny && *uid != 0) {
            None => guarded.cancel(),
            Some(uid) => drop(self.watches.spawn(async move {
                if let Err(error) = firewall::deny_metadata(uid).await {
                    log.warn("metadata_open", &[("error", Value::from(error))]);
                }
                guarded.cancel();
            })),
        }
        if let Ok(launcher) = &self.launcher
            && environment.backend == Backend::Ec2
        {
            let (dir, claimed) = (environment.runner_dir.clone(), self.claimed.clone());
            self.watches.spawn(runner::warm::up(dir, launcher.clone(), claimed));
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

    /// Waits for the hand-over for at most `within` of the agent's start.
    fn wait_for_hand_over(&mut self, within: Duration) {
        let (store, rng) = (Arc::clone(&self.parts.store), Arc::clone(&self.parts.rng));
        let (key, cadence) = (self.parts.environment.key.clone(), self.parts.environment.standby);
        let (consumed, log) = (self.state.consumed.clone(), self.parts.log.clone());
        let deadline = self.parts.started + within;
        let ring = Arc::new(Notify::new());
        if let Some(metadata) = &self.parts.metadata {
            let quiet = cadence.fast * cadence.fast_polls;
            self.watches.spawn(watch::assigned(Arc::clone(metadata), quiet, cadence.fast, Arc::clone(&ring)));
        }
        let clock = Arc::clone(&self.parts.clock);
        // Files of a local machine end with it.
        let outlives = matches!(self.parts.environment.secrets, Secrets::Parameters { .. });
        let boot = state::boot_time(&self.parts.environment.proc_root, clock.now());
        self.tasks.spawn(async move {
            let stale = |document: &Document, fingerprint: &str| {
                let reason = claim::stale(document, fingerprint, &key, &consumed);
                reason.or_else(|| if outlives { claim::outdated(document, clock.now(), boot) } else { None })
            };
            let wait = standby::wait(&*store, &key, &stale, cadence, Until { deadline, ring: &ring }, &*rng, &log);
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

    /// Ends what a dead predecessor left running and finds out whose job it was.
    async fn recover(&mut self, reason: &str) -> Option<Input> {
        self.parts.log.warn("recover", &[("reason", reason.into())]);
        self.kill().await;
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

    /// Sends the report that a predecessor decided, and ends what it began to end.
    async fn resume(&mut self, completion: &str) {
        self.parts.log.warn("resume", &[]);
        self.kill().await;
        let mut report = AgentReport::decode(completion).ok().map(|(report, _)| report);
        let stored = tokio::time::timeout(LAST_LOOK, self.parts.store.get(&self.parts.environment.key)).await;
        if let (Some(report), Ok(Ok(Some(document)))) = (&mut report, stored) {
            hide_secrets(&document, &self.parts.log);
            // The proof is in no state file; without it the report may still be believed.
            report.token = Some(document.telemetry_token).filter(|token| !token.is_empty());
        }
        self.finish(report, Duration::ZERO).await;
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
        let (launcher, guarded) = (self.launcher.clone(), self.guarded.clone());
        self.tasks.spawn(async move {
            let launcher = match launcher {
                Ok(launcher) => launcher,
                Err(reason) => return Done::Prepared(Err(format!("execution_failed: {reason}"))),
            };
            let root = environment.tool_cache.clone();
            let tools = tokio::task::spawn_blocking(move || tools::snapshot(&root));
            let (ready, tools, _, ()) = tokio::join!(
                runner::prepare(&environment, &document, &launcher, cancel, &log),
                tools,
                tokio::time::timeout(GUARD_WITHIN, guarded.cancelled()),
                docker(environment.docker_wait, &log),
            );
            let prepared = ready.map(|ready| (ready, tools.ok().flatten()));
            Done::Prepared(prepared.map_err(|error| error.to_string()))
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

    /// Ends everything that was started for the job, here or by a predecessor.
    async fn kill(&self) {
        let session = self.job.as_ref().map(|job| job.process).or(self.state.runner);
        let members = Members { session, marker: self.parts.environment.machine.clone() };
        let cgroup = cgroup_of(&self.parts.environment);
        job::end(cgroup.as_ref(), &members, &self.parts.log).await;
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
    async fn finish(&mut self, mut report: Option<AgentReport>, logs_within: Duration) {
        self.cancel.cancel();
        self.tasks.shutdown().await;
        self.watches.shutdown().await;
        let claimed = self.state.phase.is_some();
        let undecided = claimed && self.state.phase != Some(Phase::Finished);
        let (dir, log) = (self.parts.environment.runner_dir.clone(), self.parts.log.clone());
        if undecided {
            self.decide(report.as_ref());
        }
        self.kill().await;
        if let Some(report) = report.as_mut().filter(|_| undecided && self.job.is_some()) {
            self.look_back(report, logs_within).await;
            self.decide(Some(report));
        }
        if claimed {
            runner::wipe(&dir, &log);
        }
        if self.parts.environment.backend == Backend::Pod {
            self.exit_code = Some(pod::exit_code(report.as_ref()));
        }
        if self.send_last(report).await && claimed {
            self.reach(Phase::Finished);
        }
        if !self.spare_machine {
            self.end_machine().await;
        }
        // A pod's disk goes with it.
        if claimed && self.parts.environment.backend != Backend::Pod {
            let whole = self.unpacked;
            let cleaning = tokio::task::spawn_blocking(move || runner::clean(&dir, whole, &log));
            let _ = tokio::time::timeout(CLEAN_WITHIN, cleaning).await;
        }
    }

    /// Writes down what will be reported, so that a successor says the same.
    fn decide(&mut self, report: Option<&AgentReport>) {
        let without_proof = report.map(|report| {
            let error = report.error.as_deref().map(|error| self.parts.log.redacted(error));
            AgentReport { token: None, error, ..report.clone() }
        });
        self.state.completion = without_proof.map(|report| report.encode());
        self.reach(Phase::Finishing);
    }

    /// Adds what a run left to its report, and keeps its logs.
    async fn look_back(&self, report: &mut AgentReport, logs_within: Duration) {
        let (environment, log) = (&self.parts.environment, &self.parts.log);
        report.cache_interception = Some("disabled".to_owned());
        report.build_cache_interception = Some("disabled".to_owned());
        let root = environment.tool_cache.clone();
        let after = tokio::task::spawn_blocking(move || tools::snapshot(&root)).await.ok().flatten();
        if let (Some(before), Some(after)) = (&self.tools, &after) {
            report.tool_cache_misses = tools::added(before, after);
        }
        let (Some(document), Some(bucket)) = (&self.document, &self.parts.bucket) else { return };
        let account = self.launcher.as_ref().ok().and_then(|launcher| launcher.account.as_ref());
        let upload = Upload {
            bucket: Arc::clone(bucket),
            document,
            key: environment.key.as_str(),
            dir: &environment.runner_dir,
            owner: account.map(|account| account.uid),
            scratch: &environment.state_dir,
            ours: report.status != AgentStatus::Success,
        };
        let outcome = AssertUnwindSafe(upload.run(logs_within.min(environment.logs_within), log)).catch_unwind().await;
        report.log_upload = Some(outcome.map_or("failed", |outcome| outcome.as_str()).to_owned());
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

/// How programs of the runner are started on this machine. An agent that is root needs an account for them.
fn launcher(environment: &Environment, prefix: &[OsString], log: &Log) -> Result<Launcher, String> {
    let privileged = rustix::process::geteuid().is_root() && environment.backend == Backend::Ec2;
    let account = privileged.then(|| Account::find(environment.runner_user.as_deref(), Path::new("/etc")));
    let account =
        account.transpose().inspect_err(|error| log.error("no_account", &[("error", error.as_str().into())]))?;
    let mut cgroup = cgroup_of(environment);
    if let Some(Err(error)) = cgroup.as_ref().map(Cgroup::make) {
        log.warn("cgroup_unavailable", &[("error", Value::from(error.to_string()))]);
        cgroup = None;
    }
    Ok(Launcher {
        prefix: prefix.to_vec(),
        account,
        cgroup,
        machine: environment.machine.clone(),
        passthrough: environment.passthrough.clone(),
    })
}

/// The control group of the job on this machine, which is one of its own.
fn cgroup_of(environment: &Environment) -> Option<Cgroup> {
    let name = format!("job-{}", environment.key);
    (environment.backend == Backend::Ec2).then(|| Cgroup::below_ours(Path::new("/proc"), &name)).flatten()
}

/// Waits until the container engine answers its socket's name, for at most `within`.
async fn docker(within: Duration, log: &Log) {
    let deadline = Instant::now() + within;
    while !Path::new("/var/run/docker.sock").exists() {
        if Instant::now() >= deadline {
            if !within.is_zero() {
                log.warn("docker_missing", &[]);
            }
            return;
        }
        tokio::time::sleep(DOCKER_LOOK).await;
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
