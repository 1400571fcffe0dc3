//! The shell around [`github::binding`]: read the scene, commit the plan, send what it asks for.

use std::time::Duration;

use db::{Change, Committed, Outcome};
use domain::clock::Timestamp;
use domain::gh::{self, Conclusion, JobView, NamedRunner};
use domain::ids::{ClassKey, JobId, Repo};
use domain::job::transition::RequeueReason;
use domain::job::{Job, JobState};
use domain::message::JobMessage;
use domain::runner::Runner;
use domain::timings::ALERT_DISPLACED;
use github::binding::{self, Evidence, Plan, Scene};
use github::client::Priority;
use github::mint;
use telemetry::metrics::BindRule;
use tracing::{debug, info, warn};

use crate::context::{Dispatch, Error, News};

/// Tries of a plan that loses to somebody else's write.
const TRIES: u32 = 5;

/// What a webhook or a poll says about a job, with what is needed to create a record for it.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) id: JobId,
    pub(crate) repo: Repo,
    pub(crate) view: JobView,
    /// For a job that is ours.
    pub(crate) message: Option<(JobMessage, ClassKey)>,
}

/// The scene after its plan: what was written, where that is all that counts. A runner the plan left alone may have
/// moved, and is to be read again.
fn afterwards(id: JobId, scene: Scene, committed: Committed) -> Option<Scene> {
    let key = scene.runner.map(|runner| runner.key);
    let runner = committed.runners.into_iter().find(|row| Some(&row.key) == key.as_ref());
    if runner.is_none() && key.is_some() {
        return None;
    }
    let job = committed.jobs.into_iter().find(|job| job.id == id).or(scene.job);
    Some(Scene { job, runner, ..Scene::default() })
}

impl Dispatch {
    /// Puts the books right after GitHub's word on a job: binds it to the runner named, and settles it when concluded.
    /// Idempotent, safe in any order and on several replicas.
    pub(crate) async fn account(&self, account: &Account) -> Result<(), Error> {
        let mut scene = None;
        if let Some(named) = &account.view.runner
            && matches!(account.view.status, gh::Status::InProgress | gh::Status::Completed(_))
        {
            scene = self.bind_named(account, named).await?;
            scene = self.condemn_on_gone(account, named, scene).await?;
        }
        if let gh::Status::Completed(conclusion) = account.view.status {
            self.complete(account, conclusion, scene).await?;
        }
        Ok(())
    }

    async fn bind_named(&self, account: &Account, named: &NamedRunner) -> Result<Option<Scene>, Error> {
        let evidence =
            Evidence { named: named.clone(), since: account.view.started_at, message: account.message.clone() };
        let decide = |scene: &Scene| binding::bind(account.id, scene, &evidence, &self.cx());
        self.settle_books(account, Some(named), None, decide).await
    }

    /// The runner GitHub named, as the books show it after a step.
    async fn named_runner(
        &self,
        account: &Account,
        named: &NamedRunner,
        scene: Option<&Scene>,
    ) -> Result<Option<Runner>, Error> {
        match scene {
            Some(scene) => Ok(scene.runner.clone()),
            None => self.find_runner(&account.repo, named).await,
        }
    }

    /// GitHub runs the job on a runner whose machine we already know to be gone: no report will come. Or it has failed
    /// the job because the machine was gone, and that is the first we hear of the job. Answers the scene, if it is still
    /// what is in the books.
    async fn condemn_on_gone(
        &self,
        account: &Account,
        named: &NamedRunner,
        scene: Option<Scene>,
    ) -> Result<Option<Scene>, Error> {
        let runner = self.named_runner(account, named, scene.as_ref()).await?;
        match runner.filter(|runner| runner.took_along(account.view.status, account.view.completed_at)) {
            Some(runner) => {
                self.lose_machine(account.id, &runner.key, gh::Status::InProgress, false).await?;
                Ok(None)
            }
            None => Ok(scene),
        }
    }

    async fn complete(&self, account: &Account, conclusion: Conclusion, scene: Option<Scene>) -> Result<(), Error> {
        let word = account.view.conclusion.as_deref().unwrap_or(conclusion.as_str());
        let (named, at) = (account.view.runner.as_ref(), account.view.completed_at);
        let decide = |scene: &Scene| binding::complete(scene, conclusion, word, at, &self.cx());
        let scene = self.settle_books(account, named, scene, decide).await?;
        // A report that came before GitHub's word was kept on the runner's row; now it has a job to close. One that comes
        // after it finds the word on the record: whoever writes the runner's row later reads what the other wrote.
        if let Some(named) = named
            && let Some(runner) = self.named_runner(account, named, scene.as_ref()).await?
            && runner.report.is_some()
        {
            self.close_with_report(account.id, &runner).await?;
        }
        Ok(())
    }

    /// Decides on a scene, the one given or else a fresh one, and commits the plan; read again where it has moved.
    /// Answers the scene afterwards, as far as it is known without another look.
    async fn settle_books(
        &self,
        account: &Account,
        named: Option<&NamedRunner>,
        mut known: Option<Scene>,
        decide: impl Fn(&Scene) -> Plan + Send + Sync,
    ) -> Result<Option<Scene>, Error> {
        for attempt in 0..TRIES {
            let scene = match known.take() {
                Some(scene) => scene,
                None => self.scene(account, named).await?,
            };
            let plan = decide(&scene);
            if let Some(rule) = plan.rule {
                self.ports.metrics.runner_bind(BindRule(rule));
            }
            if plan.is_empty() {
                return Ok(Some(scene));
            }
            let changes: Vec<Change> = plan
                .jobs
                .iter()
                .map(|w| Change::Job { old: w.old.clone(), new: w.new.clone() })
                .chain(plan.runners.iter().map(|w| Change::Runner { old: w.old.clone(), new: w.new.clone() }))
                .collect();
            if let Outcome::Applied(committed) = self.ports.jobs.commit(changes).await? {
                self.after_plan(account, &scene, &plan).await;
                return Ok(afterwards(account.id, scene, committed));
            }
            self.ports.metrics.runner_bind_conflicts();
            let pause = Duration::from_millis(50 + (350.0 * self.ports.rng.unit()) as u64);
            debug!(job_id = account.id.get(), attempt, "the binding lost to another write; reading again");
            tokio::time::sleep(pause.min(self.settings.timings.send_pause)).await;
        }
        Err(Error::Contended)
    }

    /// Everything a plan depends on, read consistently.
    async fn scene(&self, account: &Account, named: Option<&NamedRunner>) -> Result<Scene, Error> {
        let job = self.ports.jobs.get(account.id).await?;
        let runner = match named {
            Some(named) => self.find_runner(&account.repo, named).await?,
            None => None,
        };
        let bound = match runner.as_ref().and_then(|r| r.bound_job).filter(|b| *b != account.id) {
            Some(id) => self.ports.jobs.get(id).await?,
            None => None,
        };
        // A pointer to a job that no longer waits there is stale: the runner counts as unbound.
        let bound = bound.filter(|b| b.is_waiting() && b.instance == runner.as_ref().map(|r| r.key.clone()));
        let previous = match job.as_ref().filter(|j| j.state.is_bound()).and_then(|j| j.instance.clone()) {
            Some(key) if runner.as_ref().is_none_or(|r| r.key != key) => {
                self.ports.runners.get(&key).await?.filter(|r| r.state.is_live())
            }
            _ => None,
        };
        Ok(Scene { job, runner, bound, previous })
    }

    /// The runner record behind a name GitHub gave. The machine's id can be read back from every name we mint, so no
    /// index is needed.
    pub(crate) async fn find_runner(&self, repo: &Repo, named: &NamedRunner) -> Result<Option<Runner>, Error> {
        for key in mint::runner_key_candidates(&named.name) {
            let Some(row) = self.ports.runners.get(&key).await? else { continue };
            let other_incarnation = row.id.is_some() && named.id.is_some() && row.id != named.id;
            if row.repo == *repo && !other_incarnation {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    async fn after_plan(&self, account: &Account, scene: &Scene, plan: &Plan) {
        info!(
            job_id = account.id.get(),
            rule = plan.rule.map_or(-1, i32::from),
            runner = scene.runner.as_ref().map_or("", |r| r.key.as_str()),
            bound_job = scene.bound.as_ref().map_or(0, |b| b.id.get()),
            surplus = plan.surplus.as_ref().map_or("", |k| k.as_str()),
            "books put right"
        );
        for write in &plan.jobs {
            let displaced = write.old.as_ref().is_some_and(|old| write.new.displaced_count > old.displaced_count);
            if displaced && write.new.state == JobState::Requeued {
                self.ports.metrics.jobs_requeued(RequeueReason::RunnerStolen);
                if write.new.displaced_count >= ALERT_DISPLACED {
                    warn!(
                        job_id = write.new.id.get(),
                        displaced_count = write.new.displaced_count,
                        "a job keeps losing its runners to other jobs: check for overlapping labels"
                    );
                }
            }
            let (from, to) = (write.old.as_ref().map(|old| old.state), write.new.state);
            if from != Some(to) {
                self.ports.metrics.transition("binding", from, Some(to));
            }
            if let (JobState::Settled(end), false) = (to, from.is_some_and(JobState::is_settled)) {
                self.report_end(&write.new, end);
            }
            self.tell(News::Job { id: write.new.id, state: to.as_str() });
        }
        for write in &plan.runners {
            self.tell(News::Runner { key: write.new.key.clone(), state: write.new.state.as_str() });
        }
        if let Some(robbed) = plan.displaced
            && let Some(job) = plan.jobs.iter().map(|w| &w.new).find(|j| j.id == robbed)
        {
            // The record as stored carries the version; the message is the same either way.
            self.wake(job).await;
        }
    }

    /// Asks GitHub about a job and puts the books right with the answer. A fresh enough answer on the record is used
    /// as it is. Returns GitHub's word and the record as it is afterwards.
    pub(crate) async fn observe(&self, job: &Job, priority: Priority) -> Result<(gh::Status, Option<Job>), Error> {
        if let Some(seen) = job.sighting
            && domain::clock::since(self.now(), seen.at) <= self.settings.timings.sighting
            && seen.status != gh::Status::Unknown
        {
            return Ok((seen.status, Some(job.clone())));
        }
        let status = self.ask(job, priority).await?;
        Ok((status, self.ports.jobs.get(job.id).await?))
    }

    /// Asks GitHub, whatever the record says.
    pub(crate) async fn ask(&self, job: &Job, priority: Priority) -> Result<gh::Status, Error> {
        let Some(message) = &job.message else { return Ok(gh::Status::Unknown) };
        let view = match self.ports.github.job(&message.repo, job.id, priority).await {
            Ok(Some(view)) => view,
            Ok(None) => {
                self.see(job.id, gh::Status::Missing, None).await?;
                return Ok(gh::Status::Missing);
            }
            Err(error) => {
                debug!(job_id = job.id.get(), %error, "GitHub could not be asked about the job");
                return Ok(gh::Status::Unknown);
            }
        };
        let status = view.status;
        if matches!(status, gh::Status::InProgress | gh::Status::Completed(_)) {
            let repo = message.repo.clone();
            let class = github::labels::class_key(&repo, &message.labels);
            let message = Some((JobMessage::clone(message), class));
            let account = Account { id: job.id, repo, view, message };
            self.account(&account).await?;
            if status == gh::Status::InProgress {
                // Nothing may have changed; that it was asked about has.
                self.see(job.id, status, None).await?;
            }
        } else {
            self.see(job.id, status, None).await?;
        }
        Ok(status)
    }

    /// Stores GitHub's answer, without any move.
    async fn see(&self, id: JobId, status: gh::Status, completed_at: Option<Timestamp>) -> Result<(), Error> {
        for _ in 0..TRIES {
            let Some(job) = self.ports.jobs.get(id).await? else { return Ok(()) };
            let at = domain::clock::whole_seconds(self.now());
            let new = Job { sighting: Some(domain::job::Sighting { status, at, completed_at }), ..job.clone() };
            if let Outcome::Applied(_) = self.ports.jobs.write(&job, new).await? {
                return Ok(());
            }
        }
        debug!(job_id = id.get(), "the sighting was not stored; the next one will be");
        Ok(())
    }
}
