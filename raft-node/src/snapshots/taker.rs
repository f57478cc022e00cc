//! Takes snapshots: when so much was applied since the last, on request, and when a follower needs one and none that is
//! kept will do. One at a time; whoever waits for one that will do gets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raft_core::ports::SnapshotError;
use raft_core::status::Status;
use raft_core::types::{Index, LogId, SnapshotId};
use tokio::sync::Notify;

use super::SnapshotConfig;
use super::bucket::Bucket;
use super::files::remove;
use super::kept::Kept;
use super::making::{Label, make, now_millis};
use super::manifest::CHUNK_BYTES;
use super::progress::Moving;
use super::store::TAKING;
use crate::events::{self, EventKind, Tale};
use crate::shared::Shared;
use crate::status::Phase;

/// How fast the files of a new snapshot are read for their checksums: mostly from memory, and no faster than leaves room
/// for others.
const READ_BYTES_PER_SECOND: u64 = 512 << 20;
/// How often it is looked whether a snapshot is due by time, and how much disk the snapshots take.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// After a failure nothing is tried again for so long, unless somebody asks.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Why a snapshot that was asked for is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TakeError {
    /// It is still being taken; that goes on.
    #[error("the deadline passed while the snapshot was being taken; it goes on")]
    Deadline,
    /// None can be taken.
    #[error(transparent)]
    Failed(#[from] SnapshotError),
}

/// What was applied since the last snapshot, and the one that is being taken.
#[derive(Debug)]
pub(crate) struct Taker {
    one: Arc<tokio::sync::Mutex<()>>,
    moving: Mutex<Option<Arc<Moving>>>,
    entries: AtomicU64,
    bytes: AtomicU64,
    /// How often the state was replaced.
    restores: AtomicU64,
    due: Notify,
    pace: Bucket,
}

impl Default for Taker {
    fn default() -> Self {
        Self {
            one: Arc::default(),
            moving: Mutex::new(None),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            restores: AtomicU64::new(0),
            due: Notify::new(),
            pace: Bucket::new(READ_BYTES_PER_SECOND),
        }
    }
}

impl Taker {
    pub(crate) fn applied(&self, entries: u64, bytes: u64, config: &SnapshotConfig) {
        let entries = self.entries.fetch_add(entries, Ordering::Relaxed) + entries;
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if entries >= config.interval_entries || bytes >= config.interval_bytes {
            self.due.notify_one();
        }
    }

    /// The state was replaced by that of a snapshot: what is being taken of the old one is of no use.
    pub(crate) fn restored(&self) {
        self.restores.fetch_add(1, Ordering::AcqRel);
        self.entries.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }

    pub(crate) fn moving(&self) -> Option<Arc<Moving>> {
        self.moving.lock().clone()
    }

    fn is_due(&self, config: &SnapshotConfig, newest: Option<&Kept>) -> bool {
        let (entries, bytes) = (self.entries.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        let old = |interval: Duration| {
            let made = newest.map_or(0, |kept| kept.manifest.created_millis);
            now_millis().saturating_sub(made) >= u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)
        };
        entries >= config.interval_entries
            || bytes >= config.interval_bytes
            || (entries > 0 && config.interval.is_some_and(old))
    }
}

/// Takes snapshots by policy until the node ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    let snapshots = &shared.snapshots;
    loop {
        let _ = tokio::time::timeout(LOOK_INTERVAL, snapshots.taker.due.notified()).await;
        let measured = shared.clone();
        let _ = tokio::task::spawn_blocking(move || measured.snapshots.store.measure()).await;
        let newest = snapshots.store.newest();
        if *shared.phase.borrow() != Phase::Running || !snapshots.taker.is_due(&snapshots.config, newest.as_deref()) {
            continue;
        }
        drop(newest);
        if let Err(error) = take_now(&shared).await {
            tracing::warn!(node = %shared.name, %error, retry_after = ?RETRY_AFTER, "no snapshot could be taken");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

/// A snapshot of what is applied now, or of more.
///
/// # Errors
/// When none can be taken.
pub(crate) async fn take_now(shared: &Arc<Shared>) -> Result<Arc<Kept>, SnapshotError> {
    let Some(readers) = shared.readers.get() else {
        return Err(SnapshotError::Refused("the state is not open yet".into()));
    };
    at_least(shared, readers.state.applied().index).await
}

/// A snapshot that ends with this entry or a later one: the newest that is kept, or a new one.
///
/// # Errors
/// When none can be taken.
pub(crate) async fn at_least(shared: &Arc<Shared>, index: Index) -> Result<Arc<Kept>, SnapshotError> {
    let one = shared.snapshots.taker.one.clone().lock_owned().await;
    if let Some(kept) = shared.snapshots.store.newest().filter(|kept| kept.manifest.last.index >= index) {
        return Ok(kept);
    }
    let shared = shared.clone();
    let taking = tokio::task::spawn_blocking(move || {
        // Here, so that it is held to the end when nobody waits any more.
        let _one = one;
        take(&shared)
    });
    taking.await.unwrap_or_else(|error| Err(SnapshotError::Abandoned(error.to_string())))
}

fn take(shared: &Shared) -> Result<Arc<Kept>, SnapshotError> {
    let snapshots = &shared.snapshots;
    let taker = &snapshots.taker;
    let since = (taker.entries.swap(0, Ordering::Relaxed), taker.bytes.swap(0, Ordering::Relaxed));
    let begun = Instant::now();
    let id = SnapshotId(uuid::Uuid::new_v4().as_u128());
    let taken = take_as(shared, id);
    *taker.moving.lock() = None;
    match &taken {
        Ok(kept) => {
            let (took, last, bytes) = (begun.elapsed(), kept.manifest.last, kept.manifest.bytes());
            tracing::info!(node = %shared.name, snapshot = %id, %last, bytes, ?took, "a snapshot is taken");
            let text = format!(
                "{} took a snapshot of entry {}: {bytes} bytes in {}",
                shared.name,
                last.index,
                events::shown(took)
            );
            shared.events.tell(Tale::new(EventKind::Snapshot, text).with("index", last.index));
            shared.metrics.snapshot_done("take", took);
            snapshots.store.collect();
        }
        Err(_) => {
            shared.metrics.snapshot_failed("take");
            taker.applied(since.0, since.1, &snapshots.config);
            if let Err(error) = remove(&snapshots.store.directory().join(format!("{TAKING}{id}"))) {
                tracing::warn!(%error, "what is left of a snapshot cannot be removed");
            }
        }
    }
    taken
}

fn take_as(shared: &Shared, id: SnapshotId) -> Result<Arc<Kept>, SnapshotError> {
    let snapshots = &shared.snapshots;
    let (Some(super::Taking(snapshotter)), Some(founded)) = (snapshots.snapshotter.get(), shared.founded.get()) else {
        return Err(SnapshotError::Refused("the state is not open yet".into()));
    };
    let restores = snapshots.taker.restores.load(Ordering::Acquire);
    refuse_unsound(&shared.view().status)?;
    *snapshots.taker.moving.lock() = Some(Moving::new(LogId::default(), 0, 0));
    let label = Label {
        id,
        cluster: founded.record.cluster,
        configuration: {
            let configurations = snapshots.configurations.clone();
            Arc::new(move |index| configurations.at(index))
        },
        chunk_bytes: CHUNK_BYTES,
    };
    let begun = |moving| *snapshots.taker.moving.lock() = Some(moving);
    let pace = |bytes| snapshots.taker.pace.take(bytes, || snapshots.is_stopped());
    let directory = make(&snapshots.store, &**snapshotter, label, begun, pace)?;
    refuse_unsound(&shared.view().status)?;
    if snapshots.taker.restores.load(Ordering::Acquire) != restores {
        return Err(SnapshotError::Abandoned("the state was replaced meanwhile".into()));
    }
    snapshots.store.admit(&directory, id)
}

/// A state that is about to be replaced, or that differs from the others', is nothing to hand on. Nor is one that may be
/// ahead of its log: who the members were as of its last entry, only the log knows.
pub(crate) fn refuse_unsound(status: &Status) -> Result<(), SnapshotError> {
    for (unsound, why) in [
        (status.fenced, "the state differs from that of the others"),
        (status.rebuilding, "the state waits to be rebuilt"),
        (status.installing, "the state is being replaced by a snapshot"),
        (status.lost.is_some(), "the log has lost its end, and is not back yet"),
    ] {
        if unsound {
            return Err(SnapshotError::Refused(why.into()));
        }
    }
    Ok(())
}
