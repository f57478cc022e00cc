//! A transport that carries snapshots by hand, over a network in memory that carries everything else: a test may hold a
//! transfer up, break it off or damage what it carries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use raft_core::message::PeerMessage;
use raft_core::ports::{
    Inbound, LocalIdentity, Peer, PeerStatus, RefusalCounts, RequestError, SnapshotError, SnapshotOffer, SnapshotSent,
    SnapshotSource, Transport,
};
use raft_core::types::{NodeId, NodeName};

/// What a test sees of one try to send a snapshot, and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Try {
    pub from: NodeId,
    pub to: NodeId,
    pub chunks: u32,
    /// Chunks that the receiver did not have.
    pub missing: usize,
    pub sent: usize,
    pub result: Option<Result<(), String>>,
}

#[derive(Default)]
struct Post {
    inbounds: BTreeMap<NodeId, (NodeName, Arc<dyn Inbound>)>,
    tries: Vec<Try>,
    away: Vec<NodeName>,
    /// Transfers stop behind so many chunks, until they may go on or are broken off.
    hold_after: Option<usize>,
    break_all: bool,
    damage_next: bool,
}

/// The post office of a cluster. Clones are the same one.
#[derive(Clone, Default)]
pub struct Courier {
    post: Arc<(Mutex<Post>, Condvar)>,
}

impl Courier {
    fn change<T>(&self, change: impl FnOnce(&mut Post) -> T) -> T {
        let changed = change(&mut self.post.0.lock());
        self.post.1.notify_all();
        changed
    }

    /// Nothing is carried to or from this node.
    pub fn cut_off(&self, name: &NodeName) {
        self.change(|post| post.away.push(name.clone()));
    }

    pub fn heal(&self, name: &NodeName) {
        self.change(|post| post.away.retain(|away| away != name));
    }

    /// Transfers stop when they have carried so many chunks.
    pub fn hold_after(&self, chunks: usize) {
        self.change(|post| post.hold_after = Some(chunks));
    }

    /// All transfers go on.
    pub fn go_on(&self) {
        self.change(|post| post.hold_after = None);
    }

    /// Breaks off all transfers that are held; later ones go through.
    pub fn break_off(&self) {
        self.change(|post| (post.break_all, post.hold_after) = (true, None));
    }

    /// The next chunk arrives with a flipped bit.
    pub fn damage_next(&self) {
        self.change(|post| post.damage_next = true);
    }

    pub fn tries(&self) -> Vec<Try> {
        self.post.0.lock().tries.clone()
    }

    /// The end that this node uses.
    pub fn transport(&self, inner: Arc<dyn Transport>) -> Arc<dyn Transport> {
        Arc::new(CourierTransport { courier: self.clone(), inner, known: Mutex::default() })
    }

    fn is_away(post: &Post, id: NodeId) -> bool {
        post.inbounds.get(&id).is_none_or(|(name, _)| post.away.contains(name))
    }

    fn carry(
        &self,
        offer: SnapshotOffer,
        source: &dyn SnapshotSource,
        dropped: &AtomicBool,
    ) -> Result<SnapshotSent, SnapshotError> {
        let interrupted = |why: &str| Err(SnapshotError::Interrupted(why.into()));
        let (from, to, chunks) = (offer.from, offer.to, offer.chunks);
        let inbound = self.change(|post| {
            post.break_all = false;
            let away = Self::is_away(post, from) || Self::is_away(post, to);
            (!away).then(|| post.inbounds[&to].1.clone())
        });
        let Some(inbound) = inbound else { return interrupted("not connected") };
        let number = self.change(|post| {
            post.tries.push(Try { from, to, chunks, ..Try::default() });
            post.tries.len() - 1
        });
        let result = self.carry_chunks(&*inbound, offer, source, dropped, number);
        let shown = result.as_ref().map(|_| ()).map_err(ToString::to_string);
        self.change(|post| post.tries[number].result = Some(shown));
        result
    }

    fn carry_chunks(
        &self,
        inbound: &dyn Inbound,
        offer: SnapshotOffer,
        source: &dyn SnapshotSource,
        dropped: &AtomicBool,
        number: usize,
    ) -> Result<SnapshotSent, SnapshotError> {
        let (from, to) = (offer.from, offer.to);
        let mut sink = inbound.snapshot(offer)?;
        let missing = sink.missing();
        self.change(|post| post.tries[number].missing = missing.iter().map(|range| range.len()).sum());
        let mut sent = SnapshotSent::default();
        for chunk in missing.into_iter().flatten() {
            self.wait_for_turn(number, from, to, dropped)?;
            let bytes = source.chunk(chunk)?;
            let mut carried = bytes.to_vec();
            if self.change(|post| std::mem::take(&mut post.damage_next)) {
                carried[0] ^= 1;
            }
            match sink.put(chunk, carried.into()) {
                Err(SnapshotError::Damaged { .. }) => {
                    sent.again += 1;
                    sink.put(chunk, source.chunk(chunk)?)?;
                }
                other => other?,
            }
            sent.chunks += 1;
            sent.bytes += bytes.len() as u64;
            self.change(|post| post.tries[number].sent += 1);
        }
        self.wait_for_turn(number, from, to, dropped)?;
        sink.finish()?;
        Ok(sent)
    }

    fn wait_for_turn(
        &self,
        number: usize,
        from: NodeId,
        to: NodeId,
        dropped: &AtomicBool,
    ) -> Result<(), SnapshotError> {
        const LOOK_AGAIN: Duration = Duration::from_millis(5);
        let mut post = self.post.0.lock();
        loop {
            if post.break_all || dropped.load(Ordering::Acquire) {
                return Err(SnapshotError::Interrupted("broken off".into()));
            }
            if Self::is_away(&post, from) || Self::is_away(&post, to) {
                return Err(SnapshotError::Interrupted("the connection is lost".into()));
            }
            if post.hold_after.is_none_or(|most| post.tries[number].sent < most) {
                return Ok(());
            }
            // Whoever drops the future wakes nobody.
            self.post.1.wait_for(&mut post, LOOK_AGAIN);
        }
    }
}

struct CourierTransport {
    courier: Courier,
    inner: Arc<dyn Transport>,
    known: Mutex<Known>,
}

/// What is known of the node so far.
#[derive(Default)]
struct Known {
    inbound: Option<Arc<dyn Inbound>>,
    node: Option<(NodeId, NodeName)>,
}

impl CourierTransport {
    /// Once it is known who this is, its snapshots can be delivered.
    fn register(&self) {
        let known = self.known.lock();
        if let (Some(inbound), Some((id, name))) = (&known.inbound, &known.node) {
            let (id, entry) = (*id, (name.clone(), inbound.clone()));
            self.courier.change(|post| post.inbounds.insert(id, entry));
        }
    }
}

/// Says so when the future that holds it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[async_trait]
impl Transport for CourierTransport {
    async fn start(&self, inbound: Arc<dyn Inbound>) -> Result<(), String> {
        self.known.lock().inbound = Some(inbound.clone());
        self.register();
        self.inner.start(inbound).await
    }

    fn set_peers(&self, local: LocalIdentity, peers: Vec<Peer>) {
        self.known.lock().node = local.id.map(|id| (id, local.name.clone()));
        self.register();
        self.inner.set_peers(local, peers);
    }

    fn send(&self, to: NodeId, message: PeerMessage) {
        self.inner.send(to, message);
    }

    async fn request(&self, to: &NodeName, request: Bytes, timeout: Duration) -> Result<Bytes, RequestError> {
        self.inner.request(to, request, timeout).await
    }

    async fn send_snapshot(
        &self,
        offer: SnapshotOffer,
        source: Arc<dyn SnapshotSource>,
    ) -> Result<SnapshotSent, SnapshotError> {
        let courier = self.courier.clone();
        let dropped = Arc::new(AtomicBool::new(false));
        let _dropped = Dropped(dropped.clone());
        let carried = tokio::task::spawn_blocking(move || courier.carry(offer, &*source, &dropped)).await;
        carried.unwrap_or_else(|error| Err(SnapshotError::Interrupted(error.to_string())))
    }

    fn status(&self) -> (Vec<(NodeName, PeerStatus)>, RefusalCounts) {
        self.inner.status()
    }

    async fn stop(&self) {
        // A later life of this node may have taken its place already.
        let inbound = self.known.lock().inbound.take();
        if let Some(inbound) = inbound {
            self.courier.change(|post| post.inbounds.retain(|_, (_, known)| !Arc::ptr_eq(known, &inbound)));
        }
        self.inner.stop().await;
    }
}
