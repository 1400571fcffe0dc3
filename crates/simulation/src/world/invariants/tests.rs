//! Every invariant with a history that keeps it and the nearest one that breaks it.

use std::collections::BTreeMap;
use std::time::Duration;

use db::schema::{JOBS, POOLS};
use db::table::{Item, Value};
use domain::clock::{Timestamp, after};
use domain::gh::Conclusion;
use domain::ids::{JobId, LaunchId, Repo, RunId, RunnerKey};
use queue::{Delivery, Handle};
use tokio::time::Instant;

use super::{Bounds, Invariants, TABLE};
use crate::world::clock::WorldClock;
use crate::world::happening::{Happening, Witness};

/// A world that is healthy from the beginning.
struct History {
    invariants: std::sync::Arc<Invariants>,
    now: Timestamp,
    rows: BTreeMap<u64, Item>,
}

fn job(id: u64) -> JobId {
    JobId::new(id).unwrap()
}

impl History {
    fn new() -> Self {
        let history = Self {
            invariants: Invariants::new(Bounds::default()),
            now: WorldClock::beginning(),
            rows: BTreeMap::new(),
        };
        history.saw(&Happening::Healthy);
        history
    }

    fn saw(&self, what: &Happening<'_>) {
        self.invariants.saw(self.now, what);
    }

    fn minutes(&mut self, minutes: u64) {
        self.now = after(self.now, Duration::from_secs(60 * minutes));
        self.invariants.tick(self.now);
    }

    fn queued(&self, id: u64) {
        let (repo, labels): (Repo, _) = ("acme/widgets".parse().unwrap(), ["runs-fleet/cpu=2".to_owned()]);
        let run = RunId::new(1).unwrap();
        self.saw(&Happening::JobQueued { job: job(id), run, repo: &repo, attempt: 1, labels: &labels });
    }

    fn began(&self, id: u64, machine: &str) {
        let machine = Some(RunnerKey::new(machine));
        self.saw(&Happening::JobBegan { job: job(id), runner: "runner", machine, stolen: false });
    }

    fn concluded(&self, id: u64) {
        let conclusion = Conclusion::Success;
        self.saw(&Happening::JobConcluded { job: job(id), conclusion, runner_lost: false });
    }

    fn launched(&self, machine: &str, launch: &str) {
        let (machine, launch) = (RunnerKey::new(machine), LaunchId::from(launch));
        let (instance_type, zone) = ("m7g.large", "eu-1a");
        self.saw(&Happening::Launched {
            machine: &machine,
            launch: Some(&launch),
            pool: None,
            instance_type,
            zone,
            spot: true,
        });
    }

    fn ended(&self, machine: &str, why: &'static str) {
        self.saw(&Happening::Ended { machine: &RunnerKey::new(machine), why });
    }

    fn handed_over(&self, machine: &str) {
        self.saw(&Happening::HandedOver { machine: &RunnerKey::new(machine), job: "1", dispatch: "d" });
    }

    fn acked(&self, id: u64) {
        let delivery = Delivery {
            id: "1".to_owned(),
            body: format!(
                r#"{{"job_id":{id},"run_id":1,"repo":"acme/widgets","instance_type":"m7g.large","spot":true}}"#
            ),
            handle: Handle("1".to_owned()),
            attributes: BTreeMap::new(),
            sent_at: None,
            receive_count: Some(1),
            group: None,
            deadline: Instant::now(),
        };
        self.saw(&Happening::Acked { queue: "main", delivery: &delivery, rejected: false });
    }

    /// A small row changes from some attributes to others.
    fn small(&self, key: &str, before: &[(&str, &str)], after: &[(&str, &str)]) {
        let row = |attributes: &[(&str, &str)]| {
            let mut row = Item::new();
            row.insert("pool_name".to_owned(), Value::from(key));
            for (name, value) in attributes {
                row.insert((*name).to_owned(), value.parse().map_or_else(|_| Value::from(*value), Value::N));
            }
            row
        };
        self.saw(&Happening::Wrote { table: &POOLS, before: Some(&row(before)), after: Some(&row(after)) });
    }

    /// Writes a job's row: its status, and other attributes; an empty text removes one.
    fn row(&mut self, id: u64, status: &str, attributes: &[(&str, &str)]) {
        let before = self.rows.get(&id).cloned();
        let mut row = before.clone().unwrap_or_default();
        row.insert("job_id".to_owned(), Value::N(i64::try_from(id).unwrap()));
        row.insert("status".to_owned(), Value::from(status));
        let version = match row.get("version") {
            Some(Value::N(version)) => version + 1,
            _ => 1,
        };
        row.insert("version".to_owned(), Value::N(version));
        for (name, value) in attributes {
            match (*value, value.parse()) {
                ("", _) => row.remove(name),
                (_, Ok(number)) => row.insert((*name).to_owned(), Value::N(number)),
                (text, _) => row.insert((*name).to_owned(), Value::from(text)),
            };
        }
        self.saw(&Happening::Wrote { table: &JOBS, before: before.as_ref(), after: Some(&row) });
        self.rows.insert(id, row);
    }

    fn removed(&mut self, id: u64) {
        let before = self.rows.remove(&id);
        self.saw(&Happening::Wrote { table: &JOBS, before: before.as_ref(), after: None });
    }

    /// A job on its machine.
    fn bound(&mut self, id: u64, machine: &str) {
        self.launched(machine, &format!("launch-{id}"));
        self.row(id, "launched", &[("instance_id", machine), ("launch_id", &format!("launch-{id}"))]);
    }

    fn broken(&self) -> Vec<&'static str> {
        self.invariants.violations().iter().map(|violation| violation.invariant).collect()
    }
}

/// The invariant, and a history that breaks it if told to.
type Case = (&'static str, fn(&mut History, bool));

const CASES: &[Case] = &[
    ("I1 recorded", |h, bad| {
        h.queued(1);
        h.saw(&Happening::WebhookAccepted { job: job(1), action: "queued" });
        if !bad {
            h.row(1, "requeued", &[]);
        }
        h.minutes(16);
    }),
    ("I1 recorded", |h, bad| {
        h.row(1, "completed", &[("completed_at", &h.now.to_string())]);
        h.minutes(if bad { 60 } else { 8 * 24 * 60 });
        h.removed(1);
    }),
    ("I2 launched", |h, bad| {
        h.queued(1);
        if bad {
            h.row(1, "requeued", &[]);
        } else {
            h.bound(1, "i-1");
        }
        h.minutes(26);
    }),
    ("I3 served", |h, bad| {
        h.queued(1);
        h.bound(1, "i-1");
        if !bad {
            h.began(1, "i-1");
        }
        h.minutes(61);
    }),
    ("I4 one to one", |h, bad| {
        h.bound(1, "i-1");
        h.launched("i-2", "launch-2");
        h.row(2, "launched", &[("instance_id", if bad { "i-1" } else { "i-2" })]);
        h.queued(3);
    }),
    ("I5 no surplus", |h, bad| {
        if bad {
            h.launched("i-1", "launch-1");
        } else {
            h.bound(1, "i-1");
        }
        h.minutes(9);
    }),
    ("I6 no leak", |h, bad| {
        h.bound(1, "i-1");
        h.row(1, "completed", &[]);
        if !bad {
            h.ended("i-1", "agent");
        }
        h.minutes(37);
    }),
    ("I7 fenced", |h, bad| {
        h.row(1, "requeued", &[]);
        // What follows overwrites the version that came in between.
        h.row(1, "requeued", &[("version", if bad { "7" } else { "2" })]);
    }),
    ("I7 fenced", |h, bad| {
        let until = after(h.now, Duration::from_secs(90)).as_millisecond().to_string();
        h.row(1, "claiming", &[("lease_token", "one"), ("lease_expires_at", &until)]);
        h.minutes(if bad { 0 } else { 2 });
        h.row(1, "claiming", &[("lease_token", "two")]);
    }),
    ("I8 final", |h, bad| {
        h.row(1, if bad { "completed" } else { "claiming" }, &[]);
        h.row(1, "requeued", &[]);
    }),
    ("I9 monotone", |h, bad| {
        h.row(1, "requeued", &[("retry_count", "1")]);
        h.row(1, "claiming", &[("retry_count", if bad { "0" } else { "2" })]);
    }),
    ("I10 placed", |h, bad| h.row(1, "launched", &[("instance_id", if bad { "" } else { "i-1" })])),
    ("I11 acknowledged", |h, bad| {
        h.row(1, "requeued", &[("redrive_at", if bad { "" } else { "2031-01-01T00:00:00Z" })]);
        h.acked(1);
    }),
    ("I15 bounded", |h, bad| {
        for round in 0..if bad { 23 } else { 22 } {
            h.row(1, "launched", &[("instance_id", &format!("i-{round}"))]);
            h.row(1, "requeued", &[("instance_id", "")]);
        }
    }),
    ("I16 no secret", |h, bad| {
        h.bound(1, "i-1");
        h.handed_over("i-1");
        h.ended("i-1", "agent");
        if !bad {
            h.saw(&Happening::HandOverDeleted { machine: &RunnerKey::new("i-1") });
        }
        h.minutes(31);
    }),
    ("I17 not in vain", |h, bad| {
        h.queued(1);
        h.concluded(1);
        h.minutes(if bad { 2 } else { 0 });
        h.row(1, "claiming", &[("lease_token", "one")]);
        h.bound(1, "i-1");
    }),
    ("I18 as asked", |h, bad| {
        h.row(1, "claiming", &[("launch_id", "launch-1")]);
        h.launched("i-1", "launch-1");
        if bad {
            h.launched("i-2", "launch-1");
        }
    }),
    ("B1 true binding", |h, bad| {
        h.queued(1);
        h.launched("i-2", "launch-2");
        h.bound(1, "i-1");
        h.began(1, if bad { "i-2" } else { "i-1" });
        h.minutes(11);
    }),
    ("B2 no killing", |h, bad| {
        h.queued(1);
        h.bound(1, "i-1");
        h.began(1, "i-1");
        h.ended("i-1", if bad { "orchestrator" } else { "agent" });
    }),
    ("P1 converging", |h, bad| {
        if bad {
            h.saw(&Happening::PoolMissed { what: "there is one spare too few" });
        }
    }),
    ("P2 no disturbing", |h, bad| {
        h.queued(1);
        h.bound(1, "i-1");
        if bad {
            h.began(1, "i-1");
        }
        h.saw(&Happening::Stopped { machine: &RunnerKey::new("i-1") });
    }),
    ("P2 no disturbing", |h, bad| {
        h.bound(1, "i-1");
        h.handed_over("i-1");
        if !bad {
            h.saw(&Happening::HandOverDeleted { machine: &RunnerKey::new("i-1") });
        }
        h.saw(&Happening::Stopped { machine: &RunnerKey::new("i-1") });
    }),
    ("P3 not twice", |h, bad| {
        let until = h.now.as_second() + if bad { 60 } else { 5 };
        h.small(
            "hot",
            &[("reconcile_lock_owner", "a"), ("reconcile_lock_expires", &until.to_string())],
            &[("reconcile_lock_owner", "b"), ("reconcile_lock_expires", &(until + 60).to_string())],
        );
    }),
    ("P3 not twice", |h, bad| {
        let until = (h.now.as_second() + 200).to_string();
        let before = [("claim_expiry", until.as_str()), ("job_id", "7")];
        h.small("__instance_claim:i-1", &before, &[("claim_expiry", &until), ("job_id", if bad { "8" } else { "7" })]);
    }),
    ("P4 fences hold", |h, bad| {
        h.small("hot", &[("leader_fence", "8")], &[("leader_fence", if bad { "7" } else { "9" })]);
    }),
    ("P5 one leader", |h, bad| h.saw(&Happening::Led { replica: 1, token: 1, others: usize::from(bad) })),
];

#[test]
fn every_invariant_can_be_kept_and_broken() {
    for (number, (invariant, play)) in CASES.iter().enumerate() {
        for bad in [true, false] {
            let mut history = History::new();
            play(&mut history, bad);
            let broken = history.broken();
            assert_eq!(
                broken.contains(invariant),
                bad,
                "case {number}, {invariant}, broken on purpose: {bad}: {broken:?}"
            );
        }
    }
}

#[test]
fn every_invariant_has_a_case() {
    for (invariant, _) in TABLE {
        assert!(CASES.iter().any(|(name, _)| *name == invariant), "{invariant}");
    }
}

#[test]
fn trouble_is_no_excuse_for_ever() {
    let mut history = History { invariants: Invariants::new(Bounds::default()), ..History::new() };
    history.queued(1);
    history.minutes(600);
    assert!(history.broken().is_empty(), "the world is not healthy yet");
    history.saw(&Happening::Healthy);
    history.minutes(24);
    assert!(history.broken().is_empty(), "it has been for less than the bound");
    history.minutes(2);
    assert_eq!(history.broken(), ["I2 launched"]);
}
