//! Long work that any number of requests may wait for, and that goes on when none does.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::lock;

type Running<K, T> = Arc<Mutex<HashMap<K, watch::Receiver<Option<T>>>>>;

/// Work under way, by what it is for.
pub(super) struct Joining<K, T>(Running<K, T>);

impl<K, T> Default for Joining<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// Forgets the work when it ends, even by a panic.
struct Under<K: Hash + Eq, T>(Running<K, T>, K);

impl<K: Hash + Eq, T> Drop for Under<K, T> {
    fn drop(&mut self) {
        lock(&self.0).remove(&self.1);
    }
}

impl<K, T> Joining<K, T>
where
    K: Hash + Eq + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the work for `key`, or starts it. `None`: it goes on, but longer than `patience`.
    pub(super) async fn run<F>(&self, tasks: &TaskTracker, key: K, patience: Duration, work: F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut result = {
            let mut running = lock(&self.0);
            if let Some(result) = running.get(&key) {
                result.clone()
            } else {
                let (done, result) = watch::channel(None);
                running.insert(key.clone(), result.clone());
                let under = Under(Arc::clone(&self.0), key);
                tasks.spawn(async move {
                    let value = work.await;
                    // Forgotten before it is told: who hears the result and asks again, asks anew.
                    drop(under);
                    let _ = done.send(Some(value));
                });
                result
            }
        };
        let told = tokio::time::timeout(patience, result.wait_for(Option::is_some)).await;
        told.ok().and_then(Result::ok).and_then(|value| value.clone())
    }
}
