//! What GitHub does with jobs and runners, as a state machine.
//!
//! No I/O, no clock, no tasks: every call says what time it is, chance comes from the generator given at the start,
//! and webhooks to be sent are values fetched with [`Model::take_webhooks`]. Time passes by [`Model::advance`];
//! [`Model::next_due`] says when that is next worth calling.
//!
//! What is modelled, because runs-fleet rests on it:
//!
//! * A queued job goes to **any** online idle runner of its repository whose labels cover it, compared without case;
//!   nothing binds a runner to the job it was minted for. A thieving runner (see [`Settings::theft`]) prefers a job
//!   that is *not* its own and waits a moment for one to turn up, because otherwise theft would be rare when
//!   runners start faster than jobs arrive.
//! * Every runner is just-in-time and ephemeral: exactly the labels asked for, one job, then the registration is
//!   gone. Names are unique per repository. Until its listener connects it reads `offline`.
//! * A concluded job is never handed out again. A re-run is a new job with a higher `run_attempt`, refused until the
//!   whole run is complete.
//! * A runner that is no longer heard of loses its job: GitHub concludes `failure` after
//!   [`Settings::runner_lost_after`].
//! * Deleting a registration stops the next hand-out, not the job already handed out.
//!
//! Properties: a job has at most one runner in its life, and a runner at most one job; each change of a job's status
//! emits exactly one webhook; the same seed, calls and instants give the same outputs.

mod counters;
mod deliveries;
mod jobs;
mod records;
mod runners;
mod view;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Rng, Timestamp};
use domain::gh::Conclusion;
use domain::ids::{InstallationId, JobId, Repo, RunId, RunnerId};

pub use counters::{Counters, JobReport, RunnerReport};
pub use deliveries::{Attempt, Delivery, Webhook};
pub use jobs::{JobSpec, RunFilter};
pub use records::{OwnerKind, Status};
pub use runners::{Assignment, Connect, JitConfig, JitRequest, Message};
pub use view::{Listing, Page, time};

use records::{Job, Repository, Run, Runner};

/// How this GitHub behaves. Intervals are divided by tests that are in a hurry.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Base URL of the REST API, without a trailing `/`; appears in answers and webhooks.
    pub api_url: String,
    /// The App's installation of the first account; other accounts have the following numbers.
    pub installation_id: InstallationId,
    /// The first id given to anything. A new GitHub on old stores must not repeat ids.
    pub first_id: u64,
    /// Probability in `[0, 1]` that a runner, when it connects, prefers another matching job to its own.
    pub theft: f64,
    /// How long a thieving runner waits for such a job before it takes its own.
    pub theft_patience: Duration,
    /// Silence after which a runner counts as lost.
    pub runner_lost_after: Duration,
    /// How long `busy` still reads `false`, and `DELETE` still succeeds, after a job began. GitHub: up to 60 s.
    pub busy_lag: Duration,
    /// How long a job may stay queued. GitHub: 24 h, then it concludes `failure`.
    pub queue_limit: Duration,
    /// Whether somebody asks for [`Model::take_news`] and [`Model::take_woken`].
    pub observed: bool,
    /// How long an ephemeral runner may stay disconnected before its registration is removed. GitHub: one day.
    pub offline_limit: Duration,
}

impl Settings {
    /// GitHub's own times, except that a lost runner is noticed after 10 s instead of some ten minutes.
    pub fn new(api_url: impl Into<String>, installation_id: InstallationId, first_id: u64) -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            api_url: api_url.into(),
            installation_id,
            first_id,
            theft: 0.15,
            theft_patience: Duration::from_secs(2),
            runner_lost_after: Duration::from_secs(10),
            busy_lag: Duration::ZERO,
            queue_limit: DAY,
            observed: false,
            offline_limit: DAY,
        }
    }
}

/// What happened to jobs, for those who watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A job waits for a runner.
    Queued(JobId),
    /// A runner has it; whether it was minted for another job.
    Began(JobId, RunnerId, bool),
    /// It ended; whether because GitHub lost its runner.
    Concluded(JobId, Conclusion, bool),
}

/// Why GitHub says no, by the HTTP status it says it with. The text is the answer's `message`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 403: not now, or not ever.
    #[error("{0}")]
    Forbidden(&'static str),
    /// 404: there is no such thing.
    #[error("Not Found")]
    NotFound,
    /// 409: the state is in the way.
    #[error("{0}")]
    Conflict(&'static str),
    /// 422: the request makes no sense, or the runner has a job.
    #[error("{0}")]
    Unprocessable(&'static str),
}

/// The state machine.
pub struct Model {
    settings: Settings,
    rng: Arc<dyn Rng>,
    last_id: u64,
    /// By lower-case full name.
    repositories: BTreeMap<String, Repository>,
    /// Accounts by lower-case name, in the order they came.
    owners: BTreeMap<String, u64>,
    runs: BTreeMap<RunId, Run>,
    /// Runs that are not complete, by repository, those that have any.
    active: BTreeMap<Repo, BTreeSet<RunId>>,
    jobs: BTreeMap<JobId, Job>,
    /// Jobs not yet concluded.
    open: BTreeSet<JobId>,
    /// Jobs without a runner; oldest first, because ids grow with time.
    queued: BTreeSet<JobId>,
    /// The same by repository, those that have any.
    waiting: BTreeMap<Repo, BTreeSet<JobId>>,
    /// Connected runners without a job, by repository, those that have any; the longest connected first.
    idle: BTreeMap<Repo, BTreeSet<(Timestamp, RunnerId)>>,
    /// Complete runs, oldest first: what is forgotten when there are too many.
    finished: VecDeque<RunId>,
    /// Registered runners, and those deregistered while a session or a job still holds them.
    runners: BTreeMap<RunnerId, Runner>,
    /// Those who hold a credential.
    holders: BTreeMap<String, RunnerId>,
    /// Registered runners by repository and lower-case name.
    names: BTreeMap<(Repo, String), RunnerId>,
    /// When to look after which runner; an entry that has become wrong changes nothing.
    agenda: BTreeSet<(Timestamp, RunnerId)>,
    log: VecDeque<Delivery>,
    outbox: Vec<Webhook>,
    woken: BTreeSet<RunnerId>,
    news: Vec<News>,
    counters: Counters,
    revision: u64,
}

/// Complete runs kept for questions about them.
const FINISHED_RUNS: usize = 5_000;

impl Model {
    /// A GitHub with nothing in it.
    pub fn new(settings: Settings, rng: Arc<dyn Rng>) -> Self {
        let last_id = settings.first_id.saturating_sub(1);
        Self {
            settings,
            rng,
            last_id,
            repositories: BTreeMap::new(),
            owners: BTreeMap::new(),
            runs: BTreeMap::new(),
            active: BTreeMap::new(),
            jobs: BTreeMap::new(),
            open: BTreeSet::new(),
            queued: BTreeSet::new(),
            waiting: BTreeMap::new(),
            idle: BTreeMap::new(),
            finished: VecDeque::new(),
            runners: BTreeMap::new(),
            holders: BTreeMap::new(),
            names: BTreeMap::new(),
            agenda: BTreeSet::new(),
            log: VecDeque::new(),
            outbox: Vec::new(),
            woken: BTreeSet::new(),
            news: Vec::new(),
            counters: Counters::default(),
            revision: 0,
        }
    }

    /// How it behaves.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Creates a repository the App is installed on. Again with the same name: nothing happens.
    pub fn add_repository(&mut self, repo: Repo, owner: OwnerKind) {
        let id = self.next_id();
        let key = repo.as_str().to_ascii_lowercase();
        let place = self.owners.len() as u64;
        self.owners.entry(repo.owner().to_ascii_lowercase()).or_insert(place);
        self.repositories.entry(key).or_insert(Repository { id, repo, owner });
    }

    /// Whether the repository exists, compared without case.
    pub fn has_repository(&self, repo: &Repo) -> bool {
        self.repository(repo).is_ok()
    }

    /// What kind of account owns repositories under this name.
    pub fn owner_kind(&self, login: &str) -> Option<OwnerKind> {
        self.repositories.values().find(|r| r.repo.owner().eq_ignore_ascii_case(login)).map(|r| r.owner)
    }

    /// Grows with every change that somebody may be waiting for.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// The webhooks caused since the last call, in the order of their causes. Whoever takes them sends them and
    /// reports each attempt to [`Model::record_attempt`].
    pub fn take_webhooks(&mut self) -> Vec<Webhook> {
        std::mem::take(&mut self.outbox)
    }

    /// Runners that [`Model::message`] may have something new for since the last call.
    pub fn take_woken(&mut self) -> BTreeSet<RunnerId> {
        std::mem::take(&mut self.woken)
    }

    /// What happened to jobs since the last call, in order.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// The installation an account's repositories belong to: every account has one.
    pub fn installation_of(&self, login: &str) -> InstallationId {
        let first = self.settings.installation_id;
        let place = self.owners.get(&login.to_ascii_lowercase()).copied().unwrap_or(0);
        InstallationId::new(first.get() + place).unwrap_or(first)
    }

    /// Every installation with the account it is on.
    pub fn installations(&self) -> BTreeMap<InstallationId, (&str, OwnerKind)> {
        self.repositories.values().map(|r| (self.installation_of(r.repo.owner()), (r.repo.owner(), r.owner))).collect()
    }

    /// Whether there is an installation of this number.
    pub fn has_installation(&self, id: InstallationId) -> bool {
        let place = id.get().checked_sub(self.settings.installation_id.get());
        place.is_some_and(|place| place < self.owners.len() as u64)
    }

    /// Lets time pass: lost runners, jobs queued for too long, registrations nobody used, thieves out of patience.
    pub fn advance(&mut self, now: Timestamp) {
        self.expire_jobs(now);
        self.look_after_runners(now);
        let waited_for = |repo: &&Repo| self.waiting.contains_key(*repo);
        for repo in self.idle.keys().filter(waited_for).cloned().collect::<Vec<_>>() {
            self.assign(&repo, now);
        }
    }

    /// When time alone will next change something, as far as is known at `now`.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.jobs_due().into_iter().chain(self.runners_due(now)).min()
    }

    /// Bookkeeping of who waits: after every change of a runner's registration, session or job.
    fn sort_in(&mut self, id: RunnerId) {
        let Some(runner) = self.runners.get(&id) else { return };
        let Some(since) = runner.session.as_ref().map(|s| s.since) else { return };
        if runner.is_free() {
            self.idle.entry(runner.repo.clone()).or_default().insert((since, id));
        } else {
            take_out(&mut self.idle, &runner.repo, &(since, id));
        }
    }

    /// A job has a runner, or an end.
    fn no_longer_waits(&mut self, repo: &Repo, id: JobId) {
        self.queued.remove(&id);
        take_out(&mut self.waiting, repo, &id);
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn repository(&self, repo: &Repo) -> Result<&Repository, Refusal> {
        self.repositories.get(&repo.as_str().to_ascii_lowercase()).ok_or(Refusal::NotFound)
    }

    fn tell(&mut self, news: News) {
        if self.settings.observed {
            self.news.push(news);
        }
    }

    fn wake(&mut self, runner: RunnerId) {
        if self.settings.observed {
            self.woken.insert(runner);
        }
    }

    fn changed(&mut self) {
        self.revision += 1;
    }
}

fn take_out<T: Ord>(of_repos: &mut BTreeMap<Repo, BTreeSet<T>>, repo: &Repo, member: &T) {
    if let Some(members) = of_repos.get_mut(repo) {
        members.remove(member);
        if members.is_empty() {
            of_repos.remove(repo);
        }
    }
}
