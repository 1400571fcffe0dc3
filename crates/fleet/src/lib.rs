//! EC2 behind the `Compute` port.
pub mod ec2;
