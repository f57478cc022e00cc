//! The thread that owns the state machine: it applies what is committed and answers the callers.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use raft_core::ports::{ApplyError, LogReader, ReadError, StateMachine};
use raft_core::replica::ApplyBatch;
use raft_core::types::{Entry, EntryKind, GroupId, Index};

use crate::queue::Event;
use crate::shared::{Sentinel, Shared};
use crate::waiters::{Waiter, WriteEnd};

/// Bytes of entries that are read from the log at once, when they are not in memory any more.
const READ_BYTES_MAX: u64 = 4 << 20;

/// Why the applier cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplierError {
    #[error("applying failed: {0}")]
    Apply(#[from] ApplyError),
    #[error("applying failed: {0}")]
    Read(#[from] ReadError),
    #[error("applying failed: the log answered with entry {found} where {expected} was asked for")]
    WrongEntry { expected: Index, found: raft_core::types::LogId },
    #[error("applying failed: the state machine gave {answers} answers to {entries} entries")]
    WrongAnswers { answers: usize, entries: usize },
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<ApplyBatch<Waiter>>,
    closed: bool,
}

/// What waits for the applier; its bytes are bounded by the replica (`applying_bytes_max`).
#[derive(Debug, Default)]
pub(crate) struct ApplyQueue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

impl ApplyQueue {
    /// Puts batches, in order, with one wake-up.
    pub(crate) fn put(&self, batches: impl IntoIterator<Item = ApplyBatch<Waiter>>) {
        self.waiting.lock().batches.extend(batches);
        self.wake.notify_one();
    }

    /// Ends the thread once it has applied what waits.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.wake.notify_one();
    }

    /// Waits for work; `None` when closed and empty.
    fn take(&self) -> Option<VecDeque<ApplyBatch<Waiter>>> {
        let mut waiting = self.waiting.lock();
        while waiting.batches.is_empty() {
            if waiting.closed {
                return None;
            }
            self.wake.wait(&mut waiting);
        }
        Some(std::mem::take(&mut waiting.batches))
    }
}

/// Starts the thread. It ends with the state flushed, or with the reason why it is not.
pub(crate) fn spawn(
    machine: Box<dyn StateMachine>,
    log: Arc<dyn LogReader>,
    queue: Arc<ApplyQueue>,
    shared: Arc<Shared>,
) -> io::Result<JoinHandle<Result<(), String>>> {
    std::thread::Builder::new().name("raft-apply".into()).spawn(move || {
        let sentinel = Sentinel { shared, thread: "applier" };
        let shared = &sentinel.shared;
        let mut applier = Applier { machine, log, answers: Vec::new() };
        let result = applier.run(&queue, shared);
        if let Err(reason) = &result {
            shared.fail(reason.clone());
        }
        result
    })
}

struct Applier {
    machine: Box<dyn StateMachine>,
    log: Arc<dyn LogReader>,
    answers: Vec<Bytes>,
}

impl Applier {
    fn run(&mut self, queue: &ApplyQueue, shared: &Shared) -> Result<(), String> {
        while let Some(batches) = queue.take() {
            let mut applied = Index::ZERO;
            for batch in batches {
                applied = batch.last;
                self.apply_batch(batch, shared).map_err(|error| error.to_string())?;
            }
            shared.queue.complete(Event::Applied { index: applied });
        }
        self.machine.flush().map_err(|error| format!("the state could not be made durable: {error}"))?;
        Ok(())
    }

    fn apply_batch(&mut self, batch: ApplyBatch<Waiter>, shared: &Shared) -> Result<(), ApplierError> {
        let mut waiters = batch.waiters.into_iter().peekable();
        let mut next = batch.first;
        let mut given = Some(batch.entries).filter(|entries| !entries.is_empty());
        while next <= batch.last {
            let entries = match given.take() {
                Some(entries) => entries,
                None => self.log.read(GroupId::FIRST, next, batch.last, READ_BYTES_MAX)?,
            };
            check(&entries, next)?;
            let begun = Instant::now();
            self.answers.clear();
            self.machine.apply(&entries, &mut self.answers)?;
            shared.metrics.applied(begun.elapsed(), entries.len());
            if self.answers.len() != entries.len() {
                return Err(ApplierError::WrongAnswers { answers: self.answers.len(), entries: entries.len() });
            }
            shared.marks.applied(shared, &entries, &self.answers);
            for (entry, answer) in entries.iter().zip(self.answers.drain(..)) {
                if let Some((_, waiter)) = waiters.next_if(|(index, _)| *index == entry.id.index) {
                    tell(waiter, entry, answer);
                }
            }
            next = next.plus(entries.len() as u64);
        }
        assert!(waiters.next().is_none(), "somebody waits for an entry outside of {}..={}", batch.first, batch.last);
        Ok(())
    }
}

fn tell(waiter: Waiter, entry: &Entry, answer: Bytes) {
    match waiter {
        // The caller may have gone away; its command is applied all the same.
        Waiter::Write { answer: caller, .. } => drop(caller.send(WriteEnd::Applied { id: entry.id, answer })),
        other => panic!("{other:?} waits for entry {}", entry.id),
    }
}

/// Nothing damaged, unknown or out of place reaches the state machine.
fn check(entries: &[Entry], first: Index) -> Result<(), ApplierError> {
    if entries.is_empty() {
        return Err(ReadError::Missing { group: GroupId::FIRST, index: first }.into());
    }
    for (entry, expected) in entries.iter().zip(first.0..) {
        if entry.id.index.0 != expected {
            return Err(ApplierError::WrongEntry { expected: Index(expected), found: entry.id });
        }
        if let EntryKind::Unknown(code) = entry.kind {
            return Err(ApplyError::UnknownKind { id: entry.id, kind: format!("entry kind {code}") }.into());
        }
        if !entry.payload.verify() {
            return Err(ApplyError::Damaged { id: entry.id }.into());
        }
    }
    Ok(())
}
