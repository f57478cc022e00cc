//! The thread that owns the log: group commit, and the promises that ride on it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use raft_core::message::{Envelope, PeerMessage};
use raft_core::ports::{LogStore, LogWrite};
use raft_core::replica::Persist;
use raft_core::types::{Entry, GroupId};

use crate::queue::Event;
use crate::shared::{Sentinel, Shared};

/// Bytes of entries in one batch: enough to fill a disk, few enough that the first write of a flood is not late. One
/// write is always taken, whatever its size.
const BATCH_BYTES_MAX: u64 = 8 << 20;
/// Writes in one batch.
const BATCH_WRITES_MAX: usize = 4096;

#[derive(Debug, Default)]
struct Waiting {
    persists: VecDeque<Persist>,
    closed: bool,
}

/// What waits for the log thread. Its bytes are bounded by the replica (what is uncommitted, what is in flight to a
/// follower), and the driver's door for appends counts them too.
#[derive(Debug, Default)]
pub(crate) struct LogQueue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

impl LogQueue {
    /// Puts writes, in order, with one wake-up.
    pub(crate) fn put(&self, shared: &Shared, persists: impl IntoIterator<Item = Persist>) {
        let mut waiting = self.waiting.lock();
        for persist in persists {
            shared.log_backlog_bytes.fetch_add(bytes(&persist.write), Ordering::AcqRel);
            waiting.persists.push_back(persist);
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Ends the thread once it has written what waits.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.wake.notify_one();
    }

    /// Waits for work; `None` when closed and empty.
    fn take(&self) -> Option<Vec<Persist>> {
        let mut waiting = self.waiting.lock();
        while waiting.persists.is_empty() {
            if waiting.closed {
                return None;
            }
            self.wake.wait(&mut waiting);
        }
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        while let Some(next) = waiting.persists.front() {
            batch_bytes += bytes(&next.write);
            if !batch.is_empty() && (batch_bytes > BATCH_BYTES_MAX || batch.len() >= BATCH_WRITES_MAX) {
                break;
            }
            batch.extend(waiting.persists.pop_front());
        }
        Some(batch)
    }
}

fn bytes(write: &LogWrite) -> u64 {
    write.entries.iter().map(Entry::size).sum()
}

/// Starts the thread.
pub(crate) fn spawn(store: Box<dyn LogStore>, queue: Arc<LogQueue>, shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("raft-log".into()).spawn(move || {
        let sentinel = Sentinel { shared, thread: "log thread" };
        run(store, &queue, &sentinel.shared);
    })
}

fn run(mut store: Box<dyn LogStore>, queue: &LogQueue, shared: &Shared) {
    while let Some(batch) = queue.take() {
        let mut writes = Vec::with_capacity(batch.len());
        let mut release = Vec::new();
        for persist in batch {
            writes.push(persist.write);
            release.extend(persist.release);
        }
        let written = write(&mut *store, &writes, shared);
        let batch_bytes = writes.iter().map(bytes).sum::<u64>();
        shared.log_backlog_bytes.fetch_sub(batch_bytes, Ordering::AcqRel);
        let group = writes.first().map_or(GroupId::FIRST, |write| write.group);
        let ids = writes.iter().map(|write| write.id).collect();
        match written {
            Ok(()) => {
                // A promise rides on the write that backs it: straight from here, before the driver even knows.
                send(shared, group, release);
                shared.queue.complete(Event::Persisted { writes: ids, result: Ok(()) });
            }
            Err(reason) => {
                // Final: what the failed sync was to save may be gone from the page cache, so no second try can be
                // believed.
                let _ = shared.disk_failed.set(reason.clone());
                shared.queue.complete(Event::Persisted { writes: ids, result: Err(reason.clone()) });
                shared.fail(reason);
                return;
            }
        }
    }
}

/// Makes a batch durable. Writes that change nothing only keep their place in the order.
fn write(store: &mut dyn LogStore, writes: &[LogWrite], shared: &Shared) -> Result<(), String> {
    if writes.iter().all(LogWrite::is_empty) {
        return Ok(());
    }
    let begun = Instant::now();
    let result = store.write(writes).map_err(|error| error.to_string());
    shared.metrics.log_written(begun.elapsed(), writes.iter().map(|write| write.entries.len()).sum());
    result
}

fn send(shared: &Shared, group: GroupId, release: Vec<Envelope>) {
    for envelope in release {
        let to = envelope.to;
        shared.transport.send(to, PeerMessage { group, envelope, entries: Vec::new() });
    }
}
