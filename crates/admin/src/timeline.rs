//! How long each step of a job took, from its milestones.
//!
//! The stamps come from several clocks. A step whose end was not observed has no length; one that ends before it began
//! has none either and says so, except that GitHub's stamps are whole seconds: within that second it counts as zero,
//! marked. Nothing is interpolated.

use domain::ids::{JobId, RunnerKey};
use domain::job::{Job, Milestone, Origin, Timeline};
use serde::Serialize;

#[cfg(test)]
mod tests;

/// The resolution of GitHub's stamps, milliseconds.
const RESOLUTION: i64 = 1000;

/// What is odd about a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Anomaly {
    /// It ends before it begins: two clocks disagree.
    Negative,
    /// It ended within the second of GitHub's stamp in which it began, and counts as zero.
    Clamped,
}

/// The way between two milestones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// Its name.
    pub name: &'static str,
    /// Milliseconds. `None` when an end is missing, or the ends contradict each other.
    pub ms: Option<i64>,
    /// What is odd about it.
    pub anomaly: Option<Anomaly>,
}

/// The steps, each from one milestone to the next.
const STEPS: [&str; 10] = [
    "github_delivery",
    "ingest",
    "queue_wait",
    "dispatch",
    "launch",
    "boot",
    "register",
    "pickup",
    "execute",
    "teardown",
];

/// The ten steps of an attempt, then `startup_total` (GitHub's creation to the job's start) and `overhead_total` (that
/// and the teardown).
pub fn segments(timeline: &Timeline, attempt: u32) -> [Segment; 12] {
    let between = |name, from, to| {
        let (ms, anomaly) = match (timeline.get(attempt, from), timeline.get(attempt, to)) {
            (Some(from_ms), Some(to_ms)) => length(from_ms, to_ms, from.clock() == "github" || to.clock() == "github"),
            _ => (None, None),
        };
        Segment { name, ms, anomaly }
    };
    let startup = between("startup_total", Milestone::GithubCreated, Milestone::JobStarted);
    let teardown = between("teardown", Milestone::Completed, Milestone::Terminated);
    let overhead = Segment {
        name: "overhead_total",
        ms: startup.ms.zip(teardown.ms).map(|(startup, teardown)| startup + teardown),
        anomaly: startup.anomaly.or(teardown.anomaly),
    };
    std::array::from_fn(|n| match STEPS.get(n) {
        Some(name) => between(name, Milestone::ALL[n], Milestone::ALL[n + 1]),
        None if n == STEPS.len() => startup,
        None => overhead,
    })
}

fn length(from: i64, to: i64, whole_seconds: bool) -> (Option<i64>, Option<Anomaly>) {
    match to.saturating_sub(from) {
        ms if ms >= 0 => (Some(ms), None),
        ms if whole_seconds && ms >= -RESOLUTION => (Some(0), Some(Anomaly::Clamped)),
        _ => (None, Some(Anomaly::Negative)),
    }
}

/// GitHub's creation of the job to its start, over all attempts, milliseconds. A job that never started has none.
pub fn startup_ms(job: &Job) -> Option<i64> {
    let created = job.timeline.get(1, Milestone::GithubCreated)?;
    let started = job.timeline.get(job.attempt(), Milestone::JobStarted)?;
    length(created, started, true).0
}

/// The answer of `/api/jobs/{id}/timeline`.
#[derive(Debug, Serialize)]
pub(crate) struct TimelineView {
    job_id: JobId,
    attempts: Vec<AttemptView>,
    startup_total_ms: Option<i64>,
}

/// One attempt. The record keeps machine and origin of the last one only.
#[derive(Debug, Serialize)]
struct AttemptView {
    attempt: u32,
    source: Option<&'static str>,
    instance_id: Option<RunnerKey>,
    result: Option<&'static str>,
    milestones: Vec<MilestoneView>,
    segments: [Segment; 12],
}

#[derive(Debug, Serialize)]
struct MilestoneView {
    name: &'static str,
    at_ms: Option<i64>,
    clock: &'static str,
    adjusted: bool,
}

impl TimelineView {
    pub(crate) fn of(job: &Job) -> Self {
        let attempts = 1..=job.attempt();
        let attempts = attempts.map(|attempt| AttemptView::of(job, attempt)).collect();
        Self { job_id: job.id, attempts, startup_total_ms: startup_ms(job) }
    }
}

impl AttemptView {
    fn of(job: &Job, attempt: u32) -> Self {
        let last = attempt == job.attempt();
        let milestones = Milestone::ALL.into_iter().map(|milestone| MilestoneView {
            name: milestone.as_str(),
            at_ms: job.timeline.get(attempt, milestone),
            clock: milestone.clock(),
            // Stamps are stored as they came; none is shifted.
            adjusted: false,
        });
        Self {
            attempt,
            source: job.origin().filter(|_| last).map(Origin::as_str),
            instance_id: job.instance.clone().filter(|_| last),
            // An attempt that has a successor was given up for it.
            result: if last { job.state.is_settled().then(|| job.state.as_str()) } else { Some("requeued") },
            milestones: milestones.collect(),
            segments: segments(&job.timeline, attempt),
        }
    }
}
