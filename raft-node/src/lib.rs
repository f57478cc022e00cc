//! The driver that gives Raft threads and sockets, and the product made of it.

#[cfg(feature = "http")]
pub mod config;
pub mod handle;
#[cfg(feature = "http")]
pub mod http;
pub mod metrics;
pub mod status;
