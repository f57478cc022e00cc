//! The driver that gives Raft threads and sockets, and the product made of it.

pub mod handle;
pub mod metrics;
pub mod status;
