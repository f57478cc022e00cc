//! State on disk, in RocksDB without a write-ahead log: the Raft log is its log.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use raft_core::ports::{ApplyError, QueryAnswer, QueryError, Snapshotter, StateMachine, StateReader};
use raft_core::types::{Entry, Index, LogId};

use crate::directory::{OpenError, StateDirectory, sync_names};
use crate::engine::{Engine as _, EngineError, Meta};
use crate::machine::Machine;
use crate::marks::Marks;
use crate::query::{KvReader, View, Visit};
use crate::settings::Settings;

mod database;
mod pace;
mod recent;
mod retired;
mod snapshot;
mod writer;

use database::{Database, Opened};
use retired::Retired;
use snapshot::RocksSnapshotter;
use writer::Writer;

/// The state machine on disk.
///
/// Every batch of entries is one atomic write that carries its applied index, without a write-ahead log. After a crash
/// the state is that of some earlier applied index, whole; the entries after it are applied again from the log.
/// [`StateMachine::flush`] makes it durable; so does closing it in good order.
pub struct KvStateMachine {
    machine: Machine<Writer>,
    /// Shared with readers and snapshotters.
    current: Arc<Current>,
    directory: StateDirectory,
    retired: Retired,
}

impl KvStateMachine {
    /// Opens the state in `directory`, which belongs to it alone, or makes it there when the directory is missing or
    /// empty. `first_settings` count only for a new state.
    ///
    /// # Errors
    /// When the directory holds something else, a format of another version or damaged state, or cannot be used.
    pub fn open(directory: &Path, first_settings: Settings) -> Result<Self, OpenError> {
        first_settings.check()?;
        let directory = StateDirectory::prepare(directory)?;
        let path = directory.database();
        let Opened { database, meta: stored, marks } = Database::open(&path, true)?;
        let meta = stored.unwrap_or_else(|| Meta::new(first_settings));
        let database = Arc::new(database);
        let mut writer = Writer::new(Arc::clone(&database));
        if stored.is_none() {
            let storage = |reason: String| OpenError::Storage { path: path.clone(), reason };
            // A crash before this flush leaves an empty database, and the founding settings are taken again.
            if !database.is_empty().map_err(|error| storage(error.to_string()))? {
                let reason = "there are keys but no meta record".into();
                return Err(OpenError::Damaged { path, reason });
            }
            let failed = |EngineError(reason)| storage(reason);
            writer.write(Vec::new(), &meta).map_err(failed)?;
            writer.flush().map_err(failed)?;
        }
        directory.collect()?;
        let machine = Machine::new(writer, meta, marks);
        let current = Arc::new(Current(RwLock::new(database)));
        Ok(Self { machine, current, directory, retired: Retired::default() })
    }

    /// A reader with typed answers.
    #[must_use]
    pub fn kv_reader(&self) -> KvReader {
        KvReader::new(Arc::clone(&self.current) as Arc<dyn View>)
    }

    /// Makes the next generation of a snapshot. Nothing counts on it yet.
    fn prepare(&self, from: &Path, to: &Path, last: LogId) -> Result<(Database, Meta, Marks), OpenError> {
        snapshot::install(from, to, last)?;
        let Opened { database, meta, marks } = Database::open_restored(to)?;
        let missing = || OpenError::Damaged { path: to.to_owned(), reason: "the meta record is missing".into() };
        let meta = meta.ok_or_else(missing)?;
        // RocksDB has written files of its own by now.
        sync_names(to).map_err(|source| OpenError::Io { path: to.to_owned(), source })?;
        Ok((database, meta, marks))
    }
}

impl StateMachine for KvStateMachine {
    fn applied(&self) -> LogId {
        self.machine.applied()
    }

    fn apply(&mut self, entries: &[Entry], answers: &mut Vec<Bytes>) -> Result<(), ApplyError> {
        self.retired.collect();
        self.machine.apply(entries, answers)
    }

    fn flush(&mut self) -> Result<Index, ApplyError> {
        self.retired.collect();
        self.machine.flush()
    }

    fn reader(&self) -> Arc<dyn StateReader> {
        Arc::new(self.kv_reader())
    }

    fn durable(&mut self) -> Result<Index, ApplyError> {
        self.machine.durable()
    }

    fn snapshotter(&self) -> Arc<dyn Snapshotter> {
        Arc::new(RocksSnapshotter(Arc::clone(&self.current)))
    }

    /// Makes a database of the snapshot beside the present one, and then lets it count. After an error that leaves open
    /// which one counts, nothing more is applied.
    fn restore(&mut self, directory: &Path, last: LogId) -> Result<(), ApplyError> {
        self.machine.check_alive()?;
        let storage = |error: String| {
            let reason = format!("restoring {last} from {}: {error}", directory.display());
            ApplyError::Storage { reason }
        };
        let path = self.directory.begin().map_err(|error| storage(error.to_string()))?;
        let (database, meta, marks) = match self.prepare(directory, &path, last) {
            Ok(prepared) => prepared,
            Err(error) => {
                // What cannot be removed now is left over, and removed before the next try.
                let _ = fs::remove_dir_all(&path);
                return Err(storage(error.to_string()));
            }
        };
        let before = self.directory.database();
        if let Err(error) = self.directory.publish() {
            return Err(self.machine.fail(storage(error.to_string())));
        }
        let database = Arc::new(database);
        let old = std::mem::replace(&mut *self.current.0.write(), Arc::clone(&database));
        self.machine.resume(Writer::new(database), meta, marks);
        self.retired.add(old, before);
        Ok(())
    }
}

/// The generation that counts. Readers go through it, so that they stay good when another one does.
struct Current(RwLock<Arc<Database>>);

impl Current {
    fn database(&self) -> Arc<Database> {
        Arc::clone(&self.0.read())
    }
}

/// Short reads hold the lock: that costs less than another handle, and a restore waits for one lookup at most.
impl View for Current {
    fn applied(&self) -> LogId {
        self.0.read().applied()
    }

    fn get(&self, key: &[u8]) -> Result<QueryAnswer, QueryError> {
        self.0.read().get(key)
    }

    fn get_at(&self, key: &[u8], revision: Index) -> Result<QueryAnswer, QueryError> {
        self.0.read().get_at(key, revision)
    }

    fn meta(&self) -> Result<Meta, QueryError> {
        self.0.read().meta()
    }

    fn marks(&self) -> Result<(Meta, Marks), QueryError> {
        self.0.read().marks()
    }

    fn walk(&self, visit: Visit<'_>) -> Result<(Meta, Marks), QueryError> {
        self.database().walk(visit)
    }
}
