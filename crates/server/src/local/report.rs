//! What a local run came to, measured from the records, the machines' own stamps, and the simulated GitHub.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use db::Jobs;
use domain::clock::{Clock, SystemClock};
use domain::ids::JobId;
use domain::job::{Job, JobState, Milestone};
use provider::local::{Record, read_machines};
use serde::{Deserialize, Serialize};
use simulation::github::http::SimulatedGitHub;
use simulation::load::End;

use super::Layout;
use super::chaos::Kills;
use super::starts::{self, ByKind};

/// How long records may take to follow once GitHub has concluded everything.
const SETTLE: Duration = Duration::from_secs(60);
/// How long machines may take to be cleared away after that.
const CLEAR: Duration = Duration::from_secs(15);

/// The result of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Jobs asked for.
    pub(super) jobs: u64,
    /// Jobs whose latest attempt ended green.
    pub(super) completed: u64,
    /// Jobs that GitHub counts as neither concluded nor re-run.
    pub(super) lost: u64,
    /// Jobs whose latest attempt ended red: in a chaos run, re-runs whose machine was killed too.
    pub(super) failed: u64,
    /// First attempts that failed with their machine and were not re-run.
    pub(super) not_rerun: u64,
    /// Attempts served by a runner that was launched for another job.
    pub(super) stolen: u64,
    /// Re-runs of jobs whose machine was lost.
    pub(super) rerun: u64,
    /// Machines that were launched for a job, or given one.
    pub(super) launches: u64,
    /// Machines beyond one per job.
    pub(super) duplicate_runners: i64,
    /// Records that had not settled a minute after the last job.
    pub(super) unsettled_records: u64,
    /// From the webhook read to the agent spawned, for the first machine of each job.
    pub(super) overhead_ms_p50: Option<i64>,
    /// See `overhead_ms_p50`.
    pub(super) overhead_ms_p99: Option<i64>,
    /// From the webhook read to `run.sh` started, for the same machines.
    pub(super) start_ms_p50: Option<i64>,
    /// See `start_ms_p50`.
    pub(super) start_ms_p99: Option<i64>,
    /// Starts by where the machine came from.
    pub(super) starts: ByKind,
    /// From the first job to the last.
    pub(super) seconds: f64,
    /// How often the orchestrator was killed.
    pub(super) orchestrator_kills: u64,
    /// How many machines were killed.
    pub(super) machine_kills: u64,
    /// Webhooks that failed or were dropped.
    pub(super) webhooks_failed: u64,
    /// Deliveries asked for again.
    pub(super) redeliveries: u64,
    /// How the load ended.
    pub(super) end: End,
}

impl Report {
    pub(super) fn is_good(&self) -> bool {
        self.end == End::Settled && self.lost == 0 && self.not_rerun == 0 && self.unsettled_records == 0
    }
}

/// The stamp the agent leaves beside its state.
#[derive(Deserialize)]
struct AgentState {
    run_started_at_ms: Option<i64>,
}

/// Reads everything once the records have settled, which is waited for.
pub(super) async fn gather(
    dir: &Path,
    github: &SimulatedGitHub,
    end: End,
    took: Duration,
    kills: Kills,
) -> anyhow::Result<Report> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let table = db::Sqlite::open_read_only(&Layout::new(dir).store(), Arc::clone(&clock))?;
    let jobs = Jobs::new(Arc::new(table), clock);
    let unsettled_records = settled(&jobs).await?;
    cleared(&Layout::new(dir)).await;
    let machines = read_machines(dir)?;
    let c = github.counters();
    let reports = github.jobs();
    let received = received(&jobs, reports.iter().map(|job| job.id)).await?;
    // The latest attempt of a job is the one its run shows.
    let mut latest = BTreeMap::new();
    for job in &reports {
        latest.insert((job.run, job.name.clone()), job.conclusion);
    }
    let completed = latest.values().filter(|c| **c == Some("success")).count() as u64;
    let failed = latest.values().filter(|c| c.is_some() && **c != Some("success")).count() as u64;
    let mut spawned: BTreeMap<JobId, i64> = BTreeMap::new();
    let mut started: BTreeMap<JobId, i64> = BTreeMap::new();
    for machine in &machines {
        let Some((job, received)) = machine.job.and_then(|job| received.get_key_value(&job)) else { continue };
        first(&mut spawned, *job, machine.spawned_at_ms.map(|at| at - received));
        first(&mut started, *job, run_started(dir, machine).map(|at| at - received));
    }
    // Spares that no job took do not count.
    let launches = machines.iter().filter(|m| m.job.is_some() || run_started(dir, m).is_some()).count();
    let (mut overhead, mut start) =
        (spawned.into_values().collect::<Vec<_>>(), started.into_values().collect::<Vec<_>>());
    Ok(Report {
        jobs: c.submitted,
        completed,
        lost: c.unsettled(),
        failed,
        not_rerun: c.awaiting_rerun,
        stolen: c.stolen,
        rerun: c.rerun,
        launches: launches as u64,
        duplicate_runners: launches as i64 - c.submitted as i64,
        unsettled_records,
        overhead_ms_p50: percentile(&mut overhead, 50),
        overhead_ms_p99: percentile(&mut overhead, 99),
        start_ms_p50: percentile(&mut start, 50),
        start_ms_p99: percentile(&mut start, 99),
        starts: starts::gather(dir, &received)?,
        seconds: (took.as_secs_f64() * 10.0).round() / 10.0,
        orchestrator_kills: kills.orchestrator,
        machine_kills: kills.machines,
        webhooks_failed: c.webhooks_failed,
        redeliveries: c.redeliveries,
        end,
    })
}

/// Waits until every record is settled; how many are not, after a while.
async fn settled(jobs: &Jobs) -> anyhow::Result<u64> {
    let deadline = tokio::time::Instant::now() + SETTLE;
    loop {
        let mut open = 0;
        for state in JobState::all().filter(|state| !state.is_settled()) {
            open += jobs.by_state(state, None, None).await?.len() as u64;
        }
        if open == 0 || tokio::time::Instant::now() > deadline {
            return Ok(open);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until no hand-over and no report is left, for a while: the end of a job may be known before its machine's.
async fn cleared(layout: &Layout) {
    let empty = |dir: &Path| {
        std::fs::read_dir(dir)
            .map_or(true, |mut entries| entries.all(|entry| entry.is_ok_and(|entry| !entry.path().is_file())))
    };
    let deadline = tokio::time::Instant::now() + CLEAR;
    while !(empty(&layout.hand_overs()) && empty(&layout.spool())) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn received(jobs: &Jobs, ids: impl Iterator<Item = JobId>) -> anyhow::Result<BTreeMap<JobId, i64>> {
    let mut stamps = BTreeMap::new();
    for id in ids {
        let job: Option<Job> = jobs.get(id).await?;
        if let Some(at) = job.and_then(|job| job.timeline.get(1, Milestone::WebhookReceived)) {
            stamps.insert(id, at);
        }
    }
    Ok(stamps)
}

fn run_started(dir: &Path, machine: &Record) -> Option<i64> {
    let state = dir.join("machines").join(machine.key.as_str()).join("state.json");
    serde_json::from_slice::<AgentState>(&std::fs::read(state).ok()?).ok()?.run_started_at_ms
}

/// A job that was robbed of its runner gets another machine later, because of the theft, not of the webhook: only its
/// first one counts.
fn first(of: &mut BTreeMap<JobId, i64>, job: JobId, value: Option<i64>) {
    if let Some(value) = value {
        of.entry(job).and_modify(|least| *least = value.min(*least)).or_insert(value);
    }
}

/// Nearest rank.
pub(super) fn percentile(values: &mut [i64], percent: usize) -> Option<i64> {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100);
    values.get(rank.checked_sub(1)?).copied()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |v: Option<i64>| v.map_or_else(|| "–".to_owned(), |v| format!("{v} ms"));
        writeln!(
            f,
            "{} jobs in {} s: {} green, {} failed, {} lost",
            self.jobs, self.seconds, self.completed, self.failed, self.lost
        )?;
        writeln!(
            f,
            "{} machines ({:+} beyond one per job), {} jobs stolen, {} re-run",
            self.launches, self.duplicate_runners, self.stolen, self.rerun
        )?;
        writeln!(f, "webhook → agent spawned   p50 {}, p99 {}", ms(self.overhead_ms_p50), ms(self.overhead_ms_p99))?;
        write!(f, "webhook → run.sh started  p50 {}, p99 {}", ms(self.start_ms_p50), ms(self.start_ms_p99))?;
        write!(f, "{}", self.starts)?;
        if self.orchestrator_kills + self.machine_kills > 0 {
            write!(
                f,
                "\nkilled: orchestrator {} times, {} machines; webhooks failed {}, asked for again {}",
                self.orchestrator_kills, self.machine_kills, self.webhooks_failed, self.redeliveries
            )?;
        }
        Ok(())
    }
}
