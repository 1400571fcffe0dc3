//! The labels a runner is registered with, and the class of jobs it can therefore be given.
//!
//! GitHub hands a job to a runner that has every label the job asks for, so a runner registers with the job's whole
//! set; with the marker alone, `runs-on: [self-hosted, runs-fleet/cpu=4]` would wait for ever.

use std::collections::{BTreeSet, HashSet};

use domain::ids::{ClassKey, Repo, RunId};
use domain::message::JobMessage;
use sha2::{Digest, Sha256};

/// The job's labels verbatim and in order, without repeats. GitHub compares labels case-insensitively.
pub fn registered_labels(labels: &[String]) -> Vec<String> {
    let mut seen = HashSet::new();
    labels.iter().filter(|label| seen.insert(label.to_lowercase())).cloned().collect()
}

/// Which jobs are interchangeable to GitHub: lower-case hex SHA-256 over the repository and the set of labels, both
/// in lower case.
pub fn class_key(repo: &Repo, labels: &[String]) -> ClassKey {
    let labels: BTreeSet<String> = labels.iter().map(|label| label.to_lowercase()).collect();
    let mut hash = Sha256::new();
    hash.update(repo.as_str().to_lowercase());
    for label in &labels {
        hash.update("\n");
        hash.update(label);
    }
    if labels.is_empty() {
        hash.update("\n");
    }
    ClassKey::new(hex::encode(hash.finalize()))
}

/// The labels of a message, and whether they had to be made up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// What the runner registers with. Never empty.
    pub labels: Vec<String>,
    /// The message told no label at all. GitHub will most likely match no job to this runner: worth an error in the
    /// log and a count.
    pub synthesized: bool,
}

/// What a runner for this message registers with. Messages and records of older releases carry only the marker, or
/// not even that; then a marker that asks for the same machine is built from what is left.
pub fn fallback_labels(message: &JobMessage) -> Fallback {
    if !message.labels.is_empty() {
        return Fallback { labels: registered_labels(&message.labels), synthesized: false };
    }
    if !message.original_label.is_empty() {
        return Fallback { labels: vec![message.original_label.clone()], synthesized: false };
    }
    let spec = &message.spec;
    let mut label = format!("runs-fleet={}", message.run_id.map_or(0, RunId::get));
    if !spec.runner_spec.is_empty() {
        label.push_str("/runner=");
        label.push_str(&spec.runner_spec);
    }
    if let Some(pool) = &spec.pool {
        label.push_str("/pool=");
        label.push_str(pool.as_str());
    }
    if spec.private {
        label.push_str("/private=true");
    }
    if !spec.spot {
        label.push_str("/spot=false");
    }
    Fallback { labels: vec![label], synthesized: true }
}
