//! From GitHub's word to a job record and a wake-up.
//!
//! Record first, then message, then 200. A record without a message is found by the outbox; a message without a record
//! is claimed all the same; with neither, the answer is 503, the delivery shows as failed at GitHub, and the redelivery
//! sweep brings it back. Repeats are harmless: the record is created under the condition that there is none.

use std::time::Duration;

use db::Outcome;
use domain::clock::{self, Timestamp};
use domain::job::{Job, JobState, Milestone};
use domain::launch::Arch;
use domain::message::JobMessage;
use github::labels::{self, LabelSpec};
use github::webhook::{self, Action, QueuedEvent, Route, WorkflowJobEvent};
use telemetry::metrics::Capacity;
use tracing::{info, warn};

use crate::binding::Account;
use crate::context::{Dispatch, Error, Rejected};

/// Bound on each try of a store or queue call while GitHub waits for its answer.
const TRY: Duration = Duration::from_secs(3);
/// Bound on the look at the job's pool, which its record does not wait for.
const ENSURE: Duration = Duration::from_secs(2);
/// Bound on all of them; GitHub gives up after ten seconds.
const BUDGET: Duration = Duration::from_secs(8);

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingested {
    /// Not for us.
    Ignored,
    /// A job record or its message exists.
    Queued,
    /// The news is on its way to the binding.
    Forwarded,
    /// Its labels ask for us but make no sense; operators see it in the list of rejected jobs.
    Rejected,
}

/// Neither the store nor the queue took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither the job record nor its message could be written")]
pub struct Unavailable;

impl Dispatch {
    /// Takes a verified `workflow_job` event from the outside.
    pub async fn ingest(
        &self,
        event: &WorkflowJobEvent,
        delivery: &str,
        received: Timestamp,
    ) -> Result<Ingested, Unavailable> {
        if !self.serves(&event.repo) {
            return Ok(Ingested::Ignored);
        }
        if let Some(installation) = event.installation_id {
            self.ports.github.remember_installation(event.repo.owner(), installation);
        }
        let parsed = labels::parse(&event.labels, &self.settings.aliases);
        match webhook::route(event, &parsed) {
            Route::Accept(spec) => {
                self.accept(event, spec, Some(received)).await?;
                Ok(Ingested::Queued)
            }
            Route::Refuse(error) => {
                self.refuse(event, error);
                Ok(Ingested::Rejected)
            }
            Route::Bind | Route::Complete => {
                self.forward(event, delivery, received).await.map_err(|_| Unavailable)?;
                Ok(Ingested::Forwarded)
            }
            Route::Ignore => Ok(Ingested::Ignored),
        }
    }

    /// Writes the record and sends the wake-up. `received` is absent for jobs found by a scan.
    pub(crate) async fn accept(
        &self,
        event: &WorkflowJobEvent,
        spec: &LabelSpec,
        received: Option<Timestamp>,
    ) -> Result<bool, Unavailable> {
        let deadline = tokio::time::Instant::now() + BUDGET;
        let mut message = webhook::job_message(event, spec, self.now());
        message.force_on_demand |= self.is_our_rerun(&message).await;
        let mut job = Job::accepted(
            message,
            spec.warnings.iter().map(ToString::to_string).collect(),
            labels::class_key(&event.repo, &labels::registered_labels(&event.labels)),
            &self.cx(),
        );
        if let Some(created) = event.created_at {
            job.timeline.stamp(1, Milestone::GithubCreated, created);
        }
        if let Some(received) = received {
            job.timeline.stamp(1, Milestone::WebhookReceived, received);
        }
        // Half of the time is the message's: a server whose store is down still takes webhooks.
        let half = tokio::time::Instant::now() + BUDGET / 2;
        let accepted = within(half, || self.create(&job)).await;
        let (record, fresh) = match &accepted {
            Ok(Accepted::Created(job)) => (job.as_ref(), true),
            // Somebody else's, or our own earlier one: only a pending job needs its wake-up, perhaps again.
            Ok(Accepted::Exists(job)) if job.state == JobState::Requeued => (job.as_ref(), false),
            Ok(Accepted::Exists(_)) => return Ok(false),
            Err(error) => {
                warn!(job_id = job.id.get(), error, "the job record was not written; trying its message alone");
                (&job, true)
            }
        };
        let held_back = matches!(accepted, Ok(Accepted::Created(_))) && self.hold_back(record, deadline).await;
        // A record that waits is the outbox's to wake. Without a record the message is all there is.
        let sent = if held_back || (accepted.is_ok() && !record.is_due(self.now())) {
            Ok(())
        } else {
            within(deadline, || self.wake_or_say(record)).await
        };
        // For later jobs, so this one does not wait for it; and only here, where the job waits: an old webhook of one that
        // is over would keep its pool alive.
        let notes = async { tokio::join!(self.saw_job_of(&event.repo), self.ensure_pool(record)) };
        let _ = tokio::time::timeout_at(deadline, notes).await;
        match (&accepted, &sent) {
            (Err(_), Err(_)) => Err(Unavailable),
            _ => {
                if fresh {
                    self.accepted(record);
                }
                if sent.is_err() {
                    self.ports.metrics.ingest_send_deferred();
                    warn!(job_id = job.id.get(), "the wake-up was not sent; the outbox sends it when due");
                }
                Ok(fresh)
            }
        }
    }

    /// The pool a job names is created by the first such job, and kept by every later one. Without it the job gets a fresh
    /// machine.
    async fn ensure_pool(&self, job: &Job) {
        let (Some(pools), Some(message)) = (&self.ports.pools, &job.message) else { return };
        let Some(pool) = &message.spec.pool else { return };
        match tokio::time::timeout(ENSURE, pools.ensure(pool, message)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => warn!(job_id = job.id.get(), pool = pool.as_str(), %error, "the job's pool was not made"),
            Err(_) => warn!(job_id = job.id.get(), pool = pool.as_str(), "the job's pool was not made in time"),
        }
    }

    /// Whether a fresh job waits its turn behind others of its repository or account.
    async fn hold_back(&self, job: &Job, deadline: tokio::time::Instant) -> bool {
        let turn = self.turn(job);
        if turn.is_zero() {
            return false;
        }
        let at = Some(clock::after(clock::whole_seconds(self.now()), turn));
        let new = Job { not_before: at, redrive_at: at, ..job.clone() };
        let written = tokio::time::timeout_at(deadline, self.ports.jobs.write(job, new)).await;
        let held = matches!(written, Ok(Ok(Outcome::Applied(_))));
        if held {
            info!(
                job_id = job.id.get(),
                seconds = turn.as_secs(),
                "the job waits its turn behind others of its repository or account"
            );
        }
        held
    }

    async fn create(&self, job: &Job) -> Result<Accepted, Error> {
        if let Outcome::Applied(created) = self.ports.jobs.create(job).await? {
            return Ok(Accepted::Created(Box::new(created)));
        }
        match self.ports.jobs.get(job.id).await? {
            Some(existing) => Ok(Accepted::Exists(Box::new(existing))),
            None => Err(Error::Contended),
        }
    }

    async fn wake_or_say(&self, job: &Job) -> Result<(), Error> {
        if self.wake(job).await { Ok(()) } else { Err(Error::Contended) }
    }

    /// What follows the durable write, best effort.
    fn accepted(&self, job: &Job) {
        let Some(message) = &job.message else { return };
        let capacity = if job.spot { Capacity::Spot } else { Capacity::OnDemand };
        let arch: Option<Arch> = message.spec.arch;
        self.ports.metrics.jobs_enqueued(message.spec.pool.as_ref(), arch, capacity, &message.repo);
        if !job.label_warnings.is_empty() {
            warn!(
                job_id = job.id.get(),
                repo = message.repo.as_str(),
                label = message.original_label,
                warnings = job.label_warnings.join(","),
                "the job's label was understood only in part"
            );
        }
        info!(
            event = "job_enqueued",
            job_id = job.id.get(),
            repo = message.repo.as_str(),
            label = message.original_label,
            force_on_demand = job.force_on_demand,
            "job accepted"
        );
        self.tell(crate::context::News::Job { id: job.id, state: job.state.as_str() });
        if let (Some(pools), Some(pool)) = (&self.ports.pools, &message.spec.pool) {
            pools.notify_demand(pool);
        }
    }

    /// Whether this is the re-run of a job we lost, which starts on-demand.
    async fn is_our_rerun(&self, message: &JobMessage) -> bool {
        let (Some(run), true) = (message.run_id, message.run_attempt > 1) else { return false };
        let known = self.ports.markers.is_our_rerun(run, &message.job_name, message.run_attempt);
        match tokio::time::timeout(TRY, known).await {
            Ok(Ok(ours)) => ours,
            _ => false,
        }
    }

    fn refuse(&self, event: &WorkflowJobEvent, error: &labels::LabelError) {
        let category = error.category.as_str();
        self.ports.metrics.label_rejected(category);
        warn!(
            job_id = event.job_id.get(),
            repo = event.repo.as_str(),
            labels = event.labels.join(" "),
            category,
            "a job asks for us with labels that make no sense; nothing is launched"
        );
        self.reject(Rejected {
            at: self.now(),
            id: event.job_id,
            repo: event.repo.clone(),
            labels: event.labels.clone(),
            category,
        });
    }

    /// Puts news of a running or concluded job on the main queue, in a lane of its own, so that a cancellation is not
    /// stuck behind the launch it cancels.
    async fn forward(&self, event: &WorkflowJobEvent, delivery: &str, received: Timestamp) -> Result<(), queue::Error> {
        let queued = QueuedEvent { delivery: delivery.to_owned(), received_at: Some(received), event: event.clone() };
        let send = self.send(queue::Message {
            body: queued.encode(),
            group: queued.group(),
            dedup: queued.dedup_id(),
            attributes: QueuedEvent::attributes(),
        });
        tokio::time::timeout(BUDGET, send).await.unwrap_or(Err(queue::Error::Timeout))
    }

    /// Takes news of a running or concluded job from the queue.
    pub(crate) async fn take_news(&self, event: &WorkflowJobEvent) -> Result<(), Error> {
        let message = labels::parse(&event.labels, &self.settings.aliases).ok().map(|spec| {
            let class = labels::class_key(&event.repo, &labels::registered_labels(&event.labels));
            (webhook::job_message(event, &spec, event.created_at.unwrap_or_else(|| self.now())), class)
        });
        if let Some(installation) = event.installation_id {
            self.ports.github.remember_installation(event.repo.owner(), installation);
        }
        let account = Account { id: event.job_id, repo: event.repo.clone(), view: event.view(), message };
        self.startup_metric(event).await;
        self.account(&account).await
    }

    /// GitHub's own measure of how long a job waited.
    async fn startup_metric(&self, event: &WorkflowJobEvent) {
        if event.action != Action::InProgress {
            return;
        }
        if let (Some(created), Some(started)) = (event.created_at, event.started_at)
            && started > created
            && event.runner_name.as_deref().is_some_and(|name| name.starts_with("runs-fleet-"))
        {
            let pool = labels::parse(&event.labels, &self.settings.aliases).ok().and_then(|s| s.launch_spec().pool);
            self.ports.metrics.job_startup(pool.as_ref(), None, clock::since(started, created));
        }
    }
}

enum Accepted {
    Created(Box<Job>),
    Exists(Box<Job>),
}

/// Repeats a call while there is time; the text of the last error otherwise.
async fn within<T, F, Fut>(deadline: tokio::time::Instant, call: F) -> Result<T, String>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, Error>>,
{
    let mut last = "no time left".to_owned();
    let mut pause = Duration::from_millis(50);
    while tokio::time::Instant::now() < deadline {
        match tokio::time::timeout_at(deadline.min(tokio::time::Instant::now() + TRY), call()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => "no answer in time".clone_into(&mut last),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Err(last)
}
