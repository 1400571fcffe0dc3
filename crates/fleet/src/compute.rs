//! The `Compute` port on EC2: everything about machines that exist. Launching is in `launch`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::{Clock, Rng, Timestamp};
use domain::ids::RunnerKey;
use domain::launch::Arch;
use provider::compute::{Compute, Error, Filter, Machine, MachineState, Order, SpotRequest, Which};
use provider::tags;
use telemetry::Metrics;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::breaker::Breaker;
use crate::calls::Caller;
use crate::ec2::{Ec2, Instance, Selection};
use crate::error::{Class, Failure};
use crate::facts::Known;
use crate::fresh::{self, Fresh};
use crate::machine::{self, Criterion};
use crate::pace::{Bucket, Pace, Priority};
use crate::request;
use crate::retag::Retag;
use crate::settings::Settings;

/// How long EC2 may not know a machine it has just launched.
const INVISIBLE: Duration = Duration::from_secs(60);
/// How long a batch may wait for its turn before it is closed all the same.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How many things one call names at most.
const CHUNK: usize = 100;
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
    fresh: Mutex<Fresh>,
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

    pub(crate) fn fresh(&self) -> MutexGuard<'_, Fresh> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A machine launched within so long, if we have not touched it since.
    fn launched_within(&self, key: &RunnerKey, window: Duration) -> Option<Machine> {
        self.fresh().within(key, window)
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
        machine::machine(instance, self.clock.now())
    }

    /// Lists by filters.
    pub(crate) async fn find(&self, criteria: Vec<Criterion>, priority: Priority) -> Result<Vec<Machine>, Failure> {
        let selection = Selection::Filters(criteria);
        let found =
            self.caller.call(Bucket::Describe, priority, || self.caller.ec2.describe_instances(&selection)).await?;
        Ok(found.into_iter().map(|instance| self.machine(instance)).collect())
    }

    /// Persistent spot requests would bring their instance back from the dead. Failures are not worth a machine left
    /// running.
    async fn cancel_spot_requests_of(&self, key: &RunnerKey) {
        let filters = [("instance-id".to_owned(), vec![key.to_string()]), open()];
        let attempt = || async {
            let ec2 = &self.caller.ec2;
            let found = self.caller.call(Bucket::Facts, Priority::Background, || ec2.spot_requests(&filters)).await?;
            let requests: Vec<String> = found.into_iter().filter(|r| r.persistent).map(|r| r.id).collect();
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
            self.cancel_spot_requests_of(key).await;
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

    /// A launched instance boots by itself; only a stopped one has to be started. A spare may have been stopped by
    /// another process.
    async fn start(&self, key: &RunnerKey) -> Result<(), Error> {
        if self.launched_within(key, fresh::KEPT).is_some_and(|machine| machine.launch_id.is_some()) {
            return Ok(());
        }
        self.start_instance(key).await.map_err(|failure| Error::from(&failure))
    }

    async fn stop(&self, key: &RunnerKey) -> Result<(), Error> {
        self.stop_instance(key).await.map_err(|failure| Error::from(&failure))
    }

    async fn terminate(&self, key: &RunnerKey) -> Result<(), Error> {
        // What we launched ourselves has a one-time request at most.
        if self.launched_within(key, fresh::KEPT).is_none() {
            match self.look(key, Priority::Background).await {
                Ok(None) => return Ok(()),
                Ok(Some(machine)) if machine.state.is_gone() => return Ok(()),
                Ok(Some(machine)) if !machine.spot => {}
                Ok(Some(_)) | Err(_) => self.cancel_spot_requests_of(key).await,
            }
        }
        self.terminate_instance(key).await.map_err(|failure| Error::from(&failure))
    }

    async fn tag(&self, key: &RunnerKey, tags: &[(String, String)]) -> Result<(), Error> {
        let (ids, ec2) = ([key.to_string()], &self.caller.ec2);
        let call = self.caller.call(Bucket::Tag, Priority::Launch, || ec2.create_tags(&ids, tags));
        call.await.map_err(|failure| Error::from(&failure))
    }

    async fn untag(&self, key: &RunnerKey, names: &[&str]) -> Result<(), Error> {
        let (ids, ec2) = ([key.to_string()], &self.caller.ec2);
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let call = self.caller.call(Bucket::Tag, Priority::Launch, || ec2.delete_tags(&ids, &names));
        call.await.map_err(|failure| Error::from(&failure))
    }

    async fn describe(&self, key: &RunnerKey) -> Result<Option<Machine>, Error> {
        self.look(key, Priority::Launch).await.map_err(|failure| Error::from(&failure))
    }

    async fn describe_many(&self, keys: &[RunnerKey]) -> Result<Vec<Machine>, Error> {
        let mut found = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(CHUNK) {
            // By filter: it does not mind ids that EC2 does not know.
            let ids = ("instance-id".to_owned(), chunk.iter().map(ToString::to_string).collect());
            found.extend(self.find(vec![ids], Priority::Background).await.map_err(|failure| Error::from(&failure))?);
        }
        let known: BTreeSet<RunnerKey> = found.iter().map(|machine: &Machine| machine.key.clone()).collect();
        let unseen = keys.iter().filter(|key| !known.contains(*key));
        found.extend(unseen.filter_map(|key| self.launched_within(key, INVISIBLE)));
        Ok(found)
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Machine>, Error> {
        let profile = self.settings.instance_profile.as_deref();
        let Some(criteria) = machine::criteria(filter, profile) else { return Ok(Vec::new()) };
        let priority = if filter.launch_id.is_some() { Priority::Launch } else { Priority::Background };
        let mut found = self.find(criteria, priority).await.map_err(|failure| Error::from(&failure))?;
        if filter.which == Which::Unmarked {
            found.retain(|machine| !machine.tags.contains_key(tags::MANAGED));
        }
        // EC2's own word first, so that it is what stays.
        found.extend(self.fresh().since(INVISIBLE).filter(|machine| filter.admits(machine)).cloned());
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found.dedup_by(|later, earlier| later.key == earlier.key);
        Ok(found)
    }

    async fn current_image(&self, arch: Arch) -> Result<Option<String>, Error> {
        let name = request::template(&self.settings.launch_template, "linux", arch);
        Ok(self.known.image(&self.caller, arch, &name).await)
    }

    async fn spot_requests(&self) -> Result<Vec<SpotRequest>, Error> {
        let filters = [machine::ours(), open()];
        let ec2 = &self.caller.ec2;
        let call = self.caller.call(Bucket::Facts, Priority::Background, || ec2.spot_requests(&filters));
        let found = call.await.map_err(|failure| Error::from(&failure))?.into_iter();
        Ok(found.filter_map(|r| Some(SpotRequest { id: r.id, machine: RunnerKey::new(r.instance?) })).collect())
    }

    async fn cancel_spot_requests(&self, ids: &[String]) -> Result<(), Error> {
        let ec2 = &self.caller.ec2;
        for chunk in ids.chunks(CHUNK) {
            let call = self.caller.call(Bucket::End, Priority::Background, || ec2.cancel_spot_requests(chunk));
            call.await.map_err(|failure| Error::from(&failure))?;
        }
        Ok(())
    }
}

/// Spot requests that may still bring something.
fn open() -> Criterion {
    ("state".to_owned(), ["open", "active", "disabled"].map(str::to_owned).to_vec())
}
