//! What the tests of the store share.

// A test that cannot set itself up has to stop at once; no test binary uses everything here.
#![allow(clippy::unwrap_used, dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use raft_core::ports::{LogStore as _, LogWrite, Recovered};
use raft_core::testing::entry;
use raft_core::types::{Entry, GroupId, HardState, Index, NodeId, Term};
use raft_log_rocks::{LogOptions, RocksLog};
use rocksdb::{DB, Options};

pub(crate) const GROUP: GroupId = GroupId::FIRST;

pub(crate) fn open(directory: &Path) -> RocksLog {
    RocksLog::open(directory, LogOptions::default()).unwrap()
}

/// Opens, recovers and closes.
pub(crate) fn recover(directory: &Path) -> Recovered {
    open(directory).recover(GROUP).unwrap()
}

/// The error of opening and recovering.
pub(crate) fn refusal(directory: &Path) -> String {
    RocksLog::open(directory, LogOptions::default())
        .and_then(|mut log| log.recover(GROUP))
        .expect_err("a damaged log was opened")
        .to_string()
}

pub(crate) fn vote(term: u64, vote: u64) -> HardState {
    HardState { term: Term(term), vote: Some(NodeId(vote)) }
}

/// Entries `from..=to` of `term`, each with 400 bytes.
pub(crate) fn entries(from: u64, to: u64, term: u64) -> Vec<Entry> {
    (from..=to).map(|index| entry(index, term, 400)).collect()
}

pub(crate) fn append(from: u64, to: u64, term: u64) -> LogWrite {
    LogWrite { group: GROUP, entries: entries(from, to, term), ..LogWrite::default() }
}

pub(crate) fn replace(from: u64, to: u64, term: u64) -> LogWrite {
    LogWrite { truncate_from: Some(Index(from)), ..append(from, to, term) }
}

pub(crate) fn set(hard_state: HardState) -> LogWrite {
    LogWrite { group: GROUP, hard_state: Some(hard_state), ..LogWrite::default() }
}

/// One synced batch for each entry of 1..=`count`, in a store that is closed again.
pub(crate) fn write_one_by_one(directory: &Path, count: u64, term: u64) {
    let mut log = open(directory);
    log.write(&[set(vote(term, 2))]).unwrap();
    for index in 1..=count {
        log.write(&[append(index, index, term)]).unwrap();
    }
}

/// The newest WAL file.
pub(crate) fn wal(directory: &Path) -> PathBuf {
    let files = fs::read_dir(directory.join("db")).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
}

/// Copies files and directories.
pub(crate) fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        copy(&file.path(), &to.join(file.file_name()));
    }
}

/// Puts the copy `from/name` in the place of `to/name`.
pub(crate) fn put_back(from: &Path, to: &Path, name: &str) {
    let (from, to) = (from.join(name), to.join(name));
    if to.is_dir() {
        fs::remove_dir_all(&to).unwrap();
    }
    copy(&from, &to);
}

/// The database without our code.
pub(crate) fn raw(directory: &Path) -> DB {
    DB::open_cf(&Options::default(), directory.join("db"), ["default", "entries", "state"]).unwrap()
}

/// The key of an entry, built by hand from `docs/storage-format.md`.
pub(crate) fn key(group: u64, index: u64) -> Vec<u8> {
    [group.to_be_bytes(), index.to_be_bytes()].concat()
}
