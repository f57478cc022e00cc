//! Our log store, and a bare RocksDB that is given the same bytes.
//!
//! The bare database overwrites old WAL files as ours does, has one column family, checks nothing and never compacts: it
//! is the fastest that RocksDB can be made to sync. Both have overwritten their WAL files before they are measured.

use std::path::Path;

use raft_core::ports::{LogStore, LogWrite};
use raft_core::types::{Entry, EntryKind, GroupId, HardState, Index, LogId, NodeId, Payload, Term, WriteId};
use raft_log_rocks::{LogOptions, RocksLog};
use rocksdb::{DB, Options, WriteBatch, WriteOptions};

use crate::rounds::Anything;

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 256;
/// Bytes of the header that ours puts before it.
const HEADER_BYTES: usize = 24;
/// About the size of a WAL file.
const WAL_BYTES: usize = 16 << 20;
/// As ours.
const RECYCLED_WAL_FILES: usize = 4;
/// WAL files that were filled before it counts.
const WARM_UP_FILES: usize = 8;
/// Entries that one of ours keeps.
const KEPT_ENTRIES: u64 = 200_000;

/// Something that makes so many entries durable, at the end of what it has.
pub trait Store {
    /// Returns once they are durable.
    ///
    /// # Errors
    /// When the disk fails.
    fn sync(&mut self, entries: u64) -> Result<(), Anything>;
}

/// Our log store.
pub struct Ours {
    store: RocksLog,
    payload: Payload,
    last: u64,
    writes: u64,
    compacted: u64,
}

impl Ours {
    /// Makes a new one in `directory`.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(directory: &Path) -> Result<Self, Anything> {
        let options = LogOptions { write_buffer_bytes: WAL_BYTES, ..LogOptions::default() };
        let mut store = RocksLog::open(directory, options)?;
        store.recover(GroupId::FIRST)?;
        let hard_state = Some(HardState { term: Term(1), vote: Some(NodeId(1)) });
        store.write(&[LogWrite { group: GroupId::FIRST, hard_state, ..LogWrite::default() }])?;
        let payload = Payload::new(vec![b'v'; PAYLOAD_BYTES].into());
        Ok(Self { store, payload, last: 0, writes: 0, compacted: 0 })
    }
}

impl Store for Ours {
    fn sync(&mut self, entries: u64) -> Result<(), Anything> {
        let first = self.last + 1;
        self.last += entries;
        self.writes += 1;
        let made = (first..=self.last).map(|index| Entry {
            id: LogId::new(Index(index), Term(1)),
            kind: EntryKind::Command,
            payload: self.payload.clone(),
        });
        let write = LogWrite {
            id: WriteId(self.writes),
            group: GroupId::FIRST,
            // As a leader learns it from the batch before.
            commit: Some(Index(first - 1)),
            entries: made.collect(),
            ..LogWrite::default()
        };
        self.store.write(&[write])?;
        if first - 1 > self.compacted + 2 * KEPT_ENTRIES {
            self.compacted = first - 1 - KEPT_ENTRIES;
            self.store.compact(GroupId::FIRST, Index(self.compacted))?;
        }
        Ok(())
    }
}

/// A bare RocksDB.
pub struct Bare {
    db: DB,
    options: WriteOptions,
    record: Vec<u8>,
    last: u64,
}

impl Bare {
    /// Makes a new one in `directory`.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(directory: &Path) -> Result<Self, Anything> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_size(WAL_BYTES);
        options.set_max_write_buffer_number(3);
        options.set_recycle_log_file_num(RECYCLED_WAL_FILES);
        options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::PointInTime);
        options.set_disable_auto_compactions(true);
        options.set_level_zero_slowdown_writes_trigger(1 << 20);
        options.set_level_zero_stop_writes_trigger(1 << 20);
        options.set_compression_type(rocksdb::DBCompressionType::None);
        options.set_bytes_per_sync(1 << 20);
        let db = DB::open(&options, directory)?;
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(Self { db, options, record: vec![b'v'; HEADER_BYTES + PAYLOAD_BYTES], last: 0 })
    }
}

impl Store for Bare {
    fn sync(&mut self, entries: u64) -> Result<(), Anything> {
        let mut batch = WriteBatch::default();
        for index in self.last + 1..=self.last + entries {
            let mut key = [0; 16];
            key[7] = 1;
            key[8..].copy_from_slice(&index.to_be_bytes());
            batch.put(key, &self.record);
        }
        self.last += entries;
        Ok(self.db.write_opt(batch, &self.options)?)
    }
}

/// Fills as many WAL files as it takes until old ones are overwritten.
///
/// # Errors
/// When the disk fails.
pub fn warm_up(store: &mut impl Store) -> Result<(), Anything> {
    let batch = 2048;
    let bytes = batch as usize * (HEADER_BYTES + PAYLOAD_BYTES);
    (0..WARM_UP_FILES * WAL_BYTES / bytes).try_for_each(|_| store.sync(batch))
}
