//! Log lines: one JSON object each, on standard output, with every secret struck out.
//!
//! The agent has its own few lines for this because its log carries the runner's output, in pieces and without loss,
//! and because nothing may stand between the agent's start and the job's. Secrets are struck out of every string
//! before it is escaped, so no caller can forget it.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use domain::clock::Clock;
use serde_json::{Map, Value};
use telemetry::Redactor;

/// The log remembers its last lines, up to this many bytes.
const REMEMBERED: usize = 1024 * 1024;

/// The last lines.
#[derive(Default)]
struct Recent {
    lines: VecDeque<String>,
    bytes: usize,
}

/// A handle to the log; clones share everything.
#[derive(Clone)]
pub struct Log {
    clock: Arc<dyn Clock>,
    redactor: Redactor,
    /// Fields of every line.
    context: Arc<Mutex<Map<String, Value>>>,
    recent: Arc<Mutex<Recent>>,
}

impl Log {
    /// A log without context or secrets.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { redactor: Redactor::new(Arc::clone(&clock)), clock, context: Arc::default(), recent: Arc::default() }
    }

    /// Adds a field to every later line.
    pub fn context(&self, name: &str, value: impl Into<Value>) {
        self.context.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), value.into());
    }

    /// From now on `secret` and its usual encodings never appear in a line.
    pub fn hide(&self, secret: &str) {
        self.redactor.register(secret, None);
    }

    /// `text` without any secret.
    pub fn redacted(&self, text: &str) -> String {
        self.redactor.redact(text)
    }

    /// Normal course.
    pub fn info(&self, event: &str, fields: &[(&str, Value)]) {
        self.line("info", event, fields);
    }

    /// Something was tolerated.
    pub fn warn(&self, event: &str, fields: &[(&str, Value)]) {
        self.line("warn", event, fields);
    }

    /// The job or the machine is lost.
    pub fn error(&self, event: &str, fields: &[(&str, Value)]) {
        self.line("error", event, fields);
    }

    fn line(&self, level: &str, event: &str, fields: &[(&str, Value)]) {
        let line = self.format(level, event, fields) + "\n";
        // Nobody is left to tell when standard output is gone; the job goes on.
        let _ = std::io::stdout().lock().write_all(line.as_bytes());
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.bytes += line.len();
        recent.lines.push_back(line);
        while recent.bytes > REMEMBERED {
            let Some(oldest) = recent.lines.pop_front() else { break };
            recent.bytes -= oldest.len();
        }
    }

    /// The last lines, oldest first.
    pub fn recent(&self) -> String {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).lines.iter().map(String::as_str).collect()
    }

    fn format(&self, level: &str, event: &str, fields: &[(&str, Value)]) -> String {
        let mut line = Map::new();
        line.insert("ts".to_owned(), self.clock.now().to_string().into());
        line.insert("level".to_owned(), level.into());
        line.insert("event".to_owned(), event.into());
        line.extend(self.context.lock().unwrap_or_else(PoisonError::into_inner).clone());
        for (name, value) in fields {
            let value = match value {
                Value::String(text) => self.redacted(text).into(),
                other => other.clone(),
            };
            line.insert((*name).to_owned(), value);
        }
        Value::Object(line).to_string()
    }
}

#[cfg(test)]
mod tests;
