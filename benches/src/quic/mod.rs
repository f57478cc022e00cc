//! Two nodes of `raft-net-quic` on loopback, and two ends of bare quinn beside them.
//!
//! Both ends are in one process. TLS 1.3 with certificates of both sides, windows, congestion control and socket buffers
//! of the bare ends are those of `raft-net-quic`; they have no frames, no checksums of their own, no priorities, and
//! nobody puts the bytes together again.

pub mod bare;
pub mod ends;
pub mod setup;
pub mod window;

use crate::rounds::Anything;

/// Bytes of a chunk of a snapshot.
pub const CHUNK_BYTES: usize = 1 << 20;

/// What comes of it, or what went wrong.
pub type Outcome<T> = Result<T, Anything>;
