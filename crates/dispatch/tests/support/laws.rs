//! What must hold after every single write and at every acknowledgement, whoever made it.
//!
//! * One machine serves one unsettled job, and one job one machine.
//! * A bound job names its machine; a pending one names none.
//! * A settled job stays as it ended.
//! * Counters never fall, a job once forced on-demand stays so, and its first acceptance is never forgotten.
//! * A job message is acknowledged only when nothing in it is needed any more.
//! * A machine is never ended under a job, and never stopped as long as a job's record names it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use db::schema::JOBS;
use db::table::{Item, Value};
use db::{Memory, Table};
use domain::ids::{JobId, RunnerKey};
use domain::message::JobMessage;
use github::webhook::Kind;
use queue::Delivery;

#[derive(Default)]
pub struct Laws {
    /// Nobody looks: for benches.
    pub suspended: AtomicBool,
    before: Mutex<BTreeMap<i64, Item>>,
    broken: Mutex<Vec<String>>,
}

fn text<'a>(row: &'a Item, name: &str) -> Option<&'a str> {
    match row.get(name) {
        Some(Value::S(text)) => Some(text),
        _ => None,
    }
}

fn whole(row: &Item, name: &str) -> i64 {
    match row.get(name) {
        Some(Value::N(number)) => *number,
        _ => 0,
    }
}

const OPEN: [&str; 5] = ["requeued", "claiming", "launched", "running", "terminating"];

impl Laws {
    pub fn broken(&self) -> Vec<String> {
        self.broken.lock().unwrap().clone()
    }

    fn accuse(&self, what: String) {
        self.broken.lock().unwrap().push(what);
    }

    pub async fn check(&self, table: &Memory) {
        if self.suspended.load(Ordering::Relaxed) {
            return;
        }
        let rows = table.scan(&JOBS).await.unwrap();
        let mut machines: BTreeMap<&str, i64> = BTreeMap::new();
        let mut before = self.before.lock().unwrap();
        for row in &rows {
            let (id, status) = (whole(row, "job_id"), text(row, "status").unwrap_or_default());
            let machine = text(row, "instance_id");
            match status {
                "launched" | "running" if machine.is_none() => self.accuse(format!("job {id} is {status} nowhere")),
                "requeued" | "claiming" if machine.is_some() => {
                    self.accuse(format!("job {id} is {status} on {machine:?}"));
                }
                _ => {}
            }
            if OPEN.contains(&status)
                && let Some(machine) = machine
                && let Some(other) = machines.insert(machine, id)
            {
                self.accuse(format!("{machine} is bound to the jobs {other} and {id}"));
            }
            if let Some(old) = before.get(&id) {
                self.compare(id, old, row);
            }
        }
        *before = rows.iter().map(|row| (whole(row, "job_id"), row.clone())).collect();
    }

    fn compare(&self, id: i64, old: &Item, new: &Item) {
        let was = text(old, "status").unwrap_or_default();
        if !OPEN.contains(&was) && text(old, "status") != text(new, "status") {
            self.accuse(format!("job {id} was settled as {was} and is {:?} now", text(new, "status")));
        }
        for counter in ["retry_count", "dispatch_seq", "displaced_count", "version"] {
            if whole(new, counter) < whole(old, counter) {
                self.accuse(format!("{counter} of job {id} fell"));
            }
        }
        if old.get("force_on_demand") == Some(&Value::Bool(true))
            && old.get("force_on_demand") != new.get("force_on_demand")
        {
            self.accuse(format!("job {id} may use spot again"));
        }
        if old.get("queued_at") != new.get("queued_at") {
            self.accuse(format!("job {id} was accepted at another time"));
        }
    }

    /// A machine is about to be ended, with this job on its runner.
    pub fn check_end(&self, key: &RunnerKey, job: Option<JobId>) {
        if let Some(job) = job {
            self.accuse(format!("{key} was ended while it ran the job {job}"));
        }
    }

    /// A machine is about to be stopped.
    pub fn check_stop(&self, key: &RunnerKey, job: Option<JobId>) {
        self.check_end(key, job);
        let before = self.before.lock().unwrap();
        let named = |row: &Item| {
            OPEN.contains(&text(row, "status").unwrap_or_default()) && text(row, "instance_id") == Some(key.as_str())
        };
        for (id, _) in before.iter().filter(|(_, row)| named(row)) {
            self.accuse(format!("{key} was stopped while the job {id} waited on it"));
        }
    }

    /// A job message may go when its job is bound and prepared, running, condemned, settled, or pending with its
    /// outbox set.
    pub async fn check_ack(&self, table: &Memory, delivery: &Delivery) {
        if Kind::of(&delivery.attributes) != Kind::Job {
            return;
        }
        let Ok(decoded) = JobMessage::decode(&delivery.body) else { return };
        let id = i64::try_from(decoded.message.job_id.get()).unwrap();
        let row = table.get(&JOBS, &Value::N(id)).await.unwrap().unwrap_or_default();
        let has = |name: &str| row.contains_key(name);
        let legal = match text(&row, "status") {
            Some("requeued") => has("redrive_at"),
            Some("launched") => has("prepared_at"),
            // Of a later generation, which began after the message was found to be of no use.
            Some("claiming") => whole(&row, "dispatch_seq") > i64::from(decoded.message.dispatch_seq),
            None => false,
            Some(_) => true,
        };
        if !legal {
            self.accuse(format!("the message of job {id} was acknowledged while it was {:?}", text(&row, "status")));
        }
    }
}
