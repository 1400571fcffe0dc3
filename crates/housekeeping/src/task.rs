//! The table of tasks.

use std::time::Duration;

use dispatch::sweeps::Sweep;

#[cfg(test)]
mod tests;

/// A periodic task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the table says what each does")]
pub enum Task {
    OrphanedInstances,
    OrphanedPackerInstances,
    OrphanedSpotRequests,
    StaleAmiInstances,
    EphemeralPoolCleanup,
    PoolHotTuner,
    ExpiredInstanceClaims,
    StaleSecrets,
    UnconfirmedRunners,
    StaleJobs,
    OrphanedJobs,
    OldJobs,
    OrphanedRunners,
    BindingRefresh,
    WebhookRedelivery,
    QueuedScan,
    DlqRedrive,
}

/// When a task runs for the first time under a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// As soon as somebody leads, unless it was begun a moment ago.
    AtOnce,
    /// Where the schedule stands; one that never ran within a minute.
    Soon,
}

/// A task and its schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub task: Task,
    /// Its name in requests, rows, metrics and logs.
    pub name: &'static str,
    /// A name it had.
    pub alias: Option<&'static str>,
    /// From the begin of a run to that of the next. Zero: never.
    pub every: Duration,
    /// The first run.
    pub first: First,
    /// It reads the jobs table broadly; of these one runs at a time.
    pub reads_jobs: bool,
    /// What it repairs, for people.
    pub repairs: &'static str,
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

const fn entry(task: Task, name: &'static str, every: Duration, repairs: &'static str) -> Entry {
    Entry { task, name, alias: None, every, first: First::Soon, reads_jobs: false, repairs }
}

impl Entry {
    const fn at_once(self) -> Self {
        Self { first: First::AtOnce, ..self }
    }
    const fn once_called(self, alias: &'static str) -> Self {
        Self { alias: Some(alias), ..self }
    }
    const fn reading_jobs(self) -> Self {
        Self { reads_jobs: true, ..self }
    }
}

/// Every task there is.
pub const TABLE: &[Entry] = &[
    entry(Task::OrphanedInstances, "orphaned_instances", minutes(5), "machines nobody owns, or that outlived their job")
        .at_once(),
    entry(Task::OrphanedPackerInstances, "orphaned_packer_instances", minutes(15), "machines of cancelled image builds"),
    entry(
        Task::OrphanedSpotRequests,
        "orphaned_spot_requests",
        minutes(60),
        "open spot requests whose machine is gone: they may bring it back",
    ),
    entry(
        Task::StaleAmiInstances,
        "stale_ami_instances",
        minutes(60),
        "stopped spares made from an image that was replaced, one per pool and run",
    ),
    entry(
        Task::EphemeralPoolCleanup,
        "ephemeral_pool_cleanup",
        minutes(60),
        "pools that a job's label made and that no job used for four hours",
    ),
    entry(Task::PoolHotTuner, "pool_hot_tuner", minutes(60), "how many spares a pool keeps running after a job, and how long"),
    entry(Task::ExpiredInstanceClaims, "expired_instance_claims", minutes(15), "claims whose holder died"),
    entry(
        Task::StaleSecrets,
        "stale_secrets",
        minutes(15),
        "hand-overs of machines that are gone; machines whose agent died with its assignment",
    )
    .once_called("stale_ssm"),
    entry(
        Task::UnconfirmedRunners,
        "unconfirmed_runners",
        minutes(2),
        "runners that did not come online within `RUNS_FLEET_CONFIRM_MINUTES` (5): ended and replaced",
    )
    .reading_jobs(),
    entry(
        Task::StaleJobs,
        "stale_jobs",
        minutes(5),
        "jobs that run for ten minutes and more: GitHub is asked whether they still do",
    )
    .reading_jobs(),
    entry(
        Task::OrphanedJobs,
        "orphaned_jobs",
        minutes(15),
        "what stands for two hours on a machine that is gone; the deadline of 24 hours",
    )
    .reading_jobs(),
    entry(Task::OldJobs, "old_jobs", minutes(60), "records of jobs that ended a week ago: archived, then deleted")
        .reading_jobs(),
    entry(
        Task::OrphanedRunners,
        "orphaned_runners",
        minutes(60),
        "registrations at GitHub whose runner is not coming back",
    )
    .reading_jobs(),
    entry(
        Task::BindingRefresh,
        "binding_refresh",
        minutes(1),
        "jobs that wait on a runner which ended or serves another job: noticed before their age brings them up",
    ),
    entry(Task::WebhookRedelivery, "webhook_redelivery", minutes(5), "webhooks whose delivery failed: asked for again"),
    entry(Task::QueuedScan, "queued_scan", minutes(5), "jobs that wait at GitHub without ever having reached us"),
    entry(
        Task::DlqRedrive,
        "dlq_redrive",
        minutes(1),
        "job messages that were given up: whatever their record still needs is sent again; poison stays, and is counted",
    )
    .at_once(),
];

/// Names of tasks that are no more; a request for one is acknowledged and does nothing.
pub const RETIRED: &[&str] = &["pool_audit"];

impl Task {
    /// Its row of the table.
    #[allow(clippy::expect_used, reason = "a test finds every task in the table")]
    pub fn entry(self) -> &'static Entry {
        TABLE.iter().find(|entry| entry.task == self).expect("every task is in the table")
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// The sweep of dispatch that it is, if it is one.
    pub const fn sweep(self) -> Option<Sweep> {
        match self {
            Self::UnconfirmedRunners => Some(Sweep::Unconfirmed),
            Self::StaleJobs => Some(Sweep::Stale),
            Self::OrphanedJobs => Some(Sweep::Orphan),
            Self::BindingRefresh => Some(Sweep::Refresh),
            Self::WebhookRedelivery => Some(Sweep::Redelivery),
            Self::QueuedScan => Some(Sweep::QueuedScan),
            Self::DlqRedrive => Some(Sweep::DeadLetters),
            Self::StaleSecrets => Some(Sweep::Secrets),
            _ => None,
        }
    }

    /// The task of that name, or that had it.
    pub fn named(name: &str) -> Option<Self> {
        TABLE.iter().find(|entry| entry.name == name || entry.alias == Some(name)).map(|entry| entry.task)
    }
}
