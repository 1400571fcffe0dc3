//! `simulate`: the orchestrator in simulated worlds, seed by seed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use domain::clock::{Clock, SystemClock, since};
use domain::ids::JobId;
use simulation::world::journal::Keep;
use simulation::world::plot;
use simulation::world::run::{Options, Outcome, run};
use simulation::world::summary::Summary;

use crate::cli::{self, complain, say};

/// Lines shown of a job whose invariant was broken.
const TAIL: usize = 60;

pub(crate) fn main(options: &cli::Simulate) -> anyhow::Result<ExitCode> {
    let seeds = options.seeds();
    let next = AtomicU64::new(*seeds.start());
    let stop = AtomicBool::new(false);
    let shown = Mutex::new(InOrder { due: *seeds.start(), ..InOrder::default() });
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = threads.min(usize::try_from(seeds.end() - seeds.start() + 1).unwrap_or(usize::MAX));
    let began = SystemClock.now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    let done = one(options, seed)
                        .unwrap_or_else(|error| Finished { text: format!("{error:#}"), ..Finished::failed() });
                    if done.violations > 0 && !options.keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                    shown.lock().unwrap_or_else(PoisonError::into_inner).take(seed, done);
                }
            });
        }
    });
    let InOrder { total, failed, .. } = shown.into_inner().unwrap_or_else(PoisonError::into_inner);
    if seeds.start() != seeds.end() {
        let took = since(SystemClock.now(), began).as_secs_f64();
        if options.json {
            say(&serde_json::to_string(&total)?);
        } else {
            let speed = total.jobs as f64 / took.max(0.001);
            say(&format!("{total} in {took:.1} s on {threads} threads ({speed:.0} jobs/s)"));
        }
    }
    if let Some(seed) = failed {
        complain(&format!("an invariant is broken; to see it again:\n  {}", options.replay(seed)));
    }
    Ok(if failed.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Shows what came of the seeds in their order, each as soon as all before it are done.
#[derive(Default)]
struct InOrder {
    due: u64,
    early: BTreeMap<u64, Finished>,
    total: Total,
    failed: Option<u64>,
}

impl InOrder {
    fn take(&mut self, seed: u64, done: Finished) {
        self.early.insert(seed, done);
        while let Some(done) = self.early.remove(&self.due) {
            self.total.add(&done);
            if done.violations > 0 {
                self.failed.get_or_insert(self.due);
            }
            say(done.text.trim_end());
            self.due += 1;
        }
    }
}

/// What came of a seed, as it is shown.
struct Finished {
    jobs: u64,
    violations: u64,
    lost_to: BTreeMap<String, u64>,
    text: String,
}

impl Finished {
    const fn failed() -> Self {
        Self { jobs: 0, violations: 1, lost_to: BTreeMap::new(), text: String::new() }
    }
}

#[derive(Debug, Default, serde::Serialize)]
struct Total {
    seeds: u64,
    jobs: u64,
    lost: u64,
    lost_to: BTreeMap<String, u64>,
    violations: u64,
    failed_seeds: u64,
}

impl Total {
    fn add(&mut self, done: &Finished) {
        self.seeds += 1;
        self.jobs += done.jobs;
        for (reason, jobs) in &done.lost_to {
            self.lost += jobs;
            *self.lost_to.entry(reason.clone()).or_default() += jobs;
        }
        self.violations += done.violations;
        self.failed_seeds += u64::from(done.violations > 0);
    }
}

impl std::fmt::Display for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seeds, jobs, lost, lost_to, violations, failed_seeds } = self;
        let why = because(lost_to);
        write!(f, "{seeds} seeds, {jobs} jobs, {lost} lost{why}, {violations} violations in {failed_seeds} seeds")
    }
}

fn one(options: &cli::Simulate, seed: u64) -> anyhow::Result<Finished> {
    let keep = if options.trace.is_some() || options.journal { Keep::All } else { Keep::Nothing };
    let world = Options {
        seed,
        jobs: options.jobs,
        replicas: options.replicas,
        faults: options.faults,
        keep,
        work: options.work(),
        mutation: options.mutation,
    };
    let began = SystemClock.now();
    let mut outcome = run(&world).context("the world cannot be made")?;
    let took = since(SystemClock.now(), began).as_secs_f64();
    // A journal costs more than the world it is about, and the same seed tells the same story once more.
    if !outcome.violations.is_empty() && keep == Keep::Nothing && !options.json {
        outcome = run(&Options { keep: Keep::Last(options.lines()), ..world }).context("the world cannot be made")?;
    }
    let mut text = match options.json {
        true => serde_json::to_string(&outcome.summary)?,
        false => shown(&outcome, took, seed),
    };
    if let Some(job) = options.trace {
        let job = JobId::new(job).context("a job's id is not zero")?;
        let _ = write!(text, "\n{}", outcome.journal.story(job).trim_end());
    }
    if options.journal {
        let _ = write!(text, "\n{}", outcome.journal.everything().trim_end());
    }
    if !options.json {
        text.push_str(&accusation(&outcome, options, seed));
    }
    if let Some(path) = &options.plot {
        std::fs::write(path, plot::svg(&outcome.series, &plot_title(&outcome.summary)))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let Summary { jobs, lost_to, violations, .. } = outcome.summary;
    Ok(Finished { jobs, lost_to, violations, text })
}

fn plot_title(summary: &Summary) -> String {
    format!("{} jobs, {} instances, {:.0} USD", summary.jobs, summary.launches, summary.cost_usd)
}

fn shown(outcome: &Outcome, took: f64, seed: u64) -> String {
    let s = &outcome.summary;
    let mut text = format!(
        "seed {seed}: {} jobs, {} completed, {} re-run, {} lost{}; wait {:.0}/{:.0}/{:.0} s (p50/p95/p99); {} launches \
         ({:+}), {} reclaimed, {} stolen; {} hot, {} warm, {} cold; {:.2} USD; {} virtual s in {took:.2} s ({:.0} jobs/s)",
        s.jobs,
        s.completed,
        s.rerun,
        s.lost,
        because(&s.lost_to),
        s.wait_s_p50,
        s.wait_s_p95,
        s.wait_s_p99,
        s.launches,
        s.extra_launches,
        s.reclaims,
        s.stolen,
        s.hot,
        s.warm,
        s.cold,
        s.cost_usd,
        s.virtual_s,
        s.jobs as f64 / took.max(0.001),
    );
    let calls = outcome.calls.iter().map(|(port, calls)| format!("{port} {:.2}", *calls as f64 / s.jobs.max(1) as f64));
    let _ = write!(text, "\n  port calls per job: {}", calls.collect::<Vec<_>>().join(", "));
    let _ = write!(
        text,
        "\n  most asked of GitHub by one installation: {} requests an hour, {} changes a minute",
        outcome.github_usage.requests_per_hour, outcome.github_usage.changes_per_minute
    );
    let left = outcome
        .ec2_usage
        .iter()
        .map(|(operation, asked)| format!("{operation} {:.0} of {:.0}", asked.least_left, asked.bucket));
    let _ = write!(text, "\n  fewest tokens left of EC2's buckets: {}", left.collect::<Vec<_>>().join(", "));
    if let Some(memory) = peak_memory() {
        let _ = write!(text, "\n  peak memory of the process: {memory} MiB");
    }
    text
}

/// Why jobs were lost, if any were.
fn because(lost_to: &BTreeMap<String, u64>) -> String {
    let reasons: Vec<String> = lost_to.iter().map(|(reason, jobs)| format!("{reason} {jobs}")).collect();
    if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) }
}

/// MiB, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? / 1024)
}

fn accusation(outcome: &Outcome, options: &cli::Simulate, seed: u64) -> String {
    let mut text = String::new();
    let Some(first) = outcome.violations.first() else { return text };
    for violation in outcome.violations.iter().take(5) {
        let job = violation.job.map_or_else(String::new, |job| format!(" job {job}"));
        let machine = violation.machine.as_ref().map_or_else(String::new, |machine| format!(" {machine}"));
        let _ = write!(text, "\n  BROKEN {}:{job}{machine}: {}", violation.invariant, violation.text);
    }
    if let Some(job) = first.job
        && options.trace.is_none()
    {
        let _ = write!(text, "\n{}", outcome.journal.tail(job, TAIL));
    }
    let _ = write!(text, "\n  again: {}", options.replay(seed));
    if let Some(job) = first.job {
        let _ = write!(text, " --trace {job}");
    }
    text
}
