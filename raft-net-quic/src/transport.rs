//! The port.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::message::PeerMessage;
use raft_core::ports::{
    Inbound, LocalIdentity, Peer, PeerStatus, RefusalCounts, RequestError, SnapshotError, SnapshotOffer, SnapshotSent,
    SnapshotSource, Transport,
};
use raft_core::runs::Span;
use raft_core::types::{NodeId, NodeName};
use rustls::pki_types::CertificateDer;

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

    /// Looks at the certificate files again, and uses what they hold when it differs from before and is good: for every
    /// connection that is made or taken in from now on. A connection whose other end the new authorities do not vouch
    /// for is closed; it comes back at once if that node has a new certificate too. Others stay.
    ///
    /// `fits` judges the new certificate of this node as well, by what the transport does not know, such as the names that
    /// it has to bear. Returns whether something new is used. Cheap when nothing has changed, so call it every few seconds:
    /// files may be replaced in place, by a rename, or by a swapped link to their directory.
    ///
    /// # Errors
    /// When a file cannot be read, or what was found there cannot be used; then the last good certificates stay in use. What
    /// cannot be used is said once; the files have to change before they are judged again.
    pub fn reload_certificates(
        &self,
        fits: impl FnOnce(&CertificateDer<'_>) -> Result<(), SetupError>,
    ) -> Result<bool, SetupError> {
        self.shared.reload_certificates(fits)
    }

    /// Whether the files held what is in use, when they were looked at last. Else they hold what cannot be used.
    #[must_use]
    pub fn certificates_are_current(&self) -> bool {
        self.shared.certificates_are_current()
    }

    /// When the certificate that is in use ends.
    #[must_use]
    pub fn certificate_expires(&self) -> SystemTime {
        self.shared.credentials().expires
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
