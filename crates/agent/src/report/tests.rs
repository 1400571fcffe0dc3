use std::sync::Arc;
use std::time::Duration;

use domain::clock::SystemClock;
use domain::report::{AgentReport, AgentStatus};
use tokio::sync::mpsc;

use super::Sender;
use crate::log::Log;

fn sender(spool: &std::path::Path) -> Sender {
    let log = Log::new(Arc::new(SystemClock));
    log.hide("hunter2-hunter2");
    Sender { spool: Some(spool.to_owned()), retry_base: Duration::from_millis(1), clock: Arc::new(SystemClock), log }
}

#[tokio::test]
async fn reports_arrive_in_order_stamped_and_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let (queue, reports) = mpsc::channel(4);
    let mut end = AgentReport::new("i-1".into(), AgentStatus::Failure);
    end.error = Some("said hunter2-hunter2".to_owned());
    queue.send(AgentReport::new("i-1".into(), AgentStatus::Started)).await.unwrap();
    queue.send(end).await.unwrap();
    drop(queue);
    assert!(sender(dir.path()).run(reports).await);
    let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let bodies: Vec<String> = names.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    assert!(bodies[0].contains("\"started\"") && bodies[1].contains("\"failure\""), "{bodies:?}");
    assert!(bodies.iter().all(|body| body.contains("sent_at_ms") && !body.contains("hunter2")), "{bodies:?}");
}

#[tokio::test]
async fn an_undeliverable_report_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (queue, reports) = mpsc::channel(4);
    queue.send(AgentReport::new("i-1".into(), AgentStatus::Success)).await.unwrap();
    drop(queue);
    assert!(!sender(&file.join("below")).run(reports).await);
}
