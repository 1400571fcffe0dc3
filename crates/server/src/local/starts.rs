//! How long jobs took to start, by where their machine came from.
//!
//! A start has three parts: from the webhook to the hand-over, which is the orchestrator's; the agent's wait until it has
//! found the hand-over, which for a fresh machine is its whole boot; and from there to `run.sh`, which is the agent's. The
//! orchestrator's log says when a hand-over was written and for what kind of machine, the agent's state file the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use domain::clock::Timestamp;
use domain::ids::{JobId, RunnerKey};
use serde::{Deserialize, Serialize};

use super::Layout;
use super::report::percentile;

/// The starts of one kind.
#[derive(Debug, Default, Serialize)]
pub(super) struct Starts {
    /// How many.
    jobs: usize,
    /// Our own part: webhook read to hand-over written, and hand-over found to `run.sh` started.
    overhead_ms_p50: Option<i64>,
    /// See `overhead_ms_p50`.
    overhead_ms_p99: Option<i64>,
    /// Hand-over written to hand-over found.
    wait_ms_p50: Option<i64>,
    /// See `wait_ms_p50`.
    wait_ms_p99: Option<i64>,
    /// All of it.
    start_ms_p50: Option<i64>,
    /// See `start_ms_p50`.
    start_ms_p99: Option<i64>,
}

/// The starts of a run, by kind.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct ByKind(BTreeMap<String, Starts>);

/// A line of the log that says that a hand-over was written.
#[derive(Deserialize)]
struct Written {
    time: Timestamp,
    job_id: JobId,
    instance_id: RunnerKey,
    source: String,
}

/// What the agent leaves beside it.
#[derive(Deserialize)]
struct AgentState {
    job_id: String,
    claimed_at: Option<Timestamp>,
    run_started_at_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Start {
    overhead: i64,
    wait: i64,
    whole: i64,
}

impl Start {
    const fn of(received: i64, written: i64, found: i64, started: i64) -> Self {
        Self { overhead: (written - received) + (started - found), wait: found - written, whole: started - received }
    }
}

/// Reads the first start of every job; `received` is when its webhook was read.
pub(super) fn gather(dir: &Path, received: &BTreeMap<JobId, i64>) -> io::Result<ByKind> {
    let mut kinds: BTreeMap<String, Vec<Start>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for written in written(&Layout::new(dir).log())? {
        // A later one makes up for a theft or a loss, not for the webhook.
        if !seen.insert(written.job_id) {
            continue;
        }
        let path = dir.join("machines").join(written.instance_id.as_str()).join("state.json");
        let Ok(state) = std::fs::read(path) else { continue };
        let Ok(state) = serde_json::from_slice::<AgentState>(&state) else { continue };
        if state.job_id == written.job_id.to_string()
            && let (Some(received), Some(found), Some(started)) =
                (received.get(&written.job_id), state.claimed_at, state.run_started_at_ms)
        {
            let start = Start::of(*received, written.time.as_millisecond(), found.as_millisecond(), started);
            kinds.entry(written.source).or_default().push(start);
        }
    }
    Ok(ByKind(kinds.into_iter().map(|(kind, starts)| (kind, Starts::of(&starts))).collect()))
}

fn written(log: &Path) -> io::Result<Vec<Written>> {
    let mut found = Vec::new();
    for line in BufReader::new(std::fs::File::open(log)?).lines() {
        let line = line?;
        // The cheap question first: most lines are about something else.
        if line.contains("\"config_stored\"")
            && let Ok(written) = serde_json::from_str(&line)
        {
            found.push(written);
        }
    }
    Ok(found)
}

impl Starts {
    fn of(starts: &[Start]) -> Self {
        let figure =
            |part: fn(&Start) -> i64, percent| percentile(&mut starts.iter().map(part).collect::<Vec<_>>(), percent);
        Self {
            jobs: starts.len(),
            overhead_ms_p50: figure(|s| s.overhead, 50),
            overhead_ms_p99: figure(|s| s.overhead, 99),
            wait_ms_p50: figure(|s| s.wait, 50),
            wait_ms_p99: figure(|s| s.wait, 99),
            start_ms_p50: figure(|s| s.whole, 50),
            start_ms_p99: figure(|s| s.whole, 99),
        }
    }
}

impl fmt::Display for ByKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |v: Option<i64>| v.map_or_else(|| "–".to_owned(), |v| format!("{v} ms"));
        for (kind, starts) in &self.0 {
            write!(
                f,
                "\n{:<10} {:>4} starts  ours p50 {}, p99 {}  agent's wait p50 {}, p99 {}  whole p50 {}, p99 {}",
                kind.replace('_', " "),
                starts.jobs,
                ms(starts.overhead_ms_p50),
                ms(starts.overhead_ms_p99),
                ms(starts.wait_ms_p50),
                ms(starts.wait_ms_p99),
                ms(starts.start_ms_p50),
                ms(starts.start_ms_p99),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_ours_except_for_the_agent_s_wait() {
        assert_eq!(Start::of(1_000, 1_012, 1_040, 1_047), Start { overhead: 19, wait: 28, whole: 47 });
    }
}
