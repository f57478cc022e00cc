//! Whole simulated clusters (`raft_core::testing::cluster_suite`) over the parts of the product: the log on RocksDB, the
//! key-value state machine on RocksDB. Their processes die and start again; what a loss of power leaves of them is for the
//! preload library, which knows one directory at a time (`raft-log-rocks/tests/crash`, the `conformance` tests).

// A test that cannot set itself up has to stop at once.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use raft_core::ports::{LogStore, StateMachine};
use raft_core::testing::cluster_suite::{self, ClusterLab};
use raft_core::testing::log_store_suite::LogStoreLab;
use raft_core::testing::state_machine_suite::StateMachineLab;
use raft_core::testing::{Effort, Random, Report};
use raft_core::types::NodeId;
use raft_kv::{Change, Command, KvStateMachine, Operation, Query, Settings, stamp};
use raft_log_rocks::{LogOptions, RocksLog};
use tempfile::TempDir;

/// A directory below the target directory: on a disk, not in memory.
fn directory() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

struct RocksLab(TempDir);

impl LogStoreLab for RocksLab {
    fn fresh(&mut self) -> Box<dyn LogStore> {
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn LogStore> {
        Box::new(RocksLog::open(self.0.path(), LogOptions::default()).unwrap())
    }
}

struct KvLab {
    directory: TempDir,
    places: u64,
}

impl StateMachineLab for KvLab {
    fn fresh(&mut self) -> Box<dyn StateMachine> {
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn StateMachine> {
        let settings = Settings { idempotency_window: 20, versions_window: 100, ..Settings::default() };
        Box::new(KvStateMachine::open(&self.directory.path().join("state"), settings).unwrap())
    }

    fn command(&mut self, random: &mut Random) -> Bytes {
        let change = |random: &mut Random| {
            let key = format!("key{}", random.below(12));
            if random.below(4) == 0 {
                Change::delete(key)
            } else {
                Change::put(key, vec![b'v'; random.below(50) as usize])
            }
        };
        let changes = (0..=random.below(3)).map(|_| change(random)).collect();
        stamp(Command::new(Operation::Write(changes)).encode().unwrap(), 1_700_000_000_000 + random.below(60_000))
    }

    fn query(&mut self) -> Bytes {
        Query::Digest.encode()
    }

    fn scratch(&mut self) -> PathBuf {
        self.places += 1;
        self.directory.path().join(format!("snapshot-{}", self.places))
    }
}

struct Product {
    seeds: u64,
}

impl ClusterLab for Product {
    fn log(&mut self, _node: NodeId) -> Box<dyn LogStoreLab> {
        Box::new(RocksLab(directory()))
    }

    fn state_machine(&mut self, _node: NodeId) -> Box<dyn StateMachineLab> {
        Box::new(KvLab { directory: directory(), places: 0 })
    }

    fn effort(&self) -> Effort {
        Effort { seeds: 0..self.seeds, steps: 300, rounds: 15 }
    }
}

#[test]
fn clusters_on_rocksdb_keep_every_rule() {
    let seeds = std::env::var("RAFT_CLUSTER_SEEDS").map_or(10, |seeds| seeds.parse().unwrap());
    let summary = cluster_suite::run(&mut Product { seeds });
    // Power cuts of both; a disk that is full, that cannot sync, and, of a log, that cannot be read.
    assert_eq!(summary.not_run().len(), 7, "{summary}");
    let mut report = Report::new("cluster-suite-rocksdb");
    let tally = *summary.tally();
    report.count("seeds", seeds).at_least("entries committed", tally.committed, 50 * seeds);
    report.at_least("crashes", tally.crashes, seeds).at_least("snapshots installed", tally.installs, seeds / 4);
    report.note(summary.to_string());
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}
