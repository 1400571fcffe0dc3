//! Milestones of a job's life, epoch milliseconds, per attempt. A milestone that was not observed is absent, never
//! interpolated.

use crate::clock::Timestamp;

/// A point on a job's way, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Milestone {
    /// GitHub's `created_at` (one-second resolution).
    GithubCreated,
    /// First byte of the webhook handled.
    WebhookReceived,
    /// The queue's send time of the message that led to the claim.
    Queued,
    /// The lease was taken.
    Claimed,
    /// Immediately before the machine was asked for.
    FleetRequested,
    /// The machine's id is known.
    InstanceLaunched,
    /// The agent read its hand-over.
    ConfigFetched,
    /// The runner's listener is connected.
    RunnerRegistered,
    /// GitHub's `started_at`, else the agent's.
    JobStarted,
    /// GitHub's `completed_at`, else the agent's.
    Completed,
    /// The machine is gone.
    Terminated,
}

impl Milestone {
    /// Every milestone, in order.
    pub const ALL: [Self; 11] = [
        Self::GithubCreated,
        Self::WebhookReceived,
        Self::Queued,
        Self::Claimed,
        Self::FleetRequested,
        Self::InstanceLaunched,
        Self::ConfigFetched,
        Self::RunnerRegistered,
        Self::JobStarted,
        Self::Completed,
        Self::Terminated,
    ];

    /// The stored name, the last part of `tl_<attempt>_<milestone>`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GithubCreated => "github_created",
            Self::WebhookReceived => "webhook_received",
            Self::Queued => "queued",
            Self::Claimed => "claimed",
            Self::FleetRequested => "fleet_requested",
            Self::InstanceLaunched => "instance_launched",
            Self::ConfigFetched => "config_fetched",
            Self::RunnerRegistered => "runner_registered",
            Self::JobStarted => "job_started",
            Self::Completed => "completed",
            Self::Terminated => "terminated",
        }
    }

    /// Reads the stored name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.as_str() == name)
    }

    /// Whose clock stamped it.
    pub const fn clock(self) -> &'static str {
        match self {
            Self::GithubCreated | Self::JobStarted | Self::Completed => "github",
            Self::WebhookReceived => "ingress",
            Self::Queued => "sqs",
            Self::Claimed | Self::FleetRequested | Self::InstanceLaunched => "replica",
            Self::ConfigFetched | Self::RunnerRegistered => "agent",
            Self::Terminated => "ec2",
        }
    }
}

/// The stamps of one job, by attempt (1-based: `retry_count` + `displaced_count` + 1) and milestone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Timeline {
    /// In order.
    stamps: Vec<((u32, Milestone), i64)>,
}

impl Timeline {
    /// Stamps a milestone, unless it already is: redeliveries and late duplicates cannot move it. Says whether it was
    /// new.
    pub fn stamp(&mut self, attempt: u32, milestone: Milestone, at: Timestamp) -> bool {
        self.stamp_ms(attempt, milestone, at.as_millisecond())
    }
    /// The same in epoch milliseconds.
    pub fn stamp_ms(&mut self, attempt: u32, milestone: Milestone, at_ms: i64) -> bool {
        match self.place(attempt, milestone) {
            Ok(_) => false,
            Err(place) => {
                self.stamps.insert(place, ((attempt, milestone), at_ms));
                true
            }
        }
    }
    /// When a milestone of an attempt was reached, epoch milliseconds.
    pub fn get(&self, attempt: u32, milestone: Milestone) -> Option<i64> {
        self.place(attempt, milestone).ok().map(|place| self.stamps[place].1)
    }
    /// Every stamp, by attempt, then milestone.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Milestone, i64)> + '_ {
        self.stamps.iter().map(|&((attempt, milestone), at)| (attempt, milestone, at))
    }
    fn place(&self, attempt: u32, milestone: Milestone) -> Result<usize, usize> {
        self.stamps.binary_search_by_key(&(attempt, milestone), |(of, _)| *of)
    }
    /// Forgets everything: an operator's revive starts the counters anew.
    pub fn clear(&mut self) {
        self.stamps.clear();
    }
}
