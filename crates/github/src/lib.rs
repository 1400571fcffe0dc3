//! Everything between GitHub and the dispatcher.
//!
//! * [`labels`] — from `runs-on` labels to a launch specification. Pure.
//! * [`webhook`] — is this delivery GitHub's, and what does it say? Pure.
//! * [`client`] — the App's REST client: tokens, retries, budget, conditional requests, over one transport port.
//! * [`mint`] — a runner's name, its credential, and the hand-over that carries it.
//! * [`binding`] — which job runs on which runner. Pure; `dispatch` reads, commits and sends.

pub mod binding;
pub mod client;
pub mod labels;
pub mod mint;
pub mod webhook;
