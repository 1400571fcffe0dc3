//! Runners: registration, the session of a listener, and who gets which job.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::clock::{Timestamp, after};
use domain::gh::Conclusion;
use domain::ids::{JobId, Repo, RunnerId};

use super::records::{Job, Runner, Served, Session, Status};
use super::{Model, News, Refusal};

/// The body of `generate-jitconfig`.
#[derive(Debug, Clone)]
pub struct JitRequest {
    /// 1 to 64 characters, unique in the repository.
    pub name: String,
    /// 1 is "Default".
    pub runner_group_id: u64,
    /// 1 to 100, each 1 to 256 characters. The runner gets exactly these.
    pub labels: Vec<String>,
}

/// A registration that exists now, whether or not its answer arrives.
#[derive(Clone)]
pub struct JitConfig {
    /// The registration.
    pub runner_id: RunnerId,
    /// What the listener connects with. A secret, as far as a simulation has any.
    pub credential: String,
}

/// What a listener says of itself when it connects.
#[derive(Debug, Clone, Copy, Default)]
pub struct Connect {
    /// Its process.
    pub pid: Option<u32>,
    /// When that process began, epoch milliseconds.
    pub process_started_ms: Option<u64>,
    /// It is alive until [`Model::falls_silent`] says otherwise: no need to be heard of.
    pub attended: bool,
}

/// A job handed to a runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The job.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// How long its steps take.
    pub duration: Duration,
    /// How they end.
    pub outcome: Conclusion,
}

/// What GitHub has to say to a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Nothing yet.
    Nothing,
    /// Run this.
    Job(Assignment),
    /// Stop the job.
    Cancel,
    /// There is nothing left to do here: the registration is gone, and no job holds it.
    Gone,
}

impl Model {
    /// `POST …/actions/runners/generate-jitconfig`.
    ///
    /// # Errors
    /// `NotFound` without the repository, `Unprocessable` against GitHub's limits, `Conflict` for a name in use.
    pub fn generate_jitconfig(
        &mut self,
        repo: &Repo,
        request: JitRequest,
        now: Timestamp,
    ) -> Result<JitConfig, Refusal> {
        let repo = self.repository(repo)?.repo.clone();
        let JitRequest { name, runner_group_id: group_id, labels } = request;
        if name.is_empty() || name.chars().count() > 64 {
            return Err(Refusal::Unprocessable("name must have 1 to 64 characters"));
        }
        if labels.is_empty() || labels.len() > 100 {
            return Err(Refusal::Unprocessable("labels must have 1 to 100 items"));
        }
        if labels.iter().any(|l| l.is_empty() || l.chars().count() > 256) {
            return Err(Refusal::Unprocessable("a label must have 1 to 256 characters"));
        }
        let place = (repo.clone(), name.to_lowercase());
        if self.names.contains_key(&place) {
            return Err(Refusal::Conflict("Already exists"));
        }
        let id = RunnerId::new(self.next_id()).ok_or(Refusal::Unprocessable("ids exhausted"))?;
        let credential = self.rng.token();
        let covers = labels.iter().map(|l| l.to_lowercase()).collect();
        let (offline_since, session, job) = (now, None, None);
        let runner = Runner {
            id,
            repo,
            name,
            group_id,
            labels,
            covers,
            credential: credential.clone(),
            registered: true,
            offline_since,
            session,
            job,
        };
        self.runners.insert(id, runner);
        self.names.insert(place, id);
        self.holders.insert(credential.clone(), id);
        self.agenda.insert((after(now, self.settings.offline_limit), id));
        self.counters.registered += 1;
        self.changed();
        Ok(JitConfig { runner_id: id, credential })
    }

    /// `DELETE …/actions/runners/{id}`. A job already handed out goes on.
    ///
    /// # Errors
    /// `NotFound`; `Unprocessable` while it shows as busy.
    pub fn delete_runner(&mut self, repo: &Repo, id: RunnerId, now: Timestamp) -> Result<(), Refusal> {
        let runner = self.runner_in(repo, id)?;
        if runner.shows_busy(now, self.settings.busy_lag) {
            return Err(Refusal::Unprocessable("Runner is currently running a job and cannot be deleted."));
        }
        self.deregister(id);
        Ok(())
    }

    /// A listener connects with the credential of its registration.
    ///
    /// # Errors
    /// `NotFound` when the registration is gone; `Conflict` while another listener has a session.
    pub fn connect(&mut self, credential: &str, hello: Connect, now: Timestamp) -> Result<RunnerId, Refusal> {
        let id = self.session_of(credential).filter(|r| r.registered).ok_or(Refusal::NotFound)?.id;
        let thief = self.rng.unit() < self.settings.theft;
        let runner = self.runners.get_mut(&id).ok_or(Refusal::NotFound)?;
        if runner.session.is_some() {
            return Err(Refusal::Conflict("A session for this runner already exists."));
        }
        let Connect { pid, process_started_ms, attended } = hello;
        let seen_at = (!attended).then_some(now);
        runner.session = Some(Session { since: now, seen_at, thief, pid, process_started_ms });
        let repo = runner.repo.clone();
        let due = if attended { None } else { Some(after(now, self.settings.runner_lost_after)) };
        self.agenda.extend(due.map(|due| (due, id)));
        if thief {
            self.agenda.insert((after(now, self.settings.theft_patience), id));
        }
        self.sort_in(id);
        self.changed();
        self.assign(&repo, now);
        Ok(id)
    }

    /// The listener is alive: keeps its session from being lost.
    pub fn heard(&mut self, credential: &str, now: Timestamp) {
        let id = self.session_of(credential).map(|r| r.id);
        if let Some(session) = id.and_then(|id| self.runners.get_mut(&id)).and_then(|r| r.session.as_mut()) {
            session.seen_at = session.seen_at.map(|at| at.max(now));
        }
    }

    /// The listener's machine is gone: from now on nobody hears of it.
    pub fn falls_silent(&mut self, credential: &str, now: Timestamp) {
        let Some(id) = self.session_of(credential).map(|r| r.id) else { return };
        if let Some(session) = self.runners.get_mut(&id).and_then(|r| r.session.as_mut()) {
            session.seen_at = Some(now);
            self.agenda.insert((after(now, self.settings.runner_lost_after), id));
            self.changed();
        }
    }

    /// The registration a credential belongs to.
    pub fn holder(&self, credential: &str) -> Option<RunnerId> {
        self.holders.get(credential).copied()
    }

    /// A runner's name, while GitHub knows it.
    pub fn runner_name(&self, id: RunnerId) -> Option<&str> {
        self.runners.get(&id).map(|r| r.name.as_str())
    }

    /// What the listener must hear, given the job it says it is running. Asking again gives the same answer, so a
    /// lost one costs nothing.
    pub fn message(&self, credential: &str, running: Option<JobId>) -> Message {
        let Some(runner) = self.session_of(credential).filter(|r| r.session.is_some()) else { return Message::Gone };
        let assigned = runner.job.and_then(|(id, _)| self.jobs.get(&id));
        match (assigned, running) {
            (Some(job), Some(running)) if job.id == running && job.cancel_requested => Message::Cancel,
            (Some(job), Some(running)) if job.id == running => Message::Nothing,
            (Some(job), None) => Message::Job(Assignment {
                id: job.id,
                name: job.name.clone(),
                duration: job.duration,
                outcome: job.outcome,
            }),
            (None, None) if runner.registered => Message::Nothing,
            _ => Message::Gone,
        }
    }

    /// The listener reports the end of its job.
    ///
    /// # Errors
    /// `NotFound` when GitHub does not think it is running that job (any more).
    pub fn complete(
        &mut self,
        credential: &str,
        id: JobId,
        conclusion: Conclusion,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let runner = self.session_of(credential).ok_or(Refusal::NotFound)?;
        if runner.job.map(|(job, _)| job) != Some(id) {
            return Err(Refusal::NotFound);
        }
        self.conclude(id, conclusion, false, now);
        Ok(())
    }

    /// The listener says goodbye. The registration stays (GitHub keeps it for a day); a job it still has is lost.
    pub fn disconnect(&mut self, credential: &str, now: Timestamp) {
        if let Some(id) = self.session_of(credential).map(|r| r.id) {
            self.lose(id, now);
        }
    }

    pub(super) fn runner_in(&self, repo: &Repo, id: RunnerId) -> Result<&Runner, Refusal> {
        let of_repo = |r: &&Runner| r.registered && r.repo.as_str().eq_ignore_ascii_case(repo.as_str());
        self.runners.get(&id).filter(of_repo).ok_or(Refusal::NotFound)
    }

    /// Ephemeral: with the job end registration and session.
    pub(super) fn finish_runner(&mut self, id: RunnerId, now: Timestamp) {
        if let Some(runner) = self.runners.get_mut(&id) {
            (runner.job, runner.session) = (None, None);
            runner.offline_since = now;
            self.deregister(id);
        }
    }

    /// Runners whose time has come: silent ones are lost, registrations nobody used are removed.
    pub(super) fn look_after_runners(&mut self, now: Timestamp) {
        while let Some((at, id)) = self.agenda.first().copied()
            && at <= now
        {
            self.agenda.pop_first();
            let Some(due) = self.runner_due(id) else { continue };
            if due > now {
                self.agenda.insert((due, id));
            } else if self.runners.get(&id).is_some_and(|r| r.session.is_some()) {
                self.lose(id, now);
            } else {
                self.deregister(id);
            }
        }
    }

    /// When a runner is lost, or its registration removed, if nothing changes.
    fn runner_due(&self, id: RunnerId) -> Option<Timestamp> {
        let runner = self.runners.get(&id)?;
        match &runner.session {
            Some(session) => session.seen_at.map(|at| after(at, self.settings.runner_lost_after)),
            None => Some(after(runner.offline_since, self.settings.offline_limit)),
        }
    }

    pub(super) fn runners_due(&self, now: Timestamp) -> Option<Timestamp> {
        // Wrong entries only wake early.
        self.agenda.first().map(|(at, _)| (*at).max(now))
    }

    /// Hands a repository's queued jobs to its free runners, the longest-waiting runner first.
    pub(super) fn assign(&mut self, repo: &Repo, now: Timestamp) {
        if !self.waiting.contains_key(repo) {
            return;
        }
        let free: Vec<RunnerId> = self.idle.get(repo).into_iter().flatten().map(|(_, id)| *id).collect();
        for id in free {
            if let Some(job) = self.choose(id, now) {
                self.begin(job, id, now);
            }
        }
    }

    /// The job this runner takes now: its own, else the oldest that it covers. A thief takes any other one if there
    /// is one, and waits for one before it settles for what an honest runner would take.
    fn choose(&self, id: RunnerId, now: Timestamp) -> Option<JobId> {
        let runner = self.runners.get(&id)?;
        let session = runner.session.as_ref()?;
        let fits = |job: &&Job| job.needs.is_subset(&runner.covers);
        let queued = self.waiting.get(&runner.repo)?;
        let candidates = || queued.iter().filter_map(|id| self.jobs.get(id)).filter(fits);
        let minted_for = |job: &&Job| runner.minted_for() == Some(job.suffix().as_str());
        let own = runner.minted_for().and_then(|own| ending_in(queued, own));
        let own = own.and_then(|id| self.jobs.get(&id)).filter(minted_for).filter(fits);
        let honest = own.or_else(|| candidates().next())?.id;
        if !session.thief {
            return Some(honest);
        }
        let others: Vec<JobId> = candidates().map(|j| j.id).filter(|j| *j != honest).collect();
        if others.is_empty() {
            let waited = after(session.since, self.settings.theft_patience) <= now;
            return waited.then_some(honest);
        }
        let pick = self.rng.next_u64() % others.len() as u64;
        others.get(usize::try_from(pick).unwrap_or(0)).copied()
    }

    fn begin(&mut self, job_id: JobId, runner_id: RunnerId, now: Timestamp) {
        let (Some(job), Some(runner)) = (self.jobs.get_mut(&job_id), self.runners.get_mut(&runner_id)) else { return };
        debug_assert!(job.status() == Status::Queued && runner.is_free(), "only queued jobs, only free runners");
        let process_started_ms = runner.session.as_ref().and_then(|s| s.process_started_ms);
        job.served = Some(Served { id: runner_id, name: runner.name.clone(), process_started_ms, at: now });
        runner.job = Some((job_id, now));
        let stolen = runner.minted_for().is_some_and(|own| own != job.suffix());
        let repo = runner.repo.clone();
        self.no_longer_waits(&repo, job_id);
        self.sort_in(runner_id);
        self.wake(runner_id);
        self.tell(News::Began(job_id, runner_id, stolen));
        self.counters.stolen += u64::from(stolen);
        self.emit_job(job_id);
    }

    /// The listener is gone. A job it had fails.
    fn lose(&mut self, id: RunnerId, now: Timestamp) {
        let Some(runner) = self.runners.get_mut(&id) else { return };
        if let Some(session) = runner.session.take() {
            super::take_out(&mut self.idle, &runner.repo, &(session.since, id));
        }
        runner.offline_since = now;
        let (registered, job) = (runner.registered, runner.job);
        self.agenda.insert((after(now, self.settings.offline_limit), id));
        self.wake(id);
        match job {
            Some((job, _)) => {
                let cancelled = self.jobs.get(&job).is_some_and(|j| j.cancel_requested);
                let conclusion = if cancelled { Conclusion::Cancelled } else { Conclusion::Failure };
                self.conclude(job, conclusion, !cancelled, now);
            }
            None if !registered => self.forget_runner(id),
            None => {}
        }
        self.changed();
    }

    /// Takes the registration away; forgets the runner when neither a session nor a job still needs it.
    fn deregister(&mut self, id: RunnerId) {
        if let Some(runner) = self.runners.get_mut(&id) {
            runner.registered = false;
            let over = runner.session.is_none() && runner.job.is_none();
            self.names.remove(&(runner.repo.clone(), runner.name.to_lowercase()));
            self.wake(id);
            self.sort_in(id);
            if over {
                self.forget_runner(id);
            }
            self.changed();
        }
    }

    fn forget_runner(&mut self, id: RunnerId) {
        if let Some(runner) = self.runners.remove(&id) {
            self.holders.remove(&runner.credential);
        }
    }

    fn session_of(&self, credential: &str) -> Option<&Runner> {
        self.runners.get(self.holders.get(credential)?)
    }
}

/// The oldest of the jobs whose id ends in these six digits.
fn ending_in(jobs: &BTreeSet<JobId>, digits: &str) -> Option<JobId> {
    const SPAN: u64 = 1_000_000;
    let end = digits.parse::<u64>().ok()? % SPAN;
    let (first, last) = (jobs.first()?.get(), jobs.last()?.get());
    let start = first - first % SPAN + end;
    (start..=last).step_by(SPAN as usize).filter_map(JobId::new).find(|id| jobs.contains(id))
}
