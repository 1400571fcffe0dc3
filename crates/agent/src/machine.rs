//! The machine's end, whatever kind of machine it is.

use async_trait::async_trait;

use crate::log::Log;

/// The machine that the agent runs on.
#[async_trait]
pub trait Machine: Send + Sync + 'static {
    /// Ends it; whether its end is arranged. Bounded, and harmless to repeat.
    async fn end(&self, log: &Log) -> bool;
}

/// A machine that is no more than the agent's process: it ends when the agent exits.
#[derive(Debug, Clone, Copy)]
pub struct Process;

#[async_trait]
impl Machine for Process {
    async fn end(&self, _: &Log) -> bool {
        true
    }
}
