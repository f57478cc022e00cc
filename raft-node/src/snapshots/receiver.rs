//! The receiving side: one snapshot at a time, from whoever leads now.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use raft_core::ports::{SnapshotError, SnapshotOffer, SnapshotSink};
use raft_core::snapshot::SnapshotMeta;
use raft_core::types::{GroupId, NodeId, Term};

use super::kept::Kept;
use super::manifest::Manifest;
use super::progress::Moving;
use super::staging::Staging;
use crate::events::EventKind;
use crate::queue::Event;
use crate::shared::{Shared, describe};
use crate::status::Phase;

/// How long an offer may wait while what an earlier life has left is read. The rest is read when it is offered again.
const LOOK_MAX: Duration = Duration::from_secs(3);

/// What is being received. Whoever was offered last may write; the others are told that they are late.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    state: Mutex<Receiving>,
    moving: Mutex<Option<Arc<Moving>>>,
}

#[derive(Debug, Default)]
struct Receiving {
    /// Which offer is the present one.
    turn: u64,
    staging: Option<Staging>,
}

impl Receiving {
    /// What could not be synced is received anew: nobody knows what of it is on the disk.
    fn forget_spoilt(&mut self) -> Result<(), SnapshotError> {
        if let Some(staging) = self.staging.as_ref().filter(|staging| staging.is_spoilt()) {
            staging.discard()?;
            self.staging = None;
        }
        Ok(())
    }

    /// The same, after an error that is told already. What cannot be removed now is not used either, and is removed
    /// before anything is taken again.
    fn try_to_forget_spoilt(&mut self) {
        if let Err(error) = self.forget_spoilt() {
            tracing::warn!(%error, "what is left of a snapshot cannot be removed");
        }
    }
}

impl Receiver {
    /// How far it is, if something is being received.
    pub(crate) fn moving(&self) -> Option<Arc<Moving>> {
        self.moving.lock().clone()
    }
}

/// See [`Inbound::snapshot`](raft_core::ports::Inbound::snapshot).
pub(crate) fn receive(shared: &Arc<Shared>, offer: &SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
    let begun = begin(shared, offer);
    if let Err(error) = &begun {
        tracing::info!(node = %shared.name, from = %offer.from, %error, "a snapshot that was offered is not taken");
        shared.metrics.snapshot_failed("receive");
    }
    begun
}

fn begin(shared: &Arc<Shared>, offer: &SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
    let (manifest, known) = acceptable(shared, offer)?;
    let (id, last, total, meta) = (manifest.id, manifest.last, manifest.bytes(), manifest.meta());
    let snapshots = &shared.snapshots;
    let mut receiving = snapshots.receiver.state.lock();
    // Once more: the one before may have been finished meanwhile.
    none_is_installed(shared)?;
    receiving.forget_spoilt()?;
    receiving.turn += 1;
    let held = match snapshots.store.find(id) {
        _ if known => Held::Known,
        Some(kept) => Held::Whole(kept),
        None => Held::Staged,
    };
    if matches!(held, Held::Staged) {
        if receiving.staging.as_ref().is_some_and(|staging| staging.id() != id) {
            receiving.staging = None;
        }
        if receiving.staging.is_none() {
            receiving.staging = Some(Staging::begin(&snapshots.store, manifest, &offer.manifest)?);
        }
        if let Some(staging) = &mut receiving.staging
            && !staging.look(LOOK_MAX)?
        {
            return Err(SnapshotError::Refused("what is here of it is being looked at; offer it again".into()));
        }
    }
    let here = match held {
        Held::Staged => receiving.staging.as_ref().map_or(0, Staging::present_bytes),
        Held::Whole(_) | Held::Known => total,
    };
    let moving = Moving::new(last, total, here);
    *snapshots.receiver.moving.lock() = Some(moving.clone());
    tracing::info!(node = %shared.name, from = %offer.from, snapshot = %id, %last, total, here, "receiving a snapshot");
    let (turn, from, term) = (receiving.turn, offer.from, offer.term);
    drop(receiving);
    Ok(Box::new(Sink { shared: shared.clone(), turn, from, term, meta, held, moving, begun: Instant::now() }))
}

/// Looks whether this node can take what is offered, and whether it knows all of that already.
fn acceptable(shared: &Shared, offer: &SnapshotOffer) -> Result<(Manifest, bool), SnapshotError> {
    let refuse = |why: String| Err(SnapshotError::Refused(why));
    let Some(founded) = shared.founded.get() else {
        return refuse("this node belongs to no cluster yet".into());
    };
    if shared.readers.get().is_none() || !matches!(&*shared.phase.borrow(), Phase::Running | Phase::Replaying) {
        return refuse(describe(&shared.phase.borrow()));
    }
    if offer.to != founded.id {
        return refuse(format!("this is {}, it is for {}", founded.id, offer.to));
    }
    if offer.from == founded.id || shared.member(offer.from).is_none() {
        return refuse(format!("{} is no other member of the cluster", offer.from));
    }
    let manifest = Manifest::decode(&offer.manifest)
        .map_err(|error| SnapshotError::Refused(format!("the manifest cannot be used: {error}")))?;
    if manifest.cluster != founded.record.cluster {
        return refuse(format!("it is of cluster {}, this is {}", manifest.cluster, founded.record.cluster));
    }
    if offer.group != GroupId::FIRST || manifest.group != offer.group {
        return refuse(format!("it is of {} and offered for {}", manifest.group, offer.group));
    }
    if manifest.chunks() != offer.chunks {
        return refuse(format!("it is offered with {} chunks and has {}", offer.chunks, manifest.chunks()));
    }
    let view = shared.view();
    let status = &view.status;
    if offer.term < status.term {
        return refuse(format!("it is of term {}, this is term {}", offer.term, status.term));
    }
    none_is_installed(shared)?;
    let known = manifest.last.index <= status.commit_index && !status.rebuilding;
    if !known && manifest.last.index < status.applied_index {
        return refuse(format!("it ends with {}, entry {} is applied here", manifest.last, status.applied_index));
    }
    Ok((manifest, known))
}

/// One at a time: refuses as long as one that was received is needed or on its way into the state.
fn none_is_installed(shared: &Shared) -> Result<(), SnapshotError> {
    if shared.snapshots.store.needs_one() || shared.view().status.installing {
        return Err(another());
    }
    Ok(())
}

fn another() -> SnapshotError {
    SnapshotError::Refused("another one is being installed".into())
}

/// What is here of a snapshot when it is offered.
enum Held {
    /// Some of its chunks, perhaps.
    Staged,
    /// All of it.
    Whole(Arc<Kept>),
    /// Nothing of it is wanted: what it ends with is committed here. The replica tells the leader so.
    Known,
}

/// Where the chunks of one offer go.
struct Sink {
    shared: Arc<Shared>,
    turn: u64,
    from: NodeId,
    term: Term,
    meta: SnapshotMeta,
    held: Held,
    moving: Arc<Moving>,
    begun: Instant,
}

impl Sink {
    /// Works on what is being received, as long as no other offer came meanwhile.
    fn work<T>(&self, work: impl FnOnce(&mut Staging) -> Result<T, SnapshotError>) -> Result<T, SnapshotError> {
        let mut receiving = self.shared.snapshots.receiver.state.lock();
        if self.shared.snapshots.is_stopped() {
            return Err(SnapshotError::Abandoned("the node is stopping".into()));
        }
        if receiving.turn != self.turn {
            return Err(SnapshotError::Abandoned("it was offered again, or another one was".into()));
        }
        let Some(staging) = receiving.staging.as_mut().filter(|staging| staging.id() == self.meta.id) else {
            return Err(SnapshotError::Abandoned("it is not being received any more".into()));
        };
        let worked = work(staging);
        receiving.try_to_forget_spoilt();
        worked
    }
}

impl SnapshotSink for Sink {
    fn missing(&self) -> Vec<Range<u32>> {
        match self.held {
            Held::Staged => self.work(|staging| Ok(staging.missing())).unwrap_or_default(),
            Held::Whole(_) | Held::Known => Vec::new(),
        }
    }

    fn put(&mut self, number: u32, bytes: Bytes) -> Result<(), SnapshotError> {
        let here = self.work(|staging| {
            staging.put(number, &bytes)?;
            Ok(staging.present_bytes())
        })?;
        self.moving.moved(bytes.len() as u64, here);
        self.shared.metrics.snapshot_bytes("receive", bytes.len() as u64);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SnapshotError> {
        match &self.held {
            Held::Staged => self.finish_staged()?,
            Held::Whole(kept) => self.finish_whole(kept)?,
            Held::Known => {}
        }
        let meta = self.meta.clone();
        self.shared.queue.complete(Event::SnapshotReceived { from: self.from, term: self.term, meta });
        Ok(())
    }
}

impl Sink {
    fn finish_staged(&self) -> Result<(), SnapshotError> {
        let store = &self.shared.snapshots.store;
        let mut receiving = self.shared.snapshots.receiver.state.lock();
        if receiving.turn != self.turn {
            return Err(SnapshotError::Abandoned("it was offered again, or another one was".into()));
        }
        none_is_installed(&self.shared)?;
        let Some(mut staging) = receiving.staging.take_if(|staging| staging.id() == self.meta.id) else {
            return Err(SnapshotError::Abandoned("it is not being received any more".into()));
        };
        // Before it is among those that are kept, where what nobody needs is removed.
        if !store.need(self.meta.id) {
            receiving.staging = Some(staging);
            return Err(another());
        }
        if let Err(error) = staging.finish(store) {
            store.need_no_more(self.meta.id);
            receiving.staging = Some(staging);
            receiving.try_to_forget_spoilt();
            return Err(error);
        }
        drop(receiving);
        let (took, bytes) = (self.begun.elapsed(), self.moving.look().total_bytes);
        let SnapshotMeta { id, last, .. } = &self.meta;
        tracing::info!(node = %self.shared.name, snapshot = %id, %last, bytes, ?took, "a snapshot is received");
        self.shared.metrics.snapshot_done("receive", took);
        let text = format!("a snapshot up to {last} is received, {bytes} bytes");
        self.shared.events.tell(EventKind::Snapshot, text);
        Ok(())
    }

    /// It was here before, for longer than anybody can vouch for it.
    fn finish_whole(&self, kept: &Kept) -> Result<(), SnapshotError> {
        let store = &self.shared.snapshots.store;
        let receiving = self.shared.snapshots.receiver.state.lock();
        if receiving.turn != self.turn {
            return Err(SnapshotError::Abandoned("it was offered again, or another one was".into()));
        }
        none_is_installed(&self.shared)?;
        if !store.need(self.meta.id) {
            return Err(another());
        }
        // From now on nothing else is taken.
        drop(receiving);
        kept.verify(|_| Ok(())).inspect_err(|error| {
            store.need_no_more(self.meta.id);
            if let SnapshotError::Damaged { .. } = error {
                store.set_aside(kept, error);
            }
        })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let mut moving = self.shared.snapshots.receiver.moving.lock();
        if moving.as_ref().is_some_and(|moving| Arc::ptr_eq(moving, &self.moving)) {
            *moving = None;
        }
    }
}
