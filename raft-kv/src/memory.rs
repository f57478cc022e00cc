//! State in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use raft_core::ports::{ApplyError, QueryAnswer, QueryError, StateMachine, StateReader};
use raft_core::types::{Entry, Index, LogId};

use crate::engine::{Engine, EngineError, Header, Meta, Row};
use crate::machine::Machine;
use crate::query::{Found, KvReader, Table, View, Visit};
use crate::settings::{SettingError, Settings};

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
        let state = State {
            meta: Meta::new(settings),
            keys: BTreeMap::new(),
            remembered: BTreeMap::new(),
            numbers: BTreeMap::new(),
        };
        Ok(Self { flushed: Arc::new(Mutex::new(state)) })
    }

    /// The state machine as it was when it was last flushed to this disk, as after a crash.
    #[must_use]
    pub fn open(&self) -> MemoryKv {
        let state = self.flushed.lock().clone();
        let meta = state.meta;
        let engine = MemoryEngine { state: Arc::new(RwLock::new(state)), disk: Arc::downgrade(&self.flushed) };
        MemoryKv { machine: Machine::new(engine, meta) }
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
        Ok(Index::ZERO)
    }

    fn snapshotter(&self) -> Arc<dyn raft_core::ports::Snapshotter> {
        panic!("no snapshots yet")
    }

    fn restore(&mut self, _directory: &std::path::Path, last: LogId) -> Result<(), ApplyError> {
        Err(ApplyError::Storage { reason: format!("cannot restore {last}") })
    }
}

#[derive(Clone)]
struct State {
    meta: Meta,
    keys: BTreeMap<Bytes, (Header, Bytes)>,
    remembered: BTreeMap<Bytes, Bytes>,
    numbers: BTreeMap<u64, Bytes>,
}

/// The maps behind a lock. The one writer holds it only while it inserts a batch that is already decided, so a reader
/// waits for insertions at most, never for apply.
#[derive(Clone)]
struct MemoryEngine {
    state: Arc<RwLock<State>>,
    /// Gone when nobody can open it again; then there is nothing to copy to.
    disk: Weak<Mutex<State>>,
}

impl Engine for MemoryEngine {
    fn header(&self, key: &[u8]) -> Result<Option<Header>, EngineError> {
        Ok(self.state.read().keys.get(key).map(|(header, _)| *header))
    }

    fn remembered(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.state.read().remembered.get(key).cloned())
    }

    fn numbered(&self, number: u64) -> Result<Option<Bytes>, EngineError> {
        Ok(self.state.read().numbers.get(&number).cloned())
    }

    fn write(&mut self, rows: Vec<Row>, meta: &Meta) -> Result<(), EngineError> {
        let mut state = self.state.write();
        for row in rows {
            match row {
                // Copied: as slices they would keep whole messages of the network in memory.
                Row::Put { key, header, value } => {
                    let value = Bytes::copy_from_slice(&value);
                    state.keys.insert(Bytes::copy_from_slice(&key), (header, value));
                }
                Row::Delete { key } => {
                    state.keys.remove(&key);
                }
                Row::Remember { number, key, record } => {
                    state.numbers.insert(number, key.clone());
                    state.remembered.insert(key, record);
                }
                Row::Forget { number, key } => {
                    state.numbers.remove(&number);
                    state.remembered.remove(&key);
                }
            }
        }
        state.meta = *meta;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        if let Some(disk) = self.disk.upgrade() {
            *disk.lock() = self.state.read().clone();
        }
        Ok(())
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

    fn meta(&self) -> Result<Meta, QueryError> {
        Ok(self.state.read().meta)
    }

    fn walk(&self, visit: Visit<'_>) -> Result<Meta, QueryError> {
        let state = self.state.read();
        for table in Table::ALL {
            match table {
                Table::Keys => {
                    state.keys.iter().for_each(|(key, (header, value))| visit(table, key, &[&header.encode(), value]));
                }
                Table::Remembered => state.remembered.iter().for_each(|(key, record)| visit(table, key, &[record])),
                Table::Numbers => {
                    state.numbers.iter().for_each(|(number, key)| visit(table, &number.to_be_bytes(), &[key]));
                }
            }
        }
        Ok(state.meta)
    }
}
