//! What the cloud says about its instances: to the orchestrator, as events on a queue, and to those who watch.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::clock::{Rng, Timestamp};
use domain::ids::{LaunchId, RunnerKey};
use fleet::ec2::Instance;
use queue::{Message, Queue};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::happening::{Happening, Scene};
use super::replica::lock;
use crate::cloud::Guests;

/// How well events travel, as chances for each of them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Settings {
    /// It is lost.
    pub lost: f64,
    /// It comes twice.
    pub doubled: f64,
    /// It is up to three minutes late.
    pub late: f64,
}

impl Settings {
    /// A bad hour.
    pub const fn troubled() -> Self {
        Self { lost: 0.05, doubled: 0.1, late: 0.1 }
    }
}

/// Writes events of EventBridge.
pub struct Announcements {
    events: Arc<dyn Queue>,
    rng: Arc<dyn Rng>,
    settings: Mutex<Settings>,
    sending: Mutex<JoinSet<()>>,
}

impl Announcements {
    /// Writes to this queue.
    pub fn new(events: Arc<dyn Queue>, rng: Arc<dyn Rng>, settings: Settings) -> Arc<Self> {
        Arc::new(Self { events, rng, settings: Mutex::new(settings), sending: Mutex::default() })
    }

    /// Events travel so from now on.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut lock(&self.settings));
    }

    fn announce(&self, instance: &Instance, what: &str, mut detail: Value) {
        let settings = *lock(&self.settings);
        let happens = |odds: f64| odds > 0.0 && self.rng.unit() < odds;
        if happens(settings.lost) {
            return;
        }
        detail["instance-id"] = instance.id.clone().into();
        let body = json!({
            "version": "0",
            "id": self.rng.token(),
            "detail-type": what,
            "source": "aws.ec2",
            "account": "123456789012",
            "detail": detail,
        });
        let times = if happens(settings.doubled) { 2 } else { 1 };
        let mut sending = lock(&self.sending);
        while sending.try_join_next().is_some() {}
        for _ in 0..times {
            let late = if happens(settings.late) { self.rng.unit() * 180.0 } else { 0.2 + self.rng.unit() };
            let (events, message) =
                (Arc::clone(&self.events), Message { body: body.to_string(), ..Message::default() });
            sending.spawn(async move {
                sleep(Duration::from_secs_f64(late)).await;
                let _ = events.send(message).await;
            });
        }
    }
}

impl Guests for Announcements {
    fn rebalanced(&self, instance: &Instance) {
        self.announce(instance, "EC2 Instance Rebalance Recommendation", json!({}));
    }
    fn warned(&self, instance: &Instance, _at: Timestamp) {
        self.announce(instance, "EC2 Spot Instance Interruption Warning", json!({"instance-action": "terminate"}));
    }
    fn changed(&self, instance: &Instance) {
        self.announce(instance, "EC2 Instance State-change Notification", json!({"state": instance.state}));
    }
}

/// Tells a scene what happens to instances.
pub struct Told(pub Scene);

impl Guests for Told {
    fn launched(&self, instance: &Instance) {
        let (machine, launch) = (RunnerKey::new(&instance.id), instance.tags.get(provider::tags::LAUNCH_ID));
        let launch = launch.map(LaunchId::new);
        let pool = instance.tags.get(provider::tags::POOL).filter(|_| launch.is_none());
        self.0.happened(&Happening::Launched {
            machine: &machine,
            launch: launch.as_ref(),
            pool: pool.map(String::as_str),
            instance_type: &instance.instance_type,
            zone: instance.zone.as_deref().unwrap_or_default(),
            spot: instance.spot,
        });
    }
    fn warned(&self, instance: &Instance, at: Timestamp) {
        self.0.happened(&Happening::Warned { machine: &RunnerKey::new(&instance.id), at });
    }
    fn ended(&self, instance: &Instance, why: &'static str) {
        self.0.happened(&Happening::Ended { machine: &RunnerKey::new(&instance.id), why });
    }
}
