//! The ports of a world: one thing for everybody, and how one process reaches it.

pub mod ec2;
pub mod github;
pub mod hand_over;
pub mod queue;
pub mod table;
