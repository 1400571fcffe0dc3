//! The steps of a pass, performed.

use std::collections::BTreeMap;
use std::time::Duration;

use db::claims::{Action, Holder};
use db::pools::{Created, Pool, Report};
use domain::clock::Timestamp;
use domain::ids::{LaunchId, PoolName, RunnerKey};
use futures::future::join_all;
use provider::compute::{Error as ComputeError, Members, Order};
use provider::{MachineState, tags};
use sha2::{Digest, Sha256};
use telemetry::metrics::PoolAction;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use super::{CALL, Halt, Hold, bounded};
use crate::error::Error;
use crate::plan::{Acted, Cut, Probed, Progress, Reason, Step};
use crate::spec;
use crate::warm::WarmPools;

/// Calls under way at the same time.
const AT_ONCE: usize = 5;
/// How long a claim holds if its holder dies.
const CLAIM: Duration = Duration::from_secs(120);
/// How long making a machine may take, subnets that are full included, and how much longer its answer.
const CREATE: Duration = Duration::from_secs(45);
const ANSWER: Duration = Duration::from_secs(5);
/// Machines watched at most.
const WATCHED: usize = 20;

/// The actions of one pass.
pub(super) struct Acts<'a, 'h> {
    hold: &'a mut Hold<'h>,
    pool: &'a Pool,
    /// New machines whose fate is not known yet, the oldest first.
    open: Vec<RunnerKey>,
    /// When the last of them were asked for.
    at: Option<Timestamp>,
    report: &'a mut Report,
    /// Machines asked for so far: each has a number of its own.
    asked: usize,
    /// What went wrong first.
    pub(super) trouble: Option<String>,
}

impl<'a, 'h> Acts<'a, 'h> {
    pub(super) fn new(hold: &'a mut Hold<'h>, pool: &'a Pool, open: Vec<RunnerKey>, report: &'a mut Report) -> Self {
        let mut acts = Self { hold, pool, open, at: pool.created.at, report, asked: 0, trouble: None };
        acts.watch();
        acts
    }

    fn warm(&self) -> &'h WarmPools {
        self.hold.warm
    }

    /// Takes a step, and notes what came of it.
    pub(super) async fn perform(&mut self, step: &Step, done: &mut Progress) -> Result<(), Halt> {
        match step {
            Step::Probe(key) => {
                self.hold.ready(CALL).await?;
                done.probed.insert(key.clone(), self.probe(key).await);
            }
            Step::Start(keys, reason) => {
                for keys in keys.chunks(AT_ONCE) {
                    self.hold.ready(3 * CALL).await?;
                    let (warm, holder) = (self.warm(), self.hold.held.owner());
                    let acted = join_all(keys.iter().map(|key| warm.start_spare(key, holder))).await;
                    self.note(keys.iter().zip(acted), PoolAction::Start, |_| *reason, &mut done.started);
                }
            }
            Step::Create(count, reason) => {
                let wanted = match reason {
                    Reason::StoppedReplenish => &mut done.for_stopped,
                    _ => &mut done.for_running,
                };
                *wanted = Some(*count);
                self.create(*count, *reason).await?;
            }
            Step::Stop(cuts) => self.cut(cuts, PoolAction::Stop, done).await?,
            Step::Terminate(cuts) => self.cut(cuts, PoolAction::Terminate, done).await?,
        }
        Ok(())
    }

    async fn probe(&self, key: &RunnerKey) -> Probed {
        let (pool_name, instance_id) = (self.pool.name.as_str(), key.as_str());
        let probed = self.warm().probe(key).await;
        match probed {
            Probed::Free => {}
            Probed::Handed => info!(pool_name, instance_id, "a hand-over waits for this machine: it is a job's"),
            Probed::Unknown => warn!(pool_name, instance_id, "nobody knows whether this machine is a job's: it stays"),
        }
        probed
    }

    async fn cut(&mut self, cuts: &[Cut], action: PoolAction, done: &mut Progress) -> Result<(), Halt> {
        for cuts in cuts.chunks(AT_ONCE) {
            self.hold.ready(3 * CALL).await?;
            let (warm, holder) = (self.warm(), self.hold.held.owner());
            let acted = join_all(cuts.iter().map(|(key, reason)| warm.cut_spare(key, *reason, action, holder))).await;
            let reason = |key: &RunnerKey| {
                cuts.iter().find(|(cut, _)| cut == key).map_or(Reason::ExcessIdle, |(_, reason)| *reason)
            };
            self.note(cuts.iter().map(|(key, _)| key).zip(acted), action, reason, &mut done.cut);
        }
        // What we end ourselves has not failed.
        if action == PoolAction::Terminate {
            self.open.retain(|key| !done.cut.contains_key(key));
            self.watch();
        }
        Ok(())
    }

    fn note<'k>(
        &self,
        acted: impl Iterator<Item = (&'k RunnerKey, Acted)>,
        action: PoolAction,
        reason: impl Fn(&RunnerKey) -> Reason,
        into: &mut BTreeMap<RunnerKey, Acted>,
    ) {
        let (pool_name, metrics) = (self.pool.name.as_str(), &self.warm().ports.metrics);
        for (key, acted) in acted {
            let (instance_id, reason, action_name) = (key.as_str(), reason(key).as_str(), action.as_str());
            match acted {
                Acted::Done => {
                    info!(event = "pool_action", pool_name, instance_id, action = action_name, reason, "done");
                    metrics.pool_actions(Some(&self.pool.name), action, reason);
                }
                Acted::Refused => {
                    info!(pool_name, instance_id, action = action_name, reason, "somebody else has it: left alone");
                }
                Acted::Failed => warn!(pool_name, instance_id, action = action_name, reason, "not done"),
            }
            into.insert(key.clone(), acted);
        }
    }

    async fn create(&mut self, count: usize, reason: Reason) -> Result<(), Halt> {
        let Some(spec) = spec::launch_spec(&self.pool.name, &self.pool.config) else {
            self.trouble("no instance types match the pool spec".to_owned());
            return Ok(());
        };
        let first = self.asked;
        self.asked += count;
        let numbers: Vec<_> = (first..self.asked).collect();
        for numbers in numbers.chunks(AT_ONCE) {
            self.hold.ready(CREATE + ANSWER).await?;
            let (warm, until) = (self.warm(), Instant::now() + CREATE);
            let made = join_all(numbers.iter().map(|number| {
                let order = Order {
                    launch_id: launch_id(&self.pool.name, &self.hold.held, *number),
                    spec: spec.clone(),
                    spot: false,
                    members: Members::Pool { pool: self.pool.name.clone(), count: 1 },
                    until,
                };
                async move {
                    let late = || ComputeError::Transient("no answer in time".to_owned());
                    match timeout_at(until + ANSWER, warm.ports.compute.launch(&order)).await {
                        Ok(mut made) => made.pop().unwrap_or_else(|| Err(late())),
                        Err(_) => Err(late()),
                    }
                }
            }))
            .await;
            for made in made {
                match made {
                    Ok(machine) => {
                        let (pool_name, instance_id) = (self.pool.name.as_str(), machine.key.as_str());
                        let (instance_type, reason) = (machine.instance_type.as_str(), reason.as_str());
                        info!(
                            event = "pool_action",
                            pool_name,
                            instance_id,
                            instance_type,
                            action = "create",
                            reason,
                            "done"
                        );
                        warm.ports.metrics.pool_actions(Some(&self.pool.name), PoolAction::Create, reason);
                        self.open.push(machine.key);
                    }
                    Err(error) => {
                        let kind = kind(&error);
                        warn!(pool_name = self.pool.name.as_str(), %error, kind, "a machine could not be made");
                        warm.ports.metrics.pool_create_failures(Some(&self.pool.name), kind);
                        self.trouble(error.to_string());
                    }
                }
            }
            self.at = Some(warm.ports.clock.now());
            self.watch();
        }
        Ok(())
    }

    /// The machines to watch go into the report, so that they do even if the pass stops here.
    fn watch(&mut self) {
        let skip = self.open.len().saturating_sub(WATCHED);
        let created = Created { at: self.at, keys: self.open[skip..].to_vec() };
        self.report.created = (created != self.pool.created).then_some(created);
    }

    fn trouble(&mut self, what: String) {
        self.trouble.get_or_insert(what);
    }
}

/// Names the creation of one machine. The acquisition of the lock is unique, so no other pass ever uses the name; this
/// one may repeat the request under it.
fn launch_id(pool: &PoolName, held: &db::locks::Held, number: usize) -> LaunchId {
    let seed = format!("{pool}\n{}\n{}\n{number}", held.owner(), held.token());
    LaunchId::new(format!("rf1-{}", hex::encode(&Sha256::digest(seed)[..16])))
}

const fn kind(error: &ComputeError) -> &'static str {
    match error {
        ComputeError::Capacity(_) => "capacity",
        ComputeError::Transient(_) => "transient",
        ComputeError::Deployment(_) => "deployment",
        ComputeError::Invalid(_) => "invalid",
    }
}

impl WarmPools {
    /// Whether a hand-over waits for the machine.
    pub(crate) async fn probe(&self, key: &RunnerKey) -> Probed {
        match bounded(self.ports.hand_over.get(key)).await {
            Ok(None) => Probed::Free,
            Ok(Some(_)) => Probed::Handed,
            Err(error) => {
                warn!(instance_id = key.as_str(), %error, "a hand-over cannot be read");
                Probed::Unknown
            }
        }
    }

    /// Starts a stopped spare: whatever it was given before must be gone, or its agent would take it for a job.
    async fn start_spare(&self, key: &RunnerKey, owner: &str) -> Acted {
        let holder = Holder::Action { action: Action::Start, owner };
        if !self.won(key, holder).await {
            return Acted::Refused;
        }
        let ports = &self.ports;
        let clean = async {
            bounded(ports.hand_over.delete(key)).await?;
            bounded(ports.compute.untag(key, &[tags::ASSIGNED, tags::JOB_ID])).await
        };
        let acted = match clean.await {
            Err(error) => {
                warn!(instance_id = key.as_str(), %error, "a stopped machine could not be made ready for its start");
                Acted::Refused
            }
            Ok(()) => match bounded(ports.compute.start(key)).await {
                Ok(()) => Acted::Done,
                Err(error) => {
                    warn!(instance_id = key.as_str(), %error, "a stopped machine could not be started");
                    Acted::Failed
                }
            },
        };
        self.give_back(key, holder).await;
        acted
    }

    /// Stops or ends a spare, once nobody else can take it.
    pub(crate) async fn cut_spare(&self, key: &RunnerKey, reason: Reason, action: PoolAction, owner: &str) -> Acted {
        let stopped = reason == Reason::OverDesiredStopped;
        let claim = if stopped { Action::Retire } else { Action::ScaleDown };
        let holder = Holder::Action { action: claim, owner };
        if !self.won(key, holder).await {
            return Acted::Refused;
        }
        // It may have been started since it was listed.
        if stopped && !self.is_stopped(key).await {
            self.give_back(key, holder).await;
            return Acted::Refused;
        }
        let compute = &self.ports.compute;
        let called = match action {
            PoolAction::Stop => bounded(compute.stop(key)).await,
            _ => bounded(compute.terminate(key)).await,
        };
        match called {
            Ok(()) => {
                self.give_back(key, holder).await;
                Acted::Done
            }
            Err(error) => {
                // The call may still come to pass: the claim keeps jobs away until it has run out.
                warn!(instance_id = key.as_str(), %error, "a machine could not be taken away");
                Acted::Failed
            }
        }
    }

    async fn is_stopped(&self, key: &RunnerKey) -> bool {
        let found = bounded(self.ports.compute.describe(key)).await;
        matches!(found, Ok(Some(machine)) if machine.state == MachineState::Stopped)
    }

    /// Whether the claim is ours. Without an answer it may be, and runs out.
    async fn won(&self, key: &RunnerKey, holder: Holder<'_>) -> bool {
        match bounded(self.ports.claims.claim(key, holder, CLAIM)).await {
            Ok(outcome) => outcome.is_applied(),
            Err(error) => {
                warn!(instance_id = key.as_str(), %error, "a machine could not be claimed");
                false
            }
        }
    }

    pub(crate) async fn give_back(&self, key: &RunnerKey, holder: Holder<'_>) {
        let released: Result<(), Error> = bounded(self.ports.claims.release(key, holder)).await;
        if let Err(error) = released {
            debug!(instance_id = key.as_str(), %error, "a claim runs out by itself");
        }
    }
}
