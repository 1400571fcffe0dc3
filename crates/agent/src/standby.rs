//! Waiting for the hand-over.

use std::time::Duration;

use domain::clock::Rng;
use domain::handover::HandOver as Document;
use domain::ids::RunnerKey;
use provider::handover::{Error, HandOver};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::claim;
use crate::environment::Standby;
use crate::log::Log;

/// This many unreadable answers in a row are believed.
const UNREADABLE_POLLS: u32 = 3;
/// The same complaint is logged at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);
/// The pause behind a fault is at least this, doubled by every further one in a row,
const FAULT_PAUSE: Duration = Duration::from_millis(500);
/// up to this.
const LONGEST_FAULT_PAUSE: Duration = Duration::from_secs(5);

/// How the wait ended.
#[derive(Debug)]
pub enum Outcome {
    /// With a fresh document and its fingerprint.
    Found(Box<Document>, String),
    /// What is there can never be read.
    Unreadable(String),
    /// At the deadline the store still refused to say whether there is one.
    Denied(String),
    /// At the deadline there was none.
    NobodyCame,
}

/// What ends or shortens a wait.
#[derive(Debug, Clone, Copy)]
pub struct Until<'a> {
    /// When it is over.
    pub deadline: Instant,
    /// Rung when a hand-over is about to be there.
    pub ring: &'a Notify,
}

/// Polls the store until a hand-over is there that `stale` says nothing against, once more at the deadline, and then
/// gives up. Faults of the store never end the wait. A refusal is not even a fault: a store that shows a machine only what is
/// its own refuses what does not exist yet. It counts when it is the last word.
pub async fn wait(
    store: &dyn HandOver,
    key: &RunnerKey,
    stale: &(dyn Fn(&Document, &str) -> Option<&'static str> + Sync),
    cadence: Standby,
    until: Until<'_>,
    rng: &dyn Rng,
    log: &Log,
) -> Outcome {
    let Until { deadline, ring } = until;
    let (mut unreadable, mut faults) = (0, 0);
    let mut denied = None;
    let mut reported_stale = String::new();
    let mut complained: Option<Instant> = None;
    let mut poll = 0_u32;
    loop {
        let last = Instant::now() >= deadline;
        let answer = store.get(key).await;
        if !matches!(answer, Err(Error::Transient(_))) {
            (faults, denied) = (0, None);
        }
        match answer {
            Ok(Some(document)) => {
                unreadable = 0;
                let fingerprint = claim::fingerprint(&document);
                let Some(reason) = stale(&document, &fingerprint) else {
                    return Outcome::Found(Box::new(document), fingerprint);
                };
                if reported_stale != fingerprint {
                    log.info("config_stale", &[("reason", reason.into())]);
                    reported_stale = fingerprint;
                }
            }
            Ok(None) => unreadable = 0,
            Err(Error::Invalid(reason)) => {
                unreadable += 1;
                if unreadable == UNREADABLE_POLLS || last {
                    return Outcome::Unreadable(reason);
                }
            }
            Err(Error::Deployment(reason)) => denied = Some(reason),
            Err(error) => {
                faults += 1;
                if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                    log.warn("config_unavailable", &[("error", Value::from(error.to_string()))]);
                    complained = Some(Instant::now());
                }
            }
        }
        if last {
            break;
        }
        let pause = if poll < cadence.fast_polls { cadence.fast } else { rng.jitter(cadence.slow, 0.2) };
        let pause = pause.max(fault_pause(faults));
        tokio::select! {
            () = tokio::time::sleep_until(deadline.min(Instant::now() + pause)) => poll = poll.saturating_add(1),
            () = ring.notified() => poll = 0,
        }
    }
    denied.map_or(Outcome::NobodyCame, Outcome::Denied)
}

/// Pause behind this many faults in a row.
fn fault_pause(faults: u32) -> Duration {
    let doubled = |faults: u32| FAULT_PAUSE.saturating_mul(2_u32.saturating_pow(faults - 1));
    if faults == 0 { Duration::ZERO } else { doubled(faults).min(LONGEST_FAULT_PAUSE) }
}

#[cfg(test)]
mod tests;
