//! What every part of dispatch works with: the ports, the settings, and the news it makes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use db::{Jobs, Markers, Runners};
use domain::clock::{Clock, Rng, Timestamp};
use domain::ids::{JobId, Repo, RunnerKey};
use domain::job::Job;
use domain::job::apply::Context;
use domain::timings::Timings;
use github::client::Client;
use github::labels::Aliases;
use github::mint;
use lru::LruCache;
use pools::WarmPools;
use provider::{Compute, HandOver};
use queue::Queue;
use telemetry::Metrics;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::batch::{Batcher, Limits};
use crate::cache::CacheAccess;
use crate::pace::Pace;
use crate::tokens::ReportTokens;

/// Everything outside the process that dispatch talks to.
pub struct Ports {
    /// Job records.
    pub jobs: Jobs,
    /// Runner records.
    pub runners: Runners,
    /// Small rows: re-run markers, active repositories, pass times.
    pub markers: Markers,
    /// Wake-ups.
    pub main: Arc<dyn Queue>,
    /// Where wake-ups end that were delivered in vain too often. `None`: they are nobody's to look at.
    pub dead_letters: Option<Arc<dyn Queue>>,
    /// Machines.
    pub compute: Arc<dyn Compute>,
    /// Machines that wait for jobs. `None`: every job gets a fresh one, whatever pool its label names.
    pub pools: Option<Arc<WarmPools>>,
    /// Where machines find what they are to become.
    pub hand_over: Arc<dyn HandOver>,
    /// GitHub.
    pub github: Arc<Client>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: Arc<dyn Rng>,
    /// Numbers for operators.
    pub metrics: Metrics,
}

/// What operators decide.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Every interval.
    pub timings: Timings,
    /// Who we are, in leases: replica and boot.
    pub owner: String,
    /// Labels of other runner systems that we serve.
    pub aliases: Aliases,
    /// Repositories we serve (`owner/name` or `owner/*`); empty means all.
    pub allowed_repos: Vec<String>,
    /// Jobs of one repository dispatched per minute; more wait their turn. Zero is no limit.
    pub jobs_per_minute: u32,
    /// How machines become runners.
    pub registration: mint::Registration,
    /// Ask GitHub to re-run jobs whose machine we lost.
    pub rerun_interrupted: bool,
    /// Runtime ceiling of a job.
    pub max_runtime: Duration,
    /// What every hand-over says.
    pub hand_over: mint::Settings,
    /// Most jobs launched by one request; at least 1.
    pub batch_max: usize,
    /// How long a job's launch waits for others like it.
    pub batch_linger: Duration,
    /// What proves that a report comes from the machine it names; every hand-over then carries a token.
    pub report_tokens: Option<ReportTokens>,
    /// How hand-overs let jobs into the Actions cache; `None`: there is none.
    pub cache: Option<Arc<CacheAccess>>,
    /// Refuse reports without a token.
    pub require_report_token: bool,
    /// Our account at the provider, where events name one. `None`: any account's events are taken for ours.
    pub account: Option<String>,
}

impl Settings {
    /// Most jobs launched by one request, unless an operator says otherwise.
    pub const BATCH_MAX: usize = 50;
    /// Wait for company, unless an operator says otherwise.
    pub const BATCH_LINGER: Duration = Duration::from_millis(100);
}

/// A change somebody may want to see at once: the page, other loops of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A job's record changed.
    Job {
        /// Which.
        id: JobId,
        /// The stored word of its state.
        state: &'static str,
    },
    /// A runner's record or machine changed.
    Runner {
        /// Which.
        key: RunnerKey,
        /// The stored word of its state.
        state: &'static str,
    },
    /// A job of ours was refused because of its labels.
    Rejected(Rejected),
}

/// A job that carries our label but cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// When.
    pub at: Timestamp,
    /// Which.
    pub id: JobId,
    /// Where.
    pub repo: Repo,
    /// Its labels.
    pub labels: Vec<String>,
    /// The label parser's category.
    pub category: &'static str,
}

/// How many rejected jobs are kept for the page, for how long.
const REJECTED_KEPT: usize = 200;
const REJECTED_FOR: Duration = Duration::from_secs(24 * 3600);

/// Events of the cloud that are remembered as handled, for how long. What they lead to is repeatable: this only saves work.
const HEARD_KEPT: usize = 10_000;
const HEARD_FOR: Duration = Duration::from_secs(3600);

/// How often a repository is marked as alive.
const ACTIVE_MARK: Duration = Duration::from_secs(3600);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Dispatch: the life of a job. Cheap to share; every method may run on any number of tasks and replicas at once.
pub struct Dispatch {
    pub(crate) ports: Ports,
    pub(crate) settings: Settings,
    pub(crate) batcher: Arc<Batcher>,
    pub(crate) draining: CancellationToken,
    heard: Mutex<LruCache<String, Timestamp>>,
    news: broadcast::Sender<News>,
    rejected: Mutex<VecDeque<Rejected>>,
    active: Mutex<BTreeMap<Repo, Timestamp>>,
    pace: Mutex<Pace>,
}

impl Dispatch {
    /// Brings ports and settings together.
    pub fn new(ports: Ports, settings: Settings) -> Arc<Self> {
        let (news, _) = broadcast::channel(1024);
        let limits = Limits {
            max: settings.batch_max,
            linger: settings.batch_linger,
            grace: settings.timings.cleanup,
            spare: settings.timings.process,
        };
        Arc::new_cyclic(|dispatch| {
            let (compute, rng) = (Arc::clone(&ports.compute), Arc::clone(&ports.rng));
            let batcher = Batcher::new(compute, rng, ports.metrics.clone(), limits, Weak::clone(dispatch));
            Self {
                ports,
                settings,
                batcher,
                draining: CancellationToken::new(),
                heard: Mutex::new(LruCache::unbounded()),
                news,
                rejected: Mutex::default(),
                active: Mutex::default(),
                pace: Mutex::default(),
            }
        })
    }

    /// The process is about to end: attempts that have not asked for a machine give their jobs back, so that another
    /// replica takes them at once; launches that wait for company go. Attempts that have asked finish.
    pub fn drain(&self) {
        self.draining.cancel();
        self.batcher.close();
    }

    /// Waits for launches under way, and for machines that are being given to other jobs. Call once no consumer runs
    /// any more; what is cut off here is found by the sweeps.
    pub async fn finish(&self) {
        self.drain();
        self.batcher.finish().await;
    }

    /// The ports, for the crates above.
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A stream of changes; a slow reader loses the oldest.
    pub fn news(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    /// Jobs refused for their labels in the last day, newest first.
    pub fn rejected(&self) -> Vec<Rejected> {
        let mut kept = lock(&self.rejected);
        let now = self.now();
        kept.retain(|r| domain::clock::since(now, r.at) < REJECTED_FOR);
        kept.iter().rev().cloned().collect()
    }

    pub(crate) fn reject(&self, rejected: Rejected) {
        let mut kept = lock(&self.rejected);
        kept.retain(|r| r.id != rejected.id);
        if kept.len() == REJECTED_KEPT {
            kept.pop_front();
        }
        kept.push_back(rejected.clone());
        drop(kept);
        self.tell(News::Rejected(rejected));
    }

    /// Remembers that a repository is alive, so that its queued jobs are scanned. One write an hour is enough for a mark
    /// that lasts for days.
    pub(crate) async fn saw_job_of(&self, repo: &Repo) {
        let now = self.now();
        let known = lock(&self.active).get(repo).is_some_and(|at| domain::clock::since(now, *at) < ACTIVE_MARK);
        if !known && self.ports.markers.saw_job_of(repo).await.is_ok() {
            let mut active = lock(&self.active);
            active.retain(|_, at| domain::clock::since(now, *at) < ACTIVE_MARK);
            active.insert(repo.clone(), now);
        }
    }

    /// How long a new job waits its turn: behind others of its repository, if operators limit those, and of its account.
    pub(crate) fn turn(&self, job: &Job) -> Duration {
        let Some(message) = &job.message else { return Duration::ZERO };
        let (now, mut pace) = (self.now(), lock(&self.pace));
        // A sixth is left for what else changes something at GitHub: runners deregistered, jobs re-run, second tries.
        let changes = self.ports.github.changes_per_minute();
        let of_repo = pace.wait(message.repo.as_str(), self.settings.jobs_per_minute as usize, now);
        of_repo.max(pace.wait(message.repo.owner(), changes - changes / 6, now))
    }

    /// Whether an event of the cloud was handled by this process already.
    pub(crate) fn has_heard(&self, event: &str) -> bool {
        let now = self.now();
        lock(&self.heard).get(event).is_some_and(|at| domain::clock::since(now, *at) < HEARD_FOR)
    }

    pub(crate) fn heard(&self, event: &str) {
        let now = self.now();
        let mut heard = lock(&self.heard);
        heard.put(event.to_owned(), now);
        if heard.len() > HEARD_KEPT {
            heard.pop_lru();
        }
    }

    pub(crate) fn tell(&self, news: News) {
        // Nobody listening is fine.
        let _ = self.news.send(news);
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.ports.clock.now()
    }

    /// What pure functions need to know of the world, now.
    pub(crate) fn cx(&self) -> Context<'_> {
        Context {
            now: self.now(),
            timings: &self.settings.timings,
            chance: self.ports.rng.unit(),
            rerun_enabled: self.settings.rerun_interrupted,
        }
    }

    /// Whether operators let us serve this repository.
    pub(crate) fn serves(&self, repo: &Repo) -> bool {
        self.settings.allowed_repos.is_empty()
            || self.settings.allowed_repos.iter().any(|allowed| match allowed.split_once('/') {
                Some((owner, "*")) => owner.eq_ignore_ascii_case(repo.owner()),
                _ => allowed.eq_ignore_ascii_case(repo.as_str()),
            })
    }
}

/// Why a step of dispatch could not be taken, by what its caller must do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store did not answer. Nothing is known; try again later.
    #[error(transparent)]
    Store(#[from] db::Error),
    /// The queue did not take the message. The record's outbox will send it.
    #[error(transparent)]
    Queue(#[from] queue::Error),
    /// Others kept changing the same rows. Try again later.
    #[error("the record kept changing under us")]
    Contended,
    /// GitHub did not answer.
    #[error(transparent)]
    GitHub(#[from] github::client::Error),
    /// The provider did not answer.
    #[error(transparent)]
    Compute(#[from] provider::compute::Error),
    /// The hand-over store did not answer.
    #[error(transparent)]
    HandOver(#[from] provider::handover::Error),
}
