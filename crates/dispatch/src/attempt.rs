//! One attempt at a job: claim, place, bind, mint, hand over, and only then acknowledge.
//!
//! Desired: exactly one runner serves a job, or the record says why not; whatever the attempt was doing when it died,
//! somebody finishes or undoes it.
//!
//! | the process dies after … | left behind | repaired by |
//! |---|---|---|
//! | the claim | a lease that dies | redelivery of the message, or the lease sweep |
//! | naming the launch | the same, and perhaps a machine of that launch | the next claim adopts it, else the surplus sweep |
//! | the bind | a bound record without hand-over | the next claim *resumes*: the rest is repeatable |
//! | the hand-over, before the start | the same, the hand-over exists | resume only starts the machine |
//! | the start, before `prepared_at` | the same | resume finds everything done |
//! | `prepared_at`, before the ack | a message too many | the claim finds the job dispatched |
//!
//! Every write names the lease's token through the version it read: a write that loses is read again, and when the
//! token is no longer the record's, the attempt stops and gives up what it holds. A machine is bound *before* it can
//! speak, so its first report always finds the record. Compensation runs in a budget of its own, never in what is left
//! of the attempt's.

use std::time::Duration;

use db::{Change, Outcome};
use domain::clock::{self, Timestamp};
use domain::gh;
use domain::ids::{ClassKey, DispatchId, LaunchId, LeaseToken, RunnerId, RunnerKey};
use domain::job::apply::{Bound, Context};
use domain::job::claim::{self, Decision, Done};
use domain::job::transition::{RequeueReason, SettleReason};
use domain::job::{Event, FailureClass, Job, JobState, Lease, Milestone, Move, Settled, transition};
use domain::message::JobMessage;
use domain::runner::{Runner, RunnerState};
use domain::timings::MAX_CLAIM_ATTEMPTS;
use github::client::Priority;
use github::labels;
use github::mint::{self, Mint};
use provider::compute::{self, Filter, Machine, Order, Slot};
use queue::Disposition;
use telemetry::metrics::{DedupPath, SchedulingFailure, Source};
use tracing::{debug, info, warn};

use crate::context::{Dispatch, Error, News};
use crate::records::{Raised, WRITE_TRIES, pool_of, repo_of, truncate};
use crate::retire::Retired;

/// Why an attempt ended without a runner.
enum Failure {
    /// Somebody else owns the job now. What we hold is given away or ended.
    Fenced,
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
    machine: Option<Machine>,
    /// The hand-over was (perhaps) written: the machine may register, and is never ended blindly.
    handed_over: bool,
}

impl Dispatch {
    /// Works on a job message. `sent_at` is when it was sent, if the queue knows.
    pub async fn attempt(&self, message: &JobMessage, sent_at: Option<Timestamp>) -> Disposition {
        let started = tokio::time::Instant::now();
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
        let deadline = tokio::time::Instant::now() + timings.process;
        let claimed = match self.claim(message, sent_at).await? {
            Claimed::Work(claimed) => claimed,
            Claimed::Answer(disposition) => return Ok(disposition),
        };
        let mut attempt =
            Attempt { job: claimed.job.clone(), token: claimed.token.clone(), machine: None, handed_over: false };
        let failure = match tokio::time::timeout_at(deadline, self.work(&mut attempt, *claimed)).await {
            Ok(Ok(worked)) => {
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
        if matches!(failure, Failure::Fenced) && !attempt.handed_over {
            let class = attempt.job.class.clone();
            match attempt.machine.take() {
                Some(machine) => self.give_away(machine, class, deadline).await,
                None => self.wake_another(class, deadline).await,
            }
        }
        // Within a budget of its own, never what is left of the attempt's.
        match tokio::time::timeout(timings.cleanup, self.compensate(&mut attempt, failure)).await {
            Ok(disposition) => disposition,
            Err(_) => Ok(keep_for(timings.lease)),
        }
    }

    /// A machine that was never bound serves the oldest pending job of its class that may have it, else it ends.
    async fn give_away(&self, machine: Machine, class: Option<ClassKey>, deadline: tokio::time::Instant) {
        let key = machine.key.clone();
        // Unknown: the sweep decides.
        let unbound = async || matches!(self.ports.runners.get(&key).await, Ok(None));
        if !unbound().await {
            return self.undo_if_nobodys(&key).await;
        }
        match tokio::time::timeout_at(deadline, self.serve_another(&machine, class)).await {
            Ok(Ok(true)) => return,
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => debug!(instance_id = key.as_str(), %error, "no other job could be given the machine"),
        }
        if unbound().await {
            self.end_machine(&key, "never_bound").await;
        }
    }

    /// The job was served elsewhere before anything was launched for it: whoever was robbed by that waits for us.
    async fn wake_another(&self, class: Option<ClassKey>, deadline: tokio::time::Instant) {
        // Jobs whose wake-up was sent have a later due time; those left to a launch in flight are due within a moment.
        let soon = clock::after(self.now(), self.settings.timings.skew);
        let robbed = |job: &Job| {
            job.requeue_reason.as_deref() == Some(RequeueReason::RunnerStolen.as_str())
                && job.class == class
                && job.is_due(self.now())
                && job.redrive_at.is_some_and(|at| at <= soon)
        };
        let woken = tokio::time::timeout_at(deadline, async {
            for job in self.ports.jobs.by_state(JobState::Requeued, None, None).await?.iter().filter(|job| robbed(job))
            {
                if let Outcome::Applied(job) = self.ports.jobs.write(job, job.redriven(&self.cx())).await? {
                    self.wake(&job).await;
                    break;
                }
            }
            Ok::<(), Error>(())
        });
        if let Ok(Err(error)) = woken.await {
            debug!(%error, "no other job could be woken; the outbox does it");
        }
    }

    async fn serve_another(&self, machine: &Machine, class: Option<ClassKey>) -> Result<bool, Error> {
        let now = self.now();
        for job in self.ports.jobs.by_state(JobState::Requeued, None, None).await? {
            if job.class != class || !job.is_due(now) || (machine.spot && job.force_on_demand) {
                continue;
            }
            let Some(message) = job.next_message() else { continue };
            let Claimed::Work(claimed) = self.claim(&message, None).await? else { continue };
            if claimed.resume.is_some() {
                // It got a machine meanwhile; its own message finishes that.
                continue;
            }
            let mut attempt =
                Attempt { job: claimed.job, token: claimed.token, machine: Some(machine.clone()), handed_over: false };
            let served = match self.bind_machine(&mut attempt, machine).await {
                Ok(runner) => self.prepare(&mut attempt, &runner).await,
                // Taken by somebody else at the last moment: the next one may have the machine.
                Err(Failure::Fenced) if self.ports.runners.get(&machine.key).await?.is_none() => continue,
                Err(failure) => Err(failure),
            };
            match served {
                Ok(_) => {
                    info!(job_id = attempt.job.id.get(), instance_id = machine.key.as_str(), "given a spare machine");
                }
                Err(failure) => {
                    self.compensate(&mut attempt, failure).await?;
                }
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Takes the lease, or says what to do with the message.
    async fn claim(&self, message: &JobMessage, sent_at: Option<Timestamp>) -> Result<Claimed, Error> {
        let timings = &self.settings.timings;
        for _ in 0..WRITE_TRIES {
            let read = self.ports.jobs.get(message.job_id).await?;
            let cx = self.cx();
            let lease = Lease {
                token: LeaseToken::new(self.ports.rng.token()),
                owner: self.settings.owner.clone(),
                until: Some(clock::after(cx.now, timings.lease)),
            };
            let class = labels::class_key(&message.repo, &labels::fallback_labels(message).labels);
            let mut decision = claim::decide(read.as_ref(), message, lease, class, &cx);
            let (new, answer) = match &mut decision {
                Decision::Claim { job, .. } => {
                    let attempt = job.attempt();
                    if let Some(sent) = sent_at {
                        job.timeline.stamp(attempt, Milestone::Queued, sent);
                    }
                    (job.clone(), None)
                }
                Decision::Resume { job, .. } => (job.clone(), None),
                Decision::Exhausted { job } => (job.clone(), Some(Disposition::Ack)),
                Decision::Contended { remaining } => {
                    self.ports.metrics.claim_contended();
                    let jitter = Duration::from_secs_f64(1.0 + 4.0 * cx.chance).min(timings.heartbeat);
                    return Ok(Claimed::Answer(keep_for(*remaining + jitter)));
                }
                Decision::Done(done) => {
                    if *done != Done::NotDue {
                        self.ports.metrics.jobs_deduplicated(DedupPath::Queue);
                        debug!(job_id = message.job_id.get(), retry_count = message.retry_count, "nothing to dispatch");
                    }
                    return Ok(Claimed::Answer(Disposition::Ack));
                }
            };
            let written = match &read {
                Some(old) => self.ports.jobs.write(old, *new).await?,
                None => self.ports.jobs.create(&new).await?,
            };
            let Outcome::Applied(job) = written else { continue };
            if let Some(disposition) = answer {
                if let Some(before) = &read {
                    let reason = SettleReason::ClaimExhausted;
                    let step = Move::Settle { end: Settled::Error, reason };
                    self.moved(before, &job, step, "claim").await;
                }
                return Ok(Claimed::Answer(disposition));
            }
            let Some(token) = job.lease.as_ref().map(|l| l.token.clone()) else { return Err(Error::Contended) };
            let existed = read.is_some();
            return Ok(match decision {
                Decision::Claim { previous_launch, stolen, .. } => {
                    if stolen {
                        self.ports.metrics.lease_stolen();
                    }
                    self.ports.metrics.transition("claim", read.map(|r| r.state), Some(job.state));
                    Claimed::Work(Box::new(Work { job, token, resume: None, previous_launch, existed }))
                }
                Decision::Resume { instance, .. } => {
                    self.ports.metrics.lease_stolen();
                    Claimed::Work(Box::new(Work { job, token, resume: Some(instance), previous_launch: None, existed }))
                }
                _ => Claimed::Answer(Disposition::Ack),
            });
        }
        Ok(Claimed::Answer(keep_for(timings.send_pause)))
    }

    async fn work(&self, attempt: &mut Attempt, claimed: Work) -> Result<Worked, Failure> {
        if let Some(instance) = claimed.resume {
            return self.resume(attempt, &instance).await;
        }
        if self.must_ask_github(&attempt.job, claimed.existed) && !self.still_queued(attempt).await? {
            return Ok(Worked::Over);
        }
        if attempt.job.deadline_passed(self.now(), &self.settings.timings) {
            return Err(Failure::transient(&"GitHub keeps a job queued for a day only"));
        }
        let machine = match self.adopt(attempt, claimed.previous_launch).await? {
            Some(machine) => machine,
            None => self.launch(attempt).await?,
        };
        attempt.machine = Some(machine.clone());
        let runner = self.bind_machine(attempt, &machine).await?;
        self.prepare(attempt, &runner).await
    }

    /// A job that is new, and whose webhook just came, is queued. Any other is looked up before money is spent on it.
    fn must_ask_github(&self, job: &Job, existed: bool) -> bool {
        !existed
            || job.retry_count > 0
            || job.dispatch_seq > 0
            || clock::since(self.now(), job.queued_at) > self.settings.timings.liveness_age
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

    /// A machine that a dead attempt of this job launched and nobody was bound to.
    async fn adopt(&self, attempt: &Attempt, previous_launch: Option<LaunchId>) -> Result<Option<Machine>, Failure> {
        let Some(launch_id) = previous_launch else { return Ok(None) };
        let filter = Filter { launch_id: Some(launch_id), include_gone: false };
        for machine in self.ports.compute.list(&filter).await.map_err(|e| failed_launch(&e))? {
            if machine.state.is_gone() || (machine.spot && attempt.job.force_on_demand) {
                continue;
            }
            if self.ports.runners.get(&machine.key).await?.is_none() {
                info!(job_id = attempt.job.id.get(), instance_id = machine.key.as_str(), "adopting a launched machine");
                return Ok(Some(machine));
            }
        }
        Ok(None)
    }

    async fn launch(&self, attempt: &mut Attempt) -> Result<Machine, Failure> {
        let Some(message) = attempt.job.next_message() else { return Err(Failure::Fenced) };
        if message.spec.os == "windows" {
            return Err(Failure::Failed {
                class: FailureClass::WindowsUnsupported,
                until: None,
                error: "no launch template for Windows is configured".to_owned(),
            });
        }
        let launch_id = LaunchId::new(format!("rf1-{}", self.ports.rng.token()));
        self.fenced(attempt, JobState::Claiming, |job, cx| job.launching(launch_id.clone(), cx)).await?;
        let order = Order {
            launch_id,
            spot: message.spec.spot && !message.force_on_demand,
            slots: vec![Slot { job: attempt.job.id, run: message.run_id, repo: message.repo }],
            spec: message.spec,
            until: tokio::time::Instant::now() + self.settings.timings.process,
        };
        let answers = self.ports.compute.launch(&order).await;
        match answers.into_iter().next() {
            Some(Ok(machine)) => Ok(machine),
            Some(Err(error)) => Err(failed_launch(&error)),
            None => Err(failed_launch(&compute::Error::Transient("the provider answered nothing".to_owned()))),
        }
    }

    /// Job and runner rows in one transaction. From here on the machine's reports find the job.
    async fn bind_machine(&self, attempt: &mut Attempt, machine: &Machine) -> Result<Runner, Failure> {
        let to = Bound {
            key: machine.key.clone(),
            instance_type: machine.instance_type.clone(),
            zone: machine.zone.clone(),
            spot: machine.spot,
            warm: false,
            hot: false,
        };
        for _ in 0..WRITE_TRIES {
            let cx = self.cx();
            let event = Event::Bind { token_matches: attempt.job.fenced_by(&attempt.token) };
            if transition(Some(attempt.job.state), &event) != Some(Move::Bind) {
                return Err(Failure::Fenced);
            }
            let Some(message) = attempt.job.next_message() else { return Err(Failure::Fenced) };
            let old = self.ports.runners.get(&machine.key).await?;
            if old.as_ref().is_some_and(|row| row.state != RunnerState::Gone) {
                return Err(Failure::Fenced);
            }
            let fallback = labels::fallback_labels(&message);
            if fallback.synthesized {
                self.ports.metrics.label_lost();
                tracing::error!(
                    job_id = attempt.job.id.get(),
                    "the job came without labels; GitHub will hardly match its runner"
                );
            }
            let labels = fallback.labels;
            let runner = Runner {
                key: machine.key.clone(),
                version: old.as_ref().map_or(0, |row| row.version),
                state: RunnerState::Minting,
                repo: message.repo.clone(),
                name: mint::runner_name(&naming(&message, &machine.key), 0),
                abandoned_names: Vec::new(),
                id: None,
                class: labels::class_key(&message.repo, &labels),
                labels,
                pool: message.spec.pool.clone(),
                bound_job: Some(attempt.job.id),
                running_job: None,
                dispatch: DispatchId::new(self.ports.rng.token()),
                minted_at: clock::whole_seconds(cx.now),
                online_at: None,
                running_since: None,
                interrupted_at: None,
                retire_at: None,
                report: None,
                ttl: Some(Runner::keep_until(cx.now, self.settings.max_runtime)),
            };
            let bound = attempt.job.bound(&to, &cx);
            let changes =
                vec![Change::Job { old: Some(attempt.job.clone()), new: bound }, Change::Runner { old, new: runner }];
            match self.ports.jobs.commit(changes).await? {
                Outcome::Applied(mut committed) => {
                    let (Some(job), Some(row)) = (committed.jobs.pop(), committed.runners.pop()) else {
                        return Err(Failure::Unknown(Error::Contended));
                    };
                    let before = std::mem::replace(&mut attempt.job, job);
                    self.moved(&before, &attempt.job, Move::Bind, "bind").await;
                    self.tell(News::Runner { key: row.key.clone(), state: row.state.as_str() });
                    return Ok(row);
                }
                Outcome::Lost => {
                    attempt.job = self.ports.jobs.get(attempt.job.id).await?.ok_or(Failure::Fenced)?;
                }
            }
        }
        Err(Failure::Unknown(Error::Contended))
    }

    /// Mint, hand over, start. Repeatable: a hand-over that exists is not written again.
    async fn prepare(&self, attempt: &mut Attempt, runner: &Runner) -> Result<Worked, Failure> {
        let key = &runner.key;
        let existing = match self.ports.hand_over.get(key).await {
            Ok(existing) => existing,
            // Nobody's document: it is written anew.
            Err(provider::handover::Error::Invalid(_)) => None,
            // A machine bound a moment ago has none, so that it can be ended; an outage costs no strike.
            Err(error) if !attempt.handed_over => return Err(failed_hand_over(&error)),
            Err(error) => return Err(Failure::Unknown(error.into())),
        };
        if let Some(document) = existing.filter(|d| d.dispatch_id == runner.dispatch.as_str()) {
            attempt.handed_over = true;
            self.minted(key, &document.runner_name, None).await?;
        } else {
            let Some(message) = attempt.job.next_message() else { return Err(Failure::Fenced) };
            let minted = self.mint(&message, runner).await?;
            let name = minted.name.clone();
            let id = match &minted.credential {
                mint::Minted::Jit { runner_id, .. } => Some(*runner_id),
                mint::Minted::Token(_) => None,
            };
            let assignment = mint::Assignment {
                repo: &message.repo,
                run: message.run_id,
                job: message.job_id,
                labels: &runner.labels,
                key,
                dispatch: &runner.dispatch,
                written_at: self.now(),
            };
            let document = mint::hand_over(&assignment, minted, &self.settings.hand_over);
            // The store of hand-overs knows no conditions: who lost the lease during the mint notices it here, before
            // the document that another attempt wrote is replaced. The row decides, not the job: a machine may have
            // been given to another job meanwhile, which waits for this very hand-over.
            let row = self.ports.runners.get(key).await?;
            if row.is_none_or(|row| row.dispatch != runner.dispatch || row.state != RunnerState::Minting) {
                return Err(Failure::Fenced);
            }
            attempt.handed_over = true;
            if let Err(error) = self.ports.hand_over.put(key, &document).await {
                // It may be there all the same.
                let there = self.ports.hand_over.get(key).await.map_err(|e| failed_hand_over(&e))?;
                if there.is_none_or(|d| d.dispatch_id != document.dispatch_id) {
                    attempt.handed_over = false;
                    return Err(failed_hand_over(&error));
                }
            }
            self.minted(key, &name, id).await?;
        }
        // A machine that cannot be started is no reason to give up on its job, whatever the provider calls it.
        self.ports.compute.start(key).await.map_err(|e| Failure::transient(&e))?;
        match self.fenced(attempt, JobState::Launched, Job::prepared).await {
            Ok(()) => Ok(Worked::Prepared),
            // The runner confirmed, or GitHub gave the job elsewhere, before we could note that we were done: either
            // way nothing is left to do here, and the machine finds its own work.
            Err(Failure::Fenced) if attempt.job.state == JobState::Running && attempt.job.is_on(key) => {
                Ok(Worked::Prepared)
            }
            Err(Failure::Fenced) if !attempt.job.is_being_dispatched() => Ok(Worked::Over),
            Err(other) => Err(other),
        }
    }

    /// Notes that the hand-over is out, and under which name. Only the first one does: a later one of an attempt that
    /// lost its lease would name a registration that the machine does not have.
    async fn minted(&self, key: &RunnerKey, name: &str, id: Option<RunnerId>) -> Result<(), Failure> {
        self.change_runner(key, |row| {
            if row.state == RunnerState::Minting {
                name.clone_into(&mut row.name);
                row.id = id.or(row.id);
                row.advance(RunnerState::Minted);
            }
        })
        .await
        .map_err(Failure::Unknown)?;
        Ok(())
    }

    /// Reads the record again: whether the job is still this attempt's.
    async fn holds(&self, attempt: &mut Attempt) -> Result<bool, db::Error> {
        let Some(job) = self.ports.jobs.get(attempt.job.id).await? else { return Ok(false) };
        attempt.job = job;
        Ok(attempt.job.fenced_by(&attempt.token) && attempt.job.is_being_dispatched())
    }

    async fn mint(&self, message: &JobMessage, runner: &Runner) -> Result<Mint, Failure> {
        let request = mint::MintRequest {
            repo: &message.repo,
            naming: naming(message, &runner.key),
            abandoned: &runner.abandoned_names,
            labels: &runner.labels,
            group: &self.settings.hand_over.runner_group,
            registration: self.settings.registration,
        };
        let (abandoned, result) = match mint::mint(&self.ports.github, &request).await {
            Ok(mint) => (mint.abandoned.clone(), Ok(mint)),
            Err(error) => (error.abandoned.clone(), Err(failed_mint(&error))),
        };
        // A name whose answer was lost may be registered: the sweep of dead registrations needs to know it.
        if !abandoned.is_empty() {
            self.change_runner(&runner.key, |row| {
                let lost: Vec<_> = abandoned.iter().filter(|n| !row.abandoned_names.contains(n)).cloned().collect();
                row.abandoned_names.extend(lost);
            })
            .await
            .map_err(Failure::Unknown)?;
        }
        result
    }

    /// Finishes what a dead attempt left: a bound machine that may or may not have its hand-over.
    async fn resume(&self, attempt: &mut Attempt, instance: &RunnerKey) -> Result<Worked, Failure> {
        info!(job_id = attempt.job.id.get(), instance_id = instance.as_str(), "finishing an interrupted hand-over");
        let machine = self.ports.compute.describe(instance).await.map_err(|e| Failure::Unknown(e.into()))?;
        let row = self.ports.runners.get(instance).await?;
        attempt.machine.clone_from(&machine);
        // The dead attempt may have come further than its records say: the machine is never ended blindly.
        attempt.handed_over = true;
        if attempt.job.claim_attempts > MAX_CLAIM_ATTEMPTS {
            return Err(Failure::Failed {
                class: FailureClass::Permanent,
                until: None,
                error: "every attempt to finish the hand-over died".to_owned(),
            });
        }
        match (machine, row) {
            (Some(machine), Some(row)) if !machine.state.is_gone() && row.state.is_live() => {
                self.prepare(attempt, &row).await
            }
            _ => Err(Failure::Failed {
                class: FailureClass::Transient,
                until: None,
                error: "the machine ended before its hand-over was finished".to_owned(),
            }),
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

    /// Undoes what the attempt holds and writes what follows from the failure.
    async fn compensate(&self, attempt: &mut Attempt, failure: Failure) -> Result<Disposition, Error> {
        let timings = &self.settings.timings;
        let job_id = attempt.job.id.get();
        match failure {
            Failure::Unknown(error) => {
                warn!(job_id, %error, "the attempt cannot go on; its lease brings the job back");
                Ok(keep_for(timings.heartbeat))
            }
            Failure::Fenced => {
                info!(job_id, "somebody else owns the job now");
                Ok(keep_for(timings.send_pause))
            }
            Failure::Failed { class, until, error } => {
                warn!(job_id, ?class, error, "the attempt failed");
                // Behind a lost lease the machine is another attempt's; and it may have a job by now.
                if !self.holds(attempt).await? {
                    match attempt.machine.as_ref().filter(|_| !attempt.handed_over) {
                        Some(machine) => self.undo_if_nobodys(&machine.key).await,
                        None => {
                            let soon = tokio::time::Instant::now() + timings.cleanup;
                            self.wake_another(attempt.job.class.clone(), soon).await;
                        }
                    }
                    return Ok(keep_for(timings.send_pause));
                }
                if let Some(machine) = &attempt.machine {
                    if !attempt.handed_over {
                        self.undo_machine(&machine.key).await;
                    } else if self.retire(&machine.key).await? != Retired::Ended {
                        return Ok(keep_for(timings.heartbeat));
                    }
                }
                // The follow-up stands behind the ack: as long as it was not sent, the message stays.
                match self.fail(attempt, class, until, &error).await? {
                    Raised::Moved { woken: false, .. } => Ok(keep_for(timings.send_pause * 10)),
                    _ => Ok(Disposition::Ack),
                }
            }
        }
    }

    async fn fail(
        &self,
        attempt: &Attempt,
        class: FailureClass,
        until: Option<Timestamp>,
        error: &str,
    ) -> Result<Raised, Error> {
        // A rate limit names its own end; half a minute of spread keeps the herd apart.
        let spread = (self.settings.timings.back_off).mul_f64(self.ports.rng.unit());
        let until = until.map(|at| clock::after(clock::whole_seconds(at), spread));
        let facts = |job: &Job, cx: &Context<'_>| Event::DispatchFailed {
            token_matches: job.fenced_by(&attempt.token),
            deadline_passed: job.deadline_passed(cx.now, cx.timings),
            class,
            strikes_left: job.strikes_left(),
            can_fall_back: job.retries_left()
                && !job.force_on_demand
                && job.message.as_ref().is_some_and(|m| m.spec.spot),
        };
        let last_error = telemetry::redact(&truncate(error, 1024));
        self.raise_until(attempt.job.id, until, facts, |job| job.last_error = Some(last_error.clone())).await
    }

    /// Ends a bound machine that got no hand-over from us, unless a job waits on it or runs there: another attempt has
    /// it then, or another job.
    async fn undo_if_nobodys(&self, key: &RunnerKey) {
        let Ok(Some(row)) = self.ports.runners.get(key).await else { return };
        let waits = match row.bound_job {
            Some(id) => self.ports.jobs.get(id).await.map(|job| job.is_some_and(|job| job.is_on(key))),
            None => Ok(false),
        };
        if row.state == RunnerState::Minting && row.running_job.is_none() && matches!(waits, Ok(false)) {
            self.undo_machine(key).await;
        }
    }

    /// Ends a machine of ours whose job goes back: hand-over, registration, row, machine. All best effort and
    /// repeatable; whatever is left is swept.
    async fn undo_machine(&self, key: &RunnerKey) {
        if let Err(error) = self.ports.hand_over.delete(key).await {
            debug!(instance_id = key.as_str(), %error, "the hand-over was not deleted");
        }
        match self.end_runner(key, RunnerState::Gone).await {
            Ok(Some(row)) => {
                self.deregister(&row).await;
            }
            Ok(None) => {}
            Err(error) => debug!(instance_id = key.as_str(), %error, "the runner's row was not ended"),
        }
        self.end_machine(key, "failed_attempt").await;
    }

    /// Ends a machine for good; the surplus sweep stands behind it.
    pub(crate) async fn end_machine(&self, key: &RunnerKey, cause: &'static str) {
        match self.ports.compute.terminate(key).await {
            Ok(()) => self.ports.metrics.surplus_instances_terminated(cause),
            Err(error) => warn!(instance_id = key.as_str(), %error, "the machine was not ended; the sweep tries again"),
        }
    }

    fn assigned(&self, attempt: &Attempt, sent_at: Option<Timestamp>) {
        let job = &attempt.job;
        let source = Some(Source::ColdStart);
        if let Some(repo) = repo_of(job) {
            self.ports.metrics.jobs_assigned(pool_of(job), source, repo);
        }
        if let Some(sent) = sent_at {
            self.ports.metrics.job_wait(pool_of(job), source, clock::since(self.now(), sent));
        }
    }
}

/// A job claimed, and what its claim found.
struct Work {
    job: Job,
    token: LeaseToken,
    resume: Option<RunnerKey>,
    previous_launch: Option<LaunchId>,
    existed: bool,
}

enum Claimed {
    Work(Box<Work>),
    Answer(Disposition),
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

const fn naming<'a>(message: &'a JobMessage, key: &'a RunnerKey) -> mint::Naming<'a> {
    mint::Naming {
        key,
        pool: message.spec.pool.as_ref(),
        repo: &message.repo,
        spec: Some(&message.spec),
        job: Some(message.job_id),
    }
}

fn failed_launch(error: &compute::Error) -> Failure {
    let class = match error {
        compute::Error::Capacity(_) => FailureClass::Capacity,
        compute::Error::Transient(_) | compute::Error::Deployment(_) => FailureClass::Transient,
        compute::Error::Invalid(_) => FailureClass::Invalid,
    };
    Failure::Failed { class, until: None, error: error.to_string() }
}

fn failed_hand_over(error: &provider::handover::Error) -> Failure {
    let class = match error {
        provider::handover::Error::Transient(_) | provider::handover::Error::Deployment(_) => FailureClass::Transient,
        provider::handover::Error::Invalid(_) => FailureClass::Permanent,
    };
    Failure::Failed { class, until: None, error: error.to_string() }
}

fn failed_mint(error: &mint::MintError) -> Failure {
    let (class, until) = match &error.cause {
        mint::MintFailure::GitHub(cause) if cause.is_permanent() => (FailureClass::Permanent, None),
        mint::MintFailure::GitHub(cause) => (FailureClass::Transient, cause.retry_at()),
        mint::MintFailure::Comma(_) => (FailureClass::Permanent, None),
    };
    Failure::Failed { class, until, error: error.to_string() }
}
