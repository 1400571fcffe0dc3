//! What a move writes into the record. Pure: the caller brings the time, the chance and the facts.
//!
//! Each function returns the record as it is to be; the store writes the difference, pinned to the version that was
//! read. Invariants every one of them keeps: a machine is named exactly in `launched`, `running` and `terminating`
//! (and kept for the record once settled); `completed_at` is present exactly when settled; counters never decrease and
//! `force_on_demand` never clears, except by an operator's revive.

use std::time::Duration;

use crate::clock::{self, Timestamp};
use crate::ids::{ClassKey, LaunchId, RunnerId, RunnerKey};
use crate::job::transition::{Bump, Move, RequeueReason, SettleReason, Wake};
use crate::job::{Job, JobState, Lease, Milestone, RerunState, Settled, Timeline};
use crate::message::JobMessage;
use crate::timings::{MAX_CLAIM_ATTEMPTS, MAX_DISPLACED, MAX_JOB_RETRIES, Timings};

/// How long the store keeps a settled row when the clean-up never comes.
const TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// The outbox leaves the redelivery of a dead attempt's message this long before it sends one itself.
const AFTER_LEASE: u32 = 3;

/// What a write needs to know of the world.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Now.
    pub now: Timestamp,
    /// The intervals in force.
    pub timings: &'a Timings,
    /// A random number in `[0, 1)`, for the spread of back-offs.
    pub chance: f64,
    /// GitHub may be asked to re-run jobs we lost.
    pub rerun_enabled: bool,
}

/// The machine a job is bound to.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// Its id.
    pub key: RunnerKey,
    /// Actual type.
    pub instance_type: String,
    /// Zone.
    pub zone: Option<String>,
    /// Actual lifecycle.
    pub spot: bool,
    /// It is a pool member.
    pub warm: bool,
    /// It was already running.
    pub hot: bool,
}

/// The runner GitHub named for a job.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedBy {
    /// Its machine.
    pub key: RunnerKey,
    /// Registered name.
    pub name: String,
    /// Registration.
    pub id: Option<RunnerId>,
    /// GitHub's `started_at`, else now.
    pub since: Timestamp,
}

impl Job {
    /// A fresh record for an accepted message.
    pub fn accepted(message: JobMessage, label_warnings: Vec<String>, class: ClassKey, cx: &Context<'_>) -> Self {
        let now = clock::whole_seconds(cx.now);
        let queued_at = message.queued_at.map_or(now, clock::whole_seconds);
        Self {
            id: message.job_id,
            version: 0,
            state: JobState::Requeued,
            instance: None,
            instance_type: None,
            availability_zone: None,
            spot: message.spec.spot && !message.force_on_demand,
            warm_pool_hit: false,
            hot_pool_hit: false,
            retry_count: message.retry_count,
            claim_attempts: 0,
            displaced_count: message.displaced_count,
            dispatch_seq: message.dispatch_seq,
            force_on_demand: message.force_on_demand,
            created_at: now,
            queued_at,
            requeued_at: Some(now),
            not_before: None,
            redrive_at: Some(clock::after(now, cx.timings.outbox)),
            requeue_reason: None,
            lease: None,
            launch_id: None,
            prepared_at: None,
            started_at: None,
            completed_at: None,
            exit_code: None,
            duration_seconds: None,
            conclusion: None,
            label_warnings,
            class: Some(class),
            runner_name: None,
            runner_id: None,
            in_progress_at: None,
            sighting: None,
            rerun: None,
            timeline: Timeline::default(),
            last_error: None,
            settled_reason: None,
            ttl: None,
            message: Some(message.into()),
        }
    }

    /// `not_before` is absent or past.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }
    /// Fewer than the allowed failure retries.
    pub const fn retries_left(&self) -> bool {
        self.retry_count < MAX_JOB_RETRIES
    }
    /// Fewer than the allowed strikes.
    pub const fn strikes_left(&self) -> bool {
        self.claim_attempts < MAX_CLAIM_ATTEMPTS
    }
    /// Fewer than the allowed displacements.
    pub const fn displacements_left(&self) -> bool {
        self.displaced_count < MAX_DISPLACED
    }
    /// GitHub no longer keeps the job queued.
    pub fn deadline_passed(&self, now: Timestamp, timings: &Timings) -> bool {
        clock::after(self.queued_at, timings.deadline) <= now
    }

    /// Under a new lease. A machine left over from before is forgotten here; its launch id is returned by the claim's
    /// decision, so that the new holder can adopt what a dead one launched.
    #[must_use]
    pub fn claimed(&self, strike: bool, lease: Lease, message: &JobMessage, cx: &Context<'_>) -> Self {
        let mut job = self.clone();
        let newer = message.retry_count > job.retry_count;
        job.state = JobState::Claiming;
        job.claim_attempts = match (newer, strike) {
            (true, _) => 1,
            (false, true) => job.claim_attempts + 1,
            (false, false) => job.claim_attempts.max(1),
        };
        job.retry_count = job.retry_count.max(message.retry_count);
        job.displaced_count = job.displaced_count.max(message.displaced_count);
        job.force_on_demand |= message.force_on_demand;
        job.spot &= !job.force_on_demand;
        job.message.get_or_insert_with(|| message.clone().into());
        job.created_at = clock::whole_seconds(cx.now);
        job.redrive_at = lease.until.map(|until| clock::after(until, cx.timings.lease * AFTER_LEASE / 10));
        job.lease = Some(lease);
        job.unbind_machine();
        job.not_before = None;
        job.launch_id = None;
        let attempt = job.attempt();
        job.timeline.stamp(attempt, Milestone::Claimed, cx.now);
        job
    }

    /// The lease of a dead attempt that had bound a machine but not finished its hand-over.
    #[must_use]
    pub fn resumed(&self, lease: Lease, cx: &Context<'_>) -> Self {
        let mut job = self.clone();
        job.claim_attempts += 1;
        job.redrive_at = lease.until.map(|until| clock::after(until, cx.timings.lease * AFTER_LEASE / 10));
        job.lease = Some(lease);
        job
    }

    /// Names the launch request before it is made, so that a crash leaves its trace.
    #[must_use]
    pub fn launching(&self, launch: LaunchId, cx: &Context<'_>) -> Self {
        let mut job = self.clone();
        job.launch_id = Some(launch);
        let attempt = job.attempt();
        job.timeline.stamp(attempt, Milestone::FleetRequested, cx.now);
        job
    }

    /// `launched` on a machine.
    #[must_use]
    pub fn bound(&self, to: &Bound, cx: &Context<'_>) -> Self {
        let mut job = self.clone();
        job.state = JobState::Launched;
        job.instance = Some(to.key.clone());
        job.instance_type = Some(to.instance_type.clone());
        job.availability_zone.clone_from(&to.zone);
        job.spot = to.spot;
        job.warm_pool_hit = to.warm;
        job.hot_pool_hit = to.hot;
        job.created_at = clock::whole_seconds(cx.now);
        let attempt = job.attempt();
        job.timeline.stamp(attempt, Milestone::InstanceLaunched, cx.now);
        job
    }

    /// Back to `claiming` under the same lease: the machine was given back.
    #[must_use]
    pub fn unbound(&self) -> Self {
        let mut job = self.clone();
        job.state = JobState::Claiming;
        job.unbind_machine();
        job
    }

    /// Hand-over written, machine started: nothing left for the dispatcher to do.
    #[must_use]
    pub fn prepared(&self, cx: &Context<'_>) -> Self {
        let mut job = self.clone();
        job.prepared_at = Some(clock::whole_seconds(cx.now));
        job.end_lease();
        job
    }

    /// `running`: the agent's listener is up.
    #[must_use]
    pub fn started(&self, at: Timestamp, cx: &Context<'_>) -> Self {
        let mut job = self.clone();
        job.state = JobState::Running;
        job.started_at.get_or_insert(clock::whole_seconds(at));
        job.prepared_at.get_or_insert(clock::whole_seconds(cx.now));
        job.end_lease();
        let attempt = job.attempt();
        job.timeline.stamp(attempt, Milestone::RunnerRegistered, at);
        job
    }

    /// `running` on the runner GitHub named. A dispatcher that still held the lease finds out at its next write.
    #[must_use]
    pub fn served(&self, by: &ServedBy, cx: &Context<'_>) -> Self {
        let mut job = self.clone();
        let now = clock::whole_seconds(cx.now);
        if job.instance.as_ref() != Some(&by.key) {
            job.unbind_machine();
            job.lease = None;
            job.created_at = now;
            job.instance = Some(by.key.clone());
        }
        job.state = JobState::Running;
        job.runner_name = Some(by.name.clone());
        job.runner_id = by.id;
        job.in_progress_at = Some(clock::whole_seconds(by.since));
        job.started_at.get_or_insert(clock::whole_seconds(by.since));
        job.prepared_at.get_or_insert(now);
        job.not_before = None;
        job.end_lease();
        let attempt = job.attempt();
        job.timeline.stamp(attempt, Milestone::JobStarted, by.since);
        job
    }

    /// Waiting on the runner received in exchange. The clock of an unconfirmed runner starts anew.
    #[must_use]
    pub fn swapped(&self, to: &RunnerKey, online: bool, cx: &Context<'_>) -> Self {
        let mut job = self.clone();
        let now = clock::whole_seconds(cx.now);
        job.unbind_machine();
        job.state = if online { JobState::Running } else { JobState::Launched };
        job.instance = Some(to.clone());
        job.created_at = now;
        job.prepared_at = Some(now);
        job.started_at = online.then_some(now);
        job.lease = None;
        job.not_before = None;
        job.redrive_at = None;
        job
    }

    /// `terminating`: we lost, or are losing, the machine. `redrive_at` is when recovery gives up.
    #[must_use]
    pub fn condemned(&self, rerun: bool, cx: &Context<'_>) -> Self {
        let mut job = self.clone();
        job.state = JobState::Terminating;
        job.lease = None;
        job.not_before = None;
        job.redrive_at = Some(clock::after(clock::whole_seconds(cx.now), cx.timings.recovery_give_up));
        if !rerun {
            job.rerun = Some(RerunState::Refused);
        }
        job
    }

    /// Pending again. The write *is* the outbox: if the wake-up that follows is lost, `redrive_at` sends another.
    /// `until` overrides the back-off (a rate limit names its own end). A record from which no message can be rebuilt
    /// is settled instead: nobody could ever dispatch it.
    #[must_use]
    pub fn requeued(
        &self,
        bump: Bump,
        wake: Wake,
        reason: RequeueReason,
        until: Option<Timestamp>,
        cx: &Context<'_>,
    ) -> Self {
        if self.message.is_none() {
            return self.settled(Settled::Error, SettleReason::NoMessage, cx);
        }
        let mut job = self.clone();
        let now = clock::whole_seconds(cx.now);
        match bump {
            Bump::None => {}
            Bump::Retry => {
                job.retry_count += 1;
                job.claim_attempts = 1;
                job.force_on_demand = true;
            }
            Bump::Displaced => job.displaced_count += 1,
            Bump::Strike => job.claim_attempts += 1,
            Bump::Revive => {
                job.retry_count = 0;
                job.displaced_count = 0;
                job.claim_attempts = 0;
                job.queued_at = now;
                job.timeline.clear();
                job.completed_at = None;
                job.settled_reason = None;
                job.conclusion = None;
                job.exit_code = None;
                job.duration_seconds = None;
                job.rerun = None;
                job.ttl = None;
            }
        }
        job.not_before = match wake {
            Wake::Now => None,
            Wake::BackOff => Some(until.unwrap_or_else(|| clock::after(now, self.back_off(cx)))),
            Wake::Elsewhere => Some(clock::after(now, cx.timings.elsewhere)),
        };
        job.redrive_at = Some(job.not_before.unwrap_or_else(|| clock::after(now, cx.timings.outbox)));
        job.state = JobState::Requeued;
        job.dispatch_seq += 1;
        job.requeued_at = Some(now);
        job.created_at = now;
        job.requeue_reason = Some(reason.as_str().to_owned());
        job.lease = None;
        // What GitHub said before is no ground for the next launch.
        job.sighting = None;
        job.unbind_machine();
        job.spot = !job.force_on_demand && job.message.as_ref().is_some_and(|m| m.spec.spot);
        job
    }

    /// Over.
    #[must_use]
    pub fn settled(&self, end: Settled, reason: SettleReason, cx: &Context<'_>) -> Self {
        let mut job = self.clone();
        let now = clock::whole_seconds(cx.now);
        if !job.state.occupies() {
            job.unbind_machine();
        }
        job.state = JobState::Settled(end);
        job.completed_at = Some(now);
        job.ttl = Some(clock::after(now, TTL));
        job.settled_reason = Some(reason.as_str().to_owned());
        job.lease = None;
        job.not_before = None;
        job.redrive_at = None;
        if end == Settled::Interrupted && reason == SettleReason::RunnerLost && job.rerun.is_none() {
            let first = job.message.as_ref().is_some_and(|m| m.run_attempt <= 1);
            job.rerun = Some(if first && cx.rerun_enabled { RerunState::Pending } else { RerunState::Refused });
        }
        let attempt = job.attempt();
        job.timeline.stamp(attempt, Milestone::Completed, cx.now);
        job
    }

    /// The moves that need nothing but the context. `None` for those that need more: accept, claim, bind, serve, swap,
    /// delete.
    #[must_use]
    pub fn apply(&self, step: Move, until: Option<Timestamp>, cx: &Context<'_>) -> Option<Self> {
        Some(match step {
            Move::Unbind => self.unbound(),
            Move::Requeue { bump, wake, reason } => self.requeued(bump, wake, reason, until, cx),
            Move::Start => self.started(cx.now, cx),
            Move::Condemn { rerun } => self.condemned(rerun, cx),
            Move::Settle { end, reason } => self.settled(end, reason, cx),
            Move::Accept | Move::Claim { .. } | Move::Bind | Move::Serve | Move::Swap { .. } | Move::Delete => {
                return None;
            }
        })
    }

    /// The right to re-send a wake-up: a later generation, and the next due time, doubling.
    #[must_use]
    pub fn redriven(&self, cx: &Context<'_>) -> Self {
        let mut job = self.clone();
        let doublings = job.dispatch_seq.saturating_sub(job.retry_count + job.displaced_count).min(6);
        let pause = (cx.timings.outbox * 2u32.pow(doublings)).min(cx.timings.outbox_max);
        job.dispatch_seq += 1;
        job.redrive_at = Some(clock::after(clock::whole_seconds(cx.now), pause));
        job
    }

    /// Back-off of this generation: doubles up to a ceiling, spread by a fifth.
    fn back_off(&self, cx: &Context<'_>) -> Duration {
        let base = cx.timings.back_off * 2u32.pow(self.dispatch_seq.min(4));
        base.min(cx.timings.back_off_max).mul_f64(0.8 + 0.4 * cx.chance)
    }

    fn unbind_machine(&mut self) {
        self.instance = None;
        self.instance_type = None;
        self.availability_zone = None;
        self.warm_pool_hit = false;
        self.hot_pool_hit = false;
        self.prepared_at = None;
        self.started_at = None;
        self.runner_name = None;
        self.runner_id = None;
        self.in_progress_at = None;
    }

    /// The attempt is over; its token stays as a fence against late writes.
    fn end_lease(&mut self) {
        self.redrive_at = None;
        if let Some(lease) = &mut self.lease {
            lease.until = None;
        }
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
