//! A state machine in memory that answers marks with its digest, and that can be made to differ from the others'.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raft_core::ports::{ApplyError, Snapshotter, StateMachine, StateReader};
use raft_core::testing::MemState;
use raft_core::types::{Entry, EntryKind, Index, LogId, Payload};
use raft_node::marks::{Fence, FenceStore, MarkPolicy, MarkRules, MemFence};

/// What of a node's marks survives its process, and how they are made.
#[derive(Clone, Default)]
pub struct Marks {
    pub fence: Arc<MemFence>,
    pub policy: Arc<Mutex<MarkPolicy>>,
    /// While it is not 0, commands are applied as if they were others, by this number.
    pub wrong: Arc<AtomicU64>,
}

impl Marks {
    pub fn fence(&self) -> Option<Fence> {
        self.fence.load().unwrap()
    }
}

/// What the state remembers of marks: nothing, so that a restart is the hardest case.
impl MarkRules for Marks {
    fn policy(&self, _: &dyn StateReader) -> MarkPolicy {
        *self.policy.lock().unwrap()
    }

    fn digest(&self, _: &dyn StateReader, _: Index) -> Option<Bytes> {
        None
    }

    fn newest(&self, _: &dyn StateReader) -> Option<Index> {
        None
    }
}

/// [`MemState`] with digests in its answers to marks.
pub struct MarkedState {
    inner: MemState,
    wrong: Arc<AtomicU64>,
}

impl MarkedState {
    pub fn new(inner: MemState, marks: &Marks) -> Self {
        Self { inner, wrong: marks.wrong.clone() }
    }
}

impl StateMachine for MarkedState {
    fn applied(&self) -> LogId {
        self.inner.applied()
    }

    fn apply(&mut self, entries: &[Entry], answers: &mut Vec<Bytes>) -> Result<(), ApplyError> {
        // One by one: a mark's digest is that of the state right there.
        for entry in entries {
            let mut entry = entry.clone();
            let wrong = self.wrong.load(Ordering::Acquire);
            if entry.kind == EntryKind::Command && wrong > 0 {
                entry.payload = Payload::new([entry.payload.bytes(), wrong.to_string().as_bytes()].concat().into());
            }
            let answered = answers.len();
            self.inner.apply(&[entry.clone()], answers)?;
            if entry.kind == EntryKind::Mark {
                answers.truncate(answered);
                answers.push(digest(&*self.inner.reader()));
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<Index, ApplyError> {
        self.inner.flush()
    }

    fn durable(&mut self) -> Result<Index, ApplyError> {
        self.inner.durable()
    }

    fn snapshotter(&self) -> Arc<dyn Snapshotter> {
        self.inner.snapshotter()
    }

    fn restore(&mut self, directory: &Path, last: LogId) -> Result<(), ApplyError> {
        self.inner.restore(directory, last)
    }

    fn reader(&self) -> Arc<dyn StateReader> {
        self.inner.reader()
    }
}

fn digest(state: &dyn StateReader) -> Bytes {
    // Marks are applied entries too: what the state held before this one is part of it.
    state.query(b"digest").unwrap().bytes
}
