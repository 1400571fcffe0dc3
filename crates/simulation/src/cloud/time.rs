//! What becomes of instances as time passes.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use domain::catalogue;
use domain::clock::{Rng, Timestamp, after};
use fleet::ec2::{ApiError, FleetRequest, Instance};
use tokio::time::{Instant, sleep_until};

use super::guests::{Guests, News};
use super::{Cloud, Held, Ledger, State};

/// How long an instance takes from its launch to the start of its agent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Boot {
    /// At least.
    pub least: Duration,
    /// At most, evenly in between; but one in a hundred takes up to four times as long.
    pub most: Duration,
}

impl Default for Boot {
    /// What Linux images with a prebaked runner take.
    fn default() -> Self {
        Self { least: Duration::from_secs(18), most: Duration::from_secs(45) }
    }
}

impl Boot {
    fn draw(self, rng: &dyn Rng) -> Duration {
        let usual = self.least + self.most.saturating_sub(self.least).mul_f64(rng.unit());
        if rng.unit() < 0.01 { usual + self.most.mul_f64(3.0 * rng.unit()) } else { usual }
    }
}

/// A time without capacity of some kind; what is not named does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drought {
    /// Of this type.
    pub instance_type: Option<String>,
    /// In this zone.
    pub zone: Option<String>,
    /// Spot or not.
    pub spot: Option<bool>,
    /// Its begin.
    pub from: Timestamp,
    /// Its end.
    pub until: Timestamp,
}

impl Drought {
    pub(super) fn strikes(&self, instance_type: &str, zone: Option<&str>, spot: bool, now: Timestamp) -> bool {
        (self.from <= now && now < self.until)
            && self.instance_type.as_deref().is_none_or(|of| of == instance_type)
            && self.zone.as_deref().is_none_or(|at| Some(at) == zone)
            && self.spot.is_none_or(|of| of == spot)
    }
}

/// How long before it is taken back an instance is warned. AWS: "Spot Instance interruption notices".
const WARNING: Duration = Duration::from_secs(120);
/// How long terminated instances are still described. AWS: less than an hour, as a rule.
const DESCRIBED: Duration = Duration::from_secs(20 * 60);
/// How long client tokens are remembered here: longer than any launch lasts, its repetitions included.
const TOKENS: Duration = Duration::from_secs(15 * 60);
/// How long an instance takes to shut down.
const SHUTDOWN: Duration = Duration::from_secs(8);

/// Something that is due.
#[derive(Debug, Clone)]
pub(super) enum Due {
    Running(String, u32),
    Boot(String, u32),
    Stopped(String, u32),
    Rebalance(String),
    Warn(String),
    Reclaim(String),
    Terminated(String),
    Forget(String),
    ForgetToken(String),
}

/// What is due when, in order of time and then of being scheduled.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    due: BTreeMap<(Instant, u64), Due>,
    next: u64,
}

impl Agenda {
    pub(super) fn add(&mut self, at: Instant, due: Due) {
        self.next += 1;
        self.due.insert((at, self.next), due);
    }

    fn pop(&mut self, now: Instant) -> Option<Due> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    fn first(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }
}

impl State {
    /// A new instance.
    pub(super) fn make(
        &mut self,
        request: &FleetRequest,
        instance_type: &str,
        zone: Option<String>,
        now: Timestamp,
        rng: &dyn Rng,
    ) -> Instance {
        self.made += 1;
        let id = format!("i-{:017x}", self.made);
        let state = if self.world.boot.is_some() { "pending" } else { "running" };
        let instance = Instance {
            id: id.clone(),
            state: state.to_owned(),
            instance_type: instance_type.to_owned(),
            zone,
            spot: request.spot,
            arch: catalogue::lookup(instance_type).map(|known| known.arch.as_str().to_owned()),
            image: self.image(&request.launch_template),
            profile: None,
            launched_at: Some(now),
            transition: None,
            tags: request.tags.iter().cloned().collect(),
        };
        let since = Instant::now();
        let mut visible = since + self.world.invisible;
        if let Some(boot) = self.world.boot {
            visible = since + self.world.invisible.mul_f64(rng.unit());
            let up = since + boot.draw(rng);
            self.agenda.add(since + (up - since) / 2, Due::Running(id.clone(), 0));
            self.agenda.add(up, Due::Boot(id.clone(), 0));
            if request.spot && self.world.reclaims_per_hour > 0.0 {
                let lives = -(1.0 - rng.unit()).ln() / self.world.reclaims_per_hour * 3600.0;
                let at = since + Duration::from_secs_f64(lives.min(864_000.0));
                if rng.unit() >= self.world.unwarned {
                    self.agenda.add((at - WARNING.min(at - since)).max(since), Due::Warn(id.clone()));
                    if rng.unit() < 0.3 {
                        let early = WARNING.mul_f64(1.0 + 4.0 * rng.unit()).min(at - since);
                        self.agenda.add(at - early, Due::Rebalance(id.clone()));
                    }
                } else {
                    self.agenda.add(at, Due::Reclaim(id.clone()));
                }
            }
        }
        self.ledger.launched += 1;
        self.ledger.spot += u64::from(request.spot);
        self.live.insert(id.clone());
        self.instances.insert(id.clone(), Held { instance: instance.clone(), life: 0, since, visible, until: None });
        self.note_launch(&id);
        self.news.push(News::Launched(instance.clone()));
        instance
    }

    /// Notes which launch an instance says it belongs to.
    pub(super) fn note_launch(&mut self, id: &str) {
        let launch = self.instances.get(id).and_then(|held| held.instance.tags.get(provider::tags::LAUNCH_ID)).cloned();
        if let Some(launch) = launch {
            self.launches.entry(launch).or_default().insert(id.to_owned());
        }
    }

    pub(super) fn forget_token_later(&mut self, token: &str) {
        if self.world.boot.is_some() {
            self.agenda.add(Instant::now() + TOKENS, Due::ForgetToken(token.to_owned()));
        }
    }

    /// An instance ends now, if it has not already.
    pub(super) fn end(&mut self, id: &str, why: &'static str) {
        let Some(held) = self.instances.get_mut(id) else { return };
        if matches!(held.instance.state.as_str(), "terminated" | "shutting-down") {
            return;
        }
        let now = Instant::now();
        held.until = Some(now);
        let in_time = self.world.boot.is_some();
        let state = if in_time { "shutting-down" } else { "terminated" }.to_owned();
        let before = std::mem::replace(&mut held.instance.state, state);
        self.live.remove(id);
        if matches!(before.as_str(), "stopping" | "stopped") {
            self.ledger.store(now - held.since);
        } else {
            self.ledger.pay(&held.instance.instance_type, held.instance.spot, now - held.since);
        }
        self.ledger.ended += 1;
        self.ledger.reclaimed += u64::from(why == "reclaimed");
        let instance = held.instance.clone();
        if in_time {
            self.agenda.add(now + SHUTDOWN, Due::Terminated(id.to_owned()));
            self.agenda.add(now + DESCRIBED, Due::Forget(id.to_owned()));
        }
        self.news.push(News::Changed(instance.clone()));
        self.news.push(News::Ended(instance, why));
    }

    /// The next state of an instance, unless it lives another life by now.
    fn moves_on(&mut self, id: &str, life: u32, from: &str, to: &str) {
        let held = self.instances.get_mut(id).filter(|held| held.life == life && held.instance.state == from);
        if let Some(held) = held {
            to.clone_into(&mut held.instance.state);
            self.news.push(News::Changed(held.instance.clone()));
        }
    }

    fn perform(&mut self, due: Due, now: Timestamp) {
        let alive = |state: &Self, id: &String| {
            let held = state.instances.get(id)?;
            (!matches!(held.instance.state.as_str(), "terminated" | "shutting-down")).then(|| held.instance.clone())
        };
        match due {
            Due::Running(id, life) => self.moves_on(&id, life, "pending", "running"),
            Due::Stopped(id, life) => self.moves_on(&id, life, "stopping", "stopped"),
            Due::Boot(id, life) => {
                if self.instances.get(&id).is_some_and(|held| held.life == life) {
                    self.news.extend(alive(self, &id).map(News::Booted));
                }
            }
            Due::Rebalance(id) if self.world.reclaims_per_hour > 0.0 => {
                self.news.extend(alive(self, &id).map(News::Rebalanced));
            }
            Due::Warn(id) if self.world.reclaims_per_hour > 0.0 => {
                if let Some(instance) = alive(self, &id) {
                    self.agenda.add(Instant::now() + WARNING, Due::Reclaim(id));
                    self.news.push(News::Warned(instance, after(now, WARNING)));
                }
            }
            Due::Reclaim(id) => self.end(&id, "reclaimed"),
            Due::Terminated(id) => {
                if let Some(held) = self.instances.get_mut(&id) {
                    held.instance.state = "terminated".to_owned();
                    self.news.push(News::Changed(held.instance.clone()));
                }
            }
            Due::Forget(id) => {
                let held = self.instances.remove(&id);
                if let Some(launch) = held.and_then(|mut held| held.instance.tags.remove(provider::tags::LAUNCH_ID))
                    && let Some(ids) = self.launches.get_mut(&launch)
                {
                    ids.remove(&id);
                    if ids.is_empty() {
                        self.launches.remove(&launch);
                    }
                }
            }
            Due::ForgetToken(token) => {
                self.tokens.remove(&token);
            }
            Due::Rebalance(_) | Due::Warn(_) => {}
        }
    }
}

impl Cloud {
    /// Guests move in.
    pub fn host(&self, guests: Arc<dyn Guests>) {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner).push(guests);
    }

    /// Forgets its guests, at the end of the world: who knows the cloud that knows it is never freed.
    pub fn turn_out(&self) {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// An instance ends by itself: its agent's doing, or a shutdown.
    pub fn end(&self, id: &str, why: &'static str) {
        let _ = self.change_state(|state| {
            state.end(id, why);
            Ok::<_, ApiError>(())
        });
    }

    /// Nobody is warned any more; who has been is still taken back.
    pub fn spare(&self) {
        let mut state = self.state();
        state.world.reclaims_per_hour = 0.0;
        state.agenda.due.retain(|_, due| !matches!(due, Due::Warn(_) | Due::Rebalance(_)));
    }

    /// The account so far; of instances that live only their launch.
    pub fn ledger(&self) -> Ledger {
        self.state().ledger
    }

    /// How many instances are neither shutting down nor gone.
    pub fn live(&self) -> usize {
        self.state().live.len()
    }

    /// Changes the state and tells guests of it.
    pub(super) fn change_state<T>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let (result, news) = {
            let mut state = self.state();
            let result = change(&mut state);
            (result, std::mem::take(&mut state.news))
        };
        if !news.is_empty() {
            let guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for news in &news {
                news.tell(&guests);
            }
            self.changed.notify_one();
        }
        result
    }

    /// Lets time pass; never returns.
    pub async fn run(self: Arc<Self>) {
        loop {
            let _ = self.change_state(|state| {
                let (now, wall) = (Instant::now(), self.clock.now());
                while let Some(due) = state.agenda.pop(now) {
                    state.perform(due, wall);
                }
                Ok::<_, ApiError>(())
            });
            let next = self.state().agenda.first();
            let wait = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = wait => {}
            }
        }
    }
}
