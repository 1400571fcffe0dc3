//! The agent: takes one machine from "booted" to "one job executed, reported, machine gone".
//!
//! Properties, in order: no accepted hand-over is lost — each ends in exactly one completion report, or in a machine
//! whose disappearance the orchestrator notices; no machine is leaked, whatever goes wrong; no credential appears in
//! an argument, a log line, a report or a file the job can read; a disk on which a job was started never serves
//! another; nothing that the job does not need stands before its start.
//!
//! * [`core`] — the decisions: a pure state machine. A simulation runs the same one.
//! * [`environment`] — settings. [`claim`] — judging a hand-over. [`standby`] — waiting for it.
//! * [`runner`] — the Actions runner on disk. [`job`] — its process. [`output`] — what it prints.
//! * [`account`], [`cgroup`], [`firewall`] — what keeps a job from the agent and from the instance's role.
//! * [`intercept`] — leading the job's cache traffic to our cache.
//! * [`watch`] — reclaims, space, memory. [`logs`] — keeping diagnostics. [`tools`] — what the image lacked.
//! * [`machine`] — its end. `aws` — EC2 instances: hand-over from SSM, reports to SQS, TerminateInstances. `vault` —
//!   hand-over from Vault. `boot` — how an instance learns who it is.
//! * [`pod`] — the same in Kubernetes.
//! * [`state`] — what survives a crash of the agent. [`report`] — telling the orchestrator. [`log`] — telling people.
//! * [`shell`] — puts them together; [`main`] is the program around it.
//!
//! Races survived, besides those the modules name: a signal while nothing runs yet ends the agent before it takes a
//! hand-over; a second agent on the same machine recovers what the first one left; `run.sh` that ends while it is
//! being stopped is judged by the stop.

pub mod account;
#[cfg(feature = "aws")]
pub mod aws;
mod back_ends;
#[cfg(feature = "aws")]
pub mod boot;
pub mod cgroup;
pub mod claim;
pub mod core;
pub mod environment;
pub mod firewall;
pub mod intercept;
pub mod job;
pub mod log;
pub mod logs;
pub mod machine;
pub mod output;
pub mod pod;
pub mod report;
pub mod runner;
pub mod shell;
pub mod standby;
pub mod state;
pub mod tools;
#[cfg(feature = "vault")]
mod vault;
pub mod watch;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{SystemClock, SystemRng};

use crate::back_ends::BackEnds;
use crate::environment::{Backend, Environment, Fatal, Identity, Secrets, VaultLogin};
use crate::log::Log;

/// How long work that cannot be cancelled may hold up the exit.
const LINGER: Duration = Duration::from_secs(2);

/// The program. `args` are those behind the executable's name or behind the sub-command that stands for it; whatever
/// stands before them in the process's own arguments is repeated when the agent starts itself again.
///
/// Builds its own runtime: call it from a plain `main`, early, outside of any runtime.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    match args.first().and_then(|word| word.to_str()) {
        None => {}
        Some(job::EXEC_MODE) => return job::exec(&args[1..]),
        Some(intercept::OFF_MODE) => return intercept::off(),
        #[cfg(feature = "aws")]
        Some(mode @ ("bootstrap" | "give-up")) if args.len() <= 2 => return booting(mode, args.get(1)),
        Some("--version") => {
            let _ = writeln!(std::io::stdout(), "runs-fleet-agent {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(_) => {
            let usage = "usage: runs-fleet-agent [--version | bootstrap [FILE] | give-up [REASON]]";
            let _ = writeln!(std::io::stderr(), "{usage}; everything else is environment");
            return ExitCode::from(2);
        }
    }
    let all: Vec<OsString> = std::env::args_os().skip(1).collect();
    let prefix = all[..all.len().saturating_sub(args.len())].to_vec();
    let log = Log::new(Arc::new(SystemClock));
    match start(prefix, &log) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log.error("agent_exit", &[("error", error.to_string().into()), ("code", 1.into())]);
            ExitCode::FAILURE
        }
    }
}

/// Why the agent could not begin.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Environment(#[from] Fatal),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[cfg(feature = "aws")]
    #[error(transparent)]
    Identity(#[from] boot::Failed),
}

/// The modes around an instance's boot.
#[cfg(feature = "aws")]
fn booting(mode: &str, argument: Option<&OsString>) -> ExitCode {
    let log = Log::new(Arc::new(SystemClock));
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    let code = runtime.block_on(async {
        match mode {
            "bootstrap" => boot::bootstrap(argument.map(std::path::Path::new), &log).await,
            _ => boot::give_up(&argument.map(|text| text.to_string_lossy()).unwrap_or_default(), &log).await,
        }
    });
    ExitCode::from(code)
}

/// What the metadata service has to say because nobody else did: variables and their values.
#[cfg(feature = "aws")]
async fn identity(log: &Log) -> Result<Vec<(&'static str, String)>, boot::Failed> {
    let get = |name: &str| std::env::var(name).ok();
    let Some(base) = environment::metadata_endpoint(get).filter(|_| environment::needs_identity(get)) else {
        return Ok(Vec::new());
    };
    let imds = aws::imds::Imds::new(&base).map_err(|error| boot::Failed::Metadata(error.to_string()))?;
    match boot::learn(&imds, get).await {
        Ok(learnt) => Ok(learnt),
        Err(error) if get("RUNS_FLEET_INSTANCE_ID").is_some_and(|id| !id.trim().is_empty()) => {
            log.warn("environment", &[("problem", error.to_string().into())]);
            Ok(Vec::new())
        }
        Err(error) => {
            environment::last_resort(get).run(log).await;
            Err(error)
        }
    }
}

#[cfg(not(feature = "aws"))]
async fn identity(_: &Log) -> Result<Vec<(&'static str, String)>, Failed> {
    Ok(Vec::new())
}

/// The value of a variable: what was set, else what was `learnt`. Set and empty hides nothing.
fn overlaid(learnt: &[(&'static str, String)], name: &str) -> Option<String> {
    let set = std::env::var(name).ok();
    let value = || learnt.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    set.clone().filter(|text| !text.trim().is_empty()).or_else(value).or(set)
}

fn start(prefix: Vec<OsString>, log: &Log) -> Result<u8, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(run(prefix, log));
    runtime.shutdown_timeout(LINGER);
    code
}

async fn run(prefix: Vec<OsString>, log: &Log) -> Result<u8, Failed> {
    let started = tokio::time::Instant::now();
    let learnt = identity(log).await?;
    let get = |name: &str| overlaid(&learnt, name);
    let (mut environment, warnings) = match Environment::read(get) {
        Ok(read) => read,
        Err(error) => {
            environment::last_resort(get).run(log).await;
            return Err(error.into());
        }
    };
    environment.runner_dir = runner::choose(&environment);
    log.context("instance_id", environment.key.as_str());
    for warning in warnings {
        log.warn("environment", &[("problem", warning.into())]);
    }
    if environment.backend == Backend::Local && environment.machine.is_some() {
        // A local machine must survive whoever started it and that one's terminal. Fails when we lead already.
        let _ = rustix::process::setsid();
    }
    let boot = environment.boot;
    tokio::time::sleep(boot).await;
    hide_keys(&environment, log);
    let clock = Arc::new(SystemClock);
    let BackEnds { store, channel, machine, bucket, metadata } = back_ends::build(&environment, clock.clone(), log)?;
    let parts = shell::Parts {
        store,
        channel,
        machine,
        bucket,
        metadata,
        environment,
        clock,
        rng: Arc::new(SystemRng),
        log: log.clone(),
        prefix,
        // What the agent is measured by begins when its machine is up.
        started: started + boot,
    };
    Ok(shell::run(parts).await?)
}

fn hide_keys(environment: &Environment, log: &Log) {
    if let Some(Identity::Keys(keys)) = environment.cloud.as_ref().map(|cloud| &cloud.identity) {
        log.hide(keys.secret.expose());
        log.hide(keys.session_token.expose());
    }
    if let Secrets::Vault(vault) = &environment.secrets
        && let VaultLogin::AppRole { secret_id: secret, .. } | VaultLogin::Token(secret) = &vault.login
    {
        log.hide(secret.expose());
    }
}
