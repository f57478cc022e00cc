//! Whose directory it is, who may open it, and what is refused.

// A test that cannot set itself up has to stop at once.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use raft_core::ports::LogStore as _;
use raft_core::types::{ClusterId, NodeId, NodeName};
use raft_log_rocks::{DataDir, DataDirError, EARLIER_STARTS_MAX, FOUNDING_RECORD_BYTES_MAX, LogOptions};
use tempfile::TempDir;

mod common;
use common::*;

fn name() -> NodeName {
    NodeName::new("node-a")
}

fn open_directory(path: &Path) -> Result<DataDir, DataDirError> {
    DataDir::open(path, &name())
}

fn refused(path: &Path) -> DataDirError {
    open_directory(path).err().expect("the directory was opened")
}

/// A directory that was in use: founded, with a log.
fn used() -> TempDir {
    let directory = TempDir::new().unwrap();
    let mut opened = open_directory(directory.path()).unwrap();
    opened.accept_founding(ClusterId(77), NodeId(2), Bytes::from_static(b"the founders")).unwrap();
    opened.open_log(LogOptions::default()).unwrap().write(&[append(1, 1, 1)]).unwrap();
    directory
}

#[test]
fn a_directory_keeps_its_identity_and_counts_its_starts() {
    let parent = TempDir::new().unwrap();
    let path = parent.path().join("several/levels/down");
    let first = open_directory(&path).unwrap();
    let (incarnation, start) = (first.incarnation(), first.start().clone());
    assert_eq!(start.count, 1);
    assert_eq!((first.path(), first.name()), (path.as_path(), &name()));
    drop(first);
    let second = open_directory(&path).unwrap();
    assert_eq!(second.incarnation(), incarnation);
    assert_eq!(second.start().count, 2);
    assert_ne!(second.start().nonce, start.nonce);
    let other = open_directory(&parent.path().join("other")).unwrap();
    assert_ne!(other.incarnation(), incarnation);
    assert!(second.log_path() != second.state_path());
}

#[test]
fn a_start_record_keeps_the_starts_before_it_up_to_its_bound() {
    let directory = TempDir::new().unwrap();
    let mut nonces = Vec::new();
    for count in 1..=EARLIER_STARTS_MAX + 3 {
        let mut opened = open_directory(directory.path()).unwrap();
        if count == 3 {
            // The founding writes the record anew.
            opened.accept_founding(ClusterId(77), NodeId(2), Bytes::from_static(b"the founders")).unwrap();
        }
        let start = opened.start();
        assert_eq!(start.count, count as u64);
        let newest_first: Vec<u128> = nonces.iter().rev().take(EARLIER_STARTS_MAX).copied().collect();
        assert_eq!(start.earlier, newest_first, "start {count}");
        nonces.push(start.nonce);
        // What peers are shown is on the disk by then, together with its count.
        let earlier: Vec<u8> = newest_first.iter().flat_map(|nonce| nonce.to_be_bytes()).collect();
        let notes = [u8::from(count >= 3), newest_first.len() as u8];
        let body = [&(count as u64).to_be_bytes()[..], &start.nonce.to_be_bytes(), &notes, &earlier].concat();
        assert_eq!(fs::read(directory.path().join("START")).unwrap(), frame(*b"STRT", 1, &body), "start {count}");
    }
    assert_eq!(BTreeSet::from_iter(&nonces).len(), nonces.len());
}

#[test]
fn a_start_record_without_earlier_starts_is_read_and_one_with_too_many_refused() {
    let directory = TempDir::new().unwrap();
    drop(open_directory(directory.path()).unwrap());
    let path = directory.path().join("START");
    let known = [&9u64.to_be_bytes()[..], &7u128.to_be_bytes(), &[0]].concat();
    fs::write(&path, frame(*b"STRT", 1, &known)).unwrap();
    let opened = open_directory(directory.path()).unwrap();
    assert_eq!((opened.start().count, &opened.start().earlier[..]), (10, &[7][..]));
    drop(opened);
    for (named, held) in [(65, 65), (64, 63), (1, 2), (255, 0)] {
        fs::write(&path, frame(*b"STRT", 1, &[&known[..], &[named], &vec![1; 16 * held]].concat())).unwrap();
        let error = refused(directory.path());
        assert!(matches!(error, DataDirError::Damaged { .. }) && error.to_string().contains("START"), "{error}");
    }
}

#[test]
fn a_founding_record_is_accepted_once() {
    let directory = TempDir::new().unwrap();
    let mut opened = open_directory(directory.path()).unwrap();
    assert_eq!(opened.founding(), None);
    let long = Bytes::from(vec![0; FOUNDING_RECORD_BYTES_MAX + 1]);
    assert!(matches!(
        opened.accept_founding(ClusterId(1), NodeId(1), long),
        Err(DataDirError::FoundingRecordLength { .. })
    ));
    let record = Bytes::from(vec![7; FOUNDING_RECORD_BYTES_MAX]);
    let founding = (ClusterId(5), NodeId(2), record.clone());
    opened.accept_founding(ClusterId(5), NodeId(2), record.clone()).unwrap();
    assert_eq!(opened.founding(), Some(founding.clone()));
    drop(opened);
    let mut opened = open_directory(directory.path()).unwrap();
    assert_eq!(opened.founding(), Some(founding.clone()));
    opened.accept_founding(ClusterId(5), NodeId(2), record.clone()).unwrap();
    for (cluster, id, other) in [(6, 2, record.clone()), (5, 3, record.clone()), (5, 2, Bytes::new())] {
        let error = opened.accept_founding(ClusterId(cluster), NodeId(id), other).unwrap_err();
        assert!(matches!(error, DataDirError::Founded { id: NodeId(2), .. }), "{error}");
        assert!(error.to_string().contains("already belongs to cluster 00000000000000000000000000000005 as n2"));
    }
    assert_eq!(opened.founding(), Some(founding));
}

#[test]
fn another_nodes_directory_is_refused_with_both_names() {
    let directory = used();
    let before = fs::read(directory.path().join("START")).unwrap();
    let error = DataDir::open(directory.path(), &NodeName::new("node-b")).err().unwrap();
    assert!(matches!(error, DataDirError::OtherNode { .. }));
    let text = error.to_string();
    assert!(text.contains("belongs to node node-a, and this node is node-b") && text.contains("data_dir"), "{text}");
    assert_eq!(fs::read(directory.path().join("START")).unwrap(), before, "nothing was written");
}

#[test]
fn a_directory_that_holds_other_files_is_refused_and_left_as_it_was() {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    drop(open_directory(directory.path()).unwrap());

    let foreign = TempDir::new().unwrap();
    fs::write(foreign.path().join("thesis.tex"), "work of years").unwrap();
    let error = refused(foreign.path());
    assert!(matches!(error, DataDirError::Foreign { .. }));
    assert!(error.to_string().contains("thesis.tex") && error.to_string().contains("data_dir"), "{error}");
    let left: Vec<_> = fs::read_dir(foreign.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left, ["thesis.tex"]);
}

#[test]
fn a_newer_format_is_refused_unless_it_says_that_this_binary_can_read_it() {
    let directory = used();
    let path = directory.path().join("FORMAT");
    let write = |format: u32, reader_min: u32| {
        let body = [format.to_be_bytes(), reader_min.to_be_bytes()].concat();
        fs::write(&path, frame(*b"FORM", 1, &body)).unwrap();
    };
    write(4, 3);
    let whole = fs::read(&path).unwrap();
    drop(open_directory(directory.path()).unwrap());
    assert_eq!(fs::read(&path).unwrap(), whole, "a newer binary's format is not lowered");
    write(5, 4);
    let error = refused(directory.path());
    assert!(matches!(error, DataDirError::UnknownFormat { found: 5, reader_min: 4, .. }));
    assert!(error.to_string().contains("format 5") && error.to_string().contains("run a newer one"), "{error}");
    // A frame of an unknown version says so too.
    fs::write(&path, frame(*b"FORM", 2, &[])).unwrap();
    assert!(refused(directory.path()).to_string().contains("version 2"));
}

#[test]
fn a_directory_of_an_older_format_is_opened_and_raised_so_that_its_old_binary_refuses_it() {
    for older in [1, 2] {
        raised_from(older);
    }
}

fn raised_from(older: u8) {
    let directory = used();
    let path = directory.path().join("FORMAT");
    let ours = frame(*b"FORM", 1, &[0, 0, 0, 3, 0, 0, 0, 3]);
    assert_eq!(fs::read(&path).unwrap(), ours, "a new directory");
    let old = frame(*b"FORM", 1, &[0, 0, 0, older, 0, 0, 0, older]);
    fs::write(&path, &old).unwrap();
    // Who is refused changes nothing.
    DataDir::open(directory.path(), &NodeName::new("node-b")).err().unwrap();
    assert_eq!(fs::read(&path).unwrap(), old);
    let opened = open_directory(directory.path()).unwrap();
    assert_eq!((opened.start().count, fs::read(&path).unwrap()), (2, ours));
    let mut log = opened.open_log(LogOptions::default()).unwrap();
    assert_eq!(log.recover(GROUP).unwrap().last().index.0, 1);
}

/// A small file as `docs/storage-format.md` describes it.
fn frame(tag: [u8; 4], version: u16, body: &[u8]) -> Vec<u8> {
    let mut head = [&b"RAFT"[..], &tag, &version.to_be_bytes(), &[0, 0], &(body.len() as u32).to_be_bytes()].concat();
    let mut covered = head.clone();
    covered.extend_from_slice(body);
    // CRC-32C, bit by bit: a twin of the code under test.
    let checksum = !covered.iter().fold(u32::MAX, |checksum, byte| {
        (0..8).fold(checksum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 * (sum & 1)))
    });
    head.extend_from_slice(&checksum.to_be_bytes());
    head.extend_from_slice(body);
    head
}

#[test]
fn every_flipped_bit_of_every_small_file_is_found() {
    let directory = used();
    for file in ["FORMAT", "IDENTITY", "START", "FOUNDING", "LOG_MADE"] {
        let path = directory.path().join(file);
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).unwrap();
            let error = match open_directory(directory.path()) {
                Err(error) => error.to_string(),
                // Looked at when the log is opened.
                Ok(opened) => opened.open_log(LogOptions::default()).err().expect(file).to_string(),
            };
            assert!(error.contains(file) && error.contains("damaged"), "{file}, bit {bit}: {error}");
            // Opening syncs a new start record, which is not what is under test here.
            fs::write(&path, &whole).unwrap();
        }
    }
    open_directory(directory.path()).unwrap().open_log(LogOptions::default()).unwrap();
}

#[test]
fn a_missing_file_is_noticed() {
    for file in ["FORMAT", "IDENTITY", "START", "FOUNDING"] {
        let directory = used();
        fs::remove_file(directory.path().join(file)).unwrap();
        let error = refused(directory.path());
        assert!(matches!(error, DataDirError::Damaged { .. }) && error.to_string().contains(file), "{error}");
    }
}

#[test]
fn a_log_that_is_gone_as_a_whole_is_refused() {
    let directory = used();
    let opened = open_directory(directory.path()).unwrap();
    fs::remove_dir_all(opened.log_path()).unwrap();
    let error = opened.open_log(LogOptions::default()).err().unwrap().to_string();
    assert!(error.contains("the log that was here is gone"), "{error}");
}

#[test]
fn a_first_start_that_was_interrupted_anywhere_is_finished_by_the_next() {
    // The files in the order of their making; each prefix is a crash.
    let order = ["LOCK", "FORMAT", "IDENTITY", "START"];
    let made = TempDir::new().unwrap();
    drop(open_directory(made.path()).unwrap());
    let names: BTreeSet<_> = fs::read_dir(made.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, order.iter().map(Into::into).collect());
    for kept in 0..=order.len() {
        let directory = TempDir::new().unwrap();
        for file in &order[..kept] {
            fs::copy(made.path().join(file), directory.path().join(file)).unwrap();
        }
        if let Some(next) = order.get(kept) {
            fs::write(directory.path().join(format!("{next}.tmp")), b"RAF").unwrap();
        }
        // The lock is written in place.
        let _ = fs::remove_file(directory.path().join("LOCK.tmp"));
        let opened = open_directory(directory.path()).unwrap();
        assert_eq!(opened.start().count, if kept == order.len() { 2 } else { 1 }, "{kept} files");
    }
}

#[test]
fn a_name_that_does_not_fit_is_refused() {
    let directory = TempDir::new().unwrap();
    for bad in [String::new(), "n".repeat(1025)] {
        let error = DataDir::open(directory.path(), &NodeName::new(bad)).err().unwrap();
        assert!(matches!(error, DataDirError::NameLength { .. }), "{error}");
    }
    let longest = NodeName::new("n".repeat(1024));
    drop(DataDir::open(directory.path(), &longest).unwrap());
    assert_eq!(DataDir::open(directory.path(), &longest).unwrap().start().count, 2);
}

#[test]
fn a_path_that_cannot_be_a_directory_is_refused_by_its_name() {
    let parent = TempDir::new().unwrap();
    let path = parent.path().join("file");
    fs::write(&path, "").unwrap();
    let error = refused(&path.join("below"));
    assert!(matches!(&error, DataDirError::Io { path: named, .. } if named.starts_with(&path)), "{error}");
    assert!(matches!(refused(&path), DataDirError::Io { .. }));
}

/// Not a test by itself: the other process of the next one.
#[test]
fn holder_of_the_lock() {
    let Some(path) = std::env::var_os("RAFT_TEST_HOLD_LOCK").map(PathBuf::from) else {
        return;
    };
    let _held = open_directory(&path).unwrap();
    eprintln!("held");
    // Until the parent closes its end, or dies.
    std::io::stdin().lines().for_each(drop);
}

#[test]
fn a_second_process_is_refused_with_the_first_ones_pid_until_that_is_gone() {
    let directory = TempDir::new().unwrap();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holder_of_the_lock", "--nocapture"])
        .env("RAFT_TEST_HOLD_LOCK", directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("held")), "the other process never got the lock");

    let error = refused(directory.path());
    assert!(matches!(error, DataDirError::InUse { holder: Some(pid), .. } if pid == holder.id()), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(directory.path().to_str().unwrap()), "{text}");
    assert!(text.contains(&format!("process {}", holder.id())) && text.contains("stop that process"), "{text}");

    // Killed, so that nothing of ours gives the lock back.
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(open_directory(directory.path()).unwrap().start().count, 2);
}

#[test]
fn a_log_that_lost_its_evidence_and_everything_else_is_not_taken_for_a_new_one() {
    let directory = used();
    let opened = open_directory(directory.path()).unwrap();
    fs::remove_file(opened.log_path().join("EVIDENCE")).unwrap();
    fs::remove_dir_all(opened.log_path().join("db")).unwrap();
    // A blank database in its place, as after a recovery that found nothing to keep.
    drop(rocksdb::DB::open_default(opened.log_path().join("db")).unwrap());
    let error =
        opened.open_log(LogOptions::default()).err().expect("a voter was let in without its memory").to_string();
    assert!(error.contains("EVIDENCE") && error.contains("let this node join as a new one"), "{error}");
}

#[test]
fn a_founding_record_whose_writing_failed_is_final_for_this_process() {
    let directory = TempDir::new().unwrap();
    let mut opened = open_directory(directory.path()).unwrap();
    let obstacle = directory.path().join("FOUNDING.tmp");
    fs::create_dir(&obstacle).unwrap();
    let record = Bytes::from_static(b"the founders");
    opened.accept_founding(ClusterId(77), NodeId(2), record.clone()).unwrap_err();
    fs::remove_dir(&obstacle).unwrap();
    // Nobody knows what the failed writing left on the disk.
    let error = opened.accept_founding(ClusterId(78), NodeId(2), record.clone()).unwrap_err().to_string();
    assert!(error.contains("earlier failure") && error.contains("restart"), "{error}");
    assert!(opened.founding().is_none());
    drop(opened);
    open_directory(directory.path()).unwrap().accept_founding(ClusterId(77), NodeId(2), record).unwrap();
}

#[test]
fn an_inspection_tells_whose_it_is_and_changes_nothing() {
    let directory = used();
    let files = |path: &Path| -> BTreeSet<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    };
    let before = files(directory.path());
    let found = DataDir::inspect(directory.path()).unwrap().expect("a data directory");
    assert_eq!(files(directory.path()), before);
    assert!(!found.in_use, "{found:?}");
    assert_eq!(found.cluster, Some((ClusterId(77), NodeId(2))));

    let opened = open_directory(directory.path()).unwrap();
    assert_eq!(found.identity, Some((name(), opened.incarnation())));
    let found = DataDir::inspect(directory.path()).unwrap().expect("a data directory");
    assert_eq!((found.in_use, found.holder), (true, Some(std::process::id())));
    drop(opened);
    // The look itself holds nothing.
    assert_eq!(open_directory(directory.path()).unwrap().start().count, 3);
}

#[test]
fn an_inspection_of_nothing_finds_nothing_and_of_something_else_is_refused() {
    let directory = TempDir::new().unwrap();
    assert_eq!(DataDir::inspect(directory.path()).unwrap(), None);
    assert_eq!(DataDir::inspect(directory.path().join("absent")).unwrap(), None);
    fs::write(directory.path().join("letter"), "dear").unwrap();
    let error = DataDir::inspect(directory.path()).unwrap_err();
    assert!(matches!(&error, DataDirError::Foreign { example, .. } if example == "letter"), "{error:?}");

    let damaged = used();
    fs::write(damaged.path().join("IDENTITY"), "no identity").unwrap();
    let error = DataDir::inspect(damaged.path()).unwrap_err();
    assert!(matches!(&error, DataDirError::Damaged { .. }), "{error:?}");
}
