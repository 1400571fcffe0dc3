//! Every metric there is. A line here is the name, the labels, the help text and the method that emits it.

use std::time::Duration;

use domain::ids::{InstallationId, PoolName, Repo};
use domain::job::JobState;
use domain::job::transition::RequeueReason;
use domain::launch::Arch;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use super::labels::*;
use super::{Counter, Declaration, Gauge, Histogram, Kind, Metrics};

/// Waits: half a second to half an hour.
const WAIT: &[f64] =
    &[0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1800.0];
/// Jobs: ten seconds to a day.
const JOB: &[f64] =
    &[10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 21600.0, 43200.0, 86400.0];
/// Short work inside the process.
const SHORT: &[f64] = &[0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];
/// Members of a batch.
const SIZE: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0];
/// Calls over the network.
const CALL: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0];

/// Borrows the shown value of each label in turn, then runs the body with all of them.
macro_rules! with_labels {
    ($seen:expr, [$($done:ident)*], [], $shown:ident => $body:expr) => {{
        let $shown: &[&str] = &[$($done),*];
        $body
    }};
    ($seen:expr, [$($done:ident)*], [$label:ident $($rest:ident)*], $shown:ident => $body:expr) => {
        Label::with(&$label, $seen, |$label| with_labels!($seen, [$($done)* $label], [$($rest)*], $shown => $body))
    };
}

macro_rules! per_kind {
    (family counter) => {
        Counter
    };
    (family gauge) => {
        Gauge
    };
    (family histogram) => {
        Histogram
    };
    (kind counter) => {
        Kind::Counter
    };
    (kind gauge) => {
        Kind::Gauge
    };
    (kind histogram $buckets:ident) => {
        Kind::Histogram($buckets)
    };
}

macro_rules! emit {
    (counter $(#[$help:meta])+ $method:ident ($($label:ident: $ty:ty),*)) => {
        $(#[$help])+
        pub fn $method(&self, $($label: $ty),*) {
            with_labels!(&self.inner.seen, [], [$($label)*], shown => self.inner.families.$method.add(shown))
        }
    };
    (gauge $(#[$help:meta])+ $method:ident ($($label:ident: $ty:ty),*)) => {
        $(#[$help])+
        ///
        /// `None` removes the series: not counted, or no longer ours to count.
        pub fn $method(&self, $($label: $ty,)* value: Option<f64>) {
            with_labels!(&self.inner.seen, [], [$($label)*], shown => self.inner.families.$method.set(shown, value))
        }
    };
    (histogram $(#[$help:meta])+ $method:ident ($($label:ident: $ty:ty),*)) => {
        $(#[$help])+
        pub fn $method(&self, $($label: $ty,)* took: Duration) {
            with_labels!(&self.inner.seen, [], [$($label)*], shown => self.inner.families.$method.observe(shown, took))
        }
    };
}

macro_rules! metrics {
    ($( $(#[doc = $help:literal])+ $kind:ident $(<$buckets:ident>)? $method:ident = $name:literal
        ($($label:ident: $ty:ty),*); )+) => {
        /// Every metric there is, in the order of the source.
        pub const DECLARATIONS: &[Declaration] = &[$( Declaration {
            name: $name,
            kind: per_kind!(kind $kind $($buckets)?),
            parameters: &[$(stringify!($label)),*],
            help: concat!($($help),+),
        } ),+];

        pub(super) struct Families {
            $($method: per_kind!(family $kind)),+
        }

        impl Families {
            pub(super) fn register(registry: &Registry) -> Self {
                let mut declarations = DECLARATIONS.iter();
                Self { $( $method: {
                    let closed: &[Option<&'static [&'static str]>] = &[$(<$ty as Label>::CLOSED),*];
                    <per_kind!(family $kind)>::declared(registry, declarations.next(), closed)
                } ),+ }
            }
        }

        impl Metrics {
            $( emit!($kind $(#[doc = $help])+ $method ($($label: $ty),*)); )+
        }
    };
}

metrics! {
    // --- the life of a job -----------------------------------------------------------------------------------------
    /// Job messages accepted by the queue.
    counter jobs_enqueued = "jobs_enqueued_total"
        (pool: Option<&PoolName>, arch: Option<Arch>, capacity: Capacity, repo: &Repo);
    /// Jobs a machine was committed to.
    counter jobs_assigned = "jobs_assigned_total" (pool: Option<&PoolName>, source: Option<Source>, repo: &Repo);
    /// First `started` reports of a job's runner.
    counter runner_confirmed = "runner_confirmed_total" (pool: Option<&PoolName>);
    /// Job records that became terminal, by our outcome.
    counter jobs_completed = "jobs_completed_total" (pool: Option<&PoolName>, result: JobResult, repo: &Repo);
    /// Jobs that went back to pending.
    counter jobs_requeued = "jobs_requeued_total" (reason: RequeueReason);
    /// Duplicates discarded after the claim failed.
    counter jobs_deduplicated = "jobs_deduplicated_total" (path: DedupPath);
    /// Seconds from queued to assigned.
    histogram<WAIT> job_wait = "job_wait_seconds" (pool: Option<&PoolName>, source: Option<Source>);
    /// Seconds from GitHub's `created_at` to its `started_at`.
    histogram<WAIT> job_startup = "job_startup_seconds" (pool: Option<&PoolName>, source: Option<Source>);
    /// Seconds an agent spent in a part of its start, as it reported.
    histogram<WAIT> agent_bootstrap = "agent_bootstrap_seconds" (pool: Option<&PoolName>, phase: BootstrapPhase);
    /// Seconds from started to completed.
    histogram<JOB> job_execution = "job_execution_seconds" (pool: Option<&PoolName>, result: JobResult);
    /// Jobs we gave up on; must stay 0.
    counter scheduling_failure = "scheduling_failure_total" (task_type: SchedulingFailure);

    // --- webhooks --------------------------------------------------------------------------------------------------
    /// Webhooks handled, by what became of them.
    counter webhook_events = "webhook_events_total"
        (event: WebhookEvent, action: Option<WebhookAction>, result: WebhookResult);
    /// Webhooks refused before they were understood.
    counter webhook_rejected = "webhook_rejected_total" (ingress: Ingress, reason: &'static str);
    /// Seconds from the first byte of a webhook to its answer.
    histogram<SHORT> webhook_handler = "webhook_handler_seconds" ();
    /// Failed deliveries we asked GitHub to repeat.
    counter webhook_redelivered = "webhook_redelivered_total" ();
    /// Jobs found although their webhook never arrived.
    counter webhook_recovered = "webhook_recovered_total" (source: RecoverySource);
    /// Label sets that ask for us and cannot be served.
    counter label_rejected = "label_rejected_total" (category: &'static str);
    /// Jobs whose record carries no labels to register a runner with.
    counter label_lost = "label_lost_total" ();
    /// Wake-up messages that could not be sent at once and were left to the outbox.
    counter ingest_send_deferred = "ingest_send_deferred_total" ();

    // --- dispatch --------------------------------------------------------------------------------------------------
    /// Seconds of one dispatch attempt.
    histogram<WAIT> dispatch_attempt = "dispatch_attempt_seconds" (path: &'static str, outcome: &'static str);
    /// Jobs waiting for a machine.
    gauge pending_jobs = "pending_jobs" ();
    /// Age of the job that waits longest, in seconds.
    gauge oldest_pending = "oldest_pending_seconds" ();
    /// Leases taken over from a holder that died.
    counter lease_stolen = "lease_stolen_total" ();
    /// Attempts that found their lease gone.
    counter lease_lost = "lease_lost_total" ();
    /// Claims refused because another attempt holds the lease.
    counter claim_contended = "claim_contended_total" ();
    /// Jobs launched by one request: a size, not seconds.
    histogram<SIZE> fleet_batch_size = "fleet_batch_size" ();
    /// Machines ended because no job was left for them.
    counter surplus_instances_terminated = "surplus_instances_terminated_total" (cause: &'static str);
    /// State changes of job records.
    counter transition = "transition_total" (event: &'static str, from: Option<JobState>, to: Option<JobState>);
    /// Re-runs of jobs whose machine we lost.
    counter job_reruns = "job_reruns_total" (result: RerunResult);

    // --- what the cloud announces ------------------------------------------------------------------------------------
    /// Spot machines of ours that are taken back, once for each.
    counter spot_interruptions = "spot_interruptions_total" (family: Family<'_>);
    /// Spot machines of ours that are likely to be taken back.
    counter rebalance_recommendations = "rebalance_recommendations_total" (family: Family<'_>);
    /// Seconds from an event of the cloud to its handling.
    histogram<WAIT> event_age = "event_age_seconds" (detail_type: &'static str);

    // --- runners and GitHub ----------------------------------------------------------------------------------------
    /// Bindings of a job to the runner GitHub named, by rule; 3 and 4 are thefts.
    counter runner_bind = "runner_bind_total" (rule: BindRule);
    /// Bindings repeated because a record had changed in between.
    counter runner_bind_conflicts = "runner_bind_conflicts_total" ();
    /// Runner registrations deleted at GitHub.
    counter registrations_deleted = "registrations_deleted_total" ();
    /// Installation tokens minted.
    counter github_token_mints = "github_token_mints_total" ();
    /// Seconds of one call of GitHub's REST API.
    histogram<CALL> github_api = "github_api_seconds" (endpoint: &'static str);
    /// Calls of GitHub's REST API.
    counter github_api_requests = "github_api_requests_total" (endpoint: &'static str, status_class: StatusClass);
    /// Calls GitHub will still answer in this hour.
    gauge github_rate_limit_remaining = "github_rate_limit_remaining" (installation: InstallationId);

    // --- AWS -------------------------------------------------------------------------------------------------------
    /// Seconds of one call of AWS.
    histogram<CALL> aws_call_duration = "aws_call_duration_seconds" (service: AwsName<'_>, operation: AwsName<'_>);
    /// Calls of AWS that failed.
    counter aws_call_failures = "aws_call_failures_total" (
        service: AwsName<'_>,
        operation: AwsName<'_>,
        result: CallFailure
    );

    // --- EC2 fleets ------------------------------------------------------------------------------------------------
    /// Fleet requests answered or given up.
    counter fleet_create = "fleet_create_total" (capacity: Capacity, result: FleetResult);
    /// Seconds of the call that created a fleet.
    histogram<CALL> fleet_create_time = "fleet_create_seconds" (capacity: Capacity);
    /// Instances launched.
    counter fleet_instances_launched = "fleet_instances_launched_total" (capacity: Capacity, family: Family<'_>);
    /// Errors in answers to fleet requests.
    counter fleet_capacity_errors = "fleet_capacity_errors_total" (family: Family<'_>, code: &'static str);
    /// 1 while launches fail for a quota of the account.
    gauge fleet_quota_exceeded = "fleet_quota_exceeded" ();
    /// 1 while launches fail because the deployment is wrong.
    gauge fleet_config_error = "fleet_config_error" ();
    /// Circuits that opened: spot capacity of this type is avoided.
    counter circuit_breaker_trip = "circuit_breaker_trip_total" (instance_type: &'static str);
    /// 1 while a circuit of this type is open.
    gauge circuit_breaker_open = "circuit_breaker_open" (instance_type: &'static str);

    // --- warm pools ------------------------------------------------------------------------------------------------
    /// Machines of a pool, by what they are to it; the leader counts them.
    gauge pool_instances = "pool_instances" (pool: Option<&PoolName>, state: PoolState);
    /// Spares a pool should have; the leader counts them.
    gauge pool_desired = "pool_desired" (pool: Option<&PoolName>, kind: SpareKind);
    /// Machines of a pool, by where they stand; the leader counts them.
    gauge instances = "instances" (state: InstanceState, capacity: Capacity, pool: Option<&PoolName>);
    /// 0 while a pool makes no machines because new ones keep failing, else 1; the leader says so.
    gauge pool_health = "pool_health" (pool: Option<&PoolName>);
    /// Machines that a pass acted on.
    counter pool_actions = "pool_actions_total" (pool: Option<&PoolName>, action: PoolAction, reason: &'static str);
    /// Machines of a pool that could not be made.
    counter pool_create_failures = "pool_create_failures_total" (pool: Option<&PoolName>, error: &'static str);
    /// Settings of pools that mean nothing.
    counter pool_config_invalid = "pool_config_invalid_total" (field: &'static str);
    /// Ephemeral pools that were not made because there are too many.
    counter pool_refused = "pool_refused_total" ();
    /// Seconds of one pass over one pool.
    histogram<SHORT> pool_reconcile = "pool_reconcile_seconds" ();
    /// Seconds since the last pass over a pool that worked; the leader counts them.
    gauge pool_reconcile_age = "pool_reconcile_age_seconds" (pool: Option<&PoolName>);
    /// Seconds until a pool's lock was had, or given up.
    histogram<SHORT> lock_wait = "lock_wait_seconds" (lock: &'static str);
    /// Looks at a warm pool for a job, by what came of them.
    counter pool_assign = "pool_assign_total" (pool: Option<&PoolName>, result: PoolAssign);
    /// Spares that could not be given back: their claim runs out by itself.
    counter pool_rollback_failed = "pool_rollback_failed_total" ();

    // --- queues ----------------------------------------------------------------------------------------------------
    /// Messages deliverable now.
    gauge queue_depth = "queue_depth" (queue: QueueName);
    /// Messages delivered and not yet acknowledged.
    gauge queue_inflight = "queue_inflight" (queue: QueueName);
    /// Seconds from a message's send to its receive.
    histogram<WAIT> message_age = "message_age_seconds" (queue: QueueName);
    /// Receive calls; empty ones are counted for the main queue only.
    counter queue_receive = "queue_receive_total" (queue: QueueName, result: ReceiveResult);
    /// Seconds of handling one message.
    histogram<SHORT> message_processing = "message_processing_seconds" (queue: QueueName, result: Processed);
    /// Messages that were handled and could not be deleted.
    counter message_deletion_failures = "message_deletion_failures_total" (queue: QueueName);
    /// Messages that can never succeed, sent to the dead-letter queue.
    counter poison_messages = "poison_messages_total" (queue: QueueName, reason: &'static str);
    /// Messages whose invisibility could not be kept up while they were handled.
    counter visibility_lost = "visibility_lost_total" (queue: QueueName);
    /// Messages being handled now.
    gauge worker_inflight = "worker_inflight" (queue: QueueName);

    // --- housekeeping ----------------------------------------------------------------------------------------------
    /// Things a housekeeping task acted upon.
    counter housekeeping_actions = "housekeeping_actions_total" (action: HousekeepingAction);
    /// Runs of housekeeping tasks.
    counter housekeeping_runs = "housekeeping_runs_total" (task: &'static str, result: RunResult);
    /// Age of a task's last success, in seconds; the leader counts it.
    gauge housekeeping_last_success_age = "housekeeping_last_success_age_seconds" (task: &'static str);
    /// Things a task left alone because it could not tell.
    counter housekeeping_unknown = "housekeeping_unknown_total" (task: &'static str);
    /// Runs that left something for the next one because a budget was spent.
    counter housekeeping_deferred = "housekeeping_deferred_total" (task: &'static str);
    /// Requests for a run that came by the queue, by what became of them.
    counter housekeeping_messages = "housekeeping_messages_total" (result: RequestResult);
    /// 1 while a task does nothing.
    gauge housekeeping_disabled = "housekeeping_disabled" (task: &'static str, reason: &'static str);
    /// Job records that are due to be archived and have no archive.
    gauge job_records_unarchived = "job_records_unarchived" ();

    // --- the leader --------------------------------------------------------------------------------------------------
    /// 1 while this replica leads, else 0.
    gauge leader = "leader" ();
    /// The number of the term this replica leads; larger in every later term.
    gauge leader_token = "leader_token" ();
    /// Terms of this replica that began and ended, by why.
    counter leader_transitions = "leader_transitions_total" (reason: LeaderTransition);
    /// Seconds until a renewal of the lease was answered, or given up.
    histogram<SHORT> leader_renew = "leader_renew_seconds" ();
    /// Writes refused because a later leader had written the row.
    counter leader_fence_rejections = "leader_fence_rejections_total" (row: FencedRow);

    // --- the process -----------------------------------------------------------------------------------------------
    /// Supervised tasks that died and were restarted.
    counter task_panics = "task_panics_total" (task: &'static str);
    /// HTTP requests answered.
    counter http_requests = "http_requests_total" (route: Route<'_>, method: Method, status_class: StatusClass);
    /// Seconds of answering an HTTP request.
    histogram<SHORT> http_request = "http_request_seconds"
        (route: Route<'_>, method: Method, status_class: StatusClass);
    /// Warnings of the configuration, by code.
    gauge config_warnings = "config_warnings" (code: &'static str);
    /// 1, with what this process is.
    gauge build_info = "build_info" (version: &'static str, commit: &'static str, arch: &'static str);
    /// Log lines dropped because the writer fell behind.
    counter log_events_dropped = "log_events_dropped_total" (backend: LogBackend);
}

impl Families {
    /// Removes the series that the rules of emission exclude although their labels are closed lists.
    pub(super) fn forget_unused_series(&self) {
        for queue in QueueName::ALL.iter().filter(|q| **q != QueueName::Main) {
            drop(self.queue_receive.0.remove_label_values(&[queue.as_str(), ReceiveResult::Empty.as_str()]));
        }
    }
}

/// Registration of one declaration. All of them are constants, and a test registers every one.
#[allow(clippy::expect_used, reason = "names and labels are constants, registered by a test")]
mod declared {
    use super::*;

    fn opts(declaration: Option<&'static Declaration>) -> (&'static Declaration, Opts) {
        let declaration = declaration.expect("one declaration per family");
        (declaration, Opts::new(declaration.name, declaration.help.trim()))
    }

    impl Counter {
        pub(super) fn declared(
            registry: &Registry,
            declaration: Option<&'static Declaration>,
            closed: &[Option<&'static [&'static str]>],
        ) -> Self {
            let (declaration, opts) = opts(declaration);
            let family =
                IntCounterVec::new(opts, &declaration.labels().collect::<Vec<_>>()).expect("a valid declaration");
            registry.register(Box::new(family.clone())).expect("a name of its own");
            Self(family).start(closed)
        }
    }

    impl Gauge {
        pub(super) fn declared(
            registry: &Registry,
            declaration: Option<&'static Declaration>,
            _: &[Option<&'static [&'static str]>],
        ) -> Self {
            let (declaration, opts) = opts(declaration);
            let family = GaugeVec::new(opts, &declaration.labels().collect::<Vec<_>>()).expect("a valid declaration");
            registry.register(Box::new(family.clone())).expect("a name of its own");
            Self(family)
        }
    }

    impl Histogram {
        pub(super) fn declared(
            registry: &Registry,
            declaration: Option<&'static Declaration>,
            _: &[Option<&'static [&'static str]>],
        ) -> Self {
            let (declaration, opts) = opts(declaration);
            let mut opts = HistogramOpts::from(opts);
            if let Kind::Histogram(buckets) = declaration.kind {
                opts = opts.buckets(buckets.to_vec());
            }
            let family =
                HistogramVec::new(opts, &declaration.labels().collect::<Vec<_>>()).expect("a valid declaration");
            registry.register(Box::new(family.clone())).expect("a name of its own");
            Self(family)
        }
    }
}
