//! What the cloud announces about machines: a spot machine is taken back, may be taken back, or has ended.
//!
//! Wanted: a job whose machine is lost is recovered once per loss, whichever of the warning, the machine's own report
//! and the sweeps notices it first. Every change of a record is an event of the job's state machine, conditional on the
//! machine the record names; so a warning that comes twice, late, or on two replicas finds nothing to do. The warning's
//! own effects (the breaker, metrics) come last, are bounded, and fail silently: they never hold up a job.
//!
//! | the record | GitHub says | what follows |
//! |---|---|---|
//! | `launched` | queued, or nothing | `requeued`, on-demand; the machine's hand-over and registration go |
//! | `running` | queued | the same: its runner had no job, or another one |
//! | either | in progress | `terminating`: recovery waits for the conclusion and asks for a re-run |
//! | `running` | nothing | the same |
//! | either | over | settled |
//!
//! The normal end of every job also makes an event, usually before the machine's report is processed. So the end of a
//! machine moves only a job that has not started and that GitHub still calls queued; a job that runs is left to the
//! report, and where that is lost to the sweep of vanished machines, which looks twice a minute.

mod envelope;

use std::time::Duration;

use async_trait::async_trait;
use domain::clock::{self, Timestamp};
use domain::gh;
use domain::ids::{JobId, RunnerKey};
use domain::job::{Event, Job, JobState};
use domain::runner::{Runner, RunnerState};
use github::client::Priority;
use provider::compute::{Machine, MachineState};
use provider::tags;
use queue::{Delivery, Disposition, Handler};
use telemetry::metrics::Family;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::envelope::{Change, Envelope, What};
use crate::context::{Dispatch, Error};

/// Bound on each step that is only worth trying.
const BEST_EFFORT: Duration = Duration::from_secs(3);
/// A machine younger than this may not be in the index of jobs yet; its tag names the job.
const YOUNG: Duration = Duration::from_secs(300);

/// Handles deliveries of the events queue.
pub struct Events(pub std::sync::Arc<Dispatch>);

#[async_trait]
impl Handler for Events {
    async fn handle(&self, delivery: &Delivery, _lost: CancellationToken) -> Disposition {
        let dispatch = &self.0;
        let event = match envelope::decode(&delivery.body, dispatch.settings.account.as_deref()) {
            Ok(event) => event,
            Err(poison) => return Disposition::Reject(poison.reason.as_str()),
        };
        let handled = match &event.what {
            What::Job(message) => {
                warn!(job_id = message.job_id.get(), "a job message on the events queue; it is sent where it belongs");
                let forwarded = queue::Message {
                    body: delivery.body.clone(),
                    group: message.group(),
                    dedup: message.dedup_id(),
                    attributes: delivery.attributes.clone(),
                };
                dispatch.send(forwarded).await.map_err(Error::from)
            }
            _ => dispatch.event(&event).await,
        };
        match handled {
            Ok(()) => Disposition::Ack,
            Err(error) => {
                warn!(event = event.what.as_str(), %error, "an event could not be handled; it comes back");
                Disposition::Keep { after: Some(dispatch.settings.timings.heartbeat / 2) }
            }
        }
    }
}

impl Dispatch {
    async fn event(&self, event: &Envelope) -> Result<(), Error> {
        let at = event.at.unwrap_or_else(|| self.now());
        if !matches!(event.what, What::Other) {
            self.ports.metrics.event_age(event.what.as_str(), clock::since(self.now(), at));
        }
        if event.id.as_deref().is_some_and(|id| self.has_heard(id)) {
            return Ok(());
        }
        match &event.what {
            What::Interruption { key, zone } => self.machine_reclaimed(key, zone.as_deref(), at).await?,
            What::Rebalance { key } => self.rebalance_recommended(key).await,
            What::StateChange { key, state: Change::Ended } => self.machine_ended(key, at).await?,
            What::StateChange { key, state: Change::Unknown } => {
                warn!(instance_id = key.as_str(), "a machine is in a state nobody knows");
            }
            What::StateChange { state: Change::Passing, .. } | What::Job(_) | What::Other => {}
        }
        if let Some(id) = &event.id {
            self.heard(id);
        }
        Ok(())
    }

    /// A spot machine has about two minutes left.
    async fn machine_reclaimed(&self, key: &RunnerKey, zone: Option<&str>, at: Timestamp) -> Result<(), Error> {
        let row = self.ports.runners.get(key).await?;
        let mut job = self.job_on(key, row.as_ref()).await?;
        let mut machine = None;
        if row.is_none() && job.is_none() {
            // Nothing of ours is known there; most such machines are somebody else's.
            machine = self.ports.compute.describe(key).await?.filter(is_managed);
            let Some(found) = &machine else { return Ok(()) };
            job = self.job_by_tag(found).await?;
        }
        let seen = clock::whole_seconds(self.now());
        self.change_runner(key, |row| {
            if row.state.is_live() {
                row.interrupted_at.get_or_insert(seen);
            }
        })
        .await?;
        let counted = match &job {
            Some(job) => {
                info!(job_id = job.id.get(), instance_id = key.as_str(), "the machine of a job is taken back");
                self.interrupted(job.id, key, true).await?
            }
            None => row.as_ref().is_none_or(|row| row.interrupted_at.is_none()),
        };
        // From here on nothing may fail the event. A doomed machine that has no job must not be given one.
        let row = self.ports.runners.get(key).await.ok().flatten();
        if row.as_ref().is_none_or(|row| row.running_job.is_none()) {
            self.within("hand-over and registration", self.clear_machine(key, row.as_ref())).await;
        }
        let machine = match machine {
            Some(machine) => Some(machine),
            None => self.within("machine", self.ports.compute.describe(key)).await.and_then(Result::ok).flatten(),
        };
        let machine = machine.or_else(|| job.as_ref().and_then(|job| remembered(job, key)));
        let Some(mut machine) = machine else { return Ok(()) };
        machine.zone = machine.zone.or_else(|| zone.map(str::to_owned));
        if counted {
            self.ports.metrics.spot_interruptions(Family::of(&machine.instance_type));
        }
        self.within("breaker", self.ports.compute.reclaimed(&machine, at)).await;
        Ok(())
    }

    /// The job of a machine, by its runner, else by the index of machines. The index is a hint, the record decides.
    async fn job_on(&self, key: &RunnerKey, row: Option<&Runner>) -> Result<Option<Job>, Error> {
        let id = match row {
            Some(row) => row.running_job.or(row.bound_job),
            None => self.ports.jobs.by_instance(key).await?.into_iter().max_by_key(|job| job.created_at).map(|j| j.id),
        };
        self.if_on(id, key).await
    }

    async fn job_by_tag(&self, machine: &Machine) -> Result<Option<Job>, Error> {
        if clock::since(self.now(), machine.launched_at) > YOUNG {
            return Ok(None);
        }
        let id = machine.tags.get(tags::JOB_ID).and_then(|id| id.parse().ok());
        self.if_on(id, &machine.key).await
    }

    async fn if_on(&self, id: Option<JobId>, key: &RunnerKey) -> Result<Option<Job>, Error> {
        let Some(id) = id else { return Ok(None) };
        Ok(self.ports.jobs.get(id).await?.filter(|job| job.is_on(key)))
    }

    /// Only counted: the machine may well live on, and its job with it.
    async fn rebalance_recommended(&self, key: &RunnerKey) {
        let described = self.within("machine", self.ports.compute.describe(key)).await;
        if let Some(machine) = described.and_then(Result::ok).flatten().filter(is_managed) {
            self.ports.metrics.rebalance_recommendations(Family::of(&machine.instance_type));
        }
    }

    /// A machine is off. See the module for what is left to others.
    async fn machine_ended(&self, key: &RunnerKey, at: Timestamp) -> Result<(), Error> {
        let row = self.ports.runners.get(key).await?;
        // The usual end: its job began, and its report was taken.
        if row.as_ref().is_some_and(|row| row.running_job.is_some() && !row.state.is_live()) {
            return Ok(());
        }
        // A spare was stopped before it was given to a job, and has been started again, or is about to be.
        if row.as_ref().is_some_and(|row| at <= row.minted_at) {
            return Ok(());
        }
        if let Some(job) = self.job_on(key, row.as_ref()).await? {
            // A live row is what brings the sweep of vanished machines to a job that is not moved here.
            if job.state != JobState::Launched || self.ask(&job, Priority::Dispatch).await? != gh::Status::Queued {
                return Ok(());
            }
            info!(job_id = job.id.get(), instance_id = key.as_str(), "a machine ended before its job began");
            self.raise(
                job.id,
                |job, _| match job.is_on(key) && job.state == JobState::Launched {
                    true => Event::UnconfirmedTimeout { github: gh::Status::Queued, retries_left: job.retries_left() },
                    false => Event::RunnerStarted { instance_matches: false },
                },
                |_| {},
            )
            .await?;
        }
        let Some(row) = row.filter(|row| row.state.is_live()) else { return Ok(()) };
        let row = self
            .change_runner(&row.key, |row| {
                if row.report.is_none() {
                    row.interrupted_at.get_or_insert(clock::whole_seconds(at));
                }
                row.advance(RunnerState::Gone);
            })
            .await?;
        self.within("hand-over and registration", self.clear_machine(key, row.as_ref())).await;
        self.wants_machines(row.as_ref());
        Ok(())
    }

    async fn within<T>(&self, what: &'static str, step: impl Future<Output = T> + Send) -> Option<T> {
        let done = tokio::time::timeout(BEST_EFFORT, step).await;
        if done.is_err() {
            debug!(what, "left undone after an event; the sweeps stand behind it");
        }
        done.ok()
    }
}

fn is_managed(machine: &Machine) -> bool {
    machine.tags.get(tags::MANAGED).is_some_and(|value| value == "true")
}

/// A machine as its job's record knows it, for when the provider does not any more.
fn remembered(job: &Job, key: &RunnerKey) -> Option<Machine> {
    Some(Machine {
        key: key.clone(),
        state: MachineState::Running,
        instance_type: job.instance_type.clone()?,
        zone: job.availability_zone.clone(),
        spot: job.spot,
        arch: None,
        image: None,
        launched_at: job.created_at,
        ended_at: None,
        launch_id: job.launch_id.clone(),
        tags: Default::default(),
    })
}
