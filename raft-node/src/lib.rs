//! The driver that gives Raft threads and sockets, and the product made of it.
//!
//! # Two crates in one
//!
//! - **A library to embed.** [`Node::start`] takes [`Parts`] (an identity, a log, a state machine, a transport, settings)
//!   and gives back a [`NodeHandle`]. With `default-features = false` that is all there is: no RocksDB, no QUIC, no HTTP,
//!   no Prometheus.
//! - **The product.** The features `rocksdb`, `quic` and `http`, all on by default, add the parts that the program
//!   `raft-node` is made of. `metrics` gives Prometheus metrics to an embedder without HTTP.
//!
//! A state that fits in memory is a plain type: see [`small_state`]. `docs/guides` in the repository has a guide for each
//! part that may be brought along, and for embedding.
//!
//! # Who does what
//!
//! | | runs on | owns |
//! |---|---|---|
//! | driver | one task of the caller's runtime | the replica: every decision, every waiting caller |
//! | log thread | an OS thread | the [`LogStore`](raft_core::ports::LogStore): one sync per batch, then the messages that rode on it |
//! | applier | an OS thread | the [`StateMachine`](raft_core::ports::StateMachine): applies, answers the callers |
//! | filler | an OS thread | nothing; reads entries for followers that are far behind |
//! | snapshots | tasks, and threads that may block | their directory; takes, sends and receives them ([`snapshots`]) |
//! | handle | the callers' tasks | nothing; forwards, waits, reads |
//!
//! The driver takes one event and whatever else waits, steps each with the time read after it was taken, then runs all
//! effects, then waits. It never blocks. **Nobody else ever touches the replica**, and there is no lock around it.
//!
//! # The way of one put
//!
//! handle: stamp it, checksum it, queue it → driver: append it → { log thread: write and sync ∥ transport: send it } →
//! followers sync and acknowledge straight from their log threads → driver: a quorum has it → applier: apply it and
//! answer. The module of the driver (`driver.rs`) counts the hand-offs between threads on that way: five on the leader,
//! three on a follower.
//!
//! # A cluster in one process
//!
//! ```
//! use std::time::Duration;
//!
//! use raft_core::testing::{MemLog, MemNet, MemState};
//! use raft_core::types::{Incarnation, NodeName};
//! use raft_node::handle::{Consistency, WriteOptions};
//! use raft_node::identity::MemIdentity;
//! use raft_node::parts::Founder;
//! use raft_node::{Node, NodeConfig, Parts};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let timeout = Duration::from_secs(30);
//! let network = MemNet::new();
//! let directory = tempfile::tempdir()?;
//! let names = ["one", "two", "three"].map(NodeName::new);
//! let founders = names.clone().map(|name| Founder { address: format!("{name}:7082"), name });
//!
//! let mut nodes = Vec::new();
//! for (name, incarnation) in names.iter().zip(1..) {
//!     let place = directory.path().join(name.as_str());
//!     std::fs::create_dir(&place)?;
//!     let parts = Parts::new(
//!         MemIdentity::new(name.clone(), Incarnation(incarnation)).open(),
//!         Box::new(|| Ok(Box::new(MemLog::new()))),
//!         Box::new(|_founding| Ok(Box::new(MemState::new()))),
//!         network.transport(name),
//!         &place,
//!         NodeConfig::new(format!("{name}:7082"), founders.to_vec()),
//!     );
//!     nodes.push(Node::start(parts).await?);
//! }
//! for node in &nodes {
//!     node.wait_ready(timeout).await?;
//! }
//!
//! // Any node takes any request; whoever does not lead passes it on.
//! let written = nodes[2].write("colour=red".into(), WriteOptions::within(timeout)).await?;
//! let answer = nodes[1].read("key:colour".into(), Consistency::Linearizable, timeout).await?;
//! assert_eq!(answer.bytes, "red");
//! assert!(answer.applied.index >= written.id.index);
//!
//! for node in &nodes {
//!     node.stop().await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Founding
//!
//! A blank node does nothing until a cluster is founded, and that takes **all** founders; see [`founding`]. Until then
//! [`NodeHandle::status`] says for whom it waits, and why.

#[cfg(feature = "http")]
pub mod access;
mod applier;
#[cfg(all(feature = "rocksdb", feature = "quic", feature = "http"))]
mod catch_up;
mod certificates;
mod clock;
mod cluster_view;
#[cfg(feature = "http")]
pub mod config;
mod driver;
mod durability;
pub mod events;
mod filler;
mod founder;
pub mod founding;
pub mod handle;
mod handovers;
#[cfg(feature = "http")]
pub mod http;
pub mod identity;
mod inbound;
#[cfg(feature = "http")]
pub mod kv_marks;
mod log_writer;
pub mod marks;
pub mod members;
pub mod metrics;
mod node;
pub mod parts;
mod passing;
#[cfg(all(feature = "rocksdb", feature = "quic", feature = "http"))]
pub mod product;
mod queue;
mod reads;
mod requests;
#[cfg(feature = "rocksdb")]
pub mod rocks;
mod shared;
pub mod small_state;
pub mod snapshots;
pub mod status;
mod stop_check;
#[cfg(all(feature = "rocksdb", feature = "quic", feature = "http"))]
mod storage_watch;
mod verified;
mod waiters;
mod writes;

pub use handle::NodeHandle;
pub use node::Node;
pub use parts::{NodeConfig, Parts};

/// What the guides show compiles, and runs where it says so.
#[cfg(all(doctest, feature = "rocksdb", feature = "quic"))]
mod guides {
    #[doc = include_str!("../../docs/guides/embed.md")]
    struct Embed;
    #[doc = include_str!("../../docs/guides/state-machine.md")]
    struct StateMachine;
}
