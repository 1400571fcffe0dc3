//! How events reach a record.
//!
//! Read consistently, gather the facts, ask [`transition`], write what it says pinned to the version read; on a lost
//! write read again. Effects follow only the winning write, so of any number of actors exactly one acts.

use std::time::Duration;

use db::Outcome;
use domain::clock::Timestamp;
use domain::ids::{JobId, PoolName, Repo, RunnerKey};
use domain::job::apply::Context;
use domain::job::transition::{Move, SettleReason, Wake};
use domain::job::{Event, Job, JobState, Settled, transition};
use domain::runner::{Runner, RunnerState};
use telemetry::metrics::{JobResult, SchedulingFailure};
use tracing::{error, info, warn};

use crate::context::{Dispatch, Error, News};

/// Tries of a read-decide-write before giving up for now.
pub(crate) const WRITE_TRIES: u32 = 8;
/// Tries of a send or an ack.
const SEND_TRIES: u32 = 3;

/// What came of an event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Raised {
    /// The record moved.
    Moved {
        /// As it was.
        before: Box<Job>,
        /// As it is.
        after: Box<Job>,
        /// What was decided.
        step: Move,
        /// Whether the wake-up that follows a re-dispatch was sent (the outbox stands behind it).
        woken: bool,
    },
    /// The event does nothing to the record as it stands.
    NoOp,
}

impl Raised {
    /// Whether the record moved.
    pub(crate) const fn moved(&self) -> bool {
        matches!(self, Self::Moved { .. })
    }
}

impl Dispatch {
    /// Raises an event on a job: `facts` turns the record as read into the event. `amend` adds facts that are stored
    /// with the move (exit codes, errors) before it is applied.
    pub(crate) async fn raise(
        &self,
        id: JobId,
        facts: impl Fn(&Job, &Context<'_>) -> Event + Send + Sync,
        amend: impl Fn(&mut Job) + Send + Sync,
    ) -> Result<Raised, Error> {
        self.raise_until(id, None, facts, amend).await
    }

    /// The same, with the end of the back-off where somebody else decides it (a rate limit).
    pub(crate) async fn raise_until(
        &self,
        id: JobId,
        until: Option<Timestamp>,
        facts: impl Fn(&Job, &Context<'_>) -> Event + Send + Sync,
        amend: impl Fn(&mut Job) + Send + Sync,
    ) -> Result<Raised, Error> {
        for _ in 0..WRITE_TRIES {
            let Some(job) = self.ports.jobs.get(id).await? else { return Ok(Raised::NoOp) };
            let cx = self.cx();
            let event = facts(&job, &cx);
            let Some(step) = transition(Some(job.state), &event) else {
                return Ok(Raised::NoOp);
            };
            let mut amended = job.clone();
            amend(&mut amended);
            let Some(new) = amended.apply(step, until, &cx) else { return Ok(Raised::NoOp) };
            if let Outcome::Applied(after) = self.ports.jobs.write(&job, new).await? {
                let woken = self.moved(&job, &after, step, event_name(&event)).await;
                return Ok(Raised::Moved { before: Box::new(job), after: Box::new(after), step, woken });
            }
        }
        Err(Error::Contended)
    }

    /// What follows every winning move: the log line, the metrics, the news, and the wake-up where the move asks for
    /// one. Says whether the wake-up was sent.
    pub(crate) async fn moved(&self, before: &Job, after: &Job, step: Move, event: &'static str) -> bool {
        self.report_move(before, after, step, event);
        match step {
            Move::Requeue { wake: Wake::Now, .. } if after.state == JobState::Requeued => self.wake(after).await,
            _ => true,
        }
    }

    fn report_move(&self, before: &Job, after: &Job, step: Move, event: &'static str) {
        let m = &self.ports.metrics;
        m.transition(event, Some(before.state), Some(after.state));
        match step {
            Move::Requeue { wake: Wake::Elsewhere, .. } => {}
            Move::Requeue { reason, .. } if after.state == JobState::Requeued => m.jobs_requeued(reason),
            Move::Start => m.runner_confirmed(pool_of(after)),
            _ => {}
        }
        if let (JobState::Settled(end), false) = (after.state, before.state.is_settled()) {
            self.report_end(after, end);
        }
        info!(
            event = "job_moved",
            job_id = after.id.get(),
            repo = repo_of(after).map_or("", Repo::as_str),
            cause = event,
            from = before.state.as_str(),
            to = after.state.as_str(),
            instance_id = after.instance.as_ref().map_or("", RunnerKey::as_str),
            retry_count = after.retry_count,
            dispatch_seq = after.dispatch_seq,
            lease_owner = after.lease.as_ref().map_or("", |l| l.owner.as_str()),
            "job moved"
        );
        self.tell(News::Job { id: after.id, state: after.state.as_str() });
    }

    /// The numbers of a settled job; an error line when it was us who gave up.
    pub(crate) fn report_end(&self, job: &Job, end: Settled) {
        let reason = job.settled_reason.as_deref().and_then(SettleReason::parse);
        let m = &self.ports.metrics;
        let result = match end {
            Settled::Success | Settled::Completed | Settled::Cancelled => JobResult::Served,
            Settled::Timeout => JobResult::Timeout,
            Settled::Interrupted => JobResult::Interrupted,
            Settled::Failure | Settled::Error | Settled::Failed | Settled::Orphaned => JobResult::Error,
        };
        if let Some(repo) = repo_of(job) {
            m.jobs_completed(pool_of(job), result, repo);
        }
        if let Some(seconds) = job.duration_seconds {
            m.job_execution(pool_of(job), result, Duration::from_secs(seconds));
        }
        if let Some(failure) = reason.and_then(SettleReason::scheduling_failure) {
            m.scheduling_failure(SchedulingFailure(failure));
            error!(
                event = "job_settled_error",
                job_id = job.id.get(),
                repo = repo_of(job).map_or("", Repo::as_str),
                reason = reason.map_or("", SettleReason::as_str),
                last_error = job.last_error.as_deref().unwrap_or(""),
                "gave up on a job: GitHub fails it after 24 hours unless an operator revives it"
            );
        }
    }

    /// Sends a pending job's wake-up. `false` leaves it to the outbox.
    pub(crate) async fn wake(&self, job: &Job) -> bool {
        let Some(message) = job.next_message() else { return false };
        match self
            .send(queue::Message {
                body: message.encode(),
                group: message.group(),
                dedup: message.dedup_id(),
                attributes: message.traceparent.iter().map(|t| ("Traceparent".to_owned(), t.clone())).collect(),
            })
            .await
        {
            Ok(()) => true,
            Err(error) => {
                self.ports.metrics.ingest_send_deferred();
                warn!(job_id = job.id.get(), %error, "the wake-up was not sent; the outbox sends it when due");
                false
            }
        }
    }

    /// Sends to the main queue, a few times. The deduplication id makes a repeat after a lost answer harmless.
    pub(crate) async fn send(&self, message: queue::Message) -> Result<(), queue::Error> {
        let mut tries = 1;
        loop {
            let sent = tokio::time::timeout(self.settings.timings.cleanup, self.ports.main.send(message.clone()));
            match sent.await.unwrap_or(Err(queue::Error::Timeout)) {
                Ok(_) => return Ok(()),
                Err(error) if error.is_retryable() && tries < SEND_TRIES => {
                    tries += 1;
                    tokio::time::sleep(self.settings.timings.send_pause).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Changes a runner's row: `change` gets the row as read and edits it.
    pub(crate) async fn change_runner(
        &self,
        key: &RunnerKey,
        change: impl Fn(&mut Runner) + Send + Sync,
    ) -> Result<Option<Runner>, Error> {
        match self.ports.runners.get(key).await? {
            Some(row) => self.change_row(row, change).await,
            None => Ok(None),
        }
    }

    /// The same from a row that was read a moment ago; it is read again where it has moved since.
    pub(crate) async fn change_row(
        &self,
        mut row: Runner,
        change: impl Fn(&mut Runner) + Send + Sync,
    ) -> Result<Option<Runner>, Error> {
        for _ in 0..WRITE_TRIES {
            let mut new = row.clone();
            change(&mut new);
            if new == row {
                return Ok(Some(row));
            }
            new.ttl = Some(Runner::keep_until(self.now(), self.settings.max_runtime));
            if let Outcome::Applied(after) = self.ports.runners.write(Some(&row), new).await? {
                self.tell(News::Runner { key: after.key.clone(), state: after.state.as_str() });
                return Ok(Some(after));
            }
            row = match self.ports.runners.get(&row.key).await? {
                Some(row) => row,
                None => return Ok(None),
            };
        }
        Err(Error::Contended)
    }

    /// Ends a runner's row. Its pointer to the waiting job stays: until that record has moved on, whoever learns that
    /// the runner had another job must find it.
    pub(crate) async fn end_runner(&self, key: &RunnerKey, state: RunnerState) -> Result<Option<Runner>, Error> {
        self.change_runner(key, |row| row.advance(state)).await
    }
}

/// The pool a job asked for.
pub(crate) fn pool_of(job: &Job) -> Option<&PoolName> {
    job.message.as_ref().and_then(|m| m.spec.pool.as_ref())
}

/// The repository of a job.
pub(crate) fn repo_of(job: &Job) -> Option<&Repo> {
    job.message.as_ref().map(|m| &m.repo)
}

/// The stable name of an event in metrics and logs.
pub(crate) const fn event_name(event: &Event) -> &'static str {
    match event {
        Event::Accept => "accept",
        Event::Claim { .. } => "claim",
        Event::Bind { .. } => "bind",
        Event::Unbind { .. } => "unbind",
        Event::Abandon { .. } => "abandon",
        Event::DispatchFailed { .. } => "dispatch_failed",
        Event::RunnerStarted { .. } => "runner_started",
        Event::Serving => "serving",
        Event::Swapped { .. } => "swapped",
        Event::Displaced { .. } => "displaced",
        Event::ServedElsewhere => "served_elsewhere",
        Event::AgentCompleted { .. } => "agent_completed",
        Event::BootstrapFailed { .. } => "bootstrap_failed",
        Event::GithubCompleted { .. } => "github_completed",
        Event::SpotInterruption { .. } => "spot_interruption",
        Event::RecoveryCheck { .. } => "recovery_check",
        Event::UnconfirmedTimeout { .. } => "unconfirmed_timeout",
        Event::StaleCheck { .. } => "stale_check",
        Event::OrphanCheck { .. } => "orphan_check",
        Event::Deadline { .. } => "deadline",
        Event::OperatorRequeue { .. } => "operator_requeue",
        Event::OperatorTerminate { .. } => "operator_terminate",
        Event::OperatorReconcile { .. } => "operator_reconcile",
        Event::Gc { .. } => "gc",
    }
}

/// Cut to whole characters, with a mark.
pub(crate) fn truncate(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit.saturating_sub(3);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
