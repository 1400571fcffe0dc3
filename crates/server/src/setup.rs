//! `setup`: the tables and queues of an AWS account, listed or made.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use db::dynamodb::{DynamoDb, Layout, TableNames, layouts};
use db::schema;
use domain::clock::{SystemClock, SystemRng};
use queue::sqs::{self, QueueSpec};
use serde_json::{Value, json};
use telemetry::Metrics;

use crate::cli::{self, Format, say};

/// The sub-command.
pub(crate) fn main(options: &cli::Setup) -> anyhow::Result<ExitCode> {
    let prefix = &options.name_prefix;
    anyhow::ensure!(
        (1..=40).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
        "--name-prefix must be 1 to 40 letters, digits and hyphens"
    );
    let names = names(prefix);
    let (tables, queues) = (layouts(&names), sqs::wanted(prefix));
    if !options.create {
        match options.format {
            Format::Text => say(checklist(&tables, &queues).trim_end()),
            Format::Json => say(&description(&tables, &queues).to_string()),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let variables = runtime.block_on(create(prefix, names, &queues))?;
    match options.format {
        Format::Text => variables.iter().for_each(|(name, value)| say(&format!("{name}={value}"))),
        Format::Json => say(&json!({ "variables": variables }).to_string()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Tables and the variables that name them.
fn tables(prefix: &str) -> [(&'static db::table::Schema, &'static str, String); 6] {
    [
        (&schema::JOBS, "RUNS_FLEET_JOBS_TABLE", format!("{prefix}-jobs")),
        (&schema::POOLS, "RUNS_FLEET_POOLS_TABLE", format!("{prefix}-pools")),
        (&schema::RUNNERS, "RUNS_FLEET_RUNNERS_TABLE", format!("{prefix}-runners")),
        (&schema::CIRCUITS, "RUNS_FLEET_CIRCUIT_BREAKER_TABLE", format!("{prefix}-circuit-state")),
        (&schema::AUDIT, "RUNS_FLEET_AUDIT_TABLE", format!("{prefix}-audit")),
        (&schema::LOCKS, "RUNS_FLEET_LOCKS_TABLE", format!("{prefix}-locks")),
    ]
}

fn names(prefix: &str) -> TableNames {
    tables(prefix).into_iter().fold(TableNames::new(), |names, (table, _, name)| names.table(table, name))
}

/// Queues, without prefix, and the variables that name them.
const QUEUES: [(&str, &str); 6] = [
    ("main.fifo", "RUNS_FLEET_QUEUE_URL"),
    ("main-dlq.fifo", "RUNS_FLEET_QUEUE_DLQ_URL"),
    ("webhook.fifo", "RUNS_FLEET_WEBHOOK_QUEUE_URL"),
    ("events", "RUNS_FLEET_EVENTS_QUEUE_URL"),
    ("termination", "RUNS_FLEET_TERMINATION_QUEUE_URL"),
    ("housekeeping", "RUNS_FLEET_HOUSEKEEPING_QUEUE_URL"),
];

async fn create(
    prefix: &str,
    names: TableNames,
    queues: &[QueueSpec],
) -> anyhow::Result<BTreeMap<&'static str, String>> {
    let sdk = crate::aws::sdk(None).await;
    anyhow::ensure!(sdk.region().is_some(), "no region is set: set AWS_REGION");
    let calls = telemetry::aws::calls(Metrics::new(), Arc::new(SystemClock));
    let store = DynamoDb::new(&sdk, calls.clone(), names, Arc::new(SystemClock), Arc::new(SystemRng));
    store.create().await.context("the tables could not be created")?;
    let urls = sqs::create(&sdk, calls, queues).await.context("the queues could not be created")?;
    let mut variables: BTreeMap<_, _> =
        tables(prefix).into_iter().map(|(_, variable, name)| (variable, name)).collect();
    for (queue, variable) in QUEUES {
        if let Some(url) = urls.get(&format!("{prefix}-{queue}")) {
            variables.insert(variable, url.clone());
        }
    }
    Ok(variables)
}

fn description(tables: &[Layout], queues: &[QueueSpec]) -> Value {
    let queue = |queue: &QueueSpec| {
        json!({
            "name": queue.name,
            "fifo": queue.fifo(),
            "content_based_deduplication": queue.fifo(),
            "visibility_timeout_seconds": queue.visibility.as_secs(),
            "retention_seconds": queue.retention.as_secs(),
            "redrive": queue.redrive.as_ref().map(|redrive| json!({
                "dead_letter_queue": redrive.queue,
                "max_receive_count": redrive.max_receive_count,
            })),
        })
    };
    let table = |table: &Layout| json!({ "create_table": table.create_table(), "ttl_attribute": table.ttl });
    json!({
        "tables": tables.iter().map(table).collect::<Vec<_>>(),
        "queues": queues.iter().map(queue).collect::<Vec<_>>(),
    })
}

fn checklist(tables: &[Layout], queues: &[QueueSpec]) -> String {
    let mut text = String::from("DynamoDB tables (on-demand billing, encryption, point-in-time recovery)\n");
    for table in tables {
        let (key, kind) = table.key;
        let _ = writeln!(text, "[ ] {}  key {key} ({})", table.table, kind.as_str());
        for index in &table.indexes {
            let range = index.range.map_or_else(String::new, |(name, _)| format!(", {name}"));
            let _ = writeln!(text, "    [ ] index {} ({}{range}), all attributes", index.name, index.hash.0);
        }
        if let Some(ttl) = table.ttl {
            let _ = writeln!(text, "    [ ] time to live by {ttl}");
        }
    }
    text.push_str("\nSQS queues (encryption)\n");
    for queue in queues {
        let kind = if queue.fifo() { "FIFO, content-based deduplication" } else { "standard" };
        let (visibility, retention) = (queue.visibility.as_secs(), queue.retention.as_secs());
        let _ = writeln!(text, "[ ] {}  {kind}, visibility {visibility} s, retention {retention} s", queue.name);
        if let Some(redrive) = &queue.redrive {
            let _ = writeln!(text, "    [ ] dead letters to {} after {}", redrive.queue, redrive.max_receive_count);
        }
    }
    text
}
