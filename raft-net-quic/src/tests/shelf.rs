//! Where the snapshots of these tests come from and go to.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use raft_core::ports::{SnapshotError, SnapshotOffer, SnapshotSink, SnapshotSource};

/// `count` chunks of `length` bytes. Writes down which are read.
pub(super) struct Chunks {
    count: u32,
    length: usize,
    /// Chunks from here on cannot be read.
    pub(super) ends_at: u32,
    pub(super) read: Mutex<Vec<u32>>,
}

impl Chunks {
    pub(super) fn new(count: u32, length: usize) -> Arc<Self> {
        Self::that_end(count, length, u32::MAX)
    }

    pub(super) fn that_end(count: u32, length: usize, ends_at: u32) -> Arc<Self> {
        Arc::new(Self { count, length, ends_at, read: Mutex::default() })
    }

    pub(super) fn bytes(&self, number: u32) -> Bytes {
        assert!(number < self.count, "chunk {number} of {} was asked for", self.count);
        Bytes::from(vec![number as u8; self.length])
    }
}

impl SnapshotSource for Chunks {
    fn chunk(&self, number: u32) -> Result<Bytes, SnapshotError> {
        self.read.lock().push(number);
        if number >= self.ends_at {
            return Err(SnapshotError::Damaged { place: format!("chunk {number}"), reason: "by order".into() });
        }
        Ok(self.bytes(number))
    }
}

#[derive(Default)]
pub(super) struct Shelf {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) offers: Vec<SnapshotOffer>,
    pub(super) chunks: BTreeMap<u32, Bytes>,
    pub(super) put: u64,
    pub(super) finished: u32,
    pub(super) open: u32,
    /// Calls wait for as long as these are set.
    pub(super) blocks_put: bool,
    pub(super) blocks_finish: bool,
    pub(super) fails_put: bool,
    /// Damaged whenever they come.
    pub(super) damaged: BTreeSet<u32>,
}

impl Shelf {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    pub(super) fn begin(self: &Arc<Self>, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        let mut state = self.state.lock();
        let chunks = offer.chunks;
        state.offers.push(offer);
        state.open += 1;
        Ok(Box::new(Sink { shelf: self.clone(), chunks }))
    }

    fn wait_while(&self, mut blocked: impl FnMut(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| blocked(state));
        state
    }
}

struct Sink {
    shelf: Arc<Shelf>,
    chunks: u32,
}

impl SnapshotSink for Sink {
    fn missing(&self) -> Vec<Range<u32>> {
        let state = self.shelf.state.lock();
        let mut missing: Vec<Range<u32>> = Vec::new();
        for number in (0..self.chunks).filter(|number| !state.chunks.contains_key(number)) {
            match missing.last_mut() {
                Some(range) if range.end == number => range.end += 1,
                _ => missing.push(number..number + 1),
            }
        }
        missing
    }

    fn put(&mut self, number: u32, bytes: Bytes) -> Result<(), SnapshotError> {
        let mut state = self.shelf.wait_while(|state| state.blocks_put);
        state.put += 1;
        if state.damaged.contains(&number) {
            return Err(SnapshotError::Damaged { place: format!("chunk {number}"), reason: "by order".into() });
        }
        if state.fails_put {
            return Err(SnapshotError::Io { doing: "writing".into(), reason: "the disk is full".into() });
        }
        state.chunks.insert(number, bytes);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SnapshotError> {
        self.shelf.wait_while(|state| state.blocks_finish).finished += 1;
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shelf.change(|state| state.open -= 1);
    }
}
