//! The log with `sync` off: what it still promises, and that its evidence never promises more.

// A test that cannot set itself up has to stop at once.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use raft_core::ports::LogStore as _;
use raft_core::types::{Index, LogId, Term};
use raft_log_rocks::{LogOptions, RocksLog};
use tempfile::TempDir;

mod common;
use common::*;

/// Syncs when it is closed and never before.
fn open_unsynced(directory: &TempDir) -> RocksLog {
    let options =
        LogOptions { sync: false, evidence_sync_interval: Duration::from_secs(3600), ..LogOptions::default() };
    RocksLog::open(directory.path(), options).unwrap()
}

#[test]
fn sync_is_on_unless_switched_off() {
    assert!(LogOptions::default().sync);
}

#[test]
fn without_sync_nothing_is_synced_or_vouched_for_before_it_is_due_or_closed() {
    let directory = TempDir::new().unwrap();
    let evidence = || fs::read(directory.path().join("EVIDENCE")).unwrap();
    let mut log = open_unsynced(&directory);
    let syncs = log.completed_syncs();
    let before = evidence();
    log.write(&[set(vote(1, 2)), append(1, 3, 1)]).unwrap();
    log.write(&[append(4, 4, 1)]).unwrap();
    assert_eq!((syncs.value(), evidence() == before), (0, true));
    assert_eq!(log.reader().read(GROUP, Index(1), Index(9), u64::MAX).unwrap().len(), 4, "readers see it all the same");
    drop(log);
    assert!(evidence() != before, "closing vouches for what it has synced");
    let recovered = recover(directory.path());
    assert_eq!((recovered.last(), recovered.lost), (LogId::new(Index(4), Term(1)), None));
    assert_eq!(recovered.hard_state, vote(1, 2));
}

#[test]
fn a_sync_that_is_due_vouches_for_every_group_that_changed_since_the_last_one() {
    let directory = TempDir::new().unwrap();
    let other = raft_core::types::GroupId(7);
    let mut log = open_unsynced(&directory);
    log.write(&[raft_core::ports::LogWrite { group: other, ..append(1, 1, 1) }]).unwrap();
    drop(log);
    let options = LogOptions { sync: false, evidence_sync_interval: Duration::ZERO, ..LogOptions::default() };
    let mut log = RocksLog::open(directory.path(), options).unwrap();
    log.write(&[append(1, 1, 1)]).unwrap();
    assert_eq!(log.completed_syncs().value(), 1, "it is always due");
    drop(log);
    fs::remove_dir_all(directory.path().join("db")).unwrap();
    let mut log = open(directory.path());
    for group in [GROUP, other] {
        assert_eq!(log.recover(group).unwrap().lost, Some(LogId::new(Index(1), Term(1))), "{group}");
    }
}

#[test]
fn what_a_loss_of_power_takes_of_the_unsynced_is_no_loss_of_what_was_vouched_for() {
    let (directory, before) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write_one_by_one(directory.path(), 2, 1);
    copy(directory.path(), before.path());
    let mut log = open_unsynced(&directory);
    log.write(&[append(3, 9, 1)]).unwrap();
    // The disk at the moment before the power came back: nothing of the unsynced batches.
    let evidence = TempDir::new().unwrap();
    fs::copy(directory.path().join("EVIDENCE"), evidence.path().join("EVIDENCE")).unwrap();
    drop(log);
    put_back(before.path(), directory.path(), "db");
    put_back(evidence.path(), directory.path(), "EVIDENCE");
    let recovered = recover(directory.path());
    assert_eq!((recovered.last(), recovered.lost), (LogId::new(Index(2), Term(1)), None));
}
