//! Machines without a cloud: a machine is an agent process in a directory of its own.
//!
//! * [`ProcessCompute`] — the machines.
//! * [`FileHandOver`] — what is handed over to them.

mod agent;
mod disk;
mod handover;
mod machines;
mod record;

pub use handover::FileHandOver;
pub use machines::{Keep, ProcessCompute, Settings};
pub use record::{Record, Stage, read_machines};

#[cfg(test)]
mod tests;
