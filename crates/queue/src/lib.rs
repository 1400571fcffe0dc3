//! Queues: the port, its back ends, and the one consumer loop.

pub mod port;

pub use port::{Capabilities, Delivery, Depth, Error, Handle, Message, Queue};
