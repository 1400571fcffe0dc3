//! Runs of housekeeping tasks that people ask for by the queue: at any time, and often twice, so that two replicas want
//! the same task at the same instant.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, Rng};
use housekeeping::task::TABLE;
use queue::{Message, Queue};

/// Between two requests, at most.
const PAUSE: Duration = Duration::from_secs(240);

/// Asks for one task after the other until dropped.
pub async fn ask(requests: Arc<dyn Queue>, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) {
    loop {
        tokio::time::sleep(PAUSE.mul_f64(rng.unit())).await;
        let task = TABLE[(rng.next_u64() % TABLE.len() as u64) as usize].name;
        let body = serde_json::json!({ "task_type": task, "timestamp": clock.now() }).to_string();
        for _ in 0..=(rng.next_u64() % 3) {
            let (body, dedup) = (body.clone(), rng.token());
            let message = Message { body, group: String::new(), dedup, attributes: BTreeMap::new() };
            // Whoever asks in vain asks again.
            let _ = requests.send(message).await;
        }
    }
}
