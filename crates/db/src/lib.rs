//! The state store.
//!
//! [`table`] is the port every back end translates; the typed stores are written once on top of it.

pub mod table;
