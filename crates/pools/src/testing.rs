//! Builders for tests.

use std::collections::BTreeMap;

use db::pools::{Created, Health, Pool, PoolConfig};
use domain::clock::Timestamp;
use domain::testing::at;
use provider::{Machine, MachineState, tags};

/// The moment of most tests, in seconds of [`at`].
pub(crate) const NOW: i64 = 100_000;

pub(crate) fn pool(name: &str) -> Pool {
    Pool {
        name: name.parse().unwrap(),
        config: PoolConfig::default(),
        ephemeral: false,
        last_job_time: None,
        observed: None,
        last_reconcile_at: None,
        last_reconcile_result: None,
        created: Created::default(),
        health: Health::default(),
        tuning: None,
        deleting_at: None,
    }
}

/// A spare of the pool `cpu` that was launched so many seconds ago.
pub(crate) fn machine(key: &str, state: MachineState, ago: i64) -> Machine {
    Machine {
        key: key.into(),
        state,
        instance_type: "c8g.large".to_owned(),
        zone: None,
        spot: false,
        arch: None,
        image: None,
        launched_at: at(NOW - ago),
        ended_at: None,
        launch_id: None,
        tags: BTreeMap::from([
            (tags::MANAGED.to_owned(), "true".to_owned()),
            (tags::POOL.to_owned(), "cpu".to_owned()),
        ]),
    }
}

pub(crate) fn tagged(mut machine: Machine, name: &str, value: &str) -> Machine {
    machine.tags.insert(name.to_owned(), value.to_owned());
    machine
}

pub(crate) fn now() -> Timestamp {
    at(NOW)
}
