//! The job record as a row, and rows as job records: ours, and those the Go implementation left behind.
//!
//! The message is stored whole (`job_message`) and, for people, for the Go implementation after a roll-back and for
//! queries, once more as columns. Reading trusts the whole message; the columns serve only where it is missing.

use std::time::Duration;

use domain::clock::{Timestamp, after};
use domain::gh;
use domain::ids::{ClassKey, InstallationId, JobId, LaunchId, LeaseToken, Repo, RunId, RunnerId, RunnerKey};
use domain::job::{Job, JobState, Lease, Milestone, RerunState, Sighting, Timeline};
use domain::launch::LaunchSpec;
use domain::message::JobMessage;

use crate::attrs::{self, Row};
use crate::table::{Item, Value};

/// Attributes this codec owns, besides the key, `version` and the milestones. An update of a row of the Go
/// implementation brings exactly these into our form.
pub(super) const OWNED: &[&str] = &[
    "availability_zone",
    "backend",
    "claim_attempts",
    "class_key",
    "completed_at",
    "conclusion",
    "created_at",
    "dispatch_seq",
    "displaced_count",
    "duration_seconds",
    "exit_code",
    "force_on_demand",
    "gh_completed_at",
    "gh_conclusion",
    "gh_seen_at",
    "gh_status",
    "hot_pool_hit",
    "in_progress_at",
    "installation_id",
    "instance_id",
    "instance_type",
    "job_message",
    "job_name",
    "label_warnings",
    "labels",
    "last_error",
    "launch_id",
    "lease_expires_at",
    "lease_owner",
    "lease_token",
    "not_before",
    "original_label",
    "pool",
    "prepared_at",
    "private",
    "queued_at",
    "redrive_at",
    "repo",
    "requested_instance_type",
    "requeue_reason",
    "requeued_at",
    "rerun_state",
    "retry_count",
    "run_attempt",
    "run_id",
    "runner_id",
    "runner_name",
    "runner_spec",
    "settled_reason",
    "spot",
    "started_at",
    "status",
    "trace_id",
    "ttl",
    "warm_pool_hit",
    "workflow_name",
];

/// How long a claim of the Go implementation holds, from its `created_at`.
const GO_LEASE: Duration = Duration::from_secs(100);

/// The stored form of an id; ids are at most `i64::MAX` by construction.
pub(super) fn key(id: JobId) -> Value {
    Value::N(i64::try_from(id.get()).unwrap_or(i64::MAX))
}

/// The row, without its version.
pub(super) fn encode(job: &Job) -> Item {
    let mut row = Row(encode_bare(job));
    if let Some(message) = &job.message {
        columns(&mut row, message);
    }
    row.0
}

/// The row without what only its message says: most writes leave that alone, and it is more than half of the work.
pub(super) fn encode_bare(job: &Job) -> Item {
    let mut row = Row::default();
    row.put("job_id", key(job.id));
    row.put("status", job.state.as_str());
    row.text("pool", job.message.as_ref().and_then(|message| message.spec.pool.as_ref()).map(|pool| pool.as_str()));
    row.text("instance_id", job.instance.as_ref().map(RunnerKey::as_str));
    row.text("instance_type", job.instance_type.as_ref());
    row.text("availability_zone", job.availability_zone.as_ref());
    row.put("spot", job.spot);
    row.flag("warm_pool_hit", job.warm_pool_hit);
    row.flag("hot_pool_hit", job.hot_pool_hit);
    row.put("retry_count", job.retry_count);
    row.put("claim_attempts", job.claim_attempts);
    row.count("displaced_count", job.displaced_count);
    row.count("dispatch_seq", job.dispatch_seq);
    row.flag("force_on_demand", job.force_on_demand);
    row.time("created_at", Some(job.created_at));
    row.time("queued_at", Some(job.queued_at));
    row.time("requeued_at", job.requeued_at);
    row.time("not_before", job.not_before);
    row.time("redrive_at", job.redrive_at);
    row.text("requeue_reason", job.requeue_reason.as_ref());
    if let Some(lease) = &job.lease {
        row.text("lease_token", Some(lease.token.as_str()));
        row.text("lease_owner", Some(&lease.owner));
        row.whole("lease_expires_at", lease.until.map(Timestamp::as_millisecond));
    }
    row.text("launch_id", job.launch_id.as_ref().map(LaunchId::as_str));
    row.time("prepared_at", job.prepared_at);
    row.time("started_at", job.started_at);
    row.time("completed_at", job.completed_at);
    row.whole("exit_code", job.exit_code);
    row.whole("duration_seconds", job.duration_seconds);
    row.text("conclusion", job.conclusion.as_ref());
    row.texts("label_warnings", &job.label_warnings);
    row.text("class_key", job.class.as_ref().map(ClassKey::as_str));
    row.text("runner_name", job.runner_name.as_ref());
    row.whole("runner_id", job.runner_id.map(RunnerId::get));
    row.time("in_progress_at", job.in_progress_at);
    if let Some(sighting) = &job.sighting {
        row.text("gh_status", Some(sighting.status.as_str()));
        if let gh::Status::Completed(conclusion) = sighting.status {
            row.text("gh_conclusion", Some(conclusion.as_str()));
        }
        row.time("gh_seen_at", Some(sighting.at));
        row.time("gh_completed_at", sighting.completed_at);
    }
    row.text("rerun_state", job.rerun.map(RerunState::as_str));
    for (attempt, milestone, at) in job.timeline.iter() {
        row.put(&format!("tl_{attempt}_{}", milestone.as_str()), at);
    }
    row.text("last_error", job.last_error.as_ref());
    row.text("settled_reason", job.settled_reason.as_ref());
    row.seconds("ttl", job.ttl);
    row.0
}

fn columns(row: &mut Row, message: &JobMessage) {
    let JobMessage { spec, .. } = message;
    row.text("job_message", Some(message.encode()));
    row.whole("run_id", message.run_id.map(RunId::get));
    row.text("repo", Some(message.repo.as_str()));
    row.text("requested_instance_type", Some(&spec.instance_type));
    row.put("private", spec.private);
    row.text("runner_spec", Some(&spec.runner_spec));
    row.text("backend", Some(&spec.backend));
    row.text("original_label", Some(&message.original_label));
    row.texts("labels", &message.labels);
    row.whole("installation_id", message.installation_id.map(InstallationId::get));
    row.text("job_name", Some(&message.job_name));
    row.text("workflow_name", Some(&message.workflow_name));
    row.put("run_attempt", message.run_attempt);
    row.text("trace_id", message.traceparent.as_deref().and_then(trace_id));
}

/// The trace id of a W3C traceparent, if that has its four parts.
fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let (_version, id, _parent, _flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    (id.len() == 32 && parts.next().is_none()).then_some(id)
}

/// The record, or why this release cannot read it.
pub(super) fn decode(item: &Item) -> Result<Job, String> {
    let job = decode_bare(item)?;
    Ok(Job { message: message(item, job.id, job.retry_count), ..job })
}

/// The record without its message.
pub(super) fn decode_bare(item: &Item) -> Result<Job, String> {
    let id = attrs::whole(item, "job_id")
        .and_then(|id| JobId::new(u64::try_from(id).ok()?))
        .ok_or_else(|| "a job without job_id".to_owned())?;
    let word = attrs::text(item, "status").unwrap_or_default();
    let state = JobState::parse(word).ok_or_else(|| format!("job {id} has the unknown status {word:?}"))?;
    let stamped = attrs::time(item, "created_at");
    let queued_at = attrs::time(item, "queued_at").or(stamped).unwrap_or(Timestamp::UNIX_EPOCH);
    let created_at = stamped.unwrap_or(queued_at);

    let lease = match attrs::text(item, "lease_token") {
        Some(token) => Some(Lease {
            token: token.into(),
            owner: attrs::string(item, "lease_owner").unwrap_or_default(),
            until: attrs::whole(item, "lease_expires_at").and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        }),
        // A claim of the Go implementation: no token, its age is its lease. An unreadable age is a dead lease.
        None if state == JobState::Claiming => Some(Lease {
            token: LeaseToken::new(""),
            owner: String::new(),
            until: stamped.map(|at| after(at, GO_LEASE)),
        }),
        None => None,
    };
    let unfenced = lease.as_ref().is_none_or(|lease| lease.token.as_str().is_empty());
    let stored_retries = attrs::count(item, "retry_count").unwrap_or(0);
    // While claiming, the Go implementation counts its strikes in `retry_count`; the queue's message has the retries.
    let (retry_count, strikes) = match attrs::count(item, "claim_attempts") {
        Some(strikes) => (stored_retries, strikes),
        None if state == JobState::Claiming && unfenced => (0, stored_retries.max(1)),
        None => (stored_retries, 0),
    };
    // It also never said when a machine was prepared; its bound jobs always were.
    let prepared_at =
        attrs::time(item, "prepared_at").or((state == JobState::Launched && unfenced).then_some(created_at));

    Ok(Job {
        id,
        version: attrs::count(item, "version").unwrap_or(0),
        state,
        message: None,
        instance: attrs::text(item, "instance_id").map(RunnerKey::from),
        instance_type: attrs::string(item, "instance_type"),
        availability_zone: attrs::string(item, "availability_zone"),
        spot: attrs::flag(item, "spot"),
        warm_pool_hit: attrs::flag(item, "warm_pool_hit"),
        hot_pool_hit: attrs::flag(item, "hot_pool_hit"),
        retry_count,
        claim_attempts: strikes,
        displaced_count: attrs::count(item, "displaced_count").unwrap_or(0),
        dispatch_seq: attrs::count(item, "dispatch_seq").unwrap_or(0),
        force_on_demand: attrs::flag(item, "force_on_demand"),
        created_at,
        queued_at,
        requeued_at: attrs::time(item, "requeued_at"),
        not_before: attrs::time(item, "not_before"),
        redrive_at: attrs::time(item, "redrive_at"),
        requeue_reason: attrs::string(item, "requeue_reason"),
        lease,
        launch_id: attrs::text(item, "launch_id").map(LaunchId::from),
        prepared_at,
        started_at: attrs::time(item, "started_at"),
        completed_at: attrs::time(item, "completed_at"),
        exit_code: attrs::whole(item, "exit_code"),
        duration_seconds: attrs::count(item, "duration_seconds"),
        conclusion: attrs::string(item, "conclusion"),
        label_warnings: attrs::texts(item, "label_warnings"),
        class: attrs::text(item, "class_key").map(ClassKey::from),
        runner_name: attrs::string(item, "runner_name"),
        runner_id: attrs::count(item, "runner_id").and_then(RunnerId::new),
        in_progress_at: attrs::time(item, "in_progress_at"),
        sighting: sighting(item),
        rerun: attrs::text(item, "rerun_state").and_then(RerunState::parse),
        timeline: timeline(item),
        last_error: attrs::string(item, "last_error"),
        settled_reason: attrs::string(item, "settled_reason"),
        ttl: attrs::seconds(item, "ttl"),
    })
}

/// The record after a step from `old`, whose message it has when that stayed the same.
pub(super) fn read_after(item: &Item, old: Job, same_message: bool) -> Result<Job, String> {
    if same_message { Ok(Job { message: old.message, ..decode_bare(item)? }) } else { decode(item) }
}

fn message(item: &Item, id: JobId, retry_count: u32) -> Option<JobMessage> {
    if let Some(json) = attrs::text(item, "job_message") {
        match JobMessage::decode(json) {
            Ok(decoded) => return Some(decoded.message),
            Err(error) => tracing::warn!(job_id = %id, %error, "stored message is unreadable; using the columns"),
        }
    }
    let repo: Repo = attrs::text(item, "repo")?.parse().ok()?;
    let instance_type = attrs::string(item, "requested_instance_type").or_else(|| attrs::string(item, "instance_type"));
    Some(JobMessage {
        job_id: id,
        run_id: attrs::count(item, "run_id").and_then(RunId::new),
        repo,
        spec: LaunchSpec {
            instance_type: instance_type.unwrap_or_default(),
            runner_spec: attrs::string(item, "runner_spec").unwrap_or_default(),
            pool: attrs::text(item, "pool").and_then(|name| name.parse().ok()),
            spot: attrs::flag(item, "spot"),
            private: attrs::flag(item, "private"),
            backend: attrs::string(item, "backend").unwrap_or_default(),
            ..LaunchSpec::default()
        },
        original_label: attrs::string(item, "original_label").unwrap_or_default(),
        labels: attrs::texts(item, "labels"),
        retry_count,
        force_on_demand: attrs::flag(item, "force_on_demand"),
        dispatch_seq: 0,
        displaced_count: 0,
        run_attempt: attrs::count(item, "run_attempt").unwrap_or(1),
        installation_id: attrs::count(item, "installation_id").and_then(InstallationId::new),
        job_name: attrs::string(item, "job_name").unwrap_or_default(),
        workflow_name: attrs::string(item, "workflow_name").unwrap_or_default(),
        created_at: None,
        queued_at: attrs::time(item, "queued_at").or_else(|| attrs::time(item, "created_at")),
        traceparent: None,
        unknown: serde_json::Map::new(),
    })
}

fn sighting(item: &Item) -> Option<Sighting> {
    let status = match attrs::text(item, "gh_status")? {
        "missing" => gh::Status::Missing,
        word => gh::Status::parse(word, attrs::text(item, "gh_conclusion").or_else(|| attrs::text(item, "conclusion"))),
    };
    let at = attrs::time(item, "gh_seen_at")?;
    Some(Sighting { status, at, completed_at: attrs::time(item, "gh_completed_at") })
}

fn timeline(item: &Item) -> Timeline {
    let mut timeline = Timeline::default();
    for (name, value) in item.range("tl_".to_owned()..) {
        let Some(rest) = name.strip_prefix("tl_") else { break };
        let Some((attempt, milestone)) = rest.split_once('_') else { continue };
        if let (Ok(attempt), Some(milestone), Value::N(at)) = (attempt.parse(), Milestone::parse(milestone), value) {
            timeline.stamp_ms(attempt, milestone, *at);
        }
    }
    timeline
}
