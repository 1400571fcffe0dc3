//! The webhook reader against every `workflow_job` example that GitHub's community publishes, GitHub Enterprise
//! Server's included.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail it")]

mod support;

use std::fs;

use domain::gh::Status;
use github::webhook::{Action, QueuedEvent, WorkflowJobEvent};
use serde_json::Value;

/// Where an example came from, and the request body it shows.
fn examples() -> Vec<(String, Value)> {
    let root = support::node_modules().join("@octokit/webhooks-examples");
    let mut found = Vec::new();
    for entry in fs::read_dir(&root).unwrap() {
        let index = entry.unwrap().path().join("index.json");
        let Ok(text) = fs::read_to_string(&index) else { continue };
        let events: Vec<Value> = serde_json::from_str(&text).unwrap();
        for event in events.iter().filter(|event| event["name"] == "workflow_job") {
            for (number, example) in event["examples"].as_array().unwrap().iter().enumerate() {
                found.push((format!("{} #{number}", index.display()), example.clone()));
            }
        }
    }
    found
}

/// `event` says what `value` says; absent, `null`, empty and zero are the same.
fn same<T: ToString>(event: Option<T>, value: &Value) -> bool {
    let said = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.as_u64() != Some(0) => number.to_string(),
        _ => String::new(),
    };
    event.map(|event| event.to_string()).unwrap_or_default() == said
}

#[test]
fn every_published_example_decodes_to_what_it_says() {
    let examples = examples();
    assert!(examples.len() >= 11, "the package has eight examples of github.com and three of Enterprise Server");
    for (source, example) in &examples {
        let event = WorkflowJobEvent::decode(example.to_string().as_bytes())
            .unwrap_or_else(|error| panic!("{source}: {error}"));
        let job = &example["workflow_job"];
        let repository = &example["repository"];

        assert!(event.action != Action::Other && example["action"] == event.action.as_str(), "{source}: action");
        assert_eq!(
            event.labels.iter().map(String::as_str).map(Value::from).collect::<Value>(),
            job["labels"],
            "{source}"
        );
        assert_eq!(Value::from(event.private), repository["private"], "{source}: private");
        assert_eq!(u64::from(event.run_attempt), job["run_attempt"].as_u64().unwrap_or(1), "{source}: run_attempt");
        for (name, same) in [
            ("id", same(Some(event.job_id), &job["id"])),
            ("run_id", same(event.run_id, &job["run_id"])),
            ("name", same(Some(&event.name), &job["name"])),
            ("workflow_name", same(Some(&event.workflow_name), &job["workflow_name"])),
            ("head_branch", same(Some(&event.head_branch), &job["head_branch"])),
            ("status", same(Some(&event.status), &job["status"])),
            ("conclusion", same(event.conclusion.as_ref(), &job["conclusion"])),
            ("created_at", same(event.created_at, &job["created_at"])),
            ("started_at", same(event.started_at, &job["started_at"])),
            ("completed_at", same(event.completed_at, &job["completed_at"])),
            ("runner_id", same(event.runner_id, &job["runner_id"])),
            ("runner_name", same(event.runner_name.as_ref(), &job["runner_name"])),
            ("runner_group_id", same(event.runner_group_id, &job["runner_group_id"])),
            ("html_url", same(Some(&event.html_url), &job["html_url"])),
            ("full_name", same(Some(&event.repo), &repository["full_name"])),
            ("installation", same(event.installation_id, &example["installation"]["id"])),
        ] {
            assert!(same, "{source}: {name} of {event:?} is not that of {job}");
        }

        let status = event.view().status;
        let expected = match event.action {
            Action::InProgress => status == Status::InProgress,
            Action::Completed => matches!(status, Status::Completed(_)),
            _ => status == Status::Queued,
        };
        assert!(expected, "{source}: {status:?}");

        let queued = QueuedEvent { delivery: source.clone(), received_at: None, event };
        assert_eq!(QueuedEvent::decode(&queued.encode()), Ok((queued, vec![])), "{source}: survives the queue");
    }
}

/// The reader sees other events only when something upstream mislabels them: an error, never a made-up job.
#[test]
fn no_example_of_another_event_passes_for_a_job() {
    let index = support::node_modules().join("@octokit/webhooks-examples/api.github.com/index.json");
    let events: Vec<Value> = serde_json::from_str(&fs::read_to_string(index).unwrap()).unwrap();
    let mut checked = 0;
    for event in events.iter().filter(|event| event["name"] != "workflow_job") {
        for example in event["examples"].as_array().unwrap() {
            let read = WorkflowJobEvent::decode(example.to_string().as_bytes());
            assert!(read.is_err(), "{} reads as {read:?}", event["name"]);
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} examples of other events");
}
