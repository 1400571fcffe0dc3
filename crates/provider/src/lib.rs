//! Ports to machines and to what is handed over to them, with their local back ends.

pub mod compute;
pub mod files;
pub mod handover;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "processes")]
pub mod processes;
#[cfg(feature = "aws")]
pub mod ssm;
#[cfg(feature = "ssm-layout")]
pub mod ssm_layout;

pub use compute::{Compute, Machine, MachineState};
pub use handover::HandOver;
