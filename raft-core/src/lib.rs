//! Raft, as a value that thinks and does nothing else.
#![forbid(unsafe_code)]

mod cache;
mod candidate;
pub mod config;
pub mod effect;
pub mod event;
mod follower;
mod invariants;
mod leader;
mod log;
mod member;
pub mod membership;
pub mod message;
pub mod ports;
mod progress;
mod proposals;
mod quorum;
pub mod raft;
pub mod random;
mod reads;
pub mod replica;
pub mod runs;
pub mod status;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;
