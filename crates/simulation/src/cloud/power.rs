//! Instances that are stopped and started again.
//!
//! In time, a stop takes a while; the next start is a new life: a new launch time, a new boot, another process of whoever
//! lives there. AWS: "Stop and start Amazon EC2 instances", "Amazon EC2 instance state changes".

use std::time::Duration;

use domain::clock::{Rng, Timestamp};
use fleet::ec2::ApiError;
use tokio::time::Instant;

use super::guests::News;
use super::time::Due;
use super::{State, refuse};

/// How long an instance takes to stop.
const STOPPING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));
/// How long a stopped one takes from its start to the start of its agent.
const STARTING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(18));

fn between((least, most): (Duration, Duration), rng: &dyn Rng) -> Duration {
    least + (most - least).mul_f64(rng.unit())
}

impl State {
    /// Whether instances take their time.
    const fn in_time(&self) -> bool {
        self.world.boot.is_some()
    }

    /// `StopInstances`. All or none.
    pub(super) fn stop(&mut self, ids: &[String], rng: &dyn Rng) -> Result<(), ApiError> {
        if !self.in_time() {
            return self.shift(ids, &["running", "stopped"], "stopped");
        }
        self.known(ids)?;
        for id in ids {
            let instance = &self.instances[id].instance;
            if instance.spot {
                return refuse("UnsupportedOperation", "a one-time spot instance cannot be stopped");
            }
            if !matches!(instance.state.as_str(), "running" | "stopping" | "stopped") {
                return refuse("IncorrectInstanceState", "the instance is not in a state for this");
            }
        }
        for id in ids {
            let Some(held) = self.instances.get_mut(id).filter(|held| held.instance.state == "running") else {
                continue;
            };
            let now = Instant::now();
            "stopping".clone_into(&mut held.instance.state);
            held.life += 1;
            self.ledger.pay(&held.instance.instance_type, false, now - held.since);
            held.since = now;
            let (life, instance) = (held.life, held.instance.clone());
            self.agenda.add(now + between(STOPPING, rng), Due::Stopped(id.clone(), life));
            self.news.push(News::Changed(instance.clone()));
            self.news.push(News::Stopped(instance));
        }
        Ok(())
    }

    /// `StartInstances`. All or none.
    pub(super) fn start(&mut self, ids: &[String], wall: Timestamp, rng: &dyn Rng) -> Result<(), ApiError> {
        if !self.in_time() {
            return self.shift(ids, &["stopped", "running"], "running");
        }
        self.known(ids)?;
        for id in ids {
            let instance = &self.instances[id].instance;
            if !matches!(instance.state.as_str(), "pending" | "running" | "stopped") {
                return refuse("IncorrectInstanceState", "the instance is not in a state for this");
            }
            let dry =
                self.world.droughts.iter().any(|drought| {
                    drought.strikes(&instance.instance_type, instance.zone.as_deref(), instance.spot, wall)
                });
            if instance.state == "stopped" && dry {
                return refuse("InsufficientInstanceCapacity", "there is no capacity of this kind");
            }
        }
        for id in ids {
            let Some(held) = self.instances.get_mut(id).filter(|held| held.instance.state == "stopped") else {
                continue;
            };
            let now = Instant::now();
            "pending".clone_into(&mut held.instance.state);
            held.instance.launched_at = Some(wall);
            held.life += 1;
            self.ledger.store(now - held.since);
            held.since = now;
            let (life, up) = (held.life, now + between(STARTING, rng));
            self.news.push(News::Changed(held.instance.clone()));
            self.agenda.add(now + (up - now) / 2, Due::Running(id.clone(), life));
            self.agenda.add(up, Due::Boot(id.clone(), life));
        }
        Ok(())
    }
}
