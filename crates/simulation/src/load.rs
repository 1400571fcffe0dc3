//! The load: jobs as a company's workflows would ask for them.
//!
//! A fixed number of jobs is kept in flight. Each run is a small matrix of equal jobs, and label sets take turns, so
//! that at any time several jobs of one class wait for runners: that is when runners take each other's jobs.

use std::sync::Arc;
use std::time::Duration;

use domain::clock::Rng;
use domain::gh::Conclusion;
use domain::ids::Repo;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::github::http::SimulatedGitHub;
use crate::github::model::{Counters, JobSpec, Refusal};

/// What to ask for.
#[derive(Clone)]
pub struct Load {
    /// Whose workflows.
    pub repo: Repo,
    /// How many jobs; `None` goes on until cancelled.
    pub jobs: Option<u64>,
    /// How many of them are open at once.
    pub parallel: u64,
    /// `runs-on` of the runs, in turn.
    pub classes: Vec<Vec<String>>,
    /// The most jobs in one run.
    pub matrix: u64,
    /// A job takes between these.
    pub duration: (Duration, Duration),
    /// Probability that a job ends `failure` by itself.
    pub red: f64,
    /// When to give up waiting; `None`: never.
    pub deadline: Option<Duration>,
    /// How long, after everything is concluded, to wait for the re-run of jobs whose runner was lost.
    pub rerun_grace: Duration,
    /// Sizes, durations, colours.
    pub rng: Arc<dyn Rng>,
}

impl Load {
    /// A few label sets, jobs of 0.2 to 1 s, all green.
    pub fn new(repo: Repo, parallel: u64, rng: Arc<dyn Rng>) -> Self {
        let classes = ["runs-fleet/cpu=2/arch=arm64", "runs-fleet/cpu=2/arch=arm64", "runs-fleet/cpu=4"];
        Self {
            repo,
            jobs: None,
            parallel,
            classes: classes.iter().map(|label| vec![(*label).to_owned()]).collect(),
            matrix: 4,
            duration: (Duration::from_millis(200), Duration::from_secs(1)),
            red: 0.0,
            deadline: None,
            rerun_grace: Duration::ZERO,
            rng,
        }
    }

    fn job(&self, number: u64, labels: &[String]) -> JobSpec {
        let (least, most) = self.duration;
        let duration = least + most.saturating_sub(least).mul_f64(self.rng.unit());
        let red = self.red > 0.0 && self.rng.unit() < self.red;
        let outcome = if red { Conclusion::Failure } else { Conclusion::Success };
        JobSpec { name: format!("job {number}"), labels: labels.to_vec(), duration, outcome }
    }
}

/// How a load ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Every job is concluded, and every lost one was re-run or waited for in vain.
    Settled,
    /// The deadline passed first.
    Deadline,
    /// Cancelled from outside.
    Cancelled,
}

/// Submits and waits.
///
/// # Errors
/// The repository does not exist, or there is no label set.
pub async fn run(
    github: &SimulatedGitHub,
    load: &Load,
    cancel: &CancellationToken,
) -> Result<(End, Counters), Refusal> {
    if load.classes.is_empty() {
        return Err(Refusal::Unprocessable("a load needs a label set"));
    }
    let forever = Duration::from_secs(86_400 * 365);
    let until = Instant::now() + load.deadline.unwrap_or(forever);
    let mut changes = github.changes();
    let (mut submitted, mut runs, mut grace_until) = (0, 0_usize, None);
    loop {
        changes.mark_unchanged();
        let mut counters = github.counters();
        loop {
            let free = load.parallel.saturating_sub(counters.unsettled());
            let size = free.min(load.matrix.max(1)).min(load.jobs.map_or(u64::MAX, |jobs| jobs - submitted));
            if size == 0 {
                break;
            }
            let labels = &load.classes[runs % load.classes.len()];
            let jobs = (submitted..submitted + size).map(|n| load.job(n + 1, labels)).collect();
            github.submit_run(&load.repo, jobs)?;
            submitted += size;
            runs += 1;
            counters = github.counters();
        }
        if load.jobs == Some(submitted) && counters.unsettled() == 0 {
            let grace = *grace_until.get_or_insert_with(|| Instant::now() + load.rerun_grace);
            if counters.awaiting_rerun == 0 || Instant::now() >= grace {
                return Ok((End::Settled, counters));
            }
        } else {
            grace_until = None;
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok((End::Cancelled, github.counters())),
            () = tokio::time::sleep_until(until) => return Ok((End::Deadline, github.counters())),
            () = tokio::time::sleep_until(grace_until.unwrap_or(until)) => {}
            _ = changes.changed() => {}
        }
    }
}
