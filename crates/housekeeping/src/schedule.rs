//! The leader's loop: begins what is due.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use coordinator::Leadership;
use db::tasks::{TaskRow, Trigger};
use domain::clock::since;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, warn};

use crate::context::Housekeeping;
use crate::due::{Term, due_at, is_due};
use crate::run::Ask;
use crate::task::{Entry, TABLE, Task};

/// How often the schedule is looked at.
const TICK: Duration = Duration::from_secs(5);

/// What a run holds while it runs: its slots.
type Slots = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl Housekeeping {
    /// Begins due tasks until the term is over, and waits for those under way: each ends at its next step.
    pub async fn lead(self: Arc<Self>, leadership: Leadership) {
        let mut terms: BTreeMap<Task, Term> = BTreeMap::new();
        let began = self.now();
        for entry in TABLE {
            if entry.every.is_zero() {
                warn!(task = entry.name, "the task never runs: its interval is zero");
                self.metrics().housekeeping_disabled(entry.name, "interval", Some(1.0));
            }
            let term = Term { since: began, chance: self.rng().unit(), divisor: self.settings.divisor };
            terms.insert(entry.task, term);
        }
        let mut running: JoinSet<Task> = JoinSet::new();
        let mut busy: HashMap<tokio::task::Id, Task> = HashMap::new();
        let mut tick = interval(self.short(TICK).max(Duration::from_millis(100)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = leadership.lost() => break,
                Some(ended) = running.join_next_with_id() => match ended {
                    Ok((id, _)) => {
                        busy.remove(&id);
                    }
                    Err(error) => {
                        let task = busy.remove(&error.id()).map_or("", Task::name);
                        self.metrics().task_panics(task);
                        error!(task, %error, "a housekeeping task died; its lock ends by itself");
                    }
                },
                _ = tick.tick() => {
                    let rows = match self.ports.tasks.all().await {
                        Ok(rows) => rows,
                        Err(error) => {
                            warn!(%error, "the schedule could not be read");
                            continue;
                        }
                    };
                    self.show_ages(&rows);
                    let running_now: Vec<Task> = busy.values().copied().collect();
                    for (entry, term) in self.due(&rows, &terms, &running_now) {
                        let Some(slots) = self.try_slots(entry) else { continue };
                        let (keeper, leadership) = (Arc::clone(&self), leadership.clone());
                        let begun = running.spawn(async move {
                            keeper.timed(entry, term, leadership, slots).await;
                            entry.task
                        });
                        busy.insert(begun.id(), entry.task);
                    }
                }
            }
        }
        for entry in TABLE {
            // Whoever leads now counts.
            self.metrics().housekeeping_last_success_age(entry.name, None);
        }
        while running.join_next().await.is_some() {}
    }

    /// What is to be begun now, longest due first.
    fn due(
        &self,
        rows: &BTreeMap<String, TaskRow>,
        terms: &BTreeMap<Task, Term>,
        running: &[Task],
    ) -> Vec<(&'static Entry, Term)> {
        let (now, none) = (self.now(), TaskRow::default());
        let mut due: Vec<_> = TABLE
            .iter()
            .filter(|entry| !running.contains(&entry.task))
            .filter_map(|entry| {
                let (row, term) = (rows.get(entry.name).unwrap_or(&none), terms.get(&entry.task)?);
                is_due(entry, row, term, now).then(|| (due_at(entry, row, term), entry, *term))
            })
            .collect();
        due.sort_by_key(|(at, ..)| *at);
        due.into_iter().map(|(_, entry, term)| (entry, term)).collect()
    }

    fn try_slots(&self, entry: &Entry) -> Option<Slots> {
        let reader = match entry.reads_jobs {
            true => Some(Arc::clone(&self.readers).try_acquire_owned().ok()?),
            false => None,
        };
        Some((Arc::clone(&self.slots).try_acquire_owned().ok()?, reader))
    }

    /// The same, waiting its turn.
    pub(crate) async fn slots(&self, task: Task) -> Option<Slots> {
        let reader = match task.entry().reads_jobs {
            true => Some(Arc::clone(&self.readers).acquire_owned().await.ok()?),
            false => None,
        };
        Some((Arc::clone(&self.slots).acquire_owned().await.ok()?, reader))
    }

    async fn timed(&self, entry: &Entry, term: Term, leadership: Leadership, slots: Slots) {
        // The schedule came from an index; the row itself decides.
        let needed = |row: &TaskRow| due_at(entry, row, &term).is_some_and(|at| at <= self.now());
        let ran = self.run(entry.task, &Ask::default(), Trigger::Timer, Some(leadership), Vec::new(), needed).await;
        if let Err(error) = ran {
            warn!(task = entry.name, %error, "a housekeeping task could not begin; the next tick tries again");
        }
        drop(slots);
    }

    fn show_ages(&self, rows: &BTreeMap<String, TaskRow>) {
        let now = self.now();
        for entry in TABLE {
            let last = rows.get(entry.name).and_then(|row| row.last_success_at);
            let age = last.map(|at| since(now, at).as_secs_f64());
            self.metrics().housekeeping_last_success_age(entry.name, age);
        }
    }
}
