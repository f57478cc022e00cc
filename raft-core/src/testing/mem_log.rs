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
use crate::random::Random;
use crate::testing::disk_fault::{DiskFault, PowerCut};
use crate::types::{Entry, EntryKind, GroupId, Index, LogId};

mod group_log;

use group_log::{GroupLog, Witness};

/// What stays when a [`MemLog`] goes: everything of completed writes. Clones are handles to the same disk.
///
/// It has a durable part, and beside it the writes that were begun and not synced. [`MemDisk::cut_power`] keeps the
/// first few of those, or none: in their order, each whole or not at all. A compaction is seen at once, and durable with
/// the next write; a power cut before that may undo it.
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
    /// What is durable.
    groups: BTreeMap<GroupId, GroupLog>,
    /// What was acknowledged, kept apart from the log.
    witnesses: BTreeMap<GroupId, Witness>,
    /// Written and not synced: as in a page cache, the next process finds it, and a loss of power takes it.
    unsynced: Vec<LogWrite>,
    /// Writes are waiting at the disk and do not return.
    stalled: bool,
    failure: Option<Failure>,
    fault: Option<DiskFault>,
    /// From a power cut to the next opening.
    without_power: bool,
    /// Slices written and acknowledged since the disk was made.
    syncs: u64,
    /// How often the disk was opened; a store of an earlier opening has lost the disk.
    opened: u64,
}

/// What happens to the next slice of writes.
#[derive(Clone, Copy, Debug)]
enum Failure {
    /// It fails after its first so many writes have become durable.
    Error { kept: usize },
    /// The power goes after some of its writes, drawn from this number.
    PowerCut { drawn: u64 },
}

/// All that a [`MemDisk`] holds at one moment but the evidence of what was acknowledged: an older copy of a directory,
/// as somebody may put it back.
#[derive(Clone, Debug)]
pub struct MemDiskCopy {
    groups: BTreeMap<GroupId, GroupLog>,
}

impl MemDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the log with what the disk holds. A store that was opened before is cut off from it, so that a test
    /// cannot have two writers. What an earlier process has written and not synced is found and made durable: a log
    /// that is recovered counts, so it must not go with the next loss of power.
    #[must_use]
    pub fn open(&self) -> MemLog {
        let mut state = self.shared.lock();
        state.opened += 1;
        state.without_power = false;
        let unsynced = std::mem::take(&mut state.unsynced);
        state.keep(&unsynced);
        state.settle();
        let State { groups, witnesses, .. } = &mut *state;
        for (group, witness) in witnesses {
            groups.entry(*group).or_default().compare(witness);
        }
        // Writers of earlier openings have lost the disk.
        self.shared.resumed.notify_all();
        MemLog { disk: self.clone(), opened: state.opened, failed: None }
    }

    /// Lets the next slice of writes fail after its first `kept` writes have become durable, as a crash of the disk in
    /// the middle of a batch would. The store stays failed; open the disk again to go on.
    pub fn fail_next_write(&self, kept: usize) {
        self.shared.lock().failure = Some(Failure::Error { kept });
    }

    /// Cuts the power until the disk is opened again. What was not synced is lost but for a random first part.
    pub fn cut_power(&self, when: PowerCut, random: &mut Random) {
        let mut state = self.shared.lock();
        match when {
            PowerCut::Now => state.lose_power(random.next_u64()),
            PowerCut::InsideTheNextCall => state.failure = Some(Failure::PowerCut { drawn: random.next_u64() }),
        }
        self.shared.resumed.notify_all();
    }

    /// Causes a fault until [`MemDisk::mend`].
    pub fn inject(&self, fault: DiskFault) {
        let mut state = self.shared.lock();
        state.stalled |= fault == DiskFault::SyncStalls;
        state.fault = Some(fault);
    }

    /// Ends the faults of [`MemDisk::inject`] and [`MemDisk::stall`].
    pub fn mend(&self) {
        self.shared.lock().fault = None;
        self.resume();
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

    /// The durable entries of a group after its log's base, for a test to look at.
    #[must_use]
    pub fn entries(&self, group: GroupId) -> Vec<Entry> {
        self.shared.lock().groups.get(&group).map(|log| log.entries.clone()).unwrap_or_default()
    }

    /// What is durable now, without the evidence of what was acknowledged.
    #[must_use]
    pub fn copy(&self) -> MemDiskCopy {
        MemDiskCopy { groups: self.shared.lock().groups.clone() }
    }

    /// Puts an older copy in the place of what is durable now, behind the back of the store. The evidence stays, so the
    /// next opening finds what is missing and says so in [`Recovered::lost`].
    pub fn put_back(&self, copy: &MemDiskCopy) {
        self.shared.lock().groups = copy.groups.clone();
    }
}

impl Shared {
    /// A panic in another test thread says nothing about the state: every change below is made whole or not at all.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Makes writes durable that nobody waits for any more, up to the first that breaks a rule.
    fn keep(&mut self, writes: &[LogWrite]) {
        for write in writes {
            let log = self.groups.entry(write.group).or_default();
            if log.check(write).is_err() {
                return;
            }
            log.apply(write);
        }
    }

    fn lose_power(&mut self, drawn: u64) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let kept = drawn % (unsynced.len() as u64 + 1);
        if kept > 0 {
            // What was asked for before a write that stays, stays too.
            self.settle();
        }
        self.keep(&unsynced[..kept as usize]);
        for (log, drawn) in self.groups.values_mut().zip((0..).map(|nth| drawn >> (16 + nth % 32))) {
            log.bring_back(drawn);
        }
        self.without_power = true;
    }

    /// All compactions are durable.
    fn settle(&mut self) {
        self.groups.values_mut().for_each(GroupLog::settle);
    }

    /// Makes `writes` durable, each whole or not at all, and acknowledges them.
    fn sync(&mut self, writes: &[LogWrite]) -> Result<(), StoreError> {
        for write in writes {
            let log = self.groups.entry(write.group).or_default();
            log.check(write).map_err(|reason| StoreError::Refused { reason: format!("{}: {reason}", write.group) })?;
            log.apply(write);
        }
        self.settle();
        self.syncs += 1;
        for write in writes {
            let witness = self.groups.get(&write.group).map(GroupLog::witness);
            self.witnesses.extend(witness.map(|witness| (write.group, witness)));
        }
        Ok(())
    }

    /// Drops a beginning, which the next sync makes durable.
    fn compact(&mut self, group: GroupId, upto: Index) -> Result<(), StoreError> {
        if self.without_power {
            return Err(io("compacting", "the power is gone"));
        }
        if self.fault == Some(DiskFault::Full) {
            return Err(io("compacting", "no space is left on the disk (ENOSPC)"));
        }
        let compacted = self.groups.entry(group).or_default().compact(upto);
        compacted.map_err(|reason| StoreError::Refused { reason: format!("{group}: {reason}") })?;
        if let Some(Failure::PowerCut { drawn }) = self.failure {
            self.failure = None;
            self.lose_power(drawn);
            return Err(io("compacting", "the power is gone"));
        }
        Ok(())
    }

    /// What the disk says to a slice of writes instead of taking it.
    fn refusal(&mut self, writes: &[LogWrite]) -> Option<StoreError> {
        let failure = self.failure.take();
        match failure {
            Some(Failure::Error { kept }) => {
                self.keep(&writes[..kept.min(writes.len())]);
                return Some(io("writing", "the test wants this write to fail"));
            }
            Some(Failure::PowerCut { drawn }) => {
                self.unsynced = writes.to_vec();
                self.lose_power(drawn);
            }
            None => {}
        }
        if self.without_power {
            return Some(io("writing", "the power is gone"));
        }
        match self.fault {
            Some(DiskFault::Full) => Some(io("writing", "no space is left on the disk (ENOSPC)")),
            Some(DiskFault::SyncFails) => {
                self.unsynced = writes.to_vec();
                Some(io("syncing", "input/output error (EIO)"))
            }
            _ => None,
        }
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
        let may_go_on = |state: &State| !state.stalled || state.opened != self.opened || state.without_power;
        if !may_go_on(&state) {
            state.unsynced = writes.to_vec();
            while !may_go_on(&state) {
                state = shared.resumed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        if state.opened != self.opened {
            return Err(io("writing", "the disk was opened by another store"));
        }
        state.unsynced.clear();
        state.refusal(writes).map_or_else(|| state.sync(writes), Err)
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
        if state.fault == Some(DiskFault::ReadFails) {
            return Err(io("recovering", "input/output error (EIO)"));
        }
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

    fn compact(&mut self, group: GroupId, upto: Index) -> Result<(), StoreError> {
        if let Some(failed) = &self.failed {
            return Err(io("compacting", &format!("an earlier write failed: {failed}")));
        }
        let mut state = self.disk.shared.lock();
        let owned = state.opened == self.opened;
        let result = if owned {
            state.compact(group, upto)
        } else {
            Err(io("compacting", "the disk was opened by another store"))
        };
        drop(state);
        self.failed = result.as_ref().err().map(ToString::to_string);
        result
    }
}

#[derive(Debug)]
struct MemLogReader {
    disk: MemDisk,
}

impl LogReader for MemLogReader {
    fn read(&self, group: GroupId, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
        let state = self.disk.shared.lock();
        if state.fault == Some(DiskFault::ReadFails) {
            return Err(ReadError::Io { reason: "input/output error (EIO)".into() });
        }
        let held = state.groups.get(&group).and_then(|log| Some(&log.entries[log.position(first)?..]));
        let Some(held) = held.filter(|_| first <= last) else { return Err(ReadError::Missing { group, index: first }) };
        let mut read: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for entry in held.iter().take_while(|entry| entry.id.index <= last) {
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
    use crate::types::{HardState, NodeId, Payload, Term};

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

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_a_first_part_of_the_rest() {
        let slice = [4, 5, 6].map(|index| write(2, vec![entry(index, 2, 0)]));
        let mut kept = [0; 4];
        for seed in 0..60 {
            let mut store = three_entries();
            store.disk().cut_power(PowerCut::InsideTheNextCall, &mut Random::new(seed));
            assert!(store.write(&slice).is_err() && store.write(&[]).is_err());
            let last = store.reopen().recover(GroupId::FIRST).expect("the power is back").last();
            kept[last.index.0 as usize - 3] += 1;
        }
        assert!(kept.iter().all(|times| *times > 0), "after 0, 1, 2, 3 writes: {kept:?}");
    }

    #[test]
    fn what_a_failed_sync_left_in_the_cache_is_gone_with_the_power_or_made_durable_by_the_next_opening() {
        let next = [write(2, vec![entry(4, 2, 0)])];
        for power_goes in [false, true] {
            let mut store = three_entries();
            store.disk().inject(DiskFault::SyncFails);
            assert!(store.write(&next).expect_err("the sync fails").to_string().contains("EIO"));
            store.disk().mend();
            if power_goes {
                let keeps_nothing = (0..).map(Random::new).find(|random| random.clone().below(2) == 0);
                store.disk().cut_power(PowerCut::Now, &mut keeps_nothing.expect("half of all seeds"));
            }
            let store = store.reopen();
            let held = store.disk().entries(GroupId::FIRST).len();
            store.disk().cut_power(PowerCut::Now, &mut Random::new(1));
            assert_eq!(store.reopen().disk().entries(GroupId::FIRST).len(), held, "what an opening shows is durable");
            assert_eq!(held, if power_goes { 3 } else { 4 });
        }
    }

    #[test]
    fn an_older_copy_is_noticed_until_the_log_has_caught_up() {
        let mut store = three_entries();
        let copy = store.disk().copy();
        store.write(&[write(3, vec![entry(4, 2, 0), entry(5, 3, 0)])]).expect("two more entries");
        store.disk().put_back(&copy);
        let mut store = store.reopen().reopen();
        let recovered = store.recover(GroupId::FIRST).expect("it is a log");
        assert_eq!((recovered.last().index, recovered.lost), (Index(3), Some(LogId::new(Index(5), Term(3)))));
        assert_eq!(recovered.hard_state.term, Term(3), "the term is that of the evidence");
        store.write(&[write(4, vec![entry(4, 4, 0)])]).expect("a later entry");
        assert_eq!(store.recover(GroupId::FIRST).expect("it is a log").lost, None);
    }
}
