//! Log lines: one JSON object each, on standard output.
//!
//! A line has the fixed fields `time`, `level`, `msg`, `host`, `replica_id`, `version`, `log_type` and `component`, then
//! the fields of the event and of every span around it, flattened: the innermost wins, so that `job_id`, `run_id`,
//! `repo` or `instance_id` set once by a task are on all its lines. `msg` is a constant; what varies is a field.
//!
//! Properties:
//!
//! * **No secret.** Every value passes the [`Redactor`] before it is cut or escaped, so that neither can leave a part.
//! * **Bounded.** A line has at most [`MAX_LINE`] bytes, the queue to the writer [`QUEUE`] lines. When the writer falls
//!   behind, debug and info lines are dropped and counted; warnings and errors wait up to 50 ms first.
//! * **Quiet.** The same warning is written once a minute, with the number of its suppressed repetitions.

mod line;
mod sink;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use domain::clock::{Clock, Timestamp};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::metrics::{LogBackend, Metrics};
use crate::redact::Redactor;

pub use line::MAX_LINE;
pub use sink::{LogGuard, QUEUE};

/// Our own crates: they log at the configured level, everything else from `WARN` up.
const OURS: [&str; 20] = [
    "admin",
    "agent",
    "cache",
    "config",
    "coordinator",
    "cost",
    "db",
    "dispatch",
    "domain",
    "fleet",
    "github",
    "housekeeping",
    "pools",
    "provider",
    "queue",
    "runs_fleet_agent",
    "runs_fleet_server",
    "server",
    "simulation",
    "telemetry",
];

/// How often one and the same warning is written, in seconds.
const REPEAT_SECONDS: i64 = 60;
/// How many different warnings are remembered for that.
const REPEAT_CAP: usize = 1024;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Json,
    /// `time LEVEL component: msg key=value …`, for people.
    Text,
}

/// What the lines say about the process, and which are written.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// The lowest level of our own lines.
    pub level: Level,
    /// How they look.
    pub format: Format,
    /// The machine.
    pub host: String,
    /// This replica's name.
    pub replica_id: String,
    /// This program's version.
    pub version: String,
}

/// A subscriber is installed already.
#[derive(Debug, thiserror::Error)]
#[error("logging is set up already")]
pub struct AlreadySet;

/// Sends the process's log lines and panics to standard output from now on. Keep the guard until the end: dropping it
/// writes what is queued.
///
/// # Errors
/// [`AlreadySet`] on the second call.
pub fn init(
    config: LogConfig,
    redactor: Redactor,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
) -> Result<LogGuard, AlreadySet> {
    let (layer, guard) = layer(config, redactor, clock, metrics, std::io::stdout());
    tracing_subscriber::registry().with(layer).try_init().map_err(|_| AlreadySet)?;
    // A panic's text passes the same redaction, and lands where the operator looks.
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        tracing::error!(event = "task_panicked", error = panic.payload_as_str(), at, "a task panicked");
    }));
    Ok(guard)
}

/// The same lines to another place.
pub fn layer<S>(
    config: LogConfig,
    redactor: Redactor,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    to: impl std::io::Write + Send + 'static,
) -> (impl Layer<S>, LogGuard)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let guard = sink::start(to);
    let filter = Targets::new()
        .with_default(LevelFilter::WARN.min(LevelFilter::from_level(config.level)))
        .with_targets(OURS.map(|name| (name, LevelFilter::from_level(config.level))));
    let layer = Lines {
        config,
        redactor,
        clock,
        metrics,
        sink: guard.sink(),
        repeats: Mutex::default(),
        hash: RandomState::new(),
    };
    (layer.with_filter(filter), guard)
}

/// The fields of a span or an event.
#[derive(Debug, Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Some errors already end in the text of their source.
            if !text.ends_with(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        self.put(field, text);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

struct Lines {
    config: LogConfig,
    redactor: Redactor,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    sink: sink::Sink,
    /// When a warning was last written, and how often it was suppressed since.
    repeats: Mutex<HashMap<u64, (Timestamp, u64)>>,
    hash: RandomState,
}

impl Lines {
    /// `None`: written less than a minute ago. Else how many repetitions were suppressed since.
    fn suppressed(&self, content: u64, now: Timestamp) -> Option<u64> {
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |at: Timestamp| (0..REPEAT_SECONDS).contains(&(now.as_second() - at.as_second()));
        match repeats.get_mut(&content) {
            Some((at, count)) if recent(*at) => {
                *count += 1;
                None
            }
            Some(entry) => Some(std::mem::replace(entry, (now, 0)).1),
            None => {
                if repeats.len() >= REPEAT_CAP {
                    repeats.retain(|_, (at, _)| recent(*at));
                }
                if repeats.len() < REPEAT_CAP {
                    repeats.insert(content, (now, 0));
                }
                Some(0)
            }
        }
    }
}

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().replace(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.0.extend(outer.0.clone());
            }
        }
        event.record(&mut fields);

        let now = self.clock.now();
        let level = *event.metadata().level();
        if level == Level::WARN {
            let content =
                self.hash.hash_one((event.metadata().callsite(), Value::Object(fields.0.clone()).to_string()));
            match self.suppressed(content, now) {
                None => return,
                Some(0) => {}
                Some(count) => drop(fields.0.insert("suppressed_count".into(), count.into())),
            }
        }
        let line = line::build(&self.config, &self.redactor, now, event.metadata(), fields.0);
        let dropped = self.sink.push(line, level <= Level::WARN);
        for _ in 0..dropped {
            self.metrics.log_events_dropped(LogBackend::Stdout);
        }
    }
}

#[cfg(test)]
mod tests;
