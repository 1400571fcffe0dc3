//! Machines that nobody needs, that never became runners, or that are gone.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::clock;
use domain::gh;
use domain::ids::RunnerKey;
use domain::job::{Event, Job, JobState};
use domain::runner::{Runner, RunnerState};
use github::client::Priority;
use provider::compute::{Filter, Machine};
use tracing::{error, warn};

use super::{GITHUB_CALLS, Scope, Swept};
use crate::context::{Dispatch, Error};
use crate::retire::Retired;

impl Dispatch {
    /// Ends launched machines without a runner record, because nobody was ever bound to them; and machines that live on
    /// although their runner said long ago that it was done. Any other machine that was bound once is not touched here:
    /// it may serve somebody else's job.
    pub(super) async fn surplus(&self) -> Result<Swept, Error> {
        let now = self.now();
        let mut swept = Swept::default();
        for machine in self.ports.compute.list(&Filter::default()).await? {
            let old = clock::since(now, machine.launched_at) > self.settings.timings.surplus;
            if machine.launch_id.is_none() || machine.state.is_gone() || !old {
                continue;
            }
            swept.count(&self.end_if_needless(&machine).await);
        }
        Ok(swept)
    }

    async fn end_if_needless(&self, machine: &Machine) -> Result<bool, Error> {
        let row = self.ports.runners.get(&machine.key).await?;
        // `gone` while the machine lives: its end failed when the row was written.
        let needless = row.as_ref().is_none_or(|row| row.state == RunnerState::Gone || self.outlives(row));
        if needless {
            warn!(instance_id = machine.key.as_str(), "ending a machine that has, or had, no work");
            match row {
                None => self.end_unbound(machine, "needless").await,
                Some(_) => self.end_machine(&machine.key, "needless").await,
            }
        }
        Ok(needless)
    }

    /// Whether a runner was done so long ago that its agent will not end the machine any more.
    fn outlives(&self, row: &Runner) -> bool {
        let over = row.report.as_ref().map(|report| report.at).or(row.retire_at);
        let long = |at| clock::since(self.now(), at) > self.settings.timings.retire;
        row.state == RunnerState::Done && over.is_some_and(long)
    }

    /// Bound jobs whose runner was prepared and never confirmed.
    pub(super) async fn unconfirmed(&self, scope: &Scope<'_>) -> Result<Swept, Error> {
        let now = self.now();
        let timings = &self.settings.timings;
        let mut swept = Swept::default();
        for job in self.ports.jobs.by_state(JobState::Launched, None, None).await? {
            // Records of the Go implementation carry no such stamp; they count from their assignment.
            let since = job.prepared_at.or_else(|| job.lease.is_none().then_some(job.created_at));
            let Some(waited) = since.map(|at| clock::since(now, at)) else { continue };
            if waited < timings.confirm || !scope.covers(&job) {
                continue;
            }
            if scope.dry_run {
                swept.would_look_into(&job.id);
                continue;
            }
            if swept.seen >= GITHUB_CALLS || !scope.goes_on(&swept) {
                swept.deferred += 1;
                break;
            }
            swept.count(&self.unconfirmed_job(&job, waited >= timings.confirm_alert).await);
        }
        Ok(swept)
    }

    pub(super) async fn unconfirmed_job(&self, job: &Job, alert: bool) -> Result<bool, Error> {
        let (github, current) = self.observe(job, Priority::Sweep).await?;
        if github == gh::Status::Unknown && alert {
            error!(job_id = job.id.get(), "a runner is unconfirmed and GitHub cannot be asked: is GitHub down?");
        }
        let Some(current) = current.filter(|c| c.state == JobState::Launched && c.instance == job.instance) else {
            return Ok(false);
        };
        if github == gh::Status::Queued && !self.ended(&current).await? {
            return Ok(false);
        }
        let event = |job: &Job| Event::UnconfirmedTimeout { github, retries_left: job.retries_left() };
        self.raise_on(&current, event).await
    }

    /// Ends the runner of a job about to be dispatched again. `false`: not now.
    pub(super) async fn ended(&self, job: &Job) -> Result<bool, Error> {
        match &job.instance {
            Some(key) => match self.retire(key).await? {
                Retired::Ended => Ok(true),
                // Perhaps this very job, taken a moment ago: only GitHub's word of now says that it needs another.
                Retired::HasJob => Ok(self.ask(job, Priority::Sweep).await? == gh::Status::Queued),
                Retired::Unknown => Ok(false),
            },
            None => Ok(true),
        }
    }

    /// Raises an event that was decided on for a job on a machine, unless the job has moved to another one.
    pub(super) async fn raise_on(
        &self,
        seen: &Job,
        event: impl Fn(&Job) -> Event + Send + Sync,
    ) -> Result<bool, Error> {
        let nothing = Event::RunnerStarted { instance_matches: false };
        let raised = self
            .raise(
                seen.id,
                |job, _| {
                    let same = job.instance == seen.instance && job.state == seen.state;
                    if same { event(job) } else { nothing }
                },
                |_| {},
            )
            .await?;
        Ok(raised.moved())
    }

    /// Live runner rows whose machine is gone: their reports are not coming.
    pub(super) async fn vanished(&self) -> Result<Swept, Error> {
        let now = self.now();
        let listed = self.ports.compute.list(&Filter::default()).await?;
        let live: BTreeSet<RunnerKey> = listed.into_iter().filter(|m| !m.state.is_gone()).map(|m| m.key).collect();
        let mut swept = Swept::default();
        for state in
            [RunnerState::Minting, RunnerState::Minted, RunnerState::Online, RunnerState::Busy, RunnerState::Retiring]
        {
            for row in self.ports.runners.in_state(state, None, None).await? {
                if live.contains(&row.key) {
                    if let Some(step) = self.overdue(&row).await {
                        swept.count(&step);
                    }
                    continue;
                }
                // EC2 may not show a young machine, neither here nor when it is asked after.
                if clock::since(now, row.minted_at) < self.settings.timings.unlisted {
                    continue;
                }
                swept.count(&self.vanished_runner(&row.key).await);
            }
        }
        Ok(swept)
    }

    /// A machine that lives although its runner's work is over, or never began. `None`: it is as it should be.
    async fn overdue(&self, row: &Runner) -> Option<Result<bool, Error>> {
        let (now, timings) = (self.now(), &self.settings.timings);
        let over = match row.state {
            // Deregistered, or its job concluded, so long ago that its own end is not coming.
            RunnerState::Retiring | RunnerState::Busy => row.retire_at.is_some_and(|at| at <= now),
            // Not finished, or never seen up, for longer than any attempt or boot takes.
            RunnerState::Minting | RunnerState::Minted => {
                clock::since(now, row.minted_at) > timings.confirm.max(timings.lease + timings.surplus)
            }
            // Its agent ends an idle runner; one that never connected it cannot tell from one that works.
            RunnerState::Online => {
                let idle = Duration::from_secs(self.settings.hand_over.idle_exit_seconds.into());
                let since = row.online_at.unwrap_or(row.minted_at);
                row.running_job.is_none() && !idle.is_zero() && clock::since(now, since) > idle + timings.retire
            }
            RunnerState::Done | RunnerState::Gone => false,
        };
        if !over {
            return None;
        }
        Some(
            async {
                if matches!(row.state, RunnerState::Minting | RunnerState::Minted | RunnerState::Online) {
                    // Its hand-over may be out, so it is ended like any runner that may have registered.
                    return Ok(!self.is_awaited(row).await? && self.retire(&row.key).await? == Retired::Ended);
                }
                warn!(
                    instance_id = row.key.as_str(),
                    state = row.state.as_str(),
                    "ending a machine whose work is over"
                );
                self.terminate_runner(row).await?;
                Ok(true)
            }
            .await,
        )
    }

    /// Whether a job still waits on the machine. One that went elsewhere leaves its machine to nobody.
    async fn is_awaited(&self, row: &Runner) -> Result<bool, Error> {
        match row.bound_job {
            Some(id) => Ok(self.ports.jobs.get(id).await?.is_some_and(|job| job.is_on(&row.key))),
            None => Ok(false),
        }
    }

    async fn vanished_runner(&self, key: &RunnerKey) -> Result<bool, Error> {
        // The list may lag; a look at the machine itself decides.
        if self.ports.compute.describe(key).await?.is_some_and(|m| !m.state.is_gone()) {
            return Ok(false);
        }
        self.machine_gone(key).await?;
        Ok(true)
    }
}
