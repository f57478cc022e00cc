//! Raft, as a value that thinks and does nothing else.
#![forbid(unsafe_code)]

pub mod config;
pub mod membership;
pub mod message;
pub mod ports;
pub mod replica;
pub mod runs;
pub mod status;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;
