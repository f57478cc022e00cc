//! A log store in memory that is stricter than a disk: it refuses whatever no correct core asks for.
//!
//! A [`MemDisk`] outlives the [`MemLog`]s that are opened on it one after the other, as a directory outlives processes.
//! ```
//! use raft_core::ports::{LogStore, LogWrite};
//! use raft_core::testing::MemDisk;
//! use raft_core::types::{GroupId, HardState, Term};
//!
//! let disk = MemDisk::new();
//! let hard_state = HardState { term: Term(1), vote: None };
//! let write = LogWrite { group: GroupId::FIRST, hard_state: Some(hard_state), ..LogWrite::default() };
//! disk.open().write(&[write]).expect("a first term is always taken");
//! assert_eq!(disk.open().recover(GroupId::FIRST).expect("readable").hard_state, hard_state);
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::ports::{LogReader, LogStore, LogWrite, ReadError, Recovered, StoreError};
use crate::runs::Span;
use crate::types::{Entry, EntryKind, GroupId, HardState, Index, LogId};

/// Recovered sizes are given for stretches of at most this many bytes, or of one entry.
const BATCH_BYTES_MAX: u64 = 64 * 1024;

/// What stays when a [`MemLog`] goes: everything of completed writes. Clones are handles to the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    resumed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<GroupId, GroupLog>,
    /// Writes are waiting at the disk and do not return.
    stalled: bool,
    failure: Option<Failure>,
    /// Slices written and acknowledged since the disk was made.
    syncs: u64,
    /// How often the disk was opened; a store of an earlier opening has lost the disk.
    opened: u64,
}

/// The next slice of writes fails after its first `kept` writes have become durable.
#[derive(Clone, Copy, Debug)]
struct Failure {
    kept: usize,
}

#[derive(Clone, Debug, Default)]
struct GroupLog {
    hard_state: HardState,
    commit: Index,
    entries: Vec<Entry>,
}

impl MemDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the log with what the disk holds. A store that was opened before is cut off from it, so that a test
    /// cannot have two writers.
    #[must_use]
    pub fn open(&self) -> MemLog {
        let mut state = self.shared.lock();
        state.opened += 1;
        MemLog { disk: self.clone(), opened: state.opened, failed: None }
    }

    /// Lets the next slice of writes fail after its first `kept` writes have become durable, as a crash of the disk in
    /// the middle of a batch would. The store stays failed; open the disk again to go on.
    pub fn fail_next_write(&self, kept: usize) {
        self.shared.lock().failure = Some(Failure { kept });
    }

    /// Holds every write back before anything of it is durable, until [`MemDisk::resume`].
    pub fn stall(&self) {
        self.shared.lock().stalled = true;
    }

    /// Ends [`MemDisk::stall`].
    pub fn resume(&self) {
        self.shared.lock().stalled = false;
        self.shared.resumed.notify_all();
    }

    /// How many slices of writes were made durable and acknowledged.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.shared.lock().syncs
    }

    /// The durable entries of a group, for a test to look at.
    #[must_use]
    pub fn entries(&self, group: GroupId) -> Vec<Entry> {
        self.shared.lock().groups.get(&group).map(|log| log.entries.clone()).unwrap_or_default()
    }
}

impl Shared {
    /// A panic in another test thread says nothing about the state: every change below is made whole or not at all.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One opening of a [`MemDisk`].
#[derive(Debug)]
pub struct MemLog {
    disk: MemDisk,
    opened: u64,
    failed: Option<String>,
}

impl MemLog {
    /// A log on a new disk.
    #[must_use]
    pub fn new() -> Self {
        MemDisk::new().open()
    }

    /// The disk below.
    #[must_use]
    pub fn disk(&self) -> &MemDisk {
        &self.disk
    }

    /// Gives this store up and opens its disk again, with what is durable.
    #[must_use]
    pub fn reopen(self) -> Self {
        self.disk.open()
    }

    fn write_all(&self, writes: &[LogWrite]) -> Result<(), StoreError> {
        let shared = &self.disk.shared;
        let mut state = shared.lock();
        while state.stalled && state.opened == self.opened {
            state = shared.resumed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.opened != self.opened {
            return Err(io("writing", "the disk was opened by another store"));
        }
        let failure = state.failure.take();
        for write in writes.iter().take(failure.map_or(usize::MAX, |failure| failure.kept)) {
            let log = state.groups.entry(write.group).or_default();
            log.check(write).map_err(|reason| StoreError::Refused { reason: format!("{}: {reason}", write.group) })?;
            log.apply(write);
        }
        if failure.is_some() {
            return Err(io("writing", "the test wants this write to fail"));
        }
        state.syncs += 1;
        Ok(())
    }
}

fn io(doing: &str, reason: &str) -> StoreError {
    StoreError::Io { doing: doing.into(), reason: reason.into() }
}

impl Default for MemLog {
    fn default() -> Self {
        Self::new()
    }
}

impl LogStore for MemLog {
    fn recover(&mut self, group: GroupId) -> Result<Recovered, StoreError> {
        if let Some(failed) = &self.failed {
            return Err(io("recovering", &format!("an earlier write failed: {failed}")));
        }
        let state = self.disk.shared.lock();
        let Some(log) = state.groups.get(&group) else { return Ok(Recovered::default()) };
        log.recover()
    }

    fn write(&mut self, writes: &[LogWrite]) -> Result<(), StoreError> {
        if let Some(failed) = &self.failed {
            return Err(io("writing", &format!("an earlier write failed: {failed}")));
        }
        let result = self.write_all(writes);
        if let Err(error) = &result {
            self.failed = Some(error.to_string());
        }
        result
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(MemLogReader { disk: self.disk.clone() })
    }
}

impl GroupLog {
    fn last(&self) -> LogId {
        self.entries.last().map_or(LogId::ZERO, |entry| entry.id)
    }

    /// The entry before `index`, or nothing when the log does not reach so far.
    fn before(&self, index: Index) -> Option<LogId> {
        match index.prev() {
            Index::ZERO => Some(LogId::ZERO),
            prev => self.entries.get(prev.prev().0 as usize).map(|entry| entry.id),
        }
    }

    /// Says which rule the write would break. Nothing is changed here, so that each write is whole or not at all.
    fn check(&self, write: &LogWrite) -> Result<(), String> {
        let (old, new) = (self.hard_state, write.hard_state.unwrap_or(self.hard_state));
        if new.term < old.term {
            return Err(format!("the term would fall from {} to {} [F2-PERSIST]", old.term, new.term));
        }
        if new.term == old.term && old.vote.is_some() && new.vote != old.vote {
            let (old_vote, new_vote) = (old.vote, new.vote);
            return Err(format!(
                "the vote of term {} would change: {old_vote:?}, {new_vote:?} [F2-VOTE-ONCE]",
                old.term
            ));
        }
        let mut prev = self.last();
        if let Some(from) = write.truncate_from {
            if from == Index::ZERO || from > prev.index {
                return Err(format!("truncation from {from}, but the log ends at {prev} [F2-APPEND-CONFLICT]"));
            }
            if from <= self.commit {
                return Err(format!("truncation from {from}, but {} is committed [F2-APPEND-CONFLICT]", self.commit));
            }
            prev = self.before(from).unwrap_or(prev);
        }
        let span = Span::of(prev, &write.entries).map_err(|error| format!("{error} (the log ends at {prev})"))?;
        if span.last().term > new.term {
            return Err(format!("entry {} of a term after the node's own, {} [F2-TERM-ADOPT]", span.last(), new.term));
        }
        if let Some(entry) = write.entries.iter().find(|entry| !entry.payload.verify()) {
            return Err(format!("the payload of entry {} does not fit its checksum [TH-LOG-CHECKSUM]", entry.id));
        }
        match write.commit {
            Some(commit) if commit < self.commit => Err(format!("the commit index would fall to {commit}")),
            Some(commit) if commit > span.last().index => {
                Err(format!("commit index {commit} beyond the end of the log, {} [F2-APPEND-COMMIT]", span.last()))
            }
            _ => Ok(()),
        }
    }

    fn apply(&mut self, write: &LogWrite) {
        if let Some(from) = write.truncate_from {
            self.entries.truncate(from.prev().0 as usize);
        }
        self.entries.extend_from_slice(&write.entries);
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        self.commit = write.commit.unwrap_or(self.commit);
        assert!(self.commit <= self.last().index, "commit {} is beyond {}", self.commit, self.last());
    }

    fn recover(&self) -> Result<Recovered, StoreError> {
        let span = Span::of(LogId::ZERO, &self.entries)
            .map_err(|error| StoreError::Damaged { place: "the log in memory".into(), reason: error.to_string() })?;
        let mut batches: Vec<(Index, u64)> = Vec::new();
        for entry in &self.entries {
            match batches.last_mut() {
                Some((last, bytes)) if *bytes + entry.size() <= BATCH_BYTES_MAX => {
                    (*last, *bytes) = (entry.id.index, *bytes + entry.size());
                }
                _ => batches.push((entry.id.index, entry.size())),
            }
        }
        Ok(Recovered { hard_state: self.hard_state, commit: self.commit, runs: span.runs, batches, lost: None })
    }
}

#[derive(Debug)]
struct MemLogReader {
    disk: MemDisk,
}

impl LogReader for MemLogReader {
    fn read(&self, group: GroupId, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
        let state = self.disk.shared.lock();
        let entries = state.groups.get(&group).map_or(&[][..], |log| &log.entries);
        let from = (first.0 as usize).checked_sub(1).filter(|from| *from < entries.len() && first <= last);
        let Some(from) = from else { return Err(ReadError::Missing { group, index: first }) };
        let mut read: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for entry in entries[from..].iter().take_while(|entry| entry.id.index <= last) {
            bytes += entry.size();
            if bytes > bytes_max && !read.is_empty() {
                break;
            }
            read.push(entry.clone());
        }
        Ok(read)
    }
}

/// Entry `index` of `term` with a payload made of both and `length` more bytes: no two entries are alike, so a mix-up
/// is seen.
#[must_use]
pub fn entry(index: u64, term: u64, length: usize) -> Entry {
    use bytes::Bytes;

    use crate::types::{Payload, Term};
    let mut text = format!("{index}@{term}:").into_bytes();
    text.extend((0..length).map(|at| (at as u64 ^ index.wrapping_mul(31) ^ term) as u8));
    let id = LogId::new(Index(index), Term(term));
    Entry { id, kind: EntryKind::Command, payload: Payload::new(Bytes::from(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{NodeId, Payload, Term};

    fn write(term: u64, entries: Vec<Entry>) -> LogWrite {
        let hard_state = Some(HardState { term: Term(term), vote: None });
        LogWrite { group: GroupId::FIRST, hard_state, entries, ..LogWrite::default() }
    }

    fn refusal(store: &mut MemLog, write: LogWrite) -> String {
        store.write(&[write]).expect_err("this write breaks a rule").to_string()
    }

    fn three_entries() -> MemLog {
        let mut store = MemLog::new();
        store.write(&[write(2, vec![entry(1, 1, 0), entry(2, 1, 0), entry(3, 2, 0)])]).expect("a log of three");
        store
    }

    #[test]
    fn what_no_correct_core_asks_for_is_refused_by_its_rule() {
        let voted = |vote| LogWrite {
            hard_state: Some(HardState { term: Term(5), vote: Some(NodeId(vote)) }),
            ..write(5, vec![])
        };
        let mut store = MemLog::new();
        store.write(&[voted(1), voted(1)]).expect("the same vote again is no change");
        assert!(refusal(&mut store, voted(2)).contains("F2-VOTE-ONCE"));
        assert!(refusal(&mut store.reopen(), write(4, vec![])).contains("F2-PERSIST"));

        assert!(refusal(&mut three_entries(), write(2, vec![entry(5, 2, 0)])).contains("where index 4 belongs"));
        assert!(refusal(&mut three_entries(), write(2, vec![entry(4, 1, 0)])).contains("lower term"));
        assert!(refusal(&mut three_entries(), write(2, vec![entry(4, 3, 0)])).contains("F2-TERM-ADOPT"));
        let truncate = |from| LogWrite { truncate_from: Some(Index(from)), ..write(2, vec![]) };
        assert!(refusal(&mut three_entries(), truncate(4)).contains("F2-APPEND-CONFLICT"));
        let commit = |index| LogWrite { commit: Some(Index(index)), ..write(2, vec![]) };
        assert!(refusal(&mut three_entries(), commit(4)).contains("F2-APPEND-COMMIT"));
        let mut store = three_entries();
        store.write(&[commit(2)]).expect("a commit index inside the log");
        assert!(refusal(&mut store, truncate(2)).contains("committed"));
        let flipped = Payload::with_checksum(bytes::Bytes::from_static(b"x"), 1);
        let damaged = Entry { payload: flipped, ..entry(4, 2, 0) };
        assert!(refusal(&mut three_entries(), write(2, vec![damaged])).contains("TH-LOG-CHECKSUM"));
    }

    #[test]
    fn a_failed_write_keeps_the_part_that_was_durable_and_fails_the_store_for_good() {
        let mut store = three_entries();
        store.disk().fail_next_write(1);
        let slice = [write(2, vec![entry(4, 2, 0)]), write(2, vec![entry(5, 2, 0)])];
        assert!(store.write(&slice).is_err());
        assert!(store.write(&[]).is_err() && store.recover(GroupId::FIRST).is_err(), "an error is final");
        let recovered = store.reopen().recover(GroupId::FIRST).expect("the disk works again");
        assert_eq!(recovered.last(), LogId::new(Index(4), Term(2)));
    }

    #[test]
    fn a_stalled_disk_holds_writes_back_until_it_is_resumed() {
        let mut store = three_entries();
        let disk = store.disk().clone();
        disk.stall();
        let writer = std::thread::scope(|scope| {
            let writer = scope.spawn(|| store.write(&[write(2, vec![entry(4, 2, 0)])]).is_ok());
            assert_eq!(disk.entries(GroupId::FIRST).len(), 3, "nothing is durable while the disk stalls");
            disk.resume();
            writer.join().expect("the writer ends")
        });
        assert!(writer);
        assert_eq!((disk.entries(GroupId::FIRST).len(), disk.syncs()), (4, 2));
    }

    #[test]
    fn a_store_loses_its_disk_to_the_next_opening() {
        let mut store = three_entries();
        let mut next = store.disk().open();
        assert!(store.write(&[write(2, vec![entry(4, 2, 0)])]).is_err());
        next.write(&[write(2, vec![entry(4, 2, 0)])]).expect("the new store owns the disk");
    }
}
