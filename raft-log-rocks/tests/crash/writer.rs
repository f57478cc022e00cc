//! The process that is crashed: it opens a data directory, writes random batches and marks each step in the record.
//!
//! | mark | meaning |
//! |---|---|
//! | `starting`, `started <incarnation> <count>` | around `DataDir::open` |
//! | `recovered <digest>` | the log was opened and holds this |
//! | `founding <record>`, `founded` | around `accept_founding` |
//! | `write <writes>`, `done` | around `LogStore::write` |
//! | `compact <group> <upto>`, `compacted` | around `LogStore::compact` |
//! | `failed <error>` | any of these has failed |
//! | `closed` | everything was dropped in order |

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use raft_core::ports::{LogStore as _, LogWrite};
use raft_core::testing::Random;
use raft_core::types::{ClusterId, GroupId, Index, NodeId, NodeName};
use raft_log_rocks::{DataDir, LogOptions, RocksLog};

use super::history::Start;
use super::state::{State, tell};
use crate::preload::Marks;

/// Seed of what is written.
pub(crate) const SEED: &str = "RAFT_CRASH_SEED";
/// How many batches each opening writes.
pub(crate) const WRITES: &str = "RAFT_CRASH_WRITES";
/// How many times the directory is opened and closed.
pub(crate) const OPENINGS: &str = "RAFT_CRASH_OPENINGS";
/// Set to switch `LogOptions::sync` off.
pub(crate) const UNSYNCED: &str = "RAFT_CRASH_UNSYNCED";
/// Set when the plan has a fault: writing goes on until something fails.
pub(crate) const UNTIL_FAILURE: &str = "RAFT_CRASH_UNTIL_FAILURE";
/// After a fault of the disk no more than this many batches are acknowledged before the store ends: a failure in the
/// background shows a little later, and until then every batch has a sync of its own.
const AFTER_FAULT_MAX: u64 = 20_000;

/// The data directory below the recorded root.
pub(crate) fn data_dir(root: &Path) -> PathBuf {
    root.join("data")
}

pub(crate) fn node() -> NodeName {
    NodeName::new("crash")
}

/// Small buffers, so that tables are flushed and WAL files written again within few batches.
pub(crate) fn options() -> LogOptions {
    LogOptions {
        write_buffer_bytes: 64 << 10,
        evidence_sync_interval: Duration::from_millis(2),
        ..LogOptions::default()
    }
}

pub(crate) fn founding_text(held: Option<&(ClusterId, NodeId, Bytes)>) -> Option<String> {
    held.map(|(cluster, id, record)| format!("{cluster} {id} {}:{:08x}", record.len(), crc32c::crc32c(record)))
}

pub(crate) fn start_of(directory: &DataDir) -> Start {
    Start { incarnation: directory.incarnation().to_string(), count: directory.start().count }
}

/// Runs the child, when this process is one.
pub(crate) fn run() {
    let Ok(seed) = std::env::var(SEED) else {
        return;
    };
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let root = PathBuf::from(std::env::var_os("RAFT_DISK_ROOT").unwrap());
    let mut writer = Writer {
        marks: Marks::new(),
        random: Random::new(seed.parse().unwrap()),
        path: data_dir(&root),
        writes: number(WRITES, 40),
        nonce: 0,
    };
    for _ in 0..number(OPENINGS, 1) {
        if let Err(error) = writer.open_and_write() {
            writer.marks.put(&format!("failed {error}"));
            return;
        }
        writer.marks.put("closed");
    }
}

struct Writer {
    marks: Marks,
    random: Random,
    path: PathBuf,
    writes: u64,
    nonce: u64,
}

impl Writer {
    fn open_and_write(&mut self) -> Result<(), String> {
        self.marks.put("starting");
        let mut directory = DataDir::open(&self.path, &node()).map_err(|error| error.to_string())?;
        let start = start_of(&directory);
        self.marks.put(&format!("started {} {}", start.incarnation, start.count));
        let unsynced = std::env::var_os(UNSYNCED).is_some();
        let never = Duration::from_secs(3600);
        let options = options();
        let interval = if unsynced { never } else { options.evidence_sync_interval };
        let options = LogOptions { sync: !unsynced, evidence_sync_interval: interval, ..options };
        let mut log = directory.open_log(options).map_err(|error| error.to_string())?;
        let mut state = match State::read(&mut log) {
            Ok(state) => state,
            // The parent decides whether that was to be expected.
            Err(reason) => return Err(format!("recovery: {reason}")),
        };
        self.marks.put(&format!("recovered {:08x}", state.digest()));
        let founding_at = self.random.below(self.writes + 1);
        for turn in 0..self.writes {
            if turn == founding_at && directory.founding().is_none() {
                self.found(&mut directory)?;
            }
            self.write(&mut log, &mut state)?;
        }
        if std::env::var_os(UNTIL_FAILURE).is_some() {
            for _ in 0..AFTER_FAULT_MAX {
                self.write(&mut log, &mut state)?;
            }
            self.marks.put("violation the disk has failed and the store goes on");
        }
        Ok(())
    }

    fn found(&mut self, directory: &mut DataDir) -> Result<(), String> {
        let (cluster, id) = (ClusterId(u128::from(self.random.next_u64())), NodeId(1 + self.random.below(5)));
        let record = raft_core::testing::random_bytes(&mut self.random, 900);
        let text = founding_text(Some(&(cluster, id, record.clone()))).unwrap();
        self.marks.put(&format!("founding {text}"));
        directory.accept_founding(cluster, id, record).map_err(|error| error.to_string())?;
        self.marks.put("founded");
        Ok(())
    }

    fn write(&mut self, log: &mut RocksLog, state: &mut State) -> Result<(), String> {
        self.nonce += 1;
        let nonce = self.nonce + (u64::from(std::process::id()) << 20);
        let writes = state.draw(&mut self.random, nonce);
        self.marks.put(&format!("write {}", tell(&writes, nonce)));
        if let Err(error) = log.write(&writes) {
            self.marks.put(&format!("failed {error}"));
            self.insist(log, &writes);
            return Err(error.to_string());
        }
        writes.iter().for_each(|write| state.apply(write));
        self.marks.put("done");
        self.compact(log, state)
    }

    fn compact(&mut self, log: &mut RocksLog, state: &mut State) -> Result<(), String> {
        let Some((group, upto)) = state.draw_compaction(&mut self.random) else {
            return Ok(());
        };
        self.marks.put(&format!("compact {} {}", group.0, upto.0));
        if let Err(error) = log.compact(group, upto) {
            self.marks.put(&format!("failed {error}"));
            self.insist(log, &[]);
            return Err(error.to_string());
        }
        state.compact(group, upto);
        self.marks.put("compacted");
        Ok(())
    }

    /// A store that has failed stays failed, whatever it is asked.
    fn insist(&mut self, log: &mut RocksLog, writes: &[LogWrite]) {
        for _ in 0..3 {
            for again in [writes, &[]] {
                if log.write(again).is_ok() {
                    self.marks.put("violation a write succeeded after one had failed");
                }
            }
        }
        if log.compact(GroupId::FIRST, Index(1)).is_ok() {
            self.marks.put("violation a store that had failed was compacted");
        }
        if log.recover(GroupId::FIRST).is_ok() {
            self.marks.put("violation a store that had failed was recovered in the same life");
        }
    }
}
