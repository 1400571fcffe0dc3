//! An EC2 in memory, behind the port of `fleet`.
//!
//! It answers like EC2 where that matters to a launch: a repeated client token brings the same instances, with other
//! parameters `IdempotentParameterMismatch`; a fleet may be partial, with errors beside its instances; capacity is per
//! type, zone and lifecycle; a new instance may not be visible for a while; any call can be told to fail, or to take
//! effect and lose its answer. The same calls in the same order give the same answers.
//!
//! With a [`Boot`] it also lives in time: instances boot, are taken back, shut down and are forgotten. Whoever lives on
//! an instance is a [`Guests`] and hears of all that.

mod budget;
mod guests;
mod money;
mod power;
mod time;

pub use budget::Asked;
pub use guests::Guests;
pub use money::Ledger;
pub use time::{Boot, Drought};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::{Clock, Rng};
use fleet::ec2::{
    ApiError, Ec2, FleetAnswer, FleetError, FleetInstance, FleetRequest, Instance, Selection, SpotPrice, SpotRequest,
    Subnet, Template,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::chance::SeededRng;
use budget::Meter;
use guests::News;
use time::Agenda;

/// What happens to one call instead of the usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// EC2 refuses: code and message.
    Refuse(&'static str, &'static str),
    /// The call takes effect and its answer is lost.
    LoseAnswer,
    /// The call is lost on its way.
    LoseCall,
    /// The call is lost on its way, and nobody says so.
    Hang,
}

/// What the cloud is like. All of it may be changed at any time.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Subnets there are.
    pub subnets: Vec<Subnet>,
    /// Pairs of type and zone.
    pub offerings: Vec<(String, String)>,
    /// Spot prices.
    pub prices: Vec<SpotPrice>,
    /// Launch templates; empty: every name exists.
    pub templates: BTreeSet<String>,
    /// Which edition of their images launch templates name.
    pub image_edition: u32,
    /// Instances left, by type, zone and whether spot; what is not named is plenty.
    pub capacity: BTreeMap<(String, String, bool), u32>,
    /// Instances are not described for so long.
    pub invisible: Duration,
    /// Instances without our mark may not be ended.
    pub guarded: bool,
    /// Persistent spot requests by instance.
    pub persistent: BTreeMap<String, String>,
    /// How long instances take to boot; `None`: they run at once, and nobody lives on them.
    pub boot: Option<Boot>,
    /// When there is no capacity of which kind.
    pub droughts: Vec<Drought>,
    /// Chance that a fleet gets only some of what it asked for.
    pub partial: f64,
    /// How often a spot instance is taken back.
    pub reclaims_per_hour: f64,
    /// Share of those that go without a warning.
    pub unwarned: f64,
}

struct Held {
    instance: Instance,
    /// How often it was started and stopped: what is due of an earlier life is void.
    life: u32,
    /// When it was started, or stopped.
    since: Instant,
    /// From when on it is described.
    visible: Instant,
    /// The last instant it is paid for.
    until: Option<Instant>,
}

#[derive(Default)]
struct State {
    world: World,
    instances: BTreeMap<String, Held>,
    tokens: BTreeMap<String, (FleetRequest, FleetAnswer)>,
    faults: BTreeMap<&'static str, VecDeque<Fault>>,
    calls: BTreeMap<&'static str, Meter>,
    requests: Vec<FleetRequest>,
    /// How many instances there ever were.
    made: u64,
    launches: BTreeMap<String, BTreeSet<String>>,
    live: BTreeSet<String>,
    agenda: Agenda,
    ledger: Ledger,
    /// What guests are to be told, once the state is free.
    news: Vec<News>,
}

/// The cloud.
pub struct Cloud {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    guests: Mutex<Vec<Arc<dyn Guests>>>,
    changed: Notify,
}

impl Cloud {
    /// An empty region of this nature.
    pub fn new(world: World, clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::seeded(world, clock, Arc::new(SeededRng::new(0)))
    }

    /// The same, with chance of its own.
    pub fn seeded(world: World, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Arc<Self> {
        let state = Mutex::new(State { world, ..State::default() });
        Arc::new(Self { state, clock, rng, guests: Mutex::default(), changed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what the cloud is like.
    pub fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.state().world);
    }

    /// The next calls of an operation (`CreateFleet`, …) meet these faults, one each.
    pub fn fail(&self, operation: &'static str, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.entry(operation).or_default().extend(faults);
    }

    /// How often an operation was called.
    pub fn calls(&self, operation: &str) -> u32 {
        self.state().calls.get(operation).map_or(0, |meter| u32::try_from(meter.asked().calls).unwrap_or(u32::MAX))
    }

    /// What was asked for, operation by operation.
    pub fn asked(&self) -> BTreeMap<&'static str, Asked> {
        self.state().calls.iter().map(|(operation, meter)| (*operation, meter.asked())).collect()
    }

    /// Every fleet request that arrived, repeated ones too.
    pub fn requests(&self) -> Vec<FleetRequest> {
        self.state().requests.clone()
    }

    /// Every instance there ever was, by id.
    pub fn instances(&self) -> Vec<Instance> {
        self.state().instances.values().map(|held| held.instance.clone()).collect()
    }

    /// Puts an instance there, as if somebody else had launched it.
    pub fn put(&self, instance: Instance) {
        let now = Instant::now();
        let mut state = self.state();
        state.live.insert(instance.id.clone());
        state.instances.insert(instance.id.clone(), Held { life: 0, since: now, visible: now, until: None, instance });
    }

    /// Changes an instance behind everybody's back.
    pub fn alter(&self, id: &str, change: impl FnOnce(&mut Instance)) {
        if let Some(held) = self.state().instances.get_mut(id) {
            change(&mut held.instance);
        }
    }

    /// One call: counted, and struck by the fault that waits for it.
    async fn call<T>(
        &self,
        operation: &'static str,
        effect: impl FnOnce(&mut State) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let fault = {
            let mut state = self.state();
            let now = Instant::now();
            state.calls.entry(operation).or_insert_with(|| Meter::of(operation, now)).count(now);
            state.faults.get_mut(operation).and_then(VecDeque::pop_front)
        };
        let lost = || Err(ApiError::NoAnswer("the connection broke".to_owned()));
        match fault {
            None => self.change_state(effect),
            Some(Fault::Refuse(code, message)) => refuse(code, message),
            Some(Fault::LoseAnswer) => {
                self.change_state(effect)?;
                lost()
            }
            Some(Fault::LoseCall) => lost(),
            Some(Fault::Hang) => std::future::pending().await,
        }
    }
}

fn refuse<T>(code: &str, message: &str) -> Result<T, ApiError> {
    let status = if code == "RequestLimitExceeded" { 503 } else { 400 };
    Err(ApiError::Refused { code: code.to_owned(), message: message.to_owned(), status })
}

impl State {
    fn create(&mut self, request: &FleetRequest, clock: &dyn Clock, rng: &dyn Rng) -> Result<FleetAnswer, ApiError> {
        if self.world.boot.is_none() {
            self.requests.push(request.clone());
        }
        if let Some((first, answer)) = self.tokens.get(&request.client_token) {
            return match first == request {
                true => Ok(answer.clone()),
                false => refuse("IdempotentParameterMismatch", "the client token was used with other parameters"),
            };
        }
        if !self.world.templates.is_empty() && !self.world.templates.contains(&request.launch_template) {
            return refuse("InvalidLaunchTemplateName.NotFoundException", "there is no such launch template");
        }
        let mut answer = FleetAnswer { fleet_id: format!("fleet-{}", self.tokens.len()), ..FleetAnswer::default() };
        let mut wanted = request.capacity;
        if self.world.partial > 0.0 && rng.unit() < self.world.partial {
            wanted = (f64::from(wanted) * rng.unit()) as u32;
        }
        let now = clock.now();
        for kind in &request.overrides {
            let zone_of = |id: &String| self.world.subnets.iter().find(|s| s.id == *id).map(|s| s.zone.clone());
            let zone = kind.subnet.as_ref().and_then(zone_of);
            let so_far = u32::try_from(answer.instances.len()).unwrap_or(u32::MAX);
            let missing = wanted.saturating_sub(so_far);
            let dry = |d: &Drought| d.strikes(&kind.instance_type, zone.as_deref(), request.spot, now);
            let missing = if self.world.droughts.iter().any(dry) { 0 } else { missing };
            let pool = (kind.instance_type.clone(), zone.clone().unwrap_or_default(), request.spot);
            let left = self.world.capacity.get_mut(&pool);
            let given = left.as_deref().map_or(missing, |left| missing.min(*left));
            if let Some(left) = left {
                *left -= given;
            }
            for _ in 0..given {
                let instance = self.make(request, &kind.instance_type, zone.clone(), now, rng);
                answer.instances.push(FleetInstance {
                    id: instance.id,
                    instance_type: instance.instance_type,
                    zone: instance.zone,
                    subnet: kind.subnet.clone(),
                    spot: request.spot,
                });
            }
            if answer.instances.len() < request.capacity as usize {
                answer.errors.push(FleetError {
                    code: "InsufficientInstanceCapacity".to_owned(),
                    message: "there is no capacity of this kind".to_owned(),
                    instance_type: Some(kind.instance_type.clone()),
                    subnet: kind.subnet.clone(),
                    zone: zone.clone(),
                });
            }
        }
        self.tokens.insert(request.client_token.clone(), (request.clone(), answer.clone()));
        self.forget_token_later(&request.client_token);
        Ok(answer)
    }

    /// The image a launch template names.
    fn image(&self, template: &str) -> Option<String> {
        Some(format!("ami-{template}-{}", self.world.image_edition))
    }

    fn visible(&self, held: &Held) -> bool {
        Instant::now() >= held.visible
    }

    fn known(&self, ids: &[String]) -> Result<(), ApiError> {
        let missing: Vec<&str> =
            ids.iter().map(String::as_str).filter(|id| !self.instances.contains_key(*id)).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => {
                refuse("InvalidInstanceID.NotFound", &format!("The instance IDs '{}' do not exist", missing.join(", ")))
            }
        }
    }

    fn describe(&self, selection: &Selection) -> Result<Vec<Instance>, ApiError> {
        let shown = |id: &String| self.instances.get(id).filter(|held| self.visible(held)).map(|held| &held.instance);
        match selection {
            Selection::Ids(ids) => {
                let found: Vec<Instance> = ids.iter().filter_map(shown).cloned().collect();
                match found.len() == ids.len() {
                    true => Ok(found),
                    false => refuse("InvalidInstanceID.NotFound", "some of the instances do not exist"),
                }
            }
            Selection::Filters(filters) => {
                let passes = |instance: &&Instance| {
                    filters.iter().all(|(name, values)| {
                        let value = match name.strip_prefix("tag:") {
                            Some(key) => instance.tags.get(key),
                            None if name == "instance-id" => Some(&instance.id),
                            None if name == "iam-instance-profile.arn" => instance.profile.as_ref(),
                            None => (name == "instance-state-name").then_some(&instance.state),
                        };
                        value.is_some_and(|value| values.contains(value))
                    })
                };
                let of = |name: &str| filters.iter().find(|(filter, _)| filter == name);
                let launch = of(&format!("tag:{}", provider::tags::LAUNCH_ID));
                let (ids, states) = (of("instance-id"), of("instance-state-name"));
                let gone =
                    states.is_none_or(|(_, states)| states.iter().any(|s| s == "terminated" || s == "shutting-down"));
                Ok(match (ids, launch) {
                    (Some((_, ids)), _) => ids.iter().filter_map(shown).filter(passes).cloned().collect(),
                    (None, Some((_, launches))) => {
                        let ids = launches.iter().filter_map(|launch| self.launches.get(launch)).flatten();
                        ids.filter_map(shown).filter(passes).cloned().collect()
                    }
                    (None, None) if gone => self.instances.keys().filter_map(shown).filter(passes).cloned().collect(),
                    (None, None) => self.live.iter().filter_map(shown).filter(passes).cloned().collect(),
                })
            }
        }
    }

    /// Moves instances from one of the states to another, all or none.
    fn shift(&mut self, ids: &[String], from: &[&str], to: &str) -> Result<(), ApiError> {
        self.known(ids)?;
        let fits =
            |id: &String| self.instances.get(id).is_some_and(|held| from.contains(&held.instance.state.as_str()));
        if !ids.iter().all(fits) {
            return refuse("IncorrectInstanceState", "the instance is not in a state for this");
        }
        for id in ids {
            if let Some(held) = self.instances.get_mut(id) {
                held.instance.state = to.to_owned();
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Ec2 for Cloud {
    async fn create_fleet(&self, request: &FleetRequest) -> Result<FleetAnswer, ApiError> {
        self.call("CreateFleet", |state| state.create(request, &*self.clock, &*self.rng)).await
    }
    async fn create_tags(&self, ids: &[String], tags: &[(String, String)]) -> Result<(), ApiError> {
        let tag = |state: &mut State| {
            state.known(ids)?;
            for id in ids {
                if let Some(held) = state.instances.get_mut(id) {
                    held.instance.tags.extend(tags.iter().cloned());
                }
                state.note_launch(id);
            }
            Ok(())
        };
        self.call("CreateTags", tag).await
    }
    async fn delete_tags(&self, ids: &[String], keys: &[String]) -> Result<(), ApiError> {
        let untag = |state: &mut State| {
            state.known(ids)?;
            for id in ids {
                if let Some(held) = state.instances.get_mut(id) {
                    held.instance.tags.retain(|key, _| !keys.contains(key));
                }
            }
            Ok(())
        };
        self.call("DeleteTags", untag).await
    }
    async fn describe_instances(&self, selection: &Selection) -> Result<Vec<Instance>, ApiError> {
        self.call("DescribeInstances", |state| state.describe(selection)).await
    }
    async fn start_instances(&self, ids: &[String]) -> Result<(), ApiError> {
        self.call("StartInstances", |state| state.start(ids, self.clock.now(), &*self.rng)).await
    }
    async fn stop_instances(&self, ids: &[String]) -> Result<(), ApiError> {
        self.call("StopInstances", |state| state.stop(ids, &*self.rng)).await
    }
    async fn terminate_instances(&self, ids: &[String]) -> Result<(), ApiError> {
        let end = |state: &mut State| {
            state.known(ids)?;
            let marked = |id: &String| {
                state.instances.get(id).is_some_and(|h| h.instance.tags.contains_key(provider::tags::MANAGED))
            };
            if state.world.guarded && !ids.iter().all(marked) {
                return refuse("UnauthorizedOperation", "You are not authorized to perform this operation.");
            }
            for id in ids {
                // A persistent request brings another instance.
                if state.world.persistent.contains_key(id) {
                    continue;
                }
                state.end(id, "orchestrator");
            }
            Ok(())
        };
        self.call("TerminateInstances", end).await
    }
    async fn describe_subnets(&self, ids: &[String]) -> Result<Vec<Subnet>, ApiError> {
        let found = |state: &mut State| {
            let found: Vec<Subnet> = state.world.subnets.iter().filter(|s| ids.contains(&s.id)).cloned().collect();
            match found.len() == ids.len() {
                true => Ok(found),
                false => refuse("InvalidSubnetID.NotFound", "some of the subnets do not exist"),
            }
        };
        self.call("DescribeSubnets", found).await
    }
    async fn offerings(&self) -> Result<Vec<(String, String)>, ApiError> {
        self.call("DescribeInstanceTypeOfferings", |state| Ok(state.world.offerings.clone())).await
    }
    async fn spot_prices(&self, types: &[String], _product: &str) -> Result<Vec<SpotPrice>, ApiError> {
        let asked = |state: &mut State| {
            Ok(state.world.prices.iter().filter(|price| types.contains(&price.instance_type)).cloned().collect())
        };
        self.call("DescribeSpotPriceHistory", asked).await
    }
    async fn template(&self, name: &str) -> Result<Option<Template>, ApiError> {
        let newest = |state: &mut State| {
            let exists = state.world.templates.is_empty() || state.world.templates.contains(name);
            Ok(exists.then(|| Template { image: state.image(name) }))
        };
        self.call("DescribeLaunchTemplateVersions", newest).await
    }
    async fn spot_requests(&self, filters: &[(String, Vec<String>)]) -> Result<Vec<SpotRequest>, ApiError> {
        let wanted = filters.iter().find(|(name, _)| name == "instance-id").map(|(_, ids)| ids);
        let asked = |state: &mut State| {
            let requests = state.world.persistent.iter();
            let requests = requests.filter(|(instance, _)| wanted.is_none_or(|ids| ids.contains(instance)));
            let open = |(instance, id): (&String, &String)| SpotRequest {
                id: id.clone(),
                instance: Some(instance.clone()),
                persistent: true,
            };
            Ok(requests.map(open).collect())
        };
        self.call("DescribeSpotInstanceRequests", asked).await
    }
    async fn cancel_spot_requests(&self, requests: &[String]) -> Result<(), ApiError> {
        let cancel = |state: &mut State| {
            state.world.persistent.retain(|_, request| !requests.contains(request));
            Ok(())
        };
        self.call("CancelSpotInstanceRequests", cancel).await
    }
}
