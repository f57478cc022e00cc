//! Three members of a group in one thread, in memory, whose disks and state machines are done at once.
//!
//! `benches/peers` and `benches/guard`, packages of their own, include this directory too: it needs nothing but `raft-core`.

mod core;
mod replica;

use std::error::Error;

pub use core::CoreCluster;
pub use replica::ReplicaCluster;

/// Bytes of a command.
pub const PAYLOAD_BYTES: usize = 256;
/// Entries that stay in a log behind its end, about.
pub const KEPT_ENTRIES: u64 = 64 * 1024;

/// Whatever goes wrong.
pub type Anything = Box<dyn Error + Send + Sync>;

/// Three members that trust their disks at once.
pub trait Members {
    /// Commits that many commands, proposed together.
    ///
    /// # Errors
    /// When something goes wrong that cannot here.
    fn commit(&mut self, commands: u64) -> Result<(), Anything>;

    /// Lets everybody learn what is committed, and says what each has applied.
    ///
    /// # Errors
    /// When something goes wrong that cannot here.
    fn settle(&mut self) -> Result<[u64; 3], Anything>;
}
