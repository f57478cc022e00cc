//! The driver that gives Raft threads and sockets, and the product made of it.

mod applier;
mod clock;
mod cluster_view;
#[cfg(feature = "http")]
pub mod config;
mod driver;
mod filler;
mod founder;
pub mod founding;
pub mod handle;
#[cfg(feature = "http")]
pub mod http;
pub mod identity;
mod inbound;
mod log_writer;
pub mod metrics;
mod node;
pub mod parts;
#[cfg(all(feature = "rocksdb", feature = "quic", feature = "http"))]
pub mod product;
mod queue;
mod reads;
mod requests;
#[cfg(feature = "rocksdb")]
pub mod rocks;
mod shared;
pub mod status;
mod waiters;
mod writes;

pub use handle::NodeHandle;
pub use node::Node;
pub use parts::{NodeConfig, Parts};
