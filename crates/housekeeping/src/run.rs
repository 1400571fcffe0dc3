//! One run of a task: its lock, its budget, what it reports.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coordinator::Leadership;
use db::tasks::{Ended, TaskRow, Trigger};
use db::{Fence, Outcome};
use domain::ids::{JobId, PoolName};
use serde::Serialize;
use telemetry::metrics::{FencedRow, HousekeepingAction, RunResult};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::context::{Error, Housekeeping};
use crate::task::Task;

/// How long a run takes new steps.
const BUDGET: Duration = Duration::from_secs(240);
/// How long the step under way may take after that.
const GRACE: Duration = Duration::from_secs(60);
/// How long a crashed run keeps its task from running.
const LOCK: Duration = Duration::from_secs(360);
/// No step begins unless leadership lasts this long: what it starts must end before a successor can act.
const STEP: Duration = Duration::from_secs(15);
/// Ids a report names.
const NAMED: usize = 1000;

/// What is asked of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ask {
    /// Look and tell, and change nothing.
    pub dry_run: bool,
    /// Act on so many things at most.
    pub max_items: Option<usize>,
    /// Only this pool.
    pub pool: Option<PoolName>,
    /// Only this job.
    pub job: Option<JobId>,
    /// Who asked, for the log.
    pub requested_by: Option<String>,
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Things looked at.
    pub seen: usize,
    /// Things acted upon; in a dry run, that would be.
    pub acted: usize,
    /// Things left alone because nobody could tell.
    pub unknown: usize,
    /// Things left for the next run because a budget was spent; at least.
    pub deferred: usize,
    /// Things whose step failed.
    pub failed: usize,
    /// The first failure, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// Some of what was acted upon, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub items: BTreeMap<String, &'static str>,
    /// Something an operator should know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
    #[serde(skip)]
    throttled: bool,
    #[serde(skip)]
    timed_out: bool,
}

impl Report {
    /// How a run that was not told to stop ended.
    fn end(&self) -> Ended {
        let why = if self.throttled {
            format!("throttled: {}", self.first_error.as_deref().unwrap_or("GitHub asked us to wait"))
        } else if let Some(first) = &self.first_error {
            format!("{} of {}: {first}", self.failed, self.seen)
        } else if self.timed_out {
            "out of time".to_owned()
        } else {
            return Ended::Success;
        };
        Ended::Failed { why, barren: self.seen <= self.failed }
    }
}

/// What came of asking for a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ran {
    /// Somebody else runs the task.
    Locked,
    /// It is not needed any more: somebody else ran it.
    Needless,
    /// We lead no more.
    Deposed,
    /// It ran.
    Ended(Ended, Report),
}

/// Until when a run takes new steps.
struct Stop {
    leadership: Option<Leadership>,
    tokens: Vec<CancellationToken>,
    until: Instant,
}

impl Stop {
    fn told(&self) -> bool {
        let deposed = self.leadership.as_ref().is_some_and(|l| l.check().is_err() || !l.lasts(STEP));
        deposed || self.tokens.iter().any(CancellationToken::is_cancelled)
    }
}

/// A run, as its task sees it: asks before every step whether to go on, and reports every thing it looks at once.
pub(crate) struct Run<'a> {
    pub(crate) keeper: &'a Housekeeping,
    pub(crate) task: Task,
    pub(crate) ask: &'a Ask,
    stop: Stop,
    report: Mutex<Report>,
}

impl Run<'_> {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another step may begin.
    pub(crate) fn goes_on(&self) -> bool {
        if Instant::now() >= self.stop.until {
            self.report().timed_out = true;
        }
        let report = self.report();
        !report.timed_out && !report.throttled && !self.stop.told()
    }

    /// The term it runs in, if a leader runs it.
    pub(crate) const fn leadership(&self) -> Option<&Leadership> {
        self.stop.leadership.as_ref()
    }

    /// What rows are fenced with, if a leader runs it.
    pub(crate) fn fence(&self) -> Option<Fence> {
        self.stop.leadership.as_ref().map(Leadership::fence)
    }

    /// How many things to act upon, out of a budget.
    pub(crate) fn budget(&self, budget: usize) -> usize {
        self.ask.max_items.map_or(budget, |most| most.min(budget))
    }

    /// So many things are left for the next run.
    pub(crate) fn deferred(&self, things: usize) {
        self.report().deferred += things;
    }

    /// A thing was looked at and is as it should be.
    pub(crate) fn kept(&self) {
        self.report().seen += 1;
    }

    /// A thing was looked at, and nobody can tell.
    pub(crate) fn unknown(&self, id: &str) {
        debug!(task = self.task.name(), id, "cannot tell; left alone");
        let mut report = self.report();
        report.seen += 1;
        report.unknown += 1;
        drop(report);
        if !self.ask.dry_run {
            self.keeper.metrics().housekeeping_unknown(self.task.name());
        }
    }

    /// A thing was acted upon; in a dry run, would have been.
    pub(crate) fn acted(&self, action: Option<HousekeepingAction>, id: &str, why: &'static str) {
        let mut report = self.report();
        report.seen += 1;
        report.acted += 1;
        if report.items.len() < NAMED {
            report.items.insert(id.to_owned(), why);
        }
        drop(report);
        if !self.ask.dry_run {
            info!(event = "housekeeping_action", task = self.task.name(), id, why, "settled");
            if let Some(action) = action {
                self.keeper.metrics().housekeeping_actions(action);
            }
        }
    }

    /// A look or an act failed.
    pub(crate) fn failed(&self, id: &str, error: &Error) {
        debug!(task = self.task.name(), id, %error, "a step failed; the next run tries again");
        let mut report = self.report();
        report.seen += 1;
        report.failed += 1;
        report.throttled |= error.is_throttling();
        report
            .first_error
            .get_or_insert_with(|| if id.is_empty() { error.to_string() } else { format!("{id}: {error}") });
    }

    /// Something an operator should know.
    pub(crate) fn note(&self, note: &'static str) {
        self.report().note = Some(note);
    }

    /// What a sweep of dispatch did.
    pub(crate) fn swept(&self, swept: dispatch::sweeps::Swept, action: Option<HousekeepingAction>) {
        let mut report = self.report();
        report.seen += swept.seen;
        report.acted += swept.acted;
        report.failed += swept.failed;
        report.deferred += swept.deferred;
        report.throttled |= swept.throttled;
        report.first_error = report.first_error.take().or(swept.first_error);
        report.items.extend(swept.candidates.into_iter().take(NAMED).map(|id| (id, "would be looked into")));
        drop(report);
        if let Some(action) = action.filter(|_| !self.ask.dry_run) {
            (0..swept.acted).for_each(|_| self.keeper.metrics().housekeeping_actions(action));
        }
    }
}

impl Housekeeping {
    /// Looks and tells what a run would do, without a lock.
    pub async fn rehearse(&self, task: Task, ask: &Ask, stop: CancellationToken) -> Report {
        let ask = Ask { dry_run: true, ..ask.clone() };
        let (_, report) = self.execute(task, &ask, None, vec![stop]).await;
        report
    }

    /// Runs a task under its lock, if it is `needed` by what its row says then. Waits for nobody.
    ///
    /// # Errors
    /// The store did not answer before the run began.
    pub async fn run(
        &self,
        task: Task,
        ask: &Ask,
        trigger: Trigger,
        leadership: Option<Leadership>,
        stop: Vec<CancellationToken>,
        needed: impl Fn(&TaskRow) -> bool + Send + Sync,
    ) -> Result<Ran, db::Error> {
        let name = task.name();
        let (locks, rows) = (&self.ports.locks, &self.ports.tasks);
        let owner = format!("{}/{}", self.settings.owner, self.rng().token());
        let lock = self.short(LOCK).max(Duration::from_secs(2));
        let Outcome::Applied(held) = locks.task(name, &owner, lock).await? else {
            self.metrics().housekeeping_runs(name, RunResult::SkippedLock);
            return Ok(Ran::Locked);
        };
        let fence: Option<Fence> = leadership.as_ref().map(Leadership::fence);
        let begin = async {
            if !needed(&rows.get(name).await?) {
                return Ok(Some(Ran::Needless));
            }
            Ok::<_, db::Error>(match rows.started(name, &held, trigger, fence).await? {
                Outcome::Applied(()) => None,
                Outcome::Lost => {
                    self.passed(name, leadership.as_ref(), fence).await;
                    Some(Ran::Deposed)
                }
            })
        };
        match begin.await {
            Ok(None) => {}
            ended => {
                locks.release_task(name, &held).await?;
                return ended.map(|ran| ran.unwrap_or(Ran::Needless));
            }
        }
        let began = self.now();
        let (end, report) = self.execute(task, ask, leadership.clone(), stop).await;
        let result = match &end {
            Ended::Success => RunResult::Ok,
            Ended::Failed { .. } if report.throttled => RunResult::Throttled,
            Ended::Failed { .. } => RunResult::Error,
            Ended::Aborted => RunResult::Aborted,
        };
        self.metrics().housekeeping_runs(name, result);
        if report.deferred > 0 {
            self.metrics().housekeeping_deferred(name);
        }
        tell(task, ask, trigger, &end, &report);
        match rows.ended(name, &held, began, &end, fence).await {
            Ok(Outcome::Applied(())) => {}
            // A later leader, or whoever took the lock over, speaks for the task now.
            Ok(Outcome::Lost) => {
                self.passed(name, leadership.as_ref(), fence).await;
                locks.release_task(name, &held).await?;
            }
            Err(error) => warn!(task = name, %error, "how the run ended could not be noted; its lock ends by itself"),
        }
        Ok(Ran::Ended(end, report))
    }

    /// A write was lost: tells the leader if a later one has been here.
    async fn passed(&self, task: &str, leadership: Option<&Leadership>, fence: Option<Fence>) {
        if let (Some(leadership), Some(fence)) = (leadership, fence)
            && self.ports.tasks.is_passed(task, fence).await.unwrap_or(false)
        {
            leadership.rejected(FencedRow::Task);
        }
    }

    async fn execute(
        &self,
        task: Task,
        ask: &Ask,
        leadership: Option<Leadership>,
        tokens: Vec<CancellationToken>,
    ) -> (Ended, Report) {
        let (budget, grace) = (self.short(BUDGET), self.short(GRACE));
        let stop = Stop { leadership, tokens, until: Instant::now() + budget };
        let run = Run { keeper: self, task, ask, stop, report: Mutex::default() };
        // What it did until then stays done.
        match timeout(budget + grace, Box::pin(self.perform(&run))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => run.failed("", &error),
            Err(_) => run.report().timed_out = true,
        }
        let told = run.stop.told();
        let report = run.report.into_inner().unwrap_or_else(PoisonError::into_inner);
        (if told { Ended::Aborted } else { report.end() }, report)
    }
}

fn tell(task: Task, ask: &Ask, trigger: Trigger, end: &Ended, report: &Report) {
    let requested_by = ask.requested_by.as_deref().unwrap_or("");
    let (seen, acted, unknown, deferred, failed) =
        (report.seen, report.acted, report.unknown, report.deferred, report.failed);
    macro_rules! say {
        ($level:ident, $text:literal, $why:expr) => {
            $level!(
                event = "housekeeping_run",
                task = task.name(),
                trigger = trigger.as_str(),
                requested_by,
                seen,
                acted,
                unknown,
                deferred,
                failed,
                why = $why,
                $text
            )
        };
    }
    match end {
        Ended::Failed { why, .. } => say!(error, "a housekeeping task could not do all it should", why),
        Ended::Aborted => say!(info, "a housekeeping task was told to stop", ""),
        Ended::Success if acted > 0 || trigger != Trigger::Timer => say!(info, "a housekeeping task ran", ""),
        Ended::Success => say!(debug, "a housekeeping task ran", ""),
    }
}
