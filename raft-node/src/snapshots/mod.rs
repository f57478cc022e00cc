//! Snapshots of the state: taken, kept as plain files, sent to members that need what the log does not hold any more,
//! received, installed.
//!
//! | file | what |
//! |---|---|
//! | `manifest.rs` | what a snapshot consists of, and its bytes |
//! | `store.rs`, `kept.rs` | the snapshots on this disk |
//! | `taker.rs`, `making.rs` | takes them: by policy, on request, for who needs one; one at a time |
//! | `sender.rs`, `source.rs`, `bucket.rs` | a transfer to a follower; its chunks; the byte rate that all share |
//! | `receiver.rs`, `staging.rs` | a transfer to this node, and what is here of it |
//! | `installer.rs` | puts the state of one in the place of the present one |
//! | `progress.rs`, `wire.rs` | how far they are, for people; the same between nodes |
//!
//! Nothing here decides who needs a snapshot or when a log is cut: that is the replica's.

pub(crate) mod bucket;
pub(crate) mod files;
pub(crate) mod installer;
pub(crate) mod kept;
mod making;
pub(crate) mod manifest;
mod progress;
pub(crate) mod receiver;
pub(crate) mod sender;
mod source;
mod staging;
pub(crate) mod store;
pub(crate) mod taker;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use raft_core::config::ConfigError;
use raft_core::membership::{Configuration, KeptConfigurations};
use raft_core::ports::Snapshotter;
use raft_core::status::PeerProgress;
use raft_core::types::{Index, NodeId};

use bucket::Bucket;
use receiver::Receiver;
use sender::Sender;
use store::SnapshotStore;
use taker::Taker;

pub use progress::{KeptSnapshot, MemberSnapshot, MemberStage, SnapshotProgress, SnapshotStatus};
pub use taker::TakeError;

/// The slowest rate that can be set: a chunk a second, so that something moves.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// Transfers at a time that make sense at all: a leader has not more followers.
const CONCURRENCY_MAX: usize = 64;

/// When snapshots are taken, and how they travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotConfig {
    /// One is taken when so many entries were applied since the last.
    pub interval_entries: u64,
    /// And when so many bytes of entries were.
    pub interval_bytes: u64,
    /// And when the last is so old and anything was applied since; never for that reason alone when unset.
    pub interval: Option<Duration>,
    /// Bytes per second of all transfers to followers together; 0 for no limit.
    pub bytes_per_second_max: u64,
    /// Transfers to followers at a time; more wait.
    pub concurrency: usize,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self {
            interval_entries: 1_000_000,
            interval_bytes: 1 << 30,
            interval: None,
            bytes_per_second_max: 32 << 20,
            concurrency: 2,
        }
    }
}

impl SnapshotConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// Names the first field that cannot work, and the remedy.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |field, problem: String, remedy: &str| Err(ConfigError { field, problem, remedy: remedy.into() });
        for (field, value) in
            [("snapshot.interval_entries", self.interval_entries), ("snapshot.interval_bytes", self.interval_bytes)]
        {
            if value == 0 {
                return refuse(field, "is 0".into(), "set at least 1");
            }
        }
        if self.interval.is_some_and(|interval| interval < Duration::from_secs(1)) {
            return refuse("snapshot.interval", format!("is {:?}", self.interval), "set at least 1s, or leave it out");
        }
        let rate = self.bytes_per_second_max;
        if rate != 0 && rate < BYTES_PER_SECOND_MIN {
            let remedy = "set 0 for no limit, or at least 1MiB: less than a chunk a second looks like a standstill";
            return refuse("snapshot.max_bytes_per_second", format!("is {rate}"), remedy);
        }
        if self.concurrency == 0 || self.concurrency > CONCURRENCY_MAX {
            return refuse("snapshot.concurrency", format!("is {}", self.concurrency), "set 1 to 64");
        }
        Ok(())
    }
}

/// The configurations that a snapshot may be labelled with: what the driver was told, as far as it may be asked for.
#[derive(Debug, Default)]
pub(crate) struct Configurations(parking_lot::Mutex<KeptConfigurations>);

impl Configurations {
    /// At the start, and when another one is in force: these are all that may be asked for from now on.
    pub(crate) fn note(&self, configurations: impl Iterator<Item = Arc<Configuration>>) {
        let mut kept = KeptConfigurations::default();
        kept.append(configurations);
        *self.0.lock() = kept;
    }

    /// The one as of this entry; none when the entry is older than all that may be asked for.
    pub(crate) fn at(&self, index: Index) -> Option<Configuration> {
        self.0.lock().at(index).map(|configuration| configuration.as_ref().clone())
    }
}

/// All about the snapshots of one node.
#[derive(Debug)]
pub(crate) struct Snapshots {
    pub(crate) config: SnapshotConfig,
    pub(crate) store: SnapshotStore,
    rate: Bucket,
    taker: Taker,
    sender: Sender,
    /// Which configuration a snapshot is labelled with.
    pub(crate) configurations: Arc<Configurations>,
    receiver: Receiver,
    snapshotter: OnceLock<Taking>,
    stopped: AtomicBool,
}

/// What takes snapshots, once the state is open.
struct Taking(Arc<dyn Snapshotter>);

impl std::fmt::Debug for Taking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Snapshotter")
    }
}

impl Snapshots {
    pub(crate) fn new(directory: PathBuf, config: SnapshotConfig) -> Self {
        Self {
            store: SnapshotStore::new(directory),
            rate: Bucket::new(config.bytes_per_second_max),
            taker: Taker::default(),
            sender: Sender::new(config.concurrency),
            configurations: Arc::default(),
            receiver: Receiver::default(),
            snapshotter: OnceLock::new(),
            stopped: AtomicBool::new(false),
            config,
        }
    }

    /// The state is open, and has applied so much: from now on snapshots of it can be taken.
    pub(crate) fn take_from(&self, snapshotter: Arc<dyn Snapshotter>, applied: Index) {
        let newest = self.store.newest().map_or(Index::ZERO, |kept| kept.manifest.last.index);
        self.taker.applied(applied.since(newest), 0, &self.config);
        let _ = self.snapshotter.set(Taking(snapshotter));
    }

    /// So many entries of so many bytes were applied.
    pub(crate) fn applied(&self, entries: u64, bytes: u64) {
        self.taker.applied(entries, bytes, &self.config);
    }

    /// The next snapshot that is sent to this follower ends with this entry or a later one, whatever is kept.
    pub(crate) fn ask(&self, follower: NodeId, at_least: Index) {
        self.sender.ask(follower, at_least);
    }

    /// What still goes on ends soon.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.sender.stop();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// What is sent to this member, as its leader knows it.
    pub(crate) fn of_member(&self, peer: &PeerProgress) -> Option<MemberSnapshot> {
        if peer.state != "snapshot" {
            return None;
        }
        let moving = self.sender.moving_to(peer.id);
        let stage = match (&moving, peer.snapshot) {
            (Some(_), _) => MemberStage::Sending,
            (None, Some(_)) => MemberStage::Installing,
            (None, None) => MemberStage::Waiting,
        };
        let last = peer.snapshot.unwrap_or_default();
        let progress = moving.unwrap_or_else(|| SnapshotProgress { last, ..SnapshotProgress::default() });
        Some(MemberSnapshot { stage, progress })
    }

    /// One look for people.
    pub(crate) fn status(&self) -> SnapshotStatus {
        SnapshotStatus {
            newest: self.store.newest().map(|kept| kept.view()),
            pinned_bytes: self.store.pinned_bytes(),
            taking: self.taker.moving().map(|moving| moving.look()),
            receiving: self.receiver.moving().map(|moving| moving.look()),
            sending: self.sender.moving(),
        }
    }
}
