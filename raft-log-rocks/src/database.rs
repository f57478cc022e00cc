//! The RocksDB database of the log: how it is opened, and how its records are read.

use std::path::Path;
use std::sync::Arc;

use raft_core::membership::Configuration;
use raft_core::ports::StoreError;
use raft_core::runs::TermRun;
use raft_core::types::{Entry, EntryKind, GroupId, Index, LogId};
use rocksdb::{
    BlockBasedOptions, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, FlushOptions,
    LogLevel, Options, ReadOptions,
};

use crate::group::Group;
use crate::manifest;
use crate::record::{
    BaseConfigurations, GroupState, configurations_key, decode_configurations, decode_entry, decode_state, entry_key,
    group_of, index_of, state_key,
};
use crate::store::LogOptions;

/// Entries alone, so that the files of one flush never overlap those of the next and move down without being rewritten.
const ENTRIES: &str = "entries";
/// One small record per group, written anew by every batch.
const STATE: &str = "state";
/// Bytes of a stretch in [`Recovered::batches`](raft_core::ports::Recovered::batches).
const STRETCH_BYTES_MAX: u64 = 1 << 20;
/// A scan reads ahead this far.
const SCAN_READAHEAD_BYTES: usize = 2 << 20;
/// A level-1 file's compression begins here: what lives that long is read by nobody but a follower far behind.
const COMPRESSED_FROM_LEVEL: usize = 2;
const LEVELS: usize = 7;
/// New files go to the disk little by little. Else a sync of the log may find a mountain before it: ext4 writes the data
/// of other new files first.
const FILE_BYTES_PER_SYNC: u64 = 1 << 20;
/// Files of level 0 that are moved down, by name alone as long as their keys do not overlap. Level 0 is where files
/// cannot be dropped, so nothing stays there.
const LEVEL_0_FILES: i32 = 1;
/// More than a log keeps unless followers are far behind, so that the entries of most logs are never written again.
const LEVEL_BASE_BYTES: u64 = 512 << 20;
/// Settings that the crate has no function for.
///
/// An error of a background job is final too: RocksDB would otherwise clear "no space" by itself, and go on with a WAL
/// whose end nobody knows. Every table is read back and checked before the WAL behind it goes.
///
/// What is read from a WAL at open is written to a table and synced at once: after a sync that failed, the WAL may have
/// come from a page cache that no disk backs.
///
/// `track_and_verify_wals` stays off. A WAL file that is written again is cut to its end when it is closed, which nothing
/// syncs; after a loss of power it may have its old length. With that setting RocksDB takes the longer file for damage
/// and drops the WAL files after it, whose batches were synced and acknowledged. That none is missing the batches'
/// sequence tells, and our evidence.
const SETTINGS: &str = "max_bgerror_resume_count=0;paranoid_file_checks=true;avoid_flush_during_recovery=false";
/// RocksDB's own sum of each key in memory, for the groups' states alone: one small record for each batch, and what a start
/// rests on. Every entry carries checksums of ours over its key, header and payload. They are looked at before it is
/// written and whenever it is read, and one that is missing is noticed by its index; the sums would find the same, at the
/// price of a second one for every entry on the writer's thread, and a third when it goes to a table.
const STATE_SETTINGS: &str = "memtable_protection_bytes_per_key=8;block_protection_bytes_per_key=8";
/// Entries are read in stretches. Each table is read back block by block when it is made, so larger blocks are fewer
/// system calls beside the writer.
const BLOCK_BYTES: usize = 32 << 10;
/// WAL files that are kept to be written again. Overwriting a file needs no new block and no new length in the file
/// system's journal, so a sync costs about half.
const RECYCLED_WAL_FILES: usize = 4;
/// Memtables in memory, the one that is written to included. A compaction flushes one before it is full, and a write must
/// not wait for that when the one before is still on its way to the disk.
const WRITE_BUFFERS: i32 = 3;
/// With this much in the WAL, what pins it is flushed.
const WAL_BYTES_MAX: u64 = 512 << 20;

/// The log's database, with its column families at hand.
pub(crate) struct Database {
    db: DB,
}

/// What a full scan of a group's log found.
pub(crate) struct Scan {
    pub(crate) group: Group,
    pub(crate) batches: Vec<(Index, u64)>,
}

impl Database {
    /// Whether there is a database at `path`.
    pub(crate) fn exists(path: &Path) -> bool {
        path.join("CURRENT").exists()
    }

    /// Opens the database at `path`, or makes it.
    pub(crate) fn open(path: &Path, log: &LogOptions) -> Result<Self, StoreError> {
        let failed = |error: rocksdb::Error| match error.kind() {
            rocksdb::ErrorKind::Corruption => StoreError::Damaged {
                place: path.display().to_string(),
                reason: format!("{error}; move the data directory away and let this node join as a new one"),
            },
            _ => StoreError::Io { doing: format!("opening {}", path.display()), reason: error.to_string() },
        };
        refuse_endless(path)?;
        let options = Self::options(log, "").map_err(failed)?;
        let entries = {
            let mut levels = [DBCompressionType::Lz4; LEVELS];
            levels[..COMPRESSED_FROM_LEVEL].fill(DBCompressionType::None);
            let mut entries = options.clone();
            entries.set_compression_per_level(&levels);
            entries.set_level_zero_file_num_compaction_trigger(LEVEL_0_FILES);
            entries.set_max_bytes_for_level_base(LEVEL_BASE_BYTES);
            entries
        };
        let state = Self::options(log, STATE_SETTINGS).map_err(failed)?;
        let families = [ColumnFamilyDescriptor::new(ENTRIES, entries), ColumnFamilyDescriptor::new(STATE, state)];
        Ok(Self { db: DB::open_cf_descriptors(&options, path, families).map_err(failed)? })
    }

    /// What the database and both families have in common, and `settings`.
    fn options(log: &LogOptions, settings: &str) -> Result<Options, rocksdb::Error> {
        // First of all, and on fresh options: what it returns has forgotten what must outlive it.
        let mut options = Options::default().get_options_from_string(format!("{SETTINGS};{settings}"))?;
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_paranoid_checks(true);
        options.set_atomic_flush(true);
        options.set_allow_concurrent_memtable_write(false);
        // Stops at the first damaged record and keeps what came before. Our own evidence tells whether that was more
        // than a torn end; the stricter modes refuse ends that a loss of power leaves, and cannot recycle files.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_recycle_log_file_num(RECYCLED_WAL_FILES);
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
        options.set_write_buffer_size(log.write_buffer_bytes);
        options.set_max_write_buffer_number(WRITE_BUFFERS);
        options.set_max_background_jobs(2);
        options.set_bytes_per_sync(FILE_BYTES_PER_SYNC);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(4 << 20);
        let mut table = BlockBasedOptions::default();
        table.set_block_size(BLOCK_BYTES);
        options.set_block_based_table_factory(&table);
        Ok(options)
    }

    pub(crate) fn db(&self) -> &DB {
        &self.db
    }

    pub(crate) fn entries(&self) -> &ColumnFamily {
        self.db.cf_handle(ENTRIES).expect("made at open")
    }

    pub(crate) fn state(&self) -> &ColumnFamily {
        self.db.cf_handle(STATE).expect("made at open")
    }

    /// The groups that the database knows.
    pub(crate) fn groups(&self) -> Result<Vec<GroupId>, StoreError> {
        let mut groups = Vec::new();
        let mut records = self.db.raw_iterator_cf(self.state());
        records.seek_to_first();
        while let Some(key) = records.key() {
            let group = group_of(key).map_err(|reason| damaged("the groups' states", reason))?;
            if groups.last() != Some(&group) {
                groups.push(group);
            }
            records.next();
        }
        records.status().map_err(|error| failed("reading the groups' states", &error))?;
        Ok(groups)
    }

    /// How the newest batch left `group`.
    pub(crate) fn group_state(&self, group: GroupId) -> Result<GroupState, StoreError> {
        let place = format!("the state of {group}");
        match self.db.get_pinned_cf(self.state(), state_key(group)) {
            Ok(Some(record)) => decode_state(group, &record).map_err(|reason| damaged(&place, reason)),
            Ok(None) => Ok(GroupState::default()),
            Err(error) => Err(damaged_or_failed(&place, &error)),
        }
    }

    fn base_configurations(&self, group: GroupId) -> Result<BaseConfigurations, StoreError> {
        let place = format!("the configurations of {group}");
        match self.db.get_pinned_cf(self.state(), configurations_key(group)) {
            Ok(Some(record)) => decode_configurations(group, &record).map_err(|reason| damaged(&place, reason)),
            Ok(None) => Ok(BaseConfigurations::default()),
            Err(error) => Err(damaged_or_failed(&place, &error)),
        }
    }

    /// Writes all that is in memory to tables, synced. The WAL is not needed for it any more.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let families = [&self.entries(), &self.state()];
        let flushed = self.db.flush_cfs_opt(&families, &FlushOptions::default());
        flushed.map_err(|error| failed("flushing the log", &error))
    }

    /// Drops the table files that hold nothing but entries of `group` up to `base`.
    pub(crate) fn drop_files(&self, group: GroupId, base: Index) -> Result<(), StoreError> {
        let dropped =
            self.db.delete_file_in_range_cf(self.entries(), entry_key(group, Index::ZERO), entry_key(group, base));
        dropped.map_err(|error| failed("dropping files of compacted entries", &error))
    }

    /// Reads the whole log of `group` from its base on and checks every record, that none is missing and that it ends
    /// where the newest batch left it. What is left of entries up to the base is not looked at.
    pub(crate) fn scan(&self, group: GroupId) -> Result<Scan, StoreError> {
        let state = self.group_state(group)?;
        let end = state.last;
        let mut log = Group::beginning(group, state, self.base_configurations(group)?);
        let mut batches: Vec<(Index, u64)> = Vec::new();
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(SCAN_READAHEAD_BYTES);
        let mut cursor = self.cursor(group, log.base.index.next(), Index(u64::MAX), options);
        loop {
            let due = log.last().index.next();
            let Some(entry) = cursor.next(due).map_err(|stop| stop.into_store_error(group, due))? else {
                break;
            };
            if entry.id.term < log.last().term {
                let reason = format!("its term {} is lower than that of the entry before it", entry.id.term);
                return Err(damaged(&format!("entry {due} of {group}"), reason));
            }
            if entry.kind == EntryKind::Configuration {
                let read = Configuration::of_entry(due, entry.payload.bytes());
                let configuration =
                    read.map_err(|error| damaged(&format!("entry {due} of {group}"), error.to_string()))?;
                log.configurations.append([Arc::new(configuration)]);
            }
            log.push(TermRun { term: entry.id.term, last: due });
            match batches.last_mut() {
                Some((last, bytes)) if *bytes + entry.size() <= STRETCH_BYTES_MAX => {
                    *last = due;
                    *bytes += entry.size();
                }
                _ => batches.push((due, entry.size())),
            }
        }
        check_end(group, log.last(), end)?;
        Ok(Scan { group: log, batches })
    }

    /// The entries of `group` from `first` to `last` at this moment; batches that come later are not seen.
    pub(crate) fn cursor(&self, group: GroupId, first: Index, last: Index, mut options: ReadOptions) -> Cursor<'_> {
        options.set_iterate_lower_bound(entry_key(group, first).to_vec());
        // The bound is exclusive: append a byte, so that it lies just behind the last key.
        let mut upper = entry_key(group, last).to_vec();
        upper.push(0);
        options.set_iterate_upper_bound(upper);
        let mut records = self.db.raw_iterator_cf_opt(self.entries(), options);
        records.seek_to_first();
        Cursor { group, records, started: false }
    }
}

/// Refuses a database that RocksDB would try to open for ever.
fn refuse_endless(path: &Path) -> Result<(), StoreError> {
    let unreadable = manifest::unreadable(path).map_err(|error| StoreError::Io {
        doing: format!("reading the manifest in {}", path.display()),
        reason: error.to_string(),
    })?;
    match unreadable {
        None => Ok(()),
        Some((manifest, reason)) => Err(damaged(
            &manifest.display().to_string(),
            format!("{reason}; move the data directory away and let this node join as a new one"),
        )),
    }
}

/// Walks over entries and checks each.
pub(crate) struct Cursor<'a> {
    group: GroupId,
    records: rocksdb::DBRawIterator<'a>,
    started: bool,
}

/// Why a cursor stopped before its end.
pub(crate) enum Stop {
    Damaged(String),
    Failed(String),
}

impl Stop {
    fn into_store_error(self, group: GroupId, index: Index) -> StoreError {
        match self {
            Self::Damaged(reason) => damaged(&format!("entry {index} of {group}"), reason),
            Self::Failed(reason) => StoreError::Io { doing: format!("reading entry {index} of {group}"), reason },
        }
    }
}

impl Cursor<'_> {
    /// The next entry, which has to stand at `due`; `None` when no entry follows.
    pub(crate) fn next(&mut self, due: Index) -> Result<Option<Entry>, Stop> {
        if self.started {
            self.records.next();
        }
        self.started = true;
        let Some((key, record)) = self.records.item() else {
            return match self.records.status() {
                Ok(()) => Ok(None),
                Err(error) if error.kind() == rocksdb::ErrorKind::Corruption => Err(Stop::Damaged(error.to_string())),
                Err(error) => Err(Stop::Failed(error.to_string())),
            };
        };
        let index = index_of(self.group, key).map_err(Stop::Damaged)?;
        if index != due {
            return Err(Stop::Damaged(format!("it is missing; the next one is entry {index}")));
        }
        decode_entry(self.group, index, record).map(Some).map_err(Stop::Damaged)
    }
}

/// The log's last entry has to be the one that the newest batch left.
fn check_end(group: GroupId, found: LogId, expected: LogId) -> Result<(), StoreError> {
    if found == expected {
        return Ok(());
    }
    let index = if found.index < expected.index { found.index.next() } else { expected.index.next() };
    let reason = format!("the log ends with {found}, and its newest batch left it at {expected}");
    Err(damaged(&format!("entry {index} of {group}"), reason))
}

pub(crate) fn failed(doing: &str, error: &rocksdb::Error) -> StoreError {
    StoreError::Io { doing: doing.to_owned(), reason: error.to_string() }
}

fn damaged(place: &str, reason: String) -> StoreError {
    StoreError::Damaged { place: place.to_owned(), reason }
}

fn damaged_or_failed(place: &str, error: &rocksdb::Error) -> StoreError {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => damaged(place, error.to_string()),
        _ => failed(&format!("reading {place}"), error),
    }
}
