//! A log with a beginning: compaction, snapshots in the place of entries, and the space that comes back.

// A test that cannot set itself up has to stop at once.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use raft_core::membership::Configuration;
use raft_core::ports::{LogReader, LogStore as _, LogWrite, ReadError, StoreError};
use raft_core::snapshot::SnapshotMeta;
use raft_core::testing::{Random, Report, entry};
use raft_core::types::{Entry, Index, LogId, NodeId, SnapshotId, Term};
use raft_log_rocks::{LogOptions, RocksLog};
use tempfile::TempDir;

mod common;
use common::*;

/// How long to wait for what a thread in the background ought to do at once.
const PATIENCE: Duration = Duration::from_secs(120);

fn id(index: u64, term: u64) -> LogId {
    LogId::new(Index(index), Term(term))
}

fn meta(index: u64, term: u64) -> SnapshotMeta {
    let configuration = Configuration::new([1, 2, 3].map(NodeId));
    SnapshotMeta { id: SnapshotId(u128::from(index) << 70), last: id(index, term), configuration }
}

fn installed(index: u64, term: u64) -> LogWrite {
    LogWrite { group: GROUP, snapshot: Some(meta(index, term)), ..LogWrite::default() }
}

fn committed(commit: u64, write: LogWrite) -> LogWrite {
    LogWrite { commit: Some(Index(commit)), ..write }
}

/// Bytes of the files in the database whose names end like this.
fn bytes_of(directory: &Path, extension: &str) -> u64 {
    let files = fs::read_dir(directory.join("db")).unwrap().map(|file| file.unwrap().path());
    let wanted = files.filter(|path| path.extension().is_some_and(|it| it == extension));
    // It may be gone by now.
    wanted.filter_map(|path| fs::metadata(path).ok()).map(|found| found.len()).sum()
}

fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_compacted_log_begins_later_and_is_the_same_behind_that() {
    let directory = TempDir::new().unwrap();
    let mut log = open(directory.path());
    log.write(&[set(vote(2, 1)), append(1, 4, 1), committed(6, append(5, 9, 2))]).unwrap();
    log.compact(GROUP, Index(3)).unwrap();
    for life in 0..3 {
        let recovered = log.recover(GROUP).unwrap();
        recovered.check().unwrap();
        assert_eq!((recovered.base, recovered.last(), recovered.commit), (id(3, 1), id(9, 2), Index(6)), "life {life}");
        let reader = log.reader();
        for gone in 0..=3 {
            let error = reader.read(GROUP, Index(gone), Index(9), u64::MAX).unwrap_err();
            assert_eq!(error, ReadError::Missing { group: GROUP, index: Index(gone) });
        }
        let held = reader.read(GROUP, Index(4), Index(9), u64::MAX).unwrap();
        assert_eq!(held, [entries(4, 4, 1), entries(5, 9, 2)].concat());
        log.compact(GROUP, Index(3)).unwrap();
        log.compact(GROUP, Index(1)).unwrap();
        drop((log, reader));
        log = open(directory.path());
    }
    log.write(&[replace(7, 7, 3)]).unwrap();
    log.compact(GROUP, Index(6)).unwrap();
    assert_eq!(log.recover(GROUP).unwrap().base, id(6, 2));
    // Until nothing is left.
    log.write(&[committed(7, append(8, 7, 3)), committed(8, append(8, 8, 3))]).unwrap();
    log.compact(GROUP, Index(8)).unwrap();
    drop(log);
    let recovered = recover(directory.path());
    assert_eq!((recovered.base, recovered.last(), recovered.commit), (id(8, 3), id(8, 3), Index(8)));
    assert_eq!((recovered.runs, recovered.batches), (vec![], vec![]));
    let mut log = open(directory.path());
    log.write(&[append(9, 9, 3)]).unwrap();
    assert_eq!(log.recover(GROUP).unwrap().last(), id(9, 3));
}

#[test]
fn a_refused_compaction_ends_the_store() {
    for (upto, rule) in [(4, "index 4, and the log ends with 3@1"), (3, "index 3, and index 2 is committed")] {
        let directory = TempDir::new().unwrap();
        let mut log = open(directory.path());
        log.write(&[committed(2, append(1, 3, 1))]).unwrap();
        let error = log.compact(GROUP, Index(upto)).unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }) && error.to_string().contains(rule), "{error}");
        let error = log.write(&[append(4, 4, 1)]).unwrap_err().to_string();
        assert!(error.contains("final") && error.contains(rule), "{error}");
        log.compact(GROUP, Index(1)).unwrap_err();
        drop(log);
        assert_eq!(recover(directory.path()).base, LogId::ZERO);
    }
}

#[test]
fn a_snapshot_takes_the_place_of_entries_with_all_else_in_its_write() {
    let directory = TempDir::new().unwrap();
    let mut log = open(directory.path());
    log.write(&[set(vote(3, 2)), committed(2, append(1, 9, 3))]).unwrap();
    // Its last entry is here: what follows stays.
    log.write(&[installed(5, 3)]).unwrap();
    let recovered = log.recover(GROUP).unwrap();
    assert_eq!((recovered.base, recovered.last(), recovered.commit), (id(5, 3), id(9, 3), Index(5)));
    assert_eq!(log.reader().read(GROUP, Index(6), Index(9), u64::MAX).unwrap(), entries(6, 9, 3));
    // It is not: nothing stays, and the write goes on behind the snapshot.
    let write = LogWrite { hard_state: Some(vote(5, 1)), snapshot: Some(meta(7, 4)), ..append(8, 8, 5) };
    log.write(&[write]).unwrap();
    for life in 0..2 {
        let recovered = log.recover(GROUP).unwrap();
        recovered.check().unwrap();
        assert_eq!((recovered.base, recovered.last(), recovered.commit), (id(7, 4), id(8, 5), Index(7)), "life {life}");
        assert_eq!((recovered.snapshot, recovered.hard_state), (Some(meta(7, 4)), vote(5, 1)));
        let read = log.reader().read(GROUP, Index(8), Index(99), u64::MAX).unwrap();
        assert_eq!(read, entries(8, 8, 5), "what followed the old entry 7 is gone");
        drop(log);
        log = open(directory.path());
    }
    // The last one counts, over compactions too.
    log.write(&[committed(8, set(vote(6, 1))), installed(8, 5)]).unwrap();
    log.write(&[committed(12, append(9, 12, 6))]).unwrap();
    log.compact(GROUP, Index(11)).unwrap();
    drop(log);
    let recovered = recover(directory.path());
    assert_eq!((recovered.base, recovered.snapshot), (id(11, 6), Some(meta(8, 5))));
}

/// Entries up to the base that are still there, or damaged, or of another log, are nobody's; one after it that is not
/// there is missed.
#[test]
fn what_is_left_before_the_base_is_harmless_and_a_hole_after_it_is_named() {
    let directory = TempDir::new().unwrap();
    let mut log = open(directory.path());
    log.write(&[committed(9, append(1, 9, 1))]).unwrap();
    log.compact(GROUP, Index(5)).unwrap();
    drop(log);
    let change = |change: &dyn Fn(&rocksdb::DB, &rocksdb::ColumnFamily)| {
        let copied = TempDir::new().unwrap();
        copy(directory.path(), copied.path());
        let db = raw(copied.path());
        change(&db, db.cf_handle("entries").unwrap());
        drop(db);
        copied
    };
    let gone = |db: &rocksdb::DB, entries: &rocksdb::ColumnFamily, from: u64, to: u64| {
        (from..=to).for_each(|index| db.delete_cf(entries, key(1, index)).unwrap());
    };
    let untouched = recover(directory.path());
    assert_eq!((untouched.base, untouched.last()), (id(5, 1), id(9, 1)));
    for (what, copied) in [
        ("all are gone", change(&|db, entries| gone(db, entries, 1, 5))),
        ("some are gone", change(&|db, entries| gone(db, entries, 2, 3))),
        ("one is damaged", change(&|db, entries| db.put_cf(entries, key(1, 4), b"garbage").unwrap())),
        ("one is nobody's", change(&|db, entries| db.put_cf(entries, key(1, 0), b"garbage").unwrap())),
    ] {
        assert_eq!(recover(copied.path()), untouched, "{what}");
        let reader = open(copied.path()).reader();
        assert!(matches!(reader.read(GROUP, Index(4), Index(9), 1 << 20), Err(ReadError::Missing { .. })), "{what}");
        assert_eq!(reader.read(GROUP, Index(6), Index(9), 1 << 20).unwrap(), entries(6, 9, 1), "{what}");
    }
    let hole = change(&|db, entries| gone(db, entries, 1, 6));
    let error = refusal(hole.path());
    assert!(error.contains("entry 6 of g1") && error.contains("missing"), "{error}");
    let all = change(&|db, entries| gone(db, entries, 1, 9));
    let error = refusal(all.path());
    assert!(error.contains("entry 6 of g1") && error.contains("5@1") && error.contains("9@1"), "{error}");
}

/// As a binary of format 1 wrote it.
#[test]
fn a_log_without_a_base_in_its_state_begins_with_its_first_entry() {
    let directory = TempDir::new().unwrap();
    let mut log = open(directory.path());
    log.write(&[set(vote(1, 3)), committed(2, append(1, 3, 1))]).unwrap();
    drop(log);
    let state_key = [&1_u64.to_be_bytes()[..], &[0]].concat();
    let db = raw(directory.path());
    let states = db.cf_handle("state").unwrap();
    let mut record = db.get_cf(states, &state_key).unwrap().unwrap();
    record.truncate(52);
    record[0] = 1;
    let checksum = crc32c::crc32c(&[&state_key[..], &record].concat());
    record.extend_from_slice(&checksum.to_be_bytes());
    db.put_cf(states, &state_key, &record).unwrap();
    drop(db);
    let recovered = recover(directory.path());
    assert_eq!((recovered.base, recovered.last(), recovered.lost), (LogId::ZERO, id(3, 1), None));
    assert_eq!((recovered.hard_state, recovered.commit, recovered.snapshot), (vote(1, 3), Index(2), None));
    let mut log = open(directory.path());
    log.compact(GROUP, Index(2)).unwrap();
    drop(log);
    assert_eq!(recover(directory.path()).base, id(2, 1));
}

#[test]
fn the_space_of_compacted_entries_comes_back() {
    const WRITES: u64 = 3_000;
    const PER_WRITE: u64 = 40;
    const KEPT: u64 = 10_000;
    let directory = TempDir::new().unwrap();
    let options = LogOptions { write_buffer_bytes: 1 << 20, ..LogOptions::default() };
    let mut log = RocksLog::open(directory.path(), options).unwrap();
    let (mut base, mut most, mut written) = (0, 0, 0);
    for first in (1..=WRITES * PER_WRITE).step_by(PER_WRITE as usize) {
        let write = committed(first - 1, append(first, first + PER_WRITE - 1, 1));
        written += write.entries.iter().map(|entry| entry.payload.bytes().len() as u64 + 40).sum::<u64>();
        log.write(&[write]).unwrap();
        // As the core does it: seldom and much.
        if first > base + KEPT {
            base = first - 1 - KEPT / 4 * 3;
            log.compact(GROUP, Index(base)).unwrap();
        }
        most = most.max(bytes_of(directory.path(), "sst") + bytes_of(directory.path(), "log"));
    }
    // About 4.4 MB are kept; with WAL files, memtables and files that are half gone it is a few times that.
    let bound = 24 << 20;
    assert!(written > 2 * bound && most < bound, "{most} bytes at most, {written} were written");
    log.compact(GROUP, Index(WRITES * PER_WRITE - PER_WRITE)).unwrap();
    log.write(&[append(WRITES * PER_WRITE + 1, WRITES * PER_WRITE + 1, 1)]).unwrap();
    await_that("the files of a log that is nearly empty go", || bytes_of(directory.path(), "sst") < 3 << 20);
    drop(log);
    let recovered = recover(directory.path());
    assert_eq!(recovered.last().index.since(recovered.base.index), PER_WRITE + 1);
    let mut report = Report::new("log-space");
    report.at_least("bytes written", written, 2 * bound).count("bytes on the disk at most", most);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

/// A file goes for good, and a batch may be lost with the WAL: so the base has to be in a table before a file goes.
#[test]
fn a_wal_that_is_gone_after_files_were_dropped_leaves_no_hole() {
    for by_snapshot in [false, true] {
        let directory = TempDir::new().unwrap();
        let options = LogOptions { write_buffer_bytes: 64 << 10, ..LogOptions::default() };
        let mut log = RocksLog::open(directory.path(), options).unwrap();
        log.write(&[set(vote(3, 1))]).unwrap();
        for first in (1..=2_000).step_by(20) {
            log.write(&[committed(first - 1, append(first, first + 19, 1))]).unwrap();
        }
        await_that("there are tables", || bytes_of(directory.path(), "sst") > 400_000);
        let (last, held) = if by_snapshot { (5_000, 0) } else { (2_000, 10) };
        if by_snapshot {
            log.write(&[installed(last, 3)]).unwrap();
        } else {
            log.compact(GROUP, Index(1_970)).unwrap();
        }
        await_that("tables are dropped", || bytes_of(directory.path(), "sst") < 200_000);
        let copied = TempDir::new().unwrap();
        copy_of(directory.path(), copied.path());
        drop(log);
        for file in fs::read_dir(copied.path().join("db")).unwrap().map(|file| file.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "log") {
                OpenOptions::new().write(true).open(file).unwrap().set_len(0).unwrap();
            }
        }
        let recovered = recover(copied.path());
        recovered.check().unwrap();
        assert_eq!((recovered.last().index, recovered.lost), (Index(last), None));
        assert!(recovered.last().index.since(recovered.base.index) >= held, "it begins after {}", recovered.base);
        assert_eq!(recovered.snapshot.is_some(), by_snapshot);
    }
}

/// Copies a log whose files may go meanwhile; the WAL is not wanted.
fn copy_of(from: &Path, to: &Path) {
    await_that("the directory settles", || {
        let names = |path: &Path| -> BTreeSet<_> {
            fs::read_dir(path.join("db")).unwrap().map(|file| file.unwrap().file_name()).collect()
        };
        let before = names(from);
        let _ = fs::remove_dir_all(to);
        fs::create_dir_all(to.join("db")).unwrap();
        fs::copy(from.join("EVIDENCE"), to.join("EVIDENCE")).unwrap();
        let copied = before.iter().all(|name| fs::copy(from.join("db").join(name), to.join("db").join(name)).is_ok());
        copied && names(from) == before
    });
}

#[test]
fn a_lost_snapshot_is_a_loss_of_the_log_up_to_its_end_and_a_lost_compaction_is_none() {
    let (directory, before) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut log = open(directory.path());
    log.write(&[set(vote(3, 2)), committed(5, append(1, 9, 3))]).unwrap();
    drop(log);
    copy(directory.path(), before.path());
    let mut log = open(directory.path());
    log.compact(GROUP, Index(4)).unwrap();
    log.write(&[committed(6, set(vote(4, 1)))]).unwrap();
    drop(log);
    put_back(before.path(), directory.path(), "db");
    let recovered = recover(directory.path());
    assert_eq!((recovered.base, recovered.last(), recovered.lost), (LogId::ZERO, id(9, 3), None));
    assert_eq!(recovered.hard_state, vote(4, 1));

    let mut log = open(directory.path());
    log.write(&[committed(6, append(10, 10, 3)), installed(20, 4)]).unwrap();
    assert_eq!(log.recover(GROUP).unwrap().last(), id(20, 4));
    drop(log);
    put_back(before.path(), directory.path(), "db");
    for _ in 0..2 {
        let recovered = recover(directory.path());
        recovered.check().unwrap();
        assert_eq!((recovered.base, recovered.last(), recovered.lost), (LogId::ZERO, id(9, 3), Some(id(20, 4))));
        assert_eq!((recovered.snapshot, recovered.hard_state), (None, vote(4, 1)));
    }
    // An earlier snapshot does not make it up, the same one does: its end is the log's.
    let mut log = open(directory.path());
    log.write(&[installed(15, 4)]).unwrap();
    assert_eq!(log.recover(GROUP).unwrap().lost, Some(id(20, 4)));
    log.write(&[installed(20, 4)]).unwrap();
    assert_eq!(log.recover(GROUP).unwrap().lost, None);
    drop(log);
    assert_eq!(recover(directory.path()).lost, None);
    assert!(!directory.path().join("QUARANTINE").exists());
}

#[test]
fn a_loss_behind_the_base_leaves_the_base_and_the_mark_stays_over_compactions() {
    let (directory, before) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut log = open(directory.path());
    log.write(&[set(vote(3, 2)), committed(7, append(1, 9, 3))]).unwrap();
    log.compact(GROUP, Index(5)).unwrap();
    drop(log);
    copy(directory.path(), before.path());
    let mut log = open(directory.path());
    // Everything behind the commit index is replaced, and that is lost.
    log.write(&[set(vote(4, 1)), committed(9, replace(8, 12, 4))]).unwrap();
    log.compact(GROUP, Index(9)).unwrap();
    drop(log);
    put_back(before.path(), directory.path(), "db");
    let recovered = recover(directory.path());
    recovered.check().unwrap();
    assert_eq!((recovered.base, recovered.last(), recovered.lost), (id(5, 3), id(9, 3), Some(id(12, 4))));
    let mut log = open(directory.path());
    log.compact(GROUP, Index(7)).unwrap();
    log.write(&[replace(8, 9, 4)]).unwrap();
    drop(log);
    let recovered = recover(directory.path());
    assert_eq!((recovered.base, recovered.lost), (id(7, 3), Some(id(12, 4))));
    open(directory.path()).write(&[append(10, 12, 4)]).unwrap();
    assert_eq!(recover(directory.path()).lost, None);
}

#[test]
fn evidence_of_another_log_that_ends_before_this_ones_base_is_refused() {
    let (directory, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut log = open(directory.path());
    log.write(&[committed(9, append(1, 9, 1))]).unwrap();
    log.compact(GROUP, Index(8)).unwrap();
    drop(log);
    // Younger by its number, and shorter than what was committed here.
    write_one_by_one(other.path(), 5, 1);
    put_back(other.path(), directory.path(), "EVIDENCE");
    let error = refusal(directory.path());
    assert!(error.contains("EVIDENCE") && error.contains("the beginning 8@1"), "{error}");
}

/// What the writer lets its readers know of a log that changes meanwhile.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    newest: AtomicU64,
    base: AtomicU64,
    /// Ends of snapshots that replaced the log, and the term from there on: no answer holds an entry of before and one of
    /// after.
    replaced: Mutex<BTreeMap<u64, u64>>,
}

impl Shared {
    /// Reads until it is stopped. Counts the answers, and how often the entry was gone.
    fn read_on(&self, reader: &dyn LogReader, mut random: Random) -> (u64, u64) {
        let (mut answers, mut missing) = (0, 0);
        while !self.stop.load(Ordering::Acquire) {
            let (from, to) = (self.base.load(Ordering::Acquire), self.newest.load(Ordering::Acquire));
            // Mostly about where the log begins.
            let near = random.below(64).min(to.saturating_sub(from));
            let first = Index((from + near).saturating_sub(8).max(1));
            match reader.read(GROUP, first, first.plus(1 + random.below(40)), 1 << 20) {
                Ok(found) => {
                    answers += 1;
                    self.check(first, &found);
                }
                Err(ReadError::Missing { index, .. }) => {
                    missing += 1;
                    assert_eq!(index, first);
                }
                Err(error) => panic!("from {first}: {error}"),
            }
        }
        (answers, missing)
    }

    fn check(&self, first: Index, found: &[Entry]) {
        let expected = found.iter().map(|held| entry(held.id.index.0, held.id.term.0, 400));
        assert!(expected.eq(found.iter().cloned()), "another entry than was written");
        let in_order = found.iter().zip(first.0..).all(|(held, due)| held.id.index.0 == due);
        assert!(in_order && !found.is_empty(), "from {first}: {:?}", found.first());
        let (head, tail) = (first.0, found.last().unwrap().id.index.0);
        for (end, term) in self.replaced.lock().unwrap().range(head..tail) {
            let after = found[(end + 1 - head) as usize].id;
            assert!(after.term.0 < *term, "{head} to {tail}: {after} came with a snapshot");
        }
    }

    /// Appends, compacts, and now and then replaces the uncommitted end by a snapshot of another history.
    fn write_on(&self, log: &mut RocksLog, rounds: u64) {
        let (mut last, mut term) = (0, 1);
        for round in 1..=rounds {
            log.write(&[committed(last, append(last + 1, last + 60, term))]).unwrap();
            last += 60;
            self.newest.store(last, Ordering::Release);
            if round % 5 == 0 {
                let end = last - 20;
                term += 1;
                self.replaced.lock().unwrap().insert(end, term);
                let write = LogWrite { snapshot: Some(meta(end, term)), ..append(end + 1, end + 30, term) };
                log.write(&[write]).unwrap();
                last = end + 30;
                self.base.store(end, Ordering::Release);
            } else if round % 2 == 0 {
                let upto = last - 90;
                log.compact(GROUP, Index(upto)).unwrap();
                self.base.fetch_max(upto, Ordering::AcqRel);
            }
        }
    }
}

/// Readers at work while the log is compacted, truncated and replaced: an entry is the right one, or not there any more.
#[test]
fn whoever_reads_meanwhile_gets_the_right_entries_or_none() {
    const ROUNDS: u64 = 150;
    let directory = TempDir::new().unwrap();
    let options = LogOptions { write_buffer_bytes: 256 << 10, ..LogOptions::default() };
    let mut log = RocksLog::open(directory.path(), options).unwrap();
    let shared = Shared::default();
    let (mut answers, mut missing) = (0, 0);
    std::thread::scope(|scope| {
        let reading = |seed| {
            let (reader, shared) = (log.reader(), &shared);
            scope.spawn(move || shared.read_on(&*reader, Random::new(seed)))
        };
        let readers = [reading(1), reading(2)];
        shared.write_on(&mut log, ROUNDS);
        shared.stop.store(true, Ordering::Release);
        for reader in readers {
            let (found, gone) = reader.join().unwrap();
            answers += found;
            missing += gone;
        }
    });
    let mut report = Report::new("log-concurrent-reads");
    report.at_least("answers", answers, ROUNDS).at_least("entries that were gone", missing, ROUNDS);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}
