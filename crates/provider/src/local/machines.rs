//! Machines as agent processes: the `Compute` back end of local mode.
//!
//! ```text
//! <root>/machines/<key>/          the agent's working and state directory (RUNS_FLEET_STATE_DIR)
//!                       machine.json   what this module knows (see `Record`)
//!                       agent.log      the agent's output
//!                       runner/        the Actions runner (RUNS_FLEET_RUNNER_DIR)
//! ```
//!
//! A spare of a warm pool is an agent without a hand-over. It is spawned with its directory, as an instance boots with
//! its launch; a stop suspends its processes and a start lets them run on.
//!
//! Properties wanted: an agent survives the orchestrator, which finds it again on disk; a launch or start that is
//! repeated, also by the next orchestrator, never makes a second agent; a terminated machine leaves no process; what is
//! recorded as running is not suspended.
//!
//! Races survived:
//!
//! * *Death between spawn and the record's write.* A start of a machine that this process did not launch looks in
//!   `/proc` for the marker first.
//! * *Start against terminate, exit against terminate.* One gate per machine orders them.
//! * *Death between directory and record.* The key follows from launch id and index, so the repeated launch fills the
//!   same directory; if nobody repeats it, opening the root removes it.
//! * *Death between directory and spawn of a spare.* Nobody will start it: opening the root ends it.
//! * *Death inside a stop or a start.* A stop is recorded before, and a start after the signals, so that at worst a
//!   machine runs that is recorded as stopped; its next start finds it running.
//! * *Pid reuse.* See [`processes`].
//!
//! Nothing polls: our own children are awaited, and a machine inherited from a previous orchestrator is looked at
//! when somebody asks. One process at a time owns a root.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::{self, Clock};
use domain::ids::{LaunchId, RunnerKey};
use domain::launch::Arch;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::agent;
use super::disk::{blocking, discard, failed};
use super::record::{Record, Stage, read_dirs};
use crate::compute::{Compute, Error, Filter, Machine, MachineState, Order, SpotRequest};
use crate::files;
use crate::processes::{self, ProcessId};
use crate::tags;

/// How long a terminate or a stop may take to see the last process gone or suspended.
const SIGNAL_WITHIN: Duration = Duration::from_secs(10);

/// How local machines are run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Machines live in `<root>/machines`.
    pub root: PathBuf,
    /// The agent's executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment of every agent, beyond the inherited basics. A machine's own variables win over it, except the
    /// directories `RUNS_FLEET_STATE_DIR` and `RUNS_FLEET_RUNNER_DIR`.
    pub env: BTreeMap<String, String>,
    /// How long ended machines stay on disk.
    pub keep: Keep,
}

/// How long ended machines stay on disk and in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Not longer than this.
    pub age: Duration,
    /// Not more than this many; the oldest go first.
    pub count: usize,
}

impl Default for Keep {
    fn default() -> Self {
        Self { age: Duration::from_hours(24), count: 1_000 }
    }
}

/// The local-process back end of the machine port.
pub struct ProcessCompute {
    inner: Arc<Inner>,
    /// Owns the tasks that wait for our agents; they end with us, the agents do not.
    watchers: Mutex<JoinSet<()>>,
}

struct Inner {
    settings: Settings,
    machines: PathBuf,
    clock: Arc<dyn Clock>,
    slots: Mutex<HashMap<RunnerKey, Arc<Slot>>>,
    /// Held while directories are made, so that two equal launches do not race.
    launching: tokio::sync::Mutex<()>,
}

struct Slot {
    /// Orders everything that changes the machine. Reading the record does not need it.
    gate: tokio::sync::Mutex<()>,
    record: Mutex<Record>,
    /// Whether it was launched by a previous process, which may have spawned the agent without recording it.
    inherited: bool,
}

impl Slot {
    fn new(record: Record, inherited: bool) -> Arc<Self> {
        Arc::new(Self { gate: tokio::sync::Mutex::new(()), record: Mutex::new(record), inherited })
    }

    fn record(&self) -> Record {
        lock(&self.record).clone()
    }
}

impl ProcessCompute {
    /// Takes over `settings.root`, with the machines that are already there.
    pub async fn open(mut settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        settings.root = std::path::absolute(&settings.root).map_err(|error| failed(&error))?;
        let machines = settings.root.join("machines");
        let found = {
            let machines = machines.clone();
            blocking(move || {
                files::private_dir(&machines)?;
                read_dirs(&machines)
            })
            .await?
        };
        let mut slots = HashMap::new();
        for (dir, record) in found {
            match record {
                Some(record) => {
                    slots.insert(record.key.clone(), Slot::new(record, true));
                }
                None => discard(dir).await,
            }
        }
        let inner =
            Inner { settings, machines, clock, slots: Mutex::new(slots), launching: tokio::sync::Mutex::new(()) };
        inner.prune().await;
        let compute = Self { inner: Arc::new(inner), watchers: Mutex::new(JoinSet::new()) };
        compute.end_unborn().await;
        Ok(compute)
    }

    /// Ends spares that the previous process made directories for and did not live to spawn.
    async fn end_unborn(&self) {
        let slots: Vec<Arc<Slot>> = lock(&self.inner.slots).values().cloned().collect();
        for record in slots.iter().map(|slot| slot.record()) {
            if record.is_spare() && record.state == Stage::Launched {
                self.terminate(&record.key).await.unwrap_or_else(|error| {
                    warn!(key = %record.key, %error, "a spare that was never spawned could not be ended");
                });
            }
        }
    }

    /// Removes ended machines that are older or more than `Settings::keep` allows. Also done by itself whenever an
    /// agent ends.
    pub async fn prune(&self) {
        self.inner.prune().await;
    }

    /// Everything known about one machine, with the times a report needs.
    pub fn record(&self, key: &RunnerKey) -> Option<Record> {
        self.inner.slot(key).map(|slot| slot.record())
    }
}

impl ProcessCompute {
    /// Starts a spare that was just launched. One that does not start will not be started by anybody else.
    async fn boot(&self, key: &RunnerKey) -> Result<Machine, Error> {
        if let Err(error) = self.start(key).await {
            self.terminate(key).await?;
            return Err(error);
        }
        let gone = || Error::Transient(format!("machine {key} is gone"));
        self.describe(key).await?.ok_or_else(gone)
    }
}

#[async_trait]
impl Compute for ProcessCompute {
    async fn launch(&self, order: &Order) -> Vec<Result<Machine, Error>> {
        let _one_at_a_time = self.inner.launching.lock().await;
        let mut results = Vec::with_capacity(order.members.len());
        for index in 0..order.members.len() {
            let mut launched = self.inner.launch(order, index).await;
            if let Ok(machine) = &mut launched
                && machine.launch_id.is_none()
                && machine.state == MachineState::Pending
            {
                launched = self.boot(&machine.key).await;
            }
            results.push(launched);
        }
        results
    }

    async fn start(&self, key: &RunnerKey) -> Result<(), Error> {
        let slot = self.inner.slot(key).ok_or_else(|| Error::Invalid(format!("there is no machine {key}")))?;
        let _gate = slot.gate.lock().await;
        let mut record = slot.record();
        match record.state {
            _ if record.is_spare() && record.is_over() => {
                return Err(Error::Transient(format!("machine {key} is gone")));
            }
            Stage::Started => return Ok(()),
            Stage::Terminated if record.process.is_some() => return Ok(()),
            Stage::Terminated => return Err(Error::Invalid(format!("machine {key} is terminated"))),
            Stage::Stopped => return self.inner.resume(&slot).await,
            Stage::Launched => {}
        }
        let adopted = if slot.inherited { agent::already_running(key).await? } else { None };
        let child = match adopted {
            Some(process) => {
                record.process = Some(process);
                None
            }
            None => {
                let child = agent::spawn(
                    &self.inner.settings,
                    &self.inner.machines.join(key.as_str()),
                    key,
                    record.is_spare(),
                )?;
                record.process = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(ProcessId::of);
                Some(child)
            }
        };
        record.state = Stage::Started;
        record.spawned_at_ms = Some(self.inner.clock.now().as_millisecond());
        if let Some(mut child) = child {
            let (inner, slot) = (Arc::clone(&self.inner), Arc::clone(&slot));
            let mut watchers = lock(&self.watchers);
            while watchers.try_join_next().is_some() {}
            watchers.spawn(async move {
                if let Err(error) = child.wait().await {
                    warn!(%error, "cannot wait for an agent");
                }
                inner.ended(&slot).await;
            });
        }
        self.inner.save(&slot, record).await.unwrap_or_else(|error| {
            // The agent runs all the same; should we die now, the marker finds it.
            warn!(%key, %error, "a started machine could not be recorded");
        });
        Ok(())
    }

    async fn stop(&self, key: &RunnerKey) -> Result<(), Error> {
        let Some(slot) = self.inner.slot(key) else { return Ok(()) };
        let gate = slot.gate.lock().await;
        let mut record = slot.record();
        if record.is_over() {
            return Ok(());
        }
        if record.spot {
            drop(gate);
            return self.terminate(key).await;
        }
        match record.state {
            Stage::Launched => return Err(Error::Transient(format!("machine {key} is still being launched"))),
            Stage::Started => {
                record.state = Stage::Stopped;
                self.inner.save(&slot, record.clone()).await?;
            }
            Stage::Stopped | Stage::Terminated => {}
        }
        processes::suspend(&record.members(), SIGNAL_WITHIN).await.map_err(|going| survived(key, going))?;
        info!(%key, "machine stopped");
        Ok(())
    }

    async fn terminate(&self, key: &RunnerKey) -> Result<(), Error> {
        let Some(slot) = self.inner.slot(key) else { return Ok(()) };
        let _gate = slot.gate.lock().await;
        let mut record = slot.record();
        // Also when the agent ended by itself: a job may have left something behind.
        if record.state != Stage::Launched || slot.inherited {
            processes::end(&record.members(), SIGNAL_WITHIN).await.map_err(|going| survived(key, going))?;
        }
        if record.state == Stage::Terminated {
            return Ok(());
        }
        record.state = Stage::Terminated;
        record.ended_at = Some(self.inner.clock.now());
        self.inner.save(&slot, record).await?;
        info!(%key, "machine terminated");
        Ok(())
    }

    async fn tag(&self, key: &RunnerKey, tags: &[(String, String)]) -> Result<(), Error> {
        self.inner.retag(key, |mine| mine.extend(tags.iter().cloned())).await
    }

    async fn untag(&self, key: &RunnerKey, names: &[&str]) -> Result<(), Error> {
        self.inner.retag(key, |mine| mine.retain(|name, _| !names.contains(&name.as_str()))).await
    }

    async fn describe(&self, key: &RunnerKey) -> Result<Option<Machine>, Error> {
        Ok(self.inner.slot(key).map(|slot| slot.record().machine()))
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Machine>, Error> {
        let records: Vec<Record> = lock(&self.inner.slots).values().map(|slot| slot.record()).collect();
        let mut machines: Vec<Machine> =
            records.iter().map(Record::machine).filter(|machine| filter.admits(machine)).collect();
        machines.sort_by(|a, b| (a.launched_at, &a.key).cmp(&(b.launched_at, &b.key)));
        Ok(machines)
    }

    /// There are no images.
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

impl Inner {
    fn slot(&self, key: &RunnerKey) -> Option<Arc<Slot>> {
        lock(&self.slots).get(key).cloned()
    }

    async fn launch(&self, order: &Order, index: usize) -> Result<Machine, Error> {
        if order.spec.os.eq_ignore_ascii_case("windows") {
            return Err(Error::Invalid("local machines run Linux".to_owned()));
        }
        let key = key(&self.machines, &order.launch_id, index);
        if let Some(slot) = self.slot(&key) {
            return Ok(slot.record().machine());
        }
        let for_jobs = order.members.pool().is_none();
        let record = Record {
            key: key.clone(),
            state: Stage::Launched,
            launch_id: order.launch_id.clone(),
            instance_type: order.spec.instance_type.clone(),
            spot: order.spot && for_jobs,
            job: order.members.slots().get(index).map(|slot| slot.job),
            tags: tags_of(order, index),
            launched_at: self.clock.now(),
            spawned_at_ms: None,
            process: None,
            ended_at: None,
        };
        let machines = self.machines.clone();
        let written = record.clone();
        blocking(move || written.write(&machines)).await?;
        let machine = record.machine();
        lock(&self.slots).insert(key, Slot::new(record, false));
        Ok(machine)
    }

    /// Lets a stopped machine run on.
    async fn resume(&self, slot: &Slot) -> Result<(), Error> {
        let mut record = slot.record();
        let members = record.members();
        if blocking(move || Ok(processes::resume(&members))).await? == 0 {
            return Err(Error::Transient(format!("machine {} is gone", record.key)));
        }
        record.state = Stage::Started;
        record.launched_at = self.clock.now();
        info!(key = %record.key, "machine started");
        self.save(slot, record).await
    }

    /// Records that the agent of `slot` has ended.
    async fn ended(&self, slot: &Arc<Slot>) {
        {
            let _gate = slot.gate.lock().await;
            let mut record = slot.record();
            if record.state == Stage::Terminated {
                return;
            }
            record.state = Stage::Terminated;
            record.ended_at = Some(self.clock.now());
            if let Err(error) = self.save(slot, record).await {
                warn!(%error, "the end of an agent could not be recorded");
            }
        }
        self.prune().await;
    }

    async fn retag(
        &self,
        key: &RunnerKey,
        change: impl FnOnce(&mut BTreeMap<String, String>) + Send,
    ) -> Result<(), Error> {
        let slot = self.slot(key).ok_or_else(|| Error::Invalid(format!("there is no machine {key}")))?;
        let _gate = slot.gate.lock().await;
        let mut record = slot.record();
        change(&mut record.tags);
        self.save(&slot, record).await
    }

    /// Stores the record, on disk and, whatever becomes of that, in memory.
    async fn save(&self, slot: &Slot, record: Record) -> Result<(), Error> {
        *lock(&slot.record) = record.clone();
        let machines = self.machines.clone();
        blocking(move || record.write(&machines)).await
    }

    async fn prune(&self) {
        let now = self.clock.now();
        let slots: Vec<Arc<Slot>> = lock(&self.slots).values().cloned().collect();
        let mut over: Vec<Record> = slots.iter().map(|slot| slot.record()).filter(Record::is_over).collect();
        // Without a noticed end, the launch is the best we know.
        let age = |record: &Record| clock::since(now, record.ended_at.unwrap_or(record.launched_at));
        over.sort_by_key(age);
        let keep = self.settings.keep;
        for (rank, record) in over.iter().enumerate() {
            if rank >= keep.count || age(record) > keep.age {
                // Out of the list first: nobody may find a machine whose directory is half gone.
                lock(&self.slots).remove(&record.key);
                discard(self.machines.join(record.key.as_str())).await;
            }
        }
    }
}

fn survived(key: &RunnerKey, going: processes::Survivors) -> Error {
    Error::Transient(format!("machine {key}: {going}"))
}

fn tags_of(order: &Order, index: usize) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::from([(tags::MANAGED.to_owned(), "true".to_owned())]);
    let pool = order.members.pool().or(order.spec.pool.as_ref());
    tags.extend(pool.map(|pool| (tags::POOL.to_owned(), pool.to_string())));
    if let Some(slot) = order.members.slots().get(index) {
        tags.insert(tags::LAUNCH_ID.to_owned(), order.launch_id.to_string());
        tags.insert(tags::JOB_ID.to_owned(), slot.job.to_string());
        tags.insert(tags::ROLE.to_owned(), slot.repo.to_string());
    }
    tags
}

/// The key of the `index`th machine of a launch; in EC2's form. The root is part of it, because the marker is looked
/// for on the whole computer: equal launch ids below two roots must not end each other's machines.
fn key(machines: &Path, launch_id: &LaunchId, index: usize) -> RunnerKey {
    let digest = Sha256::digest(format!("{}\n{launch_id}\n{index}", machines.display()));
    let mut key = format!("i-{}", hex::encode(digest));
    key.truncate(19);
    RunnerKey::new(key)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
