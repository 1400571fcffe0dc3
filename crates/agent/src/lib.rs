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
//! * [`machine`] — its end. `aws` — EC2 instances: hand-over from SSM, reports to SQS, TerminateInstances.
//! * [`state`] — what survives a crash of the agent. [`report`] — telling the orchestrator. [`log`] — telling people.
//! * [`shell`] — puts them together; [`main`] is the program around it.
//!
//! Races survived, besides those the modules name: a signal while nothing runs yet ends the agent before it takes a
//! hand-over; a second agent on the same machine recovers what the first one left; `run.sh` that ends while it is
//! being stopped is judged by the stop.

#[cfg(feature = "aws")]
pub mod aws;
mod back_ends;
pub mod claim;
pub mod core;
pub mod environment;
pub mod job;
pub mod log;
pub mod machine;
pub mod output;
pub mod report;
pub mod runner;
pub mod shell;
pub mod standby;
pub mod state;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{SystemClock, SystemRng};

use crate::back_ends::BackEnds;
use crate::environment::{Environment, Fatal};
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
        Some(job::EXEC_MODE) if args.len() == 2 => return job::exec(&args[1]),
        Some("--version") => {
            let _ = writeln!(std::io::stdout(), "runs-fleet-agent {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(_) => {
            let _ = writeln!(std::io::stderr(), "usage: runs-fleet-agent [--version]; everything else is environment");
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
}

fn start(prefix: Vec<OsString>, log: &Log) -> Result<u8, Failed> {
    let (environment, warnings) = Environment::read(|name| std::env::var(name).ok())?;
    log.context("instance_id", environment.key.as_str());
    for warning in warnings {
        log.warn("environment", &[("problem", warning.into())]);
    }
    if environment.machine.is_some() {
        // A local machine must survive whoever started it and that one's terminal. Fails when we lead already.
        let _ = rustix::process::setsid();
    }
    hide_keys(&environment, log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let clock = Arc::new(SystemClock);
        let BackEnds { store, channel, machine } = back_ends::build(&environment, clock.clone())?;
        let parts = shell::Parts {
            store,
            channel,
            machine,
            environment,
            clock,
            rng: Arc::new(SystemRng),
            log: log.clone(),
            prefix,
            started: tokio::time::Instant::now(),
        };
        Ok(shell::run(parts).await?)
    });
    runtime.shutdown_timeout(LINGER);
    code
}

fn hide_keys(environment: &Environment, log: &Log) {
    if let Some(cloud) = &environment.cloud {
        log.hide(cloud.keys.secret.expose());
        log.hide(cloud.keys.session_token.expose());
    }
}
