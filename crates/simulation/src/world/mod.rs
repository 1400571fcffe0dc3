//! The orchestrator's own code in a world of memory and virtual time, with a seed that decides every interleaving and
//! every fault.

pub mod agents;
pub mod announcements;
pub mod clock;
pub mod happening;
pub mod invariants;
pub mod journal;
pub mod mutation;
pub mod plot;
pub mod ports;
pub mod process;
pub mod replica;
pub mod requests;
pub mod run;
pub mod scenario;
pub mod spares;
pub mod summary;
pub mod week;

/// Whether a job is for us: one of its labels says so.
pub(crate) fn is_ours(labels: &[String]) -> bool {
    labels.iter().any(|label| label.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("runs-fleet")))
}
