//! A restore that is cut off or fails at any of its calls leaves the old state or the new one, whole.
//!
//! A child restores under the preload library, which records what it does to its directory. From the record the
//! directory is rebuilt as a loss of power after every call could have left it, and as the end of the process alone
//! leaves it. `RAFT_SEED` draws other images. The report is `restore-crashes.txt`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "../../raft-log-rocks/tests/preload/mod.rs"]
mod preload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{apply_all, entry, id, key, mark, memory};
use preload::{Change, Disk, DiskLab, Image, Marks, replace_plan};
use raft_core::ports::StateMachine;
use raft_core::testing::{Random, Report};
use raft_core::types::{Entry, LogId};
use raft_kv::{Command, Digest, KvStateMachine, Settings};

/// The state before the restore, and the state of the snapshot.
const OLD: u64 = 40;
const NEW: u64 = 200;
const RESTORED: &str = "restored";
/// Every so many images the restore is done again.
const AGAIN_EVERY: u64 = 5;

fn log(from: u64, to: u64) -> Vec<Entry> {
    (from..=to)
        .map(|index| {
            let name = format!("key-{}", index * 7 % 30);
            match index % 8 {
                0 => mark(index),
                1 => entry(index, &Command::delete(name)),
                2 => entry(index, &Command::put(name, "once").with_idempotency(key(&index.to_string()))),
                _ => entry(index, &Command::put(name, vec![index as u8; 100])),
            }
        })
        .collect()
}

fn open(root: &Path) -> KvStateMachine {
    KvStateMachine::open(&root.join("state"), Settings::default()).unwrap()
}

fn expected(index: u64) -> (Digest, LogId) {
    let mut kv = memory();
    apply_all(&mut kv, &log(1, index)).unwrap();
    kv.kv_reader().digest().unwrap()
}

/// Puts a state at OLD, in files, and a snapshot of NEW beside it.
fn prepare(root: &Path) {
    // Tables are linked, and a link that comes from elsewhere is more than the preload library can model.
    let source = root.join("source");
    let mut kv = open(&source);
    // In two tables of every kind.
    apply_all(&mut kv, &log(1, NEW / 2)).unwrap();
    kv.flush().unwrap();
    apply_all(&mut kv, &log(NEW / 2 + 1, NEW)).unwrap();
    assert_eq!(kv.snapshotter().take(&root.join("snapshot")).unwrap(), id(NEW));
    drop(kv);
    fs::remove_dir_all(source).unwrap();
    let mut kv = open(root);
    apply_all(&mut kv, &log(1, OLD)).unwrap();
    kv.flush().unwrap();
}

/// Which of the two states is there.
fn state_of(kv: &KvStateMachine) -> u64 {
    let found = kv.kv_reader().digest().unwrap();
    let which = [OLD, NEW].into_iter().find(|index| expected(*index) == found);
    which.unwrap_or_else(|| panic!("neither the old nor the new state: {found:?}"))
}

/// Not a test by itself: the process whose calls are recorded.
#[test]
fn child_that_restores() {
    let Some(root) = std::env::var_os("RAFT_DISK_ROOT").map(PathBuf::from) else { return };
    if std::env::var_os("RAFT_DISK_PLAN_FROM").is_some() {
        return;
    }
    let mut marks = Marks::new();
    let mut kv = open(&root);
    kv.restore(&root.join("snapshot"), id(NEW)).unwrap();
    marks.put(RESTORED);
}

#[derive(Default)]
struct Work {
    images: u64,
    old: u64,
    new: u64,
    again: u64,
}

impl Work {
    fn check(&mut self, image: &Image, restored: bool, what: &str) {
        let directory = tempfile::tempdir().unwrap();
        image.write_to(directory.path());
        let mut kv = open(directory.path());
        let found = state_of(&kv);
        assert!(found == NEW || !restored, "{what}: the restore had returned; {}", image.story);
        self.images += 1;
        match found {
            OLD => self.old += 1,
            _ => self.new += 1,
        }
        if self.images.is_multiple_of(AGAIN_EVERY) {
            kv.restore(&directory.path().join("snapshot"), id(NEW)).unwrap();
            assert_eq!(state_of(&kv), NEW, "{what}: restored again; {}", image.story);
            self.again += 1;
        }
    }
}

#[test]
fn a_restore_that_is_cut_off_anywhere_leaves_the_old_or_the_new_state() {
    let scratch = tempfile::tempdir().unwrap();
    let lab = DiskLab::new(scratch.path());
    prepare(&lab.root());
    let mut disk = Disk::of_directory(&lab.root());
    // RocksDB relies on the order of names in its directories.
    disk.keep_order_below("state/gen-");
    let status = lab.child("child_that_restores").stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{status}");
    let seed = std::env::var("RAFT_SEED").map_or(1, |seed| seed.parse().unwrap());
    let (mut random, mut work, mut restored) = (Random::new(seed), Work::default(), false);
    let record = lab.record();
    for (nth, event) in record.events().iter().enumerate() {
        disk.apply(event);
        restored |= matches!(&event.change, Change::Mark(text) if text == RESTORED);
        let what = format!("after call {nth} of {}, seed {seed}", record.events().len());
        work.check(&disk.image(&mut random), restored, &what);
        // A sync changes nothing of what the end of the process alone leaves.
        if event.change.is_of_names() || matches!(event.change, Change::Write { .. } | Change::Truncate { .. }) {
            work.check(&disk.newest(), restored, &what);
        }
    }
    assert!(restored, "the child never said that it was done");
    let mut report = Report::new("restore-crashes");
    report
        .count("seed", seed)
        .count("calls", record.events().len() as u64)
        .at_least("images", work.images, 150)
        .at_least("images with the old state", work.old, 50)
        .at_least("images with the new state", work.new, 20)
        .at_least("restored again", work.again, 20);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

/// Not a test by itself: the process whose calls fail one after the other.
#[test]
fn child_whose_restores_fail() {
    let Some(root) = std::env::var_os("RAFT_DISK_ROOT").map(PathBuf::from) else { return };
    let Some(control) = std::env::var_os("RAFT_DISK_PLAN_FROM").map(PathBuf::from) else { return };
    let (mut failed, mut in_a_row) = (0, 0);
    for nth in 1.. {
        let run = root.join(format!("run{nth}"));
        fs::create_dir(&run).unwrap();
        prepare(&run);
        let mut kv = open(&run);
        let action = if nth % 2 == 0 { "eio" } else { "enospc" };
        replace_plan(&control, &format!("grow:run{nth}/*:{nth}:{action};anysync:run{nth}/*:{nth}:eio"));
        let result = kv.restore(&run.join("snapshot"), id(NEW));
        replace_plan(&control, "");
        match result {
            Ok(()) => {
                assert_eq!(state_of(&kv), NEW, "call {nth}");
                in_a_row += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains("restoring"), "{error}");
                assert_eq!(state_of(&kv), OLD, "call {nth}: {error}");
                (failed, in_a_row) = (failed + 1, 0);
            }
        }
        drop(kv);
        let mut kv = open(&run);
        state_of(&kv);
        kv.restore(&run.join("snapshot"), id(NEW)).unwrap();
        assert_eq!(state_of(&kv), NEW, "call {nth}");
        drop(kv);
        fs::remove_dir_all(&run).unwrap();
        // Some are of RocksDB's diary, which it can do without. Beyond the last call nothing fails.
        if in_a_row == 8 {
            break;
        }
    }
    assert!(failed >= 10, "only {failed} calls failed");
}

#[test]
fn a_restore_of_which_a_call_fails_is_an_error_and_leaves_the_old_state() {
    let scratch = tempfile::tempdir().unwrap();
    let lab = DiskLab::new(scratch.path());
    let status = lab
        .child("child_whose_restores_fail")
        .env("RAFT_DISK_PLAN_FROM", lab.control_path())
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}
