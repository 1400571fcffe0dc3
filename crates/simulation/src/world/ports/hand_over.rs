//! The store of hand-overs: of everybody, and as one process reaches it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use domain::handover::HandOver as Document;
use domain::ids::RunnerKey;
use provider::{HandOver, handover};
use tokio::sync::Notify;

use crate::world::happening::{Happening, Scene};
use crate::world::mutation::Mutation;
use crate::world::process::{Port, Process};

#[derive(Default)]
struct Held {
    documents: BTreeMap<RunnerKey, Document>,
    waiting: BTreeMap<RunnerKey, Arc<Notify>>,
}

/// The hand-over store of everybody.
#[derive(Default)]
pub struct HandOvers(Mutex<Held>);

impl HandOvers {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is stored for a machine.
    pub fn read(&self, key: &RunnerKey) -> Option<Document> {
        self.held().documents.get(key).cloned()
    }

    /// Machines that have a hand-over.
    pub fn keys(&self) -> Vec<RunnerKey> {
        self.held().documents.keys().cloned().collect()
    }

    /// Waits until something is stored for a machine, and answers it. May be dropped.
    pub async fn appeared(&self, key: &RunnerKey) -> Document {
        loop {
            let notify = {
                let mut held = self.held();
                if let Some(document) = held.documents.get(key) {
                    return document.clone();
                }
                Arc::clone(held.waiting.entry(key.clone()).or_default())
            };
            notify.notified().await;
        }
    }

    /// Nobody waits for this machine's hand-over any more.
    pub fn forget(&self, key: &RunnerKey) {
        self.held().waiting.remove(key);
    }

    fn put(&self, key: &RunnerKey, document: &Document) {
        let mut held = self.held();
        held.documents.insert(key.clone(), document.clone());
        if let Some(waiting) = held.waiting.remove(key) {
            // One agent waits for a machine's hand-over; a permit is kept if it is just about to.
            waiting.notify_one();
        }
    }
}

/// The same, as one process reaches it.
pub struct ProcessHandOver {
    /// Whose.
    pub process: Arc<Process>,
    /// The store.
    pub documents: Arc<HandOvers>,
    /// Who watches.
    pub scene: Scene,
    /// A deliberate bug.
    pub mutation: Option<Mutation>,
}

fn no_answer<T>() -> Result<T, handover::Error> {
    Err(handover::Error::Transient("no answer".to_owned()))
}

#[async_trait]
impl HandOver for ProcessHandOver {
    async fn put(&self, key: &RunnerKey, document: &Document) -> Result<(), handover::Error> {
        let put = async {
            if self.mutation == Some(Mutation::HandOverNothing) {
                return Ok(());
            }
            self.documents.put(key, document);
            let (job, dispatch) = (document.job_id.as_str(), document.dispatch_id.as_str());
            self.scene.happened(&Happening::HandedOver { machine: key, job, dispatch });
            Ok(())
        };
        self.process.call(Port::HandOver, "hand_over.put", no_answer, put).await
    }
    async fn get(&self, key: &RunnerKey) -> Result<Option<Document>, handover::Error> {
        let get = async { Ok(self.documents.read(key)) };
        self.process.call(Port::HandOver, "hand_over.get", no_answer, get).await
    }
    async fn delete(&self, key: &RunnerKey) -> Result<(), handover::Error> {
        let delete = async {
            if self.mutation == Some(Mutation::KeepHandOver) {
                return Ok(());
            }
            self.documents.held().documents.remove(key);
            self.scene.happened(&Happening::HandOverDeleted { machine: key });
            Ok(())
        };
        self.process.call(Port::HandOver, "hand_over.delete", no_answer, delete).await
    }
    async fn list(&self) -> Result<Vec<RunnerKey>, handover::Error> {
        let list = async { Ok(self.documents.keys()) };
        self.process.call(Port::HandOver, "hand_over.list", no_answer, list).await
    }
}
