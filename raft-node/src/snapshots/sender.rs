//! Sends snapshots to followers that need what the log does not hold any more. A task per follower; a new request
//! replaces the one before, and the end of the leadership ends all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raft_core::ports::{SnapshotError, SnapshotOffer, SnapshotSent};
use raft_core::snapshot::Transfer;
use raft_core::types::{GroupId, Index, NodeId, Term};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::kept::Kept;
use super::progress::{Moving, SnapshotProgress};
use super::source::Source;
use super::taker;
use crate::events::EventKind;
use crate::queue::Event;
use crate::shared::Shared;

/// How long to wait after a first failure; twice as long after each that follows.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What is being sent to whom.
#[derive(Debug)]
pub(crate) struct Sender {
    permits: Arc<Semaphore>,
    followers: Mutex<BTreeMap<NodeId, Follower>>,
}

/// At most as many as there are members.
#[derive(Debug, Default)]
struct Follower {
    task: Option<AbortHandle>,
    moving: Option<Arc<Moving>>,
    /// In a row.
    failures: u32,
    /// It has asked for a snapshot that ends with this or later.
    asked: Option<Index>,
}

impl Sender {
    pub(crate) fn new(concurrency: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(concurrency)), followers: Mutex::default() }
    }

    /// The next snapshot that is sent to this follower ends with this entry or a later one, whatever is kept.
    pub(crate) fn ask(&self, follower: NodeId, at_least: Index) {
        let mut followers = self.followers.lock();
        let asked = &mut followers.entry(follower).or_default().asked;
        *asked = (*asked).max(Some(at_least));
    }

    pub(crate) fn moving(&self) -> Vec<(NodeId, SnapshotProgress)> {
        let followers = self.followers.lock();
        let look = |(id, follower): (&NodeId, &Follower)| Some((*id, follower.moving.as_ref()?.look()));
        followers.iter().filter_map(look).collect()
    }

    /// How far what is sent to this follower is.
    pub(crate) fn moving_to(&self, follower: NodeId) -> Option<SnapshotProgress> {
        Some(self.followers.lock().get(&follower)?.moving.as_ref()?.look())
    }

    /// Ends all transfers.
    pub(crate) fn stop(&self) {
        for follower in self.followers.lock().values_mut() {
            if let Some(task) = follower.task.take() {
                task.abort();
            }
            follower.moving = None;
        }
    }

    fn with<T>(&self, follower: NodeId, work: impl FnOnce(&mut Follower) -> T) -> T {
        work(self.followers.lock().entry(follower).or_default())
    }
}

/// Sends a snapshot to `to`, as the leader of `term`; what was being sent to it is over.
pub(crate) fn send(shared: &Arc<Shared>, to: NodeId, term: Term) {
    let running = shared.clone();
    shared.snapshots.sender.with(to, |follower| {
        if let Some(before) = follower.task.take() {
            before.abort();
        }
        follower.moving = None;
        follower.task = Some(tokio::spawn(run(running, to, term)).abort_handle());
    });
}

async fn run(shared: Arc<Shared>, to: NodeId, term: Term) {
    let sent = tokio::select! {
        sent = transfer(&shared, to, term) => Some(sent),
        () = leadership_over(&shared, term) => None,
    };
    let failures = shared.snapshots.sender.with(to, |follower| {
        follower.moving = None;
        match &sent {
            Some(Ok(_)) => (follower.failures, follower.asked) = (0, None),
            Some(Err(_)) => follower.failures = follower.failures.saturating_add(1),
            None => follower.failures = 0,
        }
        follower.failures
    });
    let collecting = shared.clone();
    let _ = tokio::task::spawn_blocking(move || collecting.snapshots.store.collect()).await;
    match sent {
        Some(Err(error)) => {
            let pause = BACKOFF_MIN.saturating_mul(1 << (failures - 1).min(16)).min(BACKOFF_MAX);
            tracing::warn!(node = %shared.name, follower = %to, %error, failures, ?pause, "a snapshot was not sent");
            shared.metrics.snapshot_failed("send");
            tokio::time::sleep(pause).await;
            shared.queue.complete(Event::Transfer { to, transfer: Transfer::Failed });
        }
        Some(Ok(())) => {}
        None => {
            tracing::info!(node = %shared.name, follower = %to, %term, "a snapshot is given up: another term began")
        }
    }
}

/// Returns when this node does not lead in this term any more.
async fn leadership_over(shared: &Shared, term: Term) {
    let mut leadership = shared.leadership.subscribe();
    // The word that it leads is published only after the effects of its election.
    let _ = leadership.wait_for(|now| now.term > term || (now.term == term && now.leads)).await;
    let _ = leadership.wait_for(|now| now.term > term || !now.leads).await;
}

async fn transfer(shared: &Arc<Shared>, to: NodeId, term: Term) -> Result<(), SnapshotError> {
    let sender = &shared.snapshots.sender;
    let _permit = sender.permits.acquire().await.map_err(|error| SnapshotError::Abandoned(error.to_string()))?;
    // The log goes on from the entry before its first one.
    let base = shared.view().status.first_index.prev();
    let asked = sender.with(to, |follower| follower.asked);
    let kept = taker::at_least(shared, base.max(asked.unwrap_or_default())).await?;
    let last = kept.manifest.last;
    shared.queue.complete(Event::Transfer { to, transfer: Transfer::Began(last) });
    let begun = Instant::now();
    let sent = send_kept(shared, to, term, &kept).await?;
    let took = begun.elapsed();
    let SnapshotSent { chunks, bytes, again } = sent;
    let (node, snapshot) = (&shared.name, kept.manifest.id);
    tracing::info!(%node, follower = %to, %snapshot, %last, chunks, bytes, again, ?took, "a snapshot is sent");
    shared.metrics.snapshot_done("send", took);
    let name = shared.member(to).map_or_else(|| to.to_string(), |member| member.name.to_string());
    shared.events.tell(EventKind::Snapshot, format!("a snapshot up to {last} is sent to {name}, {bytes} bytes"));
    shared.queue.complete(Event::Transfer { to, transfer: Transfer::Arrived(last) });
    Ok(())
}

async fn send_kept(
    shared: &Arc<Shared>,
    to: NodeId,
    term: Term,
    kept: &Arc<Kept>,
) -> Result<SnapshotSent, SnapshotError> {
    let Some(from) = shared.founded.get().map(|founded| founded.id) else {
        return Err(SnapshotError::Refused("this node belongs to no cluster yet".into()));
    };
    let manifest = &kept.manifest;
    let moving = Moving::new(manifest.last, manifest.bytes(), 0);
    shared.snapshots.sender.with(to, |follower| follower.moving = Some(moving.clone()));
    let offer = SnapshotOffer {
        group: GroupId::FIRST,
        from,
        to,
        term,
        manifest: kept.encoded.clone(),
        chunks: manifest.chunks(),
    };
    let source = Source { shared: shared.clone(), kept: kept.clone(), moving };
    shared.transport.send_snapshot(offer, Arc::new(source)).await
}
