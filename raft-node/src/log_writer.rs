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
use raft_core::types::{Entry, GroupId, Index};

use crate::events::{EventKind, Tale};
use crate::queue::Event;
use crate::shared::{Sentinel, Shared};

/// Bytes of entries in one batch: enough to fill a disk, few enough that the first write of a flood is not late. One
/// write is always taken, whatever its size.
const BATCH_BYTES_MAX: u64 = 8 << 20;
/// Writes in one batch.
const BATCH_WRITES_MAX: usize = 4096;

/// What the log thread is given, in order.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every job is the large one, and a box would cost it an allocation"
)]
pub(crate) enum LogJob {
    /// Make this durable, then let go what rides on it.
    Persist(Persist),
    /// Drop the log's beginning up to here.
    Compact(Index),
}

/// What it takes at once.
#[derive(Debug)]
enum Taken {
    Batch(Vec<Persist>),
    Compact(Index),
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<LogJob>,
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
    /// Puts jobs, in order, with one wake-up.
    pub(crate) fn put(&self, shared: &Shared, jobs: impl IntoIterator<Item = LogJob>) {
        let mut waiting = self.waiting.lock();
        for job in jobs {
            if let LogJob::Persist(persist) = &job {
                shared.log_backlog_bytes.fetch_add(bytes(&persist.write), Ordering::AcqRel);
                shared.catch_up.writes(&persist.write.entries);
            }
            waiting.jobs.push_back(job);
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
    fn take(&self) -> Option<Taken> {
        let mut waiting = self.waiting.lock();
        while waiting.jobs.is_empty() {
            if waiting.closed {
                return None;
            }
            self.wake.wait(&mut waiting);
        }
        if let Some(LogJob::Compact(upto)) = waiting.jobs.front() {
            let upto = *upto;
            waiting.jobs.pop_front();
            return Some(Taken::Compact(upto));
        }
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        while let Some(LogJob::Persist(next)) = waiting.jobs.front() {
            batch_bytes += bytes(&next.write);
            if !batch.is_empty() && (batch_bytes > BATCH_BYTES_MAX || batch.len() >= BATCH_WRITES_MAX) {
                break;
            }
            if let Some(LogJob::Persist(next)) = waiting.jobs.pop_front() {
                batch.push(next);
            }
        }
        Some(Taken::Batch(batch))
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
    while let Some(taken) = queue.take() {
        let done = match taken {
            Taken::Batch(batch) => persist(&mut *store, batch, shared),
            Taken::Compact(upto) => compact(&mut *store, upto, shared),
        };
        if let Err(reason) = done {
            // Final: what the failed sync was to save may be gone from the page cache, so no second try can be
            // believed.
            shared.fail(reason);
            return;
        }
    }
}

/// Makes a batch durable and lets go what rides on it. After an error the replica knows of it.
fn persist(store: &mut dyn LogStore, batch: Vec<Persist>, shared: &Shared) -> Result<(), String> {
    let mut writes = Vec::with_capacity(batch.len());
    let mut release = Vec::new();
    for persist in batch {
        writes.push(persist.write);
        release.extend(persist.release);
    }
    let written = write(store, &writes, shared);
    let batch_bytes = writes.iter().map(bytes).sum::<u64>();
    shared.log_backlog_bytes.fetch_sub(batch_bytes, Ordering::AcqRel);
    let group = writes.first().map_or(GroupId::FIRST, |write| write.group);
    let ids = writes.iter().map(|write| write.id).collect();
    match &written {
        Ok(()) => {
            // A promise rides on the write that backs it: straight from here, before the driver even knows.
            send(shared, group, release);
        }
        Err(reason) => failed(shared, reason),
    }
    shared.queue.complete(Event::Persisted { writes: ids, result: written.clone() });
    written
}

/// The disk failed, for good.
fn failed(shared: &Shared, reason: &str) {
    if shared.disk_failed.set(reason.to_owned()).is_ok() {
        let text = format!("the disk of {} failed, and nothing is acknowledged any more: {reason}", shared.name);
        shared.events.tell(Tale::new(EventKind::Fault, text));
    }
}

/// Drops the log's beginning. A store that fails at this has failed for good, and nothing is acknowledged after it.
fn compact(store: &mut dyn LogStore, upto: Index, shared: &Shared) -> Result<(), String> {
    let compacted = store.compact(GroupId::FIRST, upto).map_err(|error| error.to_string());
    match &compacted {
        Ok(()) => shared.metrics.log_compacted(),
        Err(reason) => failed(shared, reason),
    }
    compacted
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
