//! Ports to machines, to what is handed over to them, and to stored objects, with their local back ends.

pub mod blobs;
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
pub mod tags;
#[cfg(feature = "vault")]
pub mod vault;

pub use blobs::BlobStore;
pub use compute::{Compute, Machine, MachineState};
pub use handover::HandOver;
