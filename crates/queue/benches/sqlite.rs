//! One message through the SQLite queue, synced three times on its way (send, receive, ack): alone, and behind a
//! hundred thousand others. `cargo bench -p queue`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use domain::clock::{Rng, SystemClock, SystemRng};
use queue::{Message, Queue, QueueConfig, SqliteQueues};

fn message(group: u64) -> Message {
    let (body, dedup) = ("x".repeat(600), SystemRng.token());
    Message { body, group: group.to_string(), dedup, ..Message::default() }
}

async fn round_trip(queue: &Arc<dyn Queue>) {
    queue.send(message(u64::MAX)).await.unwrap();
    let minute = Duration::from_secs(60);
    for delivery in queue.receive(1, minute, minute).await.unwrap() {
        queue.ack(&delivery.handle).await.unwrap();
    }
}

fn round_trips(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for backlog in [0, 100_000] {
        let dir = tempfile::tempdir().unwrap();
        let queues =
            SqliteQueues::open(&dir.path().join("queue.db"), Arc::new(SystemClock), Arc::new(SystemRng)).unwrap();
        let queue = queues.queue(QueueConfig::fifo("main"));
        runtime.block_on(fill(&queue, backlog));
        let name = format!("queue: send, receive and ack behind {backlog} messages");
        criterion.bench_function(&name, |bench| bench.to_async(&runtime).iter(|| round_trip(&queue)));
    }
}

async fn fill(queue: &Arc<dyn Queue>, messages: u64) {
    let mut sends = tokio::task::JoinSet::new();
    for number in 0..messages {
        let queue = Arc::clone(queue);
        sends.spawn(async move { queue.send(message(number)).await.unwrap() });
        if sends.len() >= 1024 {
            sends.join_next().await.unwrap().unwrap();
        }
    }
    while sends.join_next().await.is_some() {}
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50);
    targets = round_trips
}
criterion_main!(benches);
