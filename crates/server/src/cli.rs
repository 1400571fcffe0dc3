//! The command line.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use domain::ids::{JobId, PoolName};

/// Runs GitHub Actions jobs on your own ephemeral machines.
#[derive(Debug, Parser)]
#[command(name = "runs-fleet-server", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the orchestrator, configured by the environment.
    Serve(Serve),
    /// Runs everything on this machine: orchestrator, simulated GitHub, runners as processes. Needs no account.
    #[cfg(feature = "local")]
    Local(Local),
    /// Runs the orchestrator in simulated worlds with virtual time, and checks that it keeps its promises.
    #[cfg(feature = "simulate")]
    Simulate(Simulate),
    /// Checks the configuration in the environment and reports every problem at once.
    CheckConfig(CheckConfig),
    /// Lists, or creates, the tables and queues that an AWS account needs.
    #[cfg(feature = "aws")]
    Setup(Setup),
    /// Explains what a job with these labels would get.
    Labels(Labels),
    /// Says in one sentence what a job waits for, and shows its timeline.
    Why(Why),
    /// Lists the tasks of housekeeping, or runs one now.
    #[command(subcommand)]
    Tasks(Tasks),
    /// Shows and changes warm pools.
    #[command(subcommand)]
    Pools(Pools),
    /// Asks the server on this machine whether it is healthy. For container health checks.
    Healthcheck,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Serve one machine from this directory: embedded stores, processes as runners.
    #[cfg(feature = "local")]
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) local: Option<PathBuf>,
    /// The GitHub configured is the simulated one, which has no quota.
    #[cfg(feature = "local")]
    #[arg(long, hide = true)]
    pub(crate) simulated_github: bool,
}

#[cfg(feature = "simulate")]
#[derive(Debug, Clone, Args)]
pub(crate) struct Simulate {
    /// One world, drawn from this seed.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "seeds")]
    seed: u64,
    /// Many worlds: seeds from A up to, but without, B.
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    seeds: Option<std::ops::RangeInclusive<u64>>,
    /// Jobs in each of them.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) jobs: u64,
    /// Replicas of the orchestrator.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = replicas)]
    pub(crate) replicas: usize,
    /// What goes wrong: none, network, crashes, cloud, github or all.
    #[arg(long, value_name = "KIND", default_value = "all")]
    pub(crate) faults: simulation::world::scenario::Faults,
    /// Print objects of JSON, and no real time.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the whole story of this job.
    #[arg(long, value_name = "JOB")]
    pub(crate) trace: Option<u64>,
    /// Print everything that happened.
    #[arg(long)]
    pub(crate) journal: bool,
    /// A day of sixty-four organisations instead of a bad hour of two.
    #[arg(long)]
    pub(crate) day: bool,
    /// The same organisations at a constant rate, for as long as it takes: shows what a job costs as records pile up.
    #[arg(long, value_name = "JOBS_PER_MINUTE", conflicts_with = "day")]
    pub(crate) steady: Option<std::num::NonZeroU32>,
    /// A week of one organisation with warm pools; `--jobs` does not matter.
    #[arg(long, conflicts_with_all = ["day", "steady"])]
    pub(crate) week: bool,
    /// Three days of bursts, with machines that are all cold, always hot, or kept by the tuner.
    #[arg(long, value_name = "WARMTH", conflicts_with_all = ["day", "steady", "week"])]
    pub(crate) bursts: Option<simulation::world::week::Warmth>,
    /// Write a picture of waits and fleet (SVG).
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Go on with further seeds when an invariant is broken.
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Put a deliberate bug in, to see whether it is caught.
    #[arg(long, value_name = "NAME")]
    pub(crate) mutation: Option<simulation::world::mutation::Mutation>,
}

#[cfg(feature = "simulate")]
impl Simulate {
    /// The seeds asked for.
    pub(crate) fn seeds(&self) -> std::ops::RangeInclusive<u64> {
        self.seeds.clone().unwrap_or(self.seed..=self.seed)
    }

    /// What people do.
    pub(crate) fn work(&self) -> simulation::world::scenario::Work {
        use simulation::world::scenario::Work;
        match self.bursts {
            Some(warmth) => Work::Bursts(warmth),
            None if self.week => Work::Week,
            None if self.day => Work::Day,
            None => self.steady.map_or(Work::Hour, Work::Steady),
        }
    }

    /// How much of what happened is kept to explain a broken invariant.
    pub(crate) const fn lines(&self) -> usize {
        if self.day || self.steady.is_some() { 0 } else { 20_000 }
    }

    /// The command that shows one of the worlds again.
    pub(crate) fn replay(&self, seed: u64) -> String {
        let Self { jobs, replicas, .. } = self;
        let mut text = format!(
            "runs-fleet-server simulate --seed {seed} --jobs {jobs} --replicas {replicas} --faults {}",
            self.faults.as_str()
        );
        if self.day {
            text.push_str(" --day");
        }
        if let Some(per_minute) = self.steady {
            text.push_str(" --steady ");
            text.push_str(&per_minute.to_string());
        }
        if self.week {
            text.push_str(" --week");
        }
        if let Some(warmth) = self.bursts {
            text.push_str(" --bursts ");
            text.push_str(warmth.as_str());
        }
        if let Some(mutation) = self.mutation {
            text.push_str(" --mutation ");
            text.push_str(mutation.as_str());
        }
        text
    }
}

#[cfg(feature = "simulate")]
fn seeds(text: &str) -> Result<std::ops::RangeInclusive<u64>, String> {
    let range = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse::<u64>().ok()?)));
    range
        .filter(|(from, to)| from < to)
        .map(|(from, to)| from..=to - 1)
        .ok_or_else(|| "two numbers, as in 1..100".to_owned())
}

#[cfg(feature = "simulate")]
fn replicas(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=3).contains(n)).ok_or_else(|| "1, 2 or 3".to_owned())
}

#[cfg(feature = "local")]
#[derive(Debug, Clone, Args)]
pub(crate) struct Local {
    /// Jobs to run; without it they come until you stop it.
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<u64>,
    /// Jobs open at the same time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(crate) parallel: u64,
    /// Probability that a runner takes a job it was not launched for.
    #[arg(long, value_name = "P", default_value_t = 0.15, value_parser = probability)]
    pub(crate) theft: f64,
    /// Seed of the simulated GitHub's choices and of the chaos.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Make everything go wrong: kill the orchestrator and runners, lose, repeat and reorder webhooks.
    #[arg(long)]
    pub(crate) chaos: bool,
    /// Keep two warm pools of so many spares, running and stopped, and send two of three jobs to them.
    #[arg(long, value_name = "SPARES", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) pool: Option<u32>,
    /// How long a new machine plays that it boots, as an instance does; a stopped one has booted before.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=60))]
    pub(crate) boot: u64,
    /// End when the jobs are done.
    #[arg(long, requires = "jobs")]
    pub(crate) exit_when_done: bool,
    /// Print the result as one JSON object, and nothing else on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// Give up after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    pub(crate) deadline: u64,
    /// Serve an Actions cache, too.
    #[arg(long)]
    pub(crate) cache: bool,
    /// Keep stores, logs and machines here instead of in a temporary directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Port of the page and the webhook on the loopback interface [default: 8080, or a free one]
    #[arg(long)]
    pub(crate) port: Option<u16>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckConfig {
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// Treat warnings as errors.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Read variables from a file of `KEY=VALUE` lines instead of the environment.
    #[arg(long, value_name = "PATH")]
    pub(crate) env_file: Option<PathBuf>,
    /// Print every variable there is, as Markdown, and exit.
    #[arg(long)]
    pub(crate) print_reference: bool,
}

#[cfg(feature = "aws")]
#[derive(Debug, Args)]
pub(crate) struct Setup {
    /// Print what is needed, and change nothing. The default.
    #[arg(long, conflicts_with = "create")]
    pub(crate) print: bool,
    /// Create what is missing, for development and tests, and print the server's variables. May be repeated.
    #[arg(long)]
    pub(crate) create: bool,
    /// Every name begins so.
    #[arg(long, value_name = "NAME", default_value = "runs-fleet")]
    pub(crate) name_prefix: String,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Labels {
    /// The job's labels, as in `runs-on`.
    #[arg(required_unless_present = "json")]
    pub(crate) labels: Vec<String>,
    /// Read one JSON array of labels per line from standard input, print one object per line.
    #[arg(long, conflicts_with = "labels")]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Why {
    /// The workflow job's id, as in its URL.
    pub(crate) job: JobId,
    /// Directory of a `local` run (its `--dir`).
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Pools {
    /// Lists the pools, and what the last pass over each saw.
    List(ListPools),
    /// Shows a pool.
    Show(OnePool),
    /// Changes a pool, or makes one. What is not mentioned stays.
    Set(Box<SetPool>),
    /// Removes a pool with its machines, unless it is in use.
    Delete(DeletePool),
    /// Says what the next pass over a pool would do, and why. Changes nothing.
    Plan(OnePool),
}

#[derive(Debug, Args)]
pub(crate) struct ListPools {
    /// Directory of a `local` run (its `--dir`).
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct OnePool {
    /// The pool, as in the label `pool=…`.
    pub(crate) name: PoolName,
    /// Directory of a `local` run (its `--dir`).
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SetPool {
    /// The pool, as in the label `pool=…`.
    pub(crate) name: PoolName,
    /// Running spares.
    #[arg(long, value_name = "N")]
    pub(crate) running: Option<u32>,
    /// Stopped spares.
    #[arg(long, value_name = "N")]
    pub(crate) stopped: Option<u32>,
    /// Minutes before a running spare more than needed is taken away; 0 is 10.
    #[arg(long, value_name = "MINUTES")]
    pub(crate) idle_timeout: Option<u32>,
    /// arm64, amd64 or any.
    #[arg(long, value_name = "ARCH")]
    pub(crate) arch: Option<String>,
    /// vCPUs, as in 4 or 4-8; 0 leaves it open.
    #[arg(long, value_name = "RANGE", value_parser = range::<u32>)]
    pub(crate) cpu: Option<(u32, u32)>,
    /// Memory in GiB, as in 16 or 8-32; 0 leaves it open.
    #[arg(long, value_name = "RANGE", value_parser = range::<f64>)]
    pub(crate) ram: Option<(f64, f64)>,
    /// Instance families, separated by commas; empty leaves it open.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) families: Option<Vec<String>>,
    /// Generation of the instance family; 0 leaves it open.
    #[arg(long = "gen", value_name = "N")]
    pub(crate) generation: Option<u32>,
    /// This type and no other. Counts only without `--cpu`.
    #[arg(long, value_name = "TYPE")]
    pub(crate) instance_type: Option<String>,
    /// Whether machines stand in private subnets.
    #[arg(long, value_name = "BOOL")]
    pub(crate) private: Option<bool>,
    /// Minutes that running spares are kept after a job: a number, or auto for what the tuner recommends.
    #[arg(long, value_name = "MINUTES", value_parser = overriding)]
    pub(crate) linger: Option<Override>,
    /// How many: a number, or auto.
    #[arg(long, value_name = "N", value_parser = overriding)]
    pub(crate) max_hot: Option<Override>,
    /// Targets by time of day, a JSON list; [] for none. See docs/POOLS.md.
    #[arg(long, value_name = "JSON")]
    pub(crate) schedules: Option<String>,
    /// New machines will do better: make some at once.
    #[arg(long)]
    pub(crate) reset_health: bool,
    /// Directory of a `local` run (its `--dir`), whose server must not run.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeletePool {
    /// The pool, as in the label `pool=…`.
    pub(crate) name: PoolName,
    /// Also if no label made it. Its targets must be 0.
    #[arg(long)]
    pub(crate) force: bool,
    /// Directory of a `local` run (its `--dir`), whose server must not run.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A number instead of the recommended one, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Override(pub(crate) Option<u32>);

fn overriding(text: &str) -> Result<Override, String> {
    match text {
        "auto" => Ok(Override(None)),
        number => number.parse().map(|number| Override(Some(number))).map_err(|_| "a number, or auto".to_owned()),
    }
}

/// One number is both bounds.
fn range<T: std::str::FromStr + Copy>(text: &str) -> Result<(T, T), String> {
    let number = |text: &str| text.trim().parse::<T>().map_err(|_| "a number, or two as in 4-8".to_owned());
    match text.split_once('-') {
        Some((min, max)) => Ok((number(min)?, number(max)?)),
        None => number(text).map(|both| (both, both)),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tasks {
    /// Lists the tasks of housekeeping and how their last runs ended.
    List(ListTasks),
    /// Runs a task now, here, unless somebody does already.
    Run(RunTask),
}

#[derive(Debug, Args)]
pub(crate) struct ListTasks {
    /// Directory of a `local` run (its `--dir`).
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunTask {
    /// Its name, as `tasks list` shows it.
    pub(crate) task: String,
    /// Look and tell, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Act on so many things at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) max_items: Option<u32>,
    /// Only this pool, where the task is about pools.
    #[arg(long, value_name = "NAME")]
    pub(crate) pool: Option<PoolName>,
    /// Only this job, where the task is about jobs.
    #[arg(long, value_name = "JOB")]
    pub(crate) job: Option<JobId>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(feature = "local")]
fn probability(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|p| (0.0..=1.0).contains(p));
    value.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

/// Writes a line to standard output; a closed pipe is not our problem.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Writes a line to standard error.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Rewrites the line a terminal is on.
#[cfg(feature = "local")]
pub(crate) fn progress(line: &str) {
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "\r\x1b[2K{line}").and_then(|()| err.flush());
}
