//! Two nodes of `raft-net-quic` on loopback, and two ends of bare quinn beside them.
//!
//! Both ends are in one process, each on one thread, as the runtimes of two nodes are. TLS 1.3 with certificates of both sides, windows, congestion control and socket buffers
//! of the bare ends are those of `raft-net-quic`; they have no frames, no checksums of their own, no priorities, and
//! nobody puts the bytes together again.

pub mod bare;
pub mod ends;
pub mod setup;
pub mod window;

use tokio::runtime::{Builder, Handle};

use crate::rounds::Anything;

/// Bytes of a chunk of a snapshot.
pub const CHUNK_BYTES: usize = 1 << 20;

/// What comes of it, or what went wrong.
pub type Outcome<T> = Result<T, Anything>;

/// A thread for the second end: a runtime on it, as that of another process would be.
///
/// # Errors
/// When the system gives no thread.
pub fn far_end() -> Outcome<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    // It lives as long as the program.
    std::thread::Builder::new().name("far-end".into()).spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}
