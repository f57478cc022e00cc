//! The suite that defines a state machine, in memory and on disk: on a disk that works, and under a preload library that
//! cuts its power, fails and holds its syncs and fills it up.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "../../raft-log-rocks/tests/faults/mod.rs"]
mod faults;
#[path = "../../raft-log-rocks/tests/preload/mod.rs"]
mod preload;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io};

use bytes::Bytes;
use common::{EPOCH_MS, key, uuid_v7};
use faults::FaultyDirectory;
use raft_core::ports::{ApplyError, SnapshotError, Snapshotter, StateMachine, StateReader};
use raft_core::testing::state_machine_suite::{self, StateMachineLab};
use raft_core::testing::{DiskFault, Effort, PowerCut, Random, Report};
use raft_core::types::{Entry, Index, LogId};
use raft_kv::{Change, Command, KvStateMachine, MemoryDisk, Operation, Precondition, Query, Setting, Settings, stamp};

fn settings() -> Settings {
    Settings {
        idempotency_window: 20,
        key_bytes_max: 5,
        value_bytes_max: 40,
        versions_window: 100,
        ..Settings::default()
    }
}

fn change(random: &mut Random) -> Change {
    // Up to `key10`, which is a few bytes too long for the least limit below.
    let key = format!("key{}", random.below(11));
    let change = match random.below(4) {
        0 => Change::delete(key),
        _ => Change::put(key, vec![b'v'; random.below(50) as usize]),
    };
    change.only_if(match random.below(6) {
        0 => Precondition::Absent,
        1 => Precondition::Revision(Index(random.below(300))),
        _ => Precondition::None,
    })
}

fn command(random: &mut Random) -> Bytes {
    let operation = match random.below(30) {
        0 => Operation::Settings(vec![(Setting::KeyBytesMax, 4 + random.below(3))]),
        1 => Operation::Settings(vec![(Setting::IdempotencyWindow, random.below(30))]),
        2 => Operation::Settings(vec![(Setting::VersionsWindow, 40 * random.below(4))]),
        _ => Operation::Write((0..=random.below(3)).map(|_| change(random)).collect()),
    };
    let stamp_ms = EPOCH_MS + random.below(60_000);
    let idempotency = match random.below(3) {
        0 => Some(key(&random.below(40).to_string())),
        1 => Some(uuid_v7(stamp_ms - random.below(5000), random.below(3) as u16)),
        _ => None,
    };
    stamp(Command { idempotency, ..Command::new(operation) }.encode().unwrap(), stamp_ms)
}

#[derive(Default)]
struct DiskLab {
    directory: Option<tempfile::TempDir>,
    /// Machines of earlier calls may still be in use.
    earlier: Vec<tempfile::TempDir>,
}

impl StateMachineLab for DiskLab {
    fn fresh(&mut self) -> Box<dyn StateMachine> {
        let earlier = self.directory.replace(tempfile::tempdir().unwrap());
        self.earlier.extend(earlier);
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn StateMachine> {
        let directory = self.directory.as_ref().unwrap().path();
        Box::new(KvStateMachine::open(directory, settings()).unwrap())
    }

    fn command(&mut self, random: &mut Random) -> Bytes {
        command(random)
    }

    fn query(&mut self) -> Bytes {
        Query::Digest.encode()
    }
}

#[derive(Default)]
struct MemoryLab {
    disk: Option<MemoryDisk>,
}

impl StateMachineLab for MemoryLab {
    fn fresh(&mut self) -> Box<dyn StateMachine> {
        self.disk = Some(MemoryDisk::new(settings()).unwrap());
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn StateMachine> {
        Box::new(self.disk.as_ref().unwrap().open())
    }

    fn command(&mut self, random: &mut Random) -> Bytes {
        command(random)
    }

    fn query(&mut self) -> Bytes {
        Query::Digest.encode()
    }
}

/// A state machine whose snapshots lie on another disk than the one that breaks. Tables are linked, and the preload
/// library models no links that cross its root: so what is taken is carried out, and what is restored is carried in.
struct Carried {
    kv: KvStateMachine,
    root: PathBuf,
}

impl Carried {
    /// A place below the root that the library watches; a power cut forgets it.
    fn place(root: &Path) -> PathBuf {
        static PLACES: AtomicU64 = AtomicU64::new(0);
        root.join(format!("carried-{}", PLACES.fetch_add(1, Ordering::Relaxed)))
    }

    fn carry(from: &Path, to: &Path) -> io::Result<()> {
        fs::create_dir(to)?;
        fs::read_dir(from)?.try_for_each(|file| {
            let file = file?;
            fs::write(to.join(file.file_name()), fs::read(file.path())?)
        })
    }
}

struct CarryingSnapshotter {
    inner: Arc<dyn Snapshotter>,
    root: PathBuf,
}

impl Snapshotter for CarryingSnapshotter {
    fn take(&self, directory: &Path) -> Result<LogId, SnapshotError> {
        let place = Carried::place(&self.root);
        let last = self.inner.take(&place)?;
        Carried::carry(&place, directory).and_then(|()| fs::remove_dir_all(&place)).map_err(|error| {
            SnapshotError::Io { doing: "carrying a snapshot out".into(), reason: error.to_string() }
        })?;
        Ok(last)
    }
}

impl StateMachine for Carried {
    fn applied(&self) -> LogId {
        self.kv.applied()
    }

    fn apply(&mut self, entries: &[Entry], answers: &mut Vec<Bytes>) -> Result<(), ApplyError> {
        self.kv.apply(entries, answers)
    }

    fn flush(&mut self) -> Result<Index, ApplyError> {
        self.kv.flush()
    }

    fn durable(&mut self) -> Result<Index, ApplyError> {
        self.kv.durable()
    }

    fn snapshotter(&self) -> Arc<dyn Snapshotter> {
        Arc::new(CarryingSnapshotter { inner: self.kv.snapshotter(), root: self.root.clone() })
    }

    fn restore(&mut self, directory: &Path, last: LogId) -> Result<(), ApplyError> {
        let place = Self::place(&self.root);
        // A full disk takes nothing in either.
        Self::carry(directory, &place).map_err(|error| ApplyError::Storage { reason: error.to_string() })?;
        let restored = self.kv.restore(&place, last);
        fs::remove_dir_all(&place).unwrap();
        restored
    }

    fn reader(&self) -> Arc<dyn StateReader> {
        self.kv.reader()
    }
}

struct FaultyLab(FaultyDirectory);

impl StateMachineLab for FaultyLab {
    fn fresh(&mut self) -> Box<dyn StateMachine> {
        self.0.clear();
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn StateMachine> {
        self.0.settle();
        let directory = self.0.path();
        let kv = KvStateMachine::open(&directory.join("state"), settings()).unwrap();
        Box::new(Carried { kv, root: directory.parent().unwrap().to_owned() })
    }

    fn command(&mut self, random: &mut Random) -> Bytes {
        command(random)
    }

    fn query(&mut self) -> Bytes {
        Query::Digest.encode()
    }

    fn cut_power(&mut self, when: PowerCut, random: &mut Random) -> bool {
        self.0.cut_power(when, random);
        true
    }

    fn inject(&mut self, fault: DiskFault) -> bool {
        self.0.inject(fault);
        true
    }

    fn mend(&mut self) {
        self.0.mend();
    }

    fn effort(&self) -> Effort {
        faults::effort(2, 150, 12)
    }
}

#[test]
fn the_state_machine_on_disk_keeps_every_rule() {
    let summary = state_machine_suite::run(&mut DiskLab::default());
    // The others are run by the test below.
    assert!(summary.held().len() >= 26, "{summary}");
}

#[test]
fn the_state_machine_in_memory_keeps_every_rule() {
    let summary = state_machine_suite::run(&mut MemoryLab::default());
    // It has no disk that could fail, and what was not flushed is gone with it.
    assert!(summary.held().len() >= 26, "{summary}");
}

/// Not a test by itself: the process under the library.
#[test]
fn child_with_faults() {
    if !faults::is_under_the_library() {
        return;
    }
    let summary = state_machine_suite::run(&mut FaultyLab(FaultyDirectory::new())).demand_all();
    let mut report = Report::new("suite-state-machine-rocksdb");
    for ((name, count), minimum) in faults::counts(&summary).into_iter().zip([37, 15_000, 50, 13]) {
        report.at_least(name, count, minimum);
    }
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

#[test]
fn the_state_machine_on_disk_keeps_every_rule_through_power_cuts_and_on_a_failing_disk() {
    faults::run_under_the_library("child_with_faults");
}
