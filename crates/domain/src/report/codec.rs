//! The two directions of the wire format.

use serde::Serialize;
use serde_json::Value;

use super::{AgentReport, AgentStatus, Bootstrap};
use crate::clock::Timestamp;
use crate::handover::Credential;
use crate::ids::{DispatchId, JobId, RunnerKey};
use crate::wire::{self, Fields, Poison, Reason};

/// The fields still to be read, and the names of those that could not be.
struct Reader {
    fields: Fields,
    warnings: Vec<&'static str>,
}

impl Reader {
    fn take<T: serde::de::DeserializeOwned + Default>(&mut self, name: &'static str) -> T {
        wire::take(&mut self.fields, name, &mut self.warnings)
    }
    fn text(&mut self, name: &'static str) -> Option<String> {
        let text: String = self.take(name);
        Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned)
    }
    fn texts(&mut self, name: &'static str) -> Vec<String> {
        self.take::<Vec<String>>(name).iter().map(|text| text.trim().to_owned()).collect()
    }
    fn instant(&mut self, name: &'static str) -> Option<Timestamp> {
        let text: String = self.take(name);
        wire::instant(&text).unwrap_or_else(|_| {
            self.warnings.push(name);
            None
        })
    }
    /// A measured span; nothing takes no time, so zero and less were not measured.
    fn seconds(&mut self, name: &'static str) -> Option<f64> {
        self.take::<Option<f64>>(name).filter(|seconds| *seconds > 0.0)
    }
    /// A string of digits; also a JSON integer.
    fn job_id(&mut self) -> Result<Option<JobId>, Poison> {
        let text = match self.fields.remove("job_id") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
        };
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let id = text.parse().ok().filter(|_| digits);
        id.map(Some).ok_or(Poison::at(Reason::BadValue, "job_id"))
    }
}

pub(super) fn decode(body: &str) -> Result<(AgentReport, Vec<&'static str>), Poison> {
    let mut r = Reader { fields: wire::parse(body)?, warnings: Vec::new() };

    let instance_id = r.text("instance_id").map(RunnerKey::from).ok_or(Reason::MissingInstanceId)?;
    if !is_dns_label(instance_id.as_str()) {
        return Err(Poison::at(Reason::BadValue, "instance_id"));
    }
    let word = r.text("status").ok_or(Reason::MissingStatus)?;
    let known = AgentStatus::parse(&word);
    // What a newer agent calls its end in a word of its own is an end all the same.
    let status = known.unwrap_or(AgentStatus::Failure);
    let job_id = r.job_id()?;
    if job_id.is_none() && status != AgentStatus::BootstrapFailed {
        return Err(Reason::MissingJobId.into());
    }
    if known.is_none() {
        r.warnings.push("status");
    }

    let report = AgentReport {
        instance_id,
        job_id,
        status,
        raw_status: known.is_none().then_some(word),
        exit_code: r.take("exit_code"),
        duration_seconds: r.take("duration_seconds"),
        started_at: r.instant("started_at"),
        completed_at: r.instant("completed_at"),
        error: r.text("error"),
        interrupted_by: r.text("interrupted_by"),
        tool_cache_misses: r.texts("tool_cache_misses"),
        cache_interception: r.text("cache_interception"),
        build_cache_interception: r.text("build_cache_interception"),
        log_upload: r.text("log_upload"),
        cache_bytes_written: r.take("cache_bytes_written"),
        bootstrap: Bootstrap {
            boot: r.seconds("bootstrap_boot_seconds"),
            config: r.seconds("bootstrap_config_seconds"),
            runner: r.seconds("bootstrap_runner_seconds"),
            register: r.seconds("bootstrap_register_seconds"),
            total: r.seconds("bootstrap_total_seconds"),
        },
        run_id: r.text("run_id"),
        dispatch_id: r.text("dispatch_id").map(DispatchId::from),
        agent_version: r.text("agent_version"),
        runner_version: r.text("runner_version"),
        spot_notice_at: r.instant("spot_notice_at"),
        job_received: r.take("job_received"),
        runner_listening_seconds: r.seconds("runner_listening_seconds"),
        job_pickup_seconds: r.seconds("job_pickup_seconds"),
        resource_warnings: r.texts("resource_warnings"),
        sent_at_ms: r.take("sent_at_ms"),
        token: r.text("token").map(Credential::new),
    };
    Ok((report, r.warnings))
}

/// What every machine's key is (RFC 1123): pod names and EC2 instance ids alike.
fn is_dns_label(key: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    key.len() <= 63 && key.bytes().all(inner) && !key.starts_with('-') && !key.ends_with('-')
}

/// The JSON object, in the order it is written.
#[derive(Serialize)]
struct Wire<'a> {
    instance_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    status: &'a str,
    exit_code: i64,
    duration_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interrupted_by: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tool_cache_misses: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_interception: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_cache_interception: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_upload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_bytes_written: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bootstrap_boot_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bootstrap_config_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bootstrap_runner_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bootstrap_register_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bootstrap_total_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dispatch_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runner_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spot_notice_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_received: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runner_listening_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_pickup_seconds: Option<f64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    resource_warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_at_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

#[expect(clippy::expect_used, reason = "text and numbers always serialise")]
pub(super) fn encode(report: &AgentReport) -> String {
    let wire = Wire {
        instance_id: report.instance_id.as_str(),
        job_id: report.job_id.map(|id| id.to_string()),
        status: report.status_text(),
        exit_code: report.exit_code,
        duration_seconds: report.duration_seconds,
        started_at: report.started_at,
        completed_at: report.completed_at_text(),
        error: report.error.as_deref(),
        interrupted_by: report.interrupted_by.as_deref(),
        tool_cache_misses: &report.tool_cache_misses,
        cache_interception: report.cache_interception.as_deref(),
        build_cache_interception: report.build_cache_interception.as_deref(),
        log_upload: report.log_upload.as_deref(),
        cache_bytes_written: report.cache_bytes_written,
        bootstrap_boot_seconds: report.bootstrap.boot,
        bootstrap_config_seconds: report.bootstrap.config,
        bootstrap_runner_seconds: report.bootstrap.runner,
        bootstrap_register_seconds: report.bootstrap.register,
        bootstrap_total_seconds: report.bootstrap.total,
        run_id: report.run_id.as_deref(),
        dispatch_id: report.dispatch_id.as_ref().map(DispatchId::as_str),
        agent_version: report.agent_version.as_deref(),
        runner_version: report.runner_version.as_deref(),
        spot_notice_at: report.spot_notice_at,
        job_received: report.job_received,
        runner_listening_seconds: report.runner_listening_seconds,
        job_pickup_seconds: report.job_pickup_seconds,
        resource_warnings: &report.resource_warnings,
        sent_at_ms: report.sent_at_ms,
        token: report.token.as_ref().map(Credential::expose),
    };
    serde_json::to_string(&wire).expect("plain data")
}
