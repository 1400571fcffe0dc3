//! The metric registry: one declaration per metric, one typed method per declaration.
//!
//! Properties:
//!
//! * **Absent is not zero.** A gauge that nobody set, or that was set to `None`, has no sample. Counters whose labels
//!   are all closed lists start at 0, so that a missing series means a missing process and `rate()` sees the first
//!   event.
//! * **Series are bounded.** Labels are closed lists, words of this program, or open values with a cap per process;
//!   what comes after the cap is counted under `other`. Ids of jobs, runs and machines are never labels.
//! * **Emitting is a memory operation** and cannot fail. The caller emits after the write that makes the fact durable,
//!   so that a redelivered message does not count twice.
//! * **Gauges are absolute**: whoever can count sets them; nobody adds or subtracts one.

mod labels;
mod registry;

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus::{GaugeVec, HistogramVec, IntCounterVec, TextEncoder};

pub use labels::*;
pub use registry::DECLARATIONS;

/// Distinct repositories that get a series of their own.
pub const REPO_CAP: usize = 200;
/// Distinct pools that get a series of their own.
pub const POOL_CAP: usize = 200;
/// Distinct installations that get a series of their own.
pub const INSTALLATION_CAP: usize = 10;
/// Distinct HTTP routes that get a series of their own.
pub const ROUTE_CAP: usize = 100;
/// Distinct instance families that get a series of their own.
pub const FAMILY_CAP: usize = 200;
/// Distinct names of AWS services and operations that get a series of their own.
pub const CALL_CAP: usize = 100;
/// What a value beyond its cap is counted under.
pub const OTHER: &str = "other";

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only goes up; starts anew with the process.
    Counter,
    /// A number somebody counted, absent until then.
    Gauge,
    /// A distribution of seconds, with the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// One declared metric.
#[derive(Debug, Clone, Copy)]
pub struct Declaration {
    /// The name behind the prefix `runs_fleet_`.
    pub name: &'static str,
    /// What it measures.
    pub kind: Kind,
    parameters: &'static [&'static str],
    /// When it is emitted.
    pub help: &'static str,
}

impl Declaration {
    /// The names of its labels.
    pub fn labels(&self) -> impl Iterator<Item = &'static str> {
        // A label may be a word of the language (`loop`); its parameter is then a raw identifier.
        self.parameters.iter().map(|p| p.strip_prefix("r#").unwrap_or(p))
    }
}

/// The values of open labels that have a series.
#[derive(Debug, Default)]
struct Seen {
    repos: Capped,
    pools: Capped,
    installations: Capped,
    routes: Capped,
    families: Capped,
    aws_names: Capped,
}

#[derive(Debug, Default)]
struct Capped(RwLock<HashSet<Box<str>>>);

impl Capped {
    fn admit<'a>(&self, value: &'a str, cap: usize) -> &'a str {
        let known = |set: &HashSet<Box<str>>| (set.contains(value), set.len() < cap);
        match known(&self.0.read().unwrap_or_else(PoisonError::into_inner)) {
            (true, _) => return value,
            (false, false) => return OTHER,
            (false, true) => {}
        }
        let mut set = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match known(&set) {
            (false, false) => OTHER,
            (true, _) => value,
            (false, true) => {
                set.insert(value.into());
                value
            }
        }
    }
}

struct Counter(IntCounterVec);

impl Counter {
    fn add(&self, labels: &[&str], by: u64) {
        if let Ok(counter) = self.0.get_metric_with_label_values(labels) {
            counter.inc_by(by);
        }
    }

    /// Starts every combination at 0 when all labels are closed lists.
    fn start(self, closed: &[Option<&'static [&'static str]>]) -> Self {
        let combinations = closed.iter().try_fold(vec![Vec::new()], |rows: Vec<Vec<&str>>, values| {
            let values = (*values)?;
            Some(rows.iter().flat_map(|row| values.iter().map(move |v| [&row[..], &[*v]].concat())).collect())
        });
        for labels in combinations.unwrap_or_default() {
            let _ = self.0.get_metric_with_label_values(&labels);
        }
        self
    }
}

struct Gauge(GaugeVec);

impl Gauge {
    fn set(&self, labels: &[&str], value: Option<f64>) {
        match value {
            Some(value) => {
                if let Ok(gauge) = self.0.get_metric_with_label_values(labels) {
                    gauge.set(value);
                }
            }
            // Removing a series that does not exist is what was asked for.
            None => drop(self.0.remove_label_values(labels)),
        }
    }
}

struct Histogram(HistogramVec);

impl Histogram {
    fn observe(&self, labels: &[&str], value: Duration) {
        if let Ok(histogram) = self.0.get_metric_with_label_values(labels) {
            histogram.observe(value.as_secs_f64());
        }
    }
}

/// The process's metrics. A clone is the same registry.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: prometheus::Registry,
    families: registry::Families,
    seen: Seen,
}

impl Metrics {
    /// A registry with every declared metric; the ones with closed labels stand at 0.
    #[allow(clippy::expect_used, reason = "the prefix is a constant that is a valid metric name")]
    pub fn new() -> Self {
        let registry = prometheus::Registry::new_custom(Some("runs_fleet".into()), None).expect("a valid prefix");
        let families = registry::Families::register(&registry);
        let metrics = Self { inner: Arc::new(Inner { registry, families, seen: Seen::default() }) };
        metrics.inner.families.forget_unused_series();
        metrics
    }

    /// Everything measured so far, in the Prometheus text format 0.0.4.
    pub fn render(&self) -> String {
        // The encoder fails only on a family without samples, which `gather` never returns.
        TextEncoder::new().encode_to_string(&self.inner.registry.gather()).unwrap_or_default()
    }

    /// The names of all declared metrics, with the prefix: for tests that compare code, dashboards and registry.
    pub fn names() -> impl Iterator<Item = String> {
        DECLARATIONS.iter().map(|d| format!("runs_fleet_{}", d.name))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
