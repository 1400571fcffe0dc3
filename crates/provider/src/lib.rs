//! Ports to machines and to what is handed over to them, with their local back ends.

pub mod compute;
pub mod files;
pub mod handover;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "processes")]
pub mod processes;

pub use compute::{Compute, Machine, MachineState};
pub use handover::HandOver;
