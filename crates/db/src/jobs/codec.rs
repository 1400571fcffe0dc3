//! The job record as a row, and rows as job records: ours, and those the Go implementation left behind.
//!
//! The message is stored whole (`job_message`) and, for people, for the Go implementation after a roll-back and for
//! queries, once more as columns. Reading trusts the whole message; the columns serve only where it is missing.

use std::sync::Arc;
use std::time::Duration;

use domain::clock::{self, Timestamp, whole_seconds};
use domain::gh;
use domain::ids::{ClassKey, InstallationId, JobId, LaunchId, LeaseToken, PoolName, Repo, RunId, RunnerId, RunnerKey};
use domain::job::{Job, JobState, Lease, Milestone, RerunState, Sighting, Timeline};
use domain::launch::LaunchSpec;
use domain::message::JobMessage;

use super::messages::Messages;
use crate::attrs::{self, Difference, Reader};
use crate::table::{Item, Update, Value};

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
    let whole = |row: &mut Difference<'_, Job>| {
        own(row);
        columns(row);
    };
    Difference::between(None, job, whole).set
}

/// What turns the row of `old`, if it is in our form, into that of `new`. Most steps leave the message alone, which is
/// more than half of the row.
pub(super) fn difference(old: &Job, new: &Job) -> Update {
    let same_message = same_message(old, new);
    Difference::between(Some(old), new, |row| {
        own(row);
        if !same_message {
            columns(row);
        }
    })
}

/// A record hands its message on from step to step, so that mostly it is the very same.
fn same_message(old: &Job, new: &Job) -> bool {
    match (&old.message, &new.message) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new) || old == new,
        (old, new) => old.is_none() && new.is_none(),
    }
}

/// The attributes of the record itself.
fn own(row: &mut Difference<'_, Job>) {
    row.value("job_id", |job| Some(job.id), key);
    row.put("status", |job| job.state.as_str());
    row.text("pool", pool);
    row.text("instance_id", |job| job.instance.as_ref().map(RunnerKey::as_str));
    row.text("instance_type", |job| job.instance_type.as_deref());
    row.text("availability_zone", |job| job.availability_zone.as_deref());
    row.put("spot", |job| job.spot);
    row.flag("warm_pool_hit", |job| job.warm_pool_hit);
    row.flag("hot_pool_hit", |job| job.hot_pool_hit);
    row.put("retry_count", |job| job.retry_count);
    row.put("claim_attempts", |job| job.claim_attempts);
    row.count("displaced_count", |job| job.displaced_count);
    row.count("dispatch_seq", |job| job.dispatch_seq);
    row.flag("force_on_demand", |job| job.force_on_demand);
    row.time("created_at", |job| Some(job.created_at));
    row.time("queued_at", |job| Some(job.queued_at));
    row.time("requeued_at", |job| job.requeued_at);
    row.time("not_before", |job| job.not_before);
    row.time("redrive_at", |job| job.redrive_at);
    row.text("requeue_reason", |job| job.requeue_reason.as_deref());
    row.text("lease_token", |job| job.lease.as_ref().map(|lease| lease.token.as_str()));
    row.text("lease_owner", |job| job.lease.as_ref().map(|lease| lease.owner.as_str()));
    row.whole("lease_expires_at", |job| job.lease.as_ref()?.until.map(Timestamp::as_millisecond));
    row.text("launch_id", |job| job.launch_id.as_ref().map(LaunchId::as_str));
    row.time("prepared_at", |job| job.prepared_at);
    row.time("started_at", |job| job.started_at);
    row.time("completed_at", |job| job.completed_at);
    row.whole("exit_code", |job| job.exit_code);
    row.whole("duration_seconds", |job| job.duration_seconds);
    row.text("conclusion", |job| job.conclusion.as_deref());
    row.texts("label_warnings", |job| &job.label_warnings);
    row.text("class_key", |job| job.class.as_ref().map(ClassKey::as_str));
    row.text("runner_name", |job| job.runner_name.as_deref());
    row.whole("runner_id", |job| job.runner_id.map(RunnerId::get));
    row.time("in_progress_at", |job| job.in_progress_at);
    row.text("gh_status", |job| job.sighting.map(|seen| seen.status.as_str()));
    row.text("gh_conclusion", |job| match job.sighting?.status {
        gh::Status::Completed(conclusion) => Some(conclusion.as_str()),
        _ => None,
    });
    row.time("gh_seen_at", |job| job.sighting.map(|seen| seen.at));
    row.time("gh_completed_at", |job| job.sighting?.completed_at);
    row.text("rerun_state", |job| job.rerun.map(RerunState::as_str));
    milestones(row);
    row.text("last_error", |job| job.last_error.as_deref());
    row.text("settled_reason", |job| job.settled_reason.as_deref());
    row.seconds("ttl", |job| job.ttl);
}

/// The pool the message asks for.
pub(super) fn pool(job: &Job) -> Option<&str> {
    job.message.as_ref()?.spec.pool.as_ref().map(PoolName::as_str)
}

fn milestones(row: &mut Difference<'_, Job>) {
    let (old, new) = row.records();
    let name = |attempt: u32, milestone: Milestone| format!("tl_{attempt}_{}", milestone.as_str());
    for (attempt, milestone, at) in new.timeline.iter() {
        if old.and_then(|job| job.timeline.get(attempt, milestone)) != Some(at) {
            row.set(name(attempt, milestone), Value::N(at));
        }
    }
    for (attempt, milestone, _) in old.into_iter().flat_map(|job| job.timeline.iter()) {
        if new.timeline.get(attempt, milestone).is_none() {
            row.remove(name(attempt, milestone));
        }
    }
}

/// The attributes that repeat the message.
fn columns(row: &mut Difference<'_, Job>) {
    fn message(job: &Job) -> Option<&JobMessage> {
        job.message.as_deref()
    }
    fn spec(job: &Job) -> Option<&LaunchSpec> {
        message(job).map(|message| &message.spec)
    }
    row.value("job_message", message, |message| message.encode().into());
    row.whole("run_id", |job| message(job)?.run_id.map(RunId::get));
    row.text("repo", |job| Some(message(job)?.repo.as_str()));
    row.text("requested_instance_type", |job| Some(&spec(job)?.instance_type));
    row.value("private", |job| Some(spec(job)?.private), Value::Bool);
    row.text("runner_spec", |job| Some(&spec(job)?.runner_spec));
    row.text("backend", |job| Some(&spec(job)?.backend));
    row.text("original_label", |job| Some(&message(job)?.original_label));
    row.texts("labels", |job| message(job).map_or(&[], |message| &message.labels));
    row.whole("installation_id", |job| message(job)?.installation_id.map(InstallationId::get));
    row.text("job_name", |job| Some(&message(job)?.job_name));
    row.text("workflow_name", |job| Some(&message(job)?.workflow_name));
    row.whole("run_attempt", |job| message(job).map(|message| message.run_attempt));
    row.text("trace_id", |job| message(job)?.traceparent.as_deref().and_then(trace_id));
}

/// The trace id of a W3C traceparent, if that has its four parts.
fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let (_version, id, _parent, _flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    (id.len() == 32 && parts.next().is_none()).then_some(id)
}

/// The record, or why this release cannot read it.
pub(super) fn decode(item: &Item, messages: &Messages) -> Result<Job, String> {
    let job = decode_bare(item)?;
    let message = messages.read(job.id, item.get("job_message"));
    let message = message.or_else(|| from_columns(item, job.id, job.retry_count).map(Arc::new));
    Ok(Job { message, ..job })
}

/// The record without its message.
fn decode_bare(item: &Item) -> Result<Job, String> {
    let row = &Reader::new(item);
    let id = attrs::whole(row, "job_id")
        .and_then(|id| JobId::new(u64::try_from(id).ok()?))
        .ok_or_else(|| "a job without job_id".to_owned())?;
    let word = attrs::text(row, "status").unwrap_or_default();
    let state = JobState::parse(word).ok_or_else(|| format!("job {id} has the unknown status {word:?}"))?;
    let stamped = attrs::time(row, "created_at");
    let queued_at = attrs::time(row, "queued_at").or(stamped).unwrap_or(Timestamp::UNIX_EPOCH);
    let created_at = stamped.unwrap_or(queued_at);

    let lease = match attrs::text(row, "lease_token") {
        Some(token) => Some(Lease {
            token: token.into(),
            owner: attrs::string(row, "lease_owner").unwrap_or_default(),
            until: attrs::whole(row, "lease_expires_at").and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        }),
        // A claim of the Go implementation: no token, its age is its lease. An unreadable age is a dead lease.
        None if state == JobState::Claiming => Some(Lease {
            token: LeaseToken::new(""),
            owner: String::new(),
            until: stamped.map(|at| clock::after(at, GO_LEASE)),
        }),
        None => None,
    };
    let unfenced = lease.as_ref().is_none_or(|lease| lease.token.as_str().is_empty());
    let stored_retries = attrs::count(row, "retry_count").unwrap_or(0);
    // While claiming, the Go implementation counts its strikes in `retry_count`; the queue's message has the retries.
    let (retry_count, strikes) = match attrs::count(row, "claim_attempts") {
        Some(strikes) => (stored_retries, strikes),
        None if state == JobState::Claiming && unfenced => (0, stored_retries.max(1)),
        None => (stored_retries, 0),
    };
    // It also never said when a machine was prepared; its bound jobs always were.
    let prepared_at =
        attrs::time(row, "prepared_at").or((state == JobState::Launched && unfenced).then_some(created_at));

    // In the order of the names.
    Ok(Job {
        id,
        state,
        message: None,
        retry_count,
        claim_attempts: strikes,
        created_at,
        queued_at,
        lease,
        prepared_at,
        sighting: sighting(item),
        timeline: timeline(item),
        availability_zone: attrs::string(row, "availability_zone"),
        class: attrs::text(row, "class_key").map(ClassKey::from),
        completed_at: attrs::time(row, "completed_at"),
        conclusion: attrs::string(row, "conclusion"),
        dispatch_seq: attrs::count(row, "dispatch_seq").unwrap_or(0),
        displaced_count: attrs::count(row, "displaced_count").unwrap_or(0),
        duration_seconds: attrs::count(row, "duration_seconds"),
        exit_code: attrs::whole(row, "exit_code"),
        force_on_demand: attrs::flag(row, "force_on_demand"),
        hot_pool_hit: attrs::flag(row, "hot_pool_hit"),
        in_progress_at: attrs::time(row, "in_progress_at"),
        instance: attrs::text(row, "instance_id").map(RunnerKey::from),
        instance_type: attrs::string(row, "instance_type"),
        label_warnings: attrs::texts(row, "label_warnings"),
        last_error: attrs::string(row, "last_error"),
        launch_id: attrs::text(row, "launch_id").map(LaunchId::from),
        not_before: attrs::time(row, "not_before"),
        redrive_at: attrs::time(row, "redrive_at"),
        requeue_reason: attrs::string(row, "requeue_reason"),
        requeued_at: attrs::time(row, "requeued_at"),
        rerun: attrs::text(row, "rerun_state").and_then(RerunState::parse),
        runner_id: attrs::count(row, "runner_id").and_then(RunnerId::new),
        runner_name: attrs::string(row, "runner_name"),
        settled_reason: attrs::string(row, "settled_reason"),
        spot: attrs::flag(row, "spot"),
        started_at: attrs::time(row, "started_at"),
        ttl: attrs::seconds(row, "ttl"),
        version: attrs::count(row, "version").unwrap_or(0),
        warm_pool_hit: attrs::flag(row, "warm_pool_hit"),
    })
}

/// The record after a step from `old`, as a read of its row shows it.
pub(super) fn after(old: &Job, new: Job, version: u64, messages: &Messages) -> Result<Job, String> {
    // Where the words of the Go implementation for the same thing could be meant, they are read as such.
    let plain = new.lease.as_ref().map_or(!matches!(new.state, JobState::Claiming | JobState::Launched), |lease| {
        !lease.token.as_str().is_empty()
    });
    if old.version > 0 && plain && same_message(old, &new) {
        return Ok(stored(new, version));
    }
    let mut row = encode(&new);
    row.insert("version", Value::N(i64::try_from(version).unwrap_or(i64::MAX)));
    decode(&row, messages)
}

/// What writing a record and reading it again makes of it: instants are cut to what is stored, and empty words are
/// absent.
fn stored(job: Job, version: u64) -> Job {
    fn cut(at: Option<Timestamp>) -> Option<Timestamp> {
        at.map(whole_seconds)
    }
    fn word(text: Option<String>) -> Option<String> {
        text.filter(|text| !text.is_empty())
    }
    let milliseconds = |at: Timestamp| Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at);
    let seen = |seen: Sighting| Sighting {
        at: whole_seconds(seen.at),
        completed_at: cut(seen.completed_at),
        status: seen.status,
    };
    Job {
        version,
        instance: job.instance.filter(|key| !key.as_str().is_empty()),
        instance_type: word(job.instance_type),
        availability_zone: word(job.availability_zone),
        created_at: whole_seconds(job.created_at),
        queued_at: whole_seconds(job.queued_at),
        requeued_at: cut(job.requeued_at),
        not_before: cut(job.not_before),
        redrive_at: cut(job.redrive_at),
        requeue_reason: word(job.requeue_reason),
        lease: job.lease.map(|lease| Lease { until: lease.until.map(milliseconds), ..lease }),
        launch_id: job.launch_id.filter(|id| !id.as_str().is_empty()),
        prepared_at: cut(job.prepared_at),
        started_at: cut(job.started_at),
        completed_at: cut(job.completed_at),
        duration_seconds: job.duration_seconds.filter(|seconds| i64::try_from(*seconds).is_ok()),
        conclusion: word(job.conclusion),
        class: job.class.filter(|class| !class.as_str().is_empty()),
        runner_name: word(job.runner_name),
        in_progress_at: cut(job.in_progress_at),
        sighting: job.sighting.map(seen),
        last_error: word(job.last_error),
        settled_reason: word(job.settled_reason),
        ttl: cut(job.ttl),
        ..job
    }
}

/// What the columns still say of a message that is missing or unreadable.
fn from_columns(item: &Item, id: JobId, retry_count: u32) -> Option<JobMessage> {
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
    for (name, value) in item.starting_at("tl_") {
        let Some(rest) = name.strip_prefix("tl_") else { break };
        let Some((attempt, milestone)) = rest.split_once('_') else { continue };
        if let (Ok(attempt), Some(milestone), Value::N(at)) = (attempt.parse(), Milestone::parse(milestone), value) {
            timeline.stamp_ms(attempt, milestone, *at);
        }
    }
    timeline
}
