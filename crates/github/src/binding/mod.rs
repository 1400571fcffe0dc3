//! Which job runs on which runner. Discovered, not decided.
//!
//! GitHub gives a queued job to any idle runner whose labels cover it, whatever we launched that runner for. So a
//! runner is counted for a *waiting* job until GitHub names it for some job, and then the books are put right:
//!
//! | rule | GitHub runs J on R, and … | what follows |
//! |---|---|---|
//! | 0 | we knew | nothing |
//! | 1 | R is not ours | J waits until GitHub concludes it; J's own runner is surplus |
//! | 2 | R was counted for J | J is running |
//! | 3 | R was counted for B, and J's runner R′ can serve B | swap: B is counted for on R′ |
//! | 4 | R was counted for B, and nobody is left for B | B goes back to pending; a machine on its way for J becomes B's |
//! | 5 | R was free, J had R′ | R′ is surplus: it serves the next job of its class, or exits when idle |
//! | 6 | R was free, J had nobody | J is running |
//!
//! Desired: a job GitHub runs is bound to the runner GitHub named; a waiting job is bound to at most one live runner,
//! and that runner to it; no runner that has a job is ever ended.
//!
//! Races it survives: duplicate and reordered events (rule 0, and `in_progress_at` only moves forward); several
//! replicas at once (every row of a plan is written in one transaction, pinned to the version read; the loser reads
//! again; each commit makes one (job, runner) fact true that never changes, so crossing swaps end); events for settled
//! jobs (the job is left alone, its runner's books are still put right); a swap with a runner that dies at the same
//! moment (its row's version refuses the plan, or its end finds B bound and sends it back).
//!
//! Everything here is pure. `dispatch` reads the [`Scene`], commits the [`Plan`] and sends what it asks for.

use domain::clock::{self, Timestamp};
use domain::gh::{self, Conclusion, NamedRunner};
use domain::ids::{ClassKey, RunnerKey};
use domain::job::apply::{Context, ServedBy};
use domain::job::{Event, Job, JobState, Milestone, Move, Sighting, transition};
use domain::message::JobMessage;
use domain::runner::{Runner, RunnerState};

/// What was read before deciding: consistently, in one go, all of it pinned by the write.
#[derive(Debug, Clone, Default)]
pub struct Scene {
    /// J: the job the event is about.
    pub job: Option<Job>,
    /// R: the runner GitHub named, if it is ours.
    pub runner: Option<Runner>,
    /// B: another job R is counted for, if it still waits there.
    pub bound: Option<Job>,
    /// R′: the live runner J's record names, if it is not R.
    pub previous: Option<Runner>,
}

/// GitHub's word that it runs (or ran) a job on a runner.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The runner it named.
    pub named: NamedRunner,
    /// Its `started_at`.
    pub since: Option<Timestamp>,
    /// For a job of ours without a record: what to create it from.
    pub message: Option<(JobMessage, ClassKey)>,
}

/// One row to write: what was read, and what is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Write<T> {
    /// As read; `None` creates the row.
    pub old: Option<T>,
    /// As it is to be.
    pub new: T,
}

/// What to write, all or nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Which rule of the table applied; `None` for plans that bind nothing.
    pub rule: Option<u8>,
    /// J and B.
    pub jobs: Vec<Write<Job>>,
    /// R and R′.
    pub runners: Vec<Write<Runner>>,
    /// A job that lost its runner and must be woken, after the commit.
    pub displaced: Option<domain::ids::JobId>,
    /// A runner that serves nobody any more. It is left running.
    pub surplus: Option<RunnerKey>,
}

impl Plan {
    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.runners.is_empty()
    }

    fn job(&mut self, old: &Job, new: Option<Job>) {
        if let Some(new) = new.filter(|new| new != old) {
            self.jobs.push(Write { old: Some(old.clone()), new });
        }
    }

    fn runner(&mut self, old: &Runner, new: Runner) {
        if new != *old {
            self.runners.push(Write { old: Some(old.clone()), new });
        }
    }

    /// R′ is counted for nobody.
    fn release(&mut self, runner: Option<&Runner>) {
        if let Some(runner) = runner {
            self.runner(runner, Runner { bound_job: None, ..runner.clone() });
            self.surplus = Some(runner.key.clone());
        }
    }
}

/// Whether a runner with `runner` labels can be given a job that asks for `job` labels. GitHub compares without regard
/// to case.
pub fn covers(runner: &[String], job: &[String]) -> bool {
    job.iter().all(|wanted| runner.iter().any(|has| has.eq_ignore_ascii_case(wanted)))
}

/// GitHub runs J on the named runner.
pub fn bind(id: domain::ids::JobId, scene: &Scene, evidence: &Evidence, cx: &Context<'_>) -> Plan {
    let mut plan = Plan::default();
    let job = scene.job.as_ref();
    let seen = Sighting { status: gh::Status::InProgress, at: clock::whole_seconds(cx.now), completed_at: None };

    let Some(runner) = &scene.runner else {
        plan.rule = Some(1);
        let Some(job) = job else { return plan };
        let already = job.state == JobState::Requeued
            && job.requeue_reason.as_deref() == Some(transition::RequeueReason::ServedElsewhere.as_str())
            && !job.is_due(cx.now);
        if !already && let Some(step) = transition(Some(job.state), &Event::ServedElsewhere) {
            plan.job(job, job.apply(step, None, cx).map(|new| Job { sighting: Some(seen), ..new }));
            plan.release(scene.previous.as_ref());
        }
        return plan;
    };

    let since = evidence.since.unwrap_or(cx.now);
    if let Some(job) = job
        && let Some(known) = job.in_progress_at
    {
        let same = job.instance.as_ref() == Some(&runner.key);
        // GitHub's stamps have one-second resolution; an older one is a late event about an earlier runner.
        if (same && runner.running_job == Some(id)) || (!same && clock::whole_seconds(since) <= known) {
            plan.rule = Some(0);
            return plan;
        }
    }

    let mut busy = runner.clone();
    busy.advance(RunnerState::Busy);
    busy.bound_job = None;
    busy.running_job = Some(id);
    busy.running_since = Some(clock::whole_seconds(since));
    busy.id = busy.id.or(evidence.named.id);

    // A settled job is left as it is, and so is the runner it had: only R's and B's books are put right.
    let settled = job.is_some_and(|job| job.state.is_settled());
    let previous = scene.previous.as_ref().filter(|_| !settled);
    let served_by =
        ServedBy { key: runner.key.clone(), name: evidence.named.name.clone(), id: evidence.named.id, since };
    let serve = |job: &Job| {
        transition(Some(job.state), &Event::Serving).map(|_| Job { sighting: Some(seen), ..job.served(&served_by, cx) })
    };

    if let Some(bound) = &scene.bound {
        let in_progress = bound.in_progress_at.is_some();
        let fits = |other: &Runner| other.repo == runner.repo && covers(&other.labels, &labels_of(bound));
        // One that is still being minted is unfinished work of J's attempt, and one that is busy is nobody's.
        let exchange =
            previous.filter(|other| matches!(other.state, RunnerState::Minted | RunnerState::Online) && fits(other));
        let event = match exchange {
            Some(other) => Event::Swapped { in_progress, other_online: other.state == RunnerState::Online },
            None => Event::Displaced { in_progress, displacements_left: bound.displacements_left() },
        };
        match (transition(Some(bound.state), &event), exchange) {
            (Some(Move::Swap { online }), Some(other)) => {
                plan.rule = Some(3);
                plan.job(bound, Some(bound.swapped(&other.key, online, cx)));
                plan.runner(other, Runner { bound_job: Some(bound.id), ..other.clone() });
            }
            (Some(step), _) => {
                plan.rule = Some(4);
                let mut robbed = bound.apply(step, None, cx);
                // A launch of J still in flight will be refused, and its machine is B's; one that is being minted will be
                // idle in a moment, and GitHub gives it B; and where J was robbed itself and left to such a launch, B
                // takes its place. The wake-up that would launch another is left to that attempt, or to the outbox a
                // moment later.
                let soon = clock::after(clock::whole_seconds(cx.now), cx.timings.skew);
                let minting = previous.is_some_and(|other| other.state == RunnerState::Minting && fits(other));
                let left_until = match job {
                    Some(job) if job.state == JobState::Claiming && !job.lease_expired(cx.now) => Some(soon),
                    Some(job) if job.state == JobState::Requeued && covers(&labels_of(job), &labels_of(bound)) => {
                        job.redrive_at.filter(|at| *at <= soon)
                    }
                    _ => minting.then_some(soon),
                };
                if let (Some(robbed), Some(until)) = (&mut robbed, left_until) {
                    robbed.redrive_at = Some(until);
                } else {
                    plan.displaced = matches!(step, Move::Requeue { .. }).then_some(bound.id);
                }
                plan.job(bound, robbed);
                plan.release(previous);
            }
            (None, _) => plan.release(previous),
        }
    } else if job.is_some_and(|job| job.is_on(&runner.key)) {
        plan.rule = Some(2);
    } else if previous.is_some() {
        plan.rule = Some(5);
        plan.release(previous);
    }
    plan.rule.get_or_insert(6);

    match (job, &evidence.message) {
        (Some(job), _) => plan.job(job, serve(job)),
        (None, Some((message, class))) => {
            let fresh = Job::accepted(message.clone(), Vec::new(), class.clone(), cx);
            if let Some(new) = serve(&fresh) {
                plan.jobs.push(Write { old: None, new });
            }
        }
        (None, None) => {}
    }
    plan.runner(runner, busy);
    plan
}

/// GitHub concluded J. Where a runner was named, [`bind`] has been committed before. `word` is GitHub's own word.
pub fn complete(
    scene: &Scene,
    conclusion: Conclusion,
    word: &str,
    completed_at: Option<Timestamp>,
    cx: &Context<'_>,
) -> Plan {
    let mut plan = Plan::default();
    let now = clock::whole_seconds(cx.now);
    let job = scene.job.as_ref();
    if let Some(job) = job
        && !job.state.is_settled()
    {
        let ran_on_bound_instance =
            scene.runner.as_ref().is_some_and(|runner| job.instance.as_ref() == Some(&runner.key));
        let event = Event::GithubCompleted { conclusion, ran_on_bound_instance };
        let mut new = job.clone();
        if let Some(at) = completed_at {
            let attempt = new.attempt();
            new.timeline.stamp(attempt, Milestone::Completed, at);
        }
        if let Some(ended) = transition(Some(job.state), &event).and_then(|step| new.apply(step, None, cx)) {
            new = ended;
        }
        new.conclusion = Some(word.to_owned());
        new.sighting = Some(Sighting {
            status: gh::Status::Completed(conclusion),
            // The first sight of the end is what the report's grace is measured from.
            at: job.sighting.filter(|s| s.status.is_over()).map_or(now, |s| s.at),
            completed_at: completed_at.map(clock::whole_seconds),
        });
        plan.job(job, Some(new));
    }
    match &scene.runner {
        Some(runner) => {
            let mut ended = runner.clone();
            if job.is_some_and(|job| ended.bound_job == Some(job.id)) {
                ended.bound_job = None;
            }
            ended.retire_at.get_or_insert(clock::after(now, cx.timings.retire));
            plan.runner(runner, ended);
        }
        None => plan.release(scene.previous.as_ref()),
    }
    plan
}

fn labels_of(job: &Job) -> Vec<String> {
    job.message.as_ref().map(|message| message.labels.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
