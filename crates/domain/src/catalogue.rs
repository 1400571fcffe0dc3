//! The instance types that exist.
