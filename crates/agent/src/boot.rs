//! The way of an instance to its agent: who it is, and what becomes of it when it never gets there.
//!
//! [`learn`] asks the metadata service what nobody told the agent. [`bootstrap`] writes that down before the agent's unit
//! starts; [`give_up`] tells the orchestrator that a machine is none, and ends it.
//!
//! A machine that cannot say which store its hand-over is in does not guess: only a tag that is known to be absent means
//! the default.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, SystemClock};
use domain::report::{AgentReport, AgentStatus};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::aws::imds::Imds;
use crate::back_ends;
use crate::environment::{Environment, Fatal, acceptable, last_resort, metadata_endpoint};
use crate::intercept;
use crate::log::Log;
use crate::report::{Letter, Sender};

/// How long the machine may take to learn who it is.
pub const IDENTITY_WITHIN: Duration = Duration::from_secs(60);
/// Where the agent's unit reads its environment.
const ENV_FILE: &str = "/opt/runs-fleet/env";
/// Bytes of a reason that travel; the machine keeps no console.
const REASON: usize = 800;
/// Limit of asking the service manager.
const ASK: Duration = Duration::from_secs(5);

/// The variable of the pool.
const POOL: &str = "RUNS_FLEET_POOL";

/// The variable of the store.
const STORE: &str = "RUNS_FLEET_SECRETS_BACKEND";

/// Tags of an instance and the variables they stand for.
const TAGS: [(&str, &str); 3] = [
    ("runs-fleet:pool", POOL),
    ("runs-fleet:termination-queue-url", "RUNS_FLEET_TERMINATION_QUEUE_URL"),
    ("runs-fleet:secrets-backend", STORE),
];

/// The same of an instance whose hand-over is in Vault. What is absent has a default.
const VAULT_TAGS: [(&str, &str); 7] = [
    ("runs-fleet:vault-addr", "VAULT_ADDR"),
    ("runs-fleet:vault-namespace", "VAULT_NAMESPACE"),
    ("runs-fleet:vault-kv-mount", "VAULT_KV_MOUNT"),
    ("runs-fleet:vault-kv-version", "VAULT_KV_VERSION"),
    ("runs-fleet:vault-base-path", "VAULT_BASE_PATH"),
    ("runs-fleet:vault-auth-method", "VAULT_AUTH_METHOD"),
    ("runs-fleet:vault-aws-role", "VAULT_AWS_ROLE"),
];

/// Why a machine does not become an agent.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The metadata service does not say who this is.
    #[error("the metadata service: {0}")]
    Metadata(String),
    /// A value that must not be written into an environment file.
    #[error("{0} has characters that an environment file cannot hold")]
    Value(&'static str),
    /// A tag with which the agent would not start.
    #[error(transparent)]
    Tag(#[from] Fatal),
    /// The environment file cannot be written.
    #[error("{ENV_FILE}: {0}")]
    File(#[from] std::io::Error),
}

/// The variables about this instance that `get` does not know, from the metadata service.
///
/// # Errors
/// When the service does not answer for [`IDENTITY_WITHIN`], or knows no instance.
pub async fn learn(imds: &Imds, get: impl Fn(&str) -> Option<String>) -> Result<Vec<(&'static str, String)>, Failed> {
    let deadline = Instant::now() + IDENTITY_WITHIN;
    let known = |name: &str| get(name).is_some_and(|value| !value.trim().is_empty());
    let ask = async |path: &str| imds.get_by(path, deadline).await.map_err(|error| Failed::Metadata(error.to_string()));
    let mut learnt = Vec::new();
    if !known("RUNS_FLEET_INSTANCE_ID") {
        let id = ask("meta-data/instance-id").await?;
        learnt.push(("RUNS_FLEET_INSTANCE_ID", id.ok_or_else(|| Failed::Metadata("no instance id".to_owned()))?));
    }
    if !known("AWS_REGION") && !known("AWS_DEFAULT_REGION") {
        learnt.extend(ask("meta-data/placement/region").await?.map(|region| ("AWS_REGION", region)));
    }
    // Absent when the instance has no tags, or does not show them: then nothing is known of them.
    if let Some(keys) = ask("meta-data/tags/instance").await? {
        // Set and empty means something only for the pool: this machine was started for one job.
        let unknown = |variable: &str| if variable == POOL { get(variable).is_none() } else { !known(variable) };
        for (tag, variable) in TAGS.into_iter().filter(|(_, variable)| unknown(variable)) {
            let value = if keys.lines().any(|key| key == tag) {
                ask(&format!("meta-data/tags/instance/{tag}")).await?.unwrap_or_default()
            } else {
                String::new()
            };
            learnt.push((variable, value));
        }
        let store = learnt.iter().find(|(variable, _)| *variable == STORE).map(|(_, value)| value.clone());
        if store.or_else(|| get(STORE)).is_some_and(|store| store.trim() == "vault") {
            let shown = |tag: &str| keys.lines().any(|key| key == tag);
            for (tag, variable) in VAULT_TAGS.into_iter().filter(|(tag, variable)| shown(tag) && !known(variable)) {
                let value = ask(&format!("meta-data/tags/instance/{tag}")).await?;
                learnt.extend(value.map(|value| (variable, value)));
            }
        }
    }
    Ok(learnt)
}

/// Learns who this instance is and writes it into `file` for the agent's unit. Answers an exit code.
pub async fn bootstrap(file: Option<&Path>, log: &Log) -> u8 {
    if stopping().await {
        log.info("system_stopping", &[]);
        return 0;
    }
    // A predecessor may have been killed together with everything that would have done this.
    if let Err(error) = intercept::release().await {
        log.warn("cleanup_failed", &[("what", "cache".into()), ("error", error.into())]);
    }
    match write_environment(file.unwrap_or(Path::new(ENV_FILE))).await {
        Ok(()) => 0,
        Err(error) => {
            log.error("bootstrap_failed", &[("error", error.to_string().into())]);
            give_up(&error.to_string(), log).await;
            // Whatever became of the machine: there is nothing for the agent to start with.
            1
        }
    }
}

async fn write_environment(file: &Path) -> Result<(), Failed> {
    let get = |name: &str| std::env::var(name).ok();
    let learnt = match metadata_endpoint(get) {
        Some(base) => {
            let imds = Imds::new(&base).map_err(|error| Failed::Metadata(error.to_string()))?;
            // Whatever an earlier boot wrote is learnt anew.
            learn(&imds, |_| None).await?
        }
        None => return Err(Failed::Metadata("it is switched off".to_owned())),
    };
    let mut text = String::new();
    for (name, value) in learnt {
        if !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/@=+,".contains(&byte)) {
            return Err(Failed::Value(name));
        }
        acceptable(name, &value)?;
        text.push_str(&format!("{name}={value}\n"));
    }
    provider::files::replace(file, text.as_bytes())?;
    Ok(())
}

/// Reports that this machine never became a runner, and ends it, unless it is being stopped anyway. Answers an exit code:
/// 0 when the end is arranged.
pub async fn give_up(reason: &str, log: &Log) -> u8 {
    if stopping().await {
        return 0;
    }
    let get = |name: &str| std::env::var(name).ok();
    let learnt = match metadata_endpoint(get).map(|base| Imds::new(&base)) {
        Some(Ok(imds)) => learn(&imds, get).await.unwrap_or_default(),
        _ => Vec::new(),
    };
    let Ok((environment, _)) = Environment::read(|name| crate::overlaid(&learnt, name)) else {
        // Nobody can be told and nothing can be asked; what is left is the switch.
        return u8::from(!last_resort(get).run(log).await);
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let Ok(parts) = back_ends::build(&environment, Arc::clone(&clock), log) else {
        return u8::from(!environment.power_off.run(log).await);
    };
    let mut report = AgentReport::new(environment.key.clone(), AgentStatus::BootstrapFailed);
    report.error = Some(last_of(reason));
    let sender = Sender { channel: parts.channel, retry_base: environment.retry_base, clock, log: log.clone() };
    let (letters, to_send) = mpsc::channel(1);
    let _ = letters.send(Letter { report, queue_url: environment.queue_url.clone() }).await;
    drop(letters);
    let _ = tokio::time::timeout(environment.report_timeout, sender.run(to_send)).await;
    u8::from(!parts.machine.end(log).await)
}

/// The end of a reason, on one printable line: that is where programs say what was wrong.
fn last_of(reason: &str) -> String {
    let line: String = reason.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).collect();
    line[line.len().saturating_sub(REASON)..].trim().to_owned()
}

/// Whether the system goes down: then a failure is none. The word counts; the exit status is about other things.
async fn stopping() -> bool {
    let asked = Command::new("systemctl").arg("is-system-running").kill_on_drop(true).output();
    let answer = tokio::time::timeout(ASK, asked).await;
    matches!(answer, Ok(Ok(output)) if String::from_utf8_lossy(&output.stdout).trim() == "stopping")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_reason_travels() {
        let reason = format!("{}\nlast line\u{1b}[0m", "x".repeat(2_000));
        let told = last_of(&reason);
        assert!(told.len() <= REASON && told.ends_with("last line [0m"), "{told}");
        assert_eq!(last_of(" short é "), "short");
    }
}
