//! Writes to the database of one generation.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::types::Index;
use rocksdb::{FlushOptions, WriteBatch, WriteOptions};

use super::database::{
    Database, FAMILIES, IDEMPOTENCY, KEYS, MARKS_KEY, META, META_KEY, NUMBER, REMEMBERED, STRETCH, VERSIONS, split,
};
use super::recent::Recent;
use crate::digest::Sum;
use crate::engine::{Engine, EngineError, Header, Meta, Row};
use crate::versions;

/// After so many entries it is looked again which versions compactions may drop, and how fast they may be.
const HORIZON_ENTRIES: u64 = 4096;
/// When more stretches are forgotten at once than this, one range is deleted in place of rows.
const STRETCHES_ONE_BY_ONE_MAX: u64 = 64;

/// There is one of these for a generation.
pub(super) struct Writer {
    database: Arc<Database>,
    /// Up to where it was looked what compactions may drop.
    looked: Index,
    /// The database holds exactly these records under their keys.
    recent: Recent,
}

impl Writer {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self { database, looked: Index::ZERO, recent: Recent::default() }
    }
}

fn failed(doing: &str) -> impl Fn(rocksdb::Error) -> EngineError {
    move |error| EngineError(format!("{doing}: {error}"))
}

impl Engine for Writer {
    fn header(&self, key: &[u8]) -> Result<Option<Header>, EngineError> {
        if let Some(record) = self.recent.get(key) {
            return split(key, record).map(|(header, _)| Some(header)).map_err(EngineError);
        }
        let Database { db, .. } = &*self.database;
        let record = db.get_pinned_cf(self.database.family(KEYS), key).map_err(failed("reading a key"))?;
        record.map(|record| split(key, &record).map(|(header, _)| header).map_err(EngineError)).transpose()
    }

    fn record(&self, key: &[u8]) -> Result<Option<(Header, Bytes)>, EngineError> {
        let record = match self.recent.get(key) {
            Some(record) => Some(record.clone()),
            None => {
                let Database { db, .. } = &*self.database;
                db.get_cf(self.database.family(KEYS), key).map_err(failed("reading a key"))?.map(Bytes::from)
            }
        };
        let Some(record) = record else { return Ok(None) };
        let (header, _) = split(key, &record).map_err(EngineError)?;
        Ok(Some((header, record.slice(Header::LENGTH..))))
    }

    fn remembered(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let key = [&[REMEMBERED], key].concat();
        let record = self.database.db.get_cf(self.database.family(IDEMPOTENCY), key);
        Ok(record.map_err(failed("reading an idempotency key"))?.map(Bytes::from))
    }

    fn numbered(&self, number: u64) -> Result<Option<(Sum, Bytes)>, EngineError> {
        let row = self.database.db.get_cf(self.database.family(IDEMPOTENCY), number_key(NUMBER, number));
        let Some(row) = row.map_err(failed("reading an idempotency key's number"))?.map(Bytes::from) else {
            return Ok(None);
        };
        let damaged = || EngineError(format!("the row of idempotency key number {number} is damaged"));
        let (sum, _) = row.split_first_chunk().ok_or_else(damaged)?;
        Ok(Some((Sum::from_bytes(*sum), row.slice(Sum::LENGTH..))))
    }

    fn stretch(&self, stretch: u64) -> Result<Option<Sum>, EngineError> {
        let row = self.database.db.get_pinned(number_key(STRETCH, stretch));
        let Some(row) = row.map_err(failed("reading the sum of a stretch"))? else { return Ok(None) };
        let damaged = |_| EngineError(format!("the sum of the versions of stretch {stretch} is damaged"));
        <[u8; Sum::LENGTH]>::try_from(&row[..]).map(|sum| Some(Sum::from_bytes(sum))).map_err(damaged)
    }

    fn write(&mut self, rows: Vec<Row>, meta: &Meta) -> Result<(), EngineError> {
        let mut batch = WriteBatch::default();
        self.fill(&mut batch, rows);
        batch.put(META_KEY, meta.encode());
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        if let Err(error) = self.database.db.write_opt(batch, &options) {
            self.recent.clear();
            return Err(failed("writing a batch")(error));
        }
        self.database.publish(meta.applied);
        if meta.applied.index.0 - self.looked.0 >= HORIZON_ENTRIES {
            self.looked = meta.applied.index;
            self.durable()?;
            self.database.look_at_pace().map_err(failed("reading what compactions are owed"))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        let families = FAMILIES.map(|name| self.database.family(name));
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.database.db.flush_cfs_opt(&families.each_ref(), &options).map_err(failed("flushing"))
    }

    fn durable(&mut self) -> Result<Index, EngineError> {
        self.database.durable().map_err(|reason| EngineError(format!("reading what is durable: {reason}")))
    }
}

impl Writer {
    /// Puts the rows into a batch, and notes the records that will be there once it is written.
    fn fill(&mut self, batch: &mut WriteBatch, rows: Vec<Row>) {
        let [meta, keys, idempotency, versions] =
            [META, KEYS, IDEMPOTENCY, VERSIONS].map(|name| self.database.family(name));
        let mut record = Vec::new();
        for row in rows {
            match row {
                Row::Put { key, header, value } => {
                    fill_record(&mut record, header, &value);
                    self.recent.put(&key, &record);
                    batch.put_cf(keys, key, &record);
                }
                Row::Delete { key } => {
                    self.recent.remove(&key);
                    batch.delete_cf(keys, key);
                }
                Row::Supersede { key, superseded, header, value } => {
                    fill_record(&mut record, header, &value);
                    batch.put_cf(versions, versions::row_key(&key, superseded), &record);
                }
                Row::EndStretch { stretch, sum } => batch.put(number_key(STRETCH, stretch), sum.to_bytes()),
                // Their versions are left to the compactions.
                Row::ForgetStretches(stretches) if stretches.end - stretches.start > STRETCHES_ONE_BY_ONE_MAX => {
                    let (from, to) = (number_key(STRETCH, stretches.start), number_key(STRETCH, stretches.end));
                    batch.delete_range_cf(meta, from, to);
                }
                Row::ForgetStretches(stretches) => {
                    stretches.for_each(|stretch| batch.delete(number_key(STRETCH, stretch)));
                }
                Row::Remember { number, key, record, sum } => {
                    batch.put_cf(idempotency, [&[REMEMBERED], &key[..]].concat(), record);
                    let row = [&sum.to_bytes()[..], &key].concat();
                    batch.put_cf(idempotency, number_key(NUMBER, number), row);
                }
                Row::Forget { number, key } => {
                    batch.delete_cf(idempotency, [&[REMEMBERED], &key[..]].concat());
                    batch.delete_cf(idempotency, number_key(NUMBER, number));
                }
                Row::Marks(record) => batch.put(MARKS_KEY, record),
            }
        }
    }
}

fn fill_record(record: &mut Vec<u8>, header: Header, value: &[u8]) {
    record.clear();
    record.extend_from_slice(&header.encode());
    record.extend_from_slice(value);
}

fn number_key(prefix: u8, number: u64) -> [u8; 9] {
    let mut key = [prefix; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use raft_core::types::{LogId, Term};

    use super::*;
    use crate::query::View;
    use crate::settings::Settings;

    /// The writer publishes after its write. A reader that comes between the two may see the write, and then no later
    /// read of it may name an earlier applied entry.
    #[test]
    fn reads_between_a_write_and_its_publication_do_not_go_back() {
        let root = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(root.path(), true).unwrap().database);
        let mut writer = Writer::new(Arc::clone(&database));
        let write = |writer: &mut Writer, index: u64, key: &'static [u8]| {
            let (index, key) = (Index(index), Bytes::from_static(key));
            let header = Header { revision: index, created: index, version: 1, sum: Sum::default() };
            let meta = Meta { applied: LogId::new(index, Term(1)), ..Meta::new(Settings::default()) };
            writer.write(vec![Row::Put { key, header, value: Bytes::new() }], &meta).unwrap();
            meta.applied
        };
        let first = write(&mut writer, 1, b"old");
        let second = write(&mut writer, 2, b"new");
        type Read = fn(&Database) -> LogId;
        let reads: [Read; 6] = [
            |database| database.get(b"new").unwrap().applied,
            |database| database.get(b"absent").unwrap().applied,
            |database| database.get_at(b"old", Index(1)).unwrap().applied,
            |database| database.meta().unwrap().applied,
            |database| database.marks().unwrap().0.applied,
            |database| database.walk(&mut |_, _, _| Ok(())).unwrap().0.applied,
        ];
        for read in reads {
            *database.applied.write() = first;
            assert_eq!(database.get(b"old").unwrap().applied, first);
            assert_eq!(read(&database), second);
            assert_eq!(database.get(b"old").unwrap().applied, second);
            assert_eq!(View::applied(&*database), second);
        }
    }

    fn version(index: u64, oldest: u64) -> (Row, Meta) {
        let header = Header { revision: Index(index - 1), created: Index(1), version: 1, sum: Sum::default() };
        let row =
            Row::Supersede { key: Bytes::from_static(b"k"), superseded: Index(index), header, value: Bytes::new() };
        let applied = LogId::new(Index(index), Term(1));
        (row, Meta { applied, oldest: Index(oldest), ..Meta::new(Settings::default()) })
    }

    fn rows(database: &Database) -> usize {
        database.db.iterator_cf(database.family(VERSIONS), rocksdb::IteratorMode::Start).count()
    }

    /// What is forgotten in memory only comes back after a crash, and is needed then.
    #[test]
    fn compactions_drop_what_is_forgotten_on_the_disk_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(root.path(), true).unwrap().database);
        let mut writer = Writer::new(Arc::clone(&database));
        let write = |writer: &mut Writer, index: u64, oldest: u64| {
            let (row, meta) = version(index, oldest);
            writer.write(vec![row], &meta).unwrap();
        };
        let compact = || database.db.compact_range_cf(database.family(VERSIONS), None::<&[u8]>, None::<&[u8]>);
        for index in 2..=100 {
            write(&mut writer, index, 0);
            if index % 50 == 0 {
                writer.flush().unwrap();
            }
        }
        assert_eq!(writer.durable(), Ok(Index(100)));
        // A compaction flushes by itself only the family that it is about, so this one stays in memory.
        let (_, meta) = version(101, 60);
        writer.write(Vec::new(), &meta).unwrap();
        assert_eq!(writer.durable(), Ok(Index(100)));
        compact();
        assert_eq!(rows(&database), 99);
        writer.flush().unwrap();
        compact();
        assert_eq!(rows(&database), 99, "nobody has looked yet");
        // Somebody walks through the state as it was.
        let walked = database.walk(&mut |_, _, _| {
            assert_eq!(database.durable(), Ok(Index(101)));
            Ok(())
        });
        assert_eq!(walked.unwrap().0.oldest, Index(60));
        compact();
        assert_eq!(rows(&database), 99, "the horizon stood still for the walk");
        assert_eq!(writer.durable(), Ok(Index(101)));
        compact();
        assert_eq!(rows(&database), 40, "the versions that were replaced at 61 to 100");
    }

    #[test]
    fn a_restored_database_is_held_back_until_nothing_is_owed_or_writes_would_wait() {
        let root = tempfile::tempdir().unwrap();
        let put_and_flush = |database: &Arc<Database>, index: u64| {
            let header = Header { revision: Index(index), created: Index(1), version: index, sum: Sum::default() };
            let row = |key| Row::Put { key: Bytes::from_static(key), header, value: Bytes::from(vec![7; 1 << 20]) };
            let meta = Meta { applied: LogId::new(Index(index), Term(1)), ..Meta::new(Settings::default()) };
            let mut writer = Writer::new(Arc::clone(database));
            writer.write(vec![row(b"first"), row(b"last")], &meta).unwrap();
            writer.flush().unwrap();
        };
        let first = Arc::new(Database::open(root.path(), true).unwrap().database);
        assert!(first.pace.is_free());
        put_and_flush(&first, 1);
        drop(first);

        let in_order = Database::open_restored(root.path()).unwrap().database;
        assert!(!in_order.pace.is_free());
        in_order.look_at_pace().unwrap();
        assert!(in_order.pace.is_free());
        drop(in_order);

        let owed = Arc::new(Database::open_restored(root.path()).unwrap().database);
        owed.pace.spend_for_tests(1 << 40);
        std::thread::scope(|scope| {
            scope.spawn(|| owed.db.compact_range_cf(owed.family(KEYS), None::<&[u8]>, None::<&[u8]>));
            while owed.pace.sleepers() == 0 {
                std::thread::yield_now();
            }
            for index in 2..10 {
                put_and_flush(&owed, index);
                owed.look_at_pace().unwrap();
                assert!(!owed.pace.is_free(), "{index} files and a compaction that waits");
            }
            put_and_flush(&owed, 10);
            owed.look_at_pace().unwrap();
            assert!(owed.pace.is_free());
        });
    }
}
