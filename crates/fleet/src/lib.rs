//! EC2 behind the `Compute` port: one order becomes one request for many machines.
//!
//! Desired: as many machines as slots, or a reason for each that is missing; never a machine without an owner; never
//! more calls than the account can bear.
//!
//! Races and losses survived:
//!
//! * *The answer is lost after EC2 acted.* The same request is sent again under the same client token, and EC2 answers
//!   with the same machines. When no answer comes at all, the machines are found by the tag that names the launch.
//! * *The process dies in between.* The launch id is in the jobs' records before the call, and on the machines.
//! * *Half of it worked.* Machines in an answer count whatever errors stand beside them; the rest gets the reason.
//! * *A new machine is not visible yet.* For a minute it is taken for pending.
//! * *Tags get lost on the way.* They are written once more behind every launch.
//!
//! Pure, and worth reading first: [`candidates`], [`subnets`], [`request`], [`response`], [`tags`], [`error`].
//! [`compute::Ec2Compute`] gathers the facts, calls them and does what they say; [`pace`] and `calls` see to the budget
//! and to the one loop that tries again. [`ec2`] is the port to EC2 itself.

#[cfg(feature = "aws")]
pub mod aws;
pub mod breaker;
mod cache;
mod calls;
pub mod candidates;
pub mod compute;
pub mod ec2;
pub mod error;
mod facts;
mod fresh;
mod launch;
mod machine;
pub mod pace;
pub mod request;
pub mod response;
mod retag;
pub mod settings;
pub mod subnets;
pub mod tags;

pub use breaker::Breaker;
pub use compute::Ec2Compute;
pub use ec2::Ec2;
pub use settings::{Settings, TagSettings, VaultTags};
