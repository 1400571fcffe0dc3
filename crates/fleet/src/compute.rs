//! The `Compute` port on EC2: everything about machines that exist. Launching is in `launch`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::{Clock, Rng, Timestamp};
use domain::ids::{LaunchId, RunnerKey};
use provider::compute::{Compute, Error, Filter, Machine, MachineState, Order};
use telemetry::Metrics;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::breaker::Breaker;
use crate::calls::Caller;
use crate::ec2::{Ec2, Instance, Selection};
use crate::error::{Class, Failure};
use crate::facts::Known;
use crate::pace::{Bucket, Pace, Priority};
use crate::retag::Retag;
use crate::settings::Settings;
use crate::tags;

/// How long EC2 may not know a machine it has just launched.
const INVISIBLE: Duration = Duration::from_secs(60);
/// How long a launched machine is known to need no start.
const FRESH: Duration = Duration::from_secs(600);
/// Machines remembered for that.
const FRESH_LIMIT: usize = 10_000;
/// How long a batch may wait for its turn before it is closed all the same.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Before a cancellation of a spot request is tried once more.
const CANCEL_AGAIN: Duration = Duration::from_secs(2);

/// EC2 behind the port for machines.
pub struct Ec2Compute {
    pub(crate) caller: Caller,
    pub(crate) settings: Settings,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    pub(crate) known: Known,
    pub(crate) retag: Retag,
    /// Launches are refused until then: we have no permission, or no credentials.
    pub(crate) paused: Mutex<Pause>,
    /// Machines launched by this process a moment ago.
    fresh: Mutex<BTreeMap<RunnerKey, (Machine, Instant)>>,
}

/// The pause after refused credentials.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    /// Its end.
    pub(crate) until: Option<Instant>,
    /// Refusals without a success in between.
    pub(crate) in_a_row: u32,
}

impl Ec2Compute {
    /// A back end with full buckets. Without a breaker spot capacity is never avoided.
    pub fn new(
        ec2: Arc<dyn Ec2>,
        settings: Settings,
        breaker: Option<Breaker>,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        metrics: Metrics,
    ) -> Self {
        Self {
            caller: Caller { ec2, pace: Arc::new(Pace::new(Instant::now())), rng },
            settings,
            breaker,
            clock,
            metrics,
            known: Known::new(),
            retag: Retag::new(),
            paused: Mutex::default(),
            fresh: Mutex::default(),
        }
    }

    /// Repeats the tags of launched machines, behind the launches; never returns. The owner of the back end runs it as
    /// a task and may drop it at any time.
    pub async fn maintain(&self) {
        self.retag.run(&self.caller).await;
    }

    pub(crate) fn remember(&self, machines: impl IntoIterator<Item = Machine>) {
        let now = Instant::now();
        let mut fresh = self.fresh();
        fresh.retain(|_, (_, at)| now.duration_since(*at) < FRESH);
        for machine in machines {
            if fresh.len() < FRESH_LIMIT {
                fresh.insert(machine.key.clone(), (machine, now));
            }
        }
    }

    fn fresh(&self) -> std::sync::MutexGuard<'_, BTreeMap<RunnerKey, (Machine, Instant)>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A machine launched within so long, if we have not touched it since.
    fn launched_within(&self, key: &RunnerKey, window: Duration) -> Option<Machine> {
        self.fresh().get(key).filter(|(_, at)| at.elapsed() < window).map(|(machine, _)| machine.clone())
    }

    /// What this process launched under a name a moment ago, by key.
    pub(crate) fn launched_before(&self, launch: &LaunchId) -> Vec<Machine> {
        let ours = |(machine, _): &&(Machine, Instant)| machine.launch_id.as_ref() == Some(launch);
        self.fresh().values().filter(ours).map(|(machine, _)| machine.clone()).collect()
    }

    async fn look(&self, key: &RunnerKey, priority: Priority) -> Result<Option<Machine>, Failure> {
        let selection = Selection::Ids(vec![key.to_string()]);
        let found =
            self.caller.call(Bucket::Describe, priority, || self.caller.ec2.describe_instances(&selection)).await;
        let found = match found {
            Ok(instances) => instances.into_iter().find(|instance| instance.id == key.as_str()),
            Err(failure) if failure.class == Class::NotFound => {
                if failure.code.ends_with("Malformed") {
                    error!(instance_id = key.as_str(), "not an instance id");
                }
                None
            }
            Err(failure) => return Err(failure),
        };
        // EC2 may not know yet what it has just launched.
        Ok(found.map(|instance| self.machine(instance)).or_else(|| self.launched_within(key, INVISIBLE)))
    }

    pub(crate) fn machine(&self, instance: Instance) -> Machine {
        machine(instance, self.clock.now())
    }

    /// Lists by filters.
    pub(crate) async fn find(
        &self,
        launch: Option<&LaunchId>,
        states: &[&str],
        priority: Priority,
    ) -> Result<Vec<Machine>, Failure> {
        let mut filters = vec![
            (format!("tag:{}", tags::MANAGED), vec!["true".to_owned()]),
            ("instance-state-name".to_owned(), states.iter().map(|state| (*state).to_owned()).collect()),
        ];
        if let Some(launch) = launch {
            filters.push((format!("tag:{}", tags::LAUNCH_ID), vec![launch.to_string()]));
        }
        let selection = Selection::Filters(filters);
        let found =
            self.caller.call(Bucket::Describe, priority, || self.caller.ec2.describe_instances(&selection)).await?;
        Ok(found.into_iter().map(|instance| self.machine(instance)).collect())
    }

    /// Persistent spot requests would bring their instance back from the dead. Failures are not worth a machine left
    /// running.
    async fn cancel_spot_requests(&self, key: &RunnerKey) {
        let ids = [key.to_string()];
        let attempt = || async {
            let ec2 = &self.caller.ec2;
            let requests =
                self.caller.call(Bucket::Facts, Priority::Background, || ec2.persistent_spot_requests(&ids)).await?;
            match requests.is_empty() {
                true => Ok(()),
                false => {
                    self.caller.call(Bucket::End, Priority::Background, || ec2.cancel_spot_requests(&requests)).await
                }
            }
        };
        if attempt().await.is_err() {
            sleep(CANCEL_AGAIN).await;
            if let Err(failure) = attempt().await {
                let (code, message) = (&failure.code, &failure.message);
                warn!(instance_id = key.as_str(), code, message, "a spot request may bring its instance back");
            }
        }
    }

    pub(crate) async fn terminate_instance(&self, key: &RunnerKey) -> Result<(), Failure> {
        let ids = [key.to_string()];
        let ec2 = &self.caller.ec2;
        let end = || self.caller.call(Bucket::End, Priority::Launch, || ec2.terminate_instances(&ids));
        let ended = match end().await {
            // We may end only what carries our mark, and the mark is sometimes lost.
            Err(failure) if failure.code == "UnauthorizedOperation" => {
                let mark = [(tags::MANAGED.to_owned(), "true".to_owned())];
                match self.caller.call(Bucket::Tag, Priority::Launch, || ec2.create_tags(&ids, &mark)).await {
                    Ok(()) => end().await,
                    Err(_) => Err(failure),
                }
            }
            ended => ended,
        };
        match ended {
            Ok(()) => info!(instance_id = key.as_str(), "instance terminated"),
            Err(failure) if failure.class == Class::NotFound => {}
            Err(failure) => return Err(failure),
        }
        self.fresh().remove(key);
        Ok(())
    }

    /// Starts a stopped instance. EC2 may have changed its state since we looked; then we look once more.
    async fn start_instance(&self, key: &RunnerKey) -> Result<(), Failure> {
        let ids = [key.to_string()];
        for _ in 0..2 {
            match self.look(key, Priority::Launch).await?.map(|machine| machine.state) {
                Some(MachineState::Pending | MachineState::Running) => return Ok(()),
                Some(MachineState::Stopped) => {}
                Some(state) => {
                    return Err(Failure::ours(Class::WrongState, format!("{key} is {}", state.as_str())));
                }
                None => return Err(Failure::ours(Class::NotFound, format!("{key} is gone"))),
            }
            let ec2 = &self.caller.ec2;
            match self.caller.call(Bucket::Start, Priority::Launch, || ec2.start_instances(&ids)).await {
                Err(failure) if failure.class == Class::WrongState => {}
                started => return started,
            }
        }
        Err(Failure::ours(Class::WrongState, format!("{key} cannot be started now")))
    }

    async fn stop_instance(&self, key: &RunnerKey) -> Result<(), Failure> {
        self.fresh().remove(key);
        let Some(machine) = self.look(key, Priority::Background).await? else { return Ok(()) };
        if machine.spot && !machine.state.is_gone() {
            // A spot instance cannot be stopped; left idle it would be billed for ever.
            return self.terminate_instance(key).await;
        }
        if !machine.state.is_up() {
            return Ok(());
        }
        let ids = [key.to_string()];
        let ec2 = &self.caller.ec2;
        let stopped = self.caller.call(Bucket::End, Priority::Background, || ec2.stop_instances(&ids)).await;
        match stopped {
            // Already on its way, unless it is only just starting.
            Err(failure) if failure.class == Class::WrongState && machine.state == MachineState::Running => Ok(()),
            Err(failure) if failure.class == Class::NotFound => Ok(()),
            stopped => stopped,
        }
    }
}

/// The instance as the port shows it. An unknown state is neither up for sure nor gone: as if it were still booting.
fn machine(instance: Instance, now: Timestamp) -> Machine {
    let states = [
        MachineState::Pending,
        MachineState::Running,
        MachineState::Stopping,
        MachineState::Stopped,
        MachineState::ShuttingDown,
        MachineState::Terminated,
    ];
    let state = states.into_iter().find(|state| state.as_str() == instance.state).unwrap_or_else(|| {
        warn!(instance_id = instance.id, state = instance.state, "an unknown instance state");
        MachineState::Pending
    });
    Machine {
        key: RunnerKey::new(instance.id),
        state,
        instance_type: instance.instance_type,
        zone: instance.zone,
        spot: instance.spot,
        launched_at: instance.launched_at.unwrap_or(now),
        launch_id: instance.tags.get(tags::LAUNCH_ID).map(|id| LaunchId::new(id.clone())),
        tags: instance.tags,
    }
}

#[async_trait]
impl Compute for Ec2Compute {
    async fn ready(&self) {
        self.caller.pace.ahead(Instant::now() + READY_WITHIN).await;
    }

    async fn launch(&self, order: &Order) -> Vec<Result<Machine, Error>> {
        Box::pin(self.launch_all(order)).await
    }

    async fn reclaimed(&self, machine: &Machine, at: Timestamp) {
        if let Some(breaker) = &self.breaker {
            breaker.interrupted(&machine.instance_type, machine.zone.as_deref(), &machine.key, at).await;
        }
    }

    /// A launched instance boots by itself; only a stopped one has to be started.
    async fn start(&self, key: &RunnerKey) -> Result<(), Error> {
        if self.launched_within(key, FRESH).is_some() {
            return Ok(());
        }
        self.start_instance(key).await.map_err(|failure| Error::from(&failure))
    }

    async fn stop(&self, key: &RunnerKey) -> Result<(), Error> {
        self.stop_instance(key).await.map_err(|failure| Error::from(&failure))
    }

    async fn terminate(&self, key: &RunnerKey) -> Result<(), Error> {
        // What we launched ourselves has a one-time request at most.
        if self.launched_within(key, FRESH).is_none() {
            match self.look(key, Priority::Background).await {
                Ok(None) => return Ok(()),
                Ok(Some(machine)) if machine.state.is_gone() => return Ok(()),
                Ok(Some(machine)) if !machine.spot => {}
                Ok(Some(_)) | Err(_) => self.cancel_spot_requests(key).await,
            }
        }
        self.terminate_instance(key).await.map_err(|failure| Error::from(&failure))
    }

    async fn describe(&self, key: &RunnerKey) -> Result<Option<Machine>, Error> {
        self.look(key, Priority::Launch).await.map_err(|failure| Error::from(&failure))
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Machine>, Error> {
        let mut states = vec!["pending", "running", "stopping", "stopped"];
        if filter.include_gone {
            states.extend(["shutting-down", "terminated"]);
        }
        let priority = if filter.launch_id.is_some() { Priority::Launch } else { Priority::Background };
        let mut found =
            self.find(filter.launch_id.as_ref(), &states, priority).await.map_err(|failure| Error::from(&failure))?;
        let invisible = |(machine, at): &(Machine, Instant)| {
            at.elapsed() < INVISIBLE
                && filter.launch_id.as_ref().is_none_or(|launch| machine.launch_id.as_ref() == Some(launch))
                && found.iter().all(|other| other.key != machine.key)
        };
        let missing: Vec<Machine> =
            self.fresh().values().filter(|fresh| invisible(fresh)).map(|(machine, _)| machine.clone()).collect();
        found.extend(missing);
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }
}
