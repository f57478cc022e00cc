//! State on disk, in RocksDB without a write-ahead log: the Raft log is its log.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use raft_core::ports::{ApplyError, QueryAnswer, QueryError, StateMachine, StateReader};
use raft_core::types::{Entry, Index, LogId};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, FlushOptions, IteratorMode,
    Options, ReadOptions, WriteBatch, WriteOptions,
};

use crate::directory::{self, OpenError};
use crate::engine::{Engine, EngineError, Header, Meta, Row};
use crate::machine::Machine;
use crate::manifest;
use crate::query::{Found, KvReader, Table, View, Visit};
use crate::settings::Settings;

/// Holds the meta record.
const META: &str = "default";
const META_KEY: &[u8] = b"meta";
/// Key to header and value.
const KEYS: &str = "keys";
/// `k` and an idempotency key to its record; `n` and a number to its idempotency key.
const IDEMPOTENCY: &str = "idempotency";
const REMEMBERED: u8 = b'k';
const NUMBER: u8 = b'n';

/// Bytes of changes in memory, over all column families; then the oldest are written to files.
const WRITE_BUFFER_BYTES_MAX: usize = 64 << 20;
/// Bytes of blocks of files that are kept in memory for reads.
const BLOCK_CACHE_BYTES_MAX: usize = 64 << 20;
/// RocksDB's own diary: kept files and their size.
const DIARY_FILES_MAX: usize = 2;
const DIARY_BYTES_MAX: usize = 4 << 20;

/// The state machine on disk.
///
/// Every batch of entries is one atomic write that carries its applied index, without a write-ahead log. After a crash
/// the state is that of some earlier applied index, whole; the entries after it are applied again from the log.
/// [`StateMachine::flush`] makes it durable; so does closing it in good order.
pub struct KvStateMachine {
    machine: Machine<RocksEngine>,
}

impl KvStateMachine {
    /// Opens the state in `directory`, which belongs to it alone, or makes it there when the directory is missing or
    /// empty. `first_settings` count only for a new state.
    ///
    /// # Errors
    /// When the directory holds something else, a format of another version or damaged state, or cannot be used.
    pub fn open(directory: &Path, first_settings: Settings) -> Result<Self, OpenError> {
        first_settings.check()?;
        let database = directory::prepare(directory)?;
        let unreadable = manifest::unreadable(&database);
        match unreadable.map_err(|source| OpenError::Io { path: database.clone(), source })? {
            None => {}
            Some((path, reason)) => return Err(OpenError::Damaged { path, reason }),
        }
        let storage = |error: rocksdb::Error| OpenError::Storage { path: database.clone(), reason: error.to_string() };
        let db = DB::open_cf_descriptors(&database_options(), &database, families()).map_err(storage)?;
        let stored = db.get(META_KEY).map_err(storage)?;
        let damaged = |reason| OpenError::Damaged { path: database.clone(), reason };
        let meta = match &stored {
            Some(record) => Meta::decode(record).map_err(|reason| damaged(format!("the meta record has {reason}")))?,
            None => Meta::new(first_settings),
        };
        let shared = Arc::new(Shared { db, applied: RwLock::new(meta.applied) });
        let mut engine = RocksEngine { shared };
        if stored.is_none() {
            // A crash before this flush leaves an empty database, and the founding settings are taken again.
            let empty = engine.shared.is_empty().map_err(storage)?;
            if !empty {
                return Err(damaged("there are keys but no meta record".into()));
            }
            let failed = |EngineError(reason)| OpenError::Storage { path: database.clone(), reason };
            engine.write(Vec::new(), &meta).map_err(failed)?;
            engine.flush().map_err(failed)?;
        }
        Ok(Self { machine: Machine::new(engine, meta) })
    }

    /// A reader with typed answers.
    #[must_use]
    pub fn kv_reader(&self) -> KvReader {
        KvReader::new(self.machine.engine().shared.clone())
    }
}

impl StateMachine for KvStateMachine {
    fn applied(&self) -> LogId {
        self.machine.applied()
    }

    fn apply(&mut self, entries: &[Entry], answers: &mut Vec<Bytes>) -> Result<(), ApplyError> {
        self.machine.apply(entries, answers)
    }

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

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A flush takes all column families up to one write, so that no crash can part a key from its applied index.
    options.set_atomic_flush(true);
    options.set_db_write_buffer_size(WRITE_BUFFER_BYTES_MAX);
    options.set_keep_log_file_num(DIARY_FILES_MAX);
    options.set_max_log_file_size(DIARY_BYTES_MAX);
    options
}

fn families() -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES_MAX);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // Most puts of new keys and every first use of an idempotency key look up what is not there.
    table.set_bloom_filter(10.0, false);
    // With a checksum over the footer, and checksums of blocks that tell where they belong.
    table.set_format_version(6);
    [META, KEYS, IDEMPOTENCY]
        .into_iter()
        .map(|name| {
            let mut options = Options::default();
            options.set_block_based_table_factory(&table);
            options.set_compression_type(DBCompressionType::Lz4);
            options.set_write_buffer_size(WRITE_BUFFER_BYTES_MAX / 2);
            options.set_memtable_whole_key_filtering(true);
            options.set_memtable_prefix_bloom_ratio(0.02);
            ColumnFamilyDescriptor::new(name, options)
        })
        .collect()
}

/// The database, and up to where readers are sure to see it.
struct Shared {
    db: DB,
    /// Moves after the write that it tells of, and never back. The lock is held for the copy of two numbers.
    applied: RwLock<LogId>,
}

impl Shared {
    fn family(&self, name: &'static str) -> &ColumnFamily {
        match self.db.cf_handle(name) {
            Some(family) => family,
            // All of them were named when the database was opened, and none is ever dropped.
            None => panic!("column family {name} was not opened"),
        }
    }

    /// Tells readers that the database holds the effects of this entry. A reader that has seen so tells too, before the
    /// writer comes to it: else the next answer could name an earlier entry than the one before.
    fn publish(&self, applied: LogId) {
        let mut published = self.applied.write();
        if applied.index > published.index {
            *published = applied;
        }
    }

    fn is_empty(&self) -> Result<bool, rocksdb::Error> {
        for family in [KEYS, IDEMPOTENCY] {
            if let Some(first) = self.db.iterator_cf(self.family(family), IteratorMode::Start).next() {
                return first.map(|_| false);
            }
        }
        Ok(true)
    }

    /// Reads everything that `get` reads at one applied index, that of the snapshot.
    fn at_snapshot(&self, key: &[u8]) -> Result<QueryAnswer, QueryError> {
        let snapshot = self.db.snapshot();
        let applied = decode_meta(snapshot.get(META_KEY).map_err(unreadable)?.as_deref())?.applied;
        self.publish(applied);
        let record = snapshot.get_pinned_cf(self.family(KEYS), key).map_err(unreadable)?;
        Ok(QueryAnswer { bytes: encode_found(key, record.as_deref())?.1, applied })
    }
}

/// Writes to the database. There is one of these.
struct RocksEngine {
    shared: Arc<Shared>,
}

fn failed(doing: &str) -> impl Fn(rocksdb::Error) -> EngineError {
    move |error| EngineError(format!("{doing}: {error}"))
}

impl Engine for RocksEngine {
    fn header(&self, key: &[u8]) -> Result<Option<Header>, EngineError> {
        let Shared { db, .. } = &*self.shared;
        let record = db.get_pinned_cf(self.shared.family(KEYS), key).map_err(failed("reading a key"))?;
        record.map(|record| split(key, &record).map(|(header, _)| header).map_err(EngineError)).transpose()
    }

    fn remembered(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let key = [&[REMEMBERED], key].concat();
        let record = self.shared.db.get_cf(self.shared.family(IDEMPOTENCY), key);
        Ok(record.map_err(failed("reading an idempotency key"))?.map(Bytes::from))
    }

    fn numbered(&self, number: u64) -> Result<Option<Bytes>, EngineError> {
        let key = self.shared.db.get_cf(self.shared.family(IDEMPOTENCY), number_key(number));
        Ok(key.map_err(failed("reading an idempotency key's number"))?.map(Bytes::from))
    }

    fn write(&mut self, rows: Vec<Row>, meta: &Meta) -> Result<(), EngineError> {
        let (keys, idempotency) = (self.shared.family(KEYS), self.shared.family(IDEMPOTENCY));
        let mut batch = WriteBatch::default();
        let mut record = Vec::new();
        for row in rows {
            match row {
                Row::Put { key, header, value } => {
                    record.clear();
                    record.extend_from_slice(&header.encode());
                    record.extend_from_slice(&value);
                    batch.put_cf(keys, key, &record);
                }
                Row::Delete { key } => batch.delete_cf(keys, key),
                Row::Remember { number, key, record } => {
                    batch.put_cf(idempotency, [&[REMEMBERED], &key[..]].concat(), record);
                    batch.put_cf(idempotency, number_key(number), key);
                }
                Row::Forget { number, key } => {
                    batch.delete_cf(idempotency, [&[REMEMBERED], &key[..]].concat());
                    batch.delete_cf(idempotency, number_key(number));
                }
            }
        }
        batch.put(META_KEY, meta.encode());
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.shared.db.write_opt(batch, &options).map_err(failed("writing a batch"))?;
        self.shared.publish(meta.applied);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        let families = [META, KEYS, IDEMPOTENCY].map(|name| self.shared.family(name));
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.shared.db.flush_cfs_opt(&families.each_ref(), &options).map_err(failed("flushing"))
    }
}

fn number_key(number: u64) -> [u8; 9] {
    let mut key = [NUMBER; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

fn split<'a>(key: &[u8], record: &'a [u8]) -> Result<(Header, &'a [u8]), String> {
    Header::split(record).ok_or_else(|| format!("the record of key {} is damaged", key.escape_ascii()))
}

fn unreadable(error: rocksdb::Error) -> QueryError {
    QueryError::Storage(error.to_string())
}

fn decode_meta(record: Option<&[u8]>) -> Result<Meta, QueryError> {
    let record = record.ok_or_else(|| QueryError::Storage("the meta record is missing".into()))?;
    Meta::decode(record).map_err(|reason| QueryError::Storage(format!("the meta record has {reason}")))
}

/// The revision of what is found, zero when there is nothing, and the encoded answer.
fn encode_found(key: &[u8], record: Option<&[u8]>) -> Result<(Index, Bytes), QueryError> {
    let Some(record) = record else { return Ok((Index::ZERO, Found::encode_absent())) };
    let (header, value) = split(key, record).map_err(QueryError::Storage)?;
    Ok((header.revision, Found::encode_value(header, value)))
}

impl View for Shared {
    fn applied(&self) -> LogId {
        *self.applied.read()
    }

    /// One lookup, most times. The applied entry is read first, so the lookup sees at least that state. What it finds
    /// may be newer; but a value that was written at or before the applied entry, and is still there later, was the
    /// value at the applied entry too. Only when there is no value, or a newer one, is the state of one moment pinned,
    /// which costs a lock inside RocksDB and a second lookup.
    fn get(&self, key: &[u8]) -> Result<QueryAnswer, QueryError> {
        let applied = *self.applied.read();
        let record = self.db.get_pinned_cf(self.family(KEYS), key).map_err(unreadable)?;
        let (revision, bytes) = encode_found(key, record.as_deref())?;
        if record.is_some() && revision <= applied.index {
            return Ok(QueryAnswer { bytes, applied });
        }
        self.at_snapshot(key)
    }

    fn meta(&self) -> Result<Meta, QueryError> {
        let meta = decode_meta(self.db.get_pinned(META_KEY).map_err(unreadable)?.as_deref())?;
        self.publish(meta.applied);
        Ok(meta)
    }

    fn walk(&self, visit: Visit<'_>) -> Result<Meta, QueryError> {
        let snapshot = self.db.snapshot();
        let meta = decode_meta(snapshot.get(META_KEY).map_err(unreadable)?.as_deref())?;
        self.publish(meta.applied);
        for table in Table::ALL {
            let (family, prefix) = match table {
                Table::Keys => (KEYS, None),
                Table::Remembered => (IDEMPOTENCY, Some(REMEMBERED)),
                Table::Numbers => (IDEMPOTENCY, Some(NUMBER)),
            };
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            if let Some(prefix) = prefix {
                options.set_iterate_range([prefix]..[prefix + 1]);
            }
            for row in snapshot.iterator_cf_opt(self.family(family), options, IteratorMode::Start) {
                let (key, record) = row.map_err(unreadable)?;
                visit(table, &key[usize::from(prefix.is_some())..], &[&record]);
            }
        }
        Ok(meta)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use raft_core::types::Term;

    use super::*;

    /// The writer publishes after its write. A reader that comes between the two may see the write, and then no later
    /// read of it may name an earlier applied entry.
    #[test]
    fn reads_between_a_write_and_its_publication_do_not_go_back() {
        let root = tempfile::tempdir().unwrap();
        let kv = KvStateMachine::open(root.path(), Settings::default()).unwrap();
        let shared = kv.machine.engine().shared.clone();
        let mut engine = RocksEngine { shared: shared.clone() };
        let write = |engine: &mut RocksEngine, index: u64, key: &'static [u8]| {
            let (index, key) = (Index(index), Bytes::from_static(key));
            let header = Header { revision: index, created: index, version: 1 };
            let meta = Meta { applied: LogId::new(index, Term(1)), ..Meta::new(Settings::default()) };
            engine.write(vec![Row::Put { key, header, value: Bytes::new() }], &meta).unwrap();
            meta.applied
        };
        let first = write(&mut engine, 1, b"old");
        let second = write(&mut engine, 2, b"new");
        type Read = fn(&Shared) -> LogId;
        let reads: [Read; 4] = [
            |shared| shared.get(b"new").unwrap().applied,
            |shared| shared.get(b"absent").unwrap().applied,
            |shared| View::meta(shared).unwrap().applied,
            |shared| shared.walk(&mut |_, _, _| {}).unwrap().applied,
        ];
        for read in reads {
            *shared.applied.write() = first;
            assert_eq!(shared.get(b"old").unwrap().applied, first);
            assert_eq!(read(&shared), second);
            assert_eq!(shared.get(b"old").unwrap().applied, second);
            assert_eq!(View::applied(&*shared), second);
        }
    }
}
