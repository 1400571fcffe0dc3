//! Table, queue and hand-over store, each behind the fate of the process that calls it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use db::table::{Cond, Item, Query, Schema, Update, Value, Write};
use db::{Memory, Outcome, Table};
use domain::handover::HandOver as Document;
use domain::ids::RunnerKey;
use provider::{HandOver, handover};
use queue::{Capabilities, Delivery, Depth, Handle, Message, Queue};

use super::faults::{Port, Process};
use super::laws::Laws;

/// The store of everybody, as one process reaches it.
pub struct ProcessTable {
    pub process: Arc<Process>,
    pub table: Arc<Memory>,
    pub laws: Arc<Laws>,
}

fn unavailable<T>() -> Result<T, db::Error> {
    Err(db::Error::Unavailable("the weather".to_owned()))
}

impl ProcessTable {
    async fn read<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, db::Error>>,
    ) -> Result<T, db::Error> {
        self.process.call(Port::Store, name, unavailable, call).await
    }

    /// After every write the laws are checked.
    async fn write<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, db::Error>>,
    ) -> Result<T, db::Error> {
        let checked = async {
            let answer = call.await;
            self.laws.check(&self.table).await;
            answer
        };
        self.process.call(Port::Store, name, unavailable, checked).await
    }
}

#[async_trait]
impl Table for ProcessTable {
    async fn get(&self, table: &'static Schema, key: &Value) -> Result<Option<Item>, db::Error> {
        self.read("store.get", self.table.get(table, key)).await
    }
    async fn put(&self, table: &'static Schema, item: Item, cond: Cond) -> Result<Outcome, db::Error> {
        self.write("store.put", self.table.put(table, item, cond)).await
    }
    async fn update(
        &self,
        table: &'static Schema,
        key: &Value,
        update: Update,
        cond: Cond,
    ) -> Result<Outcome<Item>, db::Error> {
        self.write("store.update", self.table.update(table, key, update, cond)).await
    }
    async fn delete(&self, table: &'static Schema, key: &Value, cond: Cond) -> Result<Outcome, db::Error> {
        self.write("store.delete", self.table.delete(table, key, cond)).await
    }
    async fn query(&self, table: &'static Schema, query: Query) -> Result<Vec<Item>, db::Error> {
        self.read("store.query", self.table.query(table, query)).await
    }
    async fn scan(&self, table: &'static Schema) -> Result<Vec<Item>, db::Error> {
        self.read("store.scan", self.table.scan(table)).await
    }
    async fn transact(&self, writes: Vec<Write>) -> Result<Outcome, db::Error> {
        self.write("store.transact", self.table.transact(writes)).await
    }
}

/// A queue, as one process reaches it. Acks are checked against the laws.
pub struct ProcessQueue {
    pub process: Arc<Process>,
    pub queue: Arc<dyn Queue>,
    pub table: Arc<Memory>,
    pub laws: Arc<Laws>,
    pub held: Mutex<HashMap<Handle, Delivery>>,
}

fn silent<T>() -> Result<T, queue::Error> {
    Err(queue::Error::Timeout)
}

#[async_trait]
impl Queue for ProcessQueue {
    fn name(&self) -> &str {
        self.queue.name()
    }
    fn capabilities(&self) -> Capabilities {
        self.queue.capabilities()
    }
    async fn send(&self, message: Message) -> Result<String, queue::Error> {
        self.process.call(Port::Queue, "queue.send", silent, self.queue.send(message)).await
    }
    async fn receive(&self, max: usize, wait: Duration, visibility: Duration) -> Result<Vec<Delivery>, queue::Error> {
        let call = self.queue.receive(max, wait, visibility);
        let received = self.process.call(Port::Queue, "queue.receive", silent, call).await?;
        let mut held = self.held.lock().unwrap();
        held.extend(received.iter().map(|delivery| (delivery.handle.clone(), delivery.clone())));
        Ok(received)
    }
    async fn ack(&self, handle: &Handle) -> Result<(), queue::Error> {
        let delivery = self.held.lock().unwrap().get(handle).cloned();
        let checked = async {
            if let Some(delivery) = delivery {
                self.laws.check_ack(&self.table, &delivery).await;
            }
            self.queue.ack(handle).await
        };
        self.process.call(Port::Queue, "queue.ack", silent, checked).await
    }
    async fn extend(&self, handle: &Handle, visibility: Duration) -> Result<(), queue::Error> {
        self.process.call(Port::Queue, "queue.extend", silent, self.queue.extend(handle, visibility)).await
    }
    async fn reject(&self, delivery: &Delivery, reason: &str) -> Result<(), queue::Error> {
        self.process.call(Port::Queue, "queue.reject", silent, self.queue.reject(delivery, reason)).await
    }
    async fn ping(&self) -> Result<(), queue::Error> {
        self.queue.ping().await
    }
    async fn depth(&self) -> Result<Depth, queue::Error> {
        self.queue.depth().await
    }
}

/// The hand-over store of everybody.
#[derive(Default)]
pub struct HandOvers(Mutex<BTreeMap<RunnerKey, Document>>);

impl HandOvers {
    pub fn read(&self, key: &RunnerKey) -> Option<Document> {
        self.0.lock().unwrap().get(key).cloned()
    }
    /// A document that nobody took away.
    pub fn leave(&self, key: &RunnerKey, document: Document) {
        self.0.lock().unwrap().insert(key.clone(), document);
    }
    pub fn keys(&self) -> Vec<RunnerKey> {
        self.0.lock().unwrap().keys().cloned().collect()
    }
}

/// The same, as one process reaches it.
pub struct ProcessHandOver {
    pub process: Arc<Process>,
    pub documents: Arc<HandOvers>,
}

fn no_answer<T>() -> Result<T, handover::Error> {
    Err(handover::Error::Transient("the weather".to_owned()))
}

#[async_trait]
impl HandOver for ProcessHandOver {
    async fn put(&self, key: &RunnerKey, document: &Document) -> Result<(), handover::Error> {
        let put = async {
            self.documents.0.lock().unwrap().insert(key.clone(), document.clone());
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
            self.documents.0.lock().unwrap().remove(key);
            Ok(())
        };
        self.process.call(Port::HandOver, "hand_over.delete", no_answer, delete).await
    }
    async fn list(&self) -> Result<Vec<RunnerKey>, handover::Error> {
        let list = async { Ok(self.documents.keys()) };
        self.process.call(Port::HandOver, "hand_over.list", no_answer, list).await
    }
}
