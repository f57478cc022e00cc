//! A disk that takes no more ends the state machine for good, and what is on it is still the state of one entry.
//!
//! The failures are real: in a child process a limit on the size of files makes every write beyond it an error.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::path::PathBuf;
use std::process::Command as Process;

use common::{apply_all, entry, memory};
use raft_core::ports::{ApplyError, StateMachine};
use raft_core::types::{Entry, Index};
use raft_kv::{Command, KvStateMachine, Settings};
use rustix::process::{Resource, Rlimit, setrlimit};

const DIRECTORY: &str = "RAFT_KV_TEST_FAILING_DIRECTORY";
const FILE_BYTES_MAX: u64 = 64 << 10;
const VALUE_BYTES: usize = 4096;
/// Many times what is kept in memory before it has to go to a file.
const ENTRIES_MAX: u64 = 200_000;

fn open(directory: &std::path::Path) -> KvStateMachine {
    KvStateMachine::open(directory, Settings::default()).unwrap()
}

/// A put of bytes that cannot be compressed.
fn put(index: u64) -> Entry {
    let mut state = index.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let value: Vec<u8> = (0..VALUE_BYTES).map(|_| next()).collect();
    entry(index, &Command::put(format!("key-{}", index % 1000), value))
}

fn limit_files(bytes: Option<u64>) {
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

/// Runs a test of this binary in a process of its own, in which a write beyond the limit is an error and no signal.
fn run(test: &str, directory: &tempfile::TempDir) {
    let output = Process::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(DIRECTORY, directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn directory_of_the_child() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

/// The first failure is named; after it every call fails and changes nothing, even once the disk would do again.
fn assert_ended(kv: &mut KvStateMachine, first: &ApplyError) {
    assert!(matches!(first, ApplyError::Storage { .. }), "{first}");
    limit_files(None);
    let applied = kv.applied();
    for _ in 0..3 {
        let error = apply_all(kv, &[put(applied.index.next().0)]).unwrap_err().to_string();
        assert!(error.contains("stopped by an earlier error"), "{error}");
        kv.flush().unwrap_err();
    }
    assert_eq!(kv.applied(), applied);
}

/// Replays what is missing and compares with a state that never failed.
fn assert_whole(directory: &tempfile::TempDir, durable: u64) {
    let mut kv = open(directory.path());
    assert!(kv.applied().index >= Index(durable), "{} after a flush at {durable}", kv.applied());
    let mut reference = memory();
    for index in 1..=kv.applied().index.0 {
        apply_all(&mut reference, &[put(index)]).unwrap();
    }
    assert_eq!(kv.kv_reader().digest().unwrap(), reference.kv_reader().digest().unwrap());
    let next = put(kv.applied().index.next().0);
    apply_all(&mut kv, &[next]).unwrap();
    kv.flush().unwrap();
}

/// Not a test by itself: a process whose files cannot grow when it is told to flush.
#[test]
fn child_that_cannot_flush() {
    let Some(directory) = directory_of_the_child() else { return };
    let mut kv = open(&directory);
    for index in 1..=5 {
        apply_all(&mut kv, &[put(index)]).unwrap();
    }
    assert_eq!(kv.flush().unwrap(), Index(5));
    limit_files(Some(FILE_BYTES_MAX));
    for index in 6..=100 {
        apply_all(&mut kv, &[put(index)]).unwrap();
    }
    let error = kv.flush().unwrap_err();
    assert!(error.to_string().contains("flushing"), "{error}");
    assert_ended(&mut kv, &error);
}

#[test]
fn a_flush_that_fails_ends_the_state_machine_and_leaves_a_whole_state() {
    let directory = tempfile::tempdir().unwrap();
    run("child_that_cannot_flush", &directory);
    assert_whole(&directory, 5);
}

/// Not a test by itself: a process whose files cannot grow when RocksDB flushes by itself.
#[test]
fn child_whose_flushes_behind_its_back_fail() {
    let Some(directory) = directory_of_the_child() else { return };
    let mut kv = open(&directory);
    apply_all(&mut kv, &[put(1)]).unwrap();
    assert_eq!(kv.flush().unwrap(), Index(1));
    limit_files(Some(FILE_BYTES_MAX));
    let failed = (2..=ENTRIES_MAX).find_map(|index| apply_all(&mut kv, &[put(index)]).err());
    let error = failed.expect("the state grew in memory without a bound, and nobody was told");
    assert_ended(&mut kv, &error);
}

#[test]
fn a_flush_that_fails_in_the_background_stops_apply_by_name() {
    let directory = tempfile::tempdir().unwrap();
    run("child_whose_flushes_behind_its_back_fail", &directory);
    assert_whole(&directory, 1);
}
