//! Counts the messages that nodes say to each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use raft_core::message::PeerMessage;
use raft_core::ports::{
    Inbound, LocalIdentity, Peer, PeerStatus, RefusalCounts, RequestError, SnapshotError, SnapshotOffer, SnapshotSent,
    SnapshotSource, Transport,
};
use raft_core::types::{NodeId, NodeName};

/// What a node has said, by kind of message. Clones are the same one.
#[derive(Clone, Default)]
pub struct Tap(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Tap {
    /// How often each kind was said so far.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().clone()
    }

    pub fn count(&self, kind: &str) -> u64 {
        self.counts().get(kind).copied().unwrap_or(0)
    }

    pub fn transport(&self, inner: Arc<dyn Transport>) -> Arc<dyn Transport> {
        Arc::new(Tapped { tap: self.clone(), inner })
    }
}

struct Tapped {
    tap: Tap,
    inner: Arc<dyn Transport>,
}

#[async_trait]
impl Transport for Tapped {
    async fn start(&self, inbound: Arc<dyn Inbound>) -> Result<(), String> {
        self.inner.start(inbound).await
    }

    fn set_peers(&self, local: LocalIdentity, peers: Vec<Peer>) {
        self.inner.set_peers(local, peers);
    }

    fn admit_guests(&self, admit: bool) {
        self.inner.admit_guests(admit);
    }

    fn send(&self, to: NodeId, message: PeerMessage) {
        *self.tap.0.lock().entry(message.envelope.message.name()).or_default() += 1;
        self.inner.send(to, message);
    }

    async fn request(&self, to: &NodeName, request: Bytes, timeout: Duration) -> Result<Bytes, RequestError> {
        *self.tap.0.lock().entry("request").or_default() += 1;
        self.inner.request(to, request, timeout).await
    }

    async fn send_snapshot(
        &self,
        offer: SnapshotOffer,
        source: Arc<dyn SnapshotSource>,
    ) -> Result<SnapshotSent, SnapshotError> {
        self.inner.send_snapshot(offer, source).await
    }

    fn status(&self) -> (Vec<(NodeName, PeerStatus)>, RefusalCounts) {
        self.inner.status()
    }

    async fn stop(&self) {
        self.inner.stop().await;
    }
}
