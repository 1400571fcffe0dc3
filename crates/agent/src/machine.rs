//! The machine's end, whatever kind of machine it is.

use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::process::Command;

use crate::log::Log;

/// Limit of one command that powers off.
const POWER_OFF: Duration = Duration::from_secs(10);

/// The machine that the agent runs on.
#[async_trait]
pub trait Machine: Send + Sync + 'static {
    /// Ends it; whether its end is arranged. Bounded, and harmless to repeat.
    async fn end(&self, log: &Log) -> bool;
}

/// A machine that is no more than the agent's process: it ends when the agent exits.
#[derive(Debug, Clone, Copy)]
pub struct Process;

#[async_trait]
impl Machine for Process {
    async fn end(&self, _: &Log) -> bool {
        true
    }
}

/// Powering the machine off: the last resort, for machines that vanish when they are off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PowerOff {
    /// Command lines, tried in order, words separated by blanks. Without any, nothing is done.
    pub commands: Vec<String>,
}

impl PowerOff {
    /// Tries; whether one of the commands was accepted.
    pub async fn run(&self, log: &Log) -> bool {
        for line in &self.commands {
            log.warn("shutdown_fallback", &[("command", line.as_str().into())]);
            match tokio::time::timeout(POWER_OFF, command(line).status()).await {
                Ok(Ok(status)) if status.success() => return true,
                Ok(Ok(status)) => said(log, &status.to_string()),
                Ok(Err(error)) => said(log, &error.to_string()),
                Err(_) => said(log, "no end in time"),
            }
        }
        false
    }
}

fn said(log: &Log, error: &str) {
    log.error("shutdown_failed", &[("error", Value::from(error))]);
}

/// The command of `line`, as root.
fn command(line: &str) -> Command {
    let privileged = rustix::process::geteuid().is_root();
    let mut words = ["sudo", "-n"].into_iter().skip(if privileged { 2 } else { 0 }).chain(line.split_whitespace());
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    command
}
