//! State in memory.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use raft_core::ports::{ApplyError, QueryAnswer, QueryError, SnapshotError, Snapshotter, StateMachine, StateReader};
use raft_core::types::{Entry, Index, LogId};

use crate::digest::Sum;
use crate::engine::{Engine, EngineError, Header, Meta, Row};
use crate::image;
use crate::machine::Machine;
use crate::marks::Marks;
use crate::query::{KvReader, Table, View, Visit};
use crate::reply::{Found, FoundAt};
use crate::settings::{SettingError, Settings};
use crate::versions;

/// The state machine in memory: for tests, simulations and clusters that may forget. Its state ends with the process;
/// then it starts from nothing and the whole log is applied again.
///
/// Commands and answers are those of the state machine on disk: both run the same logic.
pub struct MemoryKv {
    machine: Machine<MemoryEngine>,
}

impl MemoryKv {
    /// An empty state with these settings.
    ///
    /// # Errors
    /// Names the first setting that is outside its range.
    pub fn new(settings: Settings) -> Result<Self, SettingError> {
        Ok(MemoryDisk::new(settings)?.open())
    }

    /// A reader with typed answers.
    #[must_use]
    pub fn kv_reader(&self) -> KvReader {
        KvReader::new(Arc::new(self.machine.engine().clone()))
    }
}

/// What would be on a disk: the state of the last flush. Tests and simulations restart a [`MemoryKv`] from it. Clones
/// are handles to the same disk.
#[derive(Clone)]
pub struct MemoryDisk {
    flushed: Arc<Mutex<State>>,
}

impl MemoryDisk {
    /// A disk with an empty state and these settings.
    ///
    /// # Errors
    /// Names the first setting that is outside its range.
    pub fn new(settings: Settings) -> Result<Self, SettingError> {
        settings.check()?;
        Ok(Self { flushed: Arc::new(Mutex::new(State::new(Meta::new(settings)))) })
    }

    /// The state machine as it was when it was last flushed to this disk, as after a crash.
    #[must_use]
    pub fn open(&self) -> MemoryKv {
        let state = self.flushed.lock().clone();
        let (meta, marks) = (state.meta, state.marks.clone());
        let engine = MemoryEngine {
            state: Arc::new(RwLock::new(state)),
            disk: Arc::downgrade(&self.flushed),
            durable: meta.applied.index,
        };
        MemoryKv { machine: Machine::new(engine, meta, marks) }
    }
}

impl StateMachine for MemoryKv {
    fn applied(&self) -> LogId {
        self.machine.applied()
    }

    fn apply(&mut self, entries: &[Entry], answers: &mut Vec<Bytes>) -> Result<(), ApplyError> {
        self.machine.apply(entries, answers)
    }

    /// Copies the state to the [`MemoryDisk`] that it was opened from, if that is still there.
    fn flush(&mut self) -> Result<Index, ApplyError> {
        self.machine.flush()
    }

    fn reader(&self) -> Arc<dyn StateReader> {
        Arc::new(self.kv_reader())
    }

    fn durable(&mut self) -> Result<Index, ApplyError> {
        self.machine.durable()
    }

    fn snapshotter(&self) -> Arc<dyn Snapshotter> {
        Arc::new(MemorySnapshotter(Arc::clone(&self.machine.engine().state)))
    }

    fn restore(&mut self, directory: &Path, last: LogId) -> Result<(), ApplyError> {
        self.machine.check_alive()?;
        let state = image::read(directory, last).map_err(|error| {
            let reason = format!("restoring {last} from {}: {error}", directory.display());
            ApplyError::Storage { reason }
        })?;
        let (meta, marks) = (state.meta, state.marks.clone());
        let mut engine = self.machine.engine().clone();
        *engine.state.write() = state;
        engine.keep();
        self.machine.resume(engine, meta, marks);
        Ok(())
    }
}

/// Copies the maps, not the keys and values in them, and writes the copy.
struct MemorySnapshotter(Arc<RwLock<State>>);

impl Snapshotter for MemorySnapshotter {
    fn take(&self, directory: &Path) -> Result<LogId, SnapshotError> {
        let state = self.0.read().clone();
        image::write(&state, directory).map_err(|error| SnapshotError::Io {
            doing: format!("writing a snapshot into {}", directory.display()),
            reason: error.to_string(),
        })?;
        Ok(state.meta.applied)
    }
}

#[derive(Clone)]
pub(crate) struct State {
    pub(crate) meta: Meta,
    pub(crate) marks: Marks,
    pub(crate) keys: BTreeMap<Bytes, (Header, Bytes)>,
    pub(crate) remembered: BTreeMap<Bytes, Bytes>,
    pub(crate) numbers: BTreeMap<u64, (Sum, Bytes)>,
    /// By the row's key; see [`versions`].
    pub(crate) versions: BTreeMap<Bytes, (Header, Bytes)>,
    /// The keys of `versions` in the order in which they were replaced, and so are forgotten.
    pub(crate) superseded: VecDeque<(Index, Bytes)>,
    pub(crate) stretches: BTreeMap<u64, Sum>,
}

/// The maps behind a lock. The one writer holds it only while it inserts a batch that is already decided, so a reader
/// waits for insertions at most, never for apply.
#[derive(Clone)]
struct MemoryEngine {
    state: Arc<RwLock<State>>,
    /// Gone when nobody can open it again; then there is nothing to copy to.
    disk: Weak<Mutex<State>>,
    /// The applied index of the last flush.
    durable: Index,
}

impl MemoryEngine {
    /// Copies the state to the disk.
    fn keep(&mut self) {
        let state = self.state.read();
        if let Some(disk) = self.disk.upgrade() {
            *disk.lock() = state.clone();
        }
        self.durable = state.meta.applied.index;
    }
}

impl Engine for MemoryEngine {
    fn header(&self, key: &[u8]) -> Result<Option<Header>, EngineError> {
        Ok(self.state.read().keys.get(key).map(|(header, _)| *header))
    }

    fn record(&self, key: &[u8]) -> Result<Option<(Header, Bytes)>, EngineError> {
        Ok(self.state.read().keys.get(key).cloned())
    }

    fn remembered(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.state.read().remembered.get(key).cloned())
    }

    fn numbered(&self, number: u64) -> Result<Option<(Sum, Bytes)>, EngineError> {
        Ok(self.state.read().numbers.get(&number).cloned())
    }

    fn stretch(&self, stretch: u64) -> Result<Option<Sum>, EngineError> {
        Ok(self.state.read().stretches.get(&stretch).copied())
    }

    fn write(&mut self, rows: Vec<Row>, meta: &Meta) -> Result<(), EngineError> {
        let mut state = self.state.write();
        for row in rows {
            state.change(row)?;
        }
        state.forget_up_to(meta.oldest);
        state.meta = *meta;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        self.keep();
        Ok(())
    }

    fn durable(&mut self) -> Result<Index, EngineError> {
        Ok(self.durable)
    }
}

impl State {
    pub(crate) fn new(meta: Meta) -> Self {
        Self {
            meta,
            marks: Marks::default(),
            keys: BTreeMap::new(),
            remembered: BTreeMap::new(),
            numbers: BTreeMap::new(),
            versions: BTreeMap::new(),
            superseded: VecDeque::new(),
            stretches: BTreeMap::new(),
        }
    }

    fn change(&mut self, row: Row) -> Result<(), EngineError> {
        match row {
            // Copied: as slices they would keep whole messages of the network in memory.
            Row::Put { key, header, value } => {
                let value = Bytes::copy_from_slice(&value);
                self.keys.insert(Bytes::copy_from_slice(&key), (header, value));
            }
            Row::Delete { key } => {
                self.keys.remove(&key);
            }
            Row::Supersede { key, superseded, header, value } => {
                let row = Bytes::from(versions::row_key(&key, superseded));
                self.superseded.push_back((superseded, row.clone()));
                self.versions.insert(row, (header, Bytes::copy_from_slice(&value)));
            }
            Row::EndStretch { stretch, sum } => drop(self.stretches.insert(stretch, sum)),
            Row::ForgetStretches(stretches) => {
                // Stretches are forgotten in their order.
                self.stretches = self.stretches.split_off(&stretches.end);
            }
            Row::Remember { number, key, record, sum } => {
                self.numbers.insert(number, (sum, key.clone()));
                self.remembered.insert(key, record);
            }
            Row::Forget { number, key } => {
                self.numbers.remove(&number);
                self.remembered.remove(&key);
            }
            Row::Marks(record) => {
                self.marks = Marks::decode(&record, Index::LIMIT).map_err(EngineError)?;
            }
        }
        Ok(())
    }

    fn forget_up_to(&mut self, oldest: Index) {
        while self.superseded.front().is_some_and(|(superseded, _)| *superseded <= oldest) {
            if let Some((_, row)) = self.superseded.pop_front() {
                self.versions.remove(&row);
            }
        }
    }

    /// As [`View::walk`].
    pub(crate) fn walk(&self, visit: Visit<'_>) -> Result<(), QueryError> {
        for table in Table::ALL {
            match table {
                Table::Keys => self
                    .keys
                    .iter()
                    .try_for_each(|(key, (header, value))| visit(table, key, &[&header.encode(), value])),
                Table::Remembered => self.remembered.iter().try_for_each(|(key, record)| visit(table, key, &[record])),
                Table::Numbers => self.numbers.iter().try_for_each(|(number, (sum, key))| {
                    visit(table, &number.to_be_bytes(), &[&[&sum.to_bytes()[..], key].concat()])
                }),
                Table::Versions => self
                    .versions
                    .iter()
                    .try_for_each(|(row, (header, value))| visit(table, row, &[&header.encode(), value])),
                Table::Stretches => self
                    .stretches
                    .iter()
                    .try_for_each(|(stretch, sum)| visit(table, &stretch.to_be_bytes(), &[&sum.to_bytes()])),
            }?;
        }
        Ok(())
    }

    /// The encoded value of a key as of a revision that can be read.
    fn version(&self, key: &[u8], revision: Index) -> Bytes {
        if let Some((header, value)) = self.keys.get(key)
            && header.revision <= revision
        {
            return Found::encode_value(*header, value);
        }
        let first = Bytes::from(versions::row_key(key, revision.next()));
        let last = Bytes::from(versions::row_key(key, Index(u64::MAX)));
        match self.versions.range(first..last).next() {
            Some((_, (header, value))) if header.revision <= revision => Found::encode_value(*header, value),
            _ => Found::encode_absent(),
        }
    }
}

impl View for MemoryEngine {
    fn applied(&self) -> LogId {
        self.state.read().meta.applied
    }

    fn get(&self, key: &[u8]) -> Result<QueryAnswer, QueryError> {
        let state = self.state.read();
        let bytes = match state.keys.get(key) {
            Some((header, value)) => Found::encode_value(*header, value),
            None => Found::encode_absent(),
        };
        Ok(QueryAnswer { bytes, applied: state.meta.applied })
    }

    fn get_at(&self, key: &[u8], revision: Index) -> Result<QueryAnswer, QueryError> {
        let state = self.state.read();
        let Meta { applied, oldest, .. } = state.meta;
        let bytes = match (oldest..=applied.index).contains(&revision) {
            true => state.version(key, revision),
            false => FoundAt::encode_outside(oldest, applied.index),
        };
        Ok(QueryAnswer { bytes, applied })
    }

    fn meta(&self) -> Result<Meta, QueryError> {
        Ok(self.state.read().meta)
    }

    fn marks(&self) -> Result<(Meta, Marks), QueryError> {
        let state = self.state.read();
        Ok((state.meta, state.marks.clone()))
    }

    fn walk(&self, visit: Visit<'_>) -> Result<(Meta, Marks), QueryError> {
        let state = self.state.read();
        state.walk(visit)?;
        Ok((state.meta, state.marks.clone()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use proptest::prelude::*;
    use raft_core::types::{EntryKind, Payload, Term};

    use super::*;
    use crate::audit::Audit;
    use crate::digest;
    use crate::{Change, Command, IdempotencyKey, Setting};

    fn entry(index: u64, kind: EntryKind, bytes: Bytes) -> Entry {
        Entry { id: LogId::new(Index(index), Term(1)), kind, payload: Payload::new(bytes) }
    }

    /// Applies commands that touch a few keys again and again, and marks.
    fn state_of(commands: &[(u8, u8, u8)]) -> State {
        let mut kv =
            MemoryKv::new(Settings { versions_window: 40, idempotency_window: 3, ..Settings::default() }).unwrap();
        for (index, (what, key, value)) in (1..).zip(commands) {
            let key = vec![b'k', *key % 5];
            let command = match what % 10 {
                0 => Command::delete(key),
                1 => Command::batch(vec![Change::put(key.clone(), "first"), Change::put(key, vec![*value])]),
                2 | 3 => {
                    Command::put(key, vec![*value]).with_idempotency(IdempotencyKey::new(vec![*value % 6]).unwrap())
                }
                4 => Command::settings(vec![(Setting::VersionsWindow, u64::from(*value % 4) * 20)]),
                _ => Command::put(key, vec![*value; 3]),
            };
            let entry = match what % 11 {
                0 => entry(index, EntryKind::Mark, Bytes::new()),
                _ => entry(index, EntryKind::Command, crate::stamp(command.encode().unwrap(), index * 10)),
            };
            kv.apply(&[entry], &mut Vec::new()).unwrap();
        }
        kv.machine.engine().state.read().clone()
    }

    /// Sums and rows fit, and the digest that a mark would have.
    fn audit(state: &State) -> Result<([u8; 32], blake3::Hash), QueryError> {
        let mut audit = Audit::default();
        state.walk(&mut |table, key, record| audit.visit(table, key, record))?;
        let whole = audit.finish(&state.meta, &state.marks)?;
        Ok((digest::of_state(&state.meta, &state.marks), whole))
    }

    fn flip(bytes: &mut Bytes, bit: usize) {
        let mut changed = bytes.to_vec();
        let bit = bit % (changed.len() * 8).max(1);
        match changed.get_mut(bit / 8) {
            Some(byte) => *byte ^= 1 << (bit % 8),
            None => changed.push(0),
        }
        *bytes = changed.into();
    }

    /// All the ways in which a state may differ by one thing.
    fn differences(whole: &State, bit: usize) -> Vec<(&'static str, State)> {
        let mut found = Vec::new();
        let mut differ = |what, change: &dyn Fn(&mut State)| {
            let mut state = whole.clone();
            change(&mut state);
            found.push((what, state));
        };
        for row in whole.keys.keys() {
            differ("a value", &|it| flip(&mut it.keys.get_mut(row).unwrap().1, bit));
            differ("a revision", &|it| it.keys.get_mut(row).unwrap().0.revision.0 ^= 1 << (bit % 8));
            differ("a version", &|it| it.keys.get_mut(row).unwrap().0.version ^= 1 << (bit % 8));
            differ("a key that is gone", &|it| drop(it.keys.remove(row)));
        }
        for row in whole.versions.keys() {
            differ("an older value", &|it| flip(&mut it.versions.get_mut(row).unwrap().1, bit));
            differ("an older version that is gone", &|it| drop(it.versions.remove(row)));
            differ("an older version at another index", &|it| {
                let old = it.versions.remove(row).unwrap();
                let mut row = row.clone();
                let last_byte = (row.len() - 1) * 8;
                flip(&mut row, last_byte + bit % 8);
                it.versions.insert(row, old);
            });
        }
        for row in whole.remembered.keys() {
            differ("an idempotency record", &|it| flip(it.remembered.get_mut(row).unwrap(), bit));
            differ("an idempotency key that is gone", &|it| drop(it.remembered.remove(row)));
        }
        for number in whole.numbers.keys() {
            differ("the key of a number", &|it| flip(&mut it.numbers.get_mut(number).unwrap().1, bit));
            differ("a sum of a record", &|it| it.numbers.get_mut(number).unwrap().0.add(Sum::from_bytes([1; 16])));
            differ("a number that is gone", &|it| drop(it.numbers.remove(number)));
        }
        for stretch in whole.stretches.keys() {
            differ("a sum of a stretch", &|it| it.stretches.get_mut(stretch).unwrap().add(Sum::from_bytes([1; 16])));
        }
        differ("the time", &|it| it.meta.now_ms += 1);
        differ("the horizon", &|it| it.meta.window.horizon_ms += 1);
        differ("the window of idempotency keys", &|it| {
            it.meta.window.oldest += 1;
            it.meta.window.next += 1;
        });
        differ("the oldest revision", &|it| it.meta.oldest.0 += 1);
        for setting in Setting::ALL {
            differ("a setting", &|it| {
                let (least, greatest) = setting.range();
                let other = if it.meta.settings.value(setting) == least { greatest } else { least };
                it.meta.settings.set(setting, other).unwrap();
            });
        }
        differ("the applied entry", &|it| it.meta.applied.index.0 += 1);
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        /// The sums that are kept from entry to entry are those of all rows, and no single difference goes unseen.
        #[test]
        fn sums_are_those_of_the_rows_and_any_single_difference_shows(
            commands in prop::collection::vec(any::<(u8, u8, u8)>(), 1..260),
            bit in any::<usize>(),
        ) {
            let state = state_of(&commands);
            let (mark, whole) = audit(&state).unwrap();
            for (what, other) in differences(&state, bit) {
                if let Ok((other_mark, other_whole)) = audit(&other) {
                    prop_assert!(other_mark != mark, "{what} makes no difference to a mark");
                    prop_assert!(other_whole != whole, "{what} makes no difference to the whole digest");
                }
            }
        }
    }
}
