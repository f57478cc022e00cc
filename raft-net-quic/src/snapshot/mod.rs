//! Transfers of snapshots: each has a bidirectional stream of its own, behind everything else.
//!
//! The sender offers, the receiver says which chunks it misses, and these are sent; a chunk that arrives damaged is
//! asked for again, alone. At either end a thread works on the disk while a task works on the network, with a few
//! chunks between them, so that neither waits for the other. What is in memory for one transfer: at the sender
//! [`CHUNKS_AHEAD`] chunks and two more (one is read, one is written) and what QUIC has not delivered yet (at most one
//! stream's window, 4 MiB); at the receiver the same.

pub(crate) mod receive;
pub(crate) mod send;
mod staging;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Chunks that wait between the disk and the network; then the faster of the two waits.
const CHUNKS_AHEAD: usize = 4;
/// Chunks of one transfer that may be sent once more; then it ends, since something is broken that sending does not mend.
const AGAIN_MAX: u64 = 1024;
/// Looks at a transfer within its stall timeout.
const STALL_LOOKS: u32 = 8;

/// Whether a transfer moves.
#[derive(Debug, Default)]
pub(crate) struct Motion {
    bytes: AtomicU64,
    /// Whatever else shows that it goes on.
    steps: AtomicU64,
}

impl Motion {
    /// Bytes moved.
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Something else has gone on.
    fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// All bytes that moved so far.
    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns once nothing has moved for `timeout`.
    async fn stalled(&self, timeout: Duration) {
        let moved = || (self.bytes(), self.steps.load(Ordering::Relaxed));
        let (mut seen, mut still) = (moved(), 0);
        while still < STALL_LOOKS {
            tokio::time::sleep(timeout / STALL_LOOKS).await;
            let now = moved();
            still = if now == seen { still + 1 } else { 0 };
            seen = now;
        }
    }
}
