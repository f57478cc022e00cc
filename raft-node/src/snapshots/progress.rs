//! How far the snapshots are that are being taken, sent and received, for people.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use raft_core::types::{LogId, NodeId, SnapshotId};

/// A snapshot that is kept here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSnapshot {
    /// Which.
    pub id: SnapshotId,
    /// The last entry whose effects it holds.
    pub last: LogId,
    /// Bytes of its files.
    pub bytes: u64,
    /// How many files.
    pub files: usize,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_millis: u64,
}

/// A snapshot on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// The last entry whose effects it holds.
    pub last: LogId,
    /// Bytes that are there: those of earlier tries too.
    pub done_bytes: u64,
    /// Bytes in all; 0 while that is not known.
    pub total_bytes: u64,
    /// Bytes per second of this try.
    pub bytes_per_second: u64,
    /// Since when this try goes on.
    pub running: Duration,
}

impl SnapshotProgress {
    /// How much of it is there, from 0 to 1.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        if self.total_bytes == 0 { 0.0 } else { (self.done_bytes as f64 / self.total_bytes as f64).min(1.0) }
    }

    /// How long the rest takes at this rate; unknown while nothing moves.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let left = self.total_bytes.saturating_sub(self.done_bytes);
        (self.bytes_per_second > 0).then(|| Duration::from_secs(left / self.bytes_per_second))
    }
}

/// What a leader knows of the snapshot that a member needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSnapshot {
    /// Where it stands.
    pub stage: MemberStage,
    /// How far it is.
    pub progress: SnapshotProgress,
}

/// Where the snapshot stands that a member needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberStage {
    /// One is being taken, or others are sent first, or the next try is waited for.
    Waiting,
    /// It is on its way.
    Sending,
    /// The member has all of it, and puts it in the place of its state.
    Installing,
}

impl MemberStage {
    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Sending => "sending",
            Self::Installing => "installing",
        }
    }
}

/// All about the snapshots of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// The newest one that is kept.
    pub newest: Option<KeptSnapshot>,
    /// Bytes on the disk that only snapshots hold.
    pub pinned_bytes: u64,
    /// What is being taken.
    pub taking: Option<SnapshotProgress>,
    /// What is being received.
    pub receiving: Option<SnapshotProgress>,
    /// What is being sent, and to whom; leaders only.
    pub sending: Vec<(NodeId, SnapshotProgress)>,
}

/// Counts what moves. Cheap to count with from any thread.
#[derive(Debug)]
pub(crate) struct Moving {
    last: LogId,
    total_bytes: u64,
    done_bytes: AtomicU64,
    moved_bytes: AtomicU64,
    since: Instant,
}

impl Moving {
    pub(crate) fn new(last: LogId, total_bytes: u64, done_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            last,
            total_bytes,
            done_bytes: AtomicU64::new(done_bytes),
            moved_bytes: AtomicU64::new(0),
            since: Instant::now(),
        })
    }

    /// So many bytes moved, and so many are there now.
    pub(crate) fn moved(&self, bytes: u64, done_bytes: u64) {
        self.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.done_bytes.fetch_max(done_bytes, Ordering::Relaxed);
    }

    /// So many bytes more are there.
    pub(crate) fn done(&self, bytes: u64) {
        self.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn look(&self) -> SnapshotProgress {
        let running = self.since.elapsed();
        let moved = self.moved_bytes.load(Ordering::Relaxed) as f64;
        SnapshotProgress {
            last: self.last,
            done_bytes: self.done_bytes.load(Ordering::Relaxed),
            total_bytes: self.total_bytes,
            bytes_per_second: (moved / running.as_secs_f64().max(0.001)) as u64,
            running,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_never_above_one_and_what_stands_still_has_no_end() {
        let moving = Moving::new(LogId::default(), 100, 20);
        assert_eq!((moving.look().ratio(), moving.look().left()), (0.2, None));
        moving.moved(50, 70);
        // A chunk that is sent again moves bytes and brings nothing nearer.
        moving.moved(50, 40);
        assert_eq!(moving.look().done_bytes, 70);
        moving.done(100);
        assert_eq!(moving.look().ratio(), 1.0);
        assert_eq!(SnapshotProgress::default().ratio(), 0.0);
    }
}
