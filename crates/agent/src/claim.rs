//! Judging a hand-over: is it ours, is it new, can it be used? Pure.

use std::time::Duration;

use domain::clock::{Timestamp, since};
use domain::handover::HandOver;
use domain::ids::{DispatchId, Repo, RunnerKey};
use sha2::{Digest, Sha256};

use crate::core::Assignment;

/// What names one hand-over: SHA-256 of its canonical form, hex.
pub fn fingerprint(document: &HandOver) -> String {
    hex::encode(Sha256::digest(serde_json::to_vec(document).unwrap_or_default()))
}

/// A runner's registration is good for this long.
const REGISTRATION_LASTS: Duration = Duration::from_hours(1);
/// A hand-over may be written this long before its machine starts.
const BEFORE_BOOT: Duration = Duration::from_mins(10);

/// Why a hand-over is none of this machine's business, if so.
pub fn stale(document: &HandOver, fingerprint: &str, key: &RunnerKey, consumed: &[String]) -> Option<&'static str> {
    if !document.instance_id.is_empty() && document.instance_id != key.as_str() {
        Some("it is for another machine")
    } else if consumed.iter().any(|seen| seen == fingerprint) {
        Some("it was used before")
    } else {
        None
    }
}

/// Why a hand-over is left over from an earlier assignment, if so: a machine that was stopped and started again finds
/// what was meant for its last life. Only for stores that outlive the machine; without its time a document is new.
pub fn outdated(document: &HandOver, now: Timestamp, boot: Option<Timestamp>) -> Option<&'static str> {
    let written = document.created_at?;
    if since(now, written) > REGISTRATION_LASTS {
        Some("it is too old")
    } else if boot.is_some_and(|boot| since(boot, written) > BEFORE_BOOT) {
        Some("it is older than this boot")
    } else {
        None
    }
}

/// Why a fresh hand-over cannot be used, if so. Says which field, never what is in it.
pub fn unusable(document: &HandOver) -> Option<String> {
    if document.repo.parse::<Repo>().is_err() {
        return Some("repo must be owner/name".to_owned());
    }
    let texts = [
        ("run_id", &document.run_id),
        ("job_id", &document.job_id),
        ("runner_name", &document.runner_name),
        ("runner_group", &document.runner_group),
    ];
    let labels = document.labels.iter().map(|label| ("labels", label));
    if let Some((field, _)) = texts.into_iter().chain(labels).find(|(_, text)| text.contains(['\0', '\r', '\n'])) {
        return Some(format!("{field} must be one line"));
    }
    match (document.jit_config.is_empty(), document.jit_token.is_empty()) {
        (true, true) => Some("it carries no credential".to_owned()),
        _ if document.jit_config.expose().contains('\0') => Some("jit_config must not contain NUL".to_owned()),
        _ => None,
    }
}

/// What the state machine needs of a hand-over.
pub fn assignment(document: &HandOver) -> Assignment {
    Assignment {
        job: document.job_id.parse().ok(),
        run: document.run_id.clone(),
        dispatch: Some(document.dispatch_id.as_str()).filter(|id| !id.is_empty()).map(DispatchId::from),
        token: document.telemetry_token.clone(),
        max_runtime: document.max_runtime_minutes.filter(|m| *m > 0).map(|m| Duration::from_mins(m.into())),
        idle_exit: document.idle_exit_seconds.map(|s| Duration::from_secs(s.into())),
    }
}

#[cfg(test)]
mod tests;
