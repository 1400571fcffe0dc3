//! How many jobs there are in each state: for the stream, and shared by all of its readers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use db::JobFilter;
use dispatch::Dispatch;
use domain::clock::{SignedDuration, Timestamp};
use domain::job::{JobState, Settled};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long a count is good enough.
const FRESH: Duration = Duration::from_millis(900);

/// Every state with how many jobs are in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct States(BTreeMap<&'static str, usize>);

impl States {
    /// Counts.
    pub(crate) fn of(states: impl Iterator<Item = JobState>) -> Self {
        let mut counted = Self(JobState::all().map(|state| (state.as_str(), 0)).collect());
        for state in states {
            *counted.0.entry(state.as_str()).or_default() += 1;
        }
        counted
    }
}

/// Unfinished jobs of any age, and settled ones of the last day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Snapshot {
    pub(crate) states: States,
    pub(crate) rejected: usize,
}

/// Counts at most once for everybody who asks at the same time.
#[derive(Default)]
pub(crate) struct Snapshots {
    last: Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

impl Snapshots {
    /// The counts, at most a second old.
    pub(crate) async fn get(&self, dispatch: &Dispatch) -> Result<Arc<Snapshot>, db::Error> {
        let mut last = self.last.lock().await;
        if let Some((_, snapshot)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(Arc::clone(snapshot));
        }
        let snapshot = Arc::new(count(dispatch).await?);
        *last = Some((Instant::now(), Arc::clone(&snapshot)));
        Ok(snapshot)
    }
}

async fn count(dispatch: &Dispatch) -> Result<Snapshot, db::Error> {
    let ports = dispatch.ports();
    let day = a_day_before(ports.clock.now());
    let mut states = BTreeMap::new();
    for state in JobState::all() {
        let since = state.is_settled().then_some(day);
        let filter = JobFilter { states: vec![state], since, limit: 1, ..JobFilter::default() };
        states.insert(state.as_str(), ports.jobs.list(&filter).await?.total);
    }
    Ok(Snapshot { states: States(states), rejected: dispatch.rejected().len() })
}

/// The same time yesterday.
pub(crate) fn a_day_before(now: Timestamp) -> Timestamp {
    now.saturating_sub(SignedDuration::from_hours(24)).unwrap_or(Timestamp::MIN)
}

/// Settled without GitHub's conclusion or a runner's success.
pub(crate) const fn failed(state: JobState) -> bool {
    match state {
        JobState::Settled(end) => !matches!(end, Settled::Completed | Settled::Success | Settled::Cancelled),
        _ => false,
    }
}
