//! One leader among replicas: who does the work that a clock drives, rather than a message or a webhook.
//!
//! Replicas are equal. Each runs for one lease, a row in a table; who has it leads for a term, shows every twenty seconds
//! that it lives, and gives the lease up when it stops. Consumers of queues and webhooks run everywhere; sweeps, pools
//! and timed tasks run where [`while_leading`] runs them.
//!
//! * `election` — the protocol, as a pure state machine. Start reading here.
//! * [`Coordinator`] — the task around it; without election, [`Coordinator::alone`].
//! * [`Leadership`] — a term, as those who work under it see it.
//! * [`Mono`] — the clock terms are measured with.
//!
//! Properties wanted:
//! * At most one replica believes that it leads, whatever wall clocks say and however long a process or its machine
//!   slept. The belief ends by itself, also when nothing of this crate runs any more.
//! * Somebody leads: within a second after a leader stopped, about a minute after it died.
//! * Safety rests on neither. Every term has a larger token than all before it, and rows written by leaders refuse
//!   smaller ones ([`db::Fence`]); the rest is kept apart by locks, claims and conditions. So the leader may be wrong
//!   about itself, and only efficiency is lost.
//!
//! Races survived: those of a lease (see `election`); a stop while a term is being asked for (the term is given up, too);
//! a renewal that overtakes the release (refused); two replicas of one name (the boot counts, not the name).

mod coordinator;
mod election;
mod leadership;
mod leading;
mod mono;
mod terms;
mod timings;

pub use coordinator::{Coordinator, Error, Parts, Settings};
pub use leadership::{Leadership, Lost};
pub use leading::while_leading;
pub use mono::{BootClock, Mono};
pub use terms::Terms;
pub use timings::Timings;
