//! The port.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::message::PeerMessage;
use raft_core::ports::{
    Inbound, LocalIdentity, Peer, PeerStatus, RefusalCounts, RequestError, SnapshotError, SnapshotOffer, SnapshotSent,
    SnapshotSource, Transport,
};
use raft_core::runs::Span;
use raft_core::types::{NodeId, NodeName};

use crate::config::{QuicConfig, SetupError, Start};
use crate::request;
use crate::session;
use crate::shared::Shared;
use crate::snapshot;
use crate::tls::Credentials;
use crate::wire::message::lane_of;

/// A [`Transport`] over QUIC with mutual TLS. See the crate's guide.
pub struct QuicTransport {
    shared: Arc<Shared>,
}

impl QuicTransport {
    /// Checks the settings and reads the certificates. Nothing is bound before [`Transport::start`].
    ///
    /// # Errors
    /// Names the setting that cannot work, and the remedy.
    pub fn new(config: QuicConfig) -> Result<Self, SetupError> {
        config.check()?;
        let credentials = Credentials::load(&config.tls)?;
        Ok(Self { shared: Arc::new(Shared::new(config, credentials)) })
    }

    /// The address that is bound, once started.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.shared.local_address()
    }

    /// Says which start of its data directory this process is: told to peers, which refuse a copy of the directory. Before
    /// [`Transport::start`], once.
    pub fn set_start(&self, start: Start) {
        self.shared.set_start(start);
    }

    #[cfg(test)]
    pub(crate) fn open_connections(&self) -> usize {
        self.shared.open_connections()
    }
}

impl fmt::Debug for QuicTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicTransport").field("listen", &self.shared.config.listen).finish_non_exhaustive()
    }
}

impl Drop for QuicTransport {
    fn drop(&mut self) {
        // Peers hear of it even when nobody waited for a stop.
        self.shared.close();
    }
}

#[async_trait]
impl Transport for QuicTransport {
    async fn start(&self, inbound: Arc<dyn Inbound>) -> Result<(), String> {
        self.shared.start(inbound).map_err(|error| error.to_string())
    }

    fn set_peers(&self, local: LocalIdentity, peers: Vec<Peer>) {
        self.shared.set_peers(&local, peers);
    }

    fn admit_guests(&self, admit: bool) {
        self.shared.admit_guests(admit);
    }

    fn send(&self, to: NodeId, message: PeerMessage) {
        assert!(
            message.envelope.message.entries().map_or(0, Span::count) == message.entries.len() as u64,
            "a message comes with exactly the entries that it names"
        );
        match self.shared.link_by_id(to) {
            Some(link) => {
                let pushed = link.lane(lane_of(&message.envelope.message)).push(message);
                session::note_dropped(&self.shared, to, pushed);
            }
            None => self.shared.refusals.count("unknown_recipient"),
        }
    }

    async fn request(&self, to: &NodeName, request: Bytes, timeout: Duration) -> Result<Bytes, RequestError> {
        request::ask(&self.shared, to, request, timeout).await
    }

    fn status(&self) -> (Vec<(NodeName, PeerStatus)>, RefusalCounts) {
        let peers = self.shared.links().iter().map(|link| (link.name.clone(), link.status())).collect();
        (peers, self.shared.refusals.counts())
    }

    async fn stop(&self) {
        self.shared.stop().await;
    }

    async fn send_snapshot(
        &self,
        offer: SnapshotOffer,
        source: Arc<dyn SnapshotSource>,
    ) -> Result<SnapshotSent, SnapshotError> {
        snapshot::send::send(&self.shared, offer, source).await
    }
}
