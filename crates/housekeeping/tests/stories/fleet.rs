//! Machines as a provider tells of them, and what it is asked to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use domain::clock::{Clock, Timestamp};
use domain::ids::RunnerKey;
use domain::launch::Arch;
use provider::compute::{Error, Filter, Order, SpotRequest, Which};
use provider::{Compute, Machine, MachineState, tags};
use tokio::sync::Semaphore;

/// Tags as pairs.
pub type Tags<'a> = &'a [(&'a str, &'a str)];

/// What becomes of a machine.
pub type Happening = Box<dyn FnMut(&mut Machine) + Send>;

/// See the module.
pub struct Fleet {
    clock: Arc<dyn Clock>,
    machines: Mutex<BTreeMap<RunnerKey, (Machine, Which)>>,
    /// Calls that fail.
    pub refused: Mutex<BTreeSet<&'static str>>,
    /// Happens to a machine once it has been listed: before anybody looks again.
    pub after_list: Mutex<Option<Happening>>,
    /// Listings wait for a permit; there are plenty, unless a test takes them.
    pub gate: Semaphore,
    pub images: Mutex<BTreeMap<Arch, String>>,
    pub requests: Mutex<Vec<SpotRequest>>,
    pub cancelled: Mutex<Vec<String>>,
    /// What was terminated, in order.
    pub ended: Mutex<Vec<RunnerKey>>,
}

/// A key that EC2 could have given.
pub fn key(n: u64) -> RunnerKey {
    RunnerKey::new(format!("i-{n:017x}"))
}

impl Fleet {
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            machines: Mutex::default(),
            refused: Mutex::default(),
            after_list: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            images: Mutex::default(),
            requests: Mutex::default(),
            cancelled: Mutex::default(),
            ended: Mutex::default(),
        })
    }

    /// A machine of ours.
    pub fn add(&self, n: u64, state: MachineState, launched_at: Timestamp, tags: Tags<'_>) -> RunnerKey {
        self.add_as(Which::Ours, n, state, launched_at, tags)
    }

    pub fn add_as(
        &self,
        which: Which,
        n: u64,
        state: MachineState,
        launched_at: Timestamp,
        tags: Tags<'_>,
    ) -> RunnerKey {
        let tags: BTreeMap<_, _> = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let machine = Machine {
            key: key(n),
            state,
            instance_type: "c8g.large".to_owned(),
            zone: None,
            spot: false,
            arch: Some(Arch::Arm64),
            image: Some("ami-old".to_owned()),
            launched_at,
            ended_at: None,
            launch_id: tags.get(tags::LAUNCH_ID).map(|id| id.as_str().into()),
            tags,
        };
        self.machines.lock().unwrap().insert(machine.key.clone(), (machine, which));
        key(n)
    }

    pub fn change(&self, key: &RunnerKey, change: impl FnOnce(&mut Machine)) {
        if let Some((machine, _)) = self.machines.lock().unwrap().get_mut(key) {
            change(machine);
        }
    }

    pub fn refuse(&self, call: &'static str) {
        self.refused.lock().unwrap().insert(call);
    }

    pub fn ended(&self) -> Vec<RunnerKey> {
        self.ended.lock().unwrap().clone()
    }

    fn allowed(&self, call: &'static str) -> Result<(), Error> {
        if self.refused.lock().unwrap().contains(call) {
            return Err(Error::Transient("InvalidInstanceID and such are busy".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
impl Compute for Fleet {
    async fn launch(&self, order: &Order) -> Vec<Result<Machine, Error>> {
        (0..order.members.len()).map(|_| Err(Error::Capacity("none here".to_owned()))).collect()
    }
    async fn start(&self, _: &RunnerKey) -> Result<(), Error> {
        Ok(())
    }
    async fn stop(&self, _: &RunnerKey) -> Result<(), Error> {
        Ok(())
    }
    async fn terminate(&self, key: &RunnerKey) -> Result<(), Error> {
        self.allowed("terminate")?;
        let now = self.clock.now();
        self.change(key, |machine| {
            machine.state = MachineState::Terminated;
            machine.ended_at.get_or_insert(now);
        });
        self.ended.lock().unwrap().push(key.clone());
        Ok(())
    }
    async fn tag(&self, _: &RunnerKey, _: &[(String, String)]) -> Result<(), Error> {
        Ok(())
    }
    async fn untag(&self, _: &RunnerKey, _: &[&str]) -> Result<(), Error> {
        Ok(())
    }
    async fn describe(&self, key: &RunnerKey) -> Result<Option<Machine>, Error> {
        self.allowed("describe")?;
        Ok(self.machines.lock().unwrap().get(key).map(|(machine, _)| machine.clone()))
    }
    async fn describe_many(&self, keys: &[RunnerKey]) -> Result<Vec<Machine>, Error> {
        self.allowed("describe_many")?;
        let machines = self.machines.lock().unwrap();
        Ok(keys.iter().filter_map(|key| machines.get(key)).map(|(machine, _)| machine.clone()).collect())
    }
    async fn list(&self, filter: &Filter) -> Result<Vec<Machine>, Error> {
        self.gate.acquire().await.unwrap().forget();
        self.allowed(match filter.which {
            Which::Ours => "list",
            Which::Builders => "list builders",
            Which::Unmarked => "list unmarked",
        })?;
        let mut machines = self.machines.lock().unwrap();
        let wanted = |(machine, which): &&(Machine, Which)| {
            let pool = filter.pool.as_ref().is_none_or(|pool| machine.pool() == Some(pool.as_str()));
            *which == filter.which && pool && (filter.include_gone || !machine.state.is_gone())
        };
        let found = machines.values().filter(wanted).map(|(machine, _)| machine.clone()).collect();
        if let Some(happen) = self.after_list.lock().unwrap().as_mut() {
            machines.values_mut().for_each(|(machine, _)| happen(machine));
        }
        Ok(found)
    }
    async fn current_image(&self, arch: Arch) -> Result<Option<String>, Error> {
        self.allowed("current_image")?;
        Ok(self.images.lock().unwrap().get(&arch).cloned())
    }
    async fn spot_requests(&self) -> Result<Vec<SpotRequest>, Error> {
        Ok(self.requests.lock().unwrap().clone())
    }
    async fn cancel_spot_requests(&self, ids: &[String]) -> Result<(), Error> {
        self.allowed("cancel")?;
        self.cancelled.lock().unwrap().extend(ids.iter().cloned());
        Ok(())
    }
}
