//! Waiting for the hand-over.

use std::time::Duration;

use domain::clock::Rng;
use domain::handover::HandOver as Document;
use domain::ids::RunnerKey;
use provider::handover::{Error, HandOver};
use serde_json::Value;
use tokio::time::Instant;

use crate::claim;
use crate::environment::Standby;
use crate::log::Log;

/// This many unreadable answers in a row are believed.
const UNREADABLE_POLLS: u32 = 3;
/// The same complaint is logged at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);

/// How the wait ended.
#[derive(Debug)]
pub enum Outcome {
    /// With a fresh document and its fingerprint.
    Found(Box<Document>, String),
    /// What is there can never be read.
    Unreadable(String),
    /// At the deadline.
    NobodyCame,
}

/// Polls the store until a fresh hand-over is there, once more at `deadline`, and then gives up. Faults of the store
/// never end the wait.
pub async fn wait(
    store: &dyn HandOver,
    key: &RunnerKey,
    consumed: &[String],
    cadence: Standby,
    deadline: Instant,
    rng: &dyn Rng,
    log: &Log,
) -> Outcome {
    let mut unreadable = 0;
    let mut reported_stale = String::new();
    let mut complained: Option<Instant> = None;
    for poll in 0_u32.. {
        let last = Instant::now() >= deadline;
        match store.get(key).await {
            Ok(Some(document)) => {
                unreadable = 0;
                let fingerprint = claim::fingerprint(&document);
                let Some(reason) = claim::stale(&document, &fingerprint, key, consumed) else {
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
            Err(error) => {
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
        tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await;
    }
    Outcome::NobodyCame
}

#[cfg(test)]
mod tests;
