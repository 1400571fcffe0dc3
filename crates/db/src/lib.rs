//! The state store.
//!
//! [`table`] is the one port: conditional writes of single rows, and of a few together. Its back ends translate
//! ([`memory`], `sqlite`, `dynamodb`); what a condition means is decided once, in [`cond`]. The typed stores are written once on
//! top of the port and hold no decisions: they read a record, and apply the difference to the next one only if nobody
//! else has moved it.
//!
//! * [`jobs`], [`runners`] — the two records every decision turns on, and transactions over them.
//! * [`pools`] — warm pool configuration.
//! * [`circuits`] — where spot machines were taken away lately.
//! * [`leader`], [`fence`] — the leader lease, and what keeps a leader that slept from writing over its successor.
//! * [`tasks`] — the schedule of periodic tasks, on the rows of their locks.
//! * [`claims`], [`locks`], [`markers`] — small rows that keep two actors apart or remember that something was done.

pub mod circuits;
pub mod claims;
pub mod cond;
#[cfg(feature = "aws")]
pub mod dynamodb;
pub mod fence;
pub mod jobs;
pub mod leader;
pub mod locks;
pub mod markers;
mod memory;
pub mod pools;
pub mod runners;
pub mod schema;
#[cfg(feature = "local")]
pub mod sqlite;
pub mod table;
pub mod tasks;

mod attrs;
mod item;

pub use circuits::Circuits;
pub use claims::Claims;
#[cfg(feature = "aws")]
pub use dynamodb::{DynamoDb, TableNames};
pub use fence::Fence;
pub use jobs::{Change, Committed, JobFilter, Jobs, Listing, OldJob};
pub use leader::LeaderLease;
pub use locks::Locks;
pub use markers::Markers;
pub use memory::{Memory, Watch};
pub use pools::Pools;
pub use runners::Runners;
#[cfg(feature = "local")]
pub use sqlite::Sqlite;
pub use table::{Error, Outcome, Table};
pub use tasks::Tasks;
