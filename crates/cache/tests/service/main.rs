//! The cache as its clients see it: the published packages, and raw requests for what those never send.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod blob;
mod clients;
mod collection;
mod interrupted;
mod lookups;
mod support;
mod tokens;
mod v1;
mod v2;
