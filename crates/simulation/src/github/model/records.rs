//! The things GitHub knows.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::clock::{Timestamp, after};
use domain::gh::Conclusion;
use domain::ids::{JobId, Repo, RunId, RunnerId};

/// What kind of account owns a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerKind {
    /// An organisation.
    Organization,
    /// A person.
    User,
}

impl OwnerKind {
    /// GitHub's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Organization => "Organization",
            Self::User => "User",
        }
    }
}

/// Where a job or a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// No runner yet.
    Queued,
    /// A runner has it; for a run: it has begun and is not complete.
    InProgress,
    /// Concluded.
    Completed,
}

impl Status {
    /// GitHub's word for it; also the webhook's `action`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
        }
    }
}

pub(super) struct Repository {
    pub id: u64,
    pub repo: Repo,
    pub owner: OwnerKind,
}

pub(super) struct Run {
    pub id: RunId,
    pub repo: Repo,
    pub number: u64,
    pub attempt: u32,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// The latest job of each kind: a re-run takes its predecessor's place.
    pub latest: Vec<JobId>,
    /// Jobs of earlier attempts.
    pub earlier: Vec<JobId>,
}

/// The runner a job was given to, and when.
pub(super) struct Served {
    pub id: RunnerId,
    pub name: String,
    pub process_started_ms: Option<u64>,
    pub at: Timestamp,
}

pub(super) struct Ended {
    pub conclusion: Conclusion,
    pub at: Timestamp,
    /// GitHub lost the runner.
    pub runner_lost: bool,
}

pub(super) struct Job {
    pub id: JobId,
    pub run: RunId,
    pub attempt: u32,
    pub name: String,
    pub labels: Vec<String>,
    /// The labels in lower case: what a runner must cover.
    pub needs: BTreeSet<String>,
    pub duration: Duration,
    /// How the job ends when nothing comes in between.
    pub outcome: Conclusion,
    pub created_at: Timestamp,
    pub served: Option<Served>,
    pub ended: Option<Ended>,
    pub cancel_requested: bool,
}

impl Job {
    pub(super) fn status(&self) -> Status {
        match (&self.served, &self.ended) {
            (_, Some(_)) => Status::Completed,
            (Some(_), None) => Status::InProgress,
            (None, None) => Status::Queued,
        }
    }

    /// The last six digits: what runner names carry.
    pub(super) fn suffix(&self) -> String {
        let id = self.id.to_string();
        id[id.len().saturating_sub(6)..].to_owned()
    }
}

pub(super) struct Session {
    pub since: Timestamp,
    /// Last heard of; `None`: somebody vouches for it until further notice.
    pub seen_at: Option<Timestamp>,
    pub thief: bool,
    pub pid: Option<u32>,
    pub process_started_ms: Option<u64>,
}

pub(super) struct Runner {
    pub id: RunnerId,
    pub repo: Repo,
    pub name: String,
    pub group_id: u64,
    pub labels: Vec<String>,
    /// The labels in lower case.
    pub covers: BTreeSet<String>,
    pub credential: String,
    /// Whether the REST API still shows it.
    pub registered: bool,
    pub offline_since: Timestamp,
    pub session: Option<Session>,
    pub job: Option<(JobId, Timestamp)>,
}

impl Runner {
    /// The job part of its name, when it has one (`…-<last 6 of job id>[-r<n>]-<machine>`).
    pub(super) fn minted_for(&self) -> Option<&str> {
        let mut parts = self.name.rsplit('-');
        parts.next()?;
        let part = parts.next()?;
        let is_retry = part.strip_prefix('r').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        let part = if is_retry { parts.next()? } else { part };
        let digits = part.split_once('r').map_or(part, |(digits, _)| digits);
        (digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_digit())).then_some(digits)
    }

    /// Can be given a job right now.
    pub(super) fn is_free(&self) -> bool {
        self.registered && self.session.is_some() && self.job.is_none()
    }

    /// `busy` as the REST API shows it: late by `lag`.
    pub(super) fn shows_busy(&self, now: Timestamp, lag: Duration) -> bool {
        self.job.is_some_and(|(_, since)| now >= after(since, lag))
    }
}
