//! Threads for snapshots, behind all others.
//!
//! A snapshot costs as much CPU as thousands of puts a second: encryption, checksums, copies. On the threads of the
//! driver, or beside them as an equal, it takes that from whoever waits for an answer. So it has threads of its own, of
//! low priority: they get what is left, and a share of a tenth when nothing is.

use std::io;

use quinn::ConnectionId;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::shared::random;

/// Added to the threads' nice value: about a tenth of the weight of a thread of normal priority.
const NICENESS: i32 = if cfg!(test) { 0 } else { 10 };
/// How the first packet of a connection for a snapshot says so, in the connection id that its dialer draws: before any
/// word of the handshake, the acceptor has to choose the threads that decrypt it. It proves nothing, and must fit what
/// HELLO says later.
const MARK: [u8; 8] = *b"raftbulk";

/// A runtime whose threads are of low priority, those for what blocks too.
#[derive(Debug)]
pub(crate) struct Bulk {
    /// None only while it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Bulk {
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("raft-bulk")
            .on_thread_start(|| {
                // Linux counts it by thread; elsewhere it would slow the whole process. Where it fails, snapshots only
                // hurt more.
                if cfg!(target_os = "linux")
                    && let Err(error) = rustix::process::nice(NICENESS)
                {
                    tracing::debug!(%error, "a thread for snapshots keeps its priority");
                }
            })
            .enable_all()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // It may be dropped by a task of another runtime, which must not wait.
            runtime.shutdown_background();
        }
    }
}

/// The first connection id of a connection for a snapshot: the mark, then what nobody can guess.
pub(crate) fn marked_id() -> ConnectionId {
    let mut id = [0; 16];
    id[..MARK.len()].copy_from_slice(&MARK);
    id[MARK.len()..].copy_from_slice(&random().to_be_bytes());
    ConnectionId::new(&id)
}

/// Whether a connection that comes in is for a snapshot, by its own word.
pub(crate) fn is_marked(id: &ConnectionId) -> bool {
    id.starts_with(&MARK)
}
