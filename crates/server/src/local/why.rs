//! `why` for a local run: reads the store through a connection that cannot write.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use db::{Jobs, Runners, Table};
use domain::clock::{Clock, SystemClock};
use domain::ids::JobId;
use domain::timings::Timings;

use super::Layout;
use crate::cli::{complain, say};

/// The newest local run of this machine.
pub(crate) fn latest() -> anyhow::Result<PathBuf> {
    let runs = std::fs::read_dir(std::env::temp_dir())?.filter_map(Result::ok).filter(|entry| {
        entry.file_name().to_string_lossy().starts_with(super::TEMPORARY)
            && Layout::new(&entry.path()).store().is_file()
    });
    runs.max_by_key(|entry| entry.metadata().and_then(|m| m.modified()).ok())
        .map(|entry| entry.path())
        .context("no local run is known; name its directory with --dir")
}

/// Prints the sentence and the timeline.
pub(crate) fn why(dir: &Path, id: JobId, json: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let table: Arc<dyn Table> =
            Arc::new(db::Sqlite::open_read_only(&Layout::new(dir).store(), Arc::clone(&clock))?);
        let jobs = Jobs::new(Arc::clone(&table), Arc::clone(&clock));
        let Some(job) = jobs.get(id).await? else {
            complain(&format!("job {id} is unknown here: it never arrived, its labels were refused, or it is long over"));
            return Ok(ExitCode::FAILURE);
        };
        let runner = match &job.instance {
            Some(key) => Runners::new(table, Arc::clone(&clock)).get(key).await?,
            None => None,
        };
        let why = dispatch::why::why(&job, runner.as_ref(), clock.now(), &Timings::PRODUCTION);
        if json {
            let timeline: Vec<_> = job
                .timeline
                .iter()
                .map(|(attempt, milestone, at)| serde_json::json!({"attempt": attempt, "name": milestone.as_str(), "at_ms": at}))
                .collect();
            say(&serde_json::json!({"job_id": id.get(), "status": job.state.as_str(), "why": why, "timeline": timeline}).to_string());
            return Ok(ExitCode::SUCCESS);
        }
        say(&why.sentence);
        for fact in &why.facts {
            let at = fact.at.map(|at| format!("  ({at})")).unwrap_or_default();
            say(&format!("  {:<16} {}{at}", fact.name, fact.value));
        }
        let mut before: Option<i64> = None;
        for (attempt, milestone, at) in job.timeline.iter() {
            let since = before.map(|b| format!("{:+} ms", at - b)).unwrap_or_default();
            let time = domain::clock::Timestamp::from_millisecond(at).map(|t| t.to_string()).unwrap_or_default();
            say(&format!("  attempt {attempt}  {:<18} {time}  {since}", milestone.as_str()));
            before = Some(at);
        }
        if let Some(next) = why.next {
            say(&format!("next: {}{}", next.action, next.at.map(|at| format!(" at {at}")).unwrap_or_default()));
        }
        Ok(ExitCode::SUCCESS)
    })
}
