//! One attempt at a job: claim, place, bind, mint, hand over, and only then acknowledge.
//!
//! Desired: exactly one runner serves a job, or the record says why not; whatever the attempt was doing when it died,
//! somebody finishes or undoes it.
//!
//! | the process dies after … | left behind | repaired by |
//! |---|---|---|
//! | the claim | a lease that dies | redelivery of the message, or the lease sweep |
//! | naming the launch | the same, and perhaps a machine of that launch | the next claim adopts it, else the surplus sweep |
//! | the claim of a pool's spare | a spare that nobody else can have | the same job has it again; the claim's end |
//! | the bind | a bound record without hand-over | the next claim *resumes*: the rest is repeatable |
//! | the hand-over, before the start | the same, the hand-over exists | resume only starts the machine |
//! | the start, before `prepared_at` | the same | resume finds everything done |
//! | `prepared_at`, before the ack | a message too many | the claim finds the job dispatched |
//!
//! Every write names the lease's token through the version it read: a write that loses is read again, and when the
//! token is no longer the record's, the attempt stops and gives up what it holds. A machine is bound *before* it can
//! speak, so its first report always finds the record. Compensation runs in a budget of its own, never in what is left
//! of the attempt's.
//!
//! A process that is told to stop gives back what it has asked for no machine yet ([`Dispatch::drain`]); the rest is
//! finished.
//!
//! * `claim` — the lease, or what to do with the message.
//! * `warm` — a machine of the job's pool: reserved, bound, started last; or given back.
//! * `capacity` — a machine: adopted, or launched together with others.
//! * `prepare` — bind, mint, hand over, start; and the same again after a crash.
//! * `undo` — what follows from a failure.
//! * `spare` — what becomes of a machine whose job was lost.
//! * `steps` — where the time went.

mod capacity;
mod claim;
mod prepare;
mod spare;
mod steps;
mod undo;
mod warm;

use std::sync::Arc;
use std::time::Duration;

use db::Outcome;
use domain::clock::{self, Timestamp};
use domain::gh;
use domain::ids::{LeaseToken, RunnerKey};
use domain::job::apply::Context;
use domain::job::{Event, FailureClass, Job, JobState, Origin};
use domain::message::JobMessage;
use github::client::Priority;
use pools::Spare;
use provider::compute::{self, Machine};
use queue::Disposition;
use telemetry::metrics::{SchedulingFailure, Source};
use tokio::time::Instant;
use tracing::{info, warn};

use self::claim::{Claimed, Work};
use self::steps::Steps;
use crate::batch::Approach;
use crate::context::{Dispatch, Error};
use crate::records::{WRITE_TRIES, pool_of, repo_of};

/// Machines tried in one attempt, when others take them at the last moment.
const MACHINES: u32 = 3;

/// Why an attempt ended without a runner.
enum Failure {
    /// Somebody else owns the job now. What we hold is given away or ended.
    Fenced,
    /// The machine was given to another job before it was bound to ours.
    Taken,
    /// The process is to end, and the job costs nothing yet: it is given back without a strike.
    Draining,
    /// The machine has everything, and does not run.
    NotStarted(compute::Error),
    /// The attempt failed; the record goes back, or is settled, by the class.
    Failed { class: FailureClass, until: Option<Timestamp>, error: String },
    /// The store did not answer: nothing is known, nothing is changed; lease and message bring the job back.
    Unknown(Error),
}

impl Failure {
    /// Something that should pass.
    fn transient(error: &dyn std::fmt::Display) -> Self {
        Self::Failed { class: FailureClass::Transient, until: None, error: error.to_string() }
    }
}

impl From<db::Error> for Failure {
    fn from(error: db::Error) -> Self {
        Self::Unknown(error.into())
    }
}

/// What an attempt holds, so that compensation knows what to undo wherever the attempt stopped.
struct Attempt {
    job: Job,
    token: LeaseToken,
    /// When it is cut off.
    deadline: Instant,
    /// As long as it may still ask for a machine: batches wait for it.
    approach: Option<Approach>,
    machine: Option<Machine>,
    /// The same machine, when it is a spare of the job's pool: it goes back there instead of ending.
    spare: Option<Arc<Spare>>,
    start: Start,
    /// The launch the record names was answered: nothing of it is left to be adopted.
    answered: bool,
    /// The hand-over was (perhaps) written: the machine may register, and is never ended blindly.
    handed_over: bool,
    steps: Steps,
}

impl Attempt {
    const fn new(job: Job, token: LeaseToken, deadline: Instant, steps: Steps) -> Self {
        Self {
            job,
            token,
            deadline,
            approach: None,
            machine: None,
            spare: None,
            start: Start::NotAsked,
            answered: false,
            handed_over: false,
            steps,
        }
    }

    /// Its machine is a spare that was running when it was reserved.
    fn is_hot(&self) -> bool {
        self.spare.as_ref().is_some_and(|spare| spare.was_running)
    }
}

/// What is known of a machine's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    NotAsked,
    /// It was asked for, and certainly did not happen.
    Refused,
    /// It was asked for, and may have happened.
    Asked,
}

impl Dispatch {
    /// Works on a job message. `sent_at` is when it was sent, if the queue knows.
    pub async fn attempt(&self, message: &JobMessage, sent_at: Option<Timestamp>) -> Disposition {
        let started = Instant::now();
        let disposition = self.try_attempt(message, sent_at).await.unwrap_or_else(|error| {
            warn!(job_id = message.job_id.get(), %error, "the store cannot be read; the message comes back");
            self.ports.metrics.scheduling_failure(SchedulingFailure("job_claim"));
            keep_for(self.settings.timings.heartbeat)
        });
        let outcome = match &disposition {
            Disposition::Ack => "ok",
            Disposition::Keep { .. } => "kept",
            Disposition::Reject(_) => "rejected",
        };
        self.ports.metrics.dispatch_attempt("queue", outcome, started.elapsed());
        disposition
    }

    async fn try_attempt(&self, message: &JobMessage, sent_at: Option<Timestamp>) -> Result<Disposition, Error> {
        let timings = &self.settings.timings;
        if self.draining.is_cancelled() {
            return Ok(keep_for(Duration::ZERO));
        }
        let deadline = Instant::now() + timings.process;
        let mut steps = Steps::new();
        let approach = self.batcher.approach();
        let (claimed, ()) = tokio::join!(self.claim(message, sent_at), self.look_at_pool(message));
        let claimed = match claimed? {
            Claimed::Work(claimed) => claimed,
            Claimed::Answer(disposition) => return Ok(disposition),
        };
        steps.done("claim");
        let mut attempt = Attempt::new(claimed.job.clone(), claimed.token.clone(), deadline, steps);
        attempt.approach = Some(approach);
        let failure = match tokio::time::timeout_at(deadline, self.work(&mut attempt, *claimed)).await {
            Ok(Ok(worked)) => {
                attempt.approach = None;
                self.keep_spare(&mut attempt);
                match worked {
                    Worked::Prepared => self.assigned(&attempt, sent_at),
                    Worked::Over if attempt.machine.is_none() => {
                        self.wake_another(attempt.job.class.clone(), deadline).await;
                    }
                    Worked::Over => {}
                }
                return Ok(Disposition::Ack);
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Failed {
                class: FailureClass::Transient,
                until: None,
                error: format!("the attempt took longer than {} s", timings.process.as_secs_f32()),
            },
        };
        attempt.approach = None;
        if matches!(failure, Failure::Fenced) && !attempt.handed_over {
            let class = attempt.job.class.clone();
            match attempt.machine.take() {
                Some(machine) if attempt.spare.is_none() => self.give_away(machine, class, deadline).await,
                _ => self.wake_another(class, deadline).await,
            }
        }
        // A budget of its own behind the attempt's, and what the attempt left of that: a store that is slow must not turn
        // a failure that is known into a strike.
        match tokio::time::timeout_at(deadline + timings.cleanup, self.compensate(&mut attempt, failure)).await {
            Ok(disposition) => disposition,
            Err(_) => Ok(keep_for(timings.lease)),
        }
    }

    async fn work(&self, attempt: &mut Attempt, claimed: Work) -> Result<Worked, Failure> {
        if let Some(instance) = claimed.resume {
            attempt.approach = None;
            return self.resume(attempt, &instance).await;
        }
        let adopted = tokio::select! {
            biased;
            () = self.draining.cancelled() => return Err(Failure::Draining),
            found = self.wanted_and_adopted(attempt, &claimed) => found?,
        };
        let Some(mut adopted) = adopted else { return Ok(Worked::Over) };
        attempt.steps.done("adopt");
        if adopted.is_none()
            && let Some(worked) = self.serve_from_pool(attempt).await?
        {
            return Ok(worked);
        }
        for _ in 0..MACHINES {
            let machine = match adopted.take() {
                Some(machine) => machine,
                None => {
                    let machine = self.launch(attempt).await?;
                    attempt.steps.done("launch");
                    machine
                }
            };
            attempt.approach = None;
            attempt.machine = Some(machine.clone());
            match self.bind_machine(attempt, &machine).await {
                Ok(runner) => return self.prepare(attempt, &runner).await,
                // By another attempt that looked for what a dead one left. There may be more of that.
                Err(Failure::Taken) => {
                    attempt.machine = None;
                    adopted = self.adopt(attempt, claimed.previous_launch.as_ref()).await?;
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::transient(&"other jobs took every machine"))
    }

    /// What costs nothing: whether the job is wanted at all (else `None`), and a machine somebody left for it.
    async fn wanted_and_adopted(
        &self,
        attempt: &mut Attempt,
        claimed: &Work,
    ) -> Result<Option<Option<Machine>>, Failure> {
        if self.must_ask_github(&attempt.job, claimed.existed) && !self.still_queued(attempt).await? {
            return Ok(None);
        }
        if attempt.job.deadline_passed(self.now(), &self.settings.timings) {
            return Err(Failure::transient(&"GitHub keeps a job queued for a day only"));
        }
        self.adopt(attempt, claimed.previous_launch.as_ref()).await.map(Some)
    }

    /// A job that is new, and whose webhook just came, is queued. Any other is looked up before money is spent on it: a
    /// webhook that was late may be about a job that has ended meanwhile, and whose end nobody took note of.
    fn must_ask_github(&self, job: &Job, existed: bool) -> bool {
        let born = job.message.as_ref().and_then(|m| m.created_at).map_or(job.queued_at, |at| at.min(job.queued_at));
        !existed
            || job.retry_count > 0
            || job.dispatch_seq > 0
            || clock::since(self.now(), born) > self.settings.timings.liveness_age
    }

    /// Whether GitHub still wants the job (or cannot say). Otherwise its answer has been put into the books.
    async fn still_queued(&self, attempt: &mut Attempt) -> Result<bool, Failure> {
        let (status, job) = self.observe(&attempt.job, Priority::Dispatch).await.map_err(Failure::Unknown)?;
        let Some(job) = job else { return Err(Failure::Fenced) };
        let ours = job.fenced_by(&attempt.token) && job.state == JobState::Claiming;
        attempt.job = job;
        match status {
            gh::Status::Queued | gh::Status::Unknown if ours => Ok(true),
            gh::Status::Queued | gh::Status::Unknown => Err(Failure::Fenced),
            gh::Status::Missing | gh::Status::Completed(_) if ours => {
                let conclusion = match status {
                    gh::Status::Completed(conclusion) => conclusion,
                    _ => gh::Conclusion::Cancelled,
                };
                let event = Event::GithubCompleted { conclusion, ran_on_bound_instance: false };
                self.raise(attempt.job.id, |_, _| event, |_| {}).await.map_err(Failure::Unknown)?;
                Ok(false)
            }
            // GitHub runs it and does not say where: it is not ours to launch for.
            gh::Status::InProgress if ours => {
                self.raise(attempt.job.id, |_, _| Event::ServedElsewhere, |_| {}).await.map_err(Failure::Unknown)?;
                Ok(false)
            }
            // The binding has put the record where it belongs.
            _ => Ok(false),
        }
    }

    /// A write of this attempt: read again while the token is still the record's and the state is the expected one.
    async fn fenced(
        &self,
        attempt: &mut Attempt,
        expected: JobState,
        change: impl Fn(&Job, &Context<'_>) -> Job + Send + Sync,
    ) -> Result<(), Failure> {
        for _ in 0..WRITE_TRIES {
            if !attempt.job.fenced_by(&attempt.token) || attempt.job.state != expected {
                self.ports.metrics.lease_lost();
                return Err(Failure::Fenced);
            }
            let new = change(&attempt.job, &self.cx());
            if let Outcome::Applied(after) = self.ports.jobs.write(&attempt.job, new).await? {
                attempt.job = after;
                return Ok(());
            }
            attempt.job = self.ports.jobs.get(attempt.job.id).await?.ok_or(Failure::Fenced)?;
        }
        Err(Failure::Unknown(Error::Contended))
    }

    /// Reads the record again: whether the job is still this attempt's.
    async fn holds(&self, attempt: &mut Attempt) -> Result<bool, db::Error> {
        let Some(job) = self.ports.jobs.get(attempt.job.id).await? else { return Ok(false) };
        attempt.job = job;
        Ok(attempt.job.fenced_by(&attempt.token) && attempt.job.is_being_dispatched())
    }

    fn assigned(&self, attempt: &Attempt, sent_at: Option<Timestamp>) {
        let job = &attempt.job;
        info!(
            event = "job_assigned",
            job_id = job.id.get(),
            instance_id = job.instance.as_ref().map(RunnerKey::as_str),
            source = job.origin().map(Origin::as_str),
            steps = %attempt.steps,
            "the job's machine has everything"
        );
        let source = job.origin().map(|origin| match origin {
            Origin::HotPool => Source::HotPool,
            Origin::WarmPool => Source::WarmPool,
            Origin::ColdStart => Source::ColdStart,
        });
        if let Some(repo) = repo_of(job) {
            self.ports.metrics.jobs_assigned(pool_of(job), source, repo);
        }
        if let Some(sent) = sent_at {
            self.ports.metrics.job_wait(pool_of(job), source, clock::since(self.now(), sent));
        }
    }
}

#[derive(PartialEq)]
enum Worked {
    /// The machine has everything it needs.
    Prepared,
    /// Nothing (more) to do for this job.
    Over,
}

const fn keep_for(after: Duration) -> Disposition {
    Disposition::Keep { after: Some(after) }
}
