//! The job record and the decisions about it.
//!
//! * [`record`] — [`Job`], the typed view of one row.
//! * [`state`] — the states and who may claim or occupy what.
//! * [`transition`] — the one total function that says what an event does to a state.
//! * [`apply`] — what a move writes into the record.
//! * [`claim`] — the decision of the lease: claimed, contended, due later, or over.
//! * [`timeline`] — the milestones of a job's life, for people.

pub mod apply;
pub mod claim;
pub mod record;
pub mod state;
pub mod timeline;
pub mod transition;

pub use record::{Job, Lease, Origin, RerunState, Sighting};
pub use state::{JobState, Settled};
pub use timeline::{Milestone, Timeline};
pub use transition::{AgentWord, Event, FailureClass, Move, transition};
