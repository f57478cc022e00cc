//! A log that comes back with less than it acknowledged is noticed, whatever RocksDB says of it.

// A test that cannot set itself up has to stop at once.
#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use raft_core::ports::LogStore as _;
use raft_core::testing::Report;
use raft_core::types::{Index, LogId, Term};
use raft_log_rocks::{LogOptions, RocksLog, SyncObserver, SyncReport};
use tempfile::TempDir;

mod common;
use common::*;

fn id(index: u64, term: u64) -> LogId {
    LogId::new(Index(index), Term(term))
}

#[test]
fn a_flipped_bit_in_the_middle_of_the_wal_is_a_loss_that_stays_until_the_log_has_caught_up() {
    let directory = TempDir::new().unwrap();
    write_one_by_one(directory.path(), 5, 3);
    let wal = wal(directory.path());
    let mut content = fs::read(&wal).unwrap();
    let third = b"3@3:";
    let at = content.windows(third.len()).position(|window| window == third).unwrap();
    content[at + 100] ^= 1;
    fs::write(&wal, &content).unwrap();

    let recovered = recover(directory.path());
    assert_eq!(recovered.last(), id(2, 3), "RocksDB keeps what comes before the flipped bit");
    assert_eq!(recovered.lost, Some(id(5, 3)));
    assert_eq!(recovered.hard_state, vote(3, 2));
    assert_eq!(recover(directory.path()).lost, Some(id(5, 3)), "the mark outlives a restart");

    let mut log = open(directory.path());
    log.write(&[append(3, 4, 3)]).unwrap();
    assert_eq!(log.recover(GROUP).unwrap().lost, Some(id(5, 3)), "one entry is still missing");
    drop(log);
    assert_eq!(recover(directory.path()).lost, Some(id(5, 3)));
    let mut log = open(directory.path());
    log.write(&[append(5, 5, 4)]).unwrap();
    assert_eq!(log.recover(GROUP).unwrap().lost, None, "the lost end is reached");
    drop(log);
    let recovered = recover(directory.path());
    assert_eq!((recovered.lost, recovered.last()), (None, id(5, 4)));
}

#[test]
fn a_wal_cut_at_a_record_boundary_is_a_loss() {
    let directory = TempDir::new().unwrap();
    write_one_by_one(directory.path(), 4, 1);
    let mut log = open(directory.path());
    log.write(&[append(5, 5, 1)]).unwrap();
    let wal = wal(directory.path());
    let boundary = fs::metadata(&wal).unwrap().len();
    log.write(&[append(6, 6, 1)]).unwrap();
    drop(log);
    assert!(fs::metadata(&wal).unwrap().len() > boundary);
    OpenOptions::new().write(true).open(&wal).unwrap().set_len(boundary).unwrap();
    let recovered = recover(directory.path());
    assert_eq!((recovered.last(), recovered.lost), (id(5, 1), Some(id(6, 1))));
}

#[test]
fn every_cut_of_the_wal_that_loses_a_batch_is_noticed() {
    let directory = TempDir::new().unwrap();
    write_one_by_one(directory.path(), 3, 1);
    let length = fs::metadata(wal(directory.path())).unwrap().len();
    let mut cuts = 0;
    for cut in (0..length).step_by(101) {
        cuts += 1;
        let copied = TempDir::new().unwrap();
        copy(directory.path(), copied.path());
        OpenOptions::new().write(true).open(wal(copied.path())).unwrap().set_len(cut).unwrap();
        let recovered = recover(copied.path());
        assert!(recovered.last().index < Index(3), "cut at {cut} of {length}");
        assert_eq!(recovered.lost, Some(id(3, 1)), "cut at {cut} of {length}");
        assert_eq!(recovered.hard_state, vote(1, 2), "cut at {cut} of {length}");
    }
    let mut report = Report::new("log-cuts");
    report.at_least("cuts of a WAL, each a noticed loss", cuts, 15).count("bytes of that WAL", length);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

#[test]
fn the_evidence_tells_of_a_batch_after_its_sync_and_before_its_acknowledgement() {
    struct AtSync(PathBuf, Mutex<Vec<u8>>);
    impl SyncObserver for AtSync {
        fn synced(&self, _: &SyncReport) {
            *self.1.lock().unwrap() = fs::read(&self.0).unwrap();
        }
    }
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("EVIDENCE");
    let at_sync = Arc::new(AtSync(path.clone(), Mutex::default()));
    let options = LogOptions { observer: Some(at_sync.clone()), ..LogOptions::default() };
    let mut log = RocksLog::open(directory.path(), options).unwrap();
    for index in 1..=3 {
        let before = fs::read(&path).unwrap();
        log.write(&[append(index, index, 1)]).unwrap();
        assert!(*at_sync.1.lock().unwrap() == before, "evidence of batch {index} before its sync is over");
        assert!(fs::read(&path).unwrap() != before, "no evidence of batch {index} when it is acknowledged");
    }
}

#[test]
fn a_batch_that_was_not_acknowledged_is_no_loss_whether_it_is_there_or_torn() {
    let (directory, before) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write_one_by_one(directory.path(), 4, 1);
    copy(directory.path(), before.path());
    let mut log = open(directory.path());
    let wal = wal(directory.path());
    let acknowledged = fs::metadata(&wal).unwrap().len();
    log.write(&[append(5, 5, 1)]).unwrap();
    drop(log);
    // As if the process had died between the sync of the batch and the evidence.
    put_back(before.path(), directory.path(), "EVIDENCE");
    let recovered = recover(directory.path());
    assert_eq!((recovered.last(), recovered.lost), (id(5, 1), None));

    let torn = TempDir::new().unwrap();
    put_back(before.path(), torn.path(), "db");
    put_back(before.path(), torn.path(), "EVIDENCE");
    let mut log = open(torn.path());
    log.write(&[append(5, 5, 1)]).unwrap();
    drop(log);
    put_back(before.path(), torn.path(), "EVIDENCE");
    OpenOptions::new().write(true).open(common::wal(torn.path())).unwrap().set_len(acknowledged + 200).unwrap();
    let recovered = recover(torn.path());
    assert_eq!((recovered.last(), recovered.lost), (id(4, 1), None));
}

#[test]
fn a_truncation_that_the_evidence_does_not_know_yet_is_no_loss() {
    let (directory, before) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write_one_by_one(directory.path(), 4, 3);
    copy(directory.path(), before.path());
    let mut log = open(directory.path());
    // A leader whose log has an entry of an older term than ours at this index: our end gets shorter and older.
    log.write(&[replace(1, 1, 2)]).unwrap();
    drop(log);
    put_back(before.path(), directory.path(), "EVIDENCE");
    let recovered = recover(directory.path());
    assert_eq!((recovered.last(), recovered.lost), (id(1, 2), None));
}

#[test]
fn a_lost_vote_comes_back_from_the_evidence_for_good() {
    let (directory, before) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write_one_by_one(directory.path(), 4, 1);
    copy(directory.path(), before.path());
    open(directory.path()).write(&[set(vote(7, 3))]).unwrap();
    put_back(before.path(), directory.path(), "db");
    for life in 0..2 {
        let recovered = recover(directory.path());
        assert_eq!(recovered.hard_state, vote(7, 3), "life {life}");
        assert_eq!((recovered.last(), recovered.lost), (id(4, 1), None), "no entry is lost, life {life}");
    }
    let error = open(directory.path()).write(&[set(vote(7, 2))]).unwrap_err();
    assert!(error.to_string().contains("n3 has it"), "{error}");
}

#[test]
fn a_lost_replacement_of_a_suffix_cannot_be_mistaken_for_the_longer_log_before_it() {
    let (directory, before) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write_one_by_one(directory.path(), 9, 1);
    copy(directory.path(), before.path());
    let mut log = open(directory.path());
    log.write(&[set(vote(2, 1)), replace(4, 6, 2)]).unwrap();
    drop(log);
    put_back(before.path(), directory.path(), "db");
    for _ in 0..2 {
        let recovered = recover(directory.path());
        // 7 to 9 are known to be gone by then, and 6 is another entry.
        assert_eq!((recovered.last(), recovered.lost), (id(5, 1), Some(id(6, 2))));
        assert_eq!(recovered.hard_state, vote(2, 1));
    }
    let mut log = open(directory.path());
    log.write(&[replace(4, 6, 3)]).unwrap();
    assert_eq!(log.recover(GROUP).unwrap().lost, None);
}

#[test]
fn a_crash_in_the_middle_of_the_repair_finds_the_same_loss_again() {
    let (directory, before, found) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    write_one_by_one(directory.path(), 2, 1);
    copy(directory.path(), before.path());
    let mut log = open(directory.path());
    log.write(&[append(3, 5, 1)]).unwrap();
    drop(log);
    put_back(before.path(), directory.path(), "db");
    copy(directory.path(), found.path());
    let lost = recover(directory.path()).lost;
    assert_eq!(lost, Some(id(5, 1)));
    // The mark is there and the batch that belongs to it is not.
    put_back(found.path(), directory.path(), "db");
    put_back(found.path(), directory.path(), "EVIDENCE");
    assert_eq!(recover(directory.path()).lost, lost);
    // A second loss on the way back leaves the newer mark, ...
    copy(directory.path(), found.path());
    open(directory.path()).write(&[append(3, 3, 1)]).unwrap();
    put_back(found.path(), directory.path(), "db");
    assert_eq!(recover(directory.path()).lost, lost);
    // ... which a shorter log of a later term outdoes: whatever was committed of the lost end is in it.
    open(directory.path()).write(&[append(3, 3, 2)]).unwrap();
    assert_eq!(recover(directory.path()).lost, None);
    put_back(found.path(), directory.path(), "db");
    assert_eq!(recover(directory.path()).lost, Some(id(3, 2)));
}

#[test]
fn a_database_that_is_gone_as_a_whole_is_a_loss() {
    let directory = TempDir::new().unwrap();
    write_one_by_one(directory.path(), 3, 2);
    fs::remove_dir_all(directory.path().join("db")).unwrap();
    let recovered = recover(directory.path());
    assert_eq!((recovered.last(), recovered.lost), (LogId::ZERO, Some(id(3, 2))));
    assert_eq!(recovered.hard_state, vote(2, 2));
}

#[test]
fn missing_evidence_is_refused_with_the_remedy_unless_the_log_is_blank() {
    let directory = TempDir::new().unwrap();
    drop(open(directory.path()));
    fs::remove_file(directory.path().join("EVIDENCE")).unwrap();
    write_one_by_one(directory.path(), 1, 1);
    fs::remove_file(directory.path().join("EVIDENCE")).unwrap();
    let error = refusal(directory.path());
    assert!(error.contains("EVIDENCE") && error.contains("it is missing"), "{error}");
    assert!(error.contains("let this node join as a new one"), "{error}");
}

#[test]
fn damaged_evidence_is_refused_with_the_remedy() {
    let directory = TempDir::new().unwrap();
    write_one_by_one(directory.path(), 1, 1);
    let path = directory.path().join("EVIDENCE");
    let mut content = fs::read(&path).unwrap();
    content.iter_mut().step_by(64).for_each(|byte| *byte ^= 0x10);
    fs::write(&path, content).unwrap();
    let error = refusal(directory.path());
    assert!(error.contains("EVIDENCE") && error.contains("slot 2"), "{error}");
    assert!(error.contains("let this node join as a new one"), "{error}");
}

#[test]
fn every_flipped_bit_of_a_mark_is_found() {
    let directory = TempDir::new().unwrap();
    write_one_by_one(directory.path(), 3, 2);
    fs::remove_dir_all(directory.path().join("db")).unwrap();
    recover(directory.path());
    let path = directory.path().join("QUARANTINE");
    let whole = fs::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, flipped).unwrap();
        let error = refusal(directory.path());
        assert!(error.contains("QUARANTINE"), "bit {bit}: {error}");
    }
    let mut report = Report::new("log-mark-flips");
    report.at_least("bits of a mark, each noticed when flipped", whole.len() as u64 * 8, 8 * 32);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

/// After a sync that failed, the page cache may hold what no disk has, and a process that starts again reads it from
/// there. Recovery must not take it for durable: what it brings back is written and synced anew.
#[test]
fn what_recovery_brings_back_does_not_rest_on_the_wal_that_it_was_read_from() {
    let (directory, killed, second) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut log = open(directory.path());
    log.write(&[set(vote(4, 2)), append(1, 5, 4)]).unwrap();
    // As a kill leaves it; closing might flush.
    copy(directory.path(), killed.path());
    drop(log);
    let mut log = open(killed.path());
    assert_eq!(log.recover(GROUP).unwrap().last(), id(5, 4));
    copy(killed.path(), second.path());
    drop(log);
    for file in fs::read_dir(second.path().join("db")).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "log") {
            OpenOptions::new().write(true).open(file).unwrap().set_len(0).unwrap();
        }
    }
    let recovered = recover(second.path());
    assert_eq!((recovered.last(), recovered.lost, recovered.hard_state), (id(5, 4), None, vote(4, 2)));
}
