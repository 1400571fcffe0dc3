//! What an agent does while it has no work, and what it needs before it takes some.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::handover::HandOver as Document;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Done, LAST_LOOK, Shell};
use crate::account::Account;
use crate::cgroup::Cgroup;
use crate::claim;
use crate::environment::{Backend, Environment};
use crate::firewall;
use crate::intercept::Interception;
use crate::job::Launcher;
use crate::log::Log;
use crate::runner;
use crate::standby::{self, Outcome, Until};
use crate::state;
use crate::watch;

/// How often the container engine's socket is looked for.
const DOCKER_LOOK: Duration = Duration::from_millis(50);

impl Shell {
    /// What is done while there is nothing else to do: shutting the job's account out of the metadata, listening for
    /// reclaims, looking at space, loading or fetching the runner.
    pub(super) fn get_ready(&mut self) {
        let environment = &self.parts.environment;
        let (log, clock) = (self.parts.log.clone(), Arc::clone(&self.parts.clock));
        let dirs = vec!["/".into(), environment.runner_dir.clone()];
        let meminfo = environment.proc_root.join("meminfo");
        let every = environment.safety_every;
        self.watches.spawn(watch::resources(dirs, meminfo, every, self.inputs.clone(), log.clone()));
        if let Some(metadata) = &self.parts.metadata {
            let every = environment.spot_every;
            self.watches.spawn(watch::spot(Arc::clone(metadata), every, clock, self.inputs.clone(), log.clone()));
        }
        let account = self.launcher.as_ref().ok().and_then(|launcher| launcher.account.as_ref());
        let (guarded, deny) = (self.guarded.clone(), environment.deny_metadata && self.parts.metadata.is_some());
        match account.map(|account| account.uid).filter(|uid| deny && *uid != 0) {
            None => guarded.cancel(),
            Some(uid) => drop(self.watches.spawn(async move {
                if let Err(error) = firewall::deny_metadata(uid).await {
                    log.warn("metadata_open", &[("error", Value::from(error))]);
                }
                guarded.cancel();
            })),
        }
        if let Ok(launcher) = &self.launcher {
            if environment.backend == Backend::Ec2 {
                let (dir, claimed) = (environment.runner_dir.clone(), self.claimed.clone());
                self.watches.spawn(runner::warm::up(dir, launcher.clone(), claimed));
            }
            let (supply, cancel, log) = (self.supply.clone(), self.cancel.clone(), self.parts.log.clone());
            self.watches.spawn(supply.ahead(environment.clone(), launcher.clone(), cancel, log));
        }
    }

    /// Waits for the hand-over for at most `within` of the agent's start.
    pub(super) fn wait_for_hand_over(&mut self, within: Duration) {
        let (store, rng) = (Arc::clone(&self.parts.store), Arc::clone(&self.parts.rng));
        let (key, cadence) = (self.parts.environment.key.clone(), self.parts.environment.standby);
        let (consumed, log) = (self.state.consumed.clone(), self.parts.log.clone());
        let deadline = self.parts.started + within;
        let ring = Arc::new(Notify::new());
        if let Some(metadata) = &self.parts.metadata {
            let quiet = cadence.fast * cadence.fast_polls;
            self.watches.spawn(watch::assigned(Arc::clone(metadata), quiet, cadence.fast, Arc::clone(&ring)));
        }
        let clock = Arc::clone(&self.parts.clock);
        let outlives = self.parts.environment.secrets.outlive();
        let boot = state::boot_time(&self.parts.environment.proc_root, clock.now());
        self.tasks.spawn(async move {
            let stale = |document: &Document, fingerprint: &str| {
                let reason = claim::stale(document, fingerprint, &key, &consumed);
                reason.or_else(|| if outlives { claim::outdated(document, clock.now(), boot) } else { None })
            };
            let wait = standby::wait(&*store, &key, &stale, cadence, Until { deadline, ring: &ring }, &*rng, &log);
            let outcome = tokio::time::timeout_at(deadline + LAST_LOOK, wait).await;
            Done::Standby(outcome.unwrap_or(Outcome::NobodyCame))
        });
    }
}

/// How programs of the runner are started on this machine. An agent that is root needs an account for them.
pub(super) fn launcher(environment: &Environment, prefix: &[OsString], log: &Log) -> Result<Launcher, String> {
    let privileged = rustix::process::geteuid().is_root() && environment.backend == Backend::Ec2;
    let account = privileged.then(|| Account::find(environment.runner_user.as_deref(), Path::new("/etc")));
    let account =
        account.transpose().inspect_err(|error| log.error("no_account", &[("error", error.as_str().into())]))?;
    let mut cgroup = cgroup_of(environment);
    if let Some(Err(error)) = cgroup.as_ref().map(Cgroup::make) {
        log.warn("cgroup_unavailable", &[("error", Value::from(error.to_string()))]);
        cgroup = None;
    }
    Ok(Launcher {
        prefix: prefix.to_vec(),
        account,
        cgroup,
        machine: environment.machine.clone(),
        passthrough: environment.passthrough.clone(),
    })
}

/// The control group of the job on this machine, which is one of its own.
pub(super) fn cgroup_of(environment: &Environment) -> Option<Cgroup> {
    let name = format!("job-{}", environment.key);
    (environment.backend == Backend::Ec2).then(|| Cgroup::below_ours(Path::new("/proc"), &name)).flatten()
}

/// Leads the job to a listener, or says why not.
pub(super) async fn led(
    begun: Result<Interception, String>,
    dir: &Path,
    launcher: &Launcher,
    log: &Log,
) -> Result<Interception, ()> {
    let reason = match begun {
        Ok(interception) => match runner::lead(&interception, dir, launcher).await {
            Ok(()) => {
                log.info("cache_engaged", &[]);
                return Ok(interception);
            }
            Err(reason) => {
                interception.end(log).await;
                reason
            }
        },
        Err(reason) => reason,
    };
    log.warn("cache_not_engaged", &[("error", Value::from(reason))]);
    Err(())
}

/// Waits until the container engine answers its socket's name, for at most `within`.
pub(super) async fn docker(within: Duration, log: &Log) {
    let deadline = Instant::now() + within;
    while !Path::new("/var/run/docker.sock").exists() {
        if Instant::now() >= deadline {
            if !within.is_zero() {
                log.warn("docker_missing", &[]);
            }
            return;
        }
        tokio::time::sleep(DOCKER_LOOK).await;
    }
}
