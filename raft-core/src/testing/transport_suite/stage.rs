//! Where the suite's snapshots come from and go to: memory, with faults on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::ports::{SnapshotError, SnapshotOffer, SnapshotSink, SnapshotSource};

/// A put that a test blocks ends after this time, so that no thread outlives a broken test for long.
const BLOCKED_MAX: Duration = Duration::from_secs(120);

/// A snapshot to be sent. Writes down which chunks are read.
pub(super) struct Chunks {
    pub(super) bytes: Vec<Bytes>,
    read: Mutex<Vec<u32>>,
}

impl Chunks {
    pub(super) fn new(bytes: Vec<Bytes>) -> Arc<Self> {
        Arc::new(Self { bytes, read: Mutex::default() })
    }

    /// The numbers of the chunks that were read, in the order of reading.
    pub(super) fn read(&self) -> Vec<u32> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl SnapshotSource for Chunks {
    fn chunk(&self, number: u32) -> Result<Bytes, SnapshotError> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        let bytes = self.bytes.get(number as usize).cloned();
        bytes.ok_or_else(|| SnapshotError::Refused(format!("there is no chunk {number}")))
    }
}

/// A node's place for a snapshot that comes in; it keeps what it has when a transfer ends.
#[derive(Default)]
pub(super) struct Stage {
    state: Mutex<Staged>,
    changed: Condvar,
}

/// See [`Stage::change`].
#[derive(Default)]
pub(super) struct Staged {
    /// All that were offered, in order.
    pub(super) offers: Vec<SnapshotOffer>,
    /// What is here.
    pub(super) chunks: BTreeMap<u32, Bytes>,
    /// The numbers of all chunks that came, damaged ones included, in order.
    pub(super) put: Vec<u32>,
    /// How often a whole snapshot was made durable.
    pub(super) finished: u32,
    /// Sinks that were given out and not dropped.
    pub(super) open: u32,
    /// Why offers are refused, if they are.
    pub(super) refusal: Option<String>,
    /// Chunks that count as damaged when they come, once.
    pub(super) damaged: BTreeSet<u32>,
    /// So many puts pass; the next ones wait.
    pub(super) puts_max: Option<usize>,
    /// How long a put takes.
    pub(super) put_time: Duration,
}

impl Stage {
    fn lock(&self) -> MutexGuard<'_, Staged> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what is here.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Staged) -> T) -> T {
        look(&self.lock())
    }

    /// Changes what the next calls of a sink meet.
    pub(super) fn change(&self, change: impl FnOnce(&mut Staged)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// What [`Inbound::snapshot`](crate::ports::Inbound::snapshot) does.
    pub(super) fn begin(self: &Arc<Self>, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        let mut state = self.lock();
        let chunks = offer.chunks;
        state.offers.push(offer);
        if let Some(why) = &state.refusal {
            return Err(SnapshotError::Refused(why.clone()));
        }
        state.open += 1;
        Ok(Box::new(Sink { stage: Arc::clone(self), chunks }))
    }
}

struct Sink {
    stage: Arc<Stage>,
    chunks: u32,
}

impl SnapshotSink for Sink {
    fn missing(&self) -> Vec<Range<u32>> {
        let state = self.stage.lock();
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
        let state = self.stage.lock();
        let blocked = |state: &mut Staged| state.puts_max.is_some_and(|most| state.put.len() >= most);
        let waited = self.stage.changed.wait_timeout_while(state, BLOCKED_MAX, blocked);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let time = state.put_time;
        if time > Duration::ZERO {
            drop(state);
            std::thread::sleep(time);
            state = self.stage.lock();
        }
        state.put.push(number);
        if state.damaged.remove(&number) {
            return Err(SnapshotError::Damaged { place: format!("chunk {number}"), reason: "by order".into() });
        }
        state.chunks.insert(number, bytes);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SnapshotError> {
        let missing = self.missing();
        if !missing.is_empty() {
            let reason = format!("{missing:?} are missing");
            return Err(SnapshotError::Damaged { place: "the snapshot".into(), reason });
        }
        self.stage.lock().finished += 1;
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stage.change(|state| state.open -= 1);
    }
}
