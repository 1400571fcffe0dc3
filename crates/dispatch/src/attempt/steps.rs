//! Where an attempt's time went, for the line that says that the job has its machine.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// The steps that are done, in order, and when the one under way began.
#[derive(Debug)]
pub(super) struct Steps {
    done: Vec<(&'static str, Duration)>,
    since: Instant,
}

impl Steps {
    pub(super) fn new() -> Self {
        Self { done: Vec::new(), since: Instant::now() }
    }

    /// A step is done; the next one begins.
    pub(super) fn done(&mut self, step: &'static str) {
        let took = self.since.elapsed();
        self.since += took;
        self.done.push((step, took));
    }

    /// The same for a step whose first part is another's.
    pub(super) fn split(&mut self, first: &'static str, took: Duration, second: &'static str) {
        self.done.push((first, took));
        self.since += took;
        self.done(second);
    }
}

/// `claim=12.4ms mint=301.0ms`.
impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (step, took)) in self.done.iter().enumerate() {
            let gap = if n == 0 { "" } else { " " };
            write!(f, "{gap}{step}={:.1}ms", took.as_secs_f64() * 1000.0)?;
        }
        Ok(())
    }
}
