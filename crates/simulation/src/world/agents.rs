//! Agents on the instances of a world.
//!
//! What an agent decides is the real agent's state machine, [`agent::core`]; here is its shell without a machine: a
//! hand-over is awaited, a runner is a connected [`Listener`], reports go to the queue, and the instance ends.
//!
//! An agent's process may crash and is started again; its instance may vanish at any moment, and with it everything
//! that lives on it: its task is aborted, and GitHub hears nothing any more.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::claim;
use agent::core::{Action, Agent, Assignment, Evidence, Exit, Input, Limits, Moment};
use domain::clock::{Clock, Rng, Timestamp};
use domain::gh::Conclusion;
use domain::handover::HandOver as Document;
use domain::ids::{JobId, RunnerKey};
use domain::report::{AgentReport, AgentStatus};
use fleet::ec2::Instance;
use queue::{Message as Letter, Queue};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::happening::{Happening, Scene};
use super::ports::hand_over::HandOvers;
use super::replica::lock;
use crate::cloud::{Cloud, Guests};
use crate::github::line::{GitHub, Listener};
use crate::github::model::Message;

/// How healthy agents are, as chances for each of them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Nature {
    /// The machine never becomes a runner, and says so.
    pub bootstrap_fails: f64,
    /// The listener never connects.
    pub never_connects: f64,
    /// The agent's process dies within its first minutes, and is started again.
    pub crashes: f64,
    /// The machine dies within its first minutes.
    pub machine_crashes: f64,
    /// A report is lost.
    pub reports_lost: f64,
    /// A report is up to a minute late.
    pub reports_late: f64,
    /// A report is sent twice.
    pub reports_doubled: f64,
    /// The agent is done, and cannot end its machine.
    pub stays: f64,
}

impl Nature {
    /// A bad hour.
    pub const fn troubled() -> Self {
        Self {
            bootstrap_fails: 0.02,
            never_connects: 0.01,
            crashes: 0.03,
            machine_crashes: 0.03,
            reports_lost: 0.04,
            reports_late: 0.1,
            reports_doubled: 0.05,
            stays: 0.03,
        }
    }
}

/// How long an agent waits for its hand-over on a machine that was launched for a job,
const STANDBY: Duration = Duration::from_secs(600);
/// and on a spare.
const SPARE_STANDBY: Duration = Duration::from_secs(120 * 60);
/// How often it looks, at most.
const LOOKS: Duration = Duration::from_millis(1500);
/// How often it looks while an outdated hand-over is there.
const SLOW_LOOKS: Duration = Duration::from_secs(5);
/// Within which crashes happen.
const EARLY: Duration = Duration::from_secs(400);
/// How long the service manager waits before it starts a crashed agent again.
const RESTART: Duration = Duration::from_secs(5);

/// Every agent of a world.
pub struct Agents {
    github: Arc<GitHub>,
    documents: Arc<HandOvers>,
    reports: Arc<dyn Queue>,
    cloud: Arc<Cloud>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    scene: Scene,
    nature: Mutex<Nature>,
    living: Mutex<BTreeMap<String, AbortHandle>>,
    tasks: Mutex<JoinSet<()>>,
    this: std::sync::Weak<Self>,
}

impl Agents {
    /// Agents that serve whoever boots in `cloud`, which has to be told of them.
    #[allow(clippy::too_many_arguments, reason = "the parts of a world, named once")]
    pub fn new(
        github: Arc<GitHub>,
        documents: Arc<HandOvers>,
        reports: Arc<dyn Queue>,
        cloud: Arc<Cloud>,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        scene: Scene,
        nature: Nature,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            github,
            documents,
            reports,
            cloud,
            clock,
            rng,
            scene,
            nature: Mutex::new(nature),
            living: Mutex::default(),
            tasks: Mutex::default(),
            this: this.clone(),
        })
    }

    /// Agents are so from now on.
    pub fn change(&self, change: impl FnOnce(&mut Nature)) {
        change(&mut lock(&self.nature));
    }

    /// How many live.
    pub fn busy(&self) -> usize {
        lock(&self.living).len()
    }

    fn nature(&self) -> Nature {
        *lock(&self.nature)
    }

    fn happens(&self, odds: f64) -> bool {
        odds > 0.0 && self.rng.unit() < odds
    }

    fn between(&self, least: f64, most: f64) -> Duration {
        Duration::from_secs_f64(least + (most - least) * self.rng.unit())
    }

    /// Sends a report as the agent does: until the queue has it, within reason.
    async fn report(&self, report: AgentReport) {
        let nature = self.nature();
        let lost = self.happens(nature.reports_lost);
        self.scene.happened(&Happening::Reported { report: &report, lost });
        if lost {
            return;
        }
        if self.happens(nature.reports_late) {
            sleep(self.between(1.0, 60.0)).await;
        }
        let letter = Letter {
            body: report.encode(),
            group: report.group().to_owned(),
            dedup: report.dedup_id(),
            ..Letter::default()
        };
        if self.happens(nature.reports_doubled) {
            let again = Letter { dedup: self.rng.token(), ..letter.clone() };
            let _ = self.reports.send(again).await;
        }
        let _ = self.reports.send(letter).await;
    }
}

impl Guests for Agents {
    fn booted(&self, instance: &Instance) {
        let Some(this) = self.this.upgrade() else { return };
        let key = RunnerKey::new(&instance.id);
        self.scene.happened(&Happening::Booted { machine: &key });
        let spare =
            instance.tags.contains_key(provider::tags::POOL) && !instance.tags.contains_key(provider::tags::LAUNCH_ID);
        let patience = if spare { SPARE_STANDBY } else { STANDBY };
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        let living = tasks.spawn(async move { this.live(key, patience).await });
        lock(&self.living).insert(instance.id.clone(), living);
    }

    fn stopped(&self, instance: &Instance) {
        let key = RunnerKey::new(&instance.id);
        self.scene.happened(&Happening::Stopped { machine: &key });
        if let Some(living) = lock(&self.living).remove(&instance.id) {
            living.abort();
        }
        self.documents.forget(&key);
    }

    fn ended(&self, instance: &Instance, _why: &'static str) {
        if let Some(living) = lock(&self.living).remove(&instance.id) {
            living.abort();
        }
        self.documents.forget(&RunnerKey::new(&instance.id));
    }
}

/// A boot of a machine.
#[derive(Clone, Copy)]
struct Boot {
    at: Instant,
    /// How long its agent waits for a hand-over.
    patience: Duration,
}

/// What an agent's state file says after a crash.
type Claimed = Option<(Assignment, Timestamp)>;

impl Agents {
    /// The agent of an instance, crashes and all, until the instance ends.
    async fn live(self: Arc<Self>, key: RunnerKey, patience: Duration) {
        let nature = self.nature();
        if self.happens(nature.bootstrap_fails) {
            self.report(AgentReport::new(key.clone(), AgentStatus::BootstrapFailed)).await;
            return self.cloud.end(key.as_str(), "agent");
        }
        let boot = Boot { at: Instant::now(), patience };
        if self.happens(nature.machine_crashes) {
            let _ = timeout(EARLY.mul_f64(self.rng.unit()), self.serve(&key, None, &mut None, boot)).await;
            return self.cloud.end(key.as_str(), "crashed");
        }
        let mut claimed: Claimed = None;
        let first = self.serve(&key, None, &mut claimed, boot);
        let ended = if self.happens(nature.crashes) {
            timeout(EARLY.mul_f64(self.rng.unit()), first).await.is_ok()
        } else {
            first.await;
            true
        };
        if !ended {
            sleep(RESTART).await;
            self.serve(&key, claimed, &mut None, boot).await;
        }
        if self.happens(nature.stays) {
            // Somebody else has to.
            return std::future::pending().await;
        }
        self.cloud.end(key.as_str(), "agent");
    }

    /// One life of the agent's process, until it has nothing left to do but to end its instance.
    async fn serve(&self, key: &RunnerKey, before: Claimed, claimed: &mut Claimed, boot: Boot) {
        let limits = Limits {
            grace: Duration::from_secs(30),
            max_runtime: Duration::from_secs(6 * 3600),
            pickup: Duration::from_secs(600),
        };
        let mut shell = Shell {
            agents: self,
            core: Agent::new(key.clone(), limits),
            key,
            started: Instant::now(),
            due: VecDeque::new(),
            document: None,
            listener: None,
            running: None,
        };
        let mut input = match before {
            Some((assignment, at)) => Input::Recovered(Box::new(assignment), at, "agent_restarted: it died".to_owned()),
            None => shell.stand_by(claimed, boot).await,
        };
        loop {
            if shell.perform_all(input).await {
                return;
            }
            input = shell.next().await;
        }
    }
}

/// What a running listener does.
struct Running {
    job: JobId,
    until: Instant,
    outcome: Conclusion,
}

struct Shell<'a> {
    agents: &'a Agents,
    core: Agent,
    key: &'a RunnerKey,
    started: Instant,
    /// Inputs that come by themselves.
    due: VecDeque<(Instant, Step)>,
    document: Option<Document>,
    listener: Option<Listener>,
    running: Option<Running>,
}

enum Step {
    Tell(Input),
    Connect,
}

impl Shell<'_> {
    async fn stand_by(&self, claimed: &mut Claimed, boot: Boot) -> Input {
        let agents = self.agents;
        let deadline = boot.at + boot.patience;
        let document = loop {
            let Ok(_) = timeout_at(deadline, agents.documents.appeared(self.key)).await else {
                return Input::NobodyCame;
            };
            sleep(LOOKS.mul_f64(agents.rng.unit())).await;
            // As the agent judges it: what was written for an earlier life of the machine is not for this one.
            let now = agents.clock.now();
            let booted = now.saturating_sub(boot.at.elapsed()).unwrap_or(now);
            match agents.documents.read(self.key) {
                Some(document) if claim::outdated(&document, now, Some(booted)).is_none() => break document,
                Some(_) if Instant::now() >= deadline => return Input::NobodyCame,
                Some(_) => sleep(SLOW_LOOKS).await,
                None => {}
            }
        };
        let now = agents.clock.now();
        let assignment = claim::assignment(&document);
        agents.scene.happened(&Happening::TookHandOver { machine: self.key, job: assignment.job });
        match claim::unusable(&document) {
            Some(reason) => Input::Unusable(Some(Box::new(assignment)), reason),
            None => {
                *claimed = Some((assignment.clone(), now));
                Input::Found(Box::new(assignment))
            }
        }
    }

    fn later(&mut self, after: Duration, step: Step) {
        self.due.push_back((Instant::now() + after, step));
    }

    /// Whether that was the end.
    async fn perform_all(&mut self, input: Input) -> bool {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            if matches!(input, Input::Found(_)) {
                self.document = self.agents.documents.read(self.key);
            }
            let moment = Moment { elapsed: self.started.elapsed(), wall: self.agents.clock.now() };
            for action in self.core.handle(moment, input) {
                match action {
                    Action::Prepare => {
                        let took = self.agents.between(0.2, 0.6);
                        let ready = Input::Prepared { version: None, runner: took, register: Duration::ZERO };
                        self.later(took, Step::Tell(ready));
                    }
                    Action::Spawn => {
                        inputs.push_back(Input::Spawned);
                        if !self.agents.happens(self.agents.nature().never_connects) {
                            self.later(self.agents.between(2.0, 4.0), Step::Connect);
                        }
                    }
                    Action::Report(report) => self.agents.report(*report).await,
                    Action::LookForWorker => {
                        let seen = Input::Seen(Evidence::JobReceived);
                        inputs.push_back(if self.running.is_some() { seen } else { Input::Idle });
                    }
                    Action::Terminate => {
                        // A runner that is told to stop cancels its job.
                        self.conclude(Conclusion::Cancelled);
                        if let Some(listener) = self.listener.take() {
                            listener.goodbye();
                        }
                        self.later(Duration::from_secs(1), Step::Tell(Input::Exited(Exit::Code(0))));
                    }
                    Action::Kill => {
                        (self.listener, self.running) = (None, None);
                        self.later(Duration::ZERO, Step::Tell(Input::Exited(Exit::Signal(9))));
                    }
                    Action::Finish { report, .. } => {
                        self.listener = None;
                        if let Some(report) = report {
                            self.agents.report(*report).await;
                        }
                        return true;
                    }
                }
            }
        }
        false
    }

    fn conclude(&mut self, conclusion: Conclusion) {
        if let (Some(running), Some(listener)) = (self.running.take(), self.listener.as_mut()) {
            listener.complete(running.job, conclusion);
        }
    }

    fn connect(&mut self) -> Input {
        let credential = self.document.as_ref().map(|document| document.jit_config.expose().to_owned());
        match self.agents.github.listener(credential.unwrap_or_default().as_str()) {
            Ok(listener) => {
                self.listener = Some(listener);
                Input::Seen(Evidence::Listening)
            }
            Err(_) => {
                self.later(Duration::from_secs(1), Step::Tell(Input::Exited(Exit::Code(1))));
                Input::Seen(Evidence::ListenerFailed(1))
            }
        }
    }

    /// The next thing that happens.
    async fn next(&mut self) -> Input {
        let wake = self.core.next_wake().map(|at| self.started + at);
        let due = self.due.iter().map(|(at, _)| *at).min();
        let until = self.running.as_ref().map(|running| running.until);
        let nearest = [wake, due, until].into_iter().flatten().min();
        let sleeps = async {
            match nearest {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let running = self.running.as_ref().map(|running| running.job);
        let speaks = async {
            match self.listener.as_mut() {
                Some(listener) => listener.next(running).await,
                None => std::future::pending().await,
            }
        };
        let heard = tokio::select! {
            biased;
            message = speaks => Some(message),
            () = sleeps => None,
        };
        match heard {
            Some(Message::Job(job)) => {
                self.running =
                    Some(Running { job: job.id, until: Instant::now() + job.duration, outcome: job.outcome });
                Input::Seen(Evidence::JobReceived)
            }
            Some(Message::Cancel) => self.ended(Some(Conclusion::Cancelled)),
            Some(Message::Gone | Message::Nothing) => self.ended(None),
            None => self.came_due(),
        }
    }

    /// The runner ends, its job with it.
    fn ended(&mut self, conclusion: Option<Conclusion>) -> Input {
        let had_job = self.running.is_some();
        if let Some(conclusion) = conclusion {
            self.conclude(conclusion);
        }
        (self.listener, self.running) = (None, None);
        self.later(Duration::from_millis(500), Step::Tell(Input::Exited(Exit::Code(0))));
        if had_job { Input::Seen(Evidence::JobCompleted) } else { Input::Tick }
    }

    fn came_due(&mut self) -> Input {
        let now = Instant::now();
        if let Some(outcome) = self.running.as_ref().filter(|running| running.until <= now).map(|r| r.outcome) {
            return self.ended(Some(outcome));
        }
        let place = self.due.iter().position(|(at, _)| *at <= now);
        match place.and_then(|place| self.due.remove(place)) {
            Some((_, Step::Tell(input))) => input,
            Some((_, Step::Connect)) => self.connect(),
            None => Input::Tick,
        }
    }
}
