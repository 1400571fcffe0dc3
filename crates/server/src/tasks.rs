//! `tasks`: what housekeeping last did, and a run by hand.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use config::{Config, SystemFiles};
use db::tasks::{Ended, TaskRow, Trigger};
use dispatch::Dispatch;
use domain::clock::{Clock, SystemClock};
use housekeeping::task::TABLE;
use housekeeping::{Ask, Housekeeping, Ports, Ran, Report, Settings, Task};
use serde_json::json;
use telemetry::Metrics;
use tokio_util::sync::CancellationToken;

use crate::back_ends::{self, KeepsHouse};
use crate::cli::{self, say};
use crate::commands;

/// Housekeeping over what `serve` runs on.
pub(crate) fn keeper(config: &Config, parts: KeepsHouse, dispatch: &Arc<Dispatch>) -> Arc<Housekeeping> {
    let KeepsHouse { table, archive, .. } = parts;
    let clock = &dispatch.ports().clock;
    let fleet = config.fleet.as_ref();
    let settings = Settings {
        divisor: config.tuning.time_divisor,
        owner: dispatch.settings().owner.clone(),
        max_runtime: config.tuning.max_runtime,
        unclaimed_grace: fleet.map_or(Settings::UNCLAIMED_GRACE, |fleet| fleet.unclaimed_instance_grace),
        completed_grace: fleet.map_or(Settings::COMPLETED_GRACE, |fleet| fleet.completed_instance_grace),
        stopped_grace: fleet.and_then(|fleet| fleet.stopped_instance_grace),
        hot_pools: fleet.and_then(|fleet| fleet.hot_pools),
        hard_delete: config.store.old_jobs_hard_delete,
    };
    let ports = Ports {
        dispatch: Arc::clone(dispatch),
        tasks: db::Tasks::new(Arc::clone(&table), Arc::clone(clock)),
        locks: db::Locks::new(Arc::clone(&table), Arc::clone(clock)),
        claims: db::Claims::new(Arc::clone(&table), Arc::clone(clock)),
        pools: Arc::new(db::Pools::new(table, Arc::clone(clock))),
        archive,
    };
    Housekeeping::new(ports, settings)
}

/// The sub-command.
pub(crate) fn main(options: &cli::Tasks) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match options {
        cli::Tasks::List(list) => runtime.block_on(async {
            let rows = rows(list.dir.as_deref()).await?.all().await.context("the store does not answer")?;
            let none = TaskRow::default();
            if list.json {
                let tasks: Vec<_> =
                    TABLE.iter().map(|entry| row_json(entry.name, rows.get(entry.name).unwrap_or(&none))).collect();
                say(&json!({ "tasks": tasks }).to_string());
            } else {
                say(&format!("{:<26} {:>7}  {:<20}  RESULT", "TASK", "EVERY", "LAST BEGUN"));
                for entry in TABLE {
                    let row = rows.get(entry.name).unwrap_or(&none);
                    let begun = row.last_started_at.map_or_else(|| "never".to_owned(), |at| at.to_string());
                    let result = row.last_result.as_deref().unwrap_or("");
                    say(&format!("{:<26} {:>5} m  {begun:<20}  {result}", entry.name, entry.every.as_secs() / 60));
                }
            }
            Ok(ExitCode::SUCCESS)
        }),
        cli::Tasks::Run(run) => runtime.block_on(by_hand(run)),
    }
}

/// The schedule: that of a `local` run, or the one the environment names.
async fn rows(dir: Option<&std::path::Path>) -> anyhow::Result<db::Tasks> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    #[cfg(feature = "local")]
    if let Some(dir) = dir {
        let path = crate::local::Layout::new(dir).store();
        return Ok(db::Tasks::new(Arc::new(db::Sqlite::open_read_only(&path, Arc::clone(&clock))?), clock));
    }
    let _ = dir;
    let back_ends = back_ends::cloud(&configured()?, false, Metrics::new()).await?;
    Ok(db::Tasks::new(back_ends.keeps_house.table, clock))
}

fn configured() -> anyhow::Result<Config> {
    let env = commands::environment();
    let mut loaded = Config::load(&env, &SystemFiles);
    commands::check_aliases(&mut loaded, &env);
    let usable = loaded.ok(false);
    loaded.config.filter(|_| usable).context("the configuration has errors: see `runs-fleet-server check-config`")
}

async fn by_hand(options: &cli::RunTask) -> anyhow::Result<ExitCode> {
    let task = Task::named(&options.task)
        .with_context(|| format!("there is no task `{}`: see `runs-fleet-server tasks list`", options.task))?;
    let config = configured()?;
    let back_ends = back_ends::cloud(&config, false, Metrics::new()).await?;
    let dispatch = Dispatch::new(back_ends.ports, back_ends.settings);
    let keeper = keeper(&config, back_ends.keeps_house, &dispatch);
    let ask = Ask {
        max_items: options.max_items.map(|most| most as usize),
        pool: options.pool.clone(),
        job: options.job,
        requested_by: Some("command line".to_owned()),
        ..Ask::default()
    };
    let (end, report) = if options.dry_run {
        (Ended::Success, keeper.rehearse(task, &ask, CancellationToken::new()).await)
    } else {
        match keeper
            .run(task, &ask, Trigger::Admin, None, Vec::new(), |_| true)
            .await
            .context("the run did not begin")?
        {
            Ran::Ended(end, report) => (end, report),
            Ran::Locked | Ran::Needless | Ran::Deposed => anyhow::bail!("somebody else runs {} now", task.name()),
        }
    };
    dispatch.finish().await;
    tell(options, &end, &report)?;
    Ok(if end == Ended::Success && report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(options: &cli::RunTask, end: &Ended, report: &Report) -> anyhow::Result<()> {
    if options.json {
        let mut report = serde_json::to_value(report)?;
        report["task"] = options.task.as_str().into();
        report["dry_run"] = options.dry_run.into();
        say(&report.to_string());
        return Ok(());
    }
    let done = if options.dry_run { "would be acted upon" } else { "acted upon" };
    for (id, why) in &report.items {
        say(&format!("{id:<24} {why}"));
    }
    say(&format!(
        "{} looked at, {} {done}, {} unknown, {} left for later, {} failed",
        report.seen, report.acted, report.unknown, report.deferred, report.failed
    ));
    if let Some(note) = report.note {
        say(note);
    }
    match end {
        Ended::Failed { why, .. } => say(&format!("failed: {why}")),
        Ended::Aborted => say("told to stop"),
        Ended::Success => report.first_error.iter().for_each(|error| say(error)),
    }
    Ok(())
}

fn row_json(name: &str, row: &TaskRow) -> serde_json::Value {
    json!({
        "task": name,
        "last_started_at": row.last_started_at,
        "last_finished_at": row.last_finished_at,
        "last_success_at": row.last_success_at,
        "last_result": row.last_result,
        "last_trigger": row.last_trigger,
        "consecutive_failures": row.consecutive_failures,
        "running": row.locked_until.is_some_and(|until| until > SystemClock.now()),
    })
}
