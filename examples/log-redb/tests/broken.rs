//! The same store, broken in one way each, which the suite must refuse and say what to fix.

// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod lab;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lab::{Backend, Open, RedbLab, sound};
use log_redb::{DataFile, RedbStore};
use raft_core::ports::{LogReader, LogStore, LogWrite, Recovered, StoreError};
use raft_core::testing::{FaultyFile, log_store_suite};
use raft_core::types::{GroupId, Index};
use redb::StorageBackend;

/// Runs one case and gives the message with which it refuses the store.
fn refusal(rule: &str, open: Open) -> String {
    let case = log_store_suite::cases().into_iter().find(|case| case.rule.name == rule).unwrap();
    let refused = catch_unwind(AssertUnwindSafe(|| case.run(&mut RedbLab::new(open))));
    let panic = refused.expect_err("the suite accepted what is broken");
    let message = panic.downcast_ref::<String>().unwrap().clone();
    assert!(message.starts_with(&format!("rule `{rule}` is broken: ")), "{message}");
    assert!(message.contains(&format!("what to fix: {}", case.rule.fix)), "{message}");
    message
}

/// What becomes of a slice, with what was kept back of earlier ones.
type Write = fn(&mut dyn LogStore, &mut Vec<LogWrite>, &[LogWrite]) -> Result<(), StoreError>;

/// A store between the suite and ours.
struct Between {
    store: Box<dyn LogStore>,
    write: Write,
    kept_back: Vec<LogWrite>,
}

impl LogStore for Between {
    fn recover(&mut self, group: GroupId) -> Result<Recovered, StoreError> {
        self.store.recover(group)
    }

    fn write(&mut self, writes: &[LogWrite]) -> Result<(), StoreError> {
        (self.write)(self.store.as_mut(), &mut self.kept_back, writes)
    }

    fn compact(&mut self, group: GroupId, upto: Index) -> Result<(), StoreError> {
        self.store.compact(group, upto)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.store.reader()
    }
}

/// A disk between redb and its file.
#[derive(Debug)]
struct Disk {
    file: Backend,
    syncs: bool,
    skips_what_is_there: bool,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.syncs { self.file.sync_data() } else { Ok(()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut there = vec![0; data.len()];
        if self.skips_what_is_there && self.file.read(offset, &mut there).is_ok() && there == data {
            return Ok(());
        }
        self.file.write(offset, data)
    }
}

#[test]
fn a_store_that_never_syncs_is_refused() {
    let open = |file| {
        let disk = Disk { file: Backend(file), syncs: false, skips_what_is_there: false };
        Box::new(RedbStore::new(&DataFile::open_with(disk).unwrap())) as Box<dyn LogStore>
    };
    let message = refusal("acknowledged-writes-survive-a-power-cut", open);
    assert!(message.contains("sync before write() returns"), "{message}");
}

#[test]
fn a_store_that_loses_truncations_is_refused() {
    let open = |file: FaultyFile| {
        let write = |store: &mut dyn LogStore, kept_back: &mut Vec<LogWrite>, writes: &[LogWrite]| {
            // A truncation alone is done in memory, and gets to the disk with what comes next.
            let (alone, others): (Vec<_>, Vec<_>) = writes.iter().cloned().partition(|write| write.entries.is_empty());
            kept_back.extend(alone);
            if others.is_empty() {
                return Ok(());
            }
            let all: Vec<LogWrite> = kept_back.drain(..).chain(others).collect();
            store.write(&all)
        };
        Box::new(Between { store: sound(file), write, kept_back: Vec::new() }) as Box<dyn LogStore>
    };
    let message = refusal("truncations-survive-a-power-cut", open);
    assert!(
        message.contains("end of the log after a truncation from 12 and a power cut: found Index(12)"),
        "{message}"
    );
}

#[test]
fn a_store_that_applies_a_slice_in_another_order_is_refused() {
    let open = |file: FaultyFile| {
        let write = |store: &mut dyn LogStore, _: &mut Vec<LogWrite>, writes: &[LogWrite]| {
            let turned: Vec<LogWrite> = writes.iter().rev().cloned().collect();
            store.write(&turned)
        };
        Box::new(Between { store: sound(file), write, kept_back: Vec::new() }) as Box<dyn LogStore>
    };
    refusal("writes-in-their-order", open);
}

#[test]
fn a_store_that_splits_a_write_is_refused() {
    let open = |file: FaultyFile| {
        let write = |store: &mut dyn LogStore, _: &mut Vec<LogWrite>, writes: &[LogWrite]| {
            for write in writes {
                store.write(&[LogWrite { entries: Vec::new(), truncate_from: None, ..write.clone() }])?;
                store.write(&[LogWrite { hard_state: None, snapshot: None, ..write.clone() }])?;
            }
            Ok(())
        };
        Box::new(Between { store: sound(file), write, kept_back: Vec::new() }) as Box<dyn LogStore>
    };
    let message = refusal("a-write-is-whole-or-not-at-all", open);
    assert!(message.contains("one atomic batch"), "{message}");
}

#[test]
fn a_store_that_goes_on_after_a_failed_sync_is_refused() {
    let open = |file: FaultyFile| {
        let write = |store: &mut dyn LogStore, _: &mut Vec<LogWrite>, writes: &[LogWrite]| {
            let _ = store.write(writes);
            Ok(())
        };
        Box::new(Between { store: sound(file), write, kept_back: Vec::new() }) as Box<dyn LogStore>
    };
    refusal("a-failed-sync-is-final", open);
}

/// It recovers what a failed sync left in the system's cache: see `make_durable` in `src/file.rs`.
#[test]
fn a_store_that_trusts_the_cache_is_refused() {
    let open = |file| {
        let disk = Disk { file: Backend(file), syncs: true, skips_what_is_there: true };
        Box::new(RedbStore::new(&DataFile::open_with(disk).unwrap())) as Box<dyn LogStore>
    };
    refusal("what-is-recovered-is-durable", open);
}
