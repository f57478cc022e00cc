//! The thread that owns the state machine: it applies what is committed, and says what the callers are to be told.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use raft_core::ports::{ApplyError, LogReader, ReadError, StateMachine};
use raft_core::replica::ApplyBatch;
use raft_core::snapshot::SnapshotMeta;
use raft_core::types::{Entry, EntryKind, GroupId, Index};

use crate::durability::Durability;
use crate::queue::Event;
use crate::shared::{Sentinel, Shared};
use crate::snapshots::installer;
use crate::waiters::{Answered, Waiter, WriteEnd};

/// Bytes of entries that are read from the log at once, when they are not in memory any more.
const READ_BYTES_MAX: u64 = 4 << 20;

/// Entries in batches that are joined: then the first one's answer is not late.
const JOINED_ENTRIES_MAX: usize = 1024;

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

/// What the applier is given, in order.
#[derive(Debug)]
pub(crate) enum ApplyJob {
    /// Apply these entries and answer who waits for them.
    Apply(ApplyBatch<Waiter>),
    /// Put the state of this snapshot, which is kept here, in the place of the present one.
    Restore(SnapshotMeta),
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<ApplyJob>,
    closed: bool,
}

/// What waits for the applier; its bytes are bounded by the replica (`applying_bytes_max`).
#[derive(Debug, Default)]
pub(crate) struct ApplyQueue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

impl ApplyQueue {
    /// Puts jobs, in order, with one wake-up.
    pub(crate) fn put(&self, jobs: impl IntoIterator<Item = ApplyJob>) {
        self.waiting.lock().jobs.extend(jobs);
        self.wake.notify_one();
    }

    /// Ends the thread once it has applied what waits.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.wake.notify_one();
    }

    /// Waits for work; `None` when closed and empty.
    fn take(&self) -> Option<VecDeque<ApplyJob>> {
        let mut waiting = self.waiting.lock();
        while waiting.jobs.is_empty() {
            if waiting.closed {
                return None;
            }
            self.wake.wait(&mut waiting);
        }
        Some(std::mem::take(&mut waiting.jobs))
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
        let durability = Durability::new(Instant::now());
        let mut applier = Applier { durability, machine, log, answers: Vec::new(), answered: Vec::new() };
        let result = applier.run(&queue, shared);
        if let Err(reason) = &result {
            // What was applied before the failure is certain.
            applier.answered.drain(..).for_each(Answered::tell);
            shared.fail(reason.clone());
        }
        result
    })
}

/// Joins batches that follow each other: what has gathered while the one before was applied costs the state machine one
/// step. Batches whose entries have to be read are left alone.
fn joined(jobs: VecDeque<ApplyJob>) -> Vec<ApplyJob> {
    let mut joined: Vec<ApplyJob> = Vec::with_capacity(jobs.len());
    for job in jobs {
        match (joined.last_mut(), job) {
            (Some(ApplyJob::Apply(before)), ApplyJob::Apply(next)) if follows(before, &next) => {
                before.last = next.last;
                before.entries.extend(next.entries);
                before.waiters.extend(next.waiters);
            }
            (_, job) => joined.push(job),
        }
    }
    joined
}

fn follows(before: &ApplyBatch<Waiter>, next: &ApplyBatch<Waiter>) -> bool {
    let in_memory = !before.entries.is_empty() && !next.entries.is_empty();
    in_memory && next.first == before.last.next() && before.entries.len() + next.entries.len() <= JOINED_ENTRIES_MAX
}

struct Applier {
    machine: Box<dyn StateMachine>,
    log: Arc<dyn LogReader>,
    answers: Vec<Bytes>,
    /// Who is told with the next [`Event::Applied`].
    answered: Vec<Answered>,
    durability: Durability,
}

impl Applier {
    fn run(&mut self, queue: &ApplyQueue, shared: &Shared) -> Result<(), String> {
        while let Some(jobs) = queue.take() {
            for job in joined(jobs) {
                match job {
                    ApplyJob::Apply(batch) => {
                        let last = batch.last;
                        self.apply_batch(batch, shared).map_err(|error| error.to_string())?;
                        self.applied(last, shared)?;
                    }
                    ApplyJob::Restore(meta) => self.restore(&meta, shared)?,
                }
            }
        }
        self.machine.flush().map_err(|error| format!("the state could not be made durable: {error}"))?;
        Ok(())
    }

    /// Tells the driver how far it is, what of it would be there after a loss of power, and whom to answer.
    fn applied(&mut self, index: Index, shared: &Shared) -> Result<(), String> {
        let durable = self.durability.look(&mut *self.machine, index, shared);
        let durable = durable.map_err(|error| format!("the state could not be made durable: {error}"))?;
        shared.queue.complete(Event::Applied { index, durable, answered: std::mem::take(&mut self.answered) });
        Ok(())
    }

    fn restore(&mut self, meta: &SnapshotMeta, shared: &Shared) -> Result<(), String> {
        installer::restore(&mut *self.machine, meta, &shared.snapshots, &shared.metrics)?;
        self.durability.restored(meta.last.index);
        shared.marks.replaced(shared, &*self.machine.reader());
        shared.queue.complete(Event::Restored(meta.last));
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
            let bytes = entries.iter().map(Entry::size).sum();
            self.durability.applied(bytes);
            shared.snapshots.applied(entries.len() as u64, bytes);
            if self.answers.len() != entries.len() {
                return Err(ApplierError::WrongAnswers { answers: self.answers.len(), entries: entries.len() });
            }
            shared.marks.applied(shared, &entries, &self.answers);
            // What a state answers that is known to be wrong may be wrong too.
            let believed = !shared.marks.refuses();
            for (entry, answer) in entries.iter().zip(self.answers.drain(..)) {
                if let Some((_, waiter)) = waiters.next_if(|(index, _)| *index == entry.id.index) {
                    // That a mark was made is right whatever the state is: its caller is told no more than that.
                    let answer = Some(answer).filter(|_| believed || entry.kind == EntryKind::Mark);
                    self.answered.push(answered(waiter, entry, answer));
                }
            }
            next = next.plus(entries.len() as u64);
        }
        assert!(waiters.next().is_none(), "somebody waits for an entry outside of {}..={}", batch.first, batch.last);
        Ok(())
    }
}

/// Without an answer its end is unknown: the entry is committed, and others can say what it did.
fn answered(waiter: Waiter, entry: &Entry, answer: Option<Bytes>) -> Answered {
    let id = entry.id;
    let end = answer.map_or(WriteEnd::Unknown { token: id }, |answer| WriteEnd::Applied { id, answer });
    match waiter {
        Waiter::Write { answer: caller, .. } => Answered { caller, end },
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
