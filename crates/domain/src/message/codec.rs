//! The two directions of the wire format.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{JobMessage, Poison, Reason, trace};
use crate::clock::Timestamp;
use crate::ids::{InstallationId, JobId, PoolName, Repo, RunId};
use crate::launch::{Arch, LaunchSpec};
use crate::wire::{self, Fields};

/// A message as read from the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The message.
    pub message: JobMessage,
    /// Names of fields whose value was unusable and was dropped.
    pub warnings: Vec<&'static str>,
    /// Trace context of the old `trace_id` and `span_id`. Read, never written.
    pub old_trace: Option<String>,
}

impl Decoded {
    /// The parent of the consumer's span, first valid wins: the message's `traceparent`, the attribute `Traceparent`,
    /// the attributes `TraceID` and `SpanID`, the message's own old pair.
    pub fn trace_parent(&self, attributes: &BTreeMap<String, String>) -> Option<String> {
        let attribute = |name: &str| attributes.get(name).map_or("", String::as_str);
        let sent = attribute("Traceparent");
        self.message
            .traceparent
            .clone()
            .or_else(|| trace::is_valid(sent).then(|| sent.to_owned()))
            .or_else(|| trace::from_ids(attribute("TraceID"), attribute("SpanID")))
            .or_else(|| self.old_trace.clone())
    }
}

/// The JSON object: every field of both revisions, in the order they are written. Numbers are wider than their
/// meaning, so that a negative one is a wrong value and not a wrong type.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Wire {
    #[serde(skip_serializing_if = "is_default")]
    job_id: i64,
    run_id: i64,
    #[serde(skip_serializing_if = "is_default")]
    repo: String,
    instance_type: String,
    #[serde(skip_serializing_if = "is_default")]
    pool: String,
    #[serde(skip_serializing_if = "is_default")]
    private: bool,
    spot: bool,
    #[serde(skip_serializing_if = "is_default")]
    runner_spec: String,
    #[serde(skip_serializing_if = "is_default")]
    original_label: String,
    #[serde(skip_serializing_if = "is_default")]
    retry_count: i64,
    #[serde(skip_serializing_if = "is_default")]
    force_on_demand: bool,
    #[serde(skip_serializing_if = "is_default")]
    region: String,
    #[serde(skip_serializing_if = "is_default")]
    environment: String,
    #[serde(skip_serializing_if = "is_default")]
    os: String,
    #[serde(skip_serializing_if = "is_default")]
    arch: String,
    #[serde(skip_serializing_if = "is_default")]
    instance_types: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    storage_gib: i64,
    #[serde(skip_serializing)]
    trace_id: String,
    #[serde(skip_serializing)]
    span_id: String,
    // Read by nobody, but named, so that it is not carried through as unknown.
    #[serde(skip_serializing)]
    parent_id: String,
    #[serde(skip_serializing_if = "is_default")]
    traceparent: String,
    #[serde(skip_serializing_if = "is_default")]
    cpu_min: i64,
    #[serde(skip_serializing_if = "is_default")]
    cpu_max: i64,
    #[serde(skip_serializing_if = "is_default", rename = "gen")]
    gen_: i64,
    #[serde(skip_serializing_if = "is_default")]
    ram_min: f64,
    #[serde(skip_serializing_if = "is_default")]
    ram_max: f64,
    #[serde(skip_serializing_if = "is_default")]
    families: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    dispatch_seq: i64,
    #[serde(skip_serializing_if = "is_default")]
    displaced_count: i64,
    #[serde(skip_serializing_if = "is_default")]
    labels: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    public: bool,
    #[serde(skip_serializing_if = "is_default")]
    backend: String,
    #[serde(skip_serializing_if = "is_default")]
    run_attempt: i64,
    #[serde(skip_serializing_if = "is_default")]
    installation_id: i64,
    #[serde(skip_serializing_if = "is_default")]
    created_at: String,
    #[serde(skip_serializing_if = "is_default")]
    job_name: String,
    #[serde(skip_serializing_if = "is_default")]
    workflow_name: String,
    #[serde(skip_serializing_if = "is_default")]
    queued_at: String,
    #[serde(flatten)]
    unknown: Fields,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(super) fn decode(body: &str) -> Result<Decoded, Poison> {
    let wire: Wire = wire::read_body(body, |wire: &Wire| wire.unknown.is_empty())?;
    let mut warnings = Vec::new();

    let job_id = match wire.job_id {
        0 => return Err(Reason::MissingJobId.into()),
        id => id_of(id).and_then(JobId::new).ok_or(Poison::at(Reason::BadValue, "job_id"))?,
    };
    let run_id = match wire.run_id {
        ..0 => return Err(Poison::at(Reason::BadValue, "run_id")),
        id => id_of(id).and_then(RunId::new),
    };
    if wire.repo.is_empty() {
        return Err(Reason::MissingRepo.into());
    }
    let repo: Repo = wire.repo.parse().map_err(|_| Poison::at(Reason::BadValue, "repo"))?;
    let retry_count = count(wire.retry_count, "retry_count")?;
    let dispatch_seq = count(wire.dispatch_seq, "dispatch_seq")?;
    let displaced_count = count(wire.displaced_count, "displaced_count")?;
    let run_attempt = count(wire.run_attempt, "run_attempt")?.max(1);
    let arch = match wire.arch.as_str() {
        "" => None,
        word => Some(Arch::parse(word).ok_or(Poison::at(Reason::BadValue, "arch"))?),
    };
    // A name that is no pool's could address a reserved row of the pools table. The job starts without a pool.
    let pool: Option<PoolName> = match wire.pool.as_str() {
        "" => None,
        name => keep(name.parse().ok(), "pool", &mut warnings),
    };
    let spec = LaunchSpec {
        instance_type: wire.instance_type,
        instance_types: wire.instance_types,
        arch,
        os: wire.os,
        runner_spec: wire.runner_spec,
        pool,
        spot: wire.spot,
        private: wire.private,
        public: wire.public,
        storage_gib: count(wire.storage_gib, "storage_gib")?,
        cpu_min: count(wire.cpu_min, "cpu_min")?,
        cpu_max: count(wire.cpu_max, "cpu_max")?,
        ram_min: gib(wire.ram_min, "ram_min")?,
        ram_max: gib(wire.ram_max, "ram_max")?,
        families: wire.families,
        gen_: count(wire.gen_, "gen")?,
        region: wire.region,
        environment: wire.environment,
        backend: wire.backend,
    };
    let message = JobMessage {
        job_id,
        run_id,
        repo,
        spec,
        original_label: wire.original_label,
        labels: wire.labels,
        retry_count,
        force_on_demand: wire.force_on_demand,
        dispatch_seq,
        displaced_count,
        run_attempt,
        installation_id: id_of(wire.installation_id).and_then(InstallationId::new),
        job_name: wire.job_name,
        workflow_name: wire.workflow_name,
        created_at: instant(&wire.created_at, "created_at", &mut warnings),
        queued_at: instant(&wire.queued_at, "queued_at", &mut warnings),
        traceparent: match wire.traceparent {
            none if none.is_empty() => None,
            text => keep(trace::is_valid(&text).then_some(text), "traceparent", &mut warnings),
        },
        unknown: wire.unknown,
    };
    message.check()?;
    Ok(Decoded { message, warnings, old_trace: trace::from_ids(&wire.trace_id, &wire.span_id) })
}

#[expect(clippy::expect_used, reason = "text, numbers and string-keyed maps always serialise")]
pub(super) fn encode(message: &JobMessage) -> String {
    let JobMessage { spec, .. } = message.clone();
    let text = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    let wire = Wire {
        job_id: message.job_id.get().cast_signed(),
        run_id: message.run_id.map_or(0, |id| id.get().cast_signed()),
        repo: message.repo.to_string(),
        instance_type: spec.instance_type,
        pool: spec.pool.map(String::from).unwrap_or_default(),
        private: spec.private,
        spot: spec.spot,
        runner_spec: spec.runner_spec,
        original_label: message.original_label.clone(),
        retry_count: message.retry_count.into(),
        force_on_demand: message.force_on_demand,
        region: spec.region,
        environment: spec.environment,
        os: spec.os,
        arch: spec.arch.map_or("", Arch::as_str).to_owned(),
        instance_types: spec.instance_types,
        storage_gib: spec.storage_gib.into(),
        traceparent: message.traceparent.clone().unwrap_or_default(),
        cpu_min: spec.cpu_min.into(),
        cpu_max: spec.cpu_max.into(),
        gen_: spec.gen_.into(),
        ram_min: spec.ram_min,
        ram_max: spec.ram_max,
        families: spec.families,
        dispatch_seq: message.dispatch_seq.into(),
        displaced_count: message.displaced_count.into(),
        labels: message.labels.clone(),
        public: spec.public,
        backend: spec.backend,
        // The first attempt is what an absent field says.
        run_attempt: if message.run_attempt > 1 { message.run_attempt.into() } else { 0 },
        installation_id: message.installation_id.map_or(0, |id| id.get().cast_signed()),
        created_at: text(message.created_at),
        job_name: message.job_name.clone(),
        workflow_name: message.workflow_name.clone(),
        queued_at: text(message.queued_at),
        unknown: message.unknown.clone(),
        ..Wire::default()
    };
    serde_json::to_string(&wire).expect("plain data")
}

/// Ids are signed on the wire.
fn id_of(value: i64) -> Option<u64> {
    u64::try_from(value).ok()
}

fn count(value: i64, name: &'static str) -> Result<u32, Poison> {
    let reason = if value < 0 { Reason::BadValue } else { Reason::BadType };
    u32::try_from(value).map_err(|_| Poison::at(reason, name))
}

fn gib(value: f64, name: &'static str) -> Result<f64, Poison> {
    if value < 0.0 { Err(Poison::at(Reason::BadValue, name)) } else { Ok(value) }
}

fn keep<T>(value: Option<T>, name: &'static str, warnings: &mut Vec<&'static str>) -> Option<T> {
    if value.is_none() {
        warnings.push(name);
    }
    value
}

fn instant(text: &str, name: &'static str, warnings: &mut Vec<&'static str>) -> Option<Timestamp> {
    wire::instant(text).unwrap_or_else(|_| {
        warnings.push(name);
        None
    })
}
