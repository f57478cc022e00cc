//! The suite that defines `LogStore`, on RocksDB: on a disk that works, and under a preload library that cuts its power,
//! fails and holds its syncs and fills it up.

// A test that cannot set itself up has to stop at once.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use raft_core::ports::LogStore;
use raft_core::testing::log_store_suite::{self, LogStoreLab};
use raft_core::testing::{DiskFault, Effort, PowerCut, Random, Report};
use raft_log_rocks::{LogOptions, RocksLog};
use tempfile::TempDir;

mod faults;
mod preload;

use faults::FaultyDirectory;

fn open(directory: &Path, sync: bool) -> Box<dyn LogStore> {
    Box::new(RocksLog::open(directory, LogOptions { sync, ..LogOptions::default() }).unwrap())
}

struct Lab(TempDir);

impl LogStoreLab for Lab {
    fn fresh(&mut self) -> Box<dyn LogStore> {
        self.0 = TempDir::new().unwrap();
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn LogStore> {
        open(self.0.path(), true)
    }
}

#[test]
fn the_log_on_rocksdb_keeps_every_rule_of_its_port() {
    let summary = log_store_suite::run(&mut Lab(TempDir::new().unwrap()));
    // The others are run by the test below.
    assert!(summary.held().len() >= 20, "{summary}");
}

struct FaultyLab {
    directory: FaultyDirectory,
    sync: bool,
    /// Of the database without the evidence, outside of what is recorded.
    copy: TempDir,
}

impl FaultyLab {
    fn new(sync: bool) -> Self {
        Self { directory: FaultyDirectory::new("db/"), sync, copy: TempDir::new().unwrap() }
    }
}

impl LogStoreLab for FaultyLab {
    fn fresh(&mut self) -> Box<dyn LogStore> {
        self.directory.clear();
        open(&self.directory.path(), self.sync)
    }

    fn reopen(&mut self) -> Box<dyn LogStore> {
        self.directory.settle();
        open(&self.directory.path(), self.sync)
    }

    fn cut_power(&mut self, when: PowerCut, random: &mut Random) -> bool {
        self.directory.cut_power(when, random);
        true
    }

    fn inject(&mut self, fault: DiskFault) -> bool {
        self.directory.inject(fault);
        true
    }

    fn mend(&mut self) {
        self.directory.mend();
    }

    fn keep_copy(&mut self) -> bool {
        self.copy = TempDir::new().unwrap();
        faults::copy(&self.directory.path().join("db"), &self.copy.path().join("db"));
        true
    }

    fn put_back_copy(&mut self) {
        let database = self.directory.path().join("db");
        std::fs::remove_dir_all(&database).unwrap();
        faults::copy(&self.copy.path().join("db"), &database);
    }

    fn effort(&self) -> Effort {
        faults::effort(2, 400, 12)
    }
}

/// Not a test by itself: the process under the library.
#[test]
fn child_with_faults() {
    if !faults::is_under_the_library() {
        return;
    }
    let summary = log_store_suite::run(&mut FaultyLab::new(true)).demand_all();
    let mut report = Report::new("suite-log-store-rocksdb");
    for ((name, count), minimum) in faults::counts(&summary).into_iter().zip([33, 2_000, 200, 30]) {
        report.at_least(name, count, minimum);
    }
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

#[test]
fn the_log_on_rocksdb_keeps_every_rule_through_power_cuts_and_on_a_failing_disk() {
    faults::run_under_the_library("child_with_faults");
}

/// Not a test by itself: the same with a store that was told not to sync.
#[test]
fn child_that_does_not_sync() {
    if !faults::is_under_the_library() {
        return;
    }
    let rules = [
        "acknowledged-writes-survive-a-power-cut",
        "votes-survive-a-power-cut",
        "truncations-survive-a-power-cut",
        "no-answer-before-the-sync",
        "equals-the-model-through-power-cuts",
    ];
    for rule in rules {
        let case = log_store_suite::cases().into_iter().find(|case| case.rule.name == rule).unwrap();
        let run = std::panic::AssertUnwindSafe(|| case.run(&mut FaultyLab::new(false)));
        let panic = std::panic::catch_unwind(run).expect_err("a store without syncs was accepted");
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(text.contains(&format!("rule `{rule}` is broken")), "{text}");
    }
}

#[test]
fn the_same_log_without_syncs_is_refused_by_every_rule_about_them() {
    faults::run_under_the_library("child_that_does_not_sync");
}
