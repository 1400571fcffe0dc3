//! Runs that operators ask for by a queue: `{"task_type": "old_jobs", "timestamp": "2026-01-01T08:00:00Z", "params": {…}}`.
//!
//! A request is satisfied by any run that began after it was made and ended well, so that a backlog is one run.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use db::tasks::{Ended, TaskRow, Trigger};
use domain::clock::Timestamp;
use domain::ids::{JobId, PoolName};
use queue::{ConsumerConfig, Delivery, Disposition, Handler};
use serde::Deserialize;
use telemetry::metrics::RequestResult;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::context::Housekeeping;
use crate::run::{Ask, Ran};
use crate::task::{RETIRED, Task};

#[cfg(test)]
mod tests;

/// How soon a request whose task runs elsewhere comes back.
const LOCKED: Duration = Duration::from_secs(30);
/// Most things a request may let a run act upon.
const MOST_ITEMS: u64 = 1000;

/// What a message asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A run of a task, made at this time if it says so.
    Run(Task, Option<Timestamp>, Ask),
    /// A run of a task that is no more.
    Retired(&'static str),
    /// A run of something we never heard of.
    Unknown(String),
}

#[derive(Deserialize)]
struct Body {
    task_type: String,
    timestamp: Option<Timestamp>,
    #[serde(default)]
    params: Option<Params>,
}

#[derive(Deserialize, Default)]
struct Params {
    #[serde(default)]
    dry_run: bool,
    max_items: Option<u64>,
    pool: Option<PoolName>,
    job_id: Option<u64>,
    /// Part of the message's form; no task re-dispatches against its caps.
    #[serde(default, rename = "force")]
    _force: bool,
    requested_by: Option<String>,
}

impl Request {
    /// Reads a message. `None`: it is none of ours.
    pub fn parse(body: &str) -> Option<Self> {
        let Body { task_type, timestamp, params } = serde_json::from_str(body).ok()?;
        let params = params.unwrap_or_default();
        let max_items = match params.max_items {
            Some(most @ 1..=MOST_ITEMS) => usize::try_from(most).ok(),
            Some(_) => return None,
            None => None,
        };
        let job = match params.job_id {
            Some(id) => Some(JobId::new(id)?),
            None => None,
        };
        if task_type.is_empty() {
            return None;
        }
        if let Some(&retired) = RETIRED.iter().find(|name| **name == task_type) {
            return Some(Self::Retired(retired));
        }
        let Some(task) = Task::named(&task_type) else { return Some(Self::Unknown(task_type)) };
        let Params { dry_run, pool, requested_by, .. } = params;
        Some(Self::Run(task, timestamp, Ask { dry_run, max_items, pool, job, requested_by }))
    }
}

/// Whether a run that ended well began after the request was made.
pub fn is_satisfied(row: &TaskRow, made_at: Timestamp) -> bool {
    let success = row.last_result.as_deref() == Some("success");
    // Stored in whole seconds.
    success && row.last_started_at.is_some_and(|began| began.as_second() >= made_at.as_second())
}

/// The queue's handler. Every replica has one.
pub struct Requests {
    /// Who runs the tasks.
    pub keeper: Arc<Housekeeping>,
    /// The process is about to end: a run ends at its next step.
    pub stop: CancellationToken,
}

impl Requests {
    /// How the queue is consumed: one message at a time, for as long as a run may take.
    pub const fn consuming() -> ConsumerConfig {
        let mut consuming = ConsumerConfig::new(1);
        consuming.heartbeat = Duration::from_secs(60);
        consuming.deadline = Duration::from_secs(360);
        consuming
    }

    async fn serve(&self, body: &str, lost: CancellationToken) -> (RequestResult, Disposition) {
        let (task, made_at, ask) = match Request::parse(body) {
            Some(Request::Run(task, made_at, ask)) => (task, made_at, ask),
            Some(Request::Retired(name)) => {
                info!(task = name, "a task that is no more was asked for; nothing to do");
                return (RequestResult::Retired, Disposition::Ack);
            }
            Some(Request::Unknown(name)) => {
                warn!(task = name.chars().take(64).collect::<String>(), "an unknown task was asked for");
                return (RequestResult::Unknown, Disposition::Ack);
            }
            None => return (RequestResult::Malformed, Disposition::Reject("malformed")),
        };
        let keeper = &self.keeper;
        let slots = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            slots = keeper.slots(task) => slots,
        };
        let Some(slots) = slots else {
            // Another replica has the time for it.
            return (RequestResult::Locked, Disposition::Keep { after: Some(Duration::ZERO) });
        };
        info!(
            event = "housekeeping_requested",
            task = task.name(),
            requested_by = ask.requested_by.as_deref().unwrap_or(""),
            dry_run = ask.dry_run,
            "a run was asked for"
        );
        if ask.dry_run {
            let report = keeper.rehearse(task, &ask, self.stop.clone()).await;
            info!(
                task = task.name(),
                report = serde_json::to_string(&report).unwrap_or_default(),
                "what a run would do"
            );
            return (RequestResult::Done, Disposition::Ack);
        }
        let needed = |row: &TaskRow| made_at.is_none_or(|at| !is_satisfied(row, at));
        let ran = keeper.run(task, &ask, Trigger::Queue, None, vec![self.stop.clone(), lost], needed).await;
        drop(slots);
        match ran {
            Ok(Ran::Needless) => (RequestResult::Coalesced, Disposition::Ack),
            Ok(Ran::Locked | Ran::Deposed) => (RequestResult::Locked, Disposition::Keep { after: Some(LOCKED) }),
            Ok(Ran::Ended(Ended::Success, _)) => (RequestResult::Done, Disposition::Ack),
            Ok(Ran::Ended(Ended::Aborted | Ended::Failed { .. }, _)) => {
                (RequestResult::Failed, Disposition::Keep { after: None })
            }
            Err(error) => {
                warn!(task = task.name(), %error, "a run that was asked for could not begin");
                (RequestResult::Failed, Disposition::Keep { after: None })
            }
        }
    }
}

#[async_trait]
impl Handler for Requests {
    async fn handle(&self, delivery: &Delivery, lost: CancellationToken) -> Disposition {
        let (result, disposition) = self.serve(&delivery.body, lost).await;
        self.keeper.metrics().housekeeping_messages(result);
        disposition
    }
}
