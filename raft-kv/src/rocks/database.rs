//! The database of one generation: how it is opened and what is read from it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::RwLock;
use raft_core::ports::{QueryAnswer, QueryError};
use raft_core::types::{Index, LogId};
use rocksdb::compaction_filter::Decision;
use rocksdb::properties::{self, PropName};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, IteratorMode, Options,
    ReadOptions, ReadTier,
};

use super::pace::Pace;
use crate::directory::OpenError;
use crate::engine::{Header, Meta};
use crate::manifest;
use crate::marks::Marks;
use crate::query::{Table, View, Visit};
use crate::reply::{Found, FoundAt};
use crate::versions;

/// Holds the meta record, the marks, and the sums of stretches: `s` and a stretch's number to a sum.
pub(super) const META: &str = "default";
pub(super) const META_KEY: &[u8] = b"meta";
pub(super) const MARKS_KEY: &[u8] = b"marks";
pub(super) const STRETCH: u8 = b's';
/// Key to header and value.
pub(super) const KEYS: &str = "keys";
/// `k` and an idempotency key to its record; `n` and a number to the record's sum and idempotency key.
pub(super) const IDEMPOTENCY: &str = "idempotency";
pub(super) const REMEMBERED: u8 = b'k';
pub(super) const NUMBER: u8 = b'n';
/// Key and the index that replaced it to header and value; see [`versions`].
pub(super) const VERSIONS: &str = "versions";
pub(super) const FAMILIES: [&str; 4] = [META, KEYS, IDEMPOTENCY, VERSIONS];

/// Bytes of changes in memory, over all column families; then the oldest are written to files.
const WRITE_BUFFER_BYTES_MAX: usize = 64 << 20;
/// Bytes of blocks of files that are kept in memory for reads.
const BLOCK_CACHE_BYTES_MAX: usize = 64 << 20;
/// One for all states of a process: while a snapshot takes the place of a state both are open.
static BLOCK_CACHE: OnceLock<Cache> = OnceLock::new();
/// New files go to the disk little by little. Else a sync of the log beside it may find a mountain before it: ext4 writes
/// the data of other new files first.
const FILE_BYTES_PER_SYNC: u64 = 1 << 20;
/// RocksDB's own diary: kept files and their size.
const DIARY_FILES_MAX: usize = 2;
const DIARY_BYTES_MAX: usize = 4 << 20;

fn database_options() -> Options {
    let mut options = Options::default();
    // A flush takes all column families up to one write, so that no crash can part a key from its applied index.
    options.set_atomic_flush(true);
    options.set_db_write_buffer_size(WRITE_BUFFER_BYTES_MAX);
    options.set_bytes_per_sync(FILE_BYTES_PER_SYNC);
    options.set_keep_log_file_num(DIARY_FILES_MAX);
    options.set_max_log_file_size(DIARY_BYTES_MAX);
    options
}

fn families(horizon: &Arc<AtomicU64>, pace: &Arc<Pace>) -> Vec<ColumnFamilyDescriptor> {
    let cache = BLOCK_CACHE.get_or_init(|| Cache::new_lru_cache(BLOCK_CACHE_BYTES_MAX));
    FAMILIES
        .into_iter()
        .map(|name| {
            let (mut options, mut table) = (Options::default(), BlockBasedOptions::default());
            table.set_block_cache(cache);
            table.set_cache_index_and_filter_blocks(true);
            table.set_pin_l0_filter_and_index_blocks_in_cache(true);
            // With a checksum over the footer, and checksums of blocks that tell where they belong.
            table.set_format_version(6);
            options.set_compression_type(DBCompressionType::Lz4);
            options.set_write_buffer_size(WRITE_BUFFER_BYTES_MAX / 2);
            if name == VERSIONS {
                // Looked for by ranges only, which no filter knows.
                let (horizon, pace) = (Arc::clone(horizon), Arc::clone(pace));
                options.set_compaction_filter("forgotten versions", move |_, row: &[u8], record: &[u8]| {
                    pace.row(row.len() + record.len());
                    let forgotten = versions::superseded_in(row)
                        .is_some_and(|superseded| superseded.0 <= horizon.load(Ordering::Acquire));
                    if forgotten { Decision::Remove } else { Decision::Keep }
                });
            } else {
                // Most puts of new keys and every first use of an idempotency key look up what is not there.
                table.set_bloom_filter(10.0, false);
                options.set_memtable_whole_key_filtering(true);
                options.set_memtable_prefix_bloom_ratio(0.02);
                if !pace.is_free() {
                    let pace = Arc::clone(pace);
                    options.set_compaction_filter("pace", move |_, row: &[u8], record: &[u8]| {
                        pace.row(row.len() + record.len());
                        Decision::Keep
                    });
                }
            }
            options.set_block_based_table_factory(&table);
            ColumnFamilyDescriptor::new(name, options)
        })
        .collect()
}

/// The database, and up to where readers are sure to see it.
pub(super) struct Database {
    pub(super) db: DB,
    /// Moves after the write that it tells of, and never back. The lock is held for the copy of two numbers.
    pub(super) applied: RwLock<LogId>,
    /// What was replaced up to here may be dropped by compactions. It never passes the oldest revision that the state
    /// **on the disk** can read: after a crash that state is the present again.
    horizon: Arc<AtomicU64>,
    /// Held by those who need the horizon to stand still. Compactions do not wait for them, only its next move.
    still: RwLock<()>,
    pub(super) pace: Arc<Pace>,
}

/// What a database holds beside rows. `meta` is `None` in one that was just made.
pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) meta: Option<Meta>,
    pub(super) marks: Marks,
}

/// What a database that was only looked at holds.
pub(super) struct Seen {
    pub(super) meta: Meta,
    /// The names of its tables.
    pub(super) tables: Vec<String>,
}

impl Database {
    /// Opens the database in `path`; `make` makes one in an empty directory.
    pub(super) fn open(path: &Path, make: bool) -> Result<Opened, OpenError> {
        Self::open_at(path, make, Pace::free())
    }

    /// Opens a database that was just made of a snapshot.
    pub(super) fn open_restored(path: &Path) -> Result<Opened, OpenError> {
        Self::open_at(path, false, Pace::held_back())
    }

    fn open_at(path: &Path, make: bool, pace: Pace) -> Result<Opened, OpenError> {
        check_manifest(path)?;
        let mut options = database_options();
        options.create_if_missing(make);
        options.create_missing_column_families(make);
        let (horizon, pace) = (Arc::new(AtomicU64::new(0)), Arc::new(pace));
        let db = DB::open_cf_descriptors(&options, path, families(&horizon, &pace)).map_err(storage(path))?;
        let (meta, marks) = records(&db, path)?;
        let (applied, oldest) = meta.as_ref().map_or_else(Default::default, |meta| (meta.applied, meta.oldest));
        // Nothing is in memory only yet.
        horizon.store(oldest.0, Ordering::Release);
        let database = Self { db, applied: RwLock::new(applied), horizon, still: RwLock::new(()), pace };
        Ok(Opened { database, meta, marks })
    }

    /// Looks into a database that nobody has open. Nothing of it is changed; RocksDB may put a diary beside it.
    pub(super) fn look_into(path: &Path) -> Result<Seen, OpenError> {
        check_manifest(path)?;
        let descriptors = families(&Arc::default(), &Arc::new(Pace::free()));
        let db =
            DB::open_cf_descriptors_read_only(&database_options(), path, descriptors, true).map_err(storage(path))?;
        let damaged = |reason: &str| OpenError::Damaged { path: path.to_owned(), reason: reason.into() };
        let meta = records(&db, path)?.0.ok_or_else(|| damaged("the meta record is missing"))?;
        let files = db.live_files().map_err(storage(path))?;
        let tables = files.into_iter().map(|file| file.name.trim_start_matches('/').to_owned()).collect();
        Ok(Seen { meta, tables })
    }

    pub(super) fn family(&self, name: &'static str) -> &ColumnFamily {
        match self.db.cf_handle(name) {
            Some(family) => family,
            // All of them were named when the database was opened, and none is ever dropped.
            None => panic!("column family {name} was not opened"),
        }
    }

    /// Tells readers that the database holds the effects of this entry. A reader that has seen so tells too, before the
    /// writer comes to it: else the next answer could name an earlier entry than the one before.
    pub(super) fn publish(&self, applied: LogId) {
        let mut published = self.applied.write();
        if applied.index > published.index {
            *published = applied;
        }
    }

    pub(super) fn is_empty(&self) -> Result<bool, rocksdb::Error> {
        for family in [KEYS, IDEMPOTENCY, VERSIONS] {
            if let Some(first) = self.db.iterator_cf(self.family(family), IteratorMode::Start).next() {
                return first.map(|_| false);
            }
        }
        Ok(true)
    }

    /// Lets the compactions of a restored database go once it is in order, or when writes would soon wait for them.
    pub(super) fn look_at_pace(&self) -> Result<(), rocksdb::Error> {
        /// RocksDB slows writes down from 20 on.
        const LEVEL_0_FILES_MANY: u64 = 10;
        if self.pace.is_free() {
            return Ok(());
        }
        let number =
            |family, name: &PropName| Ok(self.db.property_int_value_cf(self.family(family), name)?.unwrap_or(0));
        let running = self.db.property_int_value(properties::NUM_RUNNING_COMPACTIONS)?.unwrap_or(0);
        let (mut owed, mut most) = (running, 0);
        for family in FAMILIES {
            owed += number(family, properties::COMPACTION_PENDING)?;
            most = most.max(number(family, &properties::num_files_at_level(0))?);
        }
        if owed == 0 || most >= LEVEL_0_FILES_MANY {
            self.pace.let_go();
        }
        Ok(())
    }

    /// The applied index of the state that is in files. What was replaced before the oldest revision of that state is
    /// needed no more, whatever happens.
    pub(super) fn durable(&self) -> Result<Index, String> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        let Some(record) = self.db.get_pinned_opt(META_KEY, &options).map_err(|error| error.to_string())? else {
            return Ok(Index::ZERO);
        };
        let meta = Meta::decode(&record).map_err(|reason| format!("the meta record has {reason}"))?;
        if let Some(_nobody_counts_on_it) = self.still.try_write() {
            self.horizon.fetch_max(meta.oldest.0, Ordering::Release);
        }
        Ok(meta.applied.index)
    }

    /// Reads everything that `get` reads at one applied index, that of the snapshot.
    fn at_snapshot(&self, key: &[u8]) -> Result<QueryAnswer, QueryError> {
        let snapshot = self.db.snapshot();
        let applied = decode_meta(snapshot.get(META_KEY).map_err(unreadable)?.as_deref())?.applied;
        self.publish(applied);
        let record = snapshot.get_pinned_cf(self.family(KEYS), key).map_err(unreadable)?;
        Ok(QueryAnswer { bytes: encode_found(key, record.as_deref())?.1, applied })
    }

    /// The encoded value of a key as of a revision that the snapshot can read.
    fn version(&self, snapshot: &rocksdb::Snapshot<'_>, key: &[u8], revision: Index) -> Result<Bytes, QueryError> {
        let present = snapshot.get_pinned_cf(self.family(KEYS), key).map_err(unreadable)?;
        let (written, found) = encode_found(key, present.as_deref())?;
        if present.is_some() && written <= revision {
            return Ok(found);
        }
        let mut options = ReadOptions::default();
        let end = versions::row_key(key, Index(u64::MAX));
        options.set_iterate_range(versions::row_key(key, revision.next())..end);
        let mut rows = snapshot.iterator_cf_opt(self.family(VERSIONS), options, IteratorMode::Start);
        let Some(row) = rows.next() else { return Ok(Found::encode_absent()) };
        let (_, record) = row.map_err(unreadable)?;
        let (written, found) = encode_found(key, Some(&record))?;
        Ok(if written <= revision { found } else { Found::encode_absent() })
    }
}

/// RocksDB does not survive some manifests.
fn check_manifest(path: &Path) -> Result<(), OpenError> {
    let unreadable = manifest::unreadable(path);
    match unreadable.map_err(|source| OpenError::Io { path: path.to_owned(), source })? {
        None => Ok(()),
        Some((path, reason)) => Err(OpenError::Damaged { path, reason }),
    }
}

fn storage(path: &Path) -> impl Fn(rocksdb::Error) -> OpenError {
    let path: PathBuf = path.to_owned();
    move |error| OpenError::Storage { path: path.clone(), reason: error.to_string() }
}

fn records(db: &DB, path: &Path) -> Result<(Option<Meta>, Marks), OpenError> {
    let damaged = |reason| OpenError::Damaged { path: path.to_owned(), reason };
    let Some(record) = db.get(META_KEY).map_err(storage(path))? else { return Ok((None, Marks::default())) };
    let meta = Meta::decode(&record).map_err(|reason| damaged(format!("the meta record has {reason}")))?;
    let marks = db.get(MARKS_KEY).map_err(storage(path))?;
    let marks = decode_marks(marks.as_deref(), &meta).map_err(|error| damaged(error.to_string()))?;
    Ok((Some(meta), marks))
}

pub(super) fn split<'a>(key: &[u8], record: &'a [u8]) -> Result<(Header, &'a [u8]), String> {
    Header::split(record).ok_or_else(|| format!("the record of key {} is damaged", key.escape_ascii()))
}

fn unreadable(error: rocksdb::Error) -> QueryError {
    QueryError::Storage(error.to_string())
}

fn decode_meta(record: Option<&[u8]>) -> Result<Meta, QueryError> {
    let record = record.ok_or_else(|| QueryError::Storage("the meta record is missing".into()))?;
    Meta::decode(record).map_err(|reason| QueryError::Storage(format!("the meta record has {reason}")))
}

fn decode_marks(record: Option<&[u8]>, meta: &Meta) -> Result<Marks, QueryError> {
    let Some(record) = record else { return Ok(Marks::default()) };
    Marks::decode(record, meta.applied.index)
        .map_err(|reason| QueryError::Storage(format!("the record of marks has {reason}")))
}

/// The revision of what is found, zero when there is nothing, and the encoded answer.
fn encode_found(key: &[u8], record: Option<&[u8]>) -> Result<(Index, Bytes), QueryError> {
    let Some(record) = record else { return Ok((Index::ZERO, Found::encode_absent())) };
    let (header, value) = split(key, record).map_err(QueryError::Storage)?;
    Ok((header.revision, Found::encode_value(header, value)))
}

fn outside(meta: &Meta) -> QueryAnswer {
    QueryAnswer { bytes: FoundAt::encode_outside(meta.oldest, meta.applied.index), applied: meta.applied }
}

impl View for Database {
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

    fn get_at(&self, key: &[u8], revision: Index) -> Result<QueryAnswer, QueryError> {
        let snapshot = self.db.snapshot();
        let meta = decode_meta(snapshot.get(META_KEY).map_err(unreadable)?.as_deref())?;
        self.publish(meta.applied);
        if revision < meta.oldest || revision > meta.applied.index {
            return Ok(outside(&meta));
        }
        let bytes = self.version(&snapshot, key, revision)?;
        // RocksDB's snapshots do not keep what a compaction drops. If the horizon has passed meanwhile, so has the
        // oldest revision, and the row that was looked for may have been dropped.
        if self.horizon.load(Ordering::Acquire) > revision.0 {
            return Ok(outside(&self.meta()?));
        }
        Ok(QueryAnswer { bytes, applied: meta.applied })
    }

    fn meta(&self) -> Result<Meta, QueryError> {
        let meta = decode_meta(self.db.get_pinned(META_KEY).map_err(unreadable)?.as_deref())?;
        self.publish(meta.applied);
        Ok(meta)
    }

    fn marks(&self) -> Result<(Meta, Marks), QueryError> {
        let snapshot = self.db.snapshot();
        let meta = decode_meta(snapshot.get(META_KEY).map_err(unreadable)?.as_deref())?;
        self.publish(meta.applied);
        let marks = decode_marks(snapshot.get(MARKS_KEY).map_err(unreadable)?.as_deref(), &meta)?;
        Ok((meta, marks))
    }

    fn walk(&self, visit: Visit<'_>) -> Result<(Meta, Marks), QueryError> {
        // What the snapshot can read stays where it is.
        let _still = self.still.read();
        let snapshot = self.db.snapshot();
        let meta = decode_meta(snapshot.get(META_KEY).map_err(unreadable)?.as_deref())?;
        self.publish(meta.applied);
        let marks = decode_marks(snapshot.get(MARKS_KEY).map_err(unreadable)?.as_deref(), &meta)?;
        for table in Table::ALL {
            let (family, prefix) = match table {
                Table::Keys => (KEYS, None),
                Table::Remembered => (IDEMPOTENCY, Some(REMEMBERED)),
                Table::Numbers => (IDEMPOTENCY, Some(NUMBER)),
                Table::Versions => (VERSIONS, None),
                Table::Stretches => (META, Some(STRETCH)),
            };
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            if let Some(prefix) = prefix {
                options.set_iterate_range([prefix]..[prefix + 1]);
            }
            for row in snapshot.iterator_cf_opt(self.family(family), options, IteratorMode::Start) {
                let (key, record) = row.map_err(unreadable)?;
                let key = &key[usize::from(prefix.is_some())..];
                match table {
                    Table::Versions if versions::superseded_in(key).is_some_and(|index| index <= meta.oldest) => {}
                    Table::Keys | Table::Versions => {
                        let value = record.len().min(Header::LENGTH);
                        visit(table, key, &[&record[..value], &record[value..]])?;
                    }
                    Table::Remembered | Table::Numbers | Table::Stretches => visit(table, key, &[&record])?,
                }
            }
        }
        Ok((meta, marks))
    }
}
