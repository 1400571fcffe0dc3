//! Tags are written once more behind every launch: creation tags sometimes do not reach an instance, and without the
//! one that marks it ours we may not end it. Off the path of any job; what fails is tried again later.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{error, warn};

use crate::calls::Caller;
use crate::error::{Class, Failure};
use crate::pace::{Bucket, Priority};
use crate::tags::Tags;

/// Most sets that wait to be written; the oldest go first.
const LIMIT: usize = 1_000;
/// Pauses after the first failures; then once a minute.
const PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
const LATER: Duration = Duration::from_secs(60);
/// Failures after which an instance is no longer ours to tag: it is gone, or nobody can help it.
const GIVE_UP: usize = 30;

/// Instances that share a set of tags.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) ids: Vec<String>,
    pub(crate) tags: Tags,
    failures: usize,
    due: Instant,
}

/// Sets that wait to be written.
pub(crate) struct Retag {
    sets: Mutex<VecDeque<Set>>,
    changed: Notify,
}

impl Retag {
    pub(crate) fn new() -> Self {
        Self { sets: Mutex::default(), changed: Notify::new() }
    }

    pub(crate) fn add(&self, ids: Vec<String>, tags: Tags) {
        self.put(Set { ids, tags, failures: 0, due: Instant::now() });
    }

    fn put(&self, set: Set) {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if sets.len() >= LIMIT {
            sets.pop_front();
        }
        sets.push_back(set);
        drop(sets);
        self.changed.notify_one();
    }

    /// Writes sets as they fall due; never returns. To drop it loses at most the set being written.
    pub(crate) async fn run(&self, caller: &Caller) {
        loop {
            let changed = self.changed.notified();
            match self.due() {
                Ok(set) => self.write(caller, set).await,
                Err(Some(next)) => tokio::select! {
                    biased;
                    () = changed => {}
                    () = sleep_until(next) => {}
                },
                Err(None) => changed.await,
            }
        }
    }

    fn due(&self) -> Result<Set, Option<Instant>> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match sets.iter().position(|set| set.due <= now).and_then(|at| sets.remove(at)) {
            Some(set) => Ok(set),
            None => Err(sets.iter().map(|set| set.due).min()),
        }
    }

    async fn write(&self, caller: &Caller, mut set: Set) {
        let written =
            caller.call(Bucket::Tag, Priority::Background, || caller.ec2.create_tags(&set.ids, &set.tags)).await;
        let Err(failure) = written else { return };
        set.failures += 1;
        if failure.class == Class::NotFound && set.failures > PAUSES.len() {
            let missing = named(&failure);
            set.ids.retain(|id| !missing.contains(id));
        }
        if set.ids.is_empty() || set.failures > GIVE_UP {
            return;
        }
        let pause = PAUSES.get(set.failures - 1).copied().unwrap_or(LATER);
        let (code, message, ids) = (&failure.code, &failure.message, set.ids.join(" "));
        if set.failures == PAUSES.len() + 1 {
            error!(code, message, instance_ids = ids, "instances could not be tagged; trying once a minute");
        } else {
            warn!(code, message, instance_ids = ids, "instances were not tagged yet");
        }
        set.due = Instant::now() + pause;
        self.put(set);
    }
}

/// The instances an error names.
fn named(failure: &Failure) -> Vec<String> {
    let words = failure.message.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    words.filter(|word| word.starts_with("i-")).map(str::to_owned).collect()
}
