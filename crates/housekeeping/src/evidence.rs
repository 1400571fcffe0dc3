//! What is known of a machine besides what the provider says: who works on it, who may be about to.
//!
//! Every answer may be "unknown", and unknown never lets anything happen.

use std::collections::BTreeMap;

use db::claims::{Action, Holder};
use dispatch::retire::Retired;
use domain::clock::Timestamp;
use domain::ids::RunnerKey;
use domain::job::{Job, JobState};
use domain::runner::{Runner, RunnerState};
use provider::Machine;
use provider::compute::Filter;
use provider::handover;

use crate::context::{Error, Housekeeping};
use crate::run::Run;

#[cfg(test)]
mod tests;

/// How long a claim protects an act on a machine.
const CLAIM: std::time::Duration = std::time::Duration::from_secs(120);
/// How long is enough where the record of a runner says that it is over.
pub(crate) const SURE: std::time::Duration = std::time::Duration::from_secs(600);
/// Machines asked after at once.
const BATCH: usize = 100;

/// What to do with a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Settle it.
    Act,
    /// It is as it should be.
    Keep,
    /// Nobody can tell.
    Unknown,
}

/// An answer; `None` when there was none.
pub(crate) type Known<T> = Option<T>;

/// Whether a machine exists.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Existence {
    /// It does, or did a moment ago.
    Alive(Box<Machine>),
    /// It does not; where it is still known, since when.
    Gone(Option<Timestamp>),
    /// The provider did not say, or is not the one to ask.
    Unknown,
}

/// The hand-over of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Config {
    /// There is none.
    Absent,
    /// Written at this time.
    Written(Timestamp),
    /// There is something, and it does not say when it was written.
    Undated,
}

/// What speaks against ending a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// A job is bound to it that is not over.
    pub(crate) active_job: Known<bool>,
    /// When its last job ended; `None` inside when it had none, or one whose end proves nothing.
    pub(crate) completion: Known<Option<Timestamp>>,
    /// Somebody claimed it.
    pub(crate) claimed: Known<bool>,
    /// Its hand-over.
    pub(crate) config: Known<Config>,
    /// The state of its runner, if it has one.
    pub(crate) runner: Known<Option<RunnerState>>,
}

impl Evidence {
    /// Whether its runner may have a job, ours or not.
    pub(crate) fn runner_may_work(&self) -> Known<bool> {
        self.runner.map(|state| matches!(state, Some(RunnerState::Busy | RunnerState::Retiring)))
    }
}

/// When the last job of a machine ended. `None` when there was none, when one is not over, and when one's end does not
/// prove that it left the machine idle, or does not say when it was: who asks ends machines.
pub(crate) fn last_completion(jobs: &[Job]) -> Option<Timestamp> {
    let ends = jobs.iter().map(|job| match job.state {
        JobState::Settled(end) if end.proves_idle() => job.completed_at,
        _ => None,
    });
    ends.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// Whether EC2 knows machines by such keys: `i-` and 8 or 17 hex digits.
pub(crate) fn is_instance_id(key: &RunnerKey) -> bool {
    let hex = key.as_str().strip_prefix("i-").unwrap_or_default();
    matches!(hex.len(), 8 | 17) && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Housekeeping {
    /// Whether these machines exist. A batch that fails is asked for one by one.
    pub(crate) async fn existence(&self, keys: &[RunnerKey]) -> BTreeMap<RunnerKey, Existence> {
        let mut found = BTreeMap::new();
        let (ours, others): (Vec<_>, Vec<_>) = keys.iter().cloned().partition(is_instance_id);
        found.extend(others.into_iter().map(|key| (key, Existence::Unknown)));
        for batch in ours.chunks(BATCH) {
            match self.compute().describe_many(batch).await {
                Ok(machines) => {
                    found.extend(batch.iter().map(|key| (key.clone(), Existence::Gone(None))));
                    found.extend(machines.into_iter().map(|machine| (machine.key.clone(), existence(machine))));
                }
                Err(_) => {
                    for key in batch {
                        let answer = match self.compute().describe(key).await {
                            Ok(Some(machine)) => existence(machine),
                            Ok(None) => Existence::Gone(None),
                            Err(_) => Existence::Unknown,
                        };
                        found.insert(key.clone(), answer);
                    }
                }
            }
        }
        found
    }

    /// Machines of ours that are not gone.
    pub(crate) async fn machines(&self) -> Result<Vec<Machine>, Error> {
        Ok(self.compute().list(&Filter::default()).await?)
    }

    /// Everything that may speak against ending a machine. What its jobs say comes first; unless they are `enough` to
    /// leave it alone, whatever else there may be, the rest follows.
    pub(crate) async fn evidence(
        &self,
        run: &Run<'_>,
        key: &RunnerKey,
        enough: impl FnOnce(&Evidence) -> bool + Send,
    ) -> Evidence {
        // What went wrong fails the run; that it went wrong keeps the machine.
        fn known<T>(run: &Run<'_>, key: &RunnerKey, answer: Result<T, Error>) -> Known<T> {
            answer.map_err(|error| run.failed(key.as_str(), &error)).ok()
        }
        let jobs = known(run, key, self.dispatch().jobs.by_instance(key).await.map_err(Error::from));
        let jobs = Evidence {
            active_job: jobs.as_ref().map(|jobs| jobs.iter().any(|job| job.state.occupies())),
            completion: jobs.as_deref().map(last_completion),
            claimed: Some(false),
            config: Some(Config::Absent),
            runner: Some(None),
        };
        if enough(&jobs) {
            return jobs;
        }
        Evidence {
            claimed: known(run, key, self.ports.claims.is_claimed(key).await.map_err(Error::from)),
            runner: known(run, key, self.runner(key).await).map(|row| row.map(|row| row.state)),
            config: known(run, key, self.config(key).await),
            ..jobs
        }
    }

    pub(crate) async fn runner(&self, key: &RunnerKey) -> Result<Option<Runner>, Error> {
        Ok(self.dispatch().runners.get(key).await?)
    }

    /// The machine's hand-over, without what is in it.
    pub(crate) async fn config(&self, key: &RunnerKey) -> Result<Config, Error> {
        match self.hand_over().get(key).await {
            Ok(Some(document)) => Ok(document.created_at.map_or(Config::Undated, Config::Written)),
            Ok(None) => Ok(Config::Absent),
            Err(handover::Error::Invalid(_)) => Ok(Config::Undated),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends a machine that no runner can be up on, or that is to end whatever runs there. Whatever is bound to it goes its
    /// way, and its hand-over is deleted.
    pub(crate) async fn end(&self, key: &RunnerKey) -> Result<(), Error> {
        self.ports.dispatch.machine_gone(key).await?;
        self.hand_over().delete(key).await?;
        Ok(())
    }

    /// Ends a machine whose runner may have registered, if no job is on it.
    pub(crate) async fn end_runner(&self, key: &RunnerKey) -> Result<Verdict, Error> {
        let live = self.runner(key).await?.is_some_and(|row| row.state.is_live());
        if !live {
            self.end(key).await?;
            return Ok(Verdict::Act);
        }
        Ok(match self.ports.dispatch.retire(key).await? {
            Retired::Ended => Verdict::Act,
            Retired::HasJob => Verdict::Keep,
            Retired::Unknown => Verdict::Unknown,
        })
    }

    /// Does something to a machine under a claim of its own, so that no job can be given it meanwhile. `None`: somebody
    /// else has it.
    pub(crate) async fn claimed<T>(
        &self,
        key: &RunnerKey,
        act: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<Option<T>, Error> {
        let owner = format!("{}/{}", self.settings.owner, self.rng().token());
        let holder = Holder::Action { action: Action::Retire, owner: &owner };
        if !self.ports.claims.claim(key, holder, CLAIM).await?.is_applied() {
            return Ok(None);
        }
        let done = act.await;
        // One that stays ends by itself.
        let _ = self.ports.claims.release(key, holder).await;
        done.map(Some)
    }
}

fn existence(machine: Machine) -> Existence {
    if machine.state.is_gone() { Existence::Gone(machine.ended_at) } else { Existence::Alive(Box::new(machine)) }
}
