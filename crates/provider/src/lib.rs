//! Ports to machines and to what is handed over to them, with their local back ends.

pub mod compute;
pub mod handover;

pub use compute::{Compute, Machine, MachineState};
pub use handover::HandOver;
