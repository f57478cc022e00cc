//! The suite that defines `LogStore`, on RocksDB.

// A test that cannot set itself up has to stop at once.
#![allow(clippy::unwrap_used)]

use raft_core::ports::LogStore;
use raft_core::testing::log_store_suite::{self, LogStoreLab};
use raft_log_rocks::{LogOptions, RocksLog};
use tempfile::TempDir;

struct Lab(TempDir);

impl LogStoreLab for Lab {
    fn fresh(&mut self) -> Box<dyn LogStore> {
        self.0 = TempDir::new().unwrap();
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn LogStore> {
        Box::new(RocksLog::open(self.0.path(), LogOptions::default()).unwrap())
    }
}

#[test]
fn the_log_on_rocksdb_keeps_every_rule_of_its_port() {
    log_store_suite::run(&mut Lab(TempDir::new().unwrap()));
}
