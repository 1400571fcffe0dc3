use std::sync::Arc;
use std::time::Duration;

use domain::clock::SystemClock;
use domain::report::{AgentReport, AgentStatus};
use tokio::sync::mpsc;

use super::{Channel, Letter, Sender, Spool, Undelivered};
use crate::log::Log;

fn sender(spool: &std::path::Path) -> Sender {
    let log = Log::new(Arc::new(SystemClock));
    log.hide("hunter2-hunter2");
    let channel = Arc::new(Spool(Some(spool.to_owned())));
    Sender { channel, retry_base: Duration::from_millis(1), clock: Arc::new(SystemClock), log }
}

fn letter(report: AgentReport) -> Letter {
    Letter { report, queue_url: None }
}

#[tokio::test]
async fn reports_arrive_in_order_stamped_and_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let (queue, reports) = mpsc::channel(4);
    let mut end = AgentReport::new("i-1".into(), AgentStatus::Failure);
    end.error = Some("said hunter2-hunter2".to_owned());
    queue.send(letter(AgentReport::new("i-1".into(), AgentStatus::Started))).await.unwrap();
    queue.send(letter(end)).await.unwrap();
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
    queue.send(letter(AgentReport::new("i-1".into(), AgentStatus::Success))).await.unwrap();
    drop(queue);
    assert!(!sender(&file.join("below")).run(reports).await);
}

/// Answers from a script and counts the letters.
struct Script(std::sync::Mutex<Vec<Result<(), Undelivered>>>, std::sync::atomic::AtomicU32);

#[async_trait::async_trait]
impl Channel for Script {
    async fn deliver(&self, _: &Letter) -> Result<(), Undelivered> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.lock().unwrap().pop().unwrap_or_else(|| Err(Undelivered::Again("down".to_owned())))
    }
}

#[tokio::test]
async fn a_letter_is_tried_three_times_unless_that_is_pointless() {
    let never = || Err(Undelivered::Never("no such queue".to_owned()));
    let again = || Err(Undelivered::Again("throttled".to_owned()));
    let rows = [
        (vec![Ok(())], true, 1),
        (vec![Ok(()), again(), again()], true, 3),
        (vec![], false, 3),
        (vec![never()], false, 1),
        (vec![Err(Undelivered::Nowhere)], true, 1),
    ];
    for (answers, accepted, tries) in rows {
        let script = Arc::new(Script(std::sync::Mutex::new(answers), 0.into()));
        let dir = tempfile::tempdir().unwrap();
        let sender = Sender { channel: Arc::clone(&script) as Arc<dyn Channel>, ..sender(dir.path()) };
        let (queue, letters) = mpsc::channel(1);
        queue.send(letter(AgentReport::new("i-1".into(), AgentStatus::Success))).await.unwrap();
        drop(queue);
        assert_eq!(sender.run(letters).await, accepted);
        assert_eq!(script.1.load(std::sync::atomic::Ordering::Relaxed), tries);
    }
}
