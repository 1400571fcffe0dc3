//! One line: from fields to text, redacted and bounded.

use std::fmt::Write as _;

use domain::clock::Timestamp;
use serde_json::{Map, Value};
use tracing::{Level, Metadata};

use super::{Format, LogConfig};
use crate::redact::Redactor;

/// Longest line in bytes, the line feed included.
pub const MAX_LINE: usize = 16 * 1024;
/// No string is cut below this many bytes; a line that is still too long loses whole fields.
const MIN_CUT: usize = 64;

pub(super) fn build(
    config: &LogConfig,
    redactor: &Redactor,
    now: Timestamp,
    metadata: &Metadata<'_>,
    mut fields: Map<String, Value>,
) -> String {
    let message = match fields.remove("message") {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let mut fields: Vec<(String, Value)> = fields.into_iter().collect();
    let mut put = |name: &str, value: &str| {
        if fields.iter().all(|(n, _)| n != name) {
            fields.push((name.to_owned(), value.into()));
        }
    };
    put("log_type", log_type(metadata.target()));
    put("component", metadata.target());
    put("host", &config.host);
    put("replica_id", &config.replica_id);
    put("version", &config.version);

    for (_, value) in &mut fields {
        match value {
            Value::String(text) => *text = redactor.redact(text),
            Value::Number(_) => {
                // A secret may be all digits.
                let text = value.to_string();
                let clean = redactor.redact(&text);
                if clean != text {
                    *value = clean.into();
                }
            }
            _ => {}
        }
    }
    fields.push(("msg".into(), redactor.redact(&message).into()));

    loop {
        let line = match config.format {
            Format::Json => json(now, *metadata.level(), &fields),
            Format::Text => text(now, metadata, &fields),
        };
        if line.len() <= MAX_LINE {
            return line;
        }
        shorten(&mut fields, line.len() - MAX_LINE);
    }
}

/// Takes about `excess` bytes from the longest string; a line of many short fields loses its first one instead.
fn shorten(fields: &mut Vec<(String, Value)>, excess: usize) {
    let longest = fields.iter_mut().filter_map(|(_, v)| if let Value::String(s) = v { Some(s) } else { None });
    match longest.max_by_key(|s| s.len()) {
        Some(text) if text.len() > 2 * MIN_CUT => {
            // Escapes can make a character six bytes long, so this may take several rounds; each makes progress.
            let keep =
                text.floor_char_boundary((text.len().saturating_sub(excess + 32)).max(text.len() / 2).max(MIN_CUT));
            let cut = text.len() - keep;
            text.truncate(keep);
            let _ = write!(text, "…(+{cut} bytes)");
        }
        _ => drop(fields.remove(0)),
    }
}

fn json(now: Timestamp, level: Level, fields: &[(String, Value)]) -> String {
    let message = fields.last().map_or(&Value::Null, |(_, value)| value);
    let mut line = format!(r#"{{"time":"{now:.3}","level":"{level}","msg":{message}"#);
    for (name, value) in fields.iter().rev().skip(1).rev() {
        let _ = write!(line, ",{}:{value}", Value::from(name.as_str()));
    }
    line.push_str("}\n");
    line
}

fn text(now: Timestamp, metadata: &Metadata<'_>, fields: &[(String, Value)]) -> String {
    let message = fields.last().and_then(|(_, value)| value.as_str()).unwrap_or_default();
    let mut line = format!("{now:.3} {:>5} {}: {}", metadata.level(), metadata.target(), message.escape_debug());
    for (name, value) in fields.iter().rev().skip(1).rev() {
        // What is the same on every line, or said already, is noise to a person.
        if !matches!(name.as_str(), "log_type" | "component" | "host" | "replica_id" | "version") {
            let _ = write!(line, " {name}={value}");
        }
    }
    line.push('\n');
    line
}

/// The part of the system a line comes from, by the module that wrote it.
fn log_type(target: &str) -> &'static str {
    let mut path = target.split("::");
    match (path.next().unwrap_or_default(), path.next().unwrap_or_default()) {
        ("github", "webhook") | ("dispatch", "ingest") => "webhook",
        ("github", _) => "runner",
        ("dispatch", "signals") => "termination",
        ("dispatch", "sweeps") | ("housekeeping", _) => "housekeep",
        ("queue" | "dispatch", _) => "queue",
        ("pools", _) => "pool",
        ("cache", _) => "cache",
        ("admin", _) => "admin",
        ("provider" | "fleet", _) => "fleet",
        ("cost", _) => "cost",
        ("telemetry", "metrics") => "metrics",
        ("db", _) => "db",
        ("agent" | "runs_fleet_agent", _) => "agent",
        ("kube" | "kube_runtime" | "kube_client", _) => "k8s",
        ("config" | "coordinator" | "domain" | "server" | "runs_fleet_server" | "simulation" | "telemetry", _) => {
            "server"
        }
        (name, _) if name.starts_with("aws_") => "aws",
        _ => "stdlib",
    }
}
