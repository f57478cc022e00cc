//! A write that fails ends the store for good: nothing is acknowledged after it, and the next start recovers.
//!
//! The failures are real. A limit on the size of files makes the write system calls of a child process fail in the
//! middle of a WAL or of the evidence; a directory in the place of a file makes a removal fail.

// A test that cannot set itself up has to stop at once.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use raft_core::ports::{LogStore, LogWrite, StoreError};
use raft_core::types::{Index, LogId, Term};
use raft_log_rocks::{LogOptions, RocksLog};
use rustix::process::{Resource, Rlimit, setrlimit};
use tempfile::TempDir;

mod common;
use common::*;

const DIRECTORY: &str = "RAFT_TEST_FAILING_DIRECTORY";

/// Runs a test of this binary in a process of its own, in which a write beyond the limit is an error and no signal.
fn run(test: &str, directory: &TempDir) -> Output {
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(DIRECTORY, directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn directory_of_the_child() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

/// From here on no file of this process grows beyond `bytes`.
fn limit_files(bytes: Option<u64>) {
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

/// The first failure names what failed; after it every call fails, even once the disk would do again.
fn assert_ended(log: &mut RocksLog, first: &StoreError, names: &str, next: LogWrite) {
    assert!(matches!(first, StoreError::Io { .. }) && first.to_string().contains(names), "{first}");
    limit_files(None);
    let syncs = log.completed_syncs();
    let before = syncs.value();
    for _ in 0..3 {
        for writes in [&[next.clone()][..], &[LogWrite { group: GROUP, ..LogWrite::default() }], &[]] {
            let error = log.write(writes).unwrap_err().to_string();
            assert!(error.contains("final") && error.contains("restart the node") && error.contains(names), "{error}");
        }
        log.recover(GROUP).unwrap_err();
    }
    assert_eq!(syncs.value(), before, "something was synced after the failure");
}

/// Not a test by itself: a process whose WAL cannot grow.
#[test]
fn writer_with_a_full_wal() {
    let Some(directory) = directory_of_the_child() else {
        return;
    };
    let mut log = open(&directory);
    limit_files(Some(64 << 10));
    let mut acknowledged = 0;
    let error = loop {
        match log.write(&[append(acknowledged + 1, acknowledged + 1, 1)]) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1000, "nothing fails");
    };
    assert_ended(&mut log, &error, "writing a batch to the log", append(acknowledged + 1, acknowledged + 1, 1));
    eprintln!("acknowledged {acknowledged}");
}

#[test]
fn a_batch_that_the_disk_does_not_take_ends_the_store_and_costs_nothing_that_was_acknowledged() {
    let directory = TempDir::new().unwrap();
    let output = run("writer_with_a_full_wal", &directory);
    let lines = String::from_utf8(output.stderr).unwrap();
    let acknowledged: u64 = lines.lines().find_map(|line| line.strip_prefix("acknowledged ")).unwrap().parse().unwrap();
    assert!(acknowledged > 10);
    let mut log = open(directory.path());
    let recovered = log.recover(GROUP).unwrap();
    assert_eq!((recovered.last(), recovered.lost), (LogId::new(Index(acknowledged), Term(1)), None));
    log.write(&[append(acknowledged + 1, acknowledged + 9, 1)]).unwrap();
}

/// Not a test by itself: a process that can write its WAL and not its evidence.
#[test]
fn writer_without_room_for_evidence() {
    let Some(directory) = directory_of_the_child() else {
        return;
    };
    // Each life begins with another of the three slots, and the last one lies beyond the limit.
    for index in 1..=2 {
        open(&directory).write(&[append(index, index, 1)]).unwrap();
    }
    let mut log = open(&directory);
    limit_files(Some(16 << 10));
    let error = log.write(&[append(3, 3, 1)]).unwrap_err();
    assert_eq!(log.completed_syncs().value(), 1, "the batch itself is durable");
    assert_ended(&mut log, &error, "EVIDENCE", append(4, 4, 1));
}

#[test]
fn a_batch_is_not_acknowledged_without_its_evidence() {
    let directory = TempDir::new().unwrap();
    run("writer_without_room_for_evidence", &directory);
    let recovered = recover(directory.path());
    // Not acknowledged and there all the same, as after a crash between the two.
    assert_eq!((recovered.last(), recovered.lost), (LogId::new(Index(3), Term(1)), None));
}

#[test]
fn a_mark_that_cannot_be_taken_off_ends_the_store() {
    let directory = TempDir::new().unwrap();
    write_one_by_one(directory.path(), 3, 2);
    fs::remove_dir_all(directory.path().join("db")).unwrap();
    let mut log = open(directory.path());
    assert!(log.recover(GROUP).unwrap().lost.is_some());
    let mark = directory.path().join("QUARANTINE");
    fs::rename(&mark, directory.path().join("aside")).unwrap();
    fs::create_dir(&mark).unwrap();
    let error = log.write(&[append(1, 3, 3)]).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }) && error.to_string().contains("QUARANTINE"), "{error}");
    log.write(&[]).unwrap_err();
    drop(log);
    fs::remove_dir(&mark).unwrap();
    fs::rename(directory.path().join("aside"), &mark).unwrap();
    assert_eq!(recover(directory.path()).lost, None, "the log has reached its end; the next start sees so");
}

#[test]
fn a_log_whose_directory_is_gone_fails_by_name_and_stays_failed() {
    let directory = TempDir::new().unwrap();
    // So small that the next memtable, and with it the next WAL file, is due at once.
    let options = LogOptions { write_buffer_bytes: 64 << 10, ..LogOptions::default() };
    let mut log = RocksLog::open(directory.path(), options).unwrap();
    fs::remove_dir_all(directory.path()).unwrap();
    let mut index = 0;
    let error = loop {
        index += 1;
        assert!(index < 10_000, "nothing fails");
        if let Err(error) = log.write(&[append(index, index, 1)]) {
            break error;
        }
    };
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    fs::create_dir_all(directory.path().join("db")).unwrap();
    let error = log.write(&[append(index, index, 1)]).unwrap_err().to_string();
    assert!(error.contains("final") && error.contains("restart the node"), "{error}");
}

#[test]
fn a_refused_write_ends_the_store_too() {
    let directory = TempDir::new().unwrap();
    let mut log = open(directory.path());
    let error = log.write(&[append(2, 2, 1)]).unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    let error = log.write(&[append(1, 1, 1)]).unwrap_err().to_string();
    assert!(error.contains("final") && error.contains("stands where index 1 belongs"), "{error}");
}
