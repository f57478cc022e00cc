//! For authors of ports: the suites that define them, in-memory ports to test against, and nothing that a product
//! would ship. Switch it on with the feature `testing`, as a dev-dependency:
//!
//! ```toml
//! [dev-dependencies]
//! raft-core = { version = "0.1", features = ["testing"] }
//! ```
pub mod harness;
pub mod log_store_suite;
mod mem_log;
mod mem_net;
mod mem_state;
mod random;
mod rule;
pub mod state_machine_suite;
pub mod transport_suite;

pub use mem_log::{MemDisk, MemLog, entry};
pub use mem_net::{MemNet, MemTransport};
pub use mem_state::{MemState, MemStateDisk, entry_of, noop};
pub use random::random_bytes;
pub use rule::Rule;

pub use crate::random::Random;
