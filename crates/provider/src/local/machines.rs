//! Machines as agent processes: the `Compute` back end of local mode.
//!
//! ```text
//! <root>/machines/<key>/          the agent's working and state directory (RUNS_FLEET_STATE_DIR)
//!                       machine.json   what this module knows (see `Record`)
//!                       agent.log      the agent's output
//!                       runner/        the Actions runner (RUNS_FLEET_RUNNER_DIR)
//! ```
//!
//! Properties wanted: an agent survives the orchestrator, which finds it again on disk; a launch or start that is
//! repeated, also by the next orchestrator, never makes a second agent; a terminated machine leaves no process.
//!
//! Races survived:
//!
//! * *Death between spawn and the record's write.* A start of a machine that this process did not launch looks in
//!   `/proc` for the marker first.
//! * *Start against terminate, exit against terminate.* One gate per machine orders them.
//! * *Death between directory and record.* The key follows from launch id and index, so the repeated launch fills the
//!   same directory; if nobody repeats it, opening the root removes it.
//! * *Pid reuse.* See [`processes`].
//!
//! Nothing polls: our own children are awaited, and a machine inherited from a previous orchestrator is looked at
//! when somebody asks. One process at a time owns a root.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::{self, Clock};
use domain::ids::{LaunchId, RunnerKey};
use domain::launch::Arch;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::record::{Record, Stage, read_dirs};
use crate::compute::{Compute, Error, Filter, Machine, Order, SpotRequest};
use crate::files;
use crate::processes::{self, MARKER, Members, ProcessId};
use crate::tags;

/// How long a terminate may take to see the last process gone.
const TERMINATE_WITHIN: Duration = Duration::from_secs(10);

/// What an agent gets of the orchestrator's environment. Everything else there is none of a job's business.
const INHERITED: [&str; 19] = [
    "ALL_PROXY",
    "DOCKER_HOST",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANG",
    "LC_ALL",
    "LOGNAME",
    "NO_PROXY",
    "PATH",
    "SHELL",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_RUNTIME_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

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
        Ok(Self { inner: Arc::new(inner), watchers: Mutex::new(JoinSet::new()) })
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

#[async_trait]
impl Compute for ProcessCompute {
    async fn launch(&self, order: &Order) -> Vec<Result<Machine, Error>> {
        let _one_at_a_time = self.inner.launching.lock().await;
        let mut results = Vec::with_capacity(order.members.len());
        for index in 0..order.members.len() {
            results.push(self.inner.launch(order, index).await);
        }
        results
    }

    async fn start(&self, key: &RunnerKey) -> Result<(), Error> {
        let slot = self.inner.slot(key).ok_or_else(|| Error::Invalid(format!("there is no machine {key}")))?;
        let _gate = slot.gate.lock().await;
        let mut record = slot.record();
        match record.state {
            Stage::Started => return Ok(()),
            Stage::Terminated if record.process.is_some() => return Ok(()),
            Stage::Terminated => return Err(Error::Invalid(format!("machine {key} is terminated"))),
            Stage::Launched => {}
        }
        let adopted = if slot.inherited { already_running(key).await? } else { None };
        let child = match adopted {
            Some(process) => {
                record.process = Some(process);
                None
            }
            None => {
                let child = self.inner.spawn(key)?;
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
        Err(Error::Invalid(format!("local machine {key} cannot be stopped, only terminated")))
    }

    async fn terminate(&self, key: &RunnerKey) -> Result<(), Error> {
        let Some(slot) = self.inner.slot(key) else { return Ok(()) };
        let _gate = slot.gate.lock().await;
        let mut record = slot.record();
        // Also when the agent ended by itself: a job may have left something behind.
        if record.state != Stage::Launched || slot.inherited {
            let members = Members { session: record.process, marker: Some(key.to_string()) };
            processes::end(&members, TERMINATE_WITHIN)
                .await
                .map_err(|survivors| Error::Transient(format!("machine {key}: {survivors}")))?;
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
        let record = Record {
            key: key.clone(),
            state: Stage::Launched,
            launch_id: order.launch_id.clone(),
            instance_type: order.spec.instance_type.clone(),
            spot: order.spot,
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

    /// Spawns the agent. It starts a session of its own first thing, which is what lets it survive us.
    fn spawn(&self, key: &RunnerKey) -> Result<tokio::process::Child, Error> {
        let dir = self.machines.join(key.as_str());
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join("agent.log"));
        let log = log.map_err(|error| failed(&error))?;
        let errors = log.try_clone().map_err(|error| failed(&error))?;
        let mut command = tokio::process::Command::new(&self.settings.program);
        command.args(&self.settings.args).env_clear();
        for name in INHERITED {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("RUNS_FLEET_STATE_DIR", &dir)
            .env("RUNS_FLEET_RUNNER_DIR", dir.join("runner"))
            .envs(&self.settings.env)
            .env("RUNS_FLEET_BACKEND", "local")
            .env("RUNS_FLEET_INSTANCE_ID", key.as_str())
            .env(MARKER, key.as_str())
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => {
                Error::Capacity(format!("no process for machine {key}: {error}"))
            }
            _ => Error::Deployment(format!("the agent cannot be started: {error}")),
        })
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

/// The agent of `key` that a previous orchestrator spawned without living to record it: the first process that got
/// the marker.
async fn already_running(key: &RunnerKey) -> Result<Option<ProcessId>, Error> {
    let members = Members { session: None, marker: Some(key.to_string()) };
    blocking(move || Ok(processes::find(&members))).await.map(|found| {
        let first = found.into_iter().min_by_key(|found| (found.id.start_time, found.id.pid));
        first.map(|found| found.id)
    })
}

/// Removes a machine's directory, unless something of that machine still lives.
async fn discard(dir: PathBuf) {
    let removed = blocking(move || {
        let key = dir.file_name().map(|name| name.to_string_lossy().into_owned());
        let alive = !processes::find(&Members { session: None, marker: key }).is_empty();
        if alive { Ok(()) } else { remove_tree(&dir) }
    });
    if let Err(error) = removed.await {
        warn!(%error, "a machine's directory could not be removed");
    }
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| failed(&error)),
        Err(_) => Err(Error::Transient("the file operation was abandoned".to_owned())),
    }
}

fn failed(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Capacity(error.to_string()),
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory | io::ErrorKind::ReadOnlyFilesystem => {
            Error::Deployment(error.to_string())
        }
        _ => Error::Transient(error.to_string()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
