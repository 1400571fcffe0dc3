//! The values labels may take: closed lists, words of this program, and open values with a cap.

use domain::ids::{InstallationId, PoolName, Repo};
use domain::job::JobState;
use domain::job::transition::RequeueReason;
use domain::launch::Arch;

use super::{CALL_CAP, FAMILY_CAP, INSTALLATION_CAP, OTHER, POOL_CAP, REPO_CAP, ROUTE_CAP, Seen};

/// Something that can be a label's value.
pub(super) trait Label {
    /// All values, when they are a closed list.
    const CLOSED: Option<&'static [&'static str]>;
    /// The value as shown; `seen` caps the open ones.
    fn with<R>(&self, seen: &Seen, f: impl FnOnce(&str) -> R) -> R;
}

/// Declares a closed list of label values as an enum.
macro_rules! closed {
    ($( $(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? } )+) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "each is the label's word for itself")]
        pub enum $name { $($variant),+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// The word shown.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
            /// Reads the word.
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str() == word)
            }
        }

        impl Label for $name {
            const CLOSED: Option<&'static [&'static str]> = Some(&[$($word),+]);
            fn with<R>(&self, _: &Seen, f: impl FnOnce(&str) -> R) -> R {
                f(self.as_str())
            }
        }

        /// Empty when unknown.
        impl Label for Option<$name> {
            const CLOSED: Option<&'static [&'static str]> = Some(&["", $($word),+]);
            fn with<R>(&self, _: &Seen, f: impl FnOnce(&str) -> R) -> R {
                f(self.map_or("", $name::as_str))
            }
        }
    )+ };
}

closed! {
    /// How a machine's capacity is bought.
    Capacity { Spot = "spot", OnDemand = "on_demand" }
    /// Where a job's machine came from.
    Source { WarmPool = "warm_pool", ColdStart = "cold_start", HotPool = "hot_pool" }
    /// **Our** outcome of a job, never the workflow's conclusion.
    JobResult { Served = "served", Interrupted = "interrupted", Error = "error", Timeout = "timeout" }
    /// Where a duplicate was noticed.
    DedupPath { Direct = "direct", Queue = "queue", Webhook = "webhook" }
    /// A part of an agent's start.
    BootstrapPhase {
        Boot = "boot",
        Config = "config",
        RunnerDownload = "runner_download",
        Registration = "registration",
        Total = "total",
    }
    /// A queue by its role.
    QueueName {
        Main = "main",
        MainDlq = "main-dlq",
        Pool = "pool",
        PoolDlq = "pool-dlq",
        Events = "events",
        Termination = "termination",
        Housekeeping = "housekeeping",
        Webhook = "webhook",
    }
    /// What a receive brought. `Empty` is counted for the main queue only.
    ReceiveResult { Messages = "messages", Error = "error", Empty = "empty" }
    /// Whether handling a message worked.
    Processed { Ok = "ok", Error = "error" }
    /// What kind of webhook arrived.
    WebhookEvent { WorkflowJob = "workflow_job", Ping = "ping", Push = "push", Other = "other" }
    /// The action of a `workflow_job` event; other events have none.
    WebhookAction {
        Queued = "queued",
        InProgress = "in_progress",
        Completed = "completed",
        Waiting = "waiting",
        Requested = "requested",
        Pending = "pending",
        Other = "other",
    }
    /// What became of a webhook.
    WebhookResult { Queued = "queued", Ignored = "ignored", Rejected = "rejected", Error = "error" }
    /// Which way a webhook came.
    Ingress { Http = "http", Sqs = "sqs" }
    /// How a missed webhook was made up for.
    RecoverySource { Redelivery = "redelivery", Scan = "scan" }
    /// Where a machine stands, in EC2's words.
    InstanceState { Pending = "pending", Running = "running", Stopping = "stopping", Stopped = "stopped" }
    /// What a machine is to its pool. `running` and `stopped` are all of them, whatever else they are.
    PoolState {
        Running = "running",
        Stopped = "stopped",
        Ready = "ready",
        Busy = "busy",
        AssignedIdle = "assigned_idle",
        Claimed = "claimed",
        Overflow = "overflow",
        Expired = "expired",
        Pending = "pending",
        Reserved = "reserved",
    }
    /// A kind of spare.
    SpareKind { Running = "running", Stopped = "stopped" }
    /// What a pass does to a machine.
    PoolAction { Create = "create", Start = "start", Stop = "stop", Terminate = "terminate" }
    /// What a job got from its warm pool; `hot` was running, `rollback` was given back.
    PoolAssign { Hot = "hot", Stopped = "stopped", None = "none", Rollback = "rollback" }
    /// What became of a re-run we owed.
    RerunResult { Done = "done", Refused = "refused", Expired = "expired" }
    /// Whether a machine could lead its job to the Actions cache; `disabled` had none.
    CacheInterception { Engaged = "engaged", Failed = "failed", Disabled = "disabled" }
    /// Whether a lookup of the Actions cache found something.
    CacheResult { Hit = "hit", Miss = "miss" }
    /// What the Actions cache was asked to do, and did.
    CacheOperation { Reserve = "reserve", Commit = "commit", Download = "download" }
    /// A kind of request of the Actions cache.
    CacheCall { Reserve = "reserve", Commit = "commit", Get = "get", Download = "download" }
    /// Why something left the Actions cache.
    CacheEviction { Ttl = "ttl", Quota = "quota", Stale = "stale", Orphan = "orphan" }
    /// Why the Actions cache refused a token.
    CacheRefusal {
        Missing = "missing",
        Malformed = "malformed",
        Signature = "signature",
        Expired = "expired",
        Scope = "scope",
    }
    /// The first digit of an HTTP status, or that there was no answer.
    StatusClass {
        Informational = "1xx",
        Success = "2xx",
        Redirect = "3xx",
        ClientError = "4xx",
        ServerError = "5xx",
        NoAnswer = "error",
    }
    /// An HTTP method.
    Method {
        Get = "GET",
        Head = "HEAD",
        Post = "POST",
        Put = "PUT",
        Patch = "PATCH",
        Delete = "DELETE",
        Options = "OPTIONS",
        Other = "other",
    }
    /// What became of a fleet request; `partial`: fewer instances than asked for.
    FleetResult { Success = "success", Partial = "partial", Failure = "failure" }
    /// How a call of AWS failed; `timeout` is also a caller that gave up.
    CallFailure { Timeout = "timeout", Error = "error" }
    /// What a housekeeping task acted upon.
    HousekeepingAction {
        OrphanedInstances = "orphaned_instances",
        UnownedMembers = "unowned_members",
        StaleAmi = "stale_ami",
        SpotRequests = "spot_requests",
        SsmParams = "ssm_params",
        DeadAssignment = "dead_assignment",
        JobRecords = "job_records",
        OrphanedJobs = "orphaned_jobs",
        StaleJobs = "stale_jobs",
        UnconfirmedRunners = "unconfirmed_runners",
        OrphanedRunners = "orphaned_runners",
        DlqRedrive = "dlq_redrive",
        ExpiredClaims = "expired_claims",
        EphemeralPools = "ephemeral_pools",
    }
    /// How a run of a housekeeping task ended.
    RunResult {
        Ok = "ok",
        Error = "error",
        Aborted = "aborted",
        SkippedLock = "skipped_lock",
        Throttled = "throttled",
    }
    /// What became of a request for a run.
    RequestResult {
        Done = "done",
        Failed = "failed",
        Locked = "locked",
        Coalesced = "coalesced",
        Retired = "retired",
        Unknown = "unknown",
        Malformed = "malformed",
    }
    /// How a term of leadership began (`acquired`) or ended.
    LeaderTransition {
        Acquired = "acquired",
        Deposed = "deposed",
        Lapsed = "lapsed",
        Released = "released",
        Voluntary = "voluntary",
    }
    /// A kind of row that leaders write.
    FencedRow { Pool = "pool", Task = "task" }
    /// Where log lines were lost.
    LogBackend { Stdout = "stdout" }
}

impl From<u16> for StatusClass {
    fn from(status: u16) -> Self {
        match status {
            100..=199 => Self::Informational,
            200..=299 => Self::Success,
            300..=399 => Self::Redirect,
            400..=499 => Self::ClientError,
            500..=599 => Self::ServerError,
            _ => Self::NoAnswer,
        }
    }
}

/// A job we gave up on, by the task that did: the word of `SettleReason::scheduling_failure`. A word that is not in the
/// list is counted as `other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulingFailure(pub &'static str);

impl SchedulingFailure {
    const WORDS: &'static [&'static str] = &[
        "job_claim",
        "fleet_create",
        "bootstrap_failed",
        "unconfirmed_runners",
        "operator_requeue",
        "job_still_queued",
        "deadline",
        "no_message",
        "windows_unsupported",
        OTHER,
    ];
}

impl Label for SchedulingFailure {
    const CLOSED: Option<&'static [&'static str]> = Some(Self::WORDS);
    fn with<R>(&self, _: &Seen, f: impl FnOnce(&str) -> R) -> R {
        f(if Self::WORDS.contains(&self.0) { self.0 } else { OTHER })
    }
}

/// The rule of the binding table that applied, 0 to 6; 3 and 4 are thefts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindRule(pub u8);

impl Label for BindRule {
    const CLOSED: Option<&'static [&'static str]> = Some(&["0", "1", "2", "3", "4", "5", "6"]);
    fn with<R>(&self, _: &Seen, f: impl FnOnce(&str) -> R) -> R {
        f(Self::CLOSED.and_then(|words| words.get(usize::from(self.0))).unwrap_or(&OTHER))
    }
}

impl Label for RequeueReason {
    const CLOSED: Option<&'static [&'static str]> = Some(&[
        "shutdown",
        "on_demand_fallback",
        "capacity_wait",
        "transient",
        "permanent",
        "claim_exhausted",
        "runner_stolen",
        "served_elsewhere",
        "job_still_queued",
        "bootstrap_failed",
        "spot_interruption",
        "unconfirmed_runners",
        "stale_queued",
        "orphan_queued",
        "operator_requeue",
    ]);
    fn with<R>(&self, _: &Seen, f: impl FnOnce(&str) -> R) -> R {
        f(self.as_str())
    }
}

/// Empty when the job takes either.
impl Label for Option<Arch> {
    const CLOSED: Option<&'static [&'static str]> = Some(&["", "arm64", "amd64"]);
    fn with<R>(&self, _: &Seen, f: impl FnOnce(&str) -> R) -> R {
        f(self.map_or("", Arch::as_str))
    }
}

/// `none` when there is no record. Not a closed list: most pairs of states cannot happen.
impl Label for Option<JobState> {
    const CLOSED: Option<&'static [&'static str]> = None;
    fn with<R>(&self, _: &Seen, f: impl FnOnce(&str) -> R) -> R {
        f(self.map_or("none", JobState::as_str))
    }
}

/// A word of this program: as many as its text has.
impl Label for &'static str {
    const CLOSED: Option<&'static [&'static str]> = None;
    fn with<R>(&self, _: &Seen, f: impl FnOnce(&str) -> R) -> R {
        f(self)
    }
}

impl Label for &Repo {
    const CLOSED: Option<&'static [&'static str]> = None;
    fn with<R>(&self, seen: &Seen, f: impl FnOnce(&str) -> R) -> R {
        f(seen.repos.admit(self.as_str(), REPO_CAP))
    }
}

/// A repository of the Actions cache. Who sets its gauge shows a bounded number and removes the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheRepo<'a>(pub &'a str);

impl Label for CacheRepo<'_> {
    const CLOSED: Option<&'static [&'static str]> = None;
    fn with<R>(&self, _: &Seen, f: impl FnOnce(&str) -> R) -> R {
        f(self.0)
    }
}

/// Empty for a job without a pool. A [`PoolName`] cannot be a reserved row of the pools table.
impl Label for Option<&PoolName> {
    const CLOSED: Option<&'static [&'static str]> = None;
    fn with<R>(&self, seen: &Seen, f: impl FnOnce(&str) -> R) -> R {
        f(self.map_or("", |pool| seen.pools.admit(pool.as_str(), POOL_CAP)))
    }
}

impl Label for InstallationId {
    const CLOSED: Option<&'static [&'static str]> = None;
    fn with<R>(&self, seen: &Seen, f: impl FnOnce(&str) -> R) -> R {
        f(seen.installations.admit(&self.to_string(), INSTALLATION_CAP))
    }
}

/// The template of an HTTP route (`/api/jobs/{id}`), never a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<'a>(pub &'a str);

impl Label for Route<'_> {
    const CLOSED: Option<&'static [&'static str]> = None;
    fn with<R>(&self, seen: &Seen, f: impl FnOnce(&str) -> R) -> R {
        f(seen.routes.admit(self.0, ROUTE_CAP))
    }
}

/// The family of an instance type (`c7g`), as the provider named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family<'a>(pub &'a str);

impl<'a> Family<'a> {
    /// The family of a whole type: what stands before the dot. Empty when the type is unknown.
    pub fn of(instance_type: &'a str) -> Self {
        Self(instance_type.split_once('.').map_or(instance_type, |(family, _)| family))
    }
}

impl Label for Family<'_> {
    const CLOSED: Option<&'static [&'static str]> = None;
    fn with<R>(&self, seen: &Seen, f: impl FnOnce(&str) -> R) -> R {
        f(seen.families.admit(self.0, FAMILY_CAP))
    }
}

/// A service of AWS or one of its operations, as the SDK names it (`DynamoDB`, `GetItem`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AwsName<'a>(pub &'a str);

impl Label for AwsName<'_> {
    const CLOSED: Option<&'static [&'static str]> = None;
    fn with<R>(&self, seen: &Seen, f: impl FnOnce(&str) -> R) -> R {
        f(seen.aws_names.admit(self.0, CALL_CAP))
    }
}
