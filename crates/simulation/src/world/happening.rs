//! Everything that happens in a world, in the words of those who watch it: the invariants, the journal, the tally.

use std::sync::Arc;

use db::table::{Item, Schema};
use domain::clock::{Clock, Timestamp};
use domain::gh::Conclusion;
use domain::ids::{JobId, LaunchId, Repo, RunId, RunnerKey};
use domain::report::AgentReport;
use queue::Delivery;

/// One thing that happened. Facts of the world outside are the truth; rows and messages are what the orchestrator made
/// of it.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub enum Happening<'a> {
    /// GitHub queued a job, perhaps one that does not carry our label.
    JobQueued { job: JobId, run: RunId, repo: &'a Repo, attempt: u32, labels: &'a [String] },
    /// GitHub gave a job to a runner. `machine`: the one its name speaks of. `stolen`: it was minted for another job.
    JobBegan { job: JobId, runner: &'a str, machine: Option<RunnerKey>, stolen: bool },
    /// A job ended at GitHub.
    JobConcluded { job: JobId, conclusion: Conclusion, runner_lost: bool },
    /// A webhook about a job was answered with 200.
    WebhookAccepted { job: JobId, action: &'a str },
    /// A webhook was lost; `known`: GitHub's log shows it as failed.
    WebhookLost { job: JobId, action: &'a str, known: bool },
    /// EC2 made an instance; `pool`: the pool whose spare it is.
    Launched {
        machine: &'a RunnerKey,
        launch: Option<&'a LaunchId>,
        pool: Option<&'a str>,
        instance_type: &'a str,
        zone: &'a str,
        spot: bool,
    },
    /// Its operating system is up and its agent starts.
    Booted { machine: &'a RunnerKey },
    /// It is stopped, and may be started again.
    Stopped { machine: &'a RunnerKey },
    /// EC2 will take it back at this instant.
    Warned { machine: &'a RunnerKey, at: Timestamp },
    /// It is gone; `why` is one of `agent`, `orchestrator`, `reclaimed`, `crashed`.
    Ended { machine: &'a RunnerKey, why: &'static str },
    /// An agent took its hand-over.
    TookHandOver { machine: &'a RunnerKey, job: Option<JobId> },
    /// An agent reported; `lost`: nobody will ever read it.
    Reported { report: &'a AgentReport, lost: bool },
    /// A row was created, changed or removed.
    Wrote { table: &'static Schema, before: Option<&'a Item>, after: Option<&'a Item> },
    /// A message was acknowledged or dead-lettered by a replica.
    Acked { queue: &'a str, delivery: &'a Delivery, rejected: bool },
    /// A hand-over was stored.
    HandedOver { machine: &'a RunnerKey, job: &'a str, dispatch: &'a str },
    /// A hand-over was removed (that it existed is not said).
    HandOverDeleted { machine: &'a RunnerKey },
    /// A replica of the orchestrator started.
    ReplicaStarted { replica: usize },
    /// It was killed, at this call if at one.
    ReplicaDied { replica: usize, during: Option<&'static str> },
    /// It was told to stop, and has.
    ReplicaStopped { replica: usize },
    /// A replica leads; `others`: replicas that believe the same at this instant.
    Led { replica: usize, token: i64, others: usize },
    /// A call of a replica met a mishap.
    Mishap { replica: usize, call: &'static str, what: &'static str },
    /// A pool did not come to have the spares it should have.
    PoolMissed { what: &'a str },
    /// From here on the world is healthy.
    Healthy,
}

/// Somebody who watches. Called in order, often, and sometimes while the place of the event is locked: it must not call
/// back into the world.
pub trait Witness: Send + Sync {
    /// Takes note.
    fn saw(&self, now: Timestamp, what: &Happening<'_>);
}

/// The witnesses of a world.
#[derive(Clone)]
pub struct Scene {
    clock: Arc<dyn Clock>,
    witnesses: Arc<[Arc<dyn Witness>]>,
}

impl Scene {
    /// A scene watched by these, in this order.
    pub fn new(clock: Arc<dyn Clock>, witnesses: Vec<Arc<dyn Witness>>) -> Self {
        Self { clock, witnesses: witnesses.into() }
    }

    /// Tells every witness.
    pub fn happened(&self, what: &Happening<'_>) {
        let now = self.clock.now();
        for witness in &*self.witnesses {
            witness.saw(now, what);
        }
    }
}
