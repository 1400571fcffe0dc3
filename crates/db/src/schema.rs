//! The tables. Names of tables, keys, attributes and indexes are an operator contract: dashboards, permissions and
//! the Go implementation's data depend on them.

use crate::table::{Index, Schema};

/// One row per GitHub job; the truth about it.
pub static JOBS: Schema = Schema {
    name: "jobs",
    key: "job_id",
    indexes: &[
        Index { name: STATUS_CREATED, hash: "status", range: Some("created_at") },
        Index { name: INSTANCE_ID, hash: "instance_id", range: None },
        Index { name: POOL_STATUS, hash: "pool", range: Some("status") },
        Index { name: POOL_CREATED, hash: "pool", range: Some("created_at") },
    ],
    ttl: Some("ttl"),
};

/// Warm pools, and under keys that begin with `__` the small rows that need no table of their own: locks, claims,
/// markers. They expire by `claim_expiry`, the one expiry attribute a table has.
pub static POOLS: Schema = Schema {
    name: "pools",
    key: "pool_name",
    indexes: &[Index { name: ROW_KIND, hash: "row_kind", range: Some("pool_name") }],
    ttl: Some("claim_expiry"),
};

/// One row per machine a runner was minted for.
pub static RUNNERS: Schema = Schema {
    name: "runners",
    key: "runner_key",
    indexes: &[Index { name: STATE, hash: "state", range: Some("minted_at") }],
    ttl: Some("ttl"),
};

/// Circuit breakers, by instance type or type and zone.
pub static CIRCUITS: Schema = Schema { name: "circuit-state", key: "instance_type", indexes: &[], ttl: Some("ttl") };

/// Who did what through the operator API.
pub static AUDIT: Schema = Schema {
    name: "audit",
    key: "id",
    indexes: &[
        Index { name: "user-index", hash: "user", range: Some("timestamp") },
        Index { name: "day-index", hash: "day", range: Some("timestamp") },
    ],
    ttl: Some("ttl"),
};

/// The leader lease.
pub static LOCKS: Schema = Schema { name: "locks", key: "lock_id", indexes: &[], ttl: None };

/// Every table.
pub static ALL: [&Schema; 6] = [&JOBS, &POOLS, &RUNNERS, &CIRCUITS, &AUDIT, &LOCKS];

/// Index of [`JOBS`]: jobs of a status, by age.
pub const STATUS_CREATED: &str = "status-created-index";
/// Index of [`JOBS`]: jobs of a machine.
pub const INSTANCE_ID: &str = "instance-id-index";
/// Index of [`JOBS`]: jobs of a pool in a status.
pub const POOL_STATUS: &str = "pool-status-index";
/// Index of [`JOBS`]: jobs of a pool, by age.
pub const POOL_CREATED: &str = "pool-created-at-index";
/// Index of [`POOLS`]: rows of a kind.
pub const ROW_KIND: &str = "row-kind-index";
/// Index of [`RUNNERS`]: runners of a state, by age.
pub const STATE: &str = "state-index";
