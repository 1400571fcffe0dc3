//! From a machine to a runner: bind, mint, hand over, start. Every step is repeatable, so that the next claim can
//! finish what a dead attempt left.

use db::{Change, Outcome};
use domain::clock;
use domain::ids::{DispatchId, RunnerId, RunnerKey};
use domain::job::apply::Bound;
use domain::job::{Event, FailureClass, Job, JobState, Move, Origin, transition};
use domain::message::JobMessage;
use domain::runner::{Runner, RunnerState};
use domain::timings::MAX_CLAIM_ATTEMPTS;
use github::labels;
use github::mint::{self, Mint};
use provider::compute::{self, Machine};
use tracing::info;

use super::{Attempt, Failure, Start, Worked};
use crate::context::{Dispatch, Error, News};
use crate::records::WRITE_TRIES;

impl Dispatch {
    /// Job and runner rows in one transaction. From here on the machine's reports find the job.
    pub(super) async fn bind_machine(&self, attempt: &mut Attempt, machine: &Machine) -> Result<Runner, Failure> {
        let to = Bound {
            key: machine.key.clone(),
            instance_type: machine.instance_type.clone(),
            zone: machine.zone.clone(),
            spot: machine.spot,
            warm: attempt.spare.is_some(),
            hot: attempt.is_hot(),
        };
        for _ in 0..WRITE_TRIES {
            let cx = self.cx();
            let event = Event::Bind { token_matches: attempt.job.fenced_by(&attempt.token) };
            if transition(Some(attempt.job.state), &event) != Some(Move::Bind) {
                return Err(Failure::Fenced);
            }
            let Some(message) = attempt.job.next_message() else { return Err(Failure::Fenced) };
            let old = self.ports.runners.get(&machine.key).await?;
            // A spare may have had a job before. Any other machine with a row is another attempt's, or about to end.
            if let Some(row) = &old
                && (attempt.spare.is_none()
                    || row.state != RunnerState::Gone
                    || self.has_job_besides(row, Some(attempt.job.id)).await?)
            {
                return Err(Failure::Taken);
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
            let name = mint::runner_name(&naming(&message, &machine.key), 0);
            let class = labels::class_key(&message.repo, &labels);
            let (repo, dispatch) = (message.repo.clone(), DispatchId::new(self.ports.rng.token()));
            let runner = Runner {
                version: old.as_ref().map_or(0, |row| row.version),
                labels,
                pool: message.spec.pool.clone(),
                bound_job: Some(attempt.job.id),
                ttl: Some(Runner::keep_until(cx.now, self.settings.max_runtime)),
                ..Runner::new(machine.key.clone(), repo, class, name, dispatch, clock::whole_seconds(cx.now))
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
                    attempt.steps.done("bind");
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
    pub(super) async fn prepare(&self, attempt: &mut Attempt, runner: &Runner) -> Result<Worked, Failure> {
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
            self.minted(runner, &document.runner_name, None).await?;
        } else {
            let Some(message) = attempt.job.next_message() else { return Err(Failure::Fenced) };
            let minted = self.mint(&message, runner).await?;
            attempt.steps.done("mint");
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
            let mut document = mint::hand_over(&assignment, minted, &self.settings.hand_over);
            if let Some(tokens) = &self.settings.report_tokens {
                document.telemetry_token = tokens.token(message.job_id, key);
            }
            self.let_into_cache(&mut document, &message, key).await;
            // The store of hand-overs knows no conditions: who lost the lease during the mint notices it here, before
            // the document that another attempt wrote is replaced. The row decides, not the job: a machine may have
            // been given to another job meanwhile, which waits for this very hand-over.
            let ours = |row: &Runner| row.dispatch == runner.dispatch && row.state == RunnerState::Minting;
            let Some(row) = self.ports.runners.get(key).await?.filter(ours) else { return Err(Failure::Fenced) };
            attempt.handed_over = true;
            if let Err(error) = self.ports.hand_over.put(key, &document).await {
                // It may be there all the same.
                let there = self.ports.hand_over.get(key).await.map_err(|e| failed_hand_over(&e))?;
                if there.is_none_or(|d| d.dispatch_id != document.dispatch_id) {
                    attempt.handed_over = false;
                    return Err(failed_hand_over(&error));
                }
            }
            attempt.steps.done("hand_over");
            info!(
                event = "config_stored",
                job_id = attempt.job.id.get(),
                instance_id = key.as_str(),
                source = attempt.job.origin().map_or("", Origin::as_str),
                "the hand-over is written"
            );
            self.minted(&row, &name, id).await?;
        }
        if !attempt.is_hot() {
            attempt.start = Start::Asked;
            if let Err(error) = self.ports.compute.start(key).await {
                if !matches!(error, compute::Error::Transient(_)) {
                    attempt.start = Start::Refused;
                }
                return Err(Failure::NotStarted(error));
            }
            attempt.steps.done("start");
        }
        match self.fenced(attempt, JobState::Launched, Job::prepared).await {
            Ok(()) => {
                attempt.steps.done("note");
                Ok(Worked::Prepared)
            }
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
    async fn minted(&self, row: &Runner, name: &str, id: Option<RunnerId>) -> Result<(), Failure> {
        self.change_row(row.clone(), |row| {
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
    pub(super) async fn resume(&self, attempt: &mut Attempt, instance: &RunnerKey) -> Result<Worked, Failure> {
        info!(job_id = attempt.job.id.get(), instance_id = instance.as_str(), "finishing an interrupted hand-over");
        let machine = self.ports.compute.describe(instance).await.map_err(|e| Failure::Unknown(e.into()))?;
        let row = self.ports.runners.get(instance).await?;
        attempt.machine.clone_from(&machine);
        // The dead attempt may have come further than its records say: the machine is never ended blindly.
        attempt.handed_over = true;
        if attempt.job.claim_attempts > MAX_CLAIM_ATTEMPTS {
            return Err(Failure::transient(
                &"every attempt to finish the hand-over died; another machine may do better",
            ));
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
