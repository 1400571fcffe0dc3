//! Machines, and the agents on them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::{Clock, SignedDuration, Timestamp};
use domain::gh::Conclusion;
use domain::ids::{JobId, RunnerKey};
use domain::launch::Arch;
use domain::report::{AgentReport, AgentStatus};
use provider::compute::{Error, Filter, Machine, MachineState, Order, SpotRequest};
use provider::{Compute, tags};
use queue::Queue;
use simulation::github::model::{Connect, Message};
use tokio::task::AbortHandle;

use super::faults::{Port, Process};
use super::github::GitHub;
use super::laws::Laws;
use super::stores::HandOvers;
use super::{hours, nap, seconds};

/// How the machines of a world behave. Stories change it as they go.
#[derive(Debug, Clone)]
pub struct Nature {
    /// EC2's machines run from their launch; a local one waits for its start.
    pub runs_from_launch: bool,
    pub launch_takes: Duration,
    /// From the moment the machine starts to the answer that says so.
    pub start_takes: Duration,
    pub boot_takes: Duration,
    /// How long an agent waits for its hand-over, and how long a listener for a job.
    pub patience: Duration,
    pub no_spot: bool,
    pub no_on_demand: bool,
    /// Listeners never connect.
    pub never_connects: bool,
    /// Machines do not become runners, and say so.
    pub bootstrap_fails: bool,
    /// Final reports are lost.
    pub final_report_lost: bool,
    /// Agents stay when they are done, and say nothing.
    pub hangs_at_the_end: bool,
    /// Whether there are agents at all.
    pub no_agents: bool,
    /// So many machines are made for one request, at most.
    pub at_most: usize,
    /// A budget of launches.
    pub launch_tokens: Option<Arc<Tokens>>,
    /// So many starts are refused: there is no room.
    pub no_room: u32,
    /// So many stops fail.
    pub stops_fail: u32,
}

/// Two a second, ten saved up.
#[derive(Debug, Default)]
pub struct Tokens(Mutex<Option<tokio::time::Instant>>);

impl Tokens {
    async fn take(&self) {
        let at = {
            let (now, every) = (tokio::time::Instant::now(), Duration::from_millis(500));
            let mut free = self.0.lock().unwrap();
            // When the next one is there, at most ten back in time.
            let saved = now.checked_sub(every * 9).unwrap_or(now);
            let at = free.unwrap_or(saved).max(saved);
            *free = Some(at + every);
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

impl Default for Nature {
    fn default() -> Self {
        Self {
            runs_from_launch: false,
            launch_takes: seconds(1),
            start_takes: Duration::ZERO,
            boot_takes: seconds(5),
            patience: seconds(600),
            no_spot: false,
            no_on_demand: false,
            never_connects: false,
            bootstrap_fails: false,
            final_report_lost: false,
            hangs_at_the_end: false,
            no_agents: false,
            at_most: usize::MAX,
            launch_tokens: None,
            no_room: 0,
            stops_fail: 0,
        }
    }
}

struct Held {
    machine: Machine,
    agent: Option<AbortHandle>,
    /// What its runner does.
    job: Option<JobId>,
    /// Its agent has found a hand-over.
    taken: bool,
}

/// Every machine there ever was.
pub struct Machines {
    pub nature: Mutex<Nature>,
    held: Mutex<BTreeMap<RunnerKey, Held>>,
    orders: Mutex<Vec<Order>>,
    /// What was announced as taken back.
    pub reclaimed: Mutex<Vec<(Machine, Timestamp)>>,
    github: Arc<GitHub>,
    documents: Arc<HandOvers>,
    reports: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
}

impl Machines {
    pub fn new(
        github: Arc<GitHub>,
        documents: Arc<HandOvers>,
        reports: Arc<dyn Queue>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self {
            nature: Mutex::default(),
            held: Mutex::default(),
            orders: Mutex::default(),
            reclaimed: Mutex::default(),
            github,
            documents,
            reports,
            clock,
        })
    }

    pub fn change(&self, change: impl FnOnce(&mut Nature)) {
        change(&mut self.nature.lock().unwrap());
    }

    fn nature(&self) -> Nature {
        self.nature.lock().unwrap().clone()
    }

    /// Every machine, gone ones too, oldest first.
    pub fn all(&self) -> Vec<Machine> {
        self.held.lock().unwrap().values().map(|held| held.machine.clone()).collect()
    }

    pub fn live(&self) -> Vec<RunnerKey> {
        self.all().into_iter().filter(|m| !m.state.is_gone()).map(|m| m.key).collect()
    }

    /// The same without spares that wait.
    pub fn working(&self) -> Vec<RunnerKey> {
        let held = self.held.lock().unwrap();
        let works = |held: &&Held| !held.machine.state.is_gone() && (held.taken || held.machine.launch_id.is_some());
        held.values().filter(works).map(|held| held.machine.key.clone()).collect()
    }

    /// Everything that was asked for.
    pub fn orders(&self) -> Vec<Order> {
        self.orders.lock().unwrap().clone()
    }

    /// The machine is gone, without a word: reclaimed, unplugged.
    pub fn vanish(&self, key: &RunnerKey) {
        if let Some(held) = self.held.lock().unwrap().get_mut(key) {
            held.machine.state = MachineState::Terminated;
            held.job = None;
            if let Some(agent) = held.agent.take() {
                agent.abort();
            }
        }
    }

    /// Another machine of a pool, that waits for work: running, or stopped.
    pub fn spare(self: &Arc<Self>, pool: &str, state: MachineState) -> RunnerKey {
        let key = {
            let mut held = self.held.lock().unwrap();
            let key = RunnerKey::new(format!("i-{:017x}", held.len() + 1));
            let machine = Machine {
                key: key.clone(),
                state: MachineState::Pending,
                instance_type: "c7g.large".to_owned(),
                zone: Some("z-1a".to_owned()),
                spot: false,
                arch: Some(Arch::Arm64),
                image: None,
                // Booted, and found ready, some time ago.
                launched_at: self.clock.now().checked_sub(SignedDuration::from_mins(5)).unwrap(),
                ended_at: None,
                launch_id: None,
                tags: BTreeMap::from([
                    (tags::MANAGED.to_owned(), "true".to_owned()),
                    (tags::POOL.to_owned(), pool.to_owned()),
                ]),
            };
            held.insert(key.clone(), Held { machine, agent: None, job: None, taken: false });
            key
        };
        match state {
            MachineState::Running => self.boot(&key),
            other => self.held.lock().unwrap().get_mut(&key).unwrap().machine.state = other,
        }
        key
    }

    pub fn get(&self, key: &RunnerKey) -> Machine {
        self.held.lock().unwrap()[key].machine.clone()
    }

    /// The job its runner does.
    fn job_on(&self, key: &RunnerKey) -> Option<JobId> {
        self.held.lock().unwrap().get(key).and_then(|held| held.job)
    }

    fn start(self: &Arc<Self>, key: &RunnerKey) -> Result<(), Error> {
        let refused = |nature: &mut Nature| nature.no_room.checked_sub(1).map(|left| nature.no_room = left);
        let stopped =
            self.held.lock().unwrap().get(key).is_some_and(|held| held.machine.state == MachineState::Stopped);
        if stopped && refused(&mut self.nature.lock().unwrap()).is_some() {
            return Err(Error::Capacity("no room".to_owned()));
        }
        if let Some(held) = self.held.lock().unwrap().get_mut(key).filter(|_| stopped) {
            held.machine.state = MachineState::Pending;
            held.machine.launched_at = self.clock.now();
        }
        self.boot(key);
        Ok(())
    }

    fn stop(&self, key: &RunnerKey) -> Result<(), Error> {
        let mut nature = self.nature.lock().unwrap();
        if let Some(left) = nature.stops_fail.checked_sub(1) {
            nature.stops_fail = left;
            return busy();
        }
        if let Some(held) = self.held.lock().unwrap().get_mut(key).filter(|held| !held.machine.state.is_gone()) {
            held.machine.state = MachineState::Stopped;
            (held.job, held.taken) = (None, false);
            if let Some(agent) = held.agent.take() {
                agent.abort();
            }
        }
        Ok(())
    }

    fn make(self: &Arc<Self>, order: &Order, index: usize) -> Result<Machine, Error> {
        let nature = self.nature();
        if (if order.spot { nature.no_spot } else { nature.no_on_demand }) || index >= nature.at_most {
            return Err(Error::Capacity("none left".to_owned()));
        }
        let machine = {
            let mut held = self.held.lock().unwrap();
            let key = RunnerKey::new(format!("i-{:017x}", held.len() + 1));
            let mut known: Vec<_> =
                held.values().filter(|held| held.machine.launch_id.as_ref() == Some(&order.launch_id)).collect();
            known.sort_by_key(|held| held.machine.key.clone());
            if let Some(known) = known.get(index) {
                return Ok(known.machine.clone());
            }
            let machine = Machine {
                key: key.clone(),
                state: MachineState::Pending,
                instance_type: order.spec.instance_type.clone(),
                zone: Some("z-1a".to_owned()),
                spot: order.spot,
                arch: None,
                image: None,
                launched_at: self.clock.now(),
                ended_at: None,
                launch_id: Some(order.launch_id.clone()),
                tags: BTreeMap::from([
                    (tags::MANAGED.to_owned(), "true".to_owned()),
                    (tags::JOB_ID.to_owned(), order.members.slots()[index].job.to_string()),
                ]),
            };
            held.insert(key, Held { machine: machine.clone(), agent: None, job: None, taken: false });
            machine
        };
        if nature.runs_from_launch {
            self.boot(&machine.key);
        }
        Ok(machine)
    }

    fn retag(&self, key: &RunnerKey, change: impl FnOnce(&mut BTreeMap<String, String>)) {
        if let Some(held) = self.held.lock().unwrap().get_mut(key) {
            change(&mut held.machine.tags);
        }
    }

    fn boot(self: &Arc<Self>, key: &RunnerKey) {
        let mut held = self.held.lock().unwrap();
        let Some(held) = held.get_mut(key).filter(|held| held.machine.state == MachineState::Pending) else { return };
        held.machine.state = MachineState::Running;
        if !self.nature().no_agents {
            held.agent = Some(tokio::spawn(Arc::clone(self).agent(key.clone())).abort_handle());
        }
    }

    async fn agent(self: Arc<Self>, key: RunnerKey) {
        self.serve(&key).await;
        // The last thing an agent does is to end its machine.
        if let Some(held) = self.held.lock().unwrap().get_mut(&key) {
            held.machine.state = MachineState::Terminated;
        }
    }

    async fn serve(&self, key: &RunnerKey) {
        tokio::time::sleep(self.nature().boot_takes).await;
        if self.nature().bootstrap_fails {
            return self.report(AgentReport::new(key.clone(), AgentStatus::BootstrapFailed)).await;
        }
        let standby = tokio::time::Instant::now();
        let spare = self.get(key).launch_id.is_none();
        let document = loop {
            if let Some(document) = self.documents.read(key) {
                break document;
            }
            if standby.elapsed() > if spare { hours(2) } else { self.nature().patience } {
                return;
            }
            tokio::time::sleep(seconds(1)).await;
        };
        if let Some(held) = self.held.lock().unwrap().get_mut(key) {
            held.taken = true;
        }
        let job: Option<JobId> = document.job_id.parse().ok();
        let report = |status| {
            let mut report = AgentReport::new(key.clone(), status);
            report.job_id = job;
            report.dispatch_id = Some(domain::ids::DispatchId::new(document.dispatch_id.clone()));
            report.token = Some(document.telemetry_token.clone()).filter(|token| !token.is_empty());
            report
        };
        if self.nature().never_connects {
            return std::future::pending().await;
        }
        let credential = document.jit_config.expose().to_owned();
        if self.github.with(|model, now| model.connect(&credential, Connect::default(), now)).is_err() {
            return self.report(report(AgentStatus::BootstrapFailed)).await;
        }
        let mut started = report(AgentStatus::Started);
        started.started_at = Some(self.clock.now());
        self.report(started).await;
        let status = self.listen(key, &credential).await;
        if self.nature().hangs_at_the_end {
            return std::future::pending().await;
        }
        let mut ended = report(status);
        ended.completed_at = Some(self.clock.now());
        ended.duration_seconds = 1;
        if !self.nature().final_report_lost {
            self.report(ended).await;
        }
    }

    /// The listener: waits for a job, does it, and is gone.
    async fn listen(&self, key: &RunnerKey, credential: &str) -> AgentStatus {
        let online = tokio::time::Instant::now();
        let mut changes = self.github.changes();
        let mut running: Option<(JobId, tokio::time::Instant, Conclusion)> = None;
        loop {
            changes.mark_unchanged();
            let heard = self.github.with_quietly(|model, now| {
                model.heard(credential, now);
                model.message(credential, running.map(|(id, ..)| id))
            });
            match heard {
                Message::Nothing => {}
                Message::Job(job) => {
                    self.works_on(key, Some(job.id));
                    running = Some((job.id, tokio::time::Instant::now() + job.duration, job.outcome));
                }
                Message::Cancel => {
                    self.works_on(key, None);
                    if let Some((id, ..)) = running {
                        let end = |model: &mut simulation::github::model::Model, now| {
                            model.complete(credential, id, Conclusion::Cancelled, now)
                        };
                        let _ = self.github.with(end);
                    }
                    return AgentStatus::Failure;
                }
                Message::Gone => return AgentStatus::Success,
            }
            let nap = seconds(20);
            match running {
                Some((id, until, outcome)) if until <= tokio::time::Instant::now() => {
                    let _ = self.github.with(|model, now| model.complete(credential, id, outcome, now));
                    self.works_on(key, None);
                    return AgentStatus::Success;
                }
                Some((_, until, _)) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until.min(tokio::time::Instant::now() + nap)) => {}
                        _ = changes.changed() => {}
                    }
                }
                None if online.elapsed() > self.nature().patience => {
                    self.github.with(|model, now| model.disconnect(credential, now));
                    return AgentStatus::Success;
                }
                None => {
                    tokio::select! {
                        () = tokio::time::sleep(nap) => {}
                        _ = changes.changed() => {}
                    }
                }
            }
        }
    }

    fn works_on(&self, key: &RunnerKey, job: Option<JobId>) {
        if let Some(held) = self.held.lock().unwrap().get_mut(key) {
            held.job = job;
        }
    }

    async fn report(&self, report: AgentReport) {
        let message = queue::Message {
            body: report.encode(),
            group: report.group().to_owned(),
            dedup: report.dedup_id(),
            ..queue::Message::default()
        };
        self.reports.send(message).await.unwrap();
    }
}

/// The provider, as one process reaches it.
pub struct ProcessCompute {
    pub process: Arc<Process>,
    pub machines: Arc<Machines>,
    pub laws: Arc<Laws>,
}

fn busy<T>() -> Result<T, Error> {
    Err(Error::Transient("the weather".to_owned()))
}

#[async_trait]
impl Compute for ProcessCompute {
    async fn ready(&self) {
        let tokens = self.machines.nature().launch_tokens;
        if let Some(tokens) = tokens {
            tokens.take().await;
        }
    }
    async fn reclaimed(&self, machine: &Machine, at: Timestamp) {
        self.machines.reclaimed.lock().unwrap().push((machine.clone(), at));
    }
    async fn launch(&self, order: &Order) -> Vec<Result<Machine, Error>> {
        self.machines.orders.lock().unwrap().push(order.clone());
        let launch = async {
            let takes = self.machines.nature().launch_takes;
            let made: Vec<_> = (0..order.members.len()).map(|index| self.machines.make(order, index)).collect();
            nap(takes).await;
            made
        };
        self.process
            .call(Port::Compute, "compute.launch", || (0..order.members.len()).map(|_| busy()).collect(), launch)
            .await
    }
    async fn start(&self, key: &RunnerKey) -> Result<(), Error> {
        let start = async {
            let started = self.machines.start(key);
            nap(self.machines.nature().start_takes).await;
            started
        };
        self.process.call(Port::Compute, "compute.start", busy, start).await
    }
    async fn stop(&self, key: &RunnerKey) -> Result<(), Error> {
        let stop = async {
            self.laws.check_stop(key, self.machines.job_on(key));
            self.machines.stop(key)
        };
        self.process.call(Port::Compute, "compute.stop", busy, stop).await
    }
    async fn terminate(&self, key: &RunnerKey) -> Result<(), Error> {
        let terminate = async {
            self.laws.check_end(key, self.machines.job_on(key));
            self.machines.vanish(key);
            Ok(())
        };
        self.process.call(Port::Compute, "compute.terminate", busy, terminate).await
    }
    async fn tag(&self, key: &RunnerKey, tags: &[(String, String)]) -> Result<(), Error> {
        let tag = async {
            self.machines.retag(key, |mine| mine.extend(tags.iter().cloned()));
            Ok(())
        };
        self.process.call(Port::Compute, "compute.tag", busy, tag).await
    }
    async fn untag(&self, key: &RunnerKey, names: &[&str]) -> Result<(), Error> {
        let untag = async {
            self.machines.retag(key, |mine| mine.retain(|name, _| !names.contains(&name.as_str())));
            Ok(())
        };
        self.process.call(Port::Compute, "compute.untag", busy, untag).await
    }
    async fn describe(&self, key: &RunnerKey) -> Result<Option<Machine>, Error> {
        let describe = async { Ok(self.machines.all().into_iter().find(|m| m.key == *key)) };
        self.process.call(Port::Compute, "compute.describe", busy, describe).await
    }
    async fn list(&self, filter: &Filter) -> Result<Vec<Machine>, Error> {
        let list = async { Ok(self.machines.all().into_iter().filter(|machine| filter.admits(machine)).collect()) };
        self.process.call(Port::Compute, "compute.list", busy, list).await
    }
    async fn current_image(&self, _arch: Arch) -> Result<Option<String>, Error> {
        Ok(None)
    }
    async fn spot_requests(&self) -> Result<Vec<SpotRequest>, Error> {
        Ok(Vec::new())
    }
    async fn cancel_spot_requests(&self, _ids: &[String]) -> Result<(), Error> {
        Ok(())
    }
}
