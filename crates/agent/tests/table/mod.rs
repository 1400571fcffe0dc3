//! The scenarios.

pub(crate) mod cloud;
pub(crate) mod deaths;
pub(crate) mod runner;
pub(crate) mod signals;
