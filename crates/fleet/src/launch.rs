//! One launch: gather the facts, build the requests, send them one after the other for what is still missing.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::ids::{PoolName, RunnerKey};
use domain::launch::Arch;
use provider::compute::{Error, Machine, MachineState, Members, Order, Slot};
use provider::tags;
use telemetry::metrics::{Capacity, Family, FleetResult};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{error, info, warn};

use crate::calls::LAUNCH_MARGIN;
use crate::candidates;
use crate::compute::Ec2Compute;
use crate::ec2::{FleetAnswer, FleetInstance, FleetRequest};
use crate::error::{self, Class, Failure};
use crate::machine::{in_state, ours, tagged};
use crate::pace::Priority;
use crate::request::{self, Facts};
use crate::response;
use crate::subnets::{self, Place};
use crate::tags::of as tags_of;

/// How long launching pauses when we may not, or nobody knows us.
const PAUSE: Duration = Duration::from_secs(30);
/// Refusals in a row that deserve more than a warning.
const ALARMING: u32 = 3;
/// Between the two looks for machines of a launch whose answer was lost.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Turns when one subnet has to stand for all.
static TURN: AtomicUsize = AtomicUsize::new(0);

/// An instance and whom it is for; a spare is for nobody.
type Paired<'a> = (FleetInstance, Option<&'a Slot>);

/// What the requests of a launch brought.
#[derive(Default)]
struct Brought {
    instances: Vec<(FleetInstance, Arch)>,
    failures: Vec<Failure>,
}

impl Brought {
    /// The reason for what is missing.
    fn reason(&self) -> Failure {
        response::reason(self.failures.iter().cloned())
    }

    /// Whether another request may do better: only when EC2 said that it had no capacity for this one.
    fn wants_another(&self) -> bool {
        matches!(self.reason().class, Class::Capacity | Class::Quota)
    }
}

impl Ec2Compute {
    pub(crate) async fn launch_all(&self, order: &Order) -> Vec<Result<Machine, Error>> {
        if order.members.is_empty() {
            return Vec::new();
        }
        let before = self.fresh().of(&order.launch_id);
        let (machines, reason) = match before.is_empty() {
            // Asked for again, it might bring more: requests that were refused then could be granted now.
            false => (before, Failure::ours(Class::Transient, "this launch was answered before")),
            true => match self.plan(order).await {
                Ok((places, requests)) => self.send_all(order, &places, requests).await,
                Err(failure) => (Vec::new(), failure),
            },
        };
        let members = order.members.len();
        let missing = (machines.len()..members).map(|_| Err(Error::from(&reason)));
        machines.into_iter().take(members).map(Ok).chain(missing).collect()
    }

    /// Everything that comes before the first request.
    async fn plan(&self, order: &Order) -> Result<(Vec<Place>, Vec<(Arch, FleetRequest)>), Failure> {
        let spec = &order.spec;
        let for_jobs = matches!(order.members, Members::Jobs(_));
        let spot = order.spot && self.settings.spot_enabled && for_jobs;
        // Whatever can be refused without asking anybody is.
        let mut groups = candidates::groups(spec, spot).map_err(invalid)?;
        request::volume(spec).map_err(invalid)?;
        self.permitted()?;
        if Instant::now() + LAUNCH_MARGIN > order.until {
            return Err(Failure::ours(Class::Throttled, "throttled: too little time is left"));
        }
        if !matches!(spec.os.as_str(), "" | "linux" | "windows") {
            warn!(os = spec.os, "an unknown operating system is taken for Linux");
        }
        let (subnets, fell_back) = self.settings.subnets(spec.private);
        if fell_back {
            warn!("a job asks for private subnets and none are configured");
        }
        if spec.os == "windows" {
            let name = request::template(&self.settings.launch_template, "windows", Arch::Amd64);
            if self.known.windows_template(&self.caller, &name).await == Some(false) {
                let text = format!("windows_unsupported: there is no launch template {name}");
                return Err(Failure::ours(Class::Invalid, text));
            }
        }
        let all = self.settings.all_subnets();
        let types: Vec<String> = groups.iter().flat_map(|group| group.types.clone()).collect();
        let prices = async {
            match groups.len() {
                1 => BTreeMap::new(),
                _ => self.known.prices(&self.caller, &types, spec.os == "windows").await,
            }
        };
        let facts =
            async { tokio::join!(self.known.subnets(&self.caller, &all), self.known.offerings(&self.caller), prices) };
        let (zones, offerings, prices) = facts.await;
        groups = candidates::cheapest_first(groups, &prices);
        let mut facts = Facts {
            groups,
            places: subnets::places(subnets, &zones),
            offerings,
            exhausted: self.known.exhausted(spot),
        };
        let mut offered = request::candidates(spec, &facts, spot).map_err(invalid)?;
        let mut as_spot = spot;
        if let Some(breaker) = self.breaker.as_ref().filter(|_| spot) {
            let admitted = breaker.admit(&offered, u32::try_from(order.members.len()).unwrap_or(u32::MAX)).await;
            if admitted.is_empty() {
                info!(launch_id = order.launch_id.as_str(), "spot capacity is being taken back everywhere: on-demand");
                as_spot = false;
                facts.groups = candidates::groups(spec, false).map_err(invalid)?;
                facts.exhausted = self.known.exhausted(false);
                offered = request::candidates(spec, &facts, false).map_err(invalid)?;
            } else {
                offered = admitted;
            }
        }
        let requests = request::build(order, &offered, as_spot, &self.settings);
        Ok((facts.places, offered.iter().map(|(arch, _)| *arch).zip(requests).collect()))
    }

    /// Sends the requests, each for what is still missing; machines in the order of the slots, and the reason for
    /// those that are missing.
    async fn send_all(
        &self,
        order: &Order,
        places: &[Place],
        requests: Vec<(Arch, FleetRequest)>,
    ) -> (Vec<Machine>, Failure) {
        let slots = order.members.len();
        let mut brought = Brought::default();
        for (nth, (arch, mut request)) in requests.into_iter().enumerate() {
            if nth > 0 && (brought.instances.len() >= slots || !brought.wants_another()) {
                break;
            }
            request.capacity = u32::try_from(slots - brought.instances.len()).unwrap_or(u32::MAX);
            let twice = self.send(order, &request, arch, places, &mut brought).await;
            if let Some(single) = twice.then(|| single_subnet(&request)).flatten() {
                warn!("EC2 found one zone twice among the subnets: trying with one of them");
                brought.failures.clear();
                self.send(order, &single, arch, places, &mut brought).await;
            }
        }
        self.assess(&brought, slots);
        let reason = brought.reason();
        let archs: BTreeMap<String, Arch> = brought.instances.iter().map(|(i, arch)| (i.id.clone(), *arch)).collect();
        let paired = response::pair(brought.instances.into_iter().map(|(instance, _)| instance).collect(), slots);
        for surplus in paired.surplus {
            error!(instance_id = surplus.id, "EC2 launched more than was asked for");
            let key = RunnerKey::new(surplus.id);
            if let Ok(Err(failure)) = timeout_at(order.until, self.terminate_instance(&key)).await {
                error!(instance_id = key.as_str(), code = failure.code, "a surplus instance was left to the sweep");
            }
        }
        (self.adorn(order, places, paired.used, &archs), reason)
    }

    /// Sends one request to its end. Whether EC2 refused it for naming a zone twice.
    async fn send(
        &self,
        order: &Order,
        request: &FleetRequest,
        arch: Arch,
        places: &[Place],
        brought: &mut Brought,
    ) -> bool {
        let capacity = if request.spot { Capacity::Spot } else { Capacity::OnDemand };
        let create = || async {
            let began = Instant::now();
            let answer = self.caller.ec2.create_fleet(request).await;
            self.metrics.fleet_create_time(capacity, began.elapsed());
            answer
        };
        let answer = match self.caller.create_fleet(order.until, create).await {
            Ok(answer) => answer,
            Err(failed) => {
                let used = failed.failure.class == Class::TokenReused;
                let found = match failed.unsure || used {
                    true => self.adopt(order, request, brought).await,
                    false => Vec::new(),
                };
                if found.is_empty() {
                    let failure = failed.failure;
                    self.metrics.fleet_create(capacity, FleetResult::Failure);
                    let (code, message, launch_id) = (&failure.code, &failure.message, order.launch_id.as_str());
                    warn!(launch_id, code, message, "no fleet was created");
                    let twice = failure.code.starts_with("InvalidFleetConfig")
                        && failure.message.to_ascii_lowercase().contains("duplicate");
                    brought.failures.push(failure);
                    return twice;
                }
                info!(
                    launch_id = order.launch_id.as_str(),
                    found = found.len(),
                    "machines of a lost answer were found"
                );
                if found.len() < usize::try_from(request.capacity).unwrap_or(usize::MAX) {
                    let text = "the answer was lost, and not every machine was found";
                    brought.failures.push(Failure::ours(Class::Transient, text));
                }
                FleetAnswer { instances: found, ..FleetAnswer::default() }
            }
        };
        for failed in &answer.errors {
            let family = Family::of(failed.instance_type.as_deref().unwrap_or_default());
            self.metrics.fleet_capacity_errors(family, error::label_of(&failed.code));
        }
        self.known.exhaust(request.spot, response::exhausted(&answer.errors, places));
        let missing = usize::try_from(request.capacity).unwrap_or(usize::MAX) > answer.instances.len();
        let result = match (answer.instances.is_empty(), missing) {
            (true, _) => FleetResult::Failure,
            (false, true) => FleetResult::Partial,
            (false, false) => FleetResult::Success,
        };
        self.metrics.fleet_create(capacity, result);
        for instance in &answer.instances {
            self.metrics.fleet_instances_launched(capacity, Family::of(&instance.instance_type));
        }
        if missing && (answer.instances.is_empty() || !answer.errors.is_empty() || brought.failures.is_empty()) {
            brought.failures.push(response::shortfall(&answer.errors));
        }
        brought.instances.extend(answer.instances.into_iter().map(|instance| (instance, arch)));
        false
    }

    /// What exists of a launch whose answer was lost: two looks, since what is new is not visible at once. Spares do not
    /// say which launch they came from; whoever looks at their pool next sees them.
    async fn adopt(&self, order: &Order, request: &FleetRequest, brought: &Brought) -> Vec<FleetInstance> {
        if order.members.pool().is_some() {
            return Vec::new();
        }
        let mut found: BTreeMap<String, FleetInstance> = BTreeMap::new();
        for look in 0..2 {
            if look > 0 {
                sleep_until((Instant::now() + LOOK_AGAIN).min(order.until)).await;
            }
            let filters =
                vec![ours(), tagged(tags::LAUNCH_ID, order.launch_id.as_str()), in_state(&["pending", "running"])];
            let looking = self.find(filters, Priority::Launch);
            let Ok(Ok(machines)) = timeout_at(order.until, looking).await else { continue };
            for machine in machines {
                let id = machine.key.to_string();
                if brought.instances.iter().all(|(known, _)| known.id != id) {
                    let (zone, spot) = (machine.zone, machine.spot);
                    let instance_type = machine.instance_type;
                    found.insert(id.clone(), FleetInstance { id, instance_type, zone, subnet: None, spot });
                }
            }
            if found.len() >= usize::try_from(request.capacity).unwrap_or(usize::MAX) {
                break;
            }
        }
        found.into_values().collect()
    }

    /// Launching is paused while we may not.
    fn permitted(&self) -> Result<(), Failure> {
        let paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        match paused.until.is_some_and(|until| Instant::now() < until) {
            true => {
                Err(Failure::ours(Class::Credentials, "launching is paused: permissions or credentials were refused"))
            }
            false => Ok(()),
        }
    }

    /// What a launch says about the deployment.
    fn assess(&self, brought: &Brought, slots: usize) {
        let worst = (brought.instances.len() < slots).then(|| brought.reason());
        let class = worst.as_ref().map(|failure| failure.class);
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        if class == Some(Class::Credentials) {
            paused.until = Some(Instant::now() + PAUSE);
            paused.in_a_row = paused.in_a_row.saturating_add(1);
            let (in_a_row, code) = (paused.in_a_row, worst.as_ref().map(|failure| failure.code.as_str()));
            if in_a_row >= ALARMING {
                error!(in_a_row, code, "EC2 keeps refusing us; launching pauses");
            } else {
                warn!(in_a_row, code, "EC2 refused us; launching pauses");
            }
        } else if class.is_none() {
            paused.in_a_row = 0;
        }
        match class {
            Some(Class::Quota) => self.metrics.fleet_quota_exceeded(Some(1.0)),
            Some(Class::Deployment) => self.metrics.fleet_config_error(Some(1.0)),
            // EC2 looked at the whole request before it said that.
            Some(Class::Capacity) => self.metrics.fleet_config_error(Some(0.0)),
            None => {
                self.metrics.fleet_quota_exceeded(Some(0.0));
                self.metrics.fleet_config_error(Some(0.0));
            }
            Some(_) => {}
        }
    }

    /// Instances become machines: remembered, and their tags written once more behind our back.
    fn adorn(
        &self,
        order: &Order,
        places: &[Place],
        instances: Vec<FleetInstance>,
        archs: &BTreeMap<String, Arch>,
    ) -> Vec<Machine> {
        let zone_of = |subnet: &Option<String>| {
            subnet.as_ref().and_then(|_| places.iter().find(|place| place.subnet == *subnet)?.zone.clone())
        };
        let slots = order.members.slots();
        let paired: Vec<Paired> = instances.into_iter().enumerate().map(|(n, one)| (one, slots.get(n))).collect();
        // Jobs of one run share their tags, and thereby one call; so do all spares.
        let run = |slot: Option<&Slot>| slot.map(|slot| (slot.run, slot.repo.clone()));
        let mut alike: Vec<(Arch, Vec<&Paired>)> = Vec::new();
        for one in &paired {
            let arch = archs.get(&one.0.id).copied().unwrap_or(Arch::Arm64);
            let same = |(other, members): &&mut (Arch, Vec<&Paired>)| {
                *other == arch && members.iter().any(|(_, slot)| run(*slot) == run(one.1))
            };
            match alike.iter_mut().find(same) {
                Some((_, members)) => members.push(one),
                None => alike.push((arch, vec![one])),
            }
        }
        let mut machines = Vec::new();
        for (arch, members) in alike {
            let slots: Vec<&Slot> = members.iter().filter_map(|(_, slot)| *slot).collect();
            let shared = tags_of(order, &slots, arch, &self.settings.tags);
            self.retag.add(members.iter().map(|(instance, _)| instance.id.clone()).collect(), shared.clone());
            machines.extend(members.iter().map(|(instance, _)| Machine {
                key: RunnerKey::new(instance.id.clone()),
                state: MachineState::Pending,
                instance_type: instance.instance_type.clone(),
                zone: instance.zone.clone().or_else(|| zone_of(&instance.subnet)),
                spot: instance.spot,
                arch: Some(arch),
                image: None,
                launched_at: self.clock.now(),
                ended_at: None,
                launch_id: order.members.pool().is_none().then(|| order.launch_id.clone()),
                tags: shared.iter().cloned().collect(),
            }));
        }
        machines.sort_by(|a, b| a.key.cmp(&b.key));
        for (n, machine) in machines.iter().enumerate() {
            info!(
                launch_id = order.launch_id.as_str(),
                instance_id = machine.key.as_str(),
                instance_type = machine.instance_type,
                zone = machine.zone,
                spot = machine.spot,
                pool = order.members.pool().map(PoolName::as_str),
                job_id = slots.get(n).map(|slot| slot.job.get()),
                "instance launched"
            );
        }
        self.fresh().remember(&order.launch_id, machines.iter().cloned());
        machines
    }
}

/// The same request with one subnet, a different one each time, under a token of its own.
fn single_subnet(request: &FleetRequest) -> Option<FleetRequest> {
    let mut subnets: Vec<&Option<String>> = request.overrides.iter().map(|o| &o.subnet).collect();
    subnets.dedup();
    let turn = TURN.fetch_add(1, Ordering::Relaxed) % subnets.len().max(1);
    let chosen = (*subnets.get(turn)?).clone();
    let mut single = request.clone();
    single.client_token.push_str("-s");
    single.overrides.retain(|o| o.subnet == chosen);
    Some(single)
}

fn invalid(error: Error) -> Failure {
    let text = match error {
        Error::Capacity(text) | Error::Transient(text) | Error::Deployment(text) | Error::Invalid(text) => text,
    };
    Failure::ours(Class::Invalid, text)
}
